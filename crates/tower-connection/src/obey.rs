//! The socket half that every connection has: it tells the handle what goes over the wire, and obeys it.

use std::{
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, task::coop, time::Instant};

use crate::{
    ConnectionHandle, Deadline, Hook, Hooked, Socket,
    frames::{ANY_STREAM, Spoken, Streams, goaway},
    state::Phase,
};

/// The socket of an accepted connection: it ends when its [`ConnectionHandle`] says so.
///
/// ```
/// # use tower_connection::{ConnectionHandle, ConnectionIo, Hooked, Obey};
/// let (_client, server) = tokio::io::duplex(64);
/// let handle = ConnectionHandle::new(&server);
/// let io: ConnectionIo<_> = Hooked::new(server, Obey::new(handle));
/// # let _ = io;
/// ```
pub type ConnectionIo<Io> = Hooked<Io, Obey>;

/// The hook of a [`ConnectionIo`].
#[derive(Debug)]
pub struct Obey {
    handle: ConnectionHandle,
    written: Written,
    /// The flag that others see: a response is stalled, or a stream of HTTP/2 is open.
    busy: bool,
    /// Something was read, and perhaps not looked at yet. (Of HTTP/2, the streams tell.)
    heard: bool,
    /// An abort has somebody to wake.
    watched: bool,
    head: Arriving,
    spoken: Spoken,
    streams: Streams,
    farewell: Farewell,
    /// When an HTTP/2 connection with nothing left to do is ended without waiting for its client; or the end of a
    /// patient one of HTTP/1.
    patience: Deadline,
    /// How much was read since the socket was shut down.
    lingered: Option<usize>,
    presence: Presence,
}

/// What tells that a client has left whose request is under way.
#[derive(Debug, Default)]
struct Presence {
    /// A read waits, and finds the end: since the last flush.
    reads: bool,
    /// When to look, if nothing is read.
    look: Deadline,
}

/// How often a client of whom nothing is read is asked whether it is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long, and how much of, a client is read that may not have read its answer yet.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;
/// How much of that in one turn.
const LINGER_TURN: usize = 64 << 10;

/// How long an HTTP/2 connection that closes is kept for what crosses with its GOAWAY. Where a driver has hyper
/// shut it down, that waits for the answer to a PING and ends sooner; but a client that does not answer would be
/// waited for for ever (1.12 with h2 0.4, `proto/go_away.rs`).
///
/// Past it nothing is lost: what crosses still has a higher number than the last GOAWAY names, and is safe to send
/// again.
const PATIENCE: Duration = Duration::from_millis(200);

/// The head of a request that is being received, and how many requests there were before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arriving {
    None,
    Begun(u64),
    /// And not all of it came at once, so others were told.
    Told(u64),
}

/// What became of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Flushed,
    Unflushed,
    /// The client did not take all of it at once.
    Stalled,
}

/// How far an HTTP/2 connection that nobody drives has said goodbye.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Farewell {
    #[default]
    Unsaid,
    /// GOAWAY for any stream: the client opens no more.
    Announced,
    /// GOAWAY with the last stream: the end.
    Said,
}

impl Obey {
    /// Ends the socket it is put on when `handle` says so.
    #[must_use]
    pub fn new(handle: ConnectionHandle) -> Self {
        Self {
            handle,
            written: Written::Flushed,
            busy: false,
            heard: false,
            watched: false,
            head: Arriving::None,
            spoken: Spoken::Unknown(0),
            streams: Streams::default(),
            farewell: Farewell::default(),
            patience: Deadline::default(),
            lingered: None,
            presence: Presence::default(),
        }
    }

    /// Fails once the connection is aborted, and makes sure that dropping the socket resets it.
    ///
    /// hyper polls the flush each time it is woken, even with nothing to write and even when it has
    /// stopped reading, so an error here reaches it in every state (1.12, `proto/h1/io.rs`).
    fn check(&self, io: &impl Socket) -> io::Result<()> {
        if self.handle.is_aborted() {
            // A socket without a reset is closed by the error below just the same.
            let _ = io.reset_on_close();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Fails if the client has left while its request is under way and nobody reads.
    ///
    /// hyper reads each time that it is polled, but not if a part of the next request is there already, or if a body is
    /// not read: then not until its service has answered, and not at all if that has dropped the body (1.12,
    /// `proto/h1/conn.rs`, `mid_message_detect_eof`, `poll_drain_or_close_read`). As there, half an end is one unless it is
    /// said otherwise: with hyper's `half_close` it does not read either, and whether that is set cannot be asked.
    fn check_presence(&mut self, io: &impl Socket, cx: &mut Context<'_>) -> io::Result<()> {
        let reads = std::mem::take(&mut self.presence.reads) || self.spoken == Spoken::Http2;
        let none = reads || self.handle.in_flight() == 0 || self.handle.is_upgraded();
        if none || self.handle.state().may_half_close() {
            self.presence.look.clear();
            return Ok(());
        }
        if self.presence.look.at().is_none() {
            self.presence.look.set(Instant::now() + LOOK);
        }
        while self.presence.look.poll(cx).is_ready() {
            if io.has_hung_up() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            self.presence.look.set(Instant::now() + LOOK);
        }
        Ok(())
    }

    /// The HTTP stack wrote the first `written` bytes of `bufs`.
    fn say(&mut self, bufs: &[io::IoSlice<'_>], mut written: usize) {
        if self.spoken == Spoken::Http1 {
            return;
        }
        for buf in bufs {
            let said = written.min(buf.len());
            self.streams.say(&buf[..said]);
            written -= said;
        }
        self.publish();
    }

    /// Says whether something is under way here that no request counts (any more).
    fn publish(&mut self) {
        let busy = self.written == Written::Stalled || !self.streams.is_empty();
        if busy == self.busy {
            return;
        }
        self.busy = busy;
        if busy {
            self.handle.state().set_busy();
        } else {
            self.handle.state().set_done(self.handle.now());
        }
    }

    fn set_written(&mut self, written: Written) {
        self.written = written;
        self.publish();
    }

    fn hear(&mut self, bytes: &[u8]) {
        let spoke = self.spoken;
        let frames = self.spoken.hear(bytes);
        if self.spoken != Spoken::Http2 {
            self.heard = !bytes.is_empty();
            self.end_head_of_request();
            let state = self.handle.state();
            let blank = |byte: &u8| matches!(byte, b'\r' | b'\n');
            if self.head == Arriving::None
                && state.awaits_head()
                && !bytes.ends_with(b"\r\n\r\n") // all of one
                && !bytes.iter().all(blank)
                && !state.takes_rest()
            {
                self.head = Arriving::Begun(state.requests());
            }
            return;
        }
        if spoke != Spoken::Http2 {
            self.handle.state().set_http2();
            self.heard = false;
        }
        let (greeted, last) = (self.streams.has_greeted(), self.streams.last());
        let unread = self.streams.unread();
        self.streams.hear(frames);
        self.publish();
        // Who makes room for more is still reading what it was sent, and would find its connection closed under it.
        let reads = self.streams.unread() < unread;
        if reads || !greeted && self.streams.has_greeted() {
            self.handle.state().set_idle_since(self.handle.now());
        }
        if last != self.streams.last() {
            self.end_head(); // and perhaps another has begun
        }
        match self.head {
            Arriving::None if self.streams.hears_head() => self.head = Arriving::Begun(0),
            Arriving::Begun(_) | Arriving::Told(_) if !self.streams.hears_head() => self.end_head(),
            _ => {}
        }
    }

    /// Nothing more is there to read: so the head that has begun is not whole, or has become a request.
    fn note_head(&mut self) {
        self.end_head_of_request();
        if let Arriving::Begun(requests) = self.head {
            let state = self.handle.state();
            state.set_head_since(Some(self.handle.now()));
            self.head = Arriving::Told(requests);
        }
    }

    fn end_head_of_request(&mut self) {
        if let Arriving::Begun(requests) | Arriving::Told(requests) = self.head {
            if self.spoken != Spoken::Http2 && self.handle.state().requests() != requests {
                self.end_head();
            }
        }
    }

    fn end_head(&mut self) {
        if matches!(self.head, Arriving::Told(_)) {
            self.handle.state().set_head_since(None);
        }
        self.head = Arriving::None;
    }

    /// Nothing is there to read: ends the stream if this half must.
    ///
    /// It must unless a driver says GOAWAY. HTTP/1, and who has not said yet what it speaks, ends here in
    /// any case: hyper's `graceful_shutdown` ends an idle connection without a look at what has arrived, and
    /// ends neither one that was never asked for anything, nor one with half a head (1.12,
    /// `proto/h1/conn.rs`).
    fn poll_end<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = self.handle.state();
        let closing = state.phase() != Phase::Open;
        if self.written != Written::Flushed || !closing && !state.is_announced() {
            return Poll::Pending;
        }
        let ended = state.has_ended();
        if self.spoken == Spoken::Http2 {
            // Between two frames and with everything flushed, a frame of our own harms nobody. (And at an end
            // of stream, h2 drops what it has queued: 0.4, `proto/connection.rs`.)
            if !self.streams.is_between_frames() {
                return Poll::Pending;
            }
            if self.may_announce() {
                self.announce(io, cx)?;
            }
            return self.poll_goodbye(io, cx, ended && self.streams.is_empty());
        }
        if !ended {
            return Poll::Pending;
        }
        if self.heard {
            // Perhaps a request. hyper reads once more (for a hang-up) before it calls the service.
            self.heard = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // The runtime has yet to hear of it, and then reads.
        if io.has_unread() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Says once that no stream should be opened any more.
    fn announce<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> io::Result<()> {
        if self.farewell != Farewell::Unsaid {
            return Ok(());
        }
        // ## Unsaid => Announced
        self.farewell = Farewell::Announced;
        // A driver says goodbye by itself, and so later: its GOAWAY must not come after the last one.
        if !self.handle.state().is_driven() {
            self.patience.set(Instant::now() + PATIENCE);
        }
        // The HTTP stack may have said one that names less (RFC 9113, section 6.8).
        if self.streams.served() == ANY_STREAM {
            self.say_goaway(io, cx, ANY_STREAM)?;
        }
        Ok(())
    }

    /// Ends HTTP/2 when nothing is left to do, and says so where no driver does.
    fn poll_goodbye<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        ended: bool,
    ) -> Poll<io::Result<()>> {
        if !ended {
            return Poll::Pending;
        }
        if self.patience.at().is_none() {
            self.patience.set(Instant::now() + PATIENCE);
        }
        ready!(self.patience.poll(cx));
        if self.farewell != Farewell::Said {
            // ## (Unsaid | Announced) => Said
            self.farewell = Farewell::Said;
            self.say_goaway(io, cx, self.streams.last().min(self.streams.served()))?;
        }
        Poll::Ready(Ok(()))
    }

    /// What is said last is said whatever else the task has done: a client that sends without a pause lets it use up tokio's
    /// budget by reading, each time before it writes (1.54, `task/coop`), and would never be told of its end.
    fn poll_last<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let polled = poll(cx);
        // HTTP/1 reads no more than a request at a time, and a whole response would go through here in one turn.
        let is_last =
            self.spoken == Spoken::Http2 && self.handle.is_closing() && self.streams.is_empty();
        if polled.is_pending() && is_last && !coop::has_budget_remaining() {
            return pin!(coop::unconstrained(poll_fn(poll))).poll(cx);
        }
        polled
    }

    /// Reads what a client still sends, so that the kernel does not reset the connection before the answer is read.
    fn poll_linger<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.patience.at().is_none_or(|at| at <= Instant::now()) {
            return Poll::Ready(Ok(())); // also if there is always something to read
        }
        let read = self.lingered.get_or_insert(0);
        let turn = *read + LINGER_TURN;
        while *read < LINGER_BYTES {
            if *read >= turn {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut scratch = [MaybeUninit::uninit(); 16 << 10];
            let mut buf = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut *io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => *read += buf.filled().len(),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    self.handle.state().register_reader(cx.waker());
                    self.check(io)?;
                    return self.patience.poll(cx).map(Ok);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there can be something to do for [`poll_end`](Self::poll_end).
    fn may_speak(&self, closing: bool) -> bool {
        let http2 = self.spoken == Spoken::Http2;
        closing && (!http2 || self.streams.is_empty())
            || http2 && self.farewell == Farewell::Unsaid && self.may_announce()
    }

    fn may_announce(&self) -> bool {
        let state = self.handle.state();
        if state.phase() == Phase::Open {
            state.is_announced()
        } else {
            !state.is_driven()
        }
    }

    /// Writes a GOAWAY. All before it was flushed, so the socket takes 17 bytes; a client that has left it
    /// so full that it does not is not told.
    fn say_goaway<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        last_stream: u32,
    ) -> io::Result<()> {
        let frame = goaway(last_stream);
        let Poll::Ready(written) = Pin::new(&mut *io).poll_write(cx, &frame)? else {
            return Ok(());
        };
        if written < frame.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        // The HTTP stack flushes each time that it is polled, so it ends what this begins.
        if Pin::new(io).poll_flush(cx)?.is_pending() {
            self.written = Written::Unflushed;
        }
        Ok(())
    }
}

impl Drop for Obey {
    fn drop(&mut self) {
        self.handle.let_go();
    }
}

impl<Io: Socket> Hook<Io> for Obey {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(io)?;
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut *io).poll_read(cx, buf) {
            self.presence.reads = false;
            self.hear(&buf.filled()[before..]);
            return Poll::Ready(read);
        }
        self.presence.reads = true;
        self.note_head();
        self.handle.state().end_rest();
        self.handle.state().register_reader(cx.waker());
        self.check(io)?;
        self.poll_end(io, cx)
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(io)?;
        if self.written == Written::Flushed {
            self.written = Written::Unflushed;
        }
        let written = self.poll_last(cx, |cx| crate::poll_write_slices(io, cx, bufs));
        if let Poll::Ready(written) = written {
            self.say(bufs, *written.as_ref().unwrap_or(&0));
            return Poll::Ready(written);
        }
        self.set_written(Written::Stalled);
        self.handle.state().register_writer(cx.waker());
        self.check(io)?;
        Poll::Pending
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closing = self.handle.is_closing();
        // The close has woken, and so taken, all wakers, and hyper need not wait for a read or a write when
        // the abort comes. It need not have done so before, either.
        if closing || !self.watched {
            self.watched = true;
            self.handle.state().register_writer(cx.waker());
        }
        self.check(io)?;
        self.check_presence(io, cx)?;
        let flushed = self.poll_last(cx, |cx| Pin::new(&mut *io).poll_flush(cx));
        if let Poll::Ready(flushed) = flushed {
            if self.written != Written::Flushed && self.may_speak(closing) {
                // hyper and h2 read first and write second: without this they would not read again.
                cx.waker().wake_by_ref();
            }
            self.set_written(Written::Flushed);
            return Poll::Ready(flushed);
        }
        self.set_written(Written::Stalled);
        self.handle.state().register_writer(cx.waker());
        self.check(io)?;
        Poll::Pending
    }

    fn poll_shutdown(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(io)?;
        if self.lingered.is_some() {
            return self.poll_linger(io, cx);
        }
        if let Poll::Ready(shut) = Pin::new(&mut *io).poll_shutdown(cx) {
            if shut.is_ok() && self.handle.state().is_lingering() {
                self.lingered = Some(0);
                self.patience.set(Instant::now() + LINGER);
                return self.poll_linger(io, cx);
            }
            return Poll::Ready(shut);
        }
        self.handle.state().register_writer(cx.waker());
        self.check(io)?;
        Poll::Pending
    }

    fn streams(&self) -> Option<&Streams> {
        (self.spoken == Spoken::Http2).then_some(&self.streams)
    }
}

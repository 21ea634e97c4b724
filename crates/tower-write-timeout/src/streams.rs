use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{
    Deadline, Hook, Hooked, Socket, Stream, Streams, Window, poll_write_slices,
};

use crate::{Reason, accept::Shared, ending::Endings, pace::Pace, watch::Watch};

/// The socket of a connection whose client must keep taking the response of each of its streams: above TLS, where
/// bytes are the frames of HTTP/2.
///
/// ```
/// use tower_write_timeout::WriteTimeoutIo;
///
/// fn socket<Io>(timed: &WriteTimeoutIo<Io>) -> &Io {
///     timed.io()
/// }
/// # let _ = socket::<()>;
/// ```
pub type WriteTimeoutIo<Io> = Hooked<Io, Starving>;

/// The hook of a [`WriteTimeoutIo`].
///
/// A stream whose window stays shut leaves the socket idle and writable, and the HTTP stack has no timer for it.
#[derive(Debug)]
pub struct Starving {
    shared: Arc<Shared>,
    /// Of the streams that have been shut by themselves since somebody began to look, by their numbers.
    paces: Vec<(u32, Pace)>,
    /// Of all of them together, while one waits for the connection's window only.
    together: Pace,
    /// Those were spared once, for another stream that was in their way.
    spared: bool,
    /// There is one while a stream is shut, or one that has ended was not heard of.
    watch: Option<Watch>,
    timer: Deadline,
    /// The HTTP stack has read something, and may yet write what that allows: until then, a window that was opened for
    /// one byte looks open.
    heard: bool,
    /// So one was not looked at when it was time.
    skipped: bool,
    endings: Endings,
}

impl Starving {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            paces: Vec::new(),
            together: Pace::default(),
            spared: false,
            watch: None,
            timer: Deadline::default(),
            heard: false,
            skipped: false,
            endings: Endings::default(),
        }
    }

    /// Ready when the connection is to be ended, as no stream on it is taken any more. Pending if one is shut, and
    /// then looks again.
    #[inline]
    fn poll_starved<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Error> {
        let shut = || io.streams().is_some_and(Streams::has_shut);
        if self.watch.is_none() && (!shut() || self.shared.terms().ask_nothing()) {
            return Poll::Pending;
        }
        self.poll_look(io, cx)
    }

    fn poll_look<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            if let Some(watch) = &self.watch {
                ready!(watch.poll(&mut self.timer, cx));
            }
            if self.look(io) {
                return Poll::Ready(self.give_up(io, cx));
            }
            if self.watch.is_none() {
                return Poll::Pending;
            }
        }
    }

    /// The same, where the HTTP stack does not read: that must be called once more, to hear of what has ended.
    fn poll_starved_or_wake<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Error> {
        let before = self.endings.heard_by();
        if !self.heard && std::mem::take(&mut self.skipped) && self.look(io) {
            return Poll::Ready(self.give_up(io, cx));
        }
        if let over @ Poll::Ready(_) = self.poll_starved(io, cx) {
            return over;
        }
        if before.is_none() && self.endings.heard_by().is_some() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Looks what was taken of each stream, and ends those that are over. Returns whether the connection is.
    fn look(&mut self, io: &impl Socket) -> bool {
        let now = Instant::now();
        self.follow(io, now);
        let seldom = self.shared.terms().looks().seldom();
        if self.is_starved(io, now) {
            // ## Starving => GivenUp
            self.end_if(io, now, |_| true);
            return true;
        }
        // If it will be by the next look, it ends as a whole then.
        if !self.is_starved(io, now + seldom) {
            self.end_some(io, now);
        }
        self.watch_again(now);
        let unheard = self.endings.heard_by().is_some_and(|by| by <= now);
        if unheard {
            self.shared.tell(io, None, Reason::MidFrame, <_>::default());
        }
        unheard
    }

    /// Sees what was taken of each stream.
    fn follow(&mut self, io: &impl Socket, now: Instant) {
        let Some(streams) = io.streams() else {
            return;
        };
        let terms = self.shared.terms();
        let late = self
            .watch
            .as_ref()
            .map_or(Duration::ZERO, |watch| watch.late(now));
        if !late.is_zero() {
            self.endings.be_patient(now);
        }
        let mut known = std::mem::take(&mut self.paces).into_iter().peekable();
        let mut waits = false;
        for stream in streams
            .iter()
            .filter(|stream| !self.endings.contains(stream.id))
        {
            while known.next_if(|(id, _)| *id < stream.id).is_some() {}
            let pace = known.next_if(|(id, _)| *id == stream.id);
            let shut = stream.shut == Some(Window::Stream);
            waits |= stream.shut == Some(Window::Connection);
            if pace.is_some() || shut {
                let (_, mut pace) = pace.unwrap_or_default();
                pace.forgive(late);
                if shut || !self.heard {
                    pace.look(terms, now, stream.sent, shut);
                } else {
                    self.skipped = true;
                }
                self.paces.push((stream.id, pace));
            }
        }
        if streams.sent() > self.together.taken() {
            self.spared = false;
        }
        self.together.forgive(late);
        if waits || !self.heard {
            self.together.look(terms, now, streams.sent(), waits);
        } else {
            self.skipped = true;
        }
    }

    /// Why a stream will be over by then, if nothing more of it is taken.
    fn over(&self, stream: &Stream, by: Instant) -> Option<Reason> {
        let terms = self.shared.terms();
        match stream.shut? {
            Window::Stream => self.pace(stream.id)?.over(terms, by),
            Window::Connection => self.together.over(terms, by),
        }
    }

    /// Whether every stream that is open will be over by then.
    fn is_starved(&self, io: &impl Socket, by: Instant) -> bool {
        let mut any = self.open(io).peekable();
        any.peek().is_some() && any.all(|stream| self.over(&stream, by).is_some())
    }

    /// Ends the streams that are over. Those that wait for the connection's window may be in want of what is not taken
    /// of another: they are spared once, and have new hope when that ends.
    fn end_some(&mut self, io: &impl Socket, now: Instant) {
        let ended = self.end_if(io, now, |stream| stream.shut == Some(Window::Stream));
        let terms = *self.shared.terms();
        let over = self.together.over(&terms, now).is_some();
        let in_the_way = || {
            self.open(io)
                .any(|stream| stream.shut == Some(Window::Stream))
        };
        if !self.spared && (ended || over && in_the_way()) {
            self.spared = true;
            self.together.restart(&terms, now);
        } else if over {
            self.end_if(io, now, |_| true);
        }
    }

    /// Ends those that are over and chosen. Returns whether there were any.
    ///
    /// ## Shut => Ending
    fn end_if(&mut self, io: &impl Socket, now: Instant, chosen: impl Fn(&Stream) -> bool) -> bool {
        let over = self
            .open(io)
            .filter_map(|stream| Some((stream, self.over(&stream, now)?)));
        let over: Vec<_> = over.filter(|(stream, _)| chosen(stream)).collect();
        for (stream, why) in &over {
            let pace = match stream.shut {
                Some(Window::Stream) => self.pace(stream.id),
                _ => None,
            };
            let owing = pace.unwrap_or(&self.together).owing(now);
            self.shared.tell(io, Some(stream.id), *why, owing);
            self.endings.begin(stream.id, now);
        }
        !over.is_empty()
    }

    /// The streams that are open, and not ending.
    fn open<'a>(&'a self, io: &'a impl Socket) -> impl Iterator<Item = Stream> + 'a {
        let streams = io.streams().into_iter().flat_map(Streams::iter);
        streams.filter(|stream| !self.endings.contains(stream.id))
    }

    fn pace(&self, stream: u32) -> Option<&Pace> {
        let at = self.paces.binary_search_by_key(&stream, |(id, _)| *id);
        at.ok().map(|at| &self.paces[at].1)
    }

    fn watch_again(&mut self, now: Instant) {
        let terms = self.shared.terms();
        let paces = self.paces.iter().map(|(_, pace)| pace);
        let paces: Vec<_> = paces.chain([&self.together]).collect();
        let ends = paces.iter().filter_map(|pace| pace.until(terms));
        // Who is over and not ended waits for what becomes of others.
        let ends = ends.map(|(at, _)| at).filter(|at| *at > now);
        let until = ends.chain(self.endings.heard_by()).min();
        let owed = paces.iter().any(|pace| pace.is_owed());
        if !owed && self.endings.heard_by().is_none() {
            self.watch = None;
        } else if let Some(watch) = &mut self.watch {
            watch.again(now, until);
        } else {
            self.watch = Some(Watch::begin(now, terms.looks()));
        }
    }

    /// Tells the client if it listens, and then resets the connection.
    fn give_up<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> io::Error {
        self.endings.say_at_last(io, cx);
        let _ = io.reset_on_close();
        if let Some(handle) = self.shared.handle.get() {
            handle.abort();
        }
        io::ErrorKind::TimedOut.into()
    }
}

impl<Io: Socket> Hook<Io> for Starving {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.endings.hear(io, buf) {
            return Poll::Ready(Ok(()));
        }
        let read = if self.endings.heard_by().is_some() {
            self.endings.poll_read_frame(io, cx, buf)
        } else {
            Pin::new(&mut *io).poll_read(cx, buf)
        };
        if read.is_ready() {
            self.heard = true;
            return read;
        }
        if let Poll::Ready(over) = self.poll_starved(io, cx) {
            return Poll::Ready(Err(over));
        }
        if self.endings.hear(io, buf) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.endings.poll_finish(io, cx))?;
        let written = poll_write_slices(io, cx, bufs);
        // While another stream is taken slowly, HTTP/2 neither reads nor flushes.
        if written.is_pending() {
            self.endings.wait_for_stack();
            return self.poll_starved_or_wake(io, cx).map(Err);
        }
        written
    }

    fn poll_shutdown(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.endings.poll_finish(io, cx))?;
        Pin::new(io).poll_shutdown(cx)
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Here the HTTP stack has written all that it has: so the end of a stream comes after its last bytes.
        ready!(self.endings.poll_say(io, cx))?;
        let flushed = Pin::new(&mut *io).poll_flush(cx);
        if flushed.is_ready() {
            self.heard = false;
        }
        // What was just written may have shut a window, and HTTP/2 reads first and writes second.
        if let Poll::Ready(over) = self.poll_starved_or_wake(io, cx) {
            return Poll::Ready(Err(over));
        }
        flushed
    }
}

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{Deadline, Hook, Hooked, Socket, Stream, Window};

use crate::{
    accept::Shared,
    pace::{Pace, Why},
    watch::Watch,
};

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
/// A stream whose window stays shut leaves the socket idle and writable, and the HTTP stack has no timer for it. It
/// is ended on the wire, which is the same for every stack: the HTTP stack reads a `RST_STREAM` that its client
/// never sent, and lets go of the handler, the body and what it had buffered; the client reads another.
#[derive(Debug)]
pub struct Starving {
    shared: Arc<Shared>,
    /// Of the streams that have been shut since somebody began to look, by their numbers.
    paces: Vec<(u32, Pace)>,
    /// There is one while a stream is shut.
    watch: Option<Watch>,
    timer: Deadline,
    /// The HTTP stack has read something, and may yet write what that allows.
    heard: bool,
    ending: Vec<Ending>,
    /// By then the HTTP stack must have read of all of them.
    heard_by: Option<Instant>,
}

/// A stream that has had its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ending {
    stream: u32,
    heard: bool,
    said: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// So much of its frame.
    Bytes(usize),
    All,
}

/// How long a client may keep the HTTP stack in the middle of a frame, where none can be slipped in.
const UNHEARD: Duration = Duration::from_secs(1);

const RST_STREAM: usize = 13;

impl Starving {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            paces: Vec::new(),
            watch: None,
            timer: Deadline::default(),
            heard: false,
            ending: Vec::new(),
            heard_by: None,
        }
    }

    /// Ready when the connection is to be ended, as no stream on it is taken any more. Pending if one is shut, and
    /// then looks again.
    fn poll_starved<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            if let Some(watch) = &self.watch {
                ready!(watch.poll(&mut self.timer, cx));
            } else if !io.streams().is_some_and(|streams| streams.has_shut())
                || self.shared.terms.ask_nothing()
            {
                return Poll::Pending;
            }
            if self.look(io) {
                return Poll::Ready(self.give_up(io, cx));
            }
            if self.watch.is_none() {
                return Poll::Pending;
            }
        }
    }

    /// Looks what was taken of each stream. Returns whether nothing is left to serve.
    fn look(&mut self, io: &impl Socket) -> bool {
        let Some(streams) = io.streams() else {
            return false;
        };
        let now = Instant::now();
        let terms = &self.shared.terms;
        let late = self.watch.as_ref().and_then(|watch| watch.late(now));
        let (paces, ending) = (&mut self.paces, &self.ending);
        paces.retain_mut(|(_, pace)| {
            if let Some(late) = late {
                pace.forgive(late);
            }
            true
        });
        let (mut open, mut starved) = (0, 0);
        let mut seen = Vec::with_capacity(paces.len());
        let mut over: Vec<(Stream, Why)> = Vec::new();
        for stream in streams.iter() {
            if ending.iter().any(|ending| ending.stream == stream.id) {
                continue;
            }
            open += 1;
            let known = paces.binary_search_by_key(&stream.id, |(id, _)| *id);
            let mut pace = match known {
                Ok(at) => std::mem::take(&mut paces[at].1),
                Err(_) if stream.shut.is_none() => continue,
                Err(_) => Pace::default(),
            };
            pace.look(terms, now, stream.sent, stream.shut.is_some());
            if let Some(why) = pace.over(terms, now) {
                over.push((stream, why));
            }
            // Those that are over by the next look are as good as over.
            if pace.over(terms, now + terms.looks().seldom()).is_some() {
                starved += 1;
            }
            seen.push((stream.id, pace));
        }
        self.paces = seen;
        if !over.is_empty() {
            if starved == open {
                for (stream, why) in over {
                    self.end(io, now, stream, why);
                }
                return true;
            }
            self.end_some(io, now, &over);
        }
        self.watch_again(now);
        self.heard_by.is_some_and(|by| by <= now)
    }

    /// Ends the streams that are shut by themselves. Who waits for the connection's window only may be in want of
    /// what they have not taken: it is blamed only if there is nobody else to blame, and has new hope with each end.
    fn end_some(&mut self, io: &impl Socket, now: Instant, over: &[(Stream, Why)]) {
        let streams = || io.streams().into_iter().flat_map(|streams| streams.iter());
        let blocking = streams().any(|stream| stream.shut == Some(Window::Stream));
        let ends = |stream: &Stream| !blocking || stream.shut == Some(Window::Stream);
        let terms = self.shared.terms;
        let mut ended = false;
        for (stream, why) in over.iter().filter(|(stream, _)| ends(stream)) {
            self.end(io, now, *stream, *why);
            ended = true;
        }
        for waiting in streams().filter(|stream| ended && stream.shut == Some(Window::Connection)) {
            if let Some(pace) = self.pace(waiting.id) {
                pace.restart(&terms, now);
            }
        }
    }

    fn pace(&mut self, stream: u32) -> Option<&mut Pace> {
        let at = self.paces.binary_search_by_key(&stream, |(id, _)| *id);
        at.ok().map(|at| &mut self.paces[at].1)
    }

    /// ## Shut => Ending
    fn end(&mut self, io: &impl Socket, now: Instant, stream: Stream, why: Why) {
        let (waited, taken) = self
            .pace(stream.id)
            .map_or((Duration::ZERO, 0), |pace| pace.owing(now));
        let id = stream.id;
        self.shared.tell(&io.peer(), Some(id), why, waited, taken);
        self.paces.retain(|(other, _)| *other != id);
        self.ending.push(Ending {
            stream: id,
            heard: false,
            said: Said::Bytes(0),
        });
        self.heard_by.get_or_insert(now + UNHEARD);
    }

    fn watch_again(&mut self, now: Instant) {
        let terms = &self.shared.terms;
        let owing = self.paces.iter().any(|(_, pace)| pace.is_owed());
        let owed = self.paces.iter();
        let until = owed
            .filter_map(|(_, pace)| pace.until(terms))
            .map(|(at, _)| at);
        let until = until.chain(self.heard_by).min();
        match &mut self.watch {
            _ if until.is_none() && !owing => self.watch = None,
            Some(watch) => watch.again(now, until),
            None => self.watch = Some(Watch::begin(now, terms.looks())),
        }
    }

    /// The HTTP stack hears the ends of streams as if its client had said them. Returns whether it did.
    fn tell_stack(&mut self, io: &impl Socket, buf: &mut ReadBuf<'_>) -> bool {
        let Some(0) = io.streams().and_then(|streams| streams.rest_of_frame()) else {
            return false;
        };
        let mut told = false;
        for ending in &mut self.ending {
            if !ending.heard && buf.remaining() >= RST_STREAM {
                buf.put_slice(&rst_stream(ending.stream));
                ending.heard = true;
                told = true;
            }
        }
        if self.ending.iter().all(|ending| ending.heard) {
            self.heard_by = None;
        }
        told
    }

    /// The client hears the ends of streams.
    fn tell_client<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut open: Vec<u32> = Vec::new();
        if let Some(streams) = io.streams() {
            open.extend(streams.iter().map(|stream| stream.id));
        }
        for ending in &mut self.ending {
            while let (true, Said::Bytes(said)) = (ending.heard, ending.said) {
                // Its client may have ended it meanwhile; a frame that was begun must end.
                let ended = said == 0 && open.binary_search(&ending.stream).is_err();
                let between = io
                    .streams()
                    .is_some_and(|streams| streams.is_between_frames());
                if ended || said == RST_STREAM {
                    ending.said = Said::All;
                } else if said == 0 && !between {
                    return Poll::Ready(Ok(()));
                } else {
                    let frame = rst_stream(ending.stream);
                    let more = ready!(Pin::new(&mut *io).poll_write(cx, &frame[said..]))?;
                    if more == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    ending.said = Said::Bytes(said + more);
                }
            }
        }
        self.ending.retain(|ending| ending.said != Said::All);
        Poll::Ready(Ok(()))
    }

    /// Reads no further than to the end of the client's frame, after which one can be slipped in.
    fn poll_read_rest<Io: Socket>(
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = io.streams().and_then(|streams| streams.rest_of_frame());
        let most = rest.unwrap_or(usize::MAX).min(buf.remaining());
        if most == 0 {
            // No room for a frame of ours, or a frame has just ended: there is one more turn.
            return Pin::new(io).poll_read(cx, buf);
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(()))
    }

    /// Tells the client if it listens, and then resets the connection.
    fn give_up<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> io::Error {
        for ending in &mut self.ending {
            ending.heard = true;
        }
        let told = self.tell_client(io, cx);
        if told.is_ready() {
            let _ = Pin::new(&mut *io).poll_flush(cx);
        }
        let _ = io.reset_on_close();
        if let Some(handle) = self.shared.handle.get() {
            handle.abort();
        }
        io::ErrorKind::TimedOut.into()
    }
}

/// `RST_STREAM(CANCEL)` (RFC 9113, section 6.4).
fn rst_stream(stream: u32) -> [u8; RST_STREAM] {
    let mut frame = [0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 8];
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

impl<Io: Socket> Hook<Io> for Starving {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.heard_by.is_some() && self.tell_stack(io, buf) {
            return Poll::Ready(Ok(()));
        }
        let read = if self.heard_by.is_some() {
            Self::poll_read_rest(io, cx, buf)
        } else {
            Pin::new(&mut *io).poll_read(cx, buf)
        };
        if read.is_ready() {
            self.heard = true;
            return read;
        }
        // Before it has written, a window that was opened for one byte looks open.
        if !self.heard {
            if let Poll::Ready(over) = self.poll_starved(io, cx) {
                return Poll::Ready(Err(over));
            }
            if self.heard_by.is_some() && self.tell_stack(io, buf) {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Here the HTTP stack has written all that it has: so the end of a stream comes after its last bytes.
        if !self.ending.is_empty() {
            ready!(self.tell_client(io, cx))?;
        }
        let flushed = Pin::new(&mut *io).poll_flush(cx);
        // What was just written may have shut a window, and HTTP/2 reads first and writes second.
        if flushed.is_ready() {
            self.heard = false;
            let unheard = self.heard_by.is_some();
            if let Poll::Ready(over) = self.poll_starved(io, cx) {
                return Poll::Ready(Err(over));
            }
            if !unheard && self.heard_by.is_some() {
                cx.waker().wake_by_ref();
            }
        }
        flushed
    }
}

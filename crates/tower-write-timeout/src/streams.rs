use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{Deadline, Hook, Hooked, Socket, Stream, Streams, Window};

use crate::{
    accept::Shared,
    ending::Endings,
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
/// A stream whose window stays shut leaves the socket idle and writable, and the HTTP stack has no timer for it.
#[derive(Debug)]
pub struct Starving {
    shared: Arc<Shared>,
    /// Of the streams that have been shut since somebody began to look, by their numbers.
    paces: Vec<(u32, Pace)>,
    /// There is one while a stream is shut, or one that has ended was not heard of.
    watch: Option<Watch>,
    timer: Deadline,
    /// The HTTP stack has read something, and may yet write what that allows.
    heard: bool,
    endings: Endings,
}

impl Starving {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            paces: Vec::new(),
            watch: None,
            timer: Deadline::default(),
            heard: false,
            endings: Endings::default(),
        }
    }

    /// Ready when the connection is to be ended, as no stream on it is taken any more. Pending if one is shut, and
    /// then looks again.
    fn poll_starved<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            if let Some(watch) = &self.watch {
                ready!(watch.poll(&mut self.timer, cx));
            } else if self.shared.terms.ask_nothing()
                || !io.streams().is_some_and(Streams::has_shut)
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

    /// Looks what was taken of each stream, and ends those that are over. Returns whether the connection is.
    fn look(&mut self, io: &impl Socket) -> bool {
        let now = Instant::now();
        let (over, starved) = self.follow(io, now);
        if starved {
            // ## Starving => GivenUp
            for (stream, why) in over {
                self.end(io, now, stream, why);
            }
            return true;
        }
        self.end_some(io, now, &over);
        self.watch_again(now);
        self.endings.heard_by().is_some_and(|by| by <= now)
    }

    /// Returns the streams that are over, and whether that is as good as all that there are.
    fn follow(&mut self, io: &impl Socket, now: Instant) -> (Vec<(Stream, Why)>, bool) {
        let terms = &self.shared.terms;
        let late = self
            .watch
            .as_ref()
            .map_or(Duration::ZERO, |watch| watch.late(now));
        let by_next_look = now + terms.looks().seldom();
        let mut known = std::mem::take(&mut self.paces).into_iter().peekable();
        let (mut over, mut starved) = (Vec::new(), true);
        for stream in open(io).filter(|stream| !self.endings.contains(stream.id)) {
            while known.next_if(|(id, _)| *id < stream.id).is_some() {}
            let pace = known.next_if(|(id, _)| *id == stream.id);
            if pace.is_none() && stream.shut.is_none() {
                starved = false;
                continue;
            }
            let (_, mut pace) = pace.unwrap_or_default();
            pace.forgive(late);
            pace.look(terms, now, stream.sent, stream.shut.is_some());
            if let Some(why) = pace.over(terms, now) {
                over.push((stream, why));
            }
            starved &= pace.over(terms, by_next_look).is_some();
            self.paces.push((stream.id, pace));
        }
        let starved = starved && !over.is_empty();
        (over, starved)
    }

    /// Ends the streams that are shut by themselves. Who waits for the connection's window only may be in want of
    /// what they have not taken: it is blamed only if there is nobody else to blame, and has new hope with each end.
    fn end_some(&mut self, io: &impl Socket, now: Instant, over: &[(Stream, Why)]) {
        let blocking = open(io).any(|stream| stream.shut == Some(Window::Stream));
        let ends = |stream: &Stream| !blocking || stream.shut == Some(Window::Stream);
        let terms = self.shared.terms;
        let mut ended = false;
        for (stream, why) in over.iter().filter(|(stream, _)| ends(stream)) {
            self.end(io, now, *stream, *why);
            ended = true;
        }
        for waiting in open(io).filter(|stream| stream.shut == Some(Window::Connection)) {
            if let Some(pace) = self.pace(waiting.id).filter(|_| ended) {
                pace.restart(&terms, now);
            }
        }
    }

    /// ## Shut => Ending
    fn end(&mut self, io: &impl Socket, now: Instant, stream: Stream, why: Why) {
        let id = stream.id;
        let owing = self.pace(id).map(|pace| pace.owing(now));
        self.shared
            .tell(io, Some(id), why, owing.unwrap_or_default());
        self.paces.retain(|(other, _)| *other != id);
        self.endings.begin(id, now);
    }

    fn pace(&mut self, stream: u32) -> Option<&mut Pace> {
        let at = self.paces.binary_search_by_key(&stream, |(id, _)| *id);
        at.ok().map(|at| &mut self.paces[at].1)
    }

    fn watch_again(&mut self, now: Instant) {
        let terms = &self.shared.terms;
        let ends = self.paces.iter().filter_map(|(_, pace)| pace.until(terms));
        // Who is over and not ended waits for what becomes of others.
        let ends = ends.map(|(at, _)| at).filter(|at| *at > now);
        let until = ends.chain(self.endings.heard_by()).min();
        let owed = self.paces.iter().any(|(_, pace)| pace.is_owed());
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

fn open(io: &impl Socket) -> impl Iterator<Item = Stream> {
    io.streams().into_iter().flat_map(Streams::iter)
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
            Endings::poll_read_frame(io, cx, buf)
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
            if self.endings.hear(io, buf) {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Here the HTTP stack has written all that it has: so the end of a stream comes after its last bytes.
        ready!(self.endings.poll_say(io, cx))?;
        let flushed = Pin::new(&mut *io).poll_flush(cx);
        // What was just written may have shut a window, and HTTP/2 reads first and writes second.
        if flushed.is_ready() {
            self.heard = false;
            let unheard = self.endings.heard_by();
            if let Poll::Ready(over) = self.poll_starved(io, cx) {
                return Poll::Ready(Err(over));
            }
            if unheard.is_none() && self.endings.heard_by().is_some() {
                cx.waker().wake_by_ref();
            }
        }
        flushed
    }
}

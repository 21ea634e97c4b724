use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{Deadline, Hook, Hooked, Socket, poll_write_slices};

use crate::{Reason, accept::Shared, pace::Pace, watch::Watch};

/// The socket of a client that must keep taking its response: below TLS, where bytes are what the kernel counts.
///
/// ```
/// use tower_write_timeout::WriteTimeoutSocket;
///
/// fn socket<Io>(timed: &WriteTimeoutSocket<Io>) -> &Io {
///     timed.io()
/// }
/// # let _ = socket::<()>;
/// ```
pub type WriteTimeoutSocket<Io> = Hooked<Io, Owing>;

/// What the kernel may hold for a client that nobody looks after. A response that leaves no more than this is
/// free: most are acknowledged with the next request.
const TAIL: u64 = 16 * 1024;

/// How long after a connection's end is first looked whether its client has taken the rest: a round trip.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// A FIN that was not acknowledged: nothing that is worth waiting for.
const FIN: u64 = 1;

/// After so many looks without another write, nobody is writing any more.
const FORSAKEN: u8 = 3;

/// The hook of a [`WriteTimeoutSocket`].
#[derive(Debug)]
pub struct Owing {
    shared: Arc<Shared>,
    pace: Pace,
    written: u64,
    /// The socket has not taken what was last written to it; for so many looks since.
    stuck: Option<u8>,
    end: End,
    given_up: bool,
    /// There is one while the client is owed something.
    watch: Option<Watch>,
    // Two, because reads and writes of an upgraded connection may be awaited by two tasks.
    reader: Deadline,
    writer: Deadline,
    /// A reader of an upgraded connection that waits for no timer yet.
    parked: Option<Waker>,
}

/// How far the connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    None,
    /// Its end was said, and the client has not taken all before it.
    Said,
    Taken,
}

/// Who waits.
#[derive(Clone, Copy)]
enum Side {
    Reader,
    Writer,
}

impl Owing {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pace: Pace::default(),
            written: 0,
            stuck: None,
            end: End::None,
            given_up: false,
            watch: None,
            reader: Deadline::default(),
            writer: Deadline::default(),
            parked: None,
        }
    }

    /// Whether the client may be owed more than nobody looks after.
    fn may_owe(&self) -> bool {
        let tail = self.written - self.pace.taken() > TAIL && self.end != End::Taken;
        let may = self.stuck.is_some() || self.end == End::Said || tail;
        may && !self.shared.terms().ask_nothing()
    }

    /// Ready when the client has had its time. Pending if it is owed something, and then looks again.
    #[inline]
    fn poll_over<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        side: Side,
    ) -> Poll<io::Error> {
        if self.watch.is_none() && !self.may_owe() {
            return Poll::Pending;
        }
        self.poll_look(io, cx, side)
    }

    fn poll_look<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        side: Side,
    ) -> Poll<io::Error> {
        loop {
            if let Some(watch) = &self.watch {
                let timer = match side {
                    Side::Reader => &mut self.reader,
                    Side::Writer => &mut self.writer,
                };
                ready!(watch.poll(timer, cx));
            }
            if let Some(why) = self.look(io) {
                return Poll::Ready(self.give_up(io, why));
            }
            if self.watch.is_none() {
                return Poll::Pending;
            }
        }
    }

    /// Looks what the client has taken, and returns why it is given up if it is.
    fn look(&mut self, io: &impl Socket) -> Option<Reason> {
        let now = Instant::now();
        self.forgive(now);
        let (held, owed) = match io.unacked() {
            Ok(held) => {
                let held = held as u64;
                let free = match self.end {
                    End::None if self.stuck.is_some() => 0,
                    End::None => TAIL,
                    End::Said | End::Taken => FIN,
                };
                (held, held > free)
            }
            // Nobody knows what became of what the socket took.
            Err(_) => (0, self.stuck.is_some_and(|looks| looks < FORSAKEN)),
        };
        self.stuck = self.stuck.map(|looks| looks.saturating_add(1));
        let terms = self.shared.terms();
        self.pace
            .look(terms, now, self.written.saturating_sub(held), owed);
        let Some((until, why)) = self.pace.until(terms) else {
            // ## Owing => Quick
            self.watch = None;
            if self.end == End::Said {
                self.end = End::Taken;
            }
            return None;
        };
        if let Some(watch) = &mut self.watch {
            watch.again(now, Some(until));
        } else {
            // ## Quick => Owing
            let mut looks = terms.looks();
            if self.end == End::Said {
                looks = looks.soon(FIRST_LOOK);
            }
            self.watch = Some(Watch::begin(now, looks));
            if let Some(reader) = self.parked.take() {
                reader.wake();
            }
        }
        (until <= now).then_some(why)
    }

    fn forgive(&mut self, now: Instant) {
        if let Some(watch) = &self.watch {
            self.pace.forgive(watch.late(now));
        }
    }

    /// With a reset: what the kernel holds would stay for minutes if this were an orderly end.
    fn give_up(&mut self, io: &impl Socket, why: Reason) -> io::Error {
        // ## Owing => GivenUp
        self.given_up = true;
        self.watch = None;
        let owing = self.pace.owing(Instant::now());
        self.shared.tell(io, None, why, owing);
        // A socket without a reset is closed by the error below just the same.
        let _ = io.reset_on_close();
        if let Some(handle) = self.shared.handle.get() {
            handle.abort();
        }
        io::ErrorKind::TimedOut.into()
    }

    fn unless_given_up(&self) -> io::Result<()> {
        if self.given_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl<Io: Socket> Hook<Io> for Owing {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.unless_given_up()?;
        let read = Pin::new(&mut *io).poll_read(cx, buf);
        if read.is_pending() {
            if let Poll::Ready(over) = self.poll_over(io, cx, Side::Reader) {
                return Poll::Ready(Err(over));
            }
            // Of HTTP, the task that reads is the one that writes.
            if self.watch.is_none() && self.shared.is_upgraded() {
                self.parked = Some(cx.waker().clone());
            }
        }
        read
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unless_given_up()?;
        let written = poll_write_slices(io, cx, bufs);
        self.stuck = written.is_pending().then_some(0);
        match written {
            Poll::Ready(Ok(n)) => self.written += n as u64,
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return self.poll_over(io, cx, Side::Writer).map(Err),
        }
        // Nothing says that somebody flushes there.
        if self.parked.is_some() && self.watch.is_none() && self.may_owe() {
            self.look(io);
        }
        written
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_given_up()?;
        let flushed = Pin::new(&mut *io).poll_flush(cx);
        self.stuck = flushed.is_pending().then_some(0);
        // Also if the kernel has taken all of it. hyper waits for a read that it began while the handler ran, and
        // reads no more (1.12, `proto/h1/conn.rs`).
        if let Poll::Ready(over) = self.poll_over(io, cx, Side::Writer) {
            return Poll::Ready(Err(over));
        }
        flushed
    }

    /// Ends when the client has taken all, or has had its time: a socket that is closed with a full queue is the
    /// kernel's, which keeps it for minutes.
    fn poll_shutdown(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_given_up()?;
        if self.end == End::None {
            if Pin::new(&mut *io).poll_shutdown(cx)?.is_pending() {
                return self.poll_over(io, cx, Side::Writer).map(Err);
            }
            self.end = End::Said;
            self.stuck = None;
            self.forgive(Instant::now());
            self.watch = None; // and looks at once
        }
        if let Poll::Ready(over) = self.poll_over(io, cx, Side::Writer) {
            return Poll::Ready(Err(over));
        }
        if self.watch.is_none() {
            return Poll::Ready(Ok(()));
        }
        // A layer outside may have less time than that.
        let _ = Pin::new(io).poll_flush(cx)?;
        Poll::Pending
    }

    /// A response that was cut, by an error of the service or a client that has gone, looks whole to the kernel.
    fn before_close(&mut self, io: &Io) {
        let cut = self.end == End::None && !self.given_up && !self.shared.is_upgraded();
        if cut && self.may_owe() && io.unacked().is_ok_and(|held| held as u64 > TAIL) {
            let _ = io.reset_on_close();
        }
    }
}

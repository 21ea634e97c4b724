use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Version;
use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{ConnectionHandle, Deadline, Hook, Hooked, Socket, poll_write_slices};

use crate::{
    books::Verdict,
    ledger::{Entry, Ticket},
    seat::Phase,
};

/// The socket of a connection that counts in a [`ConnectionLimit`](crate::ConnectionLimit).
///
/// Its place is free when the socket is closed, and not before: not when a handler ends, not when an
/// upgrade leaves HTTP.
///
/// ```
/// use tower_connection_limit::LimitedIo;
///
/// fn socket<Io>(limited: &LimitedIo<Io>) -> &Io {
///     limited.io()
/// }
/// # let _ = socket::<()>;
/// ```
pub type LimitedIo<Io> = Hooked<Io, Place>;

/// The hook of a [`LimitedIo`].
#[derive(Debug)]
pub struct Place {
    entry: Entry,
    /// A newcomer that waits asks again then; without a time, when it is polled.
    again: Deadline,
    turned: Option<Box<Turned>>,
}

impl Place {
    pub(crate) fn new(entry: Entry, verdict: &Verdict) -> Self {
        let mut place = Self {
            entry,
            again: Deadline::default(),
            turned: None,
        };
        place.heed(verdict);
        place
    }

    fn heed(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Wait(at) => self.again.set(*at),
            _ => self.again.clear(),
        }
    }

    /// Waits while the ledger may still decide either way.
    fn poll_decided(&mut self, io: &impl Socket, cx: &mut Context<'_>) -> Poll<Phase> {
        let seat = self.entry.seat();
        seat.register(cx.waker());
        let phase = seat.phase();
        if phase != Phase::Waiting {
            return Poll::Ready(phase);
        }
        if self.again.at().is_some() {
            ready!(self.again.poll(cx));
        }
        let verdict = self.entry.ask_again();
        self.entry.tell(&verdict, io);
        self.heed(&verdict);
        match verdict {
            Verdict::Wait(_) | Verdict::Again => {
                // Not in a loop: others want the lock.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(self.phase()),
        }
    }

    fn phase(&self) -> Phase {
        self.entry.seat().phase()
    }

    fn turned(&mut self, io: &impl Socket, phase: Phase) -> &mut Turned {
        self.turned.get_or_insert_with(|| {
            Box::new(match phase {
                Phase::Evicted => {
                    self.entry.tell_evicted(io);
                    Turned::evicted(&self.entry)
                }
                _ => Turned::rejected(&self.entry),
            })
        })
    }
}

impl<Io: Socket> Hook<Io> for Place {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.entry.seat().is_served() {
            return Pin::new(io).poll_read(cx, buf);
        }
        self.poll_read_unsettled(io, cx, buf)
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.entry.seat().is_served() {
            return poll_write_slices(io, cx, bufs);
        }
        self.unless_reset(io)?;
        let written = poll_write_slices(io, cx, bufs);
        if written.is_pending() {
            return self.poll_give_up(io, cx).map(Err);
        }
        written
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.entry.seat().is_served() {
            return Pin::new(io).poll_flush(cx);
        }
        self.unless_reset(io)?;
        let flushed = Pin::new(&mut *io).poll_flush(cx);
        // A layer inside that waits for what the client has not taken asks so.
        let shut = self.turned.as_ref().is_some_and(|turned| turned.shut);
        if flushed.is_pending() || shut {
            if let Poll::Ready(over) = self.poll_give_up(io, cx) {
                return Poll::Ready(Err(over));
            }
        }
        flushed
    }

    fn poll_shutdown(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_reset(io)?;
        match self.phase() {
            phase @ (Phase::Rejected | Phase::Evicted | Phase::Spent) => {
                self.turned(io, phase).poll_shutdown(io, cx)
            }
            _ => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl Place {
    fn poll_read_unsettled<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut phase = self.phase();
        if phase == Phase::Waiting {
            phase = ready!(self.poll_decided(io, cx));
        }
        if phase == Phase::Making {
            if let Poll::Ready(read) = Pin::new(&mut *io).poll_read(cx, buf) {
                return Poll::Ready(read);
            }
            self.entry.seat().register(cx.waker());
            phase = self.phase();
            if matches!(phase, Phase::Making | Phase::Served) {
                return Poll::Pending;
            }
        }
        match phase {
            Phase::Served => Pin::new(io).poll_read(cx, buf),
            // Nobody but this half can end a handshake.
            Phase::Evicted if self.entry.seat().handle().is_none() => {
                self.turned(io, phase);
                Poll::Ready(Ok(()))
            }
            phase => {
                self.unless_reset(io)?;
                self.turned(io, phase).poll_read(io, cx, buf)
            }
        }
    }

    fn unless_reset(&self, io: &impl Socket) -> io::Result<()> {
        if self.phase() == Phase::Reset {
            // A socket without a reset is closed by the error just the same.
            let _ = io.reset_on_close();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    /// Ready once a client that was turned away has had its time.
    fn poll_give_up(&mut self, io: &impl Socket, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.phase() {
            phase @ (Phase::Rejected | Phase::Evicted | Phase::Spent) => {
                let spent = self.turned(io, phase).poll_spent(cx);
                spent.map(|()| io::ErrorKind::TimedOut.into())
            }
            _ => Poll::Pending,
        }
    }
}

// === impl Turned ===

/// The end of a connection that was turned away, or that has left its place to another: bounded in time and
/// in bytes.
#[derive(Debug)]
struct Turned {
    ticket: Ticket,
    deadline: Deadline,
    /// How many requests there were before.
    requests: u64,
    lingering: bool,
    read: usize,
    shut: bool,
}

impl Turned {
    fn rejected(entry: &Entry) -> Self {
        Self::until(entry, entry.accepted() + entry.settings().rejection_timeout)
    }

    fn evicted(entry: &Entry) -> Self {
        Self::until(entry, Instant::now() + entry.settings().linger)
    }

    fn until(entry: &Entry, at: Instant) -> Self {
        let mut deadline = Deadline::default();
        deadline.set(at);
        Self {
            deadline,
            requests: (entry.seat().handle()).map_or(0, ConnectionHandle::requests),
            ticket: entry.ticket(),
            lingering: false,
            read: 0,
            shut: false,
        }
    }

    /// Reads the request that will be rejected. When the time or the bytes are spent it ends.
    fn poll_read<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_spent(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(io).poll_read(cx, buf))?;
        self.read += buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }

    /// Half-closes, then reads for as long as what the client still sends could reset the connection before
    /// the answer is read.
    fn poll_shutdown<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.shut {
            match Pin::new(&mut *io).poll_shutdown(cx) {
                Poll::Ready(shut) => shut?,
                Poll::Pending => {
                    ready!(self.poll_spent(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            self.shut = true;
        }
        if !self.has_answered() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut scratch = [MaybeUninit::uninit(); 4096];
            let mut buf = ReadBuf::uninit(&mut scratch);
            match self.poll_read(io, cx, &mut buf)? {
                Poll::Ready(()) if buf.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(()) => {}
                // A request without a body is read to its end, and the client has nothing to send.
                Poll::Pending if !self.may_still_send() => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn has_answered(&self) -> bool {
        let handle = self.ticket.seat().handle();
        handle.is_some_and(|handle| handle.requests() > self.requests)
    }

    /// An HTTP/2 client always does: window updates, the acknowledgement of settings.
    fn may_still_send(&self) -> bool {
        self.ticket.seat().handle().is_some_and(|handle| {
            handle.has_unread_body() || handle.protocol() >= Some(Version::HTTP_2)
        })
    }

    /// Ready when the client has had all the time and all the bytes that it gets.
    fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ticket.seat().register(cx.waker());
        if self.ticket.seat().phase() == Phase::Spent
            || self.read >= self.ticket.settings().rejection_bytes
        {
            return Poll::Ready(());
        }
        if self.has_answered() && !self.lingering {
            self.lingering = true;
            let linger = Instant::now() + self.ticket.settings().linger;
            self.deadline
                .set(self.deadline.at().map_or(linger, |at| at.min(linger)));
        }
        self.deadline.poll(cx)
    }
}

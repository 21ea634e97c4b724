use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{Deadline, Hook, Hooked, Socket, poll_write_slices};

use crate::permit::{Admission, Permit, Refusal};

/// The longest a rejection may take, from `accept(2)` to `close(2)`, TLS handshake included.
pub(crate) const REJECTION_TIME: Duration = Duration::from_secs(5);

/// What is left of that once the answer was made: enough for a distant client to read it.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The most that is read from a rejected client. A `close(2)` with bytes unread resets the connection,
/// and the reset can overtake the answer; so they are read, and dropped, but not for ever.
const REJECTION_BYTES: usize = 16 * 1024 * 1024;

/// The socket of a connection that holds its place in a [`ConnectionLimit`](crate::ConnectionLimit),
/// or is being rejected.
///
/// The place is free when the socket is closed, and not before: not when a handler ends, not when an
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
pub struct Place(Kind);

#[derive(Debug)]
enum Kind {
    Served { _permit: Permit },
    Rejected(Box<Rejected>),
}

#[derive(Debug)]
struct Rejected {
    _refusal: Refusal,
    answered: Answered,
    deadline: Deadline,
    lingering: bool,
    read: usize,
    shut: bool,
}

/// Whether the rejected client was answered: told by the service half, heeded by the socket half.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answered(Arc<AtomicBool>);

impl Answered {
    // Relaxed: it only shortens a deadline, and nothing else is read on its account.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Place {
    pub(crate) fn new(admission: Admission, answered: Option<Answered>) -> Self {
        Self(match admission {
            Admission::Serve(permit) => Kind::Served { _permit: permit },
            Admission::Reject(refusal) => {
                let mut deadline = Deadline::default();
                deadline.set(Instant::now() + REJECTION_TIME);
                Kind::Rejected(Box::new(Rejected {
                    _refusal: refusal,
                    answered: answered.unwrap_or_default(),
                    deadline,
                    lingering: false,
                    read: 0,
                    shut: false,
                }))
            }
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
        match &mut self.0 {
            Kind::Served { .. } => Pin::new(io).poll_read(cx, buf),
            Kind::Rejected(rejected) => rejected.poll_read(io, cx, buf),
        }
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = poll_write_slices(io, cx, bufs);
        match &mut self.0 {
            Kind::Rejected(rejected) if written.is_pending() => rejected.poll_give_up(cx).map(Err),
            _ => written,
        }
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(io).poll_flush(cx);
        match &mut self.0 {
            Kind::Rejected(rejected) if flushed.is_pending() => rejected.poll_give_up(cx).map(Err),
            _ => flushed,
        }
    }

    fn poll_shutdown(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Served { .. } => Pin::new(io).poll_shutdown(cx),
            Kind::Rejected(rejected) => rejected.poll_shutdown(io, cx),
        }
    }
}

// === impl Rejected ===

impl Rejected {
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

    /// Half-closes, then reads until the client closes, so that it can read the answer first.
    fn poll_shutdown<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.shut {
            match Pin::new(&mut *io).poll_shutdown(cx) {
                Poll::Ready(shut) => shut?,
                Poll::Pending => return self.poll_give_up(cx).map(Err),
            }
            self.shut = true;
        }
        self.answered.set();
        loop {
            let mut scratch = [MaybeUninit::uninit(); 4096];
            let mut buf = ReadBuf::uninit(&mut scratch);
            ready!(self.poll_read(io, cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_give_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.poll_spent(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// Ready when the client has had all the time and all the bytes that a rejection gets.
    fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read >= REJECTION_BYTES {
            return Poll::Ready(());
        }
        if self.answered.get() && !self.lingering {
            self.lingering = true;
            let linger = Instant::now() + LINGER_TIME;
            self.deadline
                .set(self.deadline.at().map_or(linger, |at| at.min(linger)));
        }
        self.deadline.poll(cx)
    }
}

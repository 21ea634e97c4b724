use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Version;
use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{Deadline, Hook, Hooked, Socket};

use crate::{Reason, accept::Shared};

/// The socket of a connection that is closed when nobody is using it.
///
/// ```
/// use tower_keep_alive::KeepAliveIo;
///
/// fn socket<Io>(kept: &KeepAliveIo<Io>) -> &Io {
///     kept.io()
/// }
/// # let _ = socket::<()>;
/// ```
pub type KeepAliveIo<Io> = Hooked<Io, Idle>;

/// The hook of a [`KeepAliveIo`].
#[derive(Debug)]
pub struct Idle {
    shared: Arc<Shared>,
    /// The one timer, for whichever comes first.
    deadline: Deadline,
}

impl Idle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            deadline: Deadline::default(),
        }
    }

    /// Ready when the connection is to be closed.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let handle = &self.shared.handle;
        if handle.is_closing() {
            return Poll::Pending;
        }
        let idle = self.idle_until().map(|at| (at, Reason::Idle));
        let old = self.renewed_at().map(|at| (at, Reason::Age));
        let Some((at, reason)) = idle.into_iter().chain(old).min_by_key(|(at, _)| *at) else {
            self.deadline.clear();
            return Poll::Pending;
        };
        self.deadline.set(at);
        self.deadline.poll(cx).map(|()| reason)
    }

    fn idle_until(&self) -> Option<Instant> {
        let timeout = self.shared.settings.timeout?;
        let handle = &self.shared.handle;
        let since = handle.idle_since_or_wake()?;
        // Before the first request, and from the first byte of each head, the client is not idle but slow.
        let spoke = handle.requests() > 0 || handle.protocol() == Some(Version::HTTP_2);
        (spoke && handle.head_since().is_none()).then(|| since + timeout)
    }

    /// When a connection that is old is closed.
    fn renewed_at(&self) -> Option<Instant> {
        let old_at = self.shared.old_at?;
        let handle = &self.shared.handle;
        let http1 = handle.protocol() < Some(Version::HTTP_2);
        // The answer to a request that is arriving will be the last.
        if handle.is_upgraded() || http1 && handle.head_since().is_some() {
            return None;
        }
        // Where a request could cross with the end, it is waited for: the service half answers it.
        Some(if http1 && handle.idle_since().is_some() {
            old_at + self.shared.settings.age_grace
        } else {
            old_at
        })
    }
}

impl<Io: Socket> Hook<Io> for Idle {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper reads while a handler runs, too: a pending read is not idleness.
        let read = Pin::new(&mut *io).poll_read(cx, buf);
        if read.is_pending() {
            if let Poll::Ready(reason) = self.poll_over(cx) {
                // ## (Idle | Old) => Closing
                self.shared.end(reason);
                // The socket half looks once more for what has arrived, and ends the stream.
                return Pin::new(io).poll_read(cx, buf);
            }
        }
        read
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(io).poll_flush(cx);
        // After a response nobody may read again: HTTP/2 reads first and writes second, and hyper's HTTP/1 waits
        // for the read that it began while the handler ran (1.12, `proto/h1/conn.rs`).
        if flushed.is_ready() {
            if let Poll::Ready(reason) = self.poll_over(cx) {
                self.shared.end(reason);
            }
        }
        flushed
    }
}

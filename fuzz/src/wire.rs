use std::{
    any::Any,
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_connection::{Held, Socket};

/// A socket whose client is a list of bytes, and takes whatever it is sent. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire {
    ends: Arc<Mutex<Ends>>,
}

#[derive(Debug, Default)]
struct Ends {
    coming: VecDeque<u8>,
    ended: bool,
    /// How much is read at once.
    piece: usize,
}

impl Wire {
    /// A wire from which so many bytes are read at once.
    pub(crate) fn cut(piece: usize) -> Self {
        let wire = Self::default();
        wire.ends().piece = piece;
        wire
    }

    /// The client sends `bytes`.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.ends().coming.extend(bytes);
    }

    /// The client sends nothing more.
    pub(crate) fn end(&self) {
        self.ends().ended = true;
    }

    /// How many bytes nobody has read.
    pub(crate) fn unread(&self) -> usize {
        self.ends().coming.len()
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        if ends.coming.is_empty() {
            if ends.ended {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = ends.piece.min(buf.remaining()).min(ends.coming.len());
        let bytes: Vec<_> = ends.coming.drain(..piece).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Socket for Wire {
    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        self
    }
}

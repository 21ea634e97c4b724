use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::ReadBuf;
use tower_connection::{Hook, Hooked, Socket, poll_write_slices};

use crate::roll::Entry;

/// The socket of a connection that a [`Drain`](crate::Drain) waits for: until it is closed, and no longer.
///
/// ```
/// use tower_drain::DrainIo;
///
/// fn socket<Io>(enrolled: &DrainIo<Io>) -> &Io {
///     enrolled.io()
/// }
/// # let _ = socket::<()>;
/// ```
pub type DrainIo<Io> = Hooked<Io, Enrolled>;

/// The hook of a [`DrainIo`].
///
/// While the connection is made (a TLS handshake), nobody else can end it. Afterwards its handle does.
#[derive(Debug)]
pub struct Enrolled {
    entry: Entry,
}

impl Enrolled {
    pub(crate) fn new(entry: Entry) -> Self {
        Self { entry }
    }

    fn is_made(&self) -> bool {
        self.entry.seat().handle().is_some()
    }
}

impl<Io: Socket> Hook<Io> for Enrolled {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut *io).poll_read(cx, buf);
        if read.is_pending() && !self.is_made() && self.entry.seat().heed(io, cx)? {
            return Poll::Ready(Ok(()));
        }
        read
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = poll_write_slices(io, cx, bufs);
        if written.is_pending() && !self.is_made() && self.entry.seat().heed(io, cx)? {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        written
    }
}

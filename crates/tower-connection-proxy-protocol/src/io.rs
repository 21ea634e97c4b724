use std::{
    any::Any,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_connection::{Address, Held, Socket, Streams};

use crate::header::Addresses;

/// A socket that says where the client is, and not the balancer.
///
/// All else is that of the socket below. What a header says nothing of (a balancer's own health check, a
/// protocol that the balancer does not know) stays as well.
///
/// ```
/// use tower_connection::Socket;
/// use tower_connection_proxy_protocol::ProxyProtocolIo;
///
/// fn route<Io: Socket>(io: &ProxyProtocolIo<Io>) -> String {
///     format!("{} by way of {}", io.peer(), io.io().peer())
/// }
/// # let _ = route::<tokio::net::TcpStream>;
/// ```
#[derive(Debug)]
pub struct ProxyProtocolIo<Io> {
    io: Io,
    addresses: Option<Addresses>,
}

impl<Io> ProxyProtocolIo<Io> {
    pub(crate) fn new(io: Io, addresses: Option<Addresses>) -> Self {
        Self { io, addresses }
    }

    /// The socket below, whose peer is the balancer.
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// The socket below. Nothing that follows the header was read from it.
    pub fn into_inner(self) -> Io {
        self.io
    }
}

impl<Io: Socket> Socket for ProxyProtocolIo<Io> {
    fn peer(&self) -> Address {
        match &self.addresses {
            Some(addresses) => addresses.client.clone(),
            None => self.io.peer(),
        }
    }

    fn local(&self) -> Address {
        match &self.addresses {
            Some(addresses) => addresses.destination.clone(),
            None => self.io.local(),
        }
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.io.reset_on_close()
    }

    fn set_nodelay(&self) -> io::Result<()> {
        self.io.set_nodelay()
    }

    fn unacked(&self) -> io::Result<usize> {
        self.io.unacked()
    }

    fn has_unread(&self) -> bool {
        self.io.has_unread()
    }

    fn has_hung_up(&self) -> bool {
        self.io.has_hung_up()
    }

    fn set_unsent_limit(&self, bytes: u32) -> io::Result<()> {
        self.io.set_unsent_limit(bytes)
    }

    fn streams(&self) -> Option<&Streams> {
        self.io.streams()
    }

    fn into_innermost(self: Box<Self>, held: &mut Held) -> Box<dyn Any + Send> {
        Box::new(self.io).into_innermost(held)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for ProxyProtocolIo<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for ProxyProtocolIo<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

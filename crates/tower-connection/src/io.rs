//! The one place that forwards what a wrapped socket can do.

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Address, Held, Socket, Streams};

/// What a layer does to the reads and writes of a socket. Every method forwards by default.
///
/// A layer implements the methods it has something to say about and wraps the socket in
/// [`Hooked`], which forwards the rest. There is one write method: hyper writes through
/// `poll_write_vectored`, so a layer that watched `poll_write` alone would see nothing.
///
/// # Examples
///
/// Count what is written, whichever way it is written:
///
/// ```
/// use std::{io, task::{Context, Poll, ready}};
/// use tower_connection::{Hook, Hooked, Socket, poll_write_slices};
///
/// struct Count(u64);
///
/// impl<Io: Socket> Hook<Io> for Count {
///     fn poll_write(
///         &mut self,
///         io: &mut Io,
///         cx: &mut Context<'_>,
///         bufs: &[io::IoSlice<'_>],
///     ) -> Poll<io::Result<usize>> {
///         let n = ready!(poll_write_slices(io, cx, bufs))?;
///         self.0 += n as u64;
///         Poll::Ready(Ok(n))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> io::Result<()> {
/// use tokio::io::AsyncWriteExt;
///
/// let (_client, server) = tokio::io::duplex(64);
/// let mut io = Hooked::new(server, Count(0));
/// io.write_all(b"hello").await?;
/// assert_eq!(io.hook().0, 5);
/// # Ok(())
/// # }
/// ```
pub trait Hook<Io: Socket>: Send + Unpin + 'static {
    /// Reads, as [`AsyncRead::poll_read`]. Returning `Ok` with nothing read is an end of stream.
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(io).poll_read(cx, buf)
    }

    /// Writes one or more slices; forward with [`poll_write_slices`].
    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_slices(io, cx, bufs)
    }

    /// Flushes, as [`AsyncWrite::poll_flush`].
    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(io).poll_flush(cx)
    }

    /// Ends the writing side, as [`AsyncWrite::poll_shutdown`].
    fn poll_shutdown(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(io).poll_shutdown(cx)
    }

    /// The socket is about to be dropped, and so closed, perhaps without having been shut down. Not called where the
    /// two were taken apart.
    fn before_close(&mut self, _io: &Io) {}

    /// The streams of HTTP/2, if this is the hook that follows them; see [`Socket::streams`].
    fn streams(&self) -> Option<&Streams> {
        None
    }
}

/// Writes `bufs` to `io` the way they came: one slice as `poll_write`, several as
/// `poll_write_vectored`.
///
/// ```
/// # use std::{io::IoSlice, pin::pin, future::poll_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (_client, mut io) = tokio::io::duplex(64);
/// let bufs = [IoSlice::new(b"one, "), IoSlice::new(b"two")];
/// let n = poll_fn(|cx| tower_connection::poll_write_slices(&mut io, cx, &bufs)).await?;
/// assert_eq!(n, 8);
/// # Ok(())
/// # }
/// ```
pub fn poll_write_slices<Io: AsyncWrite + Unpin>(
    io: &mut Io,
    cx: &mut Context<'_>,
    bufs: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match bufs {
        [buf] => Pin::new(io).poll_write(cx, buf),
        bufs => Pin::new(io).poll_write_vectored(cx, bufs),
    }
}

/// A socket with a [`Hook`] on its reads and writes.
///
/// The socket is dropped before the hook: what the hook guards (a permit) is free only once the
/// descriptor is.
///
/// ```
/// use tower_connection::{Hook, Hooked, Socket};
///
/// /// Lives as long as the socket, and does nothing else.
/// struct Permit;
/// impl<Io: Socket> Hook<Io> for Permit {}
///
/// let (_client, server) = tokio::io::duplex(64);
/// let io = Hooked::new(server, Permit);
/// let (_socket, _permit) = io.into_parts();
/// ```
pub struct Hooked<Io, H> {
    // A tuple, of which the first is dropped first; `None` once it was taken apart.
    parts: Option<(Io, H)>,
    // Known when it is made, as a destructor has no bounds of its own.
    before_close: fn(&mut H, &Io),
}

impl<Io, H> Hooked<Io, H> {
    /// Puts `hook` on `io`.
    pub fn new(io: Io, hook: H) -> Self
    where
        Io: Socket,
        H: Hook<Io>,
    {
        Self {
            parts: Some((io, hook)),
            before_close: H::before_close,
        }
    }

    /// The socket.
    pub fn io(&self) -> &Io {
        &self.parts().0
    }

    /// The hook.
    pub fn hook(&self) -> &H {
        &self.parts().1
    }

    /// The socket and the hook.
    #[expect(
        clippy::missing_panics_doc,
        reason = "they are there until this takes them"
    )]
    pub fn into_parts(mut self) -> (Io, H) {
        self.parts.take().expect("it is taken apart once")
    }

    fn parts(&self) -> &(Io, H) {
        self.parts.as_ref().expect("taking it apart consumes it")
    }

    fn parts_mut(&mut self) -> &mut (Io, H) {
        self.parts.as_mut().expect("taking it apart consumes it")
    }
}

impl<Io, H> Drop for Hooked<Io, H> {
    fn drop(&mut self) {
        if let Some((io, hook)) = &mut self.parts {
            (self.before_close)(hook, io);
        }
    }
}

impl<Io: fmt::Debug, H: fmt::Debug> fmt::Debug for Hooked<Io, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked")
            .field("io", self.io())
            .field("hook", self.hook())
            .finish()
    }
}

impl<Io: Socket, H: Hook<Io>> Socket for Hooked<Io, H> {
    fn peer(&self) -> Address {
        self.io().peer()
    }

    fn local(&self) -> Address {
        self.io().local()
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.io().reset_on_close()
    }

    fn set_nodelay(&self) -> io::Result<()> {
        self.io().set_nodelay()
    }

    fn unacked(&self) -> io::Result<usize> {
        self.io().unacked()
    }

    fn has_unread(&self) -> bool {
        self.io().has_unread()
    }

    fn has_hung_up(&self) -> bool {
        self.io().has_hung_up()
    }

    fn set_unsent_limit(&self, bytes: u32) -> io::Result<()> {
        self.io().set_unsent_limit(bytes)
    }

    fn streams(&self) -> Option<&Streams> {
        let (io, hook) = self.parts();
        hook.streams().or_else(|| io.streams())
    }

    fn into_innermost(self: Box<Self>, held: &mut Held) -> Box<dyn Any + Send> {
        let (io, hook) = self.into_parts();
        held.push(hook);
        Box::new(io).into_innermost(held)
    }
}

impl<Io: Socket, H: Hook<Io>> AsyncRead for Hooked<Io, H> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (io, hook) = self.get_mut().parts_mut();
        hook.poll_read(io, cx, buf)
    }
}

impl<Io: Socket, H: Hook<Io>> AsyncWrite for Hooked<Io, H> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (io, hook) = self.get_mut().parts_mut();
        hook.poll_flush(io, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (io, hook) = self.get_mut().parts_mut();
        hook.poll_shutdown(io, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (io, hook) = self.get_mut().parts_mut();
        hook.poll_write(io, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io().is_write_vectored()
    }
}

/// Any stream over a socket: gives it the [`Socket`] of what lies below.
///
/// For a TLS stream or a compressor: reads and writes go through the stream, the address and the reset go
/// to the socket beneath it. (What changes the address, as a PROXY protocol reader does, implements
/// [`Socket`] itself.)
///
/// # Examples
///
/// ```
/// use tokio::{io::BufStream, net::TcpStream};
/// use tower_connection::{Over, Socket};
///
/// fn buffered(socket: TcpStream) -> impl Socket {
///     Over::new(BufStream::new(socket), |stream| stream.get_ref())
/// }
/// ```
pub struct Over<Io> {
    io: Io,
    beneath: fn(&Io) -> &dyn Socket,
}

impl<Io> Over<Io> {
    /// Wraps `io`; `beneath` finds the socket below it.
    pub fn new(io: Io, beneath: fn(&Io) -> &dyn Socket) -> Self {
        Self { io, beneath }
    }

    /// The stream.
    pub fn get_ref(&self) -> &Io {
        &self.io
    }

    /// The stream, without its wrapper.
    pub fn into_inner(self) -> Io {
        self.io
    }

    fn socket(&self) -> &dyn Socket {
        (self.beneath)(&self.io)
    }
}

impl<Io: fmt::Debug> fmt::Debug for Over<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Over").field(&self.io).finish()
    }
}

impl<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for Over<Io> {
    fn peer(&self) -> Address {
        self.socket().peer()
    }

    fn local(&self) -> Address {
        self.socket().local()
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.socket().reset_on_close()
    }

    fn set_nodelay(&self) -> io::Result<()> {
        self.socket().set_nodelay()
    }

    fn unacked(&self) -> io::Result<usize> {
        self.socket().unacked()
    }

    fn has_unread(&self) -> bool {
        self.socket().has_unread()
    }

    fn has_hung_up(&self) -> bool {
        self.socket().has_hung_up()
    }

    fn set_unsent_limit(&self, bytes: u32) -> io::Result<()> {
        self.socket().set_unsent_limit(bytes)
    }

    // The way back ends at the stream: below it are records that only the stream can read.
    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        Box::new(self.io)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Over<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Over<Io> {
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

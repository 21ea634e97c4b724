use std::{
    any::Any,
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf, Ready},
    net::TcpStream,
};

use crate::Streams;

/// What the layers ask of a socket beyond reading and writing.
///
/// It is implemented for the sockets of tokio, for [`BoxIo`], and for every wrapper of this project.
/// A stream of your own gets it from [`Over`](crate::Over) (another TLS library), or implements it (a
/// PROXY protocol reader): only [`into_innermost`](Socket::into_innermost) has no default.
///
/// A default says "this socket cannot": an unknown address, a reset that is refused.
///
/// # Examples
///
/// ```
/// use tower_connection::{Address, Socket};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
/// let (socket, peer) = listener.accept().await?;
///
/// assert_eq!(socket.peer(), Address::Ip(peer));
/// socket.reset_on_close()?; // closing it now sends RST, not FIN
/// # drop(client);
/// # Ok(())
/// # }
/// ```
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The address of the other side.
    fn peer(&self) -> Address {
        Address::Unknown
    }

    /// The address on this side.
    fn local(&self) -> Address {
        Address::Unknown
    }

    /// From now on, closing this socket resets the connection: the kernel drops what it still holds
    /// for the peer, and the peer reads an error, never an end that looks complete.
    ///
    /// For TCP this is `SO_LINGER` with a time of zero. A TLS stream passes it to the TCP socket
    /// below, so that no `close_notify` makes a truncated answer look whole.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) where there is no reset (pipes, Unix sockets):
    /// closing then ends the stream as usual.
    fn reset_on_close(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sends small writes at once (`TCP_NODELAY`). Does nothing where there is nothing to set.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` returned; the peer may already be gone.
    fn set_nodelay(&self) -> io::Result<()> {
        Ok(())
    }

    /// How many bytes the peer has not taken yet, of those that were written to this socket: what the kernel
    /// still holds for it, sent or not. Zero once the connection is over.
    ///
    /// For TCP that is what was not acknowledged, to the byte (`SIOCOUTQ`), a FIN included. Of a TLS stream it
    /// is the queue of the TCP socket below, which knows nothing of what the stream itself has buffered.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) where nobody counts (pipes; all but Linux).
    fn unacked(&self) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether something has come that was not read yet: whether the kernel holds it, and not whether the runtime has
    /// heard of it already. Who closes a connection because it is idle must ask; a runtime that was stopped or busy is
    /// late.
    ///
    /// Of a TLS stream it is what the TCP socket below holds. False where nobody can be asked (pipes).
    ///
    /// ```
    /// # use tokio::io::AsyncWriteExt;
    /// # use tower_connection::Socket;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let mut client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
    /// let (socket, _) = listener.accept().await?;
    /// assert!(!socket.has_unread());
    /// client.write_all(b"GET").await?;
    /// assert!(socket.has_unread());
    /// # Ok(()) }
    /// ```
    fn has_unread(&self) -> bool {
        false
    }

    /// Whether the peer has said its last word (FIN), or reset the connection: also while bytes are unread that came before,
    /// behind which no read would find it. It is what the runtime has heard, and asks nobody.
    ///
    /// False where nobody can be asked (pipes).
    ///
    /// ```
    /// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// # use tower_connection::Socket;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let mut client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
    /// let (socket, _) = listener.accept().await?;
    /// client.write_all(b"GET").await?;
    /// socket.readable().await?;
    /// assert!(!socket.has_hung_up());
    /// drop(client);
    /// while !socket.has_hung_up() {
    ///     tokio::task::yield_now().await; // the runtime has yet to hear of it
    /// }
    /// # Ok(()) }
    /// ```
    fn has_hung_up(&self) -> bool {
        false
    }

    /// From now on, the kernel takes nothing more to send while so many bytes wait to be sent
    /// (`TCP_NOTSENT_LOWAT`): what a peer that does not read can make it hold. What is on its way does not count,
    /// so a fast line stays fast. Does nothing where there is nothing to set.
    ///
    /// # Errors
    ///
    /// What `setsockopt(2)` returned.
    fn set_unsent_limit(&self, _bytes: u32) -> io::Result<()> {
        Ok(())
    }

    /// The streams of HTTP/2 that go over this socket, if it is that of a [`Connection`](crate::Connection).
    fn streams(&self) -> Option<&Streams> {
        None
    }

    /// Takes the wrappers off: the innermost socket comes back, and what the wrappers held for as
    /// long as the socket lives (a permit, a registration) moves into `held`.
    ///
    /// A socket that wraps nothing returns `self`. Users call [`BoxIo::into_innermost`].
    fn into_innermost(self: Box<Self>, held: &mut Held) -> Box<dyn Any + Send>;
}

/// An address of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A Unix domain socket, with its path if it has one.
    Unix(Option<PathBuf>),
    /// The socket does not know: a pipe, or a peer that is already gone.
    #[default]
    Unknown,
}

impl Address {
    /// The IP address and port, if it is one.
    ///
    /// ```
    /// # use tower_connection::Address;
    /// assert_eq!(Address::Unknown.ip(), None);
    /// ```
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) | Address::Unknown => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            // Escaped: by a PROXY protocol it is what somebody says, and lines of a log are made of it.
            Address::Unix(Some(path)) => {
                write!(f, "unix:{}", path.to_string_lossy().escape_debug())
            }
            Address::Unix(None) => f.write_str("unix"),
            Address::Unknown => f.write_str("unknown"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Ip(address)
    }
}

/// What the wrappers of a socket held: permits, registrations. Dropping it gives them back.
///
/// ```
/// let mut held = tower_connection::Held::default();
/// held.push("a permit");
/// drop(held); // and the permit is free
/// ```
#[derive(Default)]
#[must_use = "dropping it gives back what the connection held"]
pub struct Held(Vec<Box<dyn Any + Send>>);

impl Held {
    /// Adds something that must live as long as the socket.
    pub fn push(&mut self, guard: impl Any + Send) {
        self.0.push(Box::new(guard));
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.len()).finish()
    }
}

// === impl Socket ===

impl Socket for TcpStream {
    fn peer(&self) -> Address {
        self.peer_addr().map_or(Address::Unknown, Address::Ip)
    }

    fn local(&self) -> Address {
        self.local_addr().map_or(Address::Unknown, Address::Ip)
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.set_zero_linger()
    }

    fn set_nodelay(&self) -> io::Result<()> {
        TcpStream::set_nodelay(self, true)
    }

    #[cfg(unix)]
    fn unacked(&self) -> io::Result<usize> {
        let held = unacked::bytes(self)?;
        // After a reset the kernel still counts what it has thrown away, and knows no peer any more.
        let over = held > 0 && self.peer_addr().is_err();
        Ok(if over { 0 } else { held })
    }

    #[cfg(unix)]
    fn has_unread(&self) -> bool {
        has_unread(socket2::SockRef::from(self))
    }

    fn has_hung_up(&self) -> bool {
        has_hung_up(self.ready(Interest::READABLE))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn set_unsent_limit(&self, bytes: u32) -> io::Result<()> {
        socket2::SockRef::from(self).set_tcp_notsent_lowat(bytes)
    }

    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        self
    }
}

#[cfg(unix)]
impl Socket for tokio::net::UnixStream {
    fn peer(&self) -> Address {
        unix(self.peer_addr())
    }

    fn local(&self) -> Address {
        unix(self.local_addr())
    }

    fn unacked(&self) -> io::Result<usize> {
        unacked::bytes(self)
    }

    fn has_unread(&self) -> bool {
        has_unread(socket2::SockRef::from(self))
    }

    fn has_hung_up(&self) -> bool {
        has_hung_up(self.ready(Interest::READABLE))
    }

    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        self
    }
}

impl Socket for DuplexStream {
    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        self
    }
}

#[cfg(unix)]
#[expect(clippy::needless_pass_by_value, reason = "it is a reference")]
fn has_unread(socket: socket2::SockRef<'_>) -> bool {
    // The socket does not block, and an end of stream is nothing to read.
    let peeked = socket.peek(&mut [std::mem::MaybeUninit::uninit()]);
    peeked.is_ok_and(|bytes| bytes > 0)
}

fn has_hung_up(ready: impl Future<Output = io::Result<Ready>>) -> bool {
    // What was ready before is told at once.
    let ready = pin!(ready).poll(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

#[cfg(unix)]
fn unix(address: io::Result<tokio::net::unix::SocketAddr>) -> Address {
    address.map_or(Address::Unknown, |address| {
        Address::Unix(address.as_pathname().map(Into::into))
    })
}

/// A socket whose type has been forgotten, so that it can be named.
///
/// Every layer changes the type of the socket, and `Upgraded::downcast` needs the exact one. Both
/// adapters hand a `BoxIo` to hyper, so after an upgrade there is one type to ask for, whatever the
/// stack was made of, and [`into_innermost`](BoxIo::into_innermost) leads back to the accepted socket.
///
/// # Examples
///
/// ```
/// use tokio::io::DuplexStream;
/// use tower_connection::BoxIo;
///
/// let (_client, server) = tokio::io::duplex(64);
/// let io = BoxIo::new(server);
///
/// let (socket, held) = io.into_innermost::<DuplexStream>().expect("a pipe went in");
/// # drop(socket);
/// drop(held); // permits of the connection: keep them as long as the socket
/// ```
pub struct BoxIo(Box<dyn Socket>);

impl BoxIo {
    /// Forgets the type of `io`.
    #[must_use]
    pub fn new(io: impl Socket) -> Self {
        Self(Box::new(io))
    }

    /// Takes off all wrappers and returns the accepted socket if it is a `T`, together with what the
    /// wrappers held.
    ///
    /// Bytes that a wrapper read ahead are lost; none of ours reads ahead. The wrappers act no more: a
    /// [`ConnectionHandle`](crate::ConnectionHandle) no longer reaches the socket, and no timeout does.
    ///
    /// # Errors
    ///
    /// The innermost socket as it is, if it is not a `T`.
    pub fn into_innermost<T: 'static>(self) -> Result<(T, Held), (Box<dyn Any + Send>, Held)> {
        let mut held = Held::default();
        match self.0.into_innermost(&mut held).downcast::<T>() {
            Ok(socket) => Ok((*socket, held)),
            Err(other) => Err((other, held)),
        }
    }
}

impl fmt::Debug for BoxIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxIo").finish_non_exhaustive()
    }
}

impl Socket for BoxIo {
    fn peer(&self) -> Address {
        self.0.peer()
    }

    fn local(&self) -> Address {
        self.0.local()
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.0.reset_on_close()
    }

    fn set_nodelay(&self) -> io::Result<()> {
        self.0.set_nodelay()
    }

    fn unacked(&self) -> io::Result<usize> {
        self.0.unacked()
    }

    fn has_unread(&self) -> bool {
        self.0.has_unread()
    }

    fn has_hung_up(&self) -> bool {
        self.0.has_hung_up()
    }

    fn set_unsent_limit(&self, bytes: u32) -> io::Result<()> {
        self.0.set_unsent_limit(bytes)
    }

    fn streams(&self) -> Option<&Streams> {
        self.0.streams()
    }

    fn into_innermost(self: Box<Self>, held: &mut Held) -> Box<dyn Any + Send> {
        self.0.into_innermost(held)
    }
}

impl AsyncRead for BoxIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

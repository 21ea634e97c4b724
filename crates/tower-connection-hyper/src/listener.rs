use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::unconstrained,
};
use tower_connection::{Address, Backlog, BoxIo, Socket};

/// Where sockets come from.
///
/// It is implemented for tokio's TCP and Unix listeners, for a `Vec` of listeners of one kind, and for
/// [`BoxListener`], which makes listeners of several kinds one kind. A listener that the process
/// inherited (systemd, a parent) is tokio's `from_std` of what the `listenfd` crate returns.
///
/// # Examples
///
/// ```no_run
/// use tokio::net::{TcpListener, UnixListener};
/// use tower_connection_hyper::{Accept, BoxListener, serve};
///
/// # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
/// #     Ok(http::Response::new("hello".into()))
/// # }
/// # async fn run() -> std::io::Result<()> {
/// let listeners = vec![
///     BoxListener::new(TcpListener::bind("127.0.0.1:3000").await?),
///     BoxListener::new(UnixListener::bind("/run/hello.sock")?),
/// ];
/// serve(listeners, Accept::new(tower::service_fn(hello))).await
/// # }
/// ```
pub trait Listener: Send + 'static {
    /// The sockets it accepts.
    type Io: Socket;

    /// Accepts a socket.
    ///
    /// # Errors
    ///
    /// What `accept(2)` returned. [`serve`](crate::serve) goes on at once after an error that concerns
    /// one client, and backs off after any other.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Io>>;

    /// Takes a client out of the backlog, without waiting for one. Asked when nobody else shall come: after `None`
    /// the listener is dropped.
    ///
    /// # Errors
    ///
    /// Somebody may wait, and cannot be accepted at present (out of descriptors): [`serve`](crate::serve) asks again,
    /// for as long as its acceptor allows.
    ///
    /// For TCP and Unix sockets it is what a [`Backlog`] yields. By default, what [`poll_accept`](Self::poll_accept) has at once.
    fn take_waiting(&mut self) -> io::Result<Option<Self::Io>> {
        // Or tokio says that there is nobody when the task has accepted 128 in this turn.
        let accepted = unconstrained(poll_fn(|cx| self.poll_accept(cx)));
        match pin!(accepted).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(accepted) => accepted.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// Where it listens.
    fn local(&self) -> Address {
        Address::Unknown
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let (socket, _) = ready!(TcpListener::poll_accept(self, cx))?;
        Poll::Ready(Ok(socket))
    }

    fn take_waiting(&mut self) -> io::Result<Option<TcpStream>> {
        Backlog::of(self).try_next()
    }

    fn local(&self) -> Address {
        self.local_addr().map_or(Address::Unknown, Address::Ip)
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Io>> {
        let (socket, _) = ready!(tokio::net::UnixListener::poll_accept(self, cx))?;
        Poll::Ready(Ok(socket))
    }

    fn take_waiting(&mut self) -> io::Result<Option<Self::Io>> {
        Backlog::of(self).try_next()
    }

    fn local(&self) -> Address {
        self.local_addr().map_or(Address::Unknown, |address| {
            Address::Unix(address.as_pathname().map(Into::into))
        })
    }
}

/// Several listeners: the one that was served last is asked last, so that a busy one starves nobody. An
/// error of one (out of descriptors) pauses them all.
impl<L: Listener> Listener for Vec<L> {
    type Io = L::Io;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<L::Io>> {
        for at in 0..self.len() {
            if let Poll::Ready(accepted) = self[at].poll_accept(cx) {
                self[at..].rotate_left(1);
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    fn take_waiting(&mut self) -> io::Result<Option<L::Io>> {
        let mut nobody = Ok(None);
        for listener in self {
            match listener.take_waiting() {
                Ok(None) => {}
                Ok(taken) => return Ok(taken),
                Err(error) => nobody = Err(error),
            }
        }
        nobody
    }
}

/// A listener whose type has been forgotten, so that listeners of several kinds fit one `Vec`.
///
/// ```
/// use tower_connection_hyper::{BoxListener, Listener};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// assert!(BoxListener::new(listener).local().ip().is_some());
/// # Ok(()) }
/// ```
pub struct BoxListener(Box<dyn Listener<Io = BoxIo>>);

impl BoxListener {
    /// Forgets the type of `listener`.
    #[must_use]
    pub fn new(listener: impl Listener) -> Self {
        Self(Box::new(Boxed(listener)))
    }
}

impl Listener for BoxListener {
    type Io = BoxIo;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<BoxIo>> {
        self.0.poll_accept(cx)
    }

    fn take_waiting(&mut self) -> io::Result<Option<BoxIo>> {
        self.0.take_waiting()
    }

    fn local(&self) -> Address {
        self.0.local()
    }
}

impl fmt::Debug for BoxListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxListener").field(&self.local()).finish()
    }
}

struct Boxed<L>(L);

impl<L: Listener> Listener for Boxed<L> {
    type Io = BoxIo;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<BoxIo>> {
        self.0.poll_accept(cx).map_ok(BoxIo::new)
    }

    fn take_waiting(&mut self) -> io::Result<Option<BoxIo>> {
        Ok(self.0.take_waiting()?.map(BoxIo::new))
    }

    fn local(&self) -> Address {
        self.0.local()
    }
}

use std::{
    any::Any,
    collections::VecDeque,
    error::Error,
    fmt,
    future::{self, Future, poll_fn},
    io,
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinSet, unconstrained},
    time::{Instant, sleep},
};
use tower_connection::{Backlog, BoxIo, Closed, Connection, Hook, Hooked, Socket};
use tower_service::Service;
use tracing::debug;

type BoxError = Box<dyn Error + Send + Sync>;

/// Out of descriptors at the end, how soon to look at the backlog again.
const AGAIN: Duration = Duration::from_millis(10);

/// For how long the backlog is looked at once nobody of it can be served any more: what is reset then gives its
/// descriptors back, and the acceptor should know of everybody.
const LAST: Duration = Duration::from_millis(100);

/// An axum listener that accepts through an acceptor.
///
/// It wraps any axum listener whose sockets are a [`Socket`]. The acceptor's readiness is awaited
/// *inside* `accept`, before the listener is asked: there a graceful shutdown of `axum::serve` can
/// interrupt it (a make-service that is not ready would hold the shutdown for ever). Connections in the
/// making (TLS handshakes) run side by side, each in a task; the readiness of the acceptor bounds their
/// number. `TCP_NODELAY` is set on accepted TCP sockets.
///
/// When the acceptor is [`Closed`] (by a drain in its layers), the listener is closed, after who waits in its backlog
/// was accepted (out of descriptors, as some come free, if it is one of tokio's own). `axum::serve` goes on with what is
/// open, and never learns of it.
///
/// Give it to `axum::serve` together with [`FromAcceptor`](crate::FromAcceptor).
///
/// # Panics
///
/// If the acceptor fails (otherwise than being [`Closed`]) while it becomes ready: `axum::serve` has no way to end with an error.
///
/// # Examples
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use tower_connection_axum::{Accepting, FromAcceptor, accept};
///
/// # async fn run() -> std::io::Result<()> {
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
///
/// axum::serve(Accepting::new(listener, accept(app)), FromAcceptor).await
/// # }
/// ```
pub struct Accepting<L, A>
where
    L: Listener,
{
    // None once the acceptor has ended it, and nobody waits.
    listener: Option<L>,
    // The acceptor has ended it.
    closed: bool,
    // Who was in its backlog then.
    waiting: VecDeque<(L::Io, L::Addr)>,
    // None once it has nobody to take any more.
    acceptor: Option<A>,
    // Connections in the making that did not finish at once.
    making: JoinSet<Option<(Io, L::Addr)>>,
}

impl<L: Listener, A> Accepting<L, A> {
    /// Accepts from `listener` through `acceptor`.
    pub fn new(listener: L, acceptor: A) -> Self {
        Self {
            listener: Some(listener),
            closed: false,
            waiting: VecDeque::new(),
            acceptor: Some(acceptor),
            making: JoinSet::new(),
        }
    }
}

impl<L, A> fmt::Debug for Accepting<L, A>
where
    L: Listener + fmt::Debug,
    A: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepting")
            .field("listener", &self.listener)
            .field("closed", &self.closed)
            .field("acceptor", &self.acceptor)
            .field("waiting", &self.waiting.len())
            .field("making", &self.making.len())
            .finish()
    }
}

impl<L, A, I, S> Listener for Accepting<L, A>
where
    L: Listener,
    L::Io: Socket,
    L::Addr: 'static,
    A: Service<L::Io, Response = Connection<I, S>> + Send + 'static,
    A::Error: Into<BoxError>,
    A::Future: Send + 'static,
    I: Socket,
    S: Send + 'static,
{
    type Io = Io;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Io, L::Addr) {
        let Self {
            listener,
            closed,
            waiting,
            acceptor,
            making,
        } = self;
        loop {
            // Cancelling this between two turns loses nothing: a socket that was accepted is in
            // `making`, or in `waiting`, or on its way out.
            let (io, address) = tokio::select! {
                Some(made) = making.join_next() => match made {
                    Ok(Some(made)) => return made,
                    Ok(None) | Err(_) => continue,
                },
                accepted = next(listener, closed, waiting, acceptor) => accepted,
            };
            let acceptor = acceptor.as_mut().expect("it was ready for this one");
            // The peer may be gone already, which hyper will find out.
            let _ = io.set_nodelay();

            let mut connection = Box::pin(acceptor.call(io));
            // Without a handshake it is ready at once, and a task would be a waste.
            match poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await {
                Poll::Ready(made) => {
                    if let Some(io) = finish(made) {
                        return (io, address);
                    }
                }
                Poll::Pending => {
                    making.spawn(async move { Some((finish(connection.await)?, address)) });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        match &self.listener {
            Some(listener) => listener.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// The next socket for an acceptor that is ready for it, for as long as there are any.
async fn next<L, A>(
    listener: &mut Option<L>,
    closed: &mut bool,
    waiting: &mut VecDeque<(L::Io, L::Addr)>,
    acceptor: &mut Option<A>,
) -> (L::Io, L::Addr)
where
    L: Listener,
    L::Io: Socket,
    L::Addr: 'static,
    A: Service<L::Io>,
    A::Error: Into<BoxError>,
{
    if let (false, Some(listening), Some(acceptor)) = (*closed, &mut *listener, &mut *acceptor) {
        let mut accepted = pin!(listening.accept());
        // The listener is polled right after the acceptor said yes, in the same turn: while it is not ready
        // (any more), nobody is accepted.
        let accepted = poll_fn(|cx| {
            if ready!(poll_closed(acceptor, cx)) {
                return Poll::Ready(None);
            }
            accepted.as_mut().poll(cx).map(Some)
        });
        if let Some(accepted) = accepted.await {
            return accepted;
        }
    }
    *closed = true;
    // Who waits in the backlog would be reset, with the request already sent.
    let mut last = None;
    while let Some(acceptor) = &mut *acceptor {
        if let (true, Some(listening)) = (waiting.is_empty(), &mut *listener) {
            // No await from here to the end of the listener, so that nobody comes in between.
            if take_waiting(listening, waiting) {
                *listener = None;
            }
        }
        if waiting.is_empty() {
            if listener.is_none() {
                break;
            }
            sleep(AGAIN).await;
        }
        let closed = poll_fn(|cx| poll_closed(acceptor, cx)).await;
        // Closed once more, it takes them nevertheless.
        if let Some(accepted) = waiting.pop_front() {
            return accepted;
        }
        if closed && *last.get_or_insert(Instant::now() + LAST) <= Instant::now() {
            break;
        }
    }
    *listener = None;
    *acceptor = None;
    future::pending().await
}

/// Whether an acceptor that has something to say is closed, or ready.
fn poll_closed<A, Io>(acceptor: &mut A, cx: &mut Context<'_>) -> Poll<bool>
where
    A: Service<Io>,
    A::Error: Into<BoxError>,
{
    Closed::poll(acceptor, cx).map(|closed| match closed {
        Ok(closed) => closed,
        Err(error) => panic!("the acceptor failed: {error}"),
    })
}

/// Takes who waits in the backlog of `listener`, and returns whether that is everybody: without descriptors it is not.
/// It may be of any kind, but tokio's own can tell more. (Others sleep for a second then, as if there was nobody.)
fn take_waiting<L>(listener: &mut L, waiting: &mut VecDeque<(L::Io, L::Addr)>) -> bool
where
    L: Listener,
    L::Io: Socket,
    L::Addr: 'static,
{
    if let Some(listener) = (listener as &dyn Any).downcast_ref::<TcpListener>() {
        let mut backlog = Backlog::of(listener);
        return take_all(|| backlog.try_next(), TcpStream::peer_addr, waiting);
    }
    #[cfg(unix)]
    if let Some(listener) = (listener as &dyn Any).downcast_ref::<tokio::net::UnixListener>() {
        let mut backlog = Backlog::of(listener);
        let address = tokio::net::UnixStream::peer_addr;
        return take_all(|| backlog.try_next(), address, waiting);
    }
    let mut cx = Context::from_waker(Waker::noop());
    while waiting.len() < usize::from(u16::MAX) {
        // Or tokio says that there is nobody when the task has accepted 128 in this turn.
        match pin!(unconstrained(listener.accept())).poll(&mut cx) {
            Poll::Ready(accepted) => waiting.push_back(accepted),
            Poll::Pending => break,
        }
    }
    true
}

fn take_all<Io: 'static, Addr: 'static, Accepted: 'static>(
    mut next: impl FnMut() -> io::Result<Option<Io>>,
    address: impl Fn(&Io) -> io::Result<Addr>,
    waiting: &mut VecDeque<Accepted>,
) -> bool {
    loop {
        match next() {
            Ok(Some(socket)) => {
                // None is left of a client that is gone.
                let Ok(address) = address(&socket) else {
                    continue;
                };
                let accepted: Box<dyn Any> = Box::new((socket, address));
                waiting.extend(accepted.downcast().ok().map(|accepted| *accepted));
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn finish<I, S, E>(made: Result<Connection<I, S>, E>) -> Option<Io>
where
    I: Socket,
    S: Send + 'static,
    E: Into<BoxError>,
{
    match made {
        Ok(connection) => {
            let (io, service) = connection.into_parts();
            let waiting = Waiting(Mutex::new(Some(Box::new(service))));
            Some(Hooked::new(BoxIo::new(io), waiting))
        }
        Err(error) => {
            let error: BoxError = error.into();
            debug!(error, "no connection was made");
            None
        }
    }
}

/// The socket that axum serves, whatever the layers are.
///
/// After an upgrade, hyper-util's `auto::upgrade::downcast::<TokioIo<Io>>` returns it. Its
/// [`into_parts`](Hooked::into_parts) gives the [`BoxIo`], which leads back to the accepted socket.
pub type Io = Hooked<BoxIo, Waiting>;

/// The hook of an [`Io`]: the service that will answer on it, until axum takes it.
///
/// axum 0.8 shows a make-service only `&io`, so the service travels with the socket.
pub struct Waiting(Mutex<Option<Box<dyn Any + Send>>>);

impl Hook<BoxIo> for Waiting {}

impl Waiting {
    pub(crate) fn take<S: 'static>(&self) -> S {
        let service = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        *service
            .expect("a connection is served once")
            .downcast()
            .expect("the acceptor made it")
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

use std::{
    any::Any,
    error::Error,
    fmt,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Poll, ready},
};

use axum::serve::Listener;
use tokio::task::JoinSet;
use tower_connection::{BoxIo, Connection, Hook, Hooked, Socket};
use tower_service::Service;
use tracing::debug;

type BoxError = Box<dyn Error + Send + Sync>;

/// An axum listener that accepts through an acceptor.
///
/// It wraps any axum listener whose sockets are a [`Socket`]. The acceptor's readiness is awaited
/// *inside* `accept`, before the listener is asked: there a graceful shutdown of `axum::serve` can
/// interrupt it (a make-service that is not ready would hold the shutdown for ever). Connections in the
/// making (TLS handshakes) run side by side, each in a task; the readiness of the acceptor bounds their
/// number. `TCP_NODELAY` is set on accepted TCP sockets.
///
/// Give it to `axum::serve` together with [`FromAcceptor`](crate::FromAcceptor).
///
/// # Panics
///
/// If the acceptor fails while it becomes ready: `axum::serve` has no way to end with an error.
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
    listener: L,
    acceptor: A,
    // Connections in the making that did not finish at once.
    making: JoinSet<Option<(Io, L::Addr)>>,
}

impl<L: Listener, A> Accepting<L, A> {
    /// Accepts from `listener` through `acceptor`.
    pub fn new(listener: L, acceptor: A) -> Self {
        Self {
            listener,
            acceptor,
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
            .field("acceptor", &self.acceptor)
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
            acceptor,
            making,
        } = self;
        loop {
            // Cancelling this between two turns loses nothing: a socket that was accepted is in
            // `making` or on its way out.
            let (io, address) = tokio::select! {
                Some(made) = making.join_next() => match made {
                    Ok(Some(made)) => return made,
                    Ok(None) | Err(_) => continue,
                },
                accepted = async {
                    let mut accepted = pin!(listener.accept());
                    // The listener is polled right after the acceptor said yes, in the same turn: while
                    // it is not ready (any more), nobody is accepted.
                    poll_fn(|cx| {
                        if let Err(error) = ready!(acceptor.poll_ready(cx)) {
                            let error: BoxError = error.into();
                            panic!("the acceptor failed: {error}");
                        }
                        accepted.as_mut().poll(cx)
                    })
                    .await
                } => accepted,
            };
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
        self.listener.local_addr()
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

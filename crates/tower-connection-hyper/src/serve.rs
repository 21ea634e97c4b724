use std::{
    error::Error,
    fmt,
    future::{Future, IntoFuture, Pending, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
};

use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use tokio::{sync::watch, time::Instant};
use tower_connection::{Connection, Connections, Socket};
use tower_service::Service;
use tracing::{debug, warn};

use crate::{Builder, Listener, backoff::Backoff, drive};

type BoxError = Box<dyn Error + Send + Sync>;

/// Accepts from `listener`, makes connections with `acceptor`, and serves each in a task of its own.
///
/// The acceptor's readiness is polled *before* `accept(2)`: while it is not ready, clients wait in the
/// kernel's backlog. Slow acceptors (TLS handshakes) run side by side. `TCP_NODELAY` is set on accepted
/// TCP sockets. Accept errors about one client are skipped; others (out of descriptors, out of memory)
/// are logged and retried after a pause of 5 ms, doubling to 1 s.
///
/// Without [`with_builder`](Serve::with_builder), HTTP/1 and HTTP/2 are told apart by the first bytes,
/// with hyper's default settings, a timer for its timeouts, and extended CONNECT for WebSockets over
/// HTTP/2.
///
/// # Examples
///
/// ```no_run
/// use tower_connection_hyper::{Accept, serve};
///
/// # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
/// #     Ok(http::Response::new("hello".into()))
/// # }
/// # async fn run() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
/// let shutdown = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
///
/// serve(listener, Accept::new(tower::service_fn(hello)))
///     .with_graceful_shutdown(shutdown)
///     .await
/// # }
/// ```
///
/// # Errors
///
/// The error of an acceptor that will not become ready any more. Nothing else ends it.
///
/// # Cancel safety
///
/// Dropping the future closes the listener. Connections that were accepted go on in their tasks.
pub fn serve<L, A>(listener: L, acceptor: A) -> Serve<L, A> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol();
    Serve {
        listener,
        acceptor,
        builder,
        signal: pending(),
    }
}

/// A server, not yet running; see [`serve`]. Await it.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, A, P = auto::Builder<TokioExecutor>, F = Pending<()>> {
    listener: L,
    acceptor: A,
    builder: P,
    signal: F,
}

impl<L, A, P, F> Serve<L, A, P, F> {
    /// Serves with hyper's `http1::Builder`, `http2::Builder` or hyper-util's `auto::Builder`, and what
    /// you have set on it.
    ///
    /// Set a timer on it (`TokioTimer`), or hyper's own timeouts do nothing.
    pub fn with_builder<P2>(self, builder: P2) -> Serve<L, A, P2, F> {
        Serve {
            listener: self.listener,
            acceptor: self.acceptor,
            builder,
            signal: self.signal,
        }
    }

    /// When `signal` ends: closes the listener, closes each connection after its current work, and ends
    /// when the last one has. Upgraded connections are not waited for.
    ///
    /// There is no deadline: a client that never finishes its request, or its TLS handshake if that has no
    /// timeout, holds it for ever.
    pub fn with_graceful_shutdown<F2>(self, signal: F2) -> Serve<L, A, P, F2>
    where
        F2: Future<Output = ()>,
    {
        Serve {
            listener: self.listener,
            acceptor: self.acceptor,
            builder: self.builder,
            signal,
        }
    }
}

impl<L, A, P, F> fmt::Debug for Serve<L, A, P, F>
where
    L: fmt::Debug,
    A: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listener", &self.listener)
            .field("acceptor", &self.acceptor)
            .finish_non_exhaustive()
    }
}

impl<L, A, P, F, I, S> IntoFuture for Serve<L, A, P, F>
where
    L: Listener,
    A: Service<L::Io, Response = Connection<I, S>> + Send + 'static,
    A::Error: Into<BoxError>,
    A::Future: Send + 'static,
    I: Socket,
    S: Send + 'static,
    P: Builder<S> + Send + Sync + 'static,
    P::Connection: Send,
    F: Future<Output = ()> + Send + 'static,
{
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<L, A, P, F, I, S> Serve<L, A, P, F>
where
    L: Listener,
    A: Service<L::Io, Response = Connection<I, S>>,
    A::Error: Into<BoxError>,
    A::Future: Send + 'static,
    I: Socket,
    S: Send + 'static,
    P: Builder<S> + Send + Sync + 'static,
    P::Connection: Send,
    F: Future<Output = ()>,
{
    async fn run(self) -> io::Result<()> {
        let Self {
            mut listener,
            mut acceptor,
            builder,
            signal,
        } = self;
        let builder = Arc::new(builder);
        let mut signal = pin!(signal);
        let mut backoff = Backoff::default();
        let connections = Connections::default();
        // Each task keeps a receiver: the channel is closed when the last task has ended.
        let (tasks, task) = watch::channel(());

        // The listener is polled right after the acceptor said yes, in the same turn: while it is not
        // ready (any more), nobody is accepted.
        while let Some(accepted) = poll_fn(|cx| {
            if signal.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            ready!(backoff.poll(cx));
            ready!(acceptor.poll_ready(cx)).map_err(|error| io::Error::other(error.into()))?;
            listener
                .poll_accept(cx)
                .map(|accepted| Ok::<_, io::Error>(Some(accepted)))
        })
        .await?
        {
            let io = match accepted {
                Ok(io) => io,
                Err(error) => {
                    if let Some(pause) = backoff.on(&error, Instant::now()) {
                        warn!(%error, ?pause, "accept failed");
                    }
                    continue;
                }
            };
            backoff.reset();
            // The peer may be gone already, which hyper will find out.
            let _ = io.set_nodelay();

            let connection = acceptor.call(io);
            let connections = connections.clone();
            let builder = Arc::clone(&builder);
            let task = task.clone();
            tokio::spawn(async move {
                let _task = task;
                let connection = match connection.await {
                    Ok(connection) => connection,
                    Err(error) => {
                        let error: BoxError = error.into();
                        return debug!(error, "no connection was made");
                    }
                };
                let _registered = connections.insert(connection.handle().clone());
                let served = drive(connection, &*builder);
                drop(builder); // an idle connection holds nothing that it does not need
                if let Err(error) = served.await {
                    let error: BoxError = error.into();
                    debug!(error, "connection failed");
                }
            });
        }

        drop(listener);
        drop(acceptor);
        drop(task);
        connections.close();
        tasks.closed().await;
        Ok(())
    }
}

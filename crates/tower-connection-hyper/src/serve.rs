use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    future::{Future, IntoFuture, Pending, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tower_connection::{Closed, Connection, Connections, Socket};
use tower_service::Service;
use tracing::{debug, warn};

use crate::{
    Builder, Listener,
    backoff::{Backoff, concerns_one_client},
    drive,
};

type BoxError = Box<dyn Error + Send + Sync>;

/// Out of descriptors at the end, how soon to look at the backlog again.
const AGAIN: Duration = Duration::from_millis(10);

/// For how long the backlog is looked at once nobody of it can be served any more: what is reset then gives its
/// descriptors back, and the acceptor should know of everybody.
const LAST: Duration = Duration::from_millis(100);

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
/// It ends when [`with_graceful_shutdown`](Serve::with_graceful_shutdown) says so, or when the acceptor is
/// [`Closed`] (by a drain in its layers): then it closes the listener, after it has accepted who waits in the backlog
/// (out of descriptors, as some come free), and ends with the last connection.
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

    /// When `signal` ends: accepts who waits in the backlog (as far as the acceptor is ready), closes the listener,
    /// closes each connection after its current work, and ends when the last one has. Upgraded connections are not
    /// waited for.
    ///
    /// There is no deadline: a client that never finishes its request, or its TLS handshake if that has no
    /// timeout, holds it for ever. `tower-drain` has one, and much else.
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
        let mut signal = pin!(signal);
        let mut backoff = Backoff::default();
        let server = Server {
            builder: Arc::new(builder),
            connections: Connections::default(),
            // Closed when the last task has ended.
            tasks: watch::Sender::new(()),
        };

        let end = loop {
            // The listener is polled right after the acceptor said yes, in the same turn: while it is not
            // ready (any more), nobody is accepted.
            let turn = poll_fn(|cx| {
                if signal.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Turn::Ended(Ok(End::Told)));
                }
                // Asked in a pause too, as it may be closed.
                match ready!(Closed::poll(&mut acceptor, cx)) {
                    Ok(false) => {}
                    Ok(true) => return Poll::Ready(Turn::Ended(Ok(End::Closed))),
                    Err(error) => return Poll::Ready(Turn::Ended(Err(io::Error::other(error)))),
                }
                ready!(backoff.poll(cx));
                listener.poll_accept(cx).map(Turn::Accepted)
            });
            match turn.await {
                Turn::Accepted(Ok(io)) => {
                    backoff.reset();
                    server.spawn(io, &mut acceptor);
                }
                Turn::Accepted(Err(error)) => {
                    if let Some(pause) = backoff.on(&error, Instant::now()) {
                        warn!(%error, ?pause, "accept failed");
                    }
                }
                Turn::Ended(end) => break end?,
            }
        };

        // Who waits in the backlog would be reset, with the request already sent.
        let mut listener = Some(listener);
        let mut last = None;
        while let Some(open) = &mut listener {
            // No await from here to the end of the listener, so that nobody comes in between.
            let (waiting, all) = take_waiting(open);
            if all || end == End::Told {
                listener = None;
            }
            for io in waiting {
                let takes = poll_fn(|cx| match Closed::poll(&mut acceptor, cx) {
                    // Closed once more, it takes them nevertheless.
                    Poll::Ready(taken) => Poll::Ready(taken.is_ok()),
                    Poll::Pending if end == End::Told => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                });
                if !takes.await {
                    break;
                }
                server.spawn(io, &mut acceptor);
            }
            if listener.is_none() {
                break;
            }
            sleep(AGAIN).await;
            match poll_fn(|cx| Closed::poll(&mut acceptor, cx)).await {
                Ok(false) => {}
                Ok(true) if *last.get_or_insert(Instant::now() + LAST) > Instant::now() => {}
                Ok(true) | Err(_) => break,
            }
        }
        drop(listener);
        drop(acceptor);
        if end == End::Told {
            server.connections.close();
        }
        server.tasks.closed().await;
        Ok(())
    }
}

/// Who waits in the backlog, and whether that is everybody: without descriptors it is not.
fn take_waiting<L: Listener>(listener: &mut L) -> (VecDeque<L::Io>, bool) {
    let mut waiting = VecDeque::new();
    // More than a backlog holds.
    for _ in 0..u16::MAX {
        match listener.take_waiting() {
            Ok(Some(io)) => waiting.push_back(io),
            Ok(None) => break,
            Err(error) if concerns_one_client(&error) => {}
            Err(_) => return (waiting, false),
        }
    }
    (waiting, true)
}

enum Turn<Io> {
    Accepted(io::Result<Io>),
    Ended(io::Result<End>),
}

/// Why accepting has ended.
#[derive(PartialEq, Eq)]
enum End {
    /// By the signal of a graceful shutdown.
    Told,
    /// By the acceptor, whose layers see to the connections.
    Closed,
}

/// What its connections share.
struct Server<P> {
    builder: Arc<P>,
    connections: Connections,
    tasks: watch::Sender<()>,
}

impl<P> Server<P> {
    fn spawn<Io, A, I, S>(&self, io: Io, acceptor: &mut A)
    where
        Io: Socket,
        A: Service<Io, Response = Connection<I, S>>,
        A::Error: Into<BoxError>,
        A::Future: Send + 'static,
        I: Socket,
        S: Send + 'static,
        P: Builder<S> + Send + Sync + 'static,
        P::Connection: Send,
    {
        // The peer may be gone already, which hyper will find out.
        let _ = io.set_nodelay();

        let connection = acceptor.call(io);
        let connections = self.connections.clone();
        let builder = Arc::clone(&self.builder);
        let task = self.tasks.subscribe();
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
}

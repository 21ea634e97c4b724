use std::{
    convert::Infallible,
    error::Error,
    future::{self, Future},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
    serve::{IncomingStream, Listener},
};
use bytes::Bytes;
use tower_connection::{Accept, Connection, Socket};
use tower_service::Service;

use crate::Accepting;

type BoxError = Box<dyn Error + Send + Sync>;

/// The innermost acceptor over a `Router`: `Accept::new` for axum.
///
/// A `Router` applies its layers when it is given its state, and `axum::serve` gives it once for each
/// connection: a `ConcurrencyLimitLayer::new(1)` on it then lets one request through *per connection*.
/// (A plain `Accept::new(router)` would do it once for each request.) This gives it once, so the layers
/// of a router are applied once, and their state is shared by all connections.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use tower::ServiceBuilder;
/// use tower_connection_axum::accept;
///
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// let acceptor = ServiceBuilder::new().service(accept(app));
/// # let _ = acceptor;
/// ```
#[must_use]
pub fn accept(router: Router) -> Accept<Router> {
    Accept::new(router.with_state(()))
}

/// The make-service that goes with [`Accepting`]: it takes the service that the acceptor made.
///
/// `ConnectInfo<SocketAddr>` works in handlers, with the address that the acceptor saw: behind a PROXY
/// protocol layer that is the client's, not the balancer's. (axum's own
/// `into_make_service_with_connect_info` cannot see through a listener that is not its own.) On a Unix
/// socket there is no such address, and no `ConnectInfo`.
///
/// # Examples
///
/// ```no_run
/// use std::net::SocketAddr;
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use tower_connection_axum::{Accepting, FromAcceptor, accept};
///
/// # async fn run() -> std::io::Result<()> {
/// let app = Router::new().route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
///     format!("hello {peer}")
/// }));
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
///
/// axum::serve(Accepting::new(listener, accept(app)), FromAcceptor)
///     .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
///     .await
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct FromAcceptor;

impl<L, A, I, S> Service<IncomingStream<'_, Accepting<L, A>>> for FromAcceptor
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
    type Response = AxumService<S>;
    type Error = Infallible;
    type Future = future::Ready<Result<AxumService<S>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, stream: IncomingStream<'_, Accepting<L, A>>) -> Self::Future {
        let io = stream.io();
        future::ready(Ok(AxumService {
            inner: io.hook().take(),
            peer: io.peer().ip(),
        }))
    }
}

/// The service of one connection, with the bodies that axum 0.8 wants.
#[derive(Clone, Debug)]
pub struct AxumService<S> {
    inner: S,
    peer: Option<SocketAddr>,
}

impl<S, B> Service<Request> for AxumService<S>
where
    S: Service<Request, Response = http::Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = AxumResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        AxumResponseFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// The response future of an [`AxumService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct AxumResponseFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B, E> Future for AxumResponseFuture<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The one allocation per request that axum 0.8 costs: it takes no other body than its own.
        self.project()
            .inner
            .poll(cx)
            .map_ok(|response| response.map(Body::new))
    }
}

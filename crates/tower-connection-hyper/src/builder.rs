use std::{error::Error, future::Future, pin::Pin};

use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt::bounds::Http2ServerConnExec,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::TokioIo,
    server::conn::auto,
    service::{TowerToHyperService, TowerToHyperServiceFuture},
};
use tower_connection::BoxIo;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// hyper's three connection builders, as one thing: a way to serve HTTP on a socket, and to end it
/// gracefully.
///
/// It is implemented for [`http1::Builder`], [`http2::Builder`] and [`auto::Builder`], with whatever
/// you have set on them. (hyper-util's own trait for this is sealed and leaves out
/// [`http1::UpgradeableConnection`].)
///
/// # Examples
///
/// ```
/// use hyper::server::conn::http1;
/// use tower_connection_hyper::{Accept, serve};
///
/// # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
/// #     Ok(http::Response::new("hello".into()))
/// # }
/// # async fn run(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let mut builder = http1::Builder::new();
/// builder.max_headers(50).half_close(false);
/// serve(listener, Accept::new(tower::service_fn(hello)))
///     .with_builder(builder)
///     .await
/// # }
/// ```
pub trait Builder<S> {
    /// hyper's connection: a future that serves it to its end.
    type Connection: Future<Output = Result<(), Self::Error>>;

    /// Why it ended early.
    type Error: Into<BoxError>;

    /// Serves `service` on `io`.
    fn serve_connection(&self, io: BoxIo, service: S) -> Self::Connection;

    /// Ends the connection after the current work; go on polling it.
    fn graceful_shutdown(connection: Pin<&mut Self::Connection>);
}

impl<S, B> Builder<S> for http1::Builder
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    type Connection = http1::UpgradeableConnection<TokioIo<BoxIo>, TowerToHyperService<S>>;
    type Error = hyper::Error;

    fn serve_connection(&self, io: BoxIo, service: S) -> Self::Connection {
        self.serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
            .with_upgrades()
    }

    fn graceful_shutdown(connection: Pin<&mut Self::Connection>) {
        connection.graceful_shutdown();
    }
}

impl<S, B, E> Builder<S> for http2::Builder<E>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    S::Future: 'static,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    E: Http2ServerConnExec<TowerToHyperServiceFuture<S, Request<Incoming>>, B> + Clone,
    S: 'static,
{
    type Connection = http2::Connection<TokioIo<BoxIo>, TowerToHyperService<S>, E>;
    type Error = hyper::Error;

    fn serve_connection(&self, io: BoxIo, service: S) -> Self::Connection {
        self.serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
    }

    fn graceful_shutdown(connection: Pin<&mut Self::Connection>) {
        connection.graceful_shutdown();
    }
}

impl<S, B, E> Builder<S> for auto::Builder<E>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + 'static,
    S::Future: 'static,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    E: Http2ServerConnExec<TowerToHyperServiceFuture<S, Request<Incoming>>, B> + Clone + 'static,
{
    type Connection =
        auto::UpgradeableConnection<'static, TokioIo<BoxIo>, TowerToHyperService<S>, E>;
    type Error = BoxError;

    fn serve_connection(&self, io: BoxIo, service: S) -> Self::Connection {
        self.serve_connection_with_upgrades(TokioIo::new(io), TowerToHyperService::new(service))
            .into_owned()
    }

    fn graceful_shutdown(connection: Pin<&mut Self::Connection>) {
        connection.graceful_shutdown();
    }
}

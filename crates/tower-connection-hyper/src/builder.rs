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
use tower_connection::{BoxIo, Connection};
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// hyper's three connection builders, as one thing: a way to serve HTTP on a socket, and to end it
/// gracefully.
///
/// It is implemented for [`http1::Builder`], [`http2::Builder`] and [`auto::Builder`], with whatever
/// you have set on them. (hyper-util's own trait for this is sealed and leaves out
/// [`http1::UpgradeableConnection`].) Two settings have company:
///
/// - `half_close(true)`: say it to the connection as well, by
///   [`allow_half_close`](tower_connection::ConnectionHandle::allow_half_close). Else who has ended its half is taken to have
///   left after a second.
/// - `pipeline_flush(true)`: hyper does not flush while a part of a next request is there, so a client that leaves then is
///   noticed at the answer only (1.12, `proto/h1/io.rs`).
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
/// builder.max_headers(50);
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

    /// Serves a connection.
    ///
    /// If a layer [bounds the time](tower_connection::ConnectionHandle::set_timed) between requests, hyper's
    /// own `header_read_timeout` is off for this connection: it begins when hyper waits for a request, so it
    /// is a keep-alive timeout as well, and the shorter of the two would win.
    fn serve_connection(&self, connection: Connection<BoxIo, S>) -> Self::Connection;

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

    fn serve_connection(&self, connection: Connection<BoxIo, S>) -> Self::Connection {
        let timed = connection.handle().is_timed();
        let (io, service) = to_hyper(connection);
        if timed {
            let mut builder = self.clone();
            builder.header_read_timeout(None);
            return builder.serve_connection(io, service).with_upgrades();
        }
        self.serve_connection(io, service).with_upgrades()
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

    fn serve_connection(&self, connection: Connection<BoxIo, S>) -> Self::Connection {
        let (io, service) = to_hyper(connection);
        self.serve_connection(io, service)
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

    fn serve_connection(&self, connection: Connection<BoxIo, S>) -> Self::Connection {
        let timed = connection.handle().is_timed();
        let (io, service) = to_hyper(connection);
        if timed {
            let mut builder = self.clone();
            builder.http1().header_read_timeout(None);
            let served = builder.serve_connection_with_upgrades(io, service);
            return served.into_owned();
        }
        self.serve_connection_with_upgrades(io, service)
            .into_owned()
    }

    fn graceful_shutdown(connection: Pin<&mut Self::Connection>) {
        connection.graceful_shutdown();
    }
}

fn to_hyper<S>(connection: Connection<BoxIo, S>) -> (TokioIo<BoxIo>, TowerToHyperService<S>) {
    let (io, service) = connection.into_parts();
    (TokioIo::new(io), TowerToHyperService::new(service))
}

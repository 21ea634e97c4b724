//! The server in one call.

use std::{error::Error, io};

use tower_connection::{Accept, Connection, Socket};
use tower_drain::Report;
use tower_layer::Layer;
use tower_overload::InFlightLimit;
use tower_service::Service;

use crate::{Preset, preset::Stacked};

type BoxError = Box<dyn Error + Send + Sync>;

impl<Inside> Preset<Inside> {
    /// Serves `app` with `axum::serve`, until SIGTERM or SIGINT has ended it.
    ///
    /// It is no more than this, for who wants to write it out:
    ///
    /// ```no_run
    /// # use axum::Router;
    /// use tower_serve::{Preset, axum::{Accepting, FromAcceptor}};
    ///
    /// # async fn run(listener: tokio::net::TcpListener, app: Router) -> std::io::Result<()> {
    /// let preset = Preset::direct();
    /// let listener = Accepting::new(listener, preset.acceptor(app.with_state(())));
    /// let report = preset.run(axum::serve(listener, FromAcceptor)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// `with_state(())` has the router apply its layers now. One that comes to [`acceptor`](Preset::acceptor) or
    /// [`accept`](Preset::accept) without it makes them anew for each request, so those that keep a state in themselves
    /// (tower's `ConcurrencyLimitLayer`) do nothing; see [`tower_connection_axum::accept`]. Here it is done for you.
    ///
    /// An app that is no `Router`, as there is a layer around it, is written out too:
    ///
    /// ```no_run
    /// # use axum::Router;
    /// use tower::Layer;
    /// use tower_http::normalize_path::NormalizePathLayer;
    /// use tower_serve::{Preset, axum::{Accepting, FromAcceptor}};
    ///
    /// # async fn run(listener: tokio::net::TcpListener, router: Router) -> std::io::Result<()> {
    /// let app = NormalizePathLayer::trim_trailing_slash().layer(router.with_state(()));
    /// let preset = Preset::direct();
    /// let listener = Accepting::new(listener, preset.acceptor(app));
    /// let report = preset.run(axum::serve(listener, FromAcceptor)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the signals cannot be listened to.
    ///
    /// # Panics
    ///
    /// If an acceptor [inside](Preset::inside) fails while it becomes ready: axum's listener cannot tell it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the listener. Connections that were accepted go on. SIGTERM and SIGINT are listened to from then
    /// on, and end the process no more by themselves ([`Drain::begin_on_signals`](tower_drain::Drain::begin_on_signals)).
    #[cfg(feature = "axum")]
    pub async fn serve_axum<L, I, S, B>(self, listener: L, app: axum::Router) -> io::Result<Report>
    where
        L: axum::serve::Listener,
        L::Io: Socket,
        L::Addr: std::fmt::Debug + 'static,
        Inside: Layer<Accept<InFlightLimit<axum::Router>>>,
        Stacked<Inside::Service>: Service<L::Io, Response = Connection<I, S>, Error: Into<BoxError>, Future: Send>
            + Send
            + 'static,
        I: Socket,
        S: Service<
                axum::extract::Request,
                Response = http::Response<B>,
                Error = std::convert::Infallible,
                Future: Send,
            >,
        S: Clone + Send + 'static,
        B: axum::body::HttpBody<Data = axum::body::Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        use tower_connection_axum::{Accepting, FromAcceptor};

        // Or its layers would be made anew for each request.
        let listener = Accepting::new(listener, self.acceptor(app.with_state(())));
        self.run(axum::serve(listener, FromAcceptor)).await
    }

    /// Serves `service` with hyper, HTTP/1 and HTTP/2, until SIGTERM or SIGINT has ended it.
    ///
    /// It is no more than what the example of [`acceptor`](Preset::acceptor) writes out; do so to serve with
    /// another builder.
    ///
    /// ```no_run
    /// use std::{convert::Infallible, process::ExitCode};
    /// use http::{Request, Response};
    /// use tower_serve::{Incoming, Preset};
    ///
    /// async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    ///     Ok(Response::new("hello".into()))
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> std::io::Result<ExitCode> {
    ///     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
    ///     let report = Preset::direct().serve_hyper(listener, tower::service_fn(hello)).await?;
    ///     Ok(report.exit_code())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// If the signals cannot be listened to, and what ends [`serve`](tower_connection_hyper::serve).
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the listener. Connections that were accepted go on.
    #[cfg(feature = "hyper")]
    pub async fn serve_hyper<L, T, I, S>(self, listener: L, service: T) -> io::Result<Report>
    where
        L: tower_connection_hyper::Listener,
        Inside: Layer<Accept<InFlightLimit<T>>>,
        Stacked<Inside::Service>: Service<L::Io, Response = Connection<I, S>, Error: Into<BoxError>, Future: Send>
            + Send
            + 'static,
        I: Socket,
        S: Send + 'static,
        hyper_util::server::conn::auto::Builder<hyper_util::rt::TokioExecutor>:
            tower_connection_hyper::Builder<S, Connection: Send>,
    {
        self.run(tower_connection_hyper::serve(
            listener,
            self.acceptor(service),
        ))
        .await
    }
}

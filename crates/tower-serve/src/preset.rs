use std::{future::IntoFuture, io};

use tower_connection::Accept;
use tower_connection::Head;
use tower_connection_limit::{ConnectionLimit, ConnectionLimitLayer};
use tower_connection_proxy_protocol::ProxyProtocolLayer;
use tower_drain::{Drain, DrainAcceptor, Report};
use tower_keep_alive::{KeepAlive, KeepAliveLayer};
use tower_layer::{Identity, Layer, Stack};
use tower_overload::{Adaptive, InFlightLimit, InFlightLimitLayer, Ticket};
use tower_read_timeout::{ReadTimeout, ReadTimeoutLayer};
use tower_write_timeout::{WriteTimeout, WriteTimeoutLayer};

use crate::{
    MaxConnections, MaxInFlight, ProxyProtocol, Settings, Watch,
    settings::{PATHS, is_path},
};

/// Every layer of this project, each with a setting that suits most, in the order in which they belong.
///
/// It is a [`Layer`] around an acceptor, and the fields are the layers that it puts there, outermost first. So each can be
/// set further, or replaced; a setting of zero turns one off; and who wants another order stacks them by hand.
///
/// # Examples
///
/// All of it, in one call. SIGTERM and SIGINT end the server, as [`Drain`] says:
///
/// ```no_run
/// use std::process::ExitCode;
/// use axum::{Router, routing::get};
/// use tower_serve::Preset;
///
/// #[tokio::main]
/// async fn main() -> std::io::Result<ExitCode> {
///     let app = Router::new().route("/", get(|| async { "hello" }));
///     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
///
///     let report = Preset::direct().serve_axum(listener, app).await?;
///     Ok(report.exit_code())
/// }
/// ```
///
/// One layer set further, one replaced, and one more (around the acceptor: those for requests belong on the app):
///
/// ```no_run
/// # use std::{sync::Arc, time::Duration};
/// # use axum::Router;
/// # use tower_connection_rustls::TlsLayer;
/// use tower_serve::{Preset, connection_limit::AtCapacity, keep_alive::KeepAliveLayer};
///
/// # async fn run(listener: tokio::net::TcpListener, app: Router, config: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
/// let mut preset = Preset::direct();
/// preset.connection_limit = preset.connection_limit.at_capacity(AtCapacity::Wait);
/// preset.keep_alive = KeepAliveLayer::new(Duration::from_secs(20)).margin(Duration::from_secs(5));
/// let preset = preset.inside(TlsLayer::new(config));
///
/// preset.serve_axum(listener, app).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Preset<Inside = Identity> {
    /// Ends the server.
    pub drain: Drain,
    /// Bounds the connections: of all and, without a PROXY protocol, of each client.
    pub connection_limit: ConnectionLimitLayer,
    /// Ends connections that nobody uses.
    pub keep_alive: KeepAliveLayer,
    /// Requests must arrive in time.
    pub read_timeout: ReadTimeoutLayer,
    /// Responses must be taken in time.
    pub write_timeout: WriteTimeoutLayer,
    /// Tells who the client is, behind a balancer.
    pub proxy_protocol: ProxyProtocolLayer,
    /// Bounds the connections of each client that the PROXY protocol names: outside of that, all come from the balancer.
    pub client_limit: ConnectionLimitLayer,
    /// What is [inside](Preset::inside) of these: nothing, or TLS.
    pub inside: Inside,
    /// Bounds the requests. It is the one that goes around the service. It classifies them by `never_shed`:
    /// [`classify`](InFlightLimitLayer::classify) puts your own rule in the place of that.
    pub overload: InFlightLimitLayer,
}

/// The acceptor that a [`Preset`] makes.
pub type Stacked<A> = DrainAcceptor<
    ConnectionLimit<
        KeepAlive<
            ReadTimeout<
                WriteTimeout<tower_connection_proxy_protocol::ProxyProtocol<ConnectionLimit<A>>>,
            >,
        >,
    >,
>;

impl Preset {
    /// For a server that clients reach directly: [`Settings::direct`].
    ///
    /// ```
    /// # use tower_serve::Preset;
    /// let preset = Preset::direct();
    /// # drop(preset);
    /// ```
    #[must_use]
    pub fn direct() -> Self {
        Self::new(&Settings::direct())
    }

    /// For a server behind a balancer: [`Settings::behind_balancer`].
    ///
    /// ```
    /// use tower_serve::{Preset, ProxyProtocol};
    ///
    /// // Behind HAProxy with `send-proxy-v2`, or an AWS NLB that is told to.
    /// let preset = Preset::behind_balancer(ProxyProtocol::Required);
    /// # drop(preset);
    /// ```
    #[must_use]
    pub fn behind_balancer(proxy_protocol: ProxyProtocol) -> Self {
        Self::new(&Settings::behind_balancer(proxy_protocol))
    }

    /// With these settings.
    ///
    /// ```no_run
    /// use tower_serve::{Preset, Settings};
    ///
    /// # fn main() -> Result<(), tower_serve::SettingsError> {
    /// let preset = Preset::new(&Settings::from_env("APP")?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// If `at_capacity` is empty, or names a policy that is never reached; if a path of `never_shed` or `untimed_bodies` is
    /// none (`healthz`, `/users/{id}`), or could not be told as text (`/a,b`). From text they are right. For other rules,
    /// set the layer: [`classify`](InFlightLimitLayer::classify), [`body_unless`](ReadTimeoutLayer::body_unless).
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        for path in settings.never_shed.iter().chain(&settings.untimed_bodies) {
            assert!(is_path(path), "{path:?} is not taken: expected {PATHS}");
        }
        let max_per_client = settings.max_connections_per_client;
        let (proxy_protocol, outer_max, inner_max) = match settings.proxy_protocol {
            ProxyProtocol::Off => (ProxyProtocolLayer::off(), max_per_client, 0),
            ProxyProtocol::Required => (ProxyProtocolLayer::required(), 0, max_per_client),
        };
        let connection_limit = match settings.max_connections {
            MaxConnections::Auto => ConnectionLimitLayer::default(),
            MaxConnections::Fixed(max) => ConnectionLimitLayer::new(max),
        };
        let client_limit = ConnectionLimitLayer::new(0).max_per_client(inner_max);
        Self {
            drain: Drain::new(settings.drain_timeout).lame_duck(settings.lame_duck),
            connection_limit: connection_limit
                .max_per_client(outer_max)
                .at_capacity(&settings.at_capacity),
            keep_alive: KeepAliveLayer::new(settings.keep_alive_timeout)
                .max_requests(settings.max_requests_per_connection)
                .max_age(settings.max_connection_age),
            read_timeout: ReadTimeoutLayer::new(settings.header_read_timeout)
                .body(settings.body_read_timeout)
                .body_rate(settings.min_body_rate)
                .body_unless(names(&settings.untimed_bodies)),
            write_timeout: WriteTimeoutLayer::new(settings.write_timeout)
                .min_rate(settings.min_write_rate),
            proxy_protocol,
            client_limit: client_limit.at_capacity(&settings.at_capacity),
            inside: Identity::new(),
            overload: overload(settings),
        }
    }
}

fn overload(settings: &Settings) -> InFlightLimitLayer {
    let layer = match settings.max_in_flight {
        MaxInFlight::Off | MaxInFlight::Fixed(0) => return InFlightLimitLayer::off(),
        MaxInFlight::Fixed(max) => InFlightLimitLayer::new(max),
        MaxInFlight::Adaptive => InFlightLimitLayer::with_limit(Adaptive::new()),
    };
    let is_exempt = names(&settings.never_shed);
    let classify = move |head: &Head<'_>| {
        if is_exempt(head) {
            Ticket::exempt()
        } else {
            Ticket::default()
        }
    };
    layer.max_wait(settings.max_wait).classify(classify)
}

/// Whether one of these paths is that of a request. What ends with `*` names all that begin so.
fn names(paths: &[String]) -> impl Fn(&Head<'_>) -> bool + Send + Sync + 'static {
    let paths = paths.to_vec();
    move |head| {
        let asked = head.uri.path();
        paths.iter().any(|path| match path.strip_suffix('*') {
            Some(beginning) => asked.starts_with(beginning),
            None => asked == path,
        })
    }
}

impl<Inside> Preset<Inside> {
    /// With `layer` inside of all of these, and of what was put there before: next to the HTTP stack. For TLS.
    ///
    /// The acceptor that it makes must be `Clone`: one is taken into each PROXY protocol header, as into each TLS handshake.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use tower_connection_rustls::TlsLayer;
    /// use tower_serve::Preset;
    ///
    /// # fn example(config: Arc<rustls::ServerConfig>) {
    /// let preset = Preset::direct().inside(TlsLayer::new(config));
    /// # }
    /// ```
    pub fn inside<L>(self, layer: L) -> Preset<Stack<L, Inside>> {
        let Self {
            drain,
            connection_limit,
            keep_alive,
            read_timeout,
            write_timeout,
            proxy_protocol,
            client_limit,
            inside,
            overload,
        } = self;
        Preset {
            drain,
            connection_limit,
            keep_alive,
            read_timeout,
            write_timeout,
            proxy_protocol,
            client_limit,
            inside: Stack::new(layer, inside),
            overload,
        }
    }

    /// The innermost acceptor: `service`, whose requests are bounded by [`overload`](Preset::overload). For who has more
    /// layers to put around it. An axum `Router` is handed over `.with_state(())`, or its layers are made anew for each
    /// request, and what they count is lost.
    ///
    /// Here a connection must be made within three seconds, its PROXY header and TLS handshake included:
    ///
    /// ```
    /// use tower::{ServiceBuilder, timeout::TimeoutLayer};
    /// # use std::{convert::Infallible, time::Duration};
    /// # use tower_serve::{Incoming, Preset};
    ///
    /// # async fn hello(_: http::Request<Incoming>) -> Result<http::Response<String>, Infallible> {
    /// #     Ok(http::Response::new("hello".into()))
    /// # }
    /// # let service = tower::service_fn(hello);
    /// let preset = Preset::direct();
    /// let acceptor = ServiceBuilder::new()
    ///     .layer(&preset)
    ///     .layer(TimeoutLayer::new(Duration::from_secs(3)))
    ///     .service(preset.accept(service));
    /// # drop(acceptor);
    /// ```
    pub fn accept<S>(&self, service: S) -> Accept<InFlightLimit<S>> {
        Accept::new(self.overload.layer(service))
    }

    /// The whole acceptor of `service`, with all layers around it: for `axum::serve`, for hyper with a builder of your
    /// own, for a [loop of your own](tower_connection::AcceptExt::accept). An axum `Router` is handed over
    /// `.with_state(())`, as in [`accept`](Preset::accept).
    ///
    /// ```no_run
    /// # use std::convert::Infallible;
    /// use hyper::server::conn::http1;
    /// use tower_serve::{Incoming, Preset, hyper::serve};
    ///
    /// # async fn hello(_: http::Request<Incoming>) -> Result<http::Response<String>, Infallible> {
    /// #     Ok(http::Response::new("hello".into()))
    /// # }
    /// # async fn run(listener: tokio::net::TcpListener) -> std::io::Result<()> {
    /// # let service = tower::service_fn(hello);
    /// let mut builder = http1::Builder::new();
    /// builder.max_headers(50);
    ///
    /// let preset = Preset::direct();
    /// let server = serve(listener, preset.acceptor(service)).with_builder(builder);
    /// let report = preset.run(server).await?;
    /// # Ok(()) }
    /// ```
    pub fn acceptor<S>(&self, service: S) -> Stacked<Inside::Service>
    where
        Inside: Layer<Accept<InFlightLimit<S>>>,
    {
        self.layer(self.accept(service))
    }

    /// Runs a server that accepts through this, until SIGTERM or SIGINT has ended it: [`Drain::begin_on_signals`], and
    /// [`Drain::run`].
    ///
    /// ```no_run
    /// # use tower_serve::Preset;
    /// # async fn run(preset: Preset, server: impl Future<Output = std::io::Result<()>>) -> std::io::Result<()> {
    /// preset.run(server).await?.exit()
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the signals cannot be listened to, and that of the server.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the server, and so closes the listener. Connections that were accepted go on. SIGTERM and SIGINT are
    /// listened to from then on, and end the process no more by themselves.
    pub async fn run<S>(&self, server: S) -> io::Result<Report>
    where
        S: IntoFuture<Output = io::Result<()>>,
    {
        self.drain.begin_on_signals()?;
        self.drain.run(server).await
    }

    /// Looks at the server while it runs. It sees the layers that are there now: replace them before.
    ///
    /// ```
    /// # use tower_serve::Preset;
    /// let preset = Preset::direct();
    /// println!("{}", preset.watch().look());
    /// ```
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(self)
    }
}

impl<A, Inside: Layer<A>> Layer<A> for Preset<Inside> {
    type Service = Stacked<Inside::Service>;

    fn layer(&self, inner: A) -> Self::Service {
        let inner = self.client_limit.layer(self.inside.layer(inner));
        let inner = self.write_timeout.layer(self.proxy_protocol.layer(inner));
        let inner = self.keep_alive.layer(self.read_timeout.layer(inner));
        self.drain.layer().layer(self.connection_limit.layer(inner))
    }
}

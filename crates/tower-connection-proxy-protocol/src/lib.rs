//! The client's address, from the header of the PROXY protocol.
//!
//! Behind a balancer that does not speak HTTP, or that passes TLS on, each connection comes from the balancer:
//! logs name it, and a limit per client takes all clients for one. HAProxy, Envoy, Traefik, nginx and the
//! network balancers of clouds can say who the client is, in a header before the first byte of the connection.
//! [`ProxyProtocolLayer`] reads it, and from there inwards the socket's peer is the client: for the
//! [`ConnectionHandle`](tower_connection::ConnectionHandle), axum's `ConnectInfo`, and the layers inside.
//!
//! # With axum
//!
//! ```no_run
//! use std::{net::SocketAddr, time::Duration};
//! use axum::{Router, extract::ConnectInfo, routing::get};
//! use tower::ServiceBuilder;
//! use tower_connection_axum::{Accepting, FromAcceptor, accept};
//! use tower_connection_proxy_protocol::ProxyProtocolLayer;
//! use tower_read_timeout::ReadTimeoutLayer;
//!
//! # async fn run() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|ConnectInfo(client): ConnectInfo<SocketAddr>| async move {
//!     format!("hello {client}")
//! }));
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(ReadTimeoutLayer::new(Duration::from_secs(10))) // the header must come in time, too
//!     .layer(ProxyProtocolLayer::required().only_from(|peer| peer.is_loopback()))
//!     .service(accept(app));
//!
//! axum::serve(Accepting::new(listener, acceptor), FromAcceptor).await
//! # }
//! ```
//!
//! # With hyper
//!
//! ```no_run
//! use std::time::Duration;
//! use tower::{ServiceBuilder, service_fn, timeout::TimeoutLayer};
//! use tower_connection::ConnectionHandle;
//! use tower_connection_hyper::{Accept, serve};
//! use tower_connection_proxy_protocol::ProxyProtocolLayer;
//!
//! async fn hello<B>(request: http::Request<B>) -> Result<http::Response<String>, std::convert::Infallible> {
//!     let client = request.extensions().get::<ConnectionHandle>().map(|handle| handle.peer().to_string());
//!     Ok(http::Response::new(format!("hello {client:?}")))
//! }
//!
//! # async fn run() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(Duration::from_secs(10))) // for the header
//!     .layer(ProxyProtocolLayer::required())
//!     .service(Accept::new(service_fn(hello)));
//!
//! serve(listener, acceptor).await
//! # }
//! ```
//!
//! # Who can reach the port can claim any address
//!
//! The header is not signed. So the port must be one that only balancers reach, by the network or by
//! [`only_from`](ProxyProtocolLayer::only_from). And it is required or off, never guessed: the specification
//! forbids to tell by the first bytes whether there is one (section 2), since then each client could send its own.
//!
//! # What is read
//!
//! Versions 1 and 2, whichever comes; exactly the header, in a few reads, and nothing of what follows it.
//!
//! | the header | the addresses are |
//! | --- | --- |
//! | `TCP4`, `TCP6`; TCP over IPv4 or IPv6 | those in it |
//! | a Unix socket | those in it; an unnamed or abstract one has no path |
//! | `LOCAL` (health checks of the balancer), `UNKNOWN`, unspecified, datagrams | the connection's own |
//! | none, a malformed one, a line of more than 107 bytes, more than 4,096 bytes | none: the connection is reset |
//! | one that is not whole when the connection ends | none: it is closed, and counted nowhere |
//!
//! The specification's longest header without extensions (TLVs) has 232 bytes. Extensions are skipped as they come,
//! and not stored.
//!
//! # Where to put it
//!
//! Outside of TLS, as the header comes before the hello. Inside of what bounds handshakes in time, as a client can
//! withhold the header: the handshake timeout of `tower-read-timeout`, or tower's `TimeoutLayer`. There is no
//! timer here, so **without one of them a silent client stays**. The specification asks for at least three seconds,
//! for a segment that is sent again. A limit for each client goes inside.
//!
//! # What this does not do
//!
//! - It says nothing of what is in the extensions: the server name that the client asked for, its certificate, an
//!   AWS endpoint. Nor does it verify a checksum (CRC32C), which TCP has already.
//! - It does not know if a balancer sends the requests of several clients over one connection. One that speaks HTTP
//!   must not use this protocol then (section 2), but `Forwarded`.
//! - Layers outside know the client once the connection is made. A full limit, and a TLS handshake that does not go on, are
//!   told of the balancer.
//! - After an upgrade, the accepted socket that [`BoxIo::into_innermost`](tower_connection::BoxIo::into_innermost)
//!   finds is the balancer's again. The handle still knows the client.

mod ends;
mod header;
mod io;
mod read;

use std::{
    error::Error,
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tower_connection::{Address, Socket, Tally, Throttle};
use tower_layer::Layer;
use tower_service::Service;
use tracing::info;

use crate::read::Reading;
pub use crate::{ends::Reason, io::ProxyProtocolIo};

/// Reads the header of the PROXY protocol from every socket before it reaches the acceptor inside. See the
/// [crate docs](crate).
///
/// There is no default: whether there is a balancer in front is known to who runs the server.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, timeout::TimeoutLayer};
/// use tower_connection::Accept;
/// use tower_connection_limit::ConnectionLimitLayer;
/// use tower_connection_proxy_protocol::ProxyProtocolLayer;
///
/// # fn acceptor<S: Clone + Send + 'static>(app: S) {
/// let acceptor = ServiceBuilder::new()
///     .layer(ConnectionLimitLayer::new(1024))                    // of all clients
///     .layer(TimeoutLayer::new(Duration::from_secs(10)))         // for the header
///     .layer(ProxyProtocolLayer::required())
///     .layer(ConnectionLimitLayer::new(0).max_per_client(100))   // of each client
///     .service(Accept::new(app));
/// # fn check<S>(_: S) {}
/// # check(acceptor);
/// # }
/// ```
#[derive(Clone)]
pub struct ProxyProtocolLayer {
    required: bool,
    only_from: Option<OnlyFrom>,
    resets: Arc<Resets>,
}

/// What the layer and its clones count, and tell.
#[derive(Debug)]
pub(crate) struct Resets {
    ends: Tally<Reason>,
    events: Throttle,
}

impl Default for Resets {
    fn default() -> Self {
        Self {
            ends: Tally::default(),
            events: Throttle::new(10),
        }
    }
}

impl Resets {
    pub(crate) fn note(&self, peer: &Address, reason: Reason, error: Option<&std::io::Error>) {
        self.ends.count(reason);
        if let Some(suppressed) = self.events.pass() {
            let error = error.map(tracing::field::display);
            info!(%peer, reason = reason.as_str(), error, suppressed, "no header of the PROXY protocol");
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;
type OnlyFrom = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

impl ProxyProtocolLayer {
    /// Every connection begins with a header, of either version. One that does not is reset.
    ///
    /// ```
    /// # use tower_connection_proxy_protocol::ProxyProtocolLayer;
    /// let layer = ProxyProtocolLayer::required();
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn required() -> Self {
        Self {
            required: true,
            only_from: None,
            resets: Arc::default(),
        }
    }

    /// No connection begins with a header. A stack for both cases has one type.
    ///
    /// A header that comes all the same is the first request of a client, and no good one.
    ///
    /// ```
    /// # use tower_connection_proxy_protocol::ProxyProtocolLayer;
    /// let behind_balancer = std::env::var_os("PROXY_PROTOCOL").is_some();
    /// let layer = if behind_balancer { ProxyProtocolLayer::required() } else { ProxyProtocolLayer::off() };
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn off() -> Self {
        Self {
            required: false,
            only_from: None,
            resets: Arc::default(),
        }
    }

    /// Which peers may connect, and so say who the client is. Default is all, and then **everybody who can reach
    /// the port can claim any address**. Others are reset, and nothing is read from them.
    ///
    /// It is given IPv4 addresses as such, also where the listener is one for IPv6 and has them mapped. A Unix
    /// socket has no address; the permissions of its file say who may connect, and so they all may. A peer that is
    /// not known any more may not. Where the layer is [off](Self::off), nobody is asked.
    ///
    /// ```
    /// use std::net::IpAddr;
    /// use tower_connection_proxy_protocol::ProxyProtocolLayer;
    ///
    /// let balancers: [IpAddr; 2] = [[10, 0, 0, 2].into(), [10, 0, 0, 3].into()];
    /// let layer = ProxyProtocolLayer::required().only_from(move |peer| balancers.contains(&peer));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn only_from(mut self, peers: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        self.only_from = Some(Arc::new(peers));
        self
    }

    /// How many connections were reset, by reason. One that ends before its header does is in no count: balancers look
    /// in that way whether a port is open, and a layer outside may have ended it (a drain, say).
    ///
    /// ```
    /// # use tower_connection_proxy_protocol::{ProxyProtocolLayer, Reason};
    /// let ends = ProxyProtocolLayer::required().ends();
    /// assert_eq!(ends.of(Reason::Header), 0);
    /// ```
    #[must_use]
    pub fn ends(&self) -> Tally<Reason> {
        self.resets.ends.clone()
    }

    fn lets_in(&self, peer: &Address) -> bool {
        match (&self.only_from, peer) {
            (None, _) | (_, Address::Unix(_)) => true,
            (Some(only_from), Address::Ip(peer)) => only_from(peer.ip().to_canonical()),
            (Some(_), _) => false,
        }
    }
}

impl fmt::Debug for ProxyProtocolLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocolLayer")
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

impl<A> Layer<A> for ProxyProtocolLayer {
    type Service = ProxyProtocol<A>;

    fn layer(&self, inner: A) -> ProxyProtocol<A> {
        ProxyProtocol {
            inner,
            settings: self.clone(),
        }
    }
}

/// An acceptor behind a balancer; made by [`ProxyProtocolLayer`].
#[derive(Clone, Debug)]
pub struct ProxyProtocol<A> {
    inner: A,
    settings: ProxyProtocolLayer,
}

impl<A, Io> Service<Io> for ProxyProtocol<A>
where
    A: Service<ProxyProtocolIo<Io>, Error: Into<BoxError>> + Clone,
    Io: Socket,
{
    type Response = A::Response;
    type Error = ProxyProtocolError;
    type Future = ProxyProtocolFuture<A, Io>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let ready = ready!(self.inner.poll_ready(cx));
        Poll::Ready(ready.map_err(|error| ProxyProtocolError::Inner(error.into())))
    }

    fn call(&mut self, io: Io) -> Self::Future {
        if !self.settings.required {
            let accept = self.inner.call(ProxyProtocolIo::new(io, None));
            return State::Accept { accept }.into();
        }
        let peer = io.peer();
        if !self.settings.lets_in(&peer) {
            self.settings.resets.note(&peer, Reason::Untrusted, None);
            let _ = io.reset_on_close();
            return State::Untrusted { peer }.into(); // the acceptor inside stays ready
        }
        // The clone stays; the one that said it was ready goes with the socket.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let reading = Reading::new(io, self.settings.resets.clone());
        State::Header { reading, inner }.into()
    }
}

pin_project_lite::pin_project! {
    /// The future of [`ProxyProtocol`]: the header, then the acceptor inside.
    #[must_use = "futures do nothing unless polled"]
    pub struct ProxyProtocolFuture<A, Io>
    where
        A: Service<ProxyProtocolIo<Io>>,
    {
        #[pin]
        state: State<A, Io>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<A, Io>
    where
        A: Service<ProxyProtocolIo<Io>>,
    {
        Header {
            reading: Reading<Io>,
            inner: A,
        },
        Accept {
            #[pin]
            accept: A::Future,
        },
        Untrusted {
            peer: Address,
        },
    }
}

impl<A, Io> From<State<A, Io>> for ProxyProtocolFuture<A, Io>
where
    A: Service<ProxyProtocolIo<Io>>,
{
    fn from(state: State<A, Io>) -> Self {
        Self { state }
    }
}

impl<A, Io> fmt::Debug for ProxyProtocolFuture<A, Io>
where
    A: Service<ProxyProtocolIo<Io>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocolFuture")
            .finish_non_exhaustive()
    }
}

impl<A, Io> Future for ProxyProtocolFuture<A, Io>
where
    A: Service<ProxyProtocolIo<Io>, Error: Into<BoxError>>,
    Io: Socket,
{
    type Output = Result<A::Response, ProxyProtocolError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut me = self.project();
        loop {
            match me.state.as_mut().project() {
                StateProj::Header { reading, inner } => {
                    let io = ready!(reading.poll(cx)).map_err(ProxyProtocolError::Header)?;
                    let accept = inner.call(io);
                    // ## Header => Accept
                    me.state.set(State::Accept { accept });
                }
                StateProj::Accept { accept } => {
                    return accept
                        .poll(cx)
                        .map_err(|error| ProxyProtocolError::Inner(error.into()));
                }
                StateProj::Untrusted { peer } => {
                    let peer = std::mem::take(peer);
                    return Poll::Ready(Err(ProxyProtocolError::Untrusted(peer)));
                }
            }
        }
    }
}

/// Why no connection was made.
///
/// ```
/// # use tower_connection::Address;
/// # use tower_connection_proxy_protocol::ProxyProtocolError;
/// let error = ProxyProtocolError::Untrusted(Address::Unknown);
/// assert_eq!(error.to_string(), "unknown may not send a PROXY protocol header");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyProtocolError {
    /// No header came, or a malformed one, and it was reset; or it ended or failed before the header was whole.
    Header(std::io::Error),
    /// The peer is not one of [those who may](ProxyProtocolLayer::only_from); it was reset.
    Untrusted(Address),
    /// The acceptor inside failed.
    Inner(BoxError),
}

impl fmt::Display for ProxyProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(_) => f.write_str("no PROXY protocol header was read"),
            Self::Untrusted(peer) => write!(f, "{peer} may not send a PROXY protocol header"),
            Self::Inner(_) => f.write_str("the acceptor inside failed"),
        }
    }
}

impl Error for ProxyProtocolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Header(error) => Some(error),
            Self::Untrusted(_) => None,
            Self::Inner(error) => Some(&**error),
        }
    }
}

//! TLS as a layer over an acceptor.
//!
//! A TLS handshake is work for a client that has proved nothing, so it wants a deadline and a bound on
//! how many are under way; and it must not keep other clients waiting. [`TlsLayer`] is one more layer of
//! the stack, so tower's own `TimeoutLayer` and `ConcurrencyLimitLayer` around it are that deadline and
//! that bound, and every layer outside of it covers the handshake.
//!
//! # Examples
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use rustls::ServerConfig;
//! use tower::{ServiceBuilder, limit::ConcurrencyLimitLayer, timeout::TimeoutLayer};
//! use tower_connection::{Accept, Connection};
//! use tower_connection_rustls::TlsLayer;
//!
//! # fn acceptor<S: Clone + Send + 'static>(config: ServerConfig, app: S) {
//! let acceptor = ServiceBuilder::new()
//!     .layer(ConcurrencyLimitLayer::new(256))               // handshakes under way
//!     .layer(TimeoutLayer::new(Duration::from_secs(10)))    // each of them
//!     .layer(TlsLayer::new(Arc::new(config)))
//!     .service(Accept::new(app));
//! # fn check<S: tower::Service<tokio::net::TcpStream>>(_: S) {}
//! # check(acceptor);
//! # }
//! ```
//!
//! For HTTP/2, name it in the configuration: `config.alpn_protocols = vec![b"h2".to_vec(),
//! b"http/1.1".to_vec()]`.
//!
//! # What this does not do
//!
//! It makes no configuration and picks no crypto provider: both are yours, in rustls.

use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::ServerConfig;
use tower_connection::{Over, Socket};
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// A TLS stream over a socket. Its address and its reset are those of the socket below.
///
/// ```
/// use tower_connection_rustls::TlsStream;
///
/// fn protocol<Io>(stream: &TlsStream<Io>) -> Option<&[u8]> {
///     let (_socket, session) = stream.get_ref().get_ref();
///     session.alpn_protocol()
/// }
/// # let _ = protocol::<()>;
/// ```
pub type TlsStream<Io> = Over<tokio_rustls::server::TlsStream<Io>>;

/// Puts TLS on every socket before it reaches the acceptor inside. See the [crate docs](crate).
#[derive(Clone)]
pub struct TlsLayer {
    config: Arc<ServerConfig>,
}

impl TlsLayer {
    /// Speaks TLS as `config` says.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self { config }
    }
}

impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLayer").finish_non_exhaustive()
    }
}

impl<A> Layer<A> for TlsLayer {
    type Service = Tls<A>;

    fn layer(&self, inner: A) -> Tls<A> {
        Tls {
            inner,
            acceptor: self.config.clone().into(),
        }
    }
}

/// An acceptor behind TLS; made by [`TlsLayer`].
#[derive(Clone)]
pub struct Tls<A> {
    inner: A,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl<A: fmt::Debug> fmt::Debug for Tls<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<A, Io> Service<Io> for Tls<A>
where
    A: Service<TlsStream<Io>, Error: Into<BoxError>> + Clone,
    Io: Socket,
{
    type Response = A::Response;
    type Error = TlsError;
    type Future = TlsFuture<A, Io>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| TlsError::Inner(error.into()))
    }

    fn call(&mut self, io: Io) -> Self::Future {
        // The clone stays; the one that said it was ready goes with the socket.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        TlsFuture {
            state: State::Handshake {
                handshake: self.acceptor.accept(io),
                inner,
            },
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`Tls`]: a handshake, then the acceptor inside.
    #[must_use = "futures do nothing unless polled"]
    pub struct TlsFuture<A, Io>
    where
        A: Service<TlsStream<Io>>,
    {
        #[pin]
        state: State<A, Io>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<A, Io>
    where
        A: Service<TlsStream<Io>>,
    {
        Handshake {
            #[pin]
            handshake: tokio_rustls::Accept<Io>,
            inner: A,
        },
        Accept {
            #[pin]
            accept: A::Future,
        },
    }
}

impl<A, Io> fmt::Debug for TlsFuture<A, Io>
where
    A: Service<TlsStream<Io>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFuture").finish_non_exhaustive()
    }
}

impl<A, Io> Future for TlsFuture<A, Io>
where
    A: Service<TlsStream<Io>, Error: Into<BoxError>>,
    Io: Socket,
{
    type Output = Result<A::Response, TlsError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut me = self.project();
        loop {
            match me.state.as_mut().project() {
                StateProj::Handshake { handshake, inner } => {
                    let stream = ready!(handshake.poll(cx)).map_err(TlsError::Handshake)?;
                    let accept = inner.call(Over::new(stream, |stream| stream.get_ref().0));
                    // ## Handshake => Accept
                    me.state.set(State::Accept { accept });
                }
                StateProj::Accept { accept } => {
                    return accept
                        .poll(cx)
                        .map_err(|error| TlsError::Inner(error.into()));
                }
            }
        }
    }
}

/// Why no TLS connection was made.
///
/// ```
/// # use tower_connection_rustls::TlsError;
/// let error = TlsError::Handshake(std::io::ErrorKind::UnexpectedEof.into());
/// assert_eq!(error.to_string(), "tls handshake failed");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The handshake failed; rustls has sent an alert where it could.
    Handshake(io::Error),
    /// The acceptor inside failed.
    Inner(BoxError),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake(_) => "tls handshake failed",
            Self::Inner(_) => "the acceptor behind tls failed",
        })
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Handshake(error) => Some(error),
            Self::Inner(error) => Some(&**error),
        }
    }
}

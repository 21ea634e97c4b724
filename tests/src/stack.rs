use std::{io, sync::Arc};

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::DuplexStream;
use tower::Service;
use tower_connection::{Connection, ConnectionService, Socket};
use tower_connection_axum::{Accepting, FromAcceptor};
use tower_connection_hyper::serve;
use tower_drain::DrainService;
use tower_keep_alive::KeepAliveService;
use tower_read_timeout::ReadTimeoutService;

use crate::server::Pipes;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The service of each connection, under the layers that scenarios are about.
type Served = DrainService<KeepAliveService<ReadTimeoutService<ConnectionService<Router>>>>;

/// What serves, what it speaks, and whether inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Stack {
    AxumHttp1,
    AxumHttp2,
    AxumHttp1Tls,
    AxumHttp2Tls,
    HyperHttp1,
    HyperHttp2,
    HyperAutoHttp1,
    HyperAutoHttp2,
    HyperAutoHttp1Tls,
    HyperAutoHttp2Tls,
    TonicHttp1,
    TonicHttp2,
}

/// What a [`Wire`](crate::Wire) speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Http1,
    Http2,
}

impl Stack {
    /// What its clients speak.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::AxumHttp1
            | Self::AxumHttp1Tls
            | Self::HyperHttp1
            | Self::HyperAutoHttp1
            | Self::HyperAutoHttp1Tls
            | Self::TonicHttp1 => Protocol::Http1,
            Self::AxumHttp2
            | Self::AxumHttp2Tls
            | Self::HyperHttp2
            | Self::HyperAutoHttp2
            | Self::HyperAutoHttp2Tls
            | Self::TonicHttp2 => Protocol::Http2,
        }
    }

    /// Whether its clients speak TLS.
    pub fn is_tls(self) -> bool {
        matches!(
            self,
            Self::AxumHttp1Tls
                | Self::AxumHttp2Tls
                | Self::HyperAutoHttp1Tls
                | Self::HyperAutoHttp2Tls
        )
    }

    /// Serves until `shutdown` ends and the last connection has.
    pub(crate) async fn serve<A, I>(
        self,
        pipes: Pipes,
        acceptor: A,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()>
    where
        A: Service<DuplexStream, Response = Connection<I, Served>>,
        A: Send + 'static,
        A::Error: Into<BoxError>,
        A::Future: Send + 'static,
        I: Socket,
    {
        match self {
            Self::AxumHttp1 | Self::AxumHttp2 | Self::AxumHttp1Tls | Self::AxumHttp2Tls => {
                axum::serve(Accepting::new(pipes, acceptor), FromAcceptor)
                    .with_graceful_shutdown(shutdown)
                    .await
            }
            Self::HyperHttp1 => {
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new());
                serve(pipes, acceptor)
                    .with_builder(builder)
                    .with_graceful_shutdown(shutdown)
                    .await
            }
            Self::HyperHttp2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.timer(TokioTimer::new()).enable_connect_protocol();
                serve(pipes, acceptor)
                    .with_builder(builder)
                    .with_graceful_shutdown(shutdown)
                    .await
            }
            Self::HyperAutoHttp1
            | Self::HyperAutoHttp2
            | Self::HyperAutoHttp1Tls
            | Self::HyperAutoHttp2Tls
            | Self::TonicHttp1
            | Self::TonicHttp2 => {
                serve(pipes, acceptor)
                    .with_graceful_shutdown(shutdown)
                    .await
            }
        }
    }
}

/// The two sides of TLS with a certificate of their own.
pub(crate) struct Tls {
    pub(crate) server: Arc<rustls::ServerConfig>,
    pub(crate) client: Arc<rustls::ClientConfig>,
}

impl Tls {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let own = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der())
            .expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.cert.der().clone()).expect("a root");

        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.into()], key)
            .expect("a server");
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![match protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        Self {
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }
}

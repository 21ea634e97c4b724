//! Run with `cargo run --example tls`, then `curl -k https://127.0.0.1:3000/`.
//!
//! A client that never ends its handshake is closed after ten seconds and keeps nobody waiting.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tower::{ServiceBuilder, limit::ConcurrencyLimitLayer, timeout::TimeoutLayer};
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_connection_limit::ConnectionLimitLayer;
use tower_connection_rustls::TlsLayer;

#[tokio::main]
async fn main() -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let acceptor = ServiceBuilder::new()
        .layer(ConnectionLimitLayer::new(1024))
        .layer(ConcurrencyLimitLayer::new(256)) // handshakes under way
        .layer(TimeoutLayer::new(Duration::from_secs(10))) // each of them
        .layer(TlsLayer::new(Arc::new(config().map_err(io::Error::other)?)))
        .service(accept(app));

    axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await
}

/// A certificate for this run only.
fn config() -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let own = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()])?;
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.into()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

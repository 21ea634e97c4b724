//! Run with `cargo run --example tls`, then `curl -k https://127.0.0.1:3000/`.
//!
//! A client that never ends its handshake is closed after ten seconds and keeps nobody waiting.

use std::{error::Error, process::ExitCode, sync::Arc};

use axum::{Router, http::Version, routing::get};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tower_serve::{Preset, rustls::TlsLayer};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let app = Router::new().route("/", get(hello));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    let preset = Preset::direct().inside(TlsLayer::new(Arc::new(config()?)));
    let report = preset.serve_axum(listener, app).await?;
    println!("{report}");
    Ok(report.exit_code())
}

async fn hello(version: Version) -> String {
    format!("hello in {version:?}, over TLS\n")
}

/// A certificate for this run only.
fn config() -> Result<ServerConfig, Box<dyn Error>> {
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

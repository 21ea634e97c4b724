//! Run with `cargo run --example axum`.
//!
//! Then open ten connections that say nothing, and ask with an eleventh, for which one of them makes room:
//! `for i in $(seq 10); do nc -d 127.0.0.1 3000 & done; sleep 1; curl -i http://127.0.0.1:3000/`

use std::net::SocketAddr;

use axum::{Router, extract::ConnectInfo, routing::get};
use tower::ServiceBuilder;
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_connection_limit::ConnectionLimitLayer;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new().route("/", get(hello));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let acceptor = ServiceBuilder::new()
        .layer(ConnectionLimitLayer::new(10))
        .service(accept(app));

    axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await
}

async fn hello(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("hello {peer}\n")
}

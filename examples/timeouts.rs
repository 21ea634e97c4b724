//! Run with `cargo run --example timeouts`.
//!
//! `nc 127.0.0.1 3000`, and type half a request: a `408` after ten seconds. Type a whole one: the answer says for
//! how long the connection is kept, and it is closed a second after that.
//! `curl --limit-rate 100 http://127.0.0.1:3000/large` is cut after a while; with `--limit-rate 100k` it is not.
//! `curl http://127.0.0.1:3000/bye http://127.0.0.1:3000/` needs two connections.

use std::time::Duration;

use axum::{Extension, Router, routing::get};
use tower::ServiceBuilder;
use tower_connection::ConnectionHandle;
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_connection_limit::ConnectionLimitLayer;
use tower_keep_alive::KeepAliveLayer;
use tower_read_timeout::ReadTimeoutLayer;
use tower_write_timeout::WriteTimeoutLayer;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(requests))
        .route("/large", get(|| async { vec![b'.'; 20_000_000] }))
        .route("/bye", get(bye));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let keep_alive = KeepAliveLayer::new(Duration::from_secs(5))
        .max_requests(1_000)
        .max_age(Duration::from_secs(600));
    let read_timeout = ReadTimeoutLayer::new(Duration::from_secs(10))
        .body(Duration::from_secs(30))
        .body_rate(240);

    let write_timeout = WriteTimeoutLayer::new(Duration::from_secs(30)).min_rate(240);

    // Idle connections make room when the limit is reached, so that no timeout need be short.
    let acceptor = ServiceBuilder::new()
        .layer(ConnectionLimitLayer::default())
        .layer(keep_alive)
        .layer(read_timeout)
        .layer(write_timeout)
        .service(accept(app));

    axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await
}

async fn requests(Extension(connection): Extension<ConnectionHandle>) -> String {
    format!("request {} on this connection\n", connection.requests())
}

async fn bye(Extension(connection): Extension<ConnectionHandle>) -> &'static str {
    connection.close();
    "this was the last one on this connection\n"
}

//! Run with `cargo run --example proxy_protocol`, then `curl --haproxy-protocol http://127.0.0.1:3000/`; without
//! the flag, curl is reset.
//!
//! Behind HAProxy: `server app 127.0.0.1:3000 send-proxy-v2`. Each client may have two connections, however many
//! the balancer has, and only this machine may say who the client is.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use tower::ServiceBuilder;
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};
use tower_connection_proxy_protocol::ProxyProtocolLayer;
use tower_read_timeout::ReadTimeoutLayer;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new().route("/", get(hello));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let each_client = ConnectionLimitLayer::new(0)
        .max_per_client(2)
        .at_capacity([AtCapacity::Reject]);
    let acceptor = ServiceBuilder::new()
        .layer(ConnectionLimitLayer::new(1024)) // of all clients
        .layer(ReadTimeoutLayer::new(Duration::from_secs(10))) // for the header as well
        .layer(ProxyProtocolLayer::required().only_from(|peer| peer.is_loopback()))
        .layer(each_client)
        .service(accept(app));

    axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await
}

async fn hello(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    format!("hello {client}\n")
}

//! Run with `cargo run --example connection_limit`.
//!
//! Then let twenty clients connect and say nothing, and ask: the longest silent ones make room.
//! `for i in $(seq 20); do nc -d 127.0.0.1 3000 & done; sleep 1; curl http://127.0.0.1:3000/`
//!
//! `curl http://127.0.0.1:3000/pause/2000` closes the gate for two seconds: clients wait in the backlog.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Router, routing::get};
use tower::ServiceBuilder;
use tower_connection::AcceptGate;
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer, Limit};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let connections = ConnectionLimitLayer::new(10)
        .max_per_client(8)
        .max_upgraded(100)
        .at_capacity([AtCapacity::MakeRoom, AtCapacity::Reject])
        .retry_after_turnover(Duration::from_secs(1)..=Duration::from_secs(30));
    let gate = AcceptGate::default();

    let app = Router::new()
        .route("/", get(counts))
        .with_state(connections.limit())
        .route("/pause/{ms}", get(pause))
        .with_state(gate.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let acceptor = ServiceBuilder::new()
        .layer(gate)
        .layer(connections)
        .service(accept(app));

    axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await
}

async fn counts(State(limit): State<Limit>) -> String {
    let (open, evicted, rejected) = (limit.open(), limit.evicted(), limit.rejected());
    let counts = format!("{open} open, {evicted} made room, {rejected} rejected\n");
    let mut lines = vec![counts];
    for (client, connections) in limit.top_clients(3) {
        lines.push(format!("{client}: {connections}\n"));
    }
    lines.concat()
}

async fn pause(State(gate): State<AcceptGate>, Path(ms): Path<u64>) {
    let shut = gate.shut();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        drop(shut);
    });
}

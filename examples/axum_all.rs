//! Run with `cargo run --example axum_all`: an axum app as it was, and everything around it.
//!
//! `curl http://127.0.0.1:3000/` is told who it is, as ever. Open <http://127.0.0.1:3000/status> in a browser, or ask
//! `curl http://127.0.0.1:3000/status?format=json`. Then `curl -i http://127.0.0.1:3000/slow`, and Ctrl-C while it waits:
//! the answer comes, says that the connection ends, and then the program does.

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use tokio::{net::TcpListener, time::sleep};
use tower_serve::Preset;

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let preset = Preset::direct();
    let app = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow))
        .route_service("/readyz", preset.drain.readiness())
        .route_service("/status", preset.watch().status_page());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    let report = preset.serve_axum(listener, app).await?;
    println!("{report}");
    Ok(report.exit_code())
}

async fn hello(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("hello {peer}\n")
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(2)).await;
    "hello at last\n"
}

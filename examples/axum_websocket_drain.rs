//! Run with `cargo run --example axum_websocket_drain`, and end it with Ctrl-C while a client of
//! `ws://127.0.0.1:3000/ws` is there: it reads a Close with 1001, and the exit code is 0.
//!
//! What does not end is reset after ten seconds, or by a second Ctrl-C; the report names it, and the exit code is 1.

use std::{io, process::ExitCode, time::Duration};

use axum::{
    Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    response::Response,
    routing::any,
};
use tokio::{net::TcpListener, select, time::timeout};
use tower_serve::{
    Preset, Settings,
    axum::{Notice, Noticed},
};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let mut settings = Settings::direct();
    settings.drain_timeout = Duration::from_secs(10);
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let app = Router::new().route("/ws", any(ws)); // HTTP/1 asks with GET, HTTP/2 with CONNECT

    let report = Preset::new(&settings).serve_axum(listener, app).await?;
    println!("{report}");
    Ok(report.exit_code())
}

async fn ws(Noticed(notice): Noticed, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| echo(socket, notice))
}

async fn echo(mut socket: WebSocket, notice: Notice) {
    loop {
        select! {
            message = socket.recv() => match message {
                Some(Ok(text @ Message::Text(_))) => drop(socket.send(text).await), // if it fails, recv says so
                Some(Ok(_)) => {} // axum answers a Ping and a Close by itself
                Some(Err(_)) | None => return,
            },
            _deadline = notice.given() => break,
        }
    }
    let code = close_code::AWAY; // 1001: the server goes down (RFC 6455, section 7.4.1)
    let reason = "restarting".into();
    let _ = socket
        .send(Message::Close(Some(CloseFrame { code, reason })))
        .await;
    // The client answers with a Close of its own. One that does not would be reset at the deadline, and reported.
    let answer = async { while let Some(Ok(_)) = socket.recv().await {} };
    let _ = timeout(Duration::from_secs(1), answer).await;
}

//! Run with `cargo run --example drain_websockets`, and end it with Ctrl-C while clients are there.
//!
//! `curl -N http://127.0.0.1:3000/events` ends with a whole response, a WebSocket client of `ws://127.0.0.1:3000/ws`
//! reads a Close with 1001, and the exit code is 0. What does not end is reset after ten seconds, or by a second
//! Ctrl-C; the report names it, and the exit code is 1.

use std::{convert::Infallible, process::ExitCode, time::Duration};

use axum::{
    Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{any, get},
};
use futures_util::stream::{Stream, StreamExt, unfold};
use tokio::time::{sleep, timeout};
use tower::ServiceBuilder;
use tower_connection_axum::{Accepting, FromAcceptor, Notice, Noticed, accept};
use tower_drain::Drain;

#[tokio::main]
async fn main() -> std::io::Result<ExitCode> {
    let drain = Drain::new(Duration::from_secs(10));
    drain.begin_on_signals()?;

    let app = Router::new()
        .route("/events", get(events))
        .route("/ws", any(ws))
        .route_service("/readyz", drain.readiness());
    let acceptor = ServiceBuilder::new()
        .layer(drain.layer())
        .service(accept(app));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let server = axum::serve(Accepting::new(listener, acceptor), FromAcceptor);
    let report = drain.run(server).await?;
    println!("{report}");
    Ok(report.exit_code())
}

/// A tick a second, for ever. Browsers ask again by themselves, and find the next server.
async fn events(Noticed(notice): Noticed) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = unfold((), |()| async {
        sleep(Duration::from_secs(1)).await;
        Some((Ok(Event::default().data("tick")), ()))
    });
    Sse::new(ticks.take_until(async move { notice.given().await }))
}

async fn ws(Noticed(notice): Noticed, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| echo(socket, notice))
}

async fn echo(mut socket: WebSocket, notice: Notice) {
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(text @ Message::Text(_))) => {
                    if socket.send(text).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {} // axum answers a Ping and a Close by itself
                Some(Err(_)) | None => return,
            },
            _deadline = notice.given() => break,
        }
    }
    let close = CloseFrame {
        code: close_code::AWAY, // 1001: the server goes down (RFC 6455, section 7.4.1)
        reason: "restarting".into(),
    };
    let _ = socket.send(Message::Close(Some(close))).await;
    // The client answers with a Close of its own. One that does not would be reset at the deadline, and reported.
    let answer = async { while let Some(Ok(_)) = socket.recv().await {} };
    let _ = timeout(Duration::from_secs(1), answer).await;
}

//! Run with `cargo run --example axum_events_drain`, and end it with Ctrl-C while
//! `curl -N http://127.0.0.1:3000/events` reads: its response ends as a whole one, and so does the program.

use std::{convert::Infallible, io, process::ExitCode, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::stream::{Stream, StreamExt, unfold};
use tokio::{net::TcpListener, time::sleep};
use tower_serve::{Preset, axum::Noticed};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let app = Router::new().route("/events", get(events));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    let report = Preset::direct().serve_axum(listener, app).await?;
    println!("{report}");
    Ok(report.exit_code())
}

/// A tick each second, for ever. Browsers ask again by themselves, and find the next server.
async fn events(Noticed(notice): Noticed) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = unfold((), |()| async {
        sleep(Duration::from_secs(1)).await;
        Some((Ok(Event::default().data("tick")), ()))
    });
    Sse::new(ticks.take_until(async move { notice.given().await }))
}

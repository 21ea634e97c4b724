//! Run with `cargo run --example own_limit`, then load it: `h2load -n 2000 -c 50 http://127.0.0.1:3000/`.
//! As many requests are served at once as a law of one's own says. The others wait for a tenth of a second, paying
//! customers first. `curl http://127.0.0.1:3000/status?format=json` shows the limit.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::{io, process::ExitCode, time::Duration};

use axum::{Router, routing::get};
use tokio::{net::TcpListener, time::sleep};
use tower_connection::Head;
use tower_overload::{Criticality, InFlightLimitLayer, Limit, Outcome, Overloaded, Sample, Ticket};
use tower_serve::Preset;

/// Four while answers come within 50 ms, and fewer while they do not.
#[derive(Debug)]
struct Quick(AtomicUsize);

impl Limit for Quick {
    fn limit(&self) -> usize {
        self.0.load(Relaxed)
    }

    fn on_sample(&self, sample: &Sample) {
        let limit = match sample.outcome {
            Outcome::Ignore => return, // a client that asked for what is not there
            Outcome::Ok if sample.latency < Duration::from_millis(50) => self.limit() + 1,
            _ => self.limit() - 1,
        };
        self.0.store(limit.clamp(1, 4), Relaxed);
    }
}

fn classify(head: &Head<'_>) -> Ticket {
    match head.uri.path() {
        "/status" => Ticket::exempt(),
        "/paying" => Ticket::new(Criticality::CriticalPlus),
        _ => Ticket::default(),
    }
}

async fn work() -> &'static str {
    sleep(Duration::from_millis(5)).await;
    "hello\n"
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let mut preset = Preset::direct();
    preset.overload = InFlightLimitLayer::with_limit(Quick(AtomicUsize::new(4)))
        .max_wait(Duration::from_millis(100))
        .classify(classify)
        .respond(Overloaded::default().problem_json());
    let app = Router::new()
        .route("/", get(work))
        .route("/paying", get(work))
        .route_service("/status", preset.watch().status_page());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(preset.serve_axum(listener, app).await?.exit_code())
}

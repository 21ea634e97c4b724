//! Run with `cargo run --example overload`, then load it: `h2load -n 2000 -c 50 http://127.0.0.1:3000/`, and meanwhile
//! `curl http://127.0.0.1:3000/load`.
//!
//! Four requests are served at once, and as many wait for a tenth of a second. Paying customers go first. Who is not served
//! reads when to come back. How many are served at once is a law of one's own, in twenty lines.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_connection::Head;
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_overload::{
    Criticality, InFlightLimitLayer, Limit, Outcome, Overload, Overloaded, Sample, Ticket,
};

/// Four while answers come within 50 ms, and fewer while they do not.
#[derive(Debug)]
struct Quick {
    limit: AtomicUsize,
}

impl Limit for Quick {
    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn on_sample(&self, sample: &Sample) {
        if sample.outcome == Outcome::Ignore {
            return; // a client that left, or asked for what is not there
        }
        let limit = self.limit();
        let quick = sample.latency < Duration::from_millis(50) && sample.outcome == Outcome::Ok;
        let limit = if quick { limit + 1 } else { limit - 1 };
        self.limit.store(limit.clamp(1, 4), Ordering::Relaxed);
    }
}

fn classify(head: &Head<'_>) -> Ticket {
    match head.uri.path() {
        "/load" => Ticket::exempt(),
        "/paying" => Ticket::new(Criticality::CriticalPlus),
        _ => Ticket::default(),
    }
}

async fn work() -> &'static str {
    tokio::time::sleep(Duration::from_millis(5)).await;
    "hello\n"
}

async fn load(State(overload): State<Overload>) -> String {
    format!(
        "{} of {} in flight, {} waiting, about {:?} to wait, {} shed\n",
        overload.in_flight(),
        overload.limit(),
        overload.waiting(),
        overload.estimated_wait(),
        overload.shed(),
    )
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let limit = InFlightLimitLayer::with_limit(Quick {
        limit: AtomicUsize::new(4),
    })
    .max_wait(Duration::from_millis(100))
    .classify(classify)
    .respond(Overloaded::default().problem_json());
    let app = Router::new()
        .route("/", get(work))
        .route("/paying", get(work))
        .route("/load", get(load))
        .with_state(limit.handle())
        .layer(limit);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let acceptor = ServiceBuilder::new().service(accept(app));
    let interrupted = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
    axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
        .with_graceful_shutdown(interrupted)
        .await
}

//! Run with `cargo run --example tonic`: gRPC, which sheds in its own words, and ends well.
//!
//! `grpc_health_probe -addr 127.0.0.1:3000`, or with curl, and five zeros for an empty message:
//! `printf '\0\0\0\0\0' | curl -i --http2-prior-knowledge -H content-type:application/grpc -H te:trailers
//! --data-binary @- --output - http://127.0.0.1:3000/grpc.health.v1.Health/Check`.
//!
//! A call past the hundredth at once reads status 14 (UNAVAILABLE) and when to come back, and a plain request `503`.

use std::{io, process::ExitCode};

use axum::routing::get;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic_health::{ServingStatus::NotServing, server::health_reporter};
use tower_serve::{MaxInFlight, Preset, Settings};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Fixed(100);
    // Calls that are answered after their last message, and may wait long for it. By path, as a header is what clients say.
    settings.untimed_bodies = vec!["/grpc.*".into()];
    let preset = Preset::new(&settings);

    let (mut reporter, health) = health_reporter();
    let app = Routes::new(health) // .add_service(your own)
        .into_axum_router()
        .route("/", get(|| async { "hello\n" }))
        .route_service("/readyz", preset.drain.readiness());

    let watch = preset.drain.watch();
    tokio::spawn(async move {
        watch.begun().await;
        // Who watches is told, and its stream ends: or the drain would wait for it, and cut it.
        reporter.set_service_status("", NotServing).await;
        reporter.clear_service_status("").await;
    });

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let report = preset.serve_axum(listener, app).await?;
    println!("{report}");
    Ok(report.exit_code())
}

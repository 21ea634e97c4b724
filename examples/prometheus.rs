//! Run with `cargo run --example prometheus`, and point Prometheus at <http://127.0.0.1:3000/metrics>.
//!
//! `grafana.json`, beside this file, shows it: in Grafana, Dashboards, New, Import. Without either of them,
//! <http://127.0.0.1:3000/status> shows what is now.

use std::{io, process::ExitCode, time::Duration};

use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tower_serve::{MaxInFlight, Preset, Settings};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    // The app's own metrics, told by the macros of `metrics`, go there as well.
    let recorder = PrometheusBuilder::new().install_recorder();
    let prometheus = recorder.map_err(io::Error::other)?;
    let histograms = prometheus.clone(); // else those of the app grow while nobody asks
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            histograms.run_upkeep();
        }
    });

    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Adaptive;
    settings.max_wait = Duration::from_millis(100); // without it a burst is shed, however well the server is
    let preset = Preset::new(&settings);
    let watch = preset.watch();

    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route_service("/status", watch.status_page())
        .route(
            "/metrics",
            get(move || async move {
                watch.record();
                prometheus.render()
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    let report = preset.serve_axum(listener, app).await?;
    println!("{report}");
    Ok(report.exit_code())
}

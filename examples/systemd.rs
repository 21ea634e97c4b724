//! Run with `cargo run --example systemd`, or by the units in docs/drain.md, and then `systemctl restart hello`.
//!
//! Without systemd, `systemfd --no-pid -s http::3000 -- cargo run --example systemd` hands it a listener, too.

use std::{io, process::ExitCode, time::Duration};

use axum::{Router, routing::get};
use listenfd::ListenFd;
use sd_notify::{NotifyState, notify};
use tokio::{net::TcpListener, time::sleep};
use tower_serve::{Preset, drain::DrainWatch};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let preset = Preset::direct();
    let app = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow))
        .route_service("/readyz", preset.drain.readiness());

    let listener = listener().await?;
    tokio::spawn(tell(preset.drain.watch()));
    notify(&[NotifyState::Ready])?; // without systemd this does nothing
    let report = preset.serve_axum(listener, app).await?;
    Ok(report.exit_code())
}

/// `systemctl status` shows what is still waited for.
async fn tell(mut watch: DrainWatch) {
    watch.begun().await;
    let _ = notify(&[NotifyState::Stopping]);
    loop {
        let progress = watch.changed().await.to_string();
        let _ = notify(&[NotifyState::Status(&progress)]);
    }
}

/// The listener that the process inherited, or a new one.
async fn listener() -> io::Result<TcpListener> {
    match ListenFd::from_env().take_tcp_listener(0)? {
        Some(inherited) => {
            inherited.set_nonblocking(true)?;
            TcpListener::from_std(inherited)
        }
        None => TcpListener::bind("127.0.0.1:3000").await,
    }
}

async fn hello() -> String {
    format!("hello from {}\n", std::process::id())
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(5)).await;
    "hello at last\n"
}

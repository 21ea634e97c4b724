//! Run with `cargo run --example systemd`, or by these two units, and then `systemctl restart hello`.
//!
//! ```ini
//! # /etc/systemd/system/hello.socket
//! [Socket]
//! ListenStream=127.0.0.1:3000
//! [Install]
//! WantedBy=sockets.target
//!
//! # /etc/systemd/system/hello.service
//! [Service]
//! Type=notify
//! ExecStart=/usr/local/bin/hello
//! # SIGTERM is for this process, which drains; children that it left are killed after it.
//! KillMode=mixed
//! # The drain's timeout (and its lame duck, if it has one) and a few seconds more: then comes SIGKILL.
//! TimeoutStopSec=35
//! # The exit code is 1 if something was cut. With this the unit does not count as failed for it:
//! # SuccessExitStatus=1
//! ```
//!
//! The port belongs to systemd, which has it open before the first start and through each restart: nobody is refused.
//! Who comes while the old process drains waits in the backlog until the new one is there. So keep the timeout
//! short, and no lame duck. `systemctl stop hello` alone ends it until the next client comes: stop `hello.socket`, too.

use std::{io, process::ExitCode, time::Duration};

use axum::{Router, routing::get};
use sd_notify::{NotifyState, notify};
use tokio::{net::TcpListener, time::sleep};
use tower::ServiceBuilder;
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_drain::{Drain, DrainWatch};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let drain = Drain::new(Duration::from_secs(30));
    drain.begin_on_signals()?;

    let app = Router::new()
        .route(
            "/",
            get(|| async { format!("hello from {}\n", std::process::id()) }),
        )
        .route("/slow", get(slow))
        .route_service("/readyz", drain.readiness());
    let acceptor = ServiceBuilder::new()
        .layer(drain.layer())
        .service(accept(app));
    let server = axum::serve(Accepting::new(listener().await?, acceptor), FromAcceptor);

    tokio::spawn(tell(drain.watch()));
    notify(&[NotifyState::Ready])?; // without systemd this does nothing
    let report = drain.run(server).await?;
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
    match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        Some(inherited) => {
            inherited.set_nonblocking(true)?;
            TcpListener::from_std(inherited)
        }
        None => TcpListener::bind("127.0.0.1:3000").await,
    }
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(5)).await;
    "hello at last\n"
}

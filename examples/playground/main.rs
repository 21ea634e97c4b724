//! Run with `cargo run --release --example playground -- --help`.
//!
//! A server with every behaviour of this project as a flag, on every stack, for people to try and for
//! tests to drive. SIGTERM or SIGINT begins the drain, a second one ends it at once.

#![allow(missing_docs, reason = "a program; its documentation is --help")]

mod app;
mod flags;
mod tls;

use std::{error::Error, io, net::SocketAddr};

use axum::Router;
use clap::Parser;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tower::{Layer, Service};
use tower_serve::{
    Preset,
    axum::{Accepting, FromAcceptor},
    connection::{Connection, ConnectionService, Socket},
    connection_limit::ConnectionLimitLayer,
    drain::DrainService,
    hyper::serve,
    keep_alive::KeepAliveService,
    overload::InFlightLimit,
    read_timeout::ReadTimeoutService,
    rustls::TlsLayer,
};
use tracing_subscriber::EnvFilter;

use crate::{
    app::{Requests, Server},
    flags::{Flags, Stack},
};

type BoxError = Box<dyn Error + Send + Sync>;

/// glibc's allocator keeps what a burst of clients took: a thousand of them, long gone, left 20 MB resident. How soon
/// this one gives it back is said in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let flags = Flags::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(io::stderr)
        .init();

    let preset = Preset::new(&flags.settings());
    let affordable = ConnectionLimitLayer::default().limit().max();
    if !(1..=affordable).contains(&flags.max_connections) {
        tracing::warn!(affordable, "more connections than this process should have");
    }
    let requests = Requests::default();
    let app = app::router(Server {
        watch: preset.watch(),
        connections: preset.connection_limit.limit(),
        overload: preset.overload.handle(),
        drain: preset.drain.clone(),
        requests: requests.clone(),
    });
    let app = match flags.stack {
        Stack::Tonic => app.merge(grpc().await),
        _ => app,
    };

    preset.drain.begin_on_signals()?;
    let listener = listen(flags.listen)?;
    let scheme = if flags.tls { "https" } else { "http" };
    println!("listening on {scheme}://{}", listener.local_addr()?);

    let drain = preset.drain.clone();
    let app = preset.accept(app.with_state(()));
    let report = if flags.tls {
        let preset = preset.inside(TlsLayer::new(tls::config(flags.stack)?));
        drain
            .run(run(flags.stack, listener, preset.layer(app)))
            .await?
    } else {
        drain
            .run(run(flags.stack, listener, preset.layer(app)))
            .await?
    };
    tracing::info!(requests = requests.total(), "answered");
    report.exit()
}

/// `TcpListener::bind` would have a backlog of 128, and more clients than that who come at once would meet the
/// kernel's retransmission timer. The kernel takes this as its maximum (`net.core.somaxconn`).
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(u32::from(u16::MAX))
}

/// The service of each connection.
type Served =
    DrainService<KeepAliveService<ReadTimeoutService<ConnectionService<InFlightLimit<Router>>>>>;

/// Serves on one of the five stacks. The acceptor knows when to end.
async fn run<A, I>(stack: Stack, listener: TcpListener, acceptor: A) -> io::Result<()>
where
    A: Service<TcpStream, Response = Connection<I, Served>>,
    A: Send + 'static,
    A::Error: Into<BoxError>,
    A::Future: Send + 'static,
    I: Socket,
{
    match stack {
        Stack::Axum => axum::serve(Accepting::new(listener, acceptor), FromAcceptor).await,
        Stack::HyperHttp1 => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new());
            serve(listener, acceptor).with_builder(builder).await
        }
        Stack::HyperHttp2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).enable_connect_protocol();
            serve(listener, acceptor).with_builder(builder).await
        }
        Stack::HyperAuto | Stack::Tonic => serve(listener, acceptor).await,
    }
}

/// A gRPC service beside the plain routes: `grpc.health.v1.Health`.
async fn grpc() -> Router {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    tonic::service::Routes::new(health).into_axum_router()
}

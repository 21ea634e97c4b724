//! Every behaviour of a good HTTP server, in one call.
//!
//! A server that meets the internet needs a limit of its connections, an end for those that are idle, time limits for
//! clients that send or read slowly, a way to refuse what it cannot do, and an end that loses nothing. Each is a crate of
//! its own and a layer; a [`Preset`] is all of them, in the order in which they belong, with settings that suit most.
//!
//! # With axum
//!
//! ```no_run
//! use std::process::ExitCode;
//! use axum::{Router, routing::get};
//! use tower_serve::Preset;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<ExitCode> {
//!     let app = Router::new().route("/", get(|| async { "hello" }));
//!     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//!     let report = Preset::direct().serve_axum(listener, app).await?;
//!     Ok(report.exit_code())
//! }
//! ```
//!
//! # With hyper
//!
//! ```no_run
//! # use std::{convert::Infallible, process::ExitCode};
//! # use http::{Request, Response};
//! use tower_serve::{Incoming, Preset};
//!
//! # async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
//! #     Ok(Response::new("hello".into()))
//! # }
//! # async fn run() -> std::io::Result<ExitCode> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//! let report = Preset::direct().serve_hyper(listener, tower::service_fn(hello)).await?;
//! # Ok(report.exit_code())
//! # }
//! ```
//!
//! The service takes requests with an [`Incoming`] body of this crate, which has a time limit, in the place of hyper's.
//!
//! # Server-sent events and WebSockets
//!
//! Ask for [`Noticed`](axum::Noticed). A drain waits for what runs. What runs for ever must be told that the server ends, or it
//! is waited for until the drain's timeout, then reset, and the exit code is 1.
//!
//! ```
//! use std::convert::Infallible;
//! use axum::response::sse::{Event, Sse};
//! use futures_util::stream::{Stream, StreamExt, pending};
//! use tower_serve::axum::Noticed;
//!
//! async fn events(Noticed(notice): Noticed) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
//!     let news = pending(); // your stream
//!     Sse::new(news.take_until(notice.given()))
//! }
//! # let _ = events;
//! ```
//!
//! A WebSocket waits for `notice.given()` beside its `recv()`, and says Close. On hyper the notice is that of the
//! [`ConnectionHandle`](connection::ConnectionHandle::notice) in the request's extensions.
//!
//! # Which preset
//!
//! | | [`direct`](Preset::direct) | [`behind_balancer`](Preset::behind_balancer) |
//! | --- | --- | --- |
//! | take it when | clients reach the port | only nginx, HAProxy, Envoy, a cloud's balancer do |
//! | an idle connection ends after | 5 s: a client that comes back later opens another | 75 s: longer than the balancer keeps it, so no request crosses with the end |
//! | when told to end, all are served for | 0 s | 5 s more, in which the balancer learns of it |
//! | then what runs may finish for | 30 s | 20 s: with the 5 s before it fits into the 30 s of Kubernetes |
//! | who is the client | the peer | as the [`ProxyProtocol`] says, which you must say |
//!
//! Everything else is the same in both: at most 1024 connections for each worker of the runtime, 10 s for a head, 30 s
//! in which a body or a client that reads may stand still. Load is not shed until you say so; [`MaxInFlight`] says why. Where
//! each number comes from is in `docs/defaults.md`.
//!
//! # Settings
//!
//! [`Settings`] are a plain struct. They can be read from environment variables ([`Settings::from_env`]:
//! `APP_WRITE_TIMEOUT=10s`), and with the feature `serde` from a file of any format that tells what it holds (TOML, JSON,
//! YAML). What is wrong is refused at start, with its name and what is right.
//!
//! # Seen while it runs
//!
//! - [`Preset::watch`] tells what is open, in flight, waiting, refused and ended, by reason.
//! - [`Watch::status_page`] is a service that shows it to a person, or as JSON.
//! - With the feature `metrics`, [`Watch::record`] tells it to the recorder of `metrics`. A dashboard for Grafana is beside
//!   `examples/prometheus.rs`.
//! - The layers tell `tracing` whom they refuse or end and why, of each kind at most ten times a second (idle connections, at
//!   `DEBUG`, a hundred).
//!
//! # Testing
//!
//! The app alone, as ever; a preset changes nothing of it:
//!
//! ```
//! use axum::{Router, body::Body, routing::get};
//! use http::Request;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let answer = app.oneshot(Request::new(Body::empty())).await?;
//! assert_eq!(answer.status(), 200);
//! # Ok(()) }
//! ```
//!
//! With its limit of requests around it, here one that is full:
//!
//! ```
//! # use axum::{Router, body::Body, routing::get};
//! # use http::Request;
//! use tower::{Layer, ServiceExt};
//! use tower_serve::{MaxInFlight, Preset, Settings};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let app = Router::new().route("/", get(|| async { "hello" }));
//! let mut settings = Settings::direct();
//! settings.max_in_flight = MaxInFlight::Fixed(1);
//! let app = Preset::new(&settings).overload.layer(app.with_state(()));
//!
//! let first = app.clone().oneshot(Request::new(Body::empty())).await?; // it lasts to the end of its body
//! let second = app.oneshot(Request::new(Body::empty())).await?;
//! assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 503));
//! # Ok(()) }
//! ```
//!
//! A connection through all layers, over a pipe and with a clock that is paused (tokio's feature `test-util`):
//!
//! ```
//! # use axum::{Router, routing::get};
//! use hyper::server::conn::http1;
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt, duplex}, time::Instant};
//! use tower::ServiceExt;
//! use tower_serve::{Preset, hyper::drive};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # let app = Router::new().route("/", get(|| async { "hello" }));
//! let (mut client, server) = duplex(64 * 1024);
//! let connection = Preset::direct().acceptor(app.with_state(())).oneshot(server).await?;
//! tokio::spawn(async move { drive(connection, &http1::Builder::new()).await });
//!
//! client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
//! let (begun, mut answer) = (Instant::now(), String::new());
//! client.read_to_string(&mut answer).await?; // until the server closes it, as it is idle
//! assert!(answer.starts_with("HTTP/1.1 200 "));
//! assert_eq!(begun.elapsed().as_secs(), 5);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! `axum` and `hyper` (both on) for the two calls, `rustls` for TLS, `serde` for files, `metrics`. Nothing is released yet:
//!
//! ```toml
//! [dependencies]
//! tower-serve = { git = "https://github.com/tower-connection/tower-connection", features = ["rustls"] }
//! ```
//!
//! # What it does not do
//!
//! It has no opinion of requests: no tracing of them, no compression, no CORS, no authentication. That is the app's,
//! and tower-http's. [Readiness](tower_drain::Drain::readiness) and the [page](StatusPage) are routes that you
//! put where you want them.

mod preset;
#[cfg(feature = "metrics")]
mod record;
#[cfg(any(feature = "axum", feature = "hyper"))]
mod serve;
mod settings;
mod status;
mod watch;

// The crates under one roof.
#[cfg(feature = "axum")]
pub use tower_connection_axum as axum;
#[cfg(feature = "hyper")]
pub use tower_connection_hyper as hyper;
#[cfg(feature = "rustls")]
pub use tower_connection_rustls as rustls;
pub use {
    tower_connection as connection, tower_connection_limit as connection_limit,
    tower_connection_proxy_protocol as proxy_protocol, tower_drain as drain,
    tower_keep_alive as keep_alive, tower_overload as overload, tower_read_timeout as read_timeout,
    tower_write_timeout as write_timeout,
};

/// The body of a request that comes through a [`Preset`] on hyper, in the place of [`hyper::body::Incoming`](::hyper::body::Incoming):
/// the same bytes, with their [time limit](read_timeout::ReadTimeoutLayer::body).
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use tower_serve::Incoming;
///
/// async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
///     Ok(Response::new("hello".into()))
/// }
/// ```
#[cfg(feature = "hyper")]
pub type Incoming = read_timeout::ReadTimeoutBody<::hyper::body::Incoming>;

pub use crate::{
    preset::{Preset, Stacked},
    settings::{MaxConnections, MaxInFlight, ProxyProtocol, Settings, SettingsError},
    status::StatusPage,
    watch::{Count, Look, Watch},
};

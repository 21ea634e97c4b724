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
//! [`Settings`] are a plain struct. They can be read from environment variables ([`Settings::from_env`]: `APP_WRITE_TIMEOUT=10s`), and
//! with the feature `serde` from a file of any format. What is wrong is refused at start, with its name and what is right.
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
//! # Features
//!
//! `axum` and `hyper` (both on) for the two calls, `rustls` for TLS, `serde` for files, `metrics`.
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

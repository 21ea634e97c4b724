//! Make room for, readably refuse, or wait for connections past a limit.
//!
//! A server that accepts without a limit dies by its descriptors: at `RLIMIT_NOFILE` it can no longer
//! open a file or reach its database. `axum::serve` 0.8 and hyper have no such limit, and a limit on
//! requests does not help against clients that connect and say nothing. [`ConnectionLimitLayer`] counts
//! sockets: TLS handshakes, rejections, streaming bodies and WebSockets included.
//!
//! # With axum
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower::ServiceBuilder;
//! use tower_connection_axum::{Accepting, FromAcceptor, accept};
//! use tower_connection_limit::ConnectionLimitLayer;
//!
//! # async fn run() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(ConnectionLimitLayer::new(1024))
//!     .service(accept(app));
//!
//! axum::serve(Accepting::new(listener, acceptor), FromAcceptor).await
//! # }
//! ```
//!
//! # With hyper
//!
//! ```no_run
//! use hyper::server::conn::http1;
//! use tower::{ServiceBuilder, service_fn};
//! use tower_connection_hyper::{Accept, serve};
//! use tower_connection_limit::ConnectionLimitLayer;
//!
//! # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
//! #     Ok(http::Response::new("hello".into()))
//! # }
//! # async fn run() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(ConnectionLimitLayer::new(1024))
//!     .service(Accept::new(service_fn(hello)));
//!
//! serve(listener, acceptor).with_builder(http1::Builder::new()).await
//! # }
//! ```
//!
//! # What counts
//!
//! A permit is taken before `accept(2)` and lives in the socket, so it comes back when the socket is
//! closed, however the client or the handler died. Silent clients, TLS handshakes, streaming bodies and
//! WebSockets hold one.
//!
//! # When the limit is reached
//!
//! [`AtCapacity`] says what a further client sees. By default the connection that is idle the longest makes
//! room for it; if all are at work, it reads a `503`; and if too many are reading that already, it waits.
//! The newcomer is accepted for this, into a [reserve](ConnectionLimitLayer::reserve) that is bounded in
//! number, and each stay there in bytes and time. A client may have a
//! [limit of its own](ConnectionLimitLayer::max_per_client).
//!
//! # What it tells
//!
//! A [`Limit`] counts whom it turned away, [by the reason](Limit::rejected_for), and who made room. Each is an event of
//! `tracing` too (at `INFO`, ten of either in a second and the number of the others): of a client that was turned away the
//! peer, the [`Reason`], how many connections there are of how many that may be, and whether it was rejected or closed
//! without a word; of a connection that made room the peer, and for how long it was idle.
//!
//! # What this does not do
//!
//! It sees connections, not requests: a client that keeps a request in flight on each of its connections
//! keeps them. Limit them per client, and set timeouts. It does not slow down accepting; for that there is
//! `tower_connection::AcceptGate`, and tower's `RateLimitLayer`.
//!
//! When one limit is shared by several servers (an HTTP and an HTTPS port), each keeps one permit in
//! reserve for its next client, so up to one fewer per further server are open at once.
//!
//! # What it costs
//!
//! A lock when a connection comes and when it goes. For a request, nothing: each read and write of the
//! socket looks at one flag. Finding the connection that is idle the longest is a look at the first of a
//! sorted set, and one more for each connection that was used since it was last looked at.

mod accept;
mod books;
mod client;
mod descriptors;
mod io;
mod layer;
mod ledger;
mod limit;
mod reason;
mod seat;
mod settings;
mod turnover;

pub use crate::{
    accept::{ConnectionLimit, ConnectionLimitFuture},
    client::Client,
    io::{LimitedIo, Place},
    layer::ConnectionLimitLayer,
    limit::Limit,
    reason::Reason,
    settings::AtCapacity,
};

//! Wait for, or readably refuse, connections past a limit.
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
//! closed, however the client or the handler died. [`AtCapacity`] says what a further client sees.
//!
//! # What this does not do
//!
//! It does not close idle connections to make room, and does not tell one client from another: a client
//! that opens `max` connections and says nothing keeps everybody else out. Until it does, set a timeout
//! for the first byte (hyper's `header_read_timeout`).
//!
//! When one limit is shared by several servers (an HTTP and an HTTPS port), each keeps one permit in
//! reserve for its next client, so up to one fewer per further server are open at once.

mod accept;
mod io;
mod layer;
mod permit;
mod service;

pub use crate::{
    accept::{ConnectionLimit, ConnectionLimitFuture},
    io::{LimitedIo, Place},
    layer::{AtCapacity, ConnectionLimitLayer, Limit},
    service::{LimitedResponseFuture, LimitedService},
};

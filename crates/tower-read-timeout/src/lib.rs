//! A request must arrive in time: its first byte, its head and its body.
//!
//! A client that sends one byte a second holds a connection for as long as it likes. `axum::serve` 0.8 has no
//! timeout for that, hyper's covers the head of HTTP/1 only, begins after the protocol was told, and is its
//! keep-alive timeout as well; and a timeout around the handler blames the client for the handler's slowness.
//! [`ReadTimeoutLayer`] bounds each part of a request by itself, and counts only the time in which the server
//! was waiting for the client.
//!
//! # With axum
//!
//! ```no_run
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower::ServiceBuilder;
//! use tower_connection_axum::{Accepting, FromAcceptor, accept};
//! use tower_read_timeout::ReadTimeoutLayer;
//!
//! # async fn run() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(ReadTimeoutLayer::new(Duration::from_secs(10)))
//!     .service(accept(app));
//!
//! axum::serve(Accepting::new(listener, acceptor), FromAcceptor).await
//! # }
//! ```
//!
//! # With hyper
//!
//! ```no_run
//! use std::time::Duration;
//! use hyper::server::conn::http1;
//! use tower::{ServiceBuilder, service_fn};
//! use tower_connection_hyper::{Accept, serve};
//! use tower_read_timeout::ReadTimeoutLayer;
//!
//! // Generic over the body, as the layer wraps it.
//! async fn hello<B>(_: http::Request<B>) -> Result<http::Response<String>, std::convert::Infallible> {
//!     Ok(http::Response::new("hello".into()))
//! }
//!
//! # async fn run() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(ReadTimeoutLayer::new(Duration::from_secs(10)))
//!     .service(Accept::new(service_fn(hello)));
//!
//! serve(listener, acceptor).with_builder(http1::Builder::new()).await
//! # }
//! ```
//!
//! # What is bounded
//!
//! | part | begins | ends | default | past it |
//! | --- | --- | --- | --- | --- |
//! | handshake | accept | the connection is made (TLS) | as the head | closed |
//! | first byte | the connection is made | a byte | as the head | FIN |
//! | head | its first byte | all of it was read | 10 s | `408` and FIN; HTTP/2: FIN, and all streams with it |
//! | HTTP/2's opening | its first byte | the client's SETTINGS | as the head | FIN |
//! | body | the service waits for it | its end | 30 s without a byte, 240 bytes a second | `408` |
//!
//! A head is not given more time by its bytes, unless [you say so](ReadTimeoutLayer::head_growing). Between two
//! requests nothing is bounded: that is the promise of a keep-alive timeout, and this layer never shortens it.
//!
//! The time of a body is the time for which the service was *waiting* for it. A handler that does not read, or
//! works between two reads, uses up none of it, and neither does a process that was stopped: what has arrived
//! meanwhile is read first. Upgraded connections are not timed, nor is a gRPC call once its response has begun: the
//! service says so, by its `content-type`. Others whose client may be silent, whatever the service sends meanwhile, are
//! exempt if [you say so](ReadTimeoutLayer::body_unless).
//!
//! # Beside hyper's own timeout
//!
//! hyper's `header_read_timeout` (30 s, if the builder has a timer) begins when hyper waits for a request, so it
//! also ends idle connections. The driver of `tower-connection-hyper` turns it off on connections that have this
//! layer or a keep-alive layer; in a loop of your own, set it to `None`. `axum::serve` 0.8 sets no timer, so
//! there it is off in any case.
//!
//! # What this does not do
//!
//! Half a head that comes before the response to the request before it is not seen until one more byte of it
//! arrives; until then the connection is idle. On HTTP/2, where hyper gives a stream and its connection windows of
//! the same size, one upload that a handler does not read keeps those of its neighbours from arriving, and they are
//! blamed for it. The time in which a client takes its response is the promise of a write timeout.
//!
//! # What it tells
//!
//! [`ReadTimeoutLayer::ends`] counts what did not arrive in time, by its [`Reason`]: a connection once, and on HTTP/2 each
//! stream whose body did not come. A client that leaves before its time is over is not among them. Each is an event of
//! `tracing` too (at `INFO`, ten in a second and the number of the others): the peer, the connection's id, the reason, for
//! how long it was waited for, how many bytes had come.
//!
//! # What it costs
//!
//! One timer for each connection, armed when it is waited for the first byte, and again when a head does not
//! come in one piece. A body that has not all arrived when the service asks for it costs a timer of its own, and
//! each request with a body an allocation.

mod accept;
mod body;
mod ends;
mod io;
mod layer;
mod service;

pub use crate::{
    accept::{HandshakeTimedOut, ReadTimeout, ReadTimeoutFuture},
    body::{BodyTimedOut, ReadTimeoutBody},
    ends::Reason,
    io::{ReadTimeoutIo, Reading},
    layer::ReadTimeoutLayer,
    service::{ReadTimeoutResponseFuture, ReadTimeoutService},
};

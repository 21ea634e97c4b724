//! Close HTTP connections that nobody is using, and renew those that are used for long.
//!
//! A connection that is kept costs a descriptor and memory, and a client that forgets it costs them for ever:
//! `axum::serve` 0.8 has no idle timeout at all, and hyper's covers HTTP/1 only. A timer on bytes is worse than
//! none, as it cuts slow handlers and silent streams. [`KeepAliveLayer`] knows what is under way on each
//! connection, and closes those where that is nothing.
//!
//! # With axum
//!
//! ```no_run
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower::ServiceBuilder;
//! use tower_connection_axum::{Accepting, FromAcceptor, accept};
//! use tower_keep_alive::KeepAliveLayer;
//!
//! # async fn run() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(KeepAliveLayer::new(Duration::from_secs(5)))
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
//! use tower_keep_alive::KeepAliveLayer;
//!
//! # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
//! #     Ok(http::Response::new("hello".into()))
//! # }
//! # async fn run() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(KeepAliveLayer::new(Duration::from_secs(5)))
//!     .service(Accept::new(service_fn(hello)));
//!
//! serve(listener, acceptor).with_builder(http1::Builder::new()).await
//! # }
//! ```
//!
//! # What is idle
//!
//! A connection that was asked at least once (or has opened HTTP/2) and on which nothing is under way: no
//! request from the first byte of its head to the last byte of its response, no stream of HTTP/2, no WebSocket.
//! PING, SETTINGS and blank lines are not activity.
//!
//! Before it is closed, the socket is read once more: a request that has already arrived is served, with
//! `Connection: close`. HTTP/1 ends with FIN, HTTP/2 with GOAWAY and FIN.
//!
//! # How long
//!
//! A client that sends a request at the moment at which the server closes cannot know whether it was
//! processed. So HTTP/1 clients are told a time that is [a second shorter](KeepAliveLayer::margin), by
//! `Keep-Alive: timeout=4`. Nothing is told with the answer to a request whose body was not read to its end, as hyper
//! may then close the connection, or is not known to be: that takes the layer of `tower-read-timeout`, and a
//! `Content-Length`. Clients that do not listen to that have a timeout of their own, and the server's
//! should be longer:
//!
//! | client | its timeout | take at least |
//! | --- | --- | --- |
//! | browsers, curl, users of the public internet | they retry | 5 s, the default |
//! | AWS Application Load Balancer | 60 s | 65 s |
//! | Google Cloud Load Balancer | 600 s | 620 s |
//! | nginx, `keepalive_timeout` of an `upstream` | 60 s | 65 s |
//! | Envoy, `idle_timeout` of a cluster | 1 h | set it there |
//!
//! The price of a longer time is idle connections. Behind a balancer there are few; elsewhere put a connection
//! limit that makes room for newcomers outside of this layer, and they do no harm.
//!
//! # What this does not do
//!
//! It does not bound the time from accept to the first request, nor that from the first byte of a head to its
//! last; that is the promise of a read timeout, and the two belong together. (The driver of
//! `tower-connection-hyper` turns hyper's own `header_read_timeout` off on connections that have this layer, as it
//! would end those that are idle.) A body that a service goes on reading after its response counts as work only
//! where that layer wraps it, or on HTTP/2; and half a head that follows an upload is known from its rest only there.
//! Nor does it send PINGs: a client that has vanished is noticed when the connection is idle for too long, or by TCP.
//!
//! # What it tells
//!
//! [`KeepAliveLayer::ends`] counts the connections that it ended, each once and by its [`Reason`]; those that their clients
//! close are not among them, nor are those of clients that [must not be kept](KeepAliveLayer::unless). Each is an event of
//! `tracing` too (at `DEBUG`, a hundred in a second and the number of the others): the peer, the connection's id, the
//! reason, for how long it was idle, its age, its requests.
//!
//! # What it costs
//!
//! One timer for each connection, armed when it is idle first and then no more often than once per timeout,
//! however many requests there are. For each request of HTTP/1 one header is added, whose value is not
//! allocated (but for [`max_requests`](KeepAliveLayer::max_requests), which counts down in it).

mod accept;
mod ends;
mod io;
mod layer;
mod service;

pub use crate::{
    accept::{KeepAlive, KeepAliveFuture},
    ends::Reason,
    io::{Idle, KeepAliveIo},
    layer::KeepAliveLayer,
    service::{KeepAliveResponseFuture, KeepAliveService},
};

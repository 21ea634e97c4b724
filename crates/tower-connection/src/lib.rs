//! A connection is a value, an acceptor is a Tower service.
//!
//! Server behaviour (a cap on connections, an idle timeout, a drain) needs the socket *and* the
//! requests on it: a timer on the socket kills a slow handler, a timer on the request never sees a
//! client that stopped reading. This crate is the vocabulary that lets one `tower::Layer` hold both
//! halves, and lets the same stack of layers run under `axum::serve`, hyper and tonic. It decides
//! nothing; the crates beside it do.
//!
//! - A [`Connection`] is a socket and the service that will answer on it.
//! - An *acceptor* is a `Service<Io, Response = Connection<..>>`. Its `poll_ready` is admission: until
//!   it is ready, nobody calls `accept(2)`. [`Accept`] is the innermost one.
//! - A *layer* wraps an acceptor, and in its `call` whatever it needs: the socket ([`Hooked`]), the
//!   service, or both. `tower::timeout`, `tower::limit` and your own TLS are layers like any other.
//!
//! # With axum
//!
//! `axum::serve` stays; see `tower-connection-axum`.
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
//! The same acceptor, in a loop of your own ([`AcceptExt::accept`]) or in the one of
//! `tower-connection-hyper`.
//!
//! ```no_run
//! use tower::{ServiceBuilder, service_fn};
//! use tower_connection::Accept;
//! use tower_connection_hyper::serve;
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
//! serve(listener, acceptor).await
//! # }
//! ```
//!
//! # A layer of your own
//!
//! Refuse a network, before a byte is read:
//!
//! ```
//! use std::{convert::Infallible, future::Future, pin::Pin, task::{Context, Poll}};
//! use tower::{BoxError, Service, ServiceBuilder, service_fn};
//! use tower_connection::{Accept, Socket};
//!
//! /// Resets connections from outside this machine.
//! #[derive(Clone)]
//! struct LoopbackOnly<A>(A);
//!
//! impl<A, Io> Service<Io> for LoopbackOnly<A>
//! where
//!     A: Service<Io, Error: Into<BoxError>, Future: Send + 'static>,
//!     Io: Socket,
//! {
//!     type Response = A::Response;
//!     type Error = BoxError;
//!     type Future = Pin<Box<dyn Future<Output = Result<A::Response, BoxError>> + Send>>;
//!
//!     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
//!         self.0.poll_ready(cx).map_err(Into::into)
//!     }
//!
//!     fn call(&mut self, io: Io) -> Self::Future {
//!         if io.peer().ip().is_some_and(|peer| !peer.ip().is_loopback()) {
//!             let _ = io.reset_on_close(); // which is here: nobody has it any more
//!             return Box::pin(async { Err("it is not from this machine".into()) });
//!         }
//!         let accepted = self.0.call(io);
//!         Box::pin(async { accepted.await.map_err(Into::into) })
//!     }
//! }
//!
//! # async fn hello(_: http::Request<()>) -> Result<http::Response<()>, Infallible> { unimplemented!() }
//! let acceptor = ServiceBuilder::new()
//!     .layer_fn(LoopbackOnly)
//!     .service(Accept::new(service_fn(hello)));
//! # let _ = acceptor;
//! ```
//!
//! # What each half cannot see
//!
//! A socket sees bytes, not requests: hyper reads while a handler runs (to notice a hang-up), so a
//! pending read is not idleness, and a stalled HTTP/2 stream leaves the socket idle and writable. A
//! service sees requests, not bytes: its response ends for it when the body has been handed over. After
//! an HTTP/1 upgrade the service is dropped and the socket lives on. Hence the [`ConnectionHandle`].

mod accept;
mod backlog;
mod body;
mod closed;
mod connection;
mod connections;
mod deadline;
mod frames;
mod gate;
mod handle;
mod head;
mod io;
mod notice;
mod obey;
mod rejection;
mod service;
mod socket;
mod state;
mod tally;
mod throttle;
mod upload;

pub use crate::{
    accept::{Accept, AcceptError, AcceptExt, AcceptMake, AcceptMakeFuture, Accepted},
    backlog::Backlog,
    body::Guarded,
    closed::Closed,
    connection::Connection,
    connections::{Connections, Registered},
    deadline::{Deadline, FOREVER, LATE},
    frames::{Stream, Streams, Window},
    gate::{AcceptGate, Gated, Shut},
    handle::{ConnectionHandle, ConnectionId, End, InFlight, Receiving},
    head::Head,
    io::{Hook, Hooked, Over, poll_write_slices},
    notice::{Notice, NoticeBoard},
    obey::{ConnectionIo, Obey},
    rejection::{Rejectable, Rejection},
    service::{ConnectionResponseFuture, ConnectionService},
    socket::{Address, BoxIo, Held, Socket},
    tally::{Label, Tally},
    throttle::Throttle,
    upload::{BodyClock, BodyWait},
};

//! Serve a stack of connection layers under an unmodified `axum::serve`.
//!
//! `axum::serve` 0.8 shows nothing of its connections: no limit, no timeout, no handle. What it does take
//! is a listener and a make-service, and that is enough: [`Accepting`] accepts through your layers, and
//! [`FromAcceptor`] hands axum the service that they made.
//!
//! # Examples
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower::ServiceBuilder;
//! use tower_connection_axum::{Accepting, FromAcceptor, accept};
//!
//! # async fn run() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new() // your layers
//!     .service(accept(app));
//!
//! axum::serve(Accepting::new(listener, acceptor), FromAcceptor).await
//! # }
//! ```
//!
//! The same `acceptor`, unchanged, goes to `tower_connection_hyper::serve(listener, acceptor)`.
//!
//! `ConnectInfo<SocketAddr>`, WebSockets and `with_graceful_shutdown` work as ever. A handler that wants
//! more asks for `Extension<ConnectionHandle>`.
//!
//! # What this does not do
//!
//! It cannot reach hyper's connection, which axum 0.8 keeps to itself. `ConnectionHandle::close` works all
//! the same: on HTTP/2 the socket half writes the GOAWAY, between two frames of hyper's.

mod listener;
mod make_service;
mod noticed;

pub use tower_connection::{Accept, AcceptMake, BoxIo, ConnectionHandle, Notice};

pub use crate::{
    listener::{Accepting, Io, Waiting},
    make_service::{AxumResponseFuture, AxumService, FromAcceptor, accept},
    noticed::Noticed,
};

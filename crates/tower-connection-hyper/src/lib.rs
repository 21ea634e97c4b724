//! Serve a stack of connection layers with hyper.
//!
//! A hyper server writes its own accept loop, and gets one of these wrong: polling readiness before
//! `accept(2)`, backing off without descriptors, `TCP_NODELAY`, handshakes that block each other, a
//! graceful end for HTTP/1 with upgrades. [`serve`] is that loop done right, with your own settings on
//! hyper's `http1`, `http2` or `auto` builder; [`drive`] is the part of it that you need in a loop of your
//! own.
//!
//! # Examples
//!
//! ```no_run
//! use http::{Request, Response};
//! use hyper::{body::Incoming, server::conn::http1};
//! use tower::{ServiceBuilder, service_fn};
//! use tower_connection_hyper::{Accept, serve};
//!
//! async fn hello(_: Request<Incoming>) -> Result<Response<String>, std::convert::Infallible> {
//!     Ok(Response::new("hello".into()))
//! }
//!
//! # async fn run() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//! let acceptor = ServiceBuilder::new() // your layers
//!     .service(Accept::new(service_fn(hello)));
//!
//! serve(listener, acceptor).with_builder(http1::Builder::new()).await
//! # }
//! ```
//!
//! A loop of your own needs three lines:
//!
//! ```no_run
//! # use hyper::server::conn::http1;
//! # use tower_connection_hyper::{Accept, AcceptExt, drive};
//! # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
//! #     Ok(http::Response::new("hello".into()))
//! # }
//! # async fn run(mut acceptor: Accept<tower::util::ServiceFn<fn(http::Request<hyper::body::Incoming>) -> std::future::Ready<Result<http::Response<String>, std::convert::Infallible>>>>) -> Result<(), Box<dyn std::error::Error>> {
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let builder = http1::Builder::new();
//! # loop {
//! # let builder = builder.clone();
//! let connection = acceptor.accept(listener.accept()).await?; // ready first, then accept(2)
//! tokio::spawn(async move {
//!     drive(connection.await.expect("infallible"), &builder).await
//! });
//! # }
//! # }
//! ```
//!
//! # After an upgrade
//!
//! hyper is handed a [`BoxIo`], so `Upgraded::downcast::<TokioIo<BoxIo>>` (for `auto`: hyper-util's
//! `auto::upgrade::downcast`) works whatever the layers are, and
//! [`BoxIo::into_innermost`] leads back to the accepted socket.
//!
//! # What this does not do
//!
//! The graceful shutdown has no deadline, and upgraded connections are not waited for.

mod backoff;
mod builder;
mod drive;
mod listener;
mod serve;

pub use tower_connection::{Accept, AcceptExt, AcceptMake, BoxIo};

pub use crate::{
    builder::Builder,
    drive::{Drive, drive},
    listener::{BoxListener, Listener},
    serve::{Serve, serve},
};

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
//! In a loop of your own, [`AcceptExt::accept`] keeps the order (ready first, then `accept(2)`), and
//! [`drive`] serves what comes out; its example is such a loop.
//!
//! # After an upgrade
//!
//! hyper is handed a [`BoxIo`], so `Upgraded::downcast::<TokioIo<BoxIo>>` (for `auto`: hyper-util's
//! `auto::upgrade::downcast`) works whatever the layers are, and
//! [`BoxIo::into_innermost`] leads back to the accepted socket.
//!
//! # What this does not do
//!
//! The graceful shutdown has no deadline, and upgraded connections are not waited for: that is `tower-drain`'s.

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

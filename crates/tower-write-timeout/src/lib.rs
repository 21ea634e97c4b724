//! A client must keep taking its response, and giving up frees everything.
//!
//! A client that asks for a large file and does not read it costs nothing, and holds a handler, a body, its buffers
//! and megabytes of the kernel's memory for as long as it likes. hyper and axum have no timeout for that. A timer on
//! the socket's writes does not see HTTP/2, where a stream whose window stays shut leaves the socket idle; it cuts
//! clients that read slowly and steadily, as the kernel calls a full socket writable only after a third of it was
//! taken; and a socket that is merely closed stays in the kernel with all that it holds. [`WriteTimeoutLayer`] counts
//! what the client takes, ends what is not taken on every stack, and ends it with a reset.
//!
//! # With axum
//!
//! ```no_run
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower::ServiceBuilder;
//! use tower_connection_axum::{Accepting, FromAcceptor, accept};
//! use tower_write_timeout::WriteTimeoutLayer;
//!
//! # async fn run() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(WriteTimeoutLayer::new(Duration::from_secs(30)))
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
//! use tower_connection_hyper::{Accept, drive, AcceptExt};
//! use tower_write_timeout::WriteTimeoutLayer;
//!
//! # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
//! #     Ok(http::Response::new("hello".into()))
//! # }
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! # let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//! let mut acceptor = ServiceBuilder::new()
//!     .layer(WriteTimeoutLayer::new(Duration::from_secs(30)))
//!     .service(Accept::new(service_fn(hello)));
//! loop {
//!     let connection = acceptor.accept(listener.accept()).await?;
//!     tokio::spawn(async {
//!         let Ok(connection) = connection.await;
//!         drive(connection, &http1::Builder::new()).await
//!     });
//! }
//! # }
//! ```
//!
//! # What is asked of a client
//!
//! It *owes* while the socket does not take what is written to it, while more than 16 KiB of what the socket has
//! taken were not acknowledged, from the connection's end until all of it was; and of HTTP/2 each stream, while its
//! response has begun and flow control lets nothing of it through. While it owes:
//!
//! | it takes | default | setting |
//! | --- | --- | --- |
//! | something, | every 30 s | [`new`](WriteTimeoutLayer::new) |
//! | and if it takes anything, so much on average, | 240 bytes a second, after 5 s | [`min_rate`](WriteTimeoutLayer::min_rate), [`grace`](WriteTimeoutLayer::grace) |
//! | and all of it in this time | no limit | [`ceiling`](WriteTimeoutLayer::ceiling) |
//!
//! What it takes faster than the rate earns it time, up to the timeout; that is Kestrel's rule, on what was taken in
//! place of what was written. A handler that makes the client wait uses up none of its time: then nothing is owed.
//! Neither does a process that was stopped or starved. A client that stops is given up between its deadline and an
//! eighth after it.
//!
//! # What giving up is
//!
//! A *connection* is [aborted](tower_connection::ConnectionHandle::abort): handlers and bodies are dropped, the
//! socket is reset, and nothing of it is left in the kernel, where a mere close would leave a full queue for minutes.
//! So is an upgraded one (a WebSocket). A *stream* of HTTP/2 ends alone, with `RST_STREAM(CANCEL)`, and its
//! neighbours go on; when no open stream is taken, the connection ends. A response that is cut by an error of the service or the
//! client's hang-up is reset as well, if the kernel holds more than 16 KiB of it.
//!
//! # What it tells
//!
//! [`WriteTimeoutLayer::ends`] counts the streams and the connections that were given up, by the [`Reason`]. A client that
//! leaves before its time is over is not among them. Each is an event of `tracing` too (at `INFO`, ten in a second and the
//! number of the others): the peer, the connection's id, the stream, the reason, for how long it has owed and taken
//! nothing, how much it has taken since it owes, and how much the kernel still held.
//!
//! # How much a slow client can make the server hold
//!
//! | where | how much | set by |
//! | --- | --- | --- |
//! | the kernel, to be sent | 128 KiB and a segment | [`unsent_limit`](WriteTimeoutLayer::unsent_limit); without it up to 4 MiB (`net.ipv4.tcp_wmem`) |
//! | rustls | 64 KiB | `set_buffer_limit` |
//! | hyper's HTTP/1 | 400 KiB | `http1::Builder::max_buf_size` |
//! | h2, for each stream | the frame of the body that it waits with, and 400 KiB | `http2::Builder::max_send_buf_size`, `max_concurrent_streams` (200) |
//! | the service | a body of one frame is held as a whole | stream it |
//!
//! # Where nobody counts
//!
//! What was taken is what the kernel's queue has lost ([`Socket::unacked`](tower_connection::Socket::unacked)), of TCP
//! on Linux to the byte, also inside TLS. Of a pipe, another system, or a socket of your own that does not tell,
//! it is what the socket has accepted: there, what is in its buffers counts as taken, and nothing is waited for at
//! the end.
//!
//! # What this does not do
//!
//! Up to 16 KiB that stay unacknowledged on a connection which is kept are looked after when it ends, not before. A
//! client whose kernel has large buffers takes in large steps: a reader of 6 KB/s that has been a fast one may take
//! nothing for a minute, and is given up after 30 s like one that has stopped, as nothing tells the two apart. An
//! upgraded socket is timed while somebody reads or writes it; one that its owner drops without shutting it down
//! is the kernel's. Flow control is all that is known of an HTTP/2 stream: one whose window is used up to the byte (or
//! was never opened) looks the same whether its handler has more to say or not.
//!
//! # What it costs
//!
//! Nothing is armed and nobody is asked while responses are small or taken at once: some 370 instructions for a request
//! of HTTP/1, no allocation. One `ioctl` for every 16 KiB that are written; at the end of a connection one, and a timer
//! if something is left then, until it was taken. A client that owes costs a timer and about ten looks for each timeout;
//! a thousand that had stalled took 2 % of one core, with a timeout of 8 s.

mod accept;
mod ending;
mod ends;
mod io;
mod layer;
mod pace;
mod streams;
mod watch;

pub use crate::{
    accept::{WriteTimeout, WriteTimeoutFuture},
    ends::Reason,
    io::{Owing, WriteTimeoutSocket},
    layer::WriteTimeoutLayer,
    streams::{Starving, WriteTimeoutIo},
};

//! End a server well: finish what is running, refuse the rest, stop on time, and say so.
//!
//! A server that is told to end and just closes its sockets loses requests: those in the backlog, those that cross with
//! the end of an idle connection, half an answer that looks whole. The graceful shutdown of `axum::serve` 0.8 loses the
//! first two as well, tells WebSockets nothing, and has no deadline: one client that has sent half a request holds it
//! for ever. A [`Drain`] ends each connection in the way that its client understands, and all of them on time.
//!
//! # With axum
//!
//! ```no_run
//! use std::{process::ExitCode, time::Duration};
//! use axum::{Router, routing::get};
//! use tower::ServiceBuilder;
//! use tower_connection_axum::{Accepting, FromAcceptor, accept};
//! use tower_drain::Drain;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<ExitCode> {
//!     let drain = Drain::new(Duration::from_secs(30));
//!     drain.begin_on_signals()?;
//!
//!     let app = Router::new()
//!         .route("/", get(|| async { "hello" }))
//!         .route_service("/readyz", drain.readiness());
//!     let acceptor = ServiceBuilder::new().layer(drain.layer()).service(accept(app));
//!     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//!     let report = drain.run(axum::serve(Accepting::new(listener, acceptor), FromAcceptor)).await?;
//!     Ok(report.exit_code())
//! }
//! ```
//!
//! # With hyper
//!
//! ```no_run
//! use std::{process::ExitCode, time::Duration};
//! use hyper::server::conn::http1;
//! use tower::{ServiceBuilder, service_fn};
//! use tower_connection_hyper::{Accept, serve};
//! use tower_drain::Drain;
//!
//! # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
//! #     Ok(http::Response::new("hello".into()))
//! # }
//! # async fn run() -> std::io::Result<ExitCode> {
//! let drain = Drain::new(Duration::from_secs(30));
//! drain.begin_on_signals()?;
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//!
//! let acceptor = ServiceBuilder::new()
//!     .layer(drain.layer())
//!     .service(Accept::new(service_fn(hello)));
//!
//! let report = drain.run(serve(listener, acceptor).with_builder(http1::Builder::new())).await?;
//! Ok(report.exit_code())
//! # }
//! ```
//!
//! A loop of your own ends when [`AcceptError::is_closed`](tower_connection::AcceptError::is_closed) says so. Then take
//! what is left of the [`Backlog`](tower_connection::Backlog), drop the listener, accept what was taken, drop the
//! acceptor, and wait for [`Drain::finished`]: `examples/hyper_http1.rs`.
//!
//! # Streams and WebSockets
//!
//! A request that ends by itself is waited for, and need not know. What would go on for ever is told, by the
//! [`Notice`](tower_connection::Notice) of its connection's handle, and until when it may. With axum:
//!
//! ```
//! use axum::{
//!     extract::ws::{CloseFrame, Message, WebSocketUpgrade, close_code},
//!     response::Response,
//! };
//! use tower_connection_axum::Noticed;
//!
//! async fn chat(Noticed(notice): Noticed, upgrade: WebSocketUpgrade) -> Response {
//!     upgrade.on_upgrade(|mut socket| async move {
//!         loop {
//!             tokio::select! {
//!                 message = socket.recv() => match message {
//!                     Some(Ok(_message)) => { /* .. */ }
//!                     Some(Err(_)) | None => return,
//!                 },
//!                 _deadline = notice.given() => break,
//!             }
//!         }
//!         let away = CloseFrame { code: close_code::AWAY, reason: "restarting".into() };
//!         let _ = socket.send(Message::Close(Some(away))).await;
//!     })
//! }
//! # let _ = chat;
//! ```
//!
//! A body that is a stream ends with `take_until(notice.given())`. Who does not ask is waited for
//! until the deadline, and then reset, and reported.
//!
//! # What happens when
//!
//! | phase | what is done |
//! | --- | --- |
//! | [lame duck](Phase::LameDuck) | readiness says 503; all are served, and asked to leave: `Connection: close`, GOAWAY |
//! | [draining](Phase::Draining) | the backlog is served, the listener closed; who is idle reads FIN or GOAWAY, what runs finishes |
//! | [cutting](Phase::Cutting) | at the deadline, or by a second signal: what still runs is reset, and named |
//!
//! What each kind of connection sees, and which numbers to take in Kubernetes, under systemd and behind HAProxy or
//! nginx, is in `docs/drain.md`.
//!
//! | setting | default | where it comes from |
//! | --- | --- | --- |
//! | [`new`](Drain::new): the timeout | none; 30 s suit most | Kubernetes' grace period and Kestrel's `ShutdownTimeout` are 30 s; less where that counts the lame duck |
//! | [`lame_duck`](Drain::lame_duck) | 0 | HAProxy's `grace` and Caddy's `shutdown_delay` have none either; 5 s or more in Kubernetes |
//! | [`last_chance`](Drain::last_chance) | 120 ms | a busy client's next request comes in that time, also from another continent |
//! | [`arriving`](Drain::arriving) | 500 ms | Go gives 5 s, uvicorn and hypercorn nothing; nginx 60 s and Node no end at all, for half a head |
//! | [`spread`](Drain::spread) | 0 | HAProxy's `close-spread-time` has none either |
//!
//! # What it cannot see, and does not do
//!
//! - Put it outermost: what is outside of it, it does not wait for. Tasks that outlive their request are none of its
//!   business either; wait for those yourself.
//! - It ends sockets and futures. A handler that blocks its thread is reported and left, and to return from `main` then
//!   waits for it; [`Report::exit`] does not.
//! - An idle client of HTTP/1 cannot be told before the FIN. A request that crosses with it is lost, and so is a
//!   handshake that crosses with the close of the listener.
//! - A connection has ended when its socket is closed; the kernel may still have something to send. Where the network
//!   goes with the process (a container), put `WriteTimeoutLayer` inside: with it a socket is closed when its client
//!   has acknowledged everything.
//! - It does not hand connections or the listener over to a new process. A listener that is inherited (systemd) or
//!   shared (`SO_REUSEPORT`) works.
//! - Settings come first: a layer, a watch or a clone fixes them.
//!
//! # What it costs
//!
//! For each connection an entry in a table, under a lock, when it comes and when it goes; for each request 120 bytes of
//! its method and path, under a lock that only its connection takes. No timer before it begins, and one thread, which
//! sleeps until a signal comes.

mod accept;
mod course;
mod drain;
mod io;
mod layer;
mod phase;
mod readiness;
mod report;
mod roll;
mod seat;
mod service;
mod settings;
mod watch;

pub use crate::{
    accept::{DrainAcceptor, DrainFuture},
    drain::Drain,
    io::{DrainIo, Enrolled},
    layer::DrainLayer,
    phase::{Phase, Progress},
    readiness::Readiness,
    report::{Cut, CutRequest, Report},
    seat::InFlight,
    service::{DrainResponseFuture, DrainService},
    watch::DrainWatch,
};

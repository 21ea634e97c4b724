//! Shed load through `poll_ready`: every request gets a slot, a bounded wait, or an answer at once.
//!
//! Async hides queues. A pool of 50 connections behind 10,000 clients has a queue of 9,950 that nobody sees, all of whom
//! get their answer after they have given up. tower's `ConcurrencyLimit` moves that queue to the front and bounds neither
//! its length nor its time; its `LoadShed` makes an error of it, which on axum needs a `HandleErrorLayer`, tells no client
//! when to come back, and lets go of the slot when the response *begins*. [`InFlightLimitLayer`] bounds what is in flight
//! to the last byte of the response, and answers the rest at once.
//!
//! # With axum
//!
//! ```no_run
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower_connection::Head;
//! use tower_overload::{InFlightLimitLayer, Ticket};
//!
//! # async fn run() -> std::io::Result<()> {
//! let limit = InFlightLimitLayer::new(200)
//!     .max_wait(Duration::from_millis(100))
//!     .classify(|head: &Head<'_>| match head.uri.path() {
//!         "/healthz" => Ticket::exempt(),
//!         _ => Ticket::default(),
//!     });
//! let app = Router::new().route("/", get(|| async { "hello" })).layer(limit);
//!
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//! axum::serve(listener, app).await
//! # }
//! ```
//!
//! # With hyper
//!
//! ```no_run
//! use hyper::server::conn::http1;
//! use hyper_util::{rt::TokioIo, service::TowerToHyperService};
//! use tower::{Layer, service_fn};
//! use tower_overload::InFlightLimitLayer;
//!
//! # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
//! #     Ok(http::Response::new("hello".into()))
//! # }
//! # async fn run() -> std::io::Result<()> {
//! let service = InFlightLimitLayer::new(200).layer(service_fn(hello));
//!
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
//! loop {
//!     let (socket, _) = listener.accept().await?;
//!     let service = TowerToHyperService::new(service.clone());
//!     tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
//! }
//! # }
//! ```
//!
//! It needs no acceptor of this project. With one (`tower-connection-axum`, `tower-connection-hyper`) it can do three
//! things more: let a client that is still uploading read its answer, end a connection on which a client reads nothing
//! but refusals, and count a WebSocket until it is closed.
//!
//! # What a request meets
//!
//! 1. `poll_ready` takes a slot, if one is free, in one atomic step; and asks the service inside whether it is ready.
//! 2. A [`Classify`] says from the head how critical the request is, whose, how long its client waits, and whether it is
//!    exempt. (With one, the slot is taken after it: a health check takes none, even for a moment.)
//! 3. Without a slot, it waits for at most [`max_wait`](InFlightLimitLayer::max_wait), among at most as many others as
//!    there are slots (with an [`Adaptive`] limit: as have their turn within that time): first come, first served, until
//!    the queue *stands*; then last come, first served ([`AdaptiveLifo`], or an [`Admission`] of yours). Who ends a request hands the slot over. A request that cannot
//!    make its deadline (`grpc-timeout`, a header of your choice) does not wait.
//! 4. Without a place, it is answered ([`Respond`]): `503` and `Retry-After`, or gRPC's `UNAVAILABLE` with pushback.
//! 5. The slot is free at the last byte of the response, or when the client has left, the handler has panicked, the
//!    future was dropped. [Streams](InFlightLimitLayer::max_streams) and WebSockets count elsewhere.
//!
//! # When to come back
//!
//! `Retry-After` is a promise, and a promise to all is one to nobody. Each client is told the first second, by chance about
//! the first possible one, in which fewer than a tenth of what the server does in a second were told to come (after a
//! minute, half). What was measured: at 85 % load, with 50 slots, more than nine in ten of those who came back when told
//! were served. With few slots and no [`max_wait`](InFlightLimitLayer::max_wait) that cannot be so: at that load, ten slots
//! are all taken 14 % of the time.
//!
//! # How many
//!
//! With too many, the queue is behind the limit, where nobody bounds it; with too few, the server idles. Which is which
//! depends on the service, the machine and the day. [`Adaptive`] finds it, and needs no tuning:
//!
//! ```
//! # use std::time::Duration;
//! # use tower_overload::{Adaptive, InFlightLimitLayer};
//! let limit = InFlightLimitLayer::with_limit(Adaptive::new()).max_wait(Duration::from_millis(100));
//! # drop(limit);
//! ```
//!
//! # What it tells
//!
//! An [`Overload`] counts who was shed, [by reason and class](Overload::shed_by). Each is an event of `tracing` too (at
//! `INFO`, ten in a second and the number of the others): the peer, if the request has a
//! [`ConnectionHandle`](tower_connection::ConnectionHandle), the reason, the class, how many are in flight of how many that
//! may be, and when it was told to come back. So is, at `DEBUG`, each [step](Overload::course) that the limit makes.
//!
//! # What it cannot see
//!
//! - Whether who asks `poll_ready` will call: without a [`Classify`], he has a slot from then on.
//! - The end of a WebSocket over HTTP/2, and over HTTP/1 without an acceptor.
//! - Who really sent a header. No class, key or exemption should come from one that anybody can set.
//! - A client that reads slowly holds its slot. Put a write timeout beside it.
//! - For how long a service waits for the body of a request, which a [`Limit`] must not take for its own slowness: unless
//!   an [`UploadLayer`] or a timeout of `tower-read-timeout` measures it, a sample says of any request with a body that
//!   its latency tells nothing.
//!
//! # What it costs
//!
//! For an admitted request: no allocation, no lock while nothing presses, three readings of the clock, one
//! compare-and-swap at each end. For a request that waits: five allocations, one timer, and a lock each time that it is
//! polled. For one that is shed: the answer's headers. With a [`Limit`]: what that does, and at most a hundred times in a
//! second, if there are requests, half a microsecond for a look at the run queue. `cargo bench -p conformance --bench cost`
//! has the figures, beside tower's.

mod adaptive;
mod admission;
mod body;
mod budget;
mod calendar;
mod class;
mod core;
mod course;
mod layer;
mod limit;
mod load_shed;
mod overload;
mod permit;
mod pressure;
mod probe;
mod respond;
mod room;
mod service;
mod serving;
mod shares;
mod shed;
mod shedding;
mod slots;
mod upload;

pub use crate::{
    adaptive::Adaptive,
    admission::{AdaptiveLifo, Admission},
    body::OverloadBody,
    class::{Classify, Criticality, Ticket},
    course::Step,
    layer::InFlightLimitLayer,
    limit::{Limit, Outcome, Sample},
    load_shed::{LoadShed, LoadShedFuture, LoadShedLayer},
    overload::Overload,
    pressure::Pressure,
    respond::{Overloaded, Respond},
    room::{Waiter, WaiterId, WaitingRoom},
    service::{InFlightLimit, InFlightLimitFuture},
    shed::{Reason, Shed},
    upload::{UploadBody, UploadLayer, UploadService},
};

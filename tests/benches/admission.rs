//! What the limit adds to an accept: `cargo bench -p conformance --bench admission`.
//!
//! One accept is `poll_ready`, `call`, the connection, and its end, over a socket that costs nothing, so that
//! the difference between the two columns is the limit. The figures are wall-clock, the best of several runs:
//! to be compared within one table, and asserted on nowhere.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, Empty, ReadBuf, empty},
    time::Instant,
};
use tower::{Layer, Service, service_fn};
use tower_connection::{Accept, Address, Connection, Held, InFlight, Socket};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};

const BATCH: usize = 1_000;
const RUNS: u32 = 50;

async fn hello(_: Request<()>) -> Result<Response<()>, Infallible> {
    Ok(Response::default())
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return; // `cargo test` asks every target for its tests
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { table() });
}

fn table() {
    println!(
        "| open connections | without a limit: accept, end | with it | and per client | at the limit: making room |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for open in [10, 1_000, 10_000, 100_000] {
        let (accept, end) = accepts(&mut Accept::new(service_fn(hello)), open);
        let limited = |layer: ConnectionLimitLayer| {
            let (limited, ended) = accepts(&mut layer.layer(Accept::new(service_fn(hello))), open);
            format!("+{:.0} ns, +{:.0} ns", limited - accept, ended - end)
        };
        let limit = limited(ConnectionLimitLayer::new(0));
        let per_client = limited(ConnectionLimitLayer::new(0).max_per_client(1_000_000));
        let room = making_room(open) - accept - end;
        println!(
            "| {open} | {accept:.0} ns, {end:.0} ns | {limit} | {per_client} | +{room:.0} ns |"
        );
    }

    println!(
        "\nOne newcomer at the limit, when every other connection was used since it was last looked at:\n"
    );
    println!("| open connections | of them at work | the first | the next |");
    println!("| ---: | ---: | ---: | ---: |");
    for open in [1_000, 10_000, 100_000] {
        for busy in [0, open - 1] {
            let (first, next) = stale(open, busy);
            println!("| {open} | {busy} | {first:.1} us | {next:.1} us |");
        }
    }
}

/// How long an accept and the end of a connection take while so many are open.
fn accepts<A, I, S>(acceptor: &mut A, open: usize) -> (f64, f64)
where
    A: Service<Nothing, Response = Connection<I, S>, Error = Infallible>,
{
    let _holders: Vec<_> = (0..open).map(|n| accept(acceptor, n)).collect();
    let mut connections = Vec::with_capacity(BATCH);
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..RUNS {
        let start = Instant::now();
        connections.extend((0..BATCH).map(|n| accept(acceptor, n)));
        best.0 = best.0.min(each(start));
        let start = Instant::now();
        connections.clear();
        best.1 = best.1.min(each(start));
    }
    best
}

/// How long it takes to accept one, to evict another for it, and to end that.
fn making_room(open: usize) -> f64 {
    let layer = ConnectionLimitLayer::new(open)
        .at_capacity([AtCapacity::MakeRoom, AtCapacity::Reject])
        .min_idle(Duration::ZERO);
    let mut acceptor = layer.layer(Accept::new(service_fn(hello)));
    let mut connections: VecDeque<_> = (0..open).map(|n| accept(&mut acceptor, n)).collect();
    let mut best = f64::INFINITY;
    for run in 0..RUNS {
        let start = Instant::now();
        for n in 0..BATCH {
            connections.push_back(accept(&mut acceptor, n));
            // The one that was silent for the longest has been told, and goes.
            connections.pop_front();
        }
        best = best.min(each(start));
        let evicted = u64::from(run + 1) * BATCH as u64;
        assert_eq!(
            (layer.limit().evicted(), layer.limit().open()),
            (evicted, open)
        );
    }
    best
}

#[expect(clippy::cast_precision_loss, reason = "a thousand")]
fn each(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / BATCH as f64
}

/// All connections have served a request since the limit last looked, and some are at one.
fn stale(open: usize, busy: usize) -> (f64, f64) {
    let layer = ConnectionLimitLayer::new(open)
        .at_capacity([AtCapacity::MakeRoom, AtCapacity::Reject])
        .min_idle(Duration::from_nanos(1));
    let mut acceptor = layer.layer(Accept::new(service_fn(hello)));
    let holders: Vec<_> = (0..open).map(|n| accept(&mut acceptor, n)).collect();
    let used = |holder: &Connection<_, _>| drop(holder.handle().begin(Version::HTTP_11));
    holders.iter().for_each(used);
    let _at_work: Vec<InFlight> = holders[..busy]
        .iter()
        .map(|holder| holder.handle().begin(Version::HTTP_11))
        .collect();
    let mut newcomer = || {
        let evicted = layer.limit().evicted();
        let start = Instant::now();
        let mut newcomer = accept(&mut acceptor, 0).into_parts().0;
        // It looks at some, lets others have the lock, and asks again.
        while layer.limit().evicted() == evicted {
            let mut cx = Context::from_waker(Waker::noop());
            let mut byte = [0];
            let _ = Pin::new(&mut newcomer).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        }
        let took = start.elapsed().as_secs_f64() * 1e6;
        (took, newcomer)
    };
    let (first, _stays) = newcomer();
    let (next, _) = newcomer();
    (first, next)
}

fn accept<A, I, S>(acceptor: &mut A, n: usize) -> Connection<I, S>
where
    A: Service<Nothing, Response = Connection<I, S>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(acceptor.poll_ready(&mut cx).is_ready());
    let mut accepted = std::pin::pin!(acceptor.call(Nothing(empty(), n)));
    match accepted.as_mut().poll(&mut cx) {
        Poll::Ready(Ok(connection)) => connection,
        Poll::Pending => unreachable!("nothing to wait for"),
    }
}

/// A socket without a kernel, from one of 250 clients.
struct Nothing(Empty, usize);

impl Socket for Nothing {
    fn peer(&self) -> Address {
        let host = u8::try_from(self.1 % 250).expect("less than 250");
        Address::Ip(([10, 0, 0, host], 1).into())
    }

    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn std::any::Any + Send> {
        self
    }
}

impl AsyncRead for Nothing {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Nothing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

//! A client that sends anything, whenever it likes, through a stack of layers: it ends, and nothing of it is left.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{rt::TokioExecutor, server::conn::auto};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    time::{sleep, timeout},
};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_connection_hyper::{Accept, drive};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};
use tower_keep_alive::KeepAliveLayer;
use tower_read_timeout::{ReadTimeoutBody, ReadTimeoutLayer};
use tower_write_timeout::WriteTimeoutLayer;

/// What a client of HTTP/2 begins with, SETTINGS included.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Of each layer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than all that the layers allow a client that has fallen silent, one after the other.
const LONG: Duration = Duration::from_secs(120);

/// The first byte says how it is served. Then there are turns: a byte, which says how much the client sends at once or
/// for how long it waits, and what it sends.
pub fn run(bytes: &[u8]) {
    let Some((&how, turns)) = bytes.split_first() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(serve(how, turns));
}

async fn serve(how: u8, turns: &[u8]) {
    let has = |bit: u8| how & 1 << bit != 0;
    let policy: &[AtCapacity] = match how >> 2 & 0b11 {
        0 => &[AtCapacity::MakeRoom, AtCapacity::Reject],
        1 => &[AtCapacity::Close],
        _ => &[AtCapacity::Reject],
    };
    let layer = ConnectionLimitLayer::new(1)
        .at_capacity(policy)
        .rejection_bytes(200);
    let limit = layer.limit();
    let mut acceptor = ServiceBuilder::new()
        .layer(layer)
        .layer(KeepAliveLayer::new(TIMEOUT).max_requests(3))
        .layer(ReadTimeoutLayer::new(TIMEOUT).body(TIMEOUT).body_rate(100))
        .layer(WriteTimeoutLayer::new(TIMEOUT).min_rate(100))
        .service(Accept::new(service_fn(answer)));

    // Who has the only place, and does nothing with it.
    let mut occupant = None;
    if has(4) {
        let (client, io) = duplex(64);
        let ready = accepted(ServiceExt::<DuplexStream>::ready(&mut acceptor).await);
        occupant = Some((client, accepted(ready.call(io).await)));
    }
    let (client, io) = duplex(if has(5) { 1 << 16 } else { 64 });
    let ready = accepted(ServiceExt::<DuplexStream>::ready(&mut acceptor).await);
    let connection = accepted(ready.call(io).await);
    let handle = connection.handle().clone();
    let served = async {
        match how & 0b11 {
            0 => drop(drive(connection, &http1::Builder::new()).await),
            1 => drop(drive(connection, &http2::Builder::new(TokioExecutor::new())).await),
            _ => drop(drive(connection, &auto::Builder::new(TokioExecutor::new())).await),
        }
    };
    let client = talk(client, turns, has(6), has(7));
    let ((), ended) = tokio::join!(client, timeout(turns_take(turns) + LONG, served));
    assert!(ended.is_ok(), "it goes on: {handle:?}, {limit:?}");

    drop(occupant);
    assert_eq!((limit.open(), limit.in_reserve()), (0, 0), "{limit:?}");
}

/// The last bit of a turn says whether the client sends something.
fn is_wait(turn: u8) -> bool {
    turn & 1 == 1
}

fn wait(turn: u8) -> Duration {
    Duration::from_millis(u64::from(turn >> 1) * 50)
}

async fn talk(client: DuplexStream, mut turns: &[u8], preface: bool, reads: bool) {
    let (mut answers, mut requests) = split(client);
    let reading = async {
        let mut scratch = [0; 1024];
        while reads && answers.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
    };
    let sending = async {
        if preface && requests.write_all(PREFACE).await.is_err() {
            return;
        }
        while let Some((&turn, rest)) = turns.split_first() {
            if is_wait(turn) {
                sleep(wait(turn)).await;
                turns = rest;
                continue;
            }
            let (bytes, rest) = rest.split_at(usize::from(turn >> 1).min(rest.len()));
            if requests.write_all(bytes).await.is_err() {
                return;
            }
            turns = rest;
        }
        // It stays, and says no more.
        sleep(2 * LONG).await;
    };
    tokio::join!(reading, sending);
}

/// As long as the client may take, if it waits as often as there are bytes.
fn turns_take(turns: &[u8]) -> Duration {
    turns.iter().map(|turn| wait(*turn)).sum()
}

async fn answer(
    request: Request<ReadTimeoutBody<Incoming>>,
) -> Result<Response<String>, Infallible> {
    let long = request.uri().path().ends_with("long");
    let body = Limited::new(request.into_body(), 1 << 16).collect().await;
    let length = body.map_or(0, |body| body.to_bytes().len());
    let mut answer = length.to_string();
    if long {
        answer = answer.repeat(1 << 17);
    }
    Ok(Response::new(answer))
}

fn accepted<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.expect("nothing here fails to accept")
}

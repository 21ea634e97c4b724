//! What a layer tells of the clients that it gave up.

use std::{convert::Infallible, time::Duration};

use events::Log;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::sleep,
};
use tower::{Layer, Service, service_fn};
use tower_connection_hyper::{Accept, drive};
use tower_write_timeout::{Reason, WriteTimeoutLayer};
use tracing::Level;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

async fn much(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from(vec![b'.'; 100_000])))
}

/// A client that has asked for much, of a server behind a clone of the layer.
async fn ask(layer: &WriteTimeoutLayer) -> DuplexStream {
    let (mut client, socket) = duplex(1_000);
    let mut acceptor = layer.clone().layer(Accept::new(service_fn(much)));
    let Ok(connection) = acceptor.call(socket).await;
    tokio::spawn(async { drive(connection, &http1::Builder::new()).await });
    let get = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(get).await.unwrap();
    client
}

/// Takes so much in each second, until it is cut. Returns after how long.
async fn take(mut client: DuplexStream, a_second: usize) -> Duration {
    let begun = tokio::time::Instant::now();
    let mut some = vec![0; a_second];
    while client.read_exact(&mut some).await.is_ok() {
        sleep(S).await;
    }
    begun.elapsed()
}

fn listen() -> Log {
    events::listen(Level::INFO, "tower_write_timeout")
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_counted_when_it_is_given_up_and_not_before() {
    let _log = listen();
    // Given up at the first look after its time, an eighth of that later at most.
    let layer = WriteTimeoutLayer::new(16 * S);
    let ends = layer.ends();
    let _client = ask(&layer).await;
    sleep(15_999 * MS).await;
    assert_eq!(ends.total(), 0);
    sleep(2 * S + MS).await;
    assert_eq!((ends.of(Reason::Stopped), ends.total()), (1, 1));
    sleep(3_600 * S).await;
    assert_eq!(ends.total(), 1, "once");
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_takes_too_little_or_too_long_is_counted_as_such() {
    let _log = listen();
    let slow = WriteTimeoutLayer::new(30 * S).min_rate(240);
    take(ask(&slow).await, 10).await;
    assert_eq!(
        (slow.ends().of(Reason::TooSlow), slow.ends().total()),
        (1, 1)
    );
    let long = WriteTimeoutLayer::new(30 * S).ceiling(60 * S);
    let took = take(ask(&long).await, 500).await;
    assert!(took >= 60 * S, "{took:?}");
    assert_eq!(
        (long.ends().of(Reason::TooLong), long.ends().total()),
        (1, 1)
    );
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_leaves_or_takes_everything_is_not_counted() {
    let _log = listen();
    let layer = WriteTimeoutLayer::new(30 * S);
    let ends = layer.ends();
    let leaves = ask(&layer).await;
    sleep(29 * S).await;
    drop(leaves);
    let mut takes = ask(&layer).await;
    takes.read_exact(&mut vec![0; 100_000]).await.unwrap();
    sleep(3_600 * S).await;
    assert_eq!(ends.total(), 0, "{ends:?}");
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn who_is_given_up_is_told_and_a_flood_is_not() {
    let log = listen();
    let layer = WriteTimeoutLayer::new(16 * S);
    let mut clients = Vec::new();
    for _ in 0..25 {
        clients.push(ask(&layer).await);
    }
    sleep(5 * S).await;
    clients.push(ask(&layer).await);
    sleep(14 * S).await;
    assert_eq!(log.lines().len(), 10);
    let fields = [
        "INFO",
        "peer=unknown",
        "connection=",
        "reason=\"stopped\"",
        "taken=0",
        "suppressed=0",
    ];
    for field in fields {
        assert!(
            log.lines()[0].contains(field),
            "{field} in {}",
            log.lines()[0]
        );
    }
    sleep(5 * S).await;
    assert!(
        log.lines()[10].contains("suppressed=15"),
        "{}",
        log.lines()[10]
    );
    assert_eq!(layer.ends().total(), 26, "each is counted");
}

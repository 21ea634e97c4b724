//! What a layer tells of the connections that it ended.

use std::{convert::Infallible, time::Duration};

use events::Log;
use http::{Request, Response};
use hyper::server::conn::http1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::sleep,
};
use tower::{Layer, Service, service_fn};
use tower_connection::ConnectionHandle;
use tower_connection_hyper::{Accept, drive};
use tower_keep_alive::{KeepAliveLayer, Reason};
use tracing::Level;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

async fn hello<B>(request: Request<B>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/close" {
        let connection = request.extensions().get::<ConnectionHandle>();
        connection.expect("a connection").close();
    }
    Ok(Response::new("hello".into()))
}

/// A client of a server behind a clone of the layer.
async fn connect(layer: &KeepAliveLayer) -> DuplexStream {
    let (client, socket) = duplex(64 * 1024);
    let mut acceptor = layer.clone().layer(Accept::new(service_fn(hello)));
    let Ok(connection) = acceptor.call(socket).await;
    tokio::spawn(async { drive(connection, &http1::Builder::new()).await });
    client
}

async fn get(client: &mut DuplexStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
    }
}

async fn ended(client: &mut DuplexStream) {
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

fn listen() -> Log {
    events::listen(Level::DEBUG, "tower_keep_alive")
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_counted_when_it_is_ended_and_not_before() {
    let _log = listen();
    let layer = KeepAliveLayer::new(5 * S);
    let ends = layer.ends();
    let mut client = connect(&layer).await;
    get(&mut client, "/").await;
    sleep(4_999 * MS).await;
    assert_eq!(ends.total(), 0);
    sleep(MS).await;
    ended(&mut client).await;
    assert_eq!((ends.of(Reason::Idle), ends.total()), (1, 1));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn an_old_connection_is_counted_once() {
    let _log = listen();
    let layer = KeepAliveLayer::new(Duration::ZERO)
        .max_age(100 * S)
        .age_grace(60 * S);
    let ends = layer.ends();
    // One that is idle then, and one that is not.
    let (mut idle, mut busy) = (connect(&layer).await, connect(&layer).await);
    sleep(89 * S).await;
    assert_eq!(ends.total(), 0);
    sleep(21 * S).await;
    get(&mut busy, "/").await;
    ended(&mut busy).await;
    ended(&mut idle).await;
    sleep(100 * S).await;
    assert_eq!((ends.of(Reason::Age), ends.total()), (2, 2));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn a_connection_is_counted_with_its_last_request() {
    let _log = listen();
    let layer = KeepAliveLayer::new(5 * S).max_requests(2);
    let ends = layer.ends();
    let mut client = connect(&layer).await;
    get(&mut client, "/").await;
    assert_eq!(ends.total(), 0);
    get(&mut client, "/").await;
    ended(&mut client).await;
    assert_eq!((ends.of(Reason::Requests), ends.total()), (1, 1));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn requests_that_cross_with_the_end_are_not_counted() {
    let _log = listen();
    let layer = KeepAliveLayer::new(5 * S).max_requests(2).max_age(10 * S);
    let mut acceptor = layer.layer(Accept::new(service_fn(hello)));
    let Ok(connection) = acceptor.call(duplex(64).1).await;
    let (_io, mut service) = connection.into_parts();
    for _ in 0..4 {
        let Ok(_answer) = service.call(Request::new(())).await;
    }
    sleep(20 * S).await;
    let Ok(_answer) = service.call(Request::new(())).await;
    let ends = layer.ends();
    assert_eq!((ends.of(Reason::Requests), ends.total()), (1, 1));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn what_others_end_is_not_counted() {
    let _log = listen();
    let layer = KeepAliveLayer::new(5 * S)
        .max_age(10 * S)
        .max_requests(2)
        .unless(|head| head.uri.path() == "/once");
    let ends = layer.ends();
    for path in ["/close", "/once"] {
        let mut client = connect(&layer).await;
        get(&mut client, path).await;
        ended(&mut client).await;
    }
    let mut leaves = connect(&layer).await;
    get(&mut leaves, "/").await;
    drop(leaves);
    sleep(100 * S).await;
    assert_eq!(ends.total(), 0, "{ends:?}");
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn who_is_ended_is_told_and_a_flood_is_not() {
    let log = listen();
    let layer = KeepAliveLayer::new(5 * S).max_requests(1);
    for _ in 0..150 {
        get(&mut connect(&layer).await, "/").await;
    }
    assert_eq!(log.lines().len(), 100);
    for field in [
        "DEBUG",
        "peer=unknown",
        "connection=",
        "reason=\"requests\"",
        "requests=1",
    ] {
        assert!(
            log.lines()[0].contains(field),
            "{field} in {}",
            log.lines()[0]
        );
    }
    sleep(S).await;
    get(&mut connect(&layer).await, "/").await;
    assert!(
        log.lines()[100].contains("suppressed=50"),
        "{}",
        log.lines()[100]
    );
    // Another layer is another server.
    let other = KeepAliveLayer::new(5 * S);
    let mut idle = connect(&other).await;
    get(&mut idle, "/").await;
    sleep(5 * S).await;
    sleep(MS).await;
    assert!(
        log.lines()[101].contains("reason=\"idle\" idle_for=5"),
        "{}",
        log.lines()[101]
    );
    assert_eq!(layer.ends().total(), 151, "each is counted");
}

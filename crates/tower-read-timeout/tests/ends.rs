//! What a layer tells of who was too slow.

use std::{convert::Infallible, future::pending, time::Duration};

use events::Log;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{sleep, timeout},
};
use tower::{Layer, Service, service_fn};
use tower_connection::Connection;
use tower_connection_hyper::{Accept, drive};
use tower_read_timeout::{ReadTimeoutLayer, Reason};
use tracing::Level;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Reads the whole body.
async fn read<B: Body>(request: Request<B>) -> Result<Response<String>, Infallible> {
    let _ = request.into_body().collect().await;
    Ok(Response::new("hello".into()))
}

/// A client of a server behind a clone of the layer.
async fn connect(layer: &ReadTimeoutLayer) -> DuplexStream {
    let (client, socket) = duplex(64 * 1024);
    let mut acceptor = layer.clone().layer(Accept::new(service_fn(read)));
    let connection = acceptor.call(socket).await.expect("a connection");
    tokio::spawn(async { drive(connection, &http1::Builder::new()).await });
    client
}

async fn say(client: &mut DuplexStream, words: &str) {
    client.write_all(words.as_bytes()).await.unwrap();
}

async fn rest(client: &mut DuplexStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    rest
}

fn listen() -> Log {
    events::listen(Level::INFO, "tower_read_timeout")
}

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n";

// OBS-1
#[tokio::test(start_paused = true)]
async fn a_first_byte_that_does_not_come_is_counted() {
    let _log = listen();
    let layer = ReadTimeoutLayer::new(10 * S);
    let ends = layer.ends();
    let mut client = connect(&layer).await;
    sleep(9_999 * MS).await;
    assert_eq!(ends.total(), 0);
    sleep(MS).await;
    assert_eq!(rest(&mut client).await, "");
    assert_eq!((ends.of(Reason::FirstByte), ends.total()), (1, 1));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn half_a_head_is_counted() {
    let _log = listen();
    let layer = ReadTimeoutLayer::new(10 * S);
    let ends = layer.ends();
    let mut client = connect(&layer).await;
    say(&mut client, &GET[..9]).await;
    sleep(9_999 * MS).await;
    assert_eq!(ends.total(), 0);
    sleep(MS).await;
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 408 "));
    assert_eq!((ends.of(Reason::Head), ends.total()), (1, 1));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn half_a_body_is_counted() {
    let _log = listen();
    let layer = ReadTimeoutLayer::new(10 * S).body(30 * S);
    let ends = layer.ends();
    let mut client = connect(&layer).await;
    say(&mut client, POST).await;
    say(&mut client, "half").await;
    sleep(29_999 * MS).await;
    assert_eq!(ends.total(), 0);
    sleep(MS).await;
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 408 "));
    assert_eq!((ends.of(Reason::Body), ends.total()), (1, 1));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn half_a_handshake_is_counted() {
    let log = listen();
    let layer = ReadTimeoutLayer::new(10 * S).handshake(3 * S);
    let ends = layer.ends();
    let handshake = service_fn(|_: DuplexStream| pending::<Result<Made, Infallible>>());
    let mut acceptor = layer.layer(handshake);
    let gone = acceptor.call(duplex(1).1);
    assert!(timeout(S, gone).await.is_err());
    let made = acceptor.call(duplex(1).1);
    let made = tokio::spawn(made);
    sleep(2_999 * MS).await;
    assert_eq!(ends.total(), 0);
    assert!(made.await.unwrap().is_err());
    assert_eq!((ends.of(Reason::Handshake), ends.total()), (1, 1));
    let told = "peer=unknown reason=\"handshake\" waited=3";
    assert!(log.lines()[0].contains(told), "{}", log.lines()[0]);
}

type Made = Connection<DuplexStream, tower::util::BoxService<(), (), Infallible>>;

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_leaves_or_comes_in_time_is_not_counted() {
    let _log = listen();
    let layer = ReadTimeoutLayer::new(10 * S);
    let ends = layer.ends();
    for words in ["", &GET[..9], POST] {
        let mut client = connect(&layer).await;
        say(&mut client, words).await;
        sleep(9 * S).await;
        drop(client);
    }
    let mut client = connect(&layer).await;
    for _ in 0..2 {
        sleep(9 * S).await;
        say(&mut client, POST).await;
        sleep(29 * S).await;
        say(&mut client, "the whole").await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
    sleep(3_600 * S).await;
    assert_eq!(ends.total(), 0, "{ends:?}");
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn who_is_too_slow_is_told_and_a_flood_is_not() {
    let log = listen();
    let layer = ReadTimeoutLayer::new(10 * S);
    let mut flood = Vec::new();
    for _ in 0..25 {
        let mut client = connect(&layer).await;
        say(&mut client, &GET[..9]).await;
        flood.push(client);
    }
    sleep(500 * MS).await;
    let mut late = connect(&layer).await;
    say(&mut late, POST).await;
    for client in &mut flood {
        rest(client).await;
    }
    assert_eq!(log.lines().len(), 10);
    for field in [
        "INFO",
        "peer=unknown",
        "connection=",
        "reason=\"head\" waited=10",
        "bytes=9",
    ] {
        assert!(
            log.lines()[0].contains(field),
            "{field} in {}",
            log.lines()[0]
        );
    }
    rest(&mut late).await;
    let told = ["reason=\"body\" waited=30", "bytes=0 suppressed=15"];
    assert!(
        told.iter().all(|told| log.lines()[10].contains(told)),
        "{}",
        log.lines()[10]
    );
    assert_eq!(layer.ends().total(), 26, "each is counted");
}

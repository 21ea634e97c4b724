//! How slowly a client may take its response.

use std::time::Duration;

use bytes::Bytes;
use conformance::{Layers, Protocol, Server, Stack, Wire};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_write_timeout::{Reason, WriteTimeoutLayer};

use crate::raw::{self, said};

const TIMEOUT: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

async fn start(stack: Stack) -> Server {
    start_with(stack, WriteTimeoutLayer::default()).await
}

async fn start_with(stack: Stack, write_timeout: WriteTimeoutLayer) -> Server {
    let layers = Layers {
        write_timeout,
        ..Layers::default()
    };
    layers.start(stack).await
}

/// A response whose body nobody reads.
async fn hold(wire: &mut Wire, path: &str) -> Response<Incoming> {
    let request = Request::get(format!("http://localhost{path}")).header("host", "localhost");
    let response = wire.begin(request.body(Bytes::new()).expect("a request"));
    response.await.expect("a head")
}

/// A millisecond before its end, and an eighth after at the latest.
async fn assert_given_up_at(server: &Server, at: Instant, all: Duration) {
    sleep_until(at - MS).await;
    assert_eq!(server.limit().open(), 1, "not yet");
    sleep_until(at + all / 8).await;
    assert_eq!(server.limit().open(), 0, "it is given up");
    assert_eq!(server.handlers(), 0);
}

/// A bare socket, where that speaks the protocol.
async fn bare(stack: Stack, protocol: Protocol) -> Option<(Server, DuplexStream)> {
    if stack.is_tls() || stack.protocol() != protocol {
        return None;
    }
    let server = start(stack).await;
    let socket = server.connect_silently();
    Some((server, socket))
}

/// One of HTTP/2, whose client takes nothing of any stream unless it says so.
async fn with_no_window(stack: Stack) -> Option<(Server, DuplexStream)> {
    let (server, mut socket) = bare(stack, Protocol::Http2).await?;
    let no_window = raw::frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let opening = [&raw::PREFACE[..], &no_window].concat();
    socket.write_all(&opening).await.expect("a new socket");
    Some((server, socket))
}

pub(crate) async fn who_takes_nothing_is_given_up(stack: Stack) {
    // WRITE-1, WRITE-2
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let begun = Instant::now();
    let response = hold(&mut wire, "/chunks/16000000").await;
    assert_given_up_at(&server, begun + TIMEOUT, TIMEOUT).await;
    response.into_body().collect().await.expect_err("it is cut");
}

pub(crate) async fn who_takes_too_little_is_given_up_after_its_grace(stack: Stack) {
    // WRITE-3: its grace is what it has earned by the first buffers, and no longer than the timeout.
    let Some((server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let get = b"GET /bytes/16000000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(get).await.expect("a new socket");
    let begun = Instant::now();
    while socket.read_exact(&mut [0; 100]).await.is_ok() {
        sleep(S).await;
        if server.limit().open() == 0 {
            break;
        }
    }
    let took = begun.elapsed();
    assert!((50 * S..56 * S).contains(&took), "{took:?}");
}

pub(crate) async fn who_takes_a_little_steadily_is_served(stack: Stack) {
    // WRITE-3
    let Some((_server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let get = b"GET /bytes/200000 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(get).await.expect("a new socket");
    let (mut said, mut some) = (Vec::new(), [0; 500]);
    loop {
        let n = socket.read(&mut some).await.expect("never cut");
        said.extend_from_slice(&some[..n]);
        if n == 0 {
            break;
        }
        sleep(S).await;
    }
    let head = said.windows(4).position(|window| window == b"\r\n\r\n");
    assert_eq!(said.len() - head.expect("a head") - 4, 200_000);
}

pub(crate) async fn a_slow_handler_is_not_the_clients_fault(stack: Stack) {
    // WRITE-4
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let mut body = hold(&mut wire, "/ticks/60000").await.into_body();
    for _ in 0..20 {
        let frame = body.frame().await.expect("endless").expect("never cut");
        assert_eq!(frame.into_data().expect("data"), ".");
    }
    assert_eq!(server.limit().open(), 1);
    drop(body);
    let mut wire = server.connect().await;
    let answer = wire.get("/sleep/600000").await.expect("an answer");
    assert_eq!(answer.body, "slept");
}

pub(crate) async fn nobody_owes_longer_than_the_ceiling(stack: Stack) {
    // WRITE-3
    let ceiling = WriteTimeoutLayer::new(Duration::ZERO)
        .min_rate(0)
        .ceiling(60 * S);
    let server = start_with(stack, ceiling).await;
    let mut wire = server.connect().await;
    let begun = Instant::now();
    let _response = hold(&mut wire, "/chunks/16000000").await;
    assert_given_up_at(&server, begun + 60 * S, 60 * S).await;
}

pub(crate) async fn a_stream_that_is_not_taken_ends_and_no_other(stack: Stack) {
    // WRITE-6
    if stack.protocol() == Protocol::Http1 {
        return;
    }
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let mut second = wire.second_hand();
    let mut third = wire.second_hand();
    let begun = Instant::now();
    let slow = tokio::spawn(async move { second.get("/sleep/40000").await });
    let response = hold(&mut wire, "/chunks/4000000").await;
    sleep_until(begun + TIMEOUT - MS).await;
    assert_eq!(server.handlers(), 2);
    sleep_until(begun + TIMEOUT + TIMEOUT / 8).await;
    assert_eq!(server.handlers(), 1, "its handler and its body are dropped");
    let error = response.into_body().collect().await.expect_err("it is cut");
    assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
    assert_eq!(third.get("/").await.expect("an answer").body, "ok");
    let slow = slow.await.expect("no panic").expect("an answer");
    assert_eq!(slow.body, "slept");
    assert!(!wire.ending().goaway && !wire.ending().ended);
}

pub(crate) async fn when_no_stream_is_taken_the_connection_ends(stack: Stack) {
    // WRITE-6
    if stack.protocol() == Protocol::Http1 {
        return;
    }
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let begun = Instant::now();
    let _held = [
        hold(&mut wire, "/chunks/4000000").await,
        hold(&mut wire, "/chunks/4000000").await,
        hold(&mut wire, "/chunks/4000000").await,
    ];
    assert_given_up_at(&server, begun + TIMEOUT, TIMEOUT).await;
    assert!(wire.ended().await.ended);
}

pub(crate) async fn who_is_given_up_is_counted_once(stack: Stack) {
    // OBS-1: each stream, or the connection.
    let layer = WriteTimeoutLayer::default();
    let ends = layer.ends();
    let server = start_with(stack, layer).await;
    let mut wire = server.connect().await;
    let mut held = vec![hold(&mut wire, "/chunks/4000000").await];
    if stack.protocol() == Protocol::Http2 {
        for _ in 0..2 {
            held.push(hold(&mut wire, "/chunks/4000000").await);
        }
    }
    sleep(29_999 * MS).await;
    assert_eq!(ends.total(), 0);
    sleep(600 * S).await;
    let held = held.len() as u64;
    assert_eq!((ends.of(Reason::Stopped), ends.total()), (held, held));
}

pub(crate) async fn who_waits_for_another_stream_is_not_blamed(stack: Stack) {
    // WRITE-6: one stream takes all of the connection's window, and its client none of it.
    let Some((_server, mut socket)) = bare(stack, Protocol::Http2).await else {
        return;
    };
    socket.write_all(&raw::PREFACE).await.expect("a new socket");
    socket
        .write_all(&raw::get(1, "/sleep/70000"))
        .await
        .expect("open");
    socket
        .write_all(&raw::get(3, "/bytes/100000"))
        .await
        .expect("open");
    sleep(MS).await;
    socket
        .write_all(&raw::get(5, "/bytes/1000"))
        .await
        .expect("open");
    let first = said(&mut socket).await;
    assert!(raw::answered(&first, 3) && raw::answered(&first, 5));
    sleep(29 * S).await;
    assert_eq!(raw::resets(&said(&mut socket).await), []);
    sleep(6 * S).await;
    assert_eq!(raw::resets(&said(&mut socket).await), [3]);
    // With the stream, the client gives back what it had of it.
    socket
        .write_all(&raw::window(0, 65_535))
        .await
        .expect("open");
    let then = said(&mut socket).await;
    assert!(raw::ended(&then, 5) && raw::resets(&then).is_empty());
}

pub(crate) async fn who_waits_while_another_takes_all_is_not_blamed(stack: Stack) {
    // WRITE-6: a silent stream beside a download, which uses up each bit of the connection's window at once.
    let Some((server, mut socket)) = bare(stack, Protocol::Http2).await else {
        return;
    };
    socket.write_all(&raw::PREFACE).await.expect("a new socket");
    socket
        .write_all(&raw::get(1, "/endless"))
        .await
        .expect("open");
    socket
        .write_all(&raw::get(3, "/chunks/10000000"))
        .await
        .expect("open");
    let begun = Instant::now();
    let mut all = Vec::new();
    while begun.elapsed() < 100 * S {
        all.extend(said(&mut socket).await);
        sleep(S).await;
        socket
            .write_all(&raw::window(3, 1_000))
            .await
            .expect("open");
        socket
            .write_all(&raw::window(0, 1_000))
            .await
            .expect("open");
    }
    assert_eq!(raw::resets(&all), []);
    // Now the download is not taken either, and nothing moves any more.
    sleep(70 * S).await;
    assert_eq!(server.limit().open(), 0);
    assert_eq!(server.handlers(), 0);
}

pub(crate) async fn one_byte_at_a_time_is_not_taking(stack: Stack) {
    // WRITE-6: neither now and then, nor just when somebody looks.
    for (every, ends) in [(50 * MS, 5 * S..8 * S), (5 * MS, 20 * S..45 * S)] {
        let Some((server, mut socket)) = with_no_window(stack).await else {
            return;
        };
        let get = raw::get(1, "/bytes/100000");
        socket.write_all(&get).await.expect("open");
        sleep(MS).await;
        let begun = Instant::now();
        while server.limit().open() == 1 && begun.elapsed() < 60 * S {
            let _ = socket.write_all(&raw::window(1, 1)).await;
            sleep(every).await;
            let _ = timeout(Duration::ZERO, socket.read(&mut [0; 100])).await;
        }
        let took = begun.elapsed();
        assert!(ends.contains(&took), "{every:?}: {took:?}");
    }
}

pub(crate) async fn a_stream_ends_in_the_midst_of_an_upload(stack: Stack) {
    // WRITE-6: where a frame begins is found also while another comes.
    let Some((server, mut socket)) = with_no_window(stack).await else {
        return;
    };
    socket
        .write_all(&raw::post(1, "/echo"))
        .await
        .expect("open");
    socket
        .write_all(&raw::get(3, "/bytes/100000"))
        .await
        .expect("open");
    let begun = Instant::now();
    let chunk = raw::frame(0, 0, 1, &[b'.'; 200]);
    let (half, other) = chunk.split_at(100);
    // It is always in the midst of a frame, which has an end now and then.
    socket.write_all(half).await.expect("open");
    while begun.elapsed() < 35 * S {
        sleep(300 * MS).await;
        socket.write_all(other).await.expect("open");
        socket.write_all(half).await.expect("open");
    }
    let all = said(&mut socket).await;
    assert_eq!(raw::resets(&all), [3]);
    assert_eq!(server.handlers(), 0);
    assert_eq!(server.limit().open(), 1);
    socket.write_all(other).await.expect("open");
    socket
        .write_all(&raw::frame(0, 1, 1, b""))
        .await
        .expect("open");
    socket
        .write_all(&raw::window(1, 100_000))
        .await
        .expect("open");
    assert!(
        raw::ended(&said(&mut socket).await, 1),
        "and the other goes on"
    );
}

pub(crate) async fn half_a_frame_does_not_keep_a_stream(stack: Stack) {
    // WRITE-6
    let Some((server, mut socket)) = with_no_window(stack).await else {
        return;
    };
    socket
        .write_all(&raw::get(1, "/sleep/3600000"))
        .await
        .expect("open");
    socket
        .write_all(&raw::get(3, "/bytes/100000"))
        .await
        .expect("open");
    socket.write_all(&[0, 0, 8, 6]).await.expect("open");
    sleep(TIMEOUT).await;
    assert_eq!(server.limit().open(), 1);
    sleep(5 * S).await;
    assert_eq!(server.limit().open(), 0);
    assert_eq!(server.handlers(), 0);
}

pub(crate) async fn a_web_socket_must_be_read(stack: Stack) {
    // WRITE-1
    let server = start(stack).await;
    let wire = server.connect().await;
    let begun = Instant::now();
    let _web_socket = wire.web_socket_at("/ws-flood").await;
    assert_given_up_at(&server, begun + TIMEOUT, TIMEOUT).await;
}

pub(crate) async fn a_shutdown_waits_no_longer_than_that(stack: Stack) {
    // WRITE-1
    let mut server = start(stack).await;
    let mut wire = server.connect().await;
    let begun = Instant::now();
    let _response = hold(&mut wire, "/chunks/16000000").await;
    server.shut_down();
    timeout(TIMEOUT + TIMEOUT / 8, server.ended())
        .await
        .expect("it ends");
    assert!(begun.elapsed() >= TIMEOUT);
}

pub(crate) async fn zero_waits_for_ever(stack: Stack) {
    let off = WriteTimeoutLayer::new(Duration::ZERO).min_rate(0);
    let server = start_with(stack, off).await;
    let mut wire = server.connect().await;
    let response = hold(&mut wire, "/chunks/16000000").await;
    sleep(24 * 3_600 * S).await;
    let body = response.into_body().collect().await;
    assert_eq!(body.expect("a whole body").to_bytes().len(), 16_000_000);
}

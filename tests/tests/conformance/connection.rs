//! What every connection does: answers, counts, ends.

use std::time::Duration;

use bytes::Bytes;
use conformance::{Protocol, Server, Stack};
use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_connection_limit::ConnectionLimitLayer;

async fn start(stack: Stack) -> Server {
    Server::start(stack, ConnectionLimitLayer::new(0)).await
}

/// Lets everything run that can run: the clock moves only when nobody has anything to do.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

pub(crate) async fn a_request_is_answered(stack: Stack) {
    // TLS-1
    let server = start(stack).await;
    let mut wire = server.connect().await;
    for _ in 0..3 {
        let answer = wire.get("/").await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, "ok");
    }
}

pub(crate) async fn an_upload_comes_back_whole(stack: Stack) {
    // CONN-2
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let upload = Bytes::from((0..=u8::MAX).cycle().take(1_000_000).collect::<Vec<_>>());
    let answer = wire.post("/echo", upload.clone()).await.expect("an answer");
    assert!(answer.body == upload);
}

pub(crate) async fn a_known_length_is_told(stack: Stack) {
    // CONN-2: a wrapped body keeps its `content-length`.
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let answer = wire.get("/").await.expect("an answer");
    assert_eq!(answer.header("content-length"), Some("2"));
    assert_eq!(answer.header("transfer-encoding"), None);
}

pub(crate) async fn the_handle_counts_requests(stack: Stack) {
    // CONN-5
    let server = start(stack).await;
    let mut wire = server.connect().await;
    for n in 1..4 {
        let answer = wire.get("/connection").await.expect("an answer");
        assert_eq!(answer.body, format!("{n} 1"));
    }
}

pub(crate) async fn close_ends_the_connection_after_the_answer(stack: Stack) {
    // CONN-3
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let answer = wire.get("/close").await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "closing");
    match server.protocol() {
        Protocol::Http1 => assert_eq!(answer.header("connection"), Some("close")),
        // Forbidden there: RFC 9113, 8.2.2.
        Protocol::Http2 => assert_eq!(answer.header("connection"), None),
    }
    let ending = timeout(Duration::from_secs(1), wire.ended())
        .await
        .expect("it ends");
    assert_eq!(ending.goaway, server.protocol() == Protocol::Http2);
    settle().await;
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn close_is_announced_and_lets_open_streams_finish(stack: Stack) {
    // CONN-3
    if stack.protocol() == Protocol::Http1 {
        return;
    }
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let mut second = wire.second_hand();
    let slow = tokio::spawn(async move { second.get("/sleep/3000").await });
    settle().await;
    let start = Instant::now();
    wire.get("/close").await.expect("an answer");
    sleep(Duration::from_millis(10)).await;
    assert!(wire.ending().goaway, "told while a stream is open");
    assert!(wire.get("/").await.is_err(), "and no new one is opened");

    let slow = slow.await.expect("no panic").expect("an answer");
    assert_eq!(slow.body, "slept");
    timeout(Duration::from_secs(1), wire.ended())
        .await
        .expect("it ends");
    assert!(start.elapsed() >= Duration::from_millis(2_990));
    settle().await;
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn close_loses_nothing_of_a_large_response(stack: Stack) {
    // CONN-3: more than the pipe holds, so much of it is queued when its last frame was taken.
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let answer = wire.get("/close/1000000").await.expect("an answer");
    assert_eq!(answer.body.len(), 1_000_000);
    let ending = wire.ended().await;
    assert_eq!(ending.goaway, stack.protocol() == Protocol::Http2);
}

pub(crate) async fn close_amid_a_response_ends_the_connection_after_it(stack: Stack) {
    // CONN-3: the last of it is written when the client reads at last, and nothing is read after that.
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let request = Request::get("http://localhost/close-amid/16000000").header("host", "localhost");
    let response = wire.begin(request.body(Bytes::new()).expect("a request"));
    let response = response.await.expect("a head");
    sleep(Duration::from_secs(1)).await;
    let body = response.into_body().collect().await;
    assert_eq!(body.expect("a whole body").to_bytes().len(), 16_000_001);
    let ending = timeout(Duration::from_millis(10), wire.ended()).await;
    assert_eq!(
        ending.expect("it ends").goaway,
        stack.protocol() == Protocol::Http2
    );
}

pub(crate) async fn abort_after_close_ends_a_connection_that_nobody_reads(stack: Stack) {
    // CONN-4: with a second request in its buffer, hyper does not read before the first is answered.
    if stack.is_tls() || stack.protocol() == Protocol::Http2 {
        return;
    }
    let server = start(stack).await;
    let mut socket = server.connect_silently();
    let get = b"GET /close-abort HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket
        .write_all(&get.repeat(2))
        .await
        .expect("a new socket");
    let mut said = Vec::new();
    let end = timeout(Duration::from_millis(20), socket.read_to_end(&mut said)).await;
    assert!(end.is_ok() && said.is_empty());
}

pub(crate) async fn abort_ends_the_connection_under_its_handler(stack: Stack) {
    // CONN-4
    let server = start(stack).await;
    let mut wire = server.connect().await;
    assert!(wire.get("/abort").await.is_err());
    assert!(timeout(Duration::from_secs(1), wire.ended()).await.is_ok());
    settle().await;
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn a_client_that_leaves_takes_its_handler_along(stack: Stack) {
    leaving_ends(stack, "/sleep/60000").await;
}

pub(crate) async fn a_client_that_leaves_takes_its_body_along(stack: Stack) {
    // CONN-1: a body that streams is a request in flight.
    leaving_ends(stack, "/endless").await;
}

async fn leaving_ends(stack: Stack, path: &str) {
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let asked = timeout(Duration::from_millis(10), wire.get(path)).await;
    assert!(asked.is_err());
    assert_eq!(server.handlers(), 1);
    drop(wire);
    settle().await;
    assert_eq!(server.handlers(), 0);
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn a_panic_ends_its_request_and_no_other(stack: Stack) {
    let server = start(stack).await;
    let mut other = server.connect().await;
    let mut wire = server.connect().await;
    assert!(wire.get("/panic").await.is_err());
    assert_eq!(other.get("/").await.expect("an answer").body, "ok");
}

pub(crate) async fn a_slow_handshake_keeps_nobody_waiting(stack: Stack) {
    // ACCEPT-2, TLS-2, TLS-4
    let server = start(stack).await;
    let _silent: Vec<_> = (0..10).map(|_| server.connect_silently()).collect();
    let start = Instant::now();
    let mut wire = server.connect().await;
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");
    assert!(start.elapsed() < Duration::from_millis(10));
    if stack.is_tls() {
        // The handshake's deadline, one millisecond before and at.
        sleep_until(start + Duration::from_millis(9_990)).await;
        assert_eq!(server.limit().open(), 11);
        sleep(Duration::from_millis(12)).await;
        assert_eq!(server.limit().open(), 1);
    }
}

pub(crate) async fn a_shutdown_finishes_what_is_in_flight(stack: Stack) {
    // ACCEPT-6
    let mut server = start(stack).await;
    let mut wire = server.connect().await;
    let asked = tokio::spawn(async move { wire.get("/sleep/1000").await });
    settle().await;
    let start = Instant::now();
    server.shut_down();
    let answer = asked.await.expect("no panic").expect("an answer");
    assert_eq!(answer.body, "slept");
    if stack.protocol() == Protocol::Http1 {
        assert_eq!(answer.header("connection"), Some("close"));
    }
    server.ended().await;
    assert!(start.elapsed() < Duration::from_millis(1_100));
}

pub(crate) async fn a_shutdown_does_not_wait_for_idle_clients(stack: Stack) {
    let mut server = start(stack).await;
    let mut wire = server.connect().await;
    wire.get("/").await.expect("an answer");
    let start = Instant::now();
    server.shut_down();
    let ending = wire.ended().await;
    assert_eq!(ending.goaway, stack.protocol() == Protocol::Http2);
    server.ended().await;
    assert!(start.elapsed() < Duration::from_millis(100));
}

pub(crate) async fn a_shut_gate_pauses_accepting_and_nothing_else(stack: Stack) {
    // ACCEPT-7
    let server = start(stack).await;
    let mut wire = server.connect().await;
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");

    let shut = server.gate().shut();
    let mut late = Box::pin(async { server.connect().await.get("/").await });
    assert!(timeout(Duration::from_secs(9), &mut late).await.is_err());
    assert_eq!(server.limit().open(), 1, "not even accepted");
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");

    let start = Instant::now();
    drop(shut);
    assert_eq!(late.await.expect("an answer").body, "ok");
    assert!(start.elapsed() < Duration::from_millis(10));
}

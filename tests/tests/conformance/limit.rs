//! What a client sees at the limit.

use std::time::Duration;

use bytes::Bytes;
use conformance::{Answer, Protocol, Server, Stack, Wire};
use http::Request;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};

async fn start(stack: Stack, max: usize, at_capacity: AtCapacity) -> Server {
    Server::start(
        stack,
        ConnectionLimitLayer::new(max).at_capacity(at_capacity),
    )
    .await
}

/// Lets everything run that can run: the clock moves only when nobody has anything to do.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

/// A client that was served once and stays.
async fn holder(server: &Server) -> Wire {
    let mut wire = server.connect().await;
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");
    wire
}

/// Connects and asks, in a task: behind a full server even the TLS handshake waits.
macro_rules! ask {
    ($server:expr, $path:expr) => {
        async {
            let mut wire = $server.connect().await;
            wire.get($path).await
        }
    };
}

fn assert_rejected(answer: &Answer, protocol: Protocol) {
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.body, "");
    match protocol {
        Protocol::Http1 => {
            assert_eq!(answer.header("connection"), Some("close"));
            assert_eq!(answer.header("content-length"), Some("0"));
        }
        Protocol::Http2 => assert_eq!(answer.header("connection"), None),
    }
}

pub(crate) async fn never_more_than_the_limit_are_open(stack: Stack) {
    // LIMIT-1
    let server = start(stack, 3, AtCapacity::Wait).await;
    let _sockets: Vec<_> = (0..10).map(|_| server.connect_silently()).collect();
    settle().await;
    assert_eq!(server.limit().open(), 3);
    assert_eq!(server.limit().waiting(), 1);
}

pub(crate) async fn waiting_ends_when_a_connection_ends(stack: Stack) {
    // LIMIT-2, ACCEPT-1
    let server = start(stack, 2, AtCapacity::Wait).await;
    let first = holder(&server).await;
    let _second = holder(&server).await;
    let mut third = Box::pin(ask!(server, "/"));
    assert!(timeout(Duration::from_secs(4), &mut third).await.is_err());

    let start = Instant::now();
    drop(first);
    let answer = third.await.expect("an answer");
    assert_eq!(answer.body, "ok");
    assert!(start.elapsed() < Duration::from_millis(10));
}

pub(crate) async fn a_waiting_server_shuts_down(stack: Stack) {
    // ACCEPT-6
    let mut server = start(stack, 1, AtCapacity::Wait).await;
    let _holder = holder(&server).await;
    settle().await;
    assert_eq!(server.limit().waiting(), 1);
    server.shut_down();
    timeout(Duration::from_secs(1), server.ended())
        .await
        .expect("it ends");
}

pub(crate) async fn a_rejected_client_reads_a_whole_503(stack: Stack) {
    // LIMIT-3
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _holder = holder(&server).await;
    let answer = ask!(server, "/").await.expect("an answer");
    assert_rejected(&answer, stack.protocol());
    assert_eq!(server.limit().rejected(), 1);
}

pub(crate) async fn a_rejected_upload_still_reads_the_503(stack: Stack) {
    // LIMIT-4: more than the pipe holds, so the client is still sending when the answer comes.
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _holder = holder(&server).await;
    for size in [16 * 1024, 5 * 1024 * 1024] {
        let mut wire = server.connect().await;
        let answer = wire
            .post("/echo", vec![0; size].into())
            .await
            .expect("an answer");
        assert_rejected(&answer, stack.protocol());
    }
}

pub(crate) async fn a_rejected_connection_ends(stack: Stack) {
    // LIMIT-5
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _holder = holder(&server).await;
    let mut wire = server.connect().await;
    let start = Instant::now();
    wire.get("/").await.expect("an answer");
    let ending = wire.ended().await;
    if stack.can_send_goaway() {
        assert_eq!(ending.goaway, stack.protocol() == Protocol::Http2);
        assert!(start.elapsed() < Duration::from_millis(10));
    } else {
        assert!(start.elapsed() <= Duration::from_millis(1_010));
    }
    drop(wire);
    settle().await;
    // One is promised to the acceptor, which is ready for the next client.
    assert_eq!(server.limit().rejecting(), 1);
}

pub(crate) async fn a_rejected_grpc_call_reads_unavailable(stack: Stack) {
    // LIMIT-3
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _holder = holder(&server).await;
    let mut wire = server.connect().await;
    let call = Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("host", "localhost")
        .header("content-type", "application/grpc")
        .body(Bytes::new())
        .expect("a request");
    let answer = wire.send(call).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(answer.header("grpc-retry-pushback-ms"), Some("1000"));
}

pub(crate) async fn a_silent_rejected_client_is_closed_after_five_seconds(stack: Stack) {
    // LIMIT-6
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _holder = server.connect_silently();
    settle().await;
    let _silent = server.connect_silently();
    let start = Instant::now();
    settle().await;
    assert_eq!(server.limit().rejected(), 1);
    assert_eq!(server.limit().rejecting(), 2); // this one, and the acceptor's

    sleep_until(start + Duration::from_millis(4_999)).await;
    assert_eq!(server.limit().rejecting(), 2);
    sleep(Duration::from_millis(3)).await;
    assert_eq!(server.limit().rejecting(), 1);
}

pub(crate) async fn rejections_are_bounded_in_number(stack: Stack) {
    // LIMIT-6
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _sockets: Vec<_> = (0..200).map(|_| server.connect_silently()).collect();
    settle().await;
    assert_eq!(server.limit().open(), 1);
    assert_eq!(server.limit().rejecting(), 128);
    assert_eq!(server.limit().waiting(), 1);
}

pub(crate) async fn a_rejection_leaves_the_others_alone(stack: Stack) {
    let server = start(stack, 1, AtCapacity::Reject).await;
    let mut holder = holder(&server).await;
    for _ in 0..3 {
        assert_eq!(ask!(server, "/").await.expect("an answer").status, 503);
        assert_eq!(holder.get("/").await.expect("an answer").status, 200);
    }
    drop(holder);
    settle().await;
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 200);
}

pub(crate) async fn a_silent_client_holds_a_permit_until_it_leaves(stack: Stack) {
    // LIMIT-7: under TLS, from before the handshake.
    let server = start(stack, 1, AtCapacity::Wait).await;
    let silent = server.connect_silently();
    settle().await;
    assert_eq!(server.limit().open(), 1);
    let mut second = Box::pin(ask!(server, "/"));
    assert!(timeout(Duration::from_secs(1), &mut second).await.is_err());
    drop(silent);
    assert_eq!(second.await.expect("an answer").status, 200);
}

pub(crate) async fn a_streaming_body_holds_its_permit(stack: Stack) {
    // LIMIT-7
    let server = start(stack, 1, AtCapacity::Wait).await;
    let mut wire = server.connect().await;
    let request = Request::get("http://localhost/endless").header("host", "localhost");
    let response = wire
        .begin(request.body(Bytes::new()).expect("a request"))
        .await;
    let response = response.expect("a head");
    settle().await;
    assert_eq!(server.limit().open(), 1);
    drop((response, wire));
    settle().await;
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn a_web_socket_holds_its_permit(stack: Stack) {
    // LIMIT-7, CONN-6. In HTTP/2 a WebSocket is a stream, and never leaves its connection.
    if stack.protocol() == Protocol::Http2 {
        return;
    }
    let server = start(stack, 1, AtCapacity::Reject).await;
    let web_socket = server.connect().await.web_socket().await;
    settle().await;
    assert_eq!(server.limit().open(), 1);
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 503);
    drop(web_socket);
    settle().await;
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn a_panic_gives_the_permit_back(stack: Stack) {
    // LIMIT-7
    let server = start(stack, 1, AtCapacity::Wait).await;
    let mut wire = server.connect().await;
    assert!(wire.get("/panic").await.is_err());
    drop(wire);
    settle().await;
    assert_eq!(server.limit().open(), 0);
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 200);
}

pub(crate) async fn the_limit_can_be_changed(stack: Stack) {
    // LIMIT-8
    let server = start(stack, 1, AtCapacity::Wait).await;
    let first = holder(&server).await;
    let mut second = Box::pin(ask!(server, "/sleep/2000"));
    assert!(timeout(Duration::from_secs(1), &mut second).await.is_err());
    server.limit().set_max(2);
    assert_eq!(second.await.expect("an answer").body, "slept");

    // A lower limit ends nobody; it is reached as they leave.
    let _second = holder(&server).await;
    server.limit().set_max(1);
    assert_eq!(server.limit().open(), 2);
    drop(first);
    settle().await;
    assert_eq!(server.limit().open(), 1);
    let third = Box::pin(ask!(server, "/"));
    assert!(timeout(Duration::from_secs(1), third).await.is_err());
}

pub(crate) async fn zero_is_no_limit(stack: Stack) {
    let server = start(stack, 0, AtCapacity::Reject).await;
    let mut wires = Vec::new();
    for _ in 0..50 {
        wires.push(holder(&server).await);
    }
    assert_eq!(server.limit().open(), 50);
    assert_eq!(server.limit().rejected(), 0);
}

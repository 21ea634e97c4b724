//! What a client sees at the limit.

use std::time::Duration;

use bytes::Bytes;
use conformance::{Answer, Protocol, Server, Stack, Wire};
use http::Request;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_connection_limit::{AtCapacity, Client, ConnectionLimitLayer};

const MAKE_ROOM: [AtCapacity; 2] = [AtCapacity::MakeRoom, AtCapacity::Reject];

async fn start(stack: Stack, max: usize, at_capacity: impl AsRef<[AtCapacity]>) -> Server {
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
    assert_eq!(ending.goaway, stack.protocol() == Protocol::Http2);
    assert!(start.elapsed() < Duration::from_millis(10));
    drop(wire);
    settle().await;
    assert_eq!(server.limit().in_reserve(), 0);
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
    assert_eq!(server.limit().in_reserve(), 1);

    sleep_until(start + Duration::from_millis(4_999)).await;
    assert_eq!(server.limit().in_reserve(), 1);
    sleep(Duration::from_millis(3)).await;
    assert_eq!(server.limit().in_reserve(), 0);
}

pub(crate) async fn rejections_are_bounded_in_number(stack: Stack) {
    // LIMIT-6
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _sockets: Vec<_> = (0..200).map(|_| server.connect_silently()).collect();
    settle().await;
    assert_eq!(server.limit().open(), 1);
    assert_eq!(server.limit().in_reserve(), 128);
    assert_eq!(server.limit().waiting(), 1);
}

pub(crate) async fn a_rejected_client_that_stays_is_waited_for_while_it_may_send(stack: Stack) {
    // LIMIT-4, LIMIT-6. Written by hand, since a library closes by itself.
    if stack.is_tls() || stack.protocol() == Protocol::Http2 {
        return;
    }
    let server = start(stack, 1, AtCapacity::Reject).await;
    let _holder = holder(&server).await;

    // All of its request is read: nothing can cross with the answer.
    let mut socket = server.connect_silently();
    let get = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(get).await.expect("a new socket");
    settle().await;
    assert_eq!(server.limit().in_reserve(), 0);
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .await
        .expect("a whole answer");
    assert!(answer.starts_with("HTTP/1.1 503 "));

    // Half of its body is still to come: a millisecond before the second is over, and at.
    let mut socket = server.connect_silently();
    let post = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    let answered = Instant::now();
    sleep_until(answered + Duration::from_millis(999)).await;
    assert_eq!(server.limit().in_reserve(), 1);
    sleep(Duration::from_millis(3)).await;
    assert_eq!(server.limit().in_reserve(), 0);
}

pub(crate) async fn a_rejected_client_is_read_no_further_than_its_bytes(stack: Stack) {
    // LIMIT-6. By hand, since a library stops sending once it is answered. (In HTTP/2 its window stops it.)
    if stack.is_tls() || stack.protocol() == Protocol::Http2 {
        return;
    }
    let layer = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Reject);
    let server = Server::start(stack, layer.rejection_bytes(100_000)).await;
    let _holder = holder(&server).await;
    let start = Instant::now();
    let mut socket = server.connect_silently();
    let post = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    let mut taken = 0;
    while taken < 1_000_000 && socket.write_all(&[0; 1_000]).await.is_ok() {
        taken += 1_000;
    }
    // What the pipe holds besides, and what was on the way when it was enough.
    assert!((90_000..240_000).contains(&taken), "{taken}");
    settle().await;
    assert_eq!(server.limit().in_reserve(), 0);
    assert!(start.elapsed() < Duration::from_millis(100));
}

pub(crate) async fn who_had_time_enough_makes_way_in_the_reserve(stack: Stack) {
    // LIMIT-6
    let layer = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Reject);
    let server = Server::start(stack, layer.reserve(3)).await;
    let _holder = holder(&server).await;
    let _silent: Vec<_> = (0..3).map(|_| server.connect_silently()).collect();
    settle().await;
    assert_eq!(server.limit().in_reserve(), 3);
    let start = Instant::now();
    let answer = ask!(server, "/").await.expect("an answer");
    assert_rejected(&answer, stack.protocol());
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(990) && waited < Duration::from_millis(1_020));
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

// --- making room

/// Whether the server has ended a socket that never said anything.
async fn has_ended(socket: &mut DuplexStream) -> bool {
    let mut byte = [0];
    // What an HTTP/2 server says by itself is not an end.
    loop {
        match timeout(Duration::from_millis(1), socket.read(&mut byte)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
        }
    }
}

pub(crate) async fn the_longest_silent_client_makes_room(stack: Stack) {
    // LIMIT-9
    let server = start(stack, 2, MAKE_ROOM).await;
    let mut first = server.connect_silently();
    sleep(Duration::from_millis(100)).await;
    let mut second = server.connect_silently();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(server.limit().open(), 2);

    let start = Instant::now();
    let mut third = holder(&server).await;
    assert!(start.elapsed() < Duration::from_millis(10));
    assert!(has_ended(&mut first).await);
    assert!(!has_ended(&mut second).await);
    assert_eq!((server.limit().open(), server.limit().in_reserve()), (2, 0));
    assert_eq!(
        (server.limit().evicted(), server.limit().rejected()),
        (1, 0)
    );
    assert_eq!(third.get("/").await.expect("an answer").body, "ok");
}

pub(crate) async fn the_longest_idle_client_makes_room_and_is_told(stack: Stack) {
    // LIMIT-9: the older one was used later, so the younger one goes.
    let server = start(stack, 2, MAKE_ROOM).await;
    let mut older = holder(&server).await;
    sleep(Duration::from_millis(100)).await;
    let mut younger = holder(&server).await;
    sleep(Duration::from_millis(100)).await;
    older.get("/").await.expect("an answer");
    sleep(Duration::from_millis(100)).await;

    let start = Instant::now();
    let _third = holder(&server).await;
    assert!(start.elapsed() < Duration::from_millis(10));
    let ending = timeout(Duration::from_millis(10), younger.ended()).await;
    let ending = ending.expect("it ends");
    assert_eq!(ending.goaway, stack.protocol() == Protocol::Http2);
    assert_eq!(older.get("/").await.expect("an answer").body, "ok");
}

pub(crate) async fn half_a_request_makes_room(stack: Stack) {
    // LIMIT-9. Behind TLS, half a hello.
    let server = start(stack, 1, MAKE_ROOM).await;
    let mut half = server.connect_silently();
    let part: &[u8] = match (stack.is_tls(), stack.protocol()) {
        (true, _) => &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3],
        (false, Protocol::Http1) => b"GET / HTTP/1.1\r\nhost: loc",
        (false, Protocol::Http2) => b"PRI * HTTP/2.0\r\n\r",
    };
    half.write_all(part).await.expect("a new socket");
    sleep(Duration::from_millis(100)).await;
    let _next = holder(&server).await;
    assert!(has_ended(&mut half).await);
    assert_eq!((server.limit().open(), server.limit().in_reserve()), (1, 0));
}

pub(crate) async fn who_is_at_work_never_makes_room(stack: Stack) {
    // LIMIT-10
    let server = start(stack, 2, MAKE_ROOM).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    let first = tokio::spawn(async move { first.get("/sleep/1000").await });
    let second = tokio::spawn(async move { second.get("/sleep/1000").await });
    sleep(Duration::from_millis(500)).await;

    let start = Instant::now();
    let answer = ask!(server, "/").await.expect("an answer");
    assert_rejected(&answer, stack.protocol());
    assert!(start.elapsed() < Duration::from_millis(10));
    for asked in [first, second] {
        let answer = asked.await.expect("no panic").expect("an answer");
        assert_eq!(answer.body, "slept");
    }
    assert_eq!(server.limit().evicted(), 0);
}

pub(crate) async fn a_streaming_body_never_makes_room(stack: Stack) {
    // LIMIT-10
    let server = start(stack, 1, MAKE_ROOM).await;
    let mut wire = server.connect().await;
    let request = Request::get("http://localhost/endless").header("host", "localhost");
    let streaming = wire.begin(request.body(Bytes::new()).expect("a request"));
    let streaming = streaming.await.expect("a head");
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 503);
    assert!(!wire.ending().ended);
    drop(streaming);
}

pub(crate) async fn a_web_socket_never_makes_room(stack: Stack) {
    // LIMIT-10. In HTTP/2 the request is over for its handler, and for hyper, when the stream is open.
    let server = start(stack, 1, MAKE_ROOM).await;
    let web_socket = server.connect().await.web_socket().await;
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 503);
    assert_eq!((server.limit().open(), server.limit().evicted()), (1, 0));
    drop(web_socket);
}

pub(crate) async fn a_response_that_is_not_taken_never_makes_room(stack: Stack) {
    // LIMIT-10: one buffer, of which the handler and hyper have let go, and of which most is not written.
    let server = start(stack, 1, MAKE_ROOM).await;
    let mut slow = server.connect().await;
    let request = Request::get("http://localhost/bytes/16000000").header("host", "localhost");
    let response = slow.begin(request.body(Bytes::new()).expect("a request"));
    let response = response.await.expect("a head");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 503);
    let body = response.into_body().collect().await;
    assert_eq!(body.expect("a whole body").to_bytes().len(), 16_000_000);

    sleep(Duration::from_millis(30)).await;
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 200);
    slow.ended().await;
}

pub(crate) async fn a_connection_that_cannot_close_makes_room(stack: Stack) {
    // LIMIT-9: hyper says GOAWAY and a PING, and waits for the answer to that for ever.
    if stack.is_tls() || stack.protocol() == Protocol::Http1 {
        return;
    }
    let server = start(stack, 1, MAKE_ROOM).await;
    let mut mute = server.connect_silently();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("a new socket");
    // GET http://localhost/close (RFC 7541: two indexed fields, two literal ones)
    let head = b"\x82\x86\x04\x06/close\x01\x09localhost";
    let length = u8::try_from(head.len()).expect("a small head");
    let headers = [&[0, 0, length, 1, 5, 0, 0, 0, 1], &head[..]].concat();
    mute.write_all(&headers).await.expect("still open");
    sleep(Duration::from_millis(100)).await;
    let _next = holder(&server).await;
    // It gets the second of everybody who leaves.
    sleep(Duration::from_millis(1_010)).await;
    assert!(has_ended(&mut mute).await);
    assert_eq!((server.limit().open(), server.limit().in_reserve()), (1, 0));
}

pub(crate) async fn a_request_that_crosses_with_the_end_reads_the_503(stack: Stack) {
    // LIMIT-10. By hand: the newcomer comes first, and the request before anybody could read it.
    if stack.is_tls() || stack.protocol() == Protocol::Http2 {
        return;
    }
    let server = start(stack, 1, MAKE_ROOM).await;
    let mut holder = server.connect_silently();
    let get = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    holder.write_all(get).await.expect("a new socket");
    let mut answer = [0; 1_000];
    let n = holder.read(&mut answer).await.expect("an answer");
    assert!(answer[..n].starts_with(b"HTTP/1.1 200 "));
    sleep(Duration::from_millis(100)).await;

    let _newcomer = server.connect_silently();
    holder.write_all(get).await.expect("still open");
    let mut answer = String::new();
    holder
        .read_to_string(&mut answer)
        .await
        .expect("a whole answer");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    assert!(answer.contains("connection: close"));
    assert_eq!((server.limit().open(), server.limit().in_reserve()), (1, 0));
}

pub(crate) async fn who_was_at_work_a_moment_ago_makes_room_a_moment_later(stack: Stack) {
    // LIMIT-11: one millisecond before, and at.
    let layer = ConnectionLimitLayer::new(1).min_idle(Duration::from_millis(200));
    let server = Server::start(stack, layer).await;
    let mut wire = holder(&server).await;
    let idle_since = Instant::now();
    let mut next = Box::pin(ask!(server, "/"));
    let waited = timeout(Duration::from_millis(199), &mut next).await;
    assert!(waited.is_err() && !wire.ending().ended);
    assert_eq!(server.limit().in_reserve(), 1);

    assert_eq!(next.await.expect("an answer").status, 200);
    let waited = idle_since.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_millis(210));
    wire.ended().await;
}

pub(crate) async fn who_stays_at_work_is_waited_for_no_longer_than_that(stack: Stack) {
    // LIMIT-11
    let layer = ConnectionLimitLayer::new(1).min_idle(Duration::from_millis(200));
    let server = Server::start(stack, layer).await;
    let mut wire = holder(&server).await;
    let start = Instant::now();
    let mut next = Box::pin(ask!(server, "/"));
    assert!(
        timeout(Duration::from_millis(100), &mut next)
            .await
            .is_err()
    );
    let asked = tokio::spawn(async move { wire.get("/sleep/1000").await });
    assert_eq!(next.await.expect("an answer").status, 503);
    assert!(start.elapsed() < Duration::from_millis(210));
    let answer = asked.await.expect("no panic").expect("an answer");
    assert_eq!(answer.body, "slept");
}

pub(crate) async fn a_crowd_finds_room_one_by_one(stack: Stack) {
    // LIMIT-9: nobody is served past the limit, whoever has to go for it.
    let server = start(stack, 3, MAKE_ROOM).await;
    for n in 0..20 {
        let mut wire = holder(&server).await;
        assert_eq!(
            wire.get("/connection").await.expect("an answer").status,
            200
        );
        sleep(Duration::from_millis(30)).await;
        assert_eq!(server.limit().open(), (n + 1).min(3));
        assert_eq!(server.limit().in_reserve(), 0);
        std::mem::forget(wire); // it stays, and says nothing
    }
    assert_eq!(
        (server.limit().evicted(), server.limit().rejected()),
        (17, 0)
    );
}

pub(crate) async fn without_a_rejection_a_newcomer_waits_until_somebody_is_idle(stack: Stack) {
    // LIMIT-9
    let server = start(stack, 1, [AtCapacity::MakeRoom, AtCapacity::Wait]).await;
    let mut wire = server.connect().await;
    let asked = tokio::spawn(async move {
        let answer = wire.get("/sleep/1000").await;
        (wire, answer)
    });
    settle().await;
    let start = Instant::now();
    let answer = ask!(server, "/").await.expect("an answer");
    assert_eq!(answer.status, 200);
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_millis(1_060));
    let (_wire, answer) = asked.await.expect("no panic");
    assert_eq!(answer.expect("an answer").body, "slept");
}

pub(crate) async fn who_waits_alone_in_the_reserve_finds_who_becomes_idle(stack: Stack) {
    // LIMIT-9: nobody else comes, for whom somebody would look.
    let layer = ConnectionLimitLayer::new(1).reserve(1);
    let policies = [AtCapacity::MakeRoom, AtCapacity::Wait];
    let server = Server::start(stack, layer.at_capacity(policies)).await;
    let mut wire = holder(&server).await;
    sleep(Duration::from_millis(100)).await;
    // The acceptor is ready, since somebody could make room. Now that one is at work again.
    let asked = tokio::spawn(async move {
        let answer = wire.get("/sleep/1000").await;
        (wire, answer)
    });
    settle().await;
    let start = Instant::now();
    let answer = ask!(server, "/").await.expect("an answer");
    assert_eq!(answer.status, 200);
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_millis(1_060));
    drop(asked);
}

// --- the other policies

pub(crate) async fn closing_is_an_end_without_a_word(stack: Stack) {
    // LIMIT-12
    let server = start(stack, 1, AtCapacity::Close).await;
    let mut holder = holder(&server).await;
    let mut socket = server.connect_silently();
    let mut said = Vec::new();
    let end = timeout(Duration::from_millis(10), socket.read_to_end(&mut said)).await;
    assert!(end.is_ok_and(|end| end.is_ok()) && said.is_empty());
    assert_eq!(server.limit().rejected(), 1);
    assert_eq!(holder.get("/").await.expect("an answer").body, "ok");
}

pub(crate) async fn accepting_begins_again_at_the_low_watermark(stack: Stack) {
    // LIMIT-13
    let layer = ConnectionLimitLayer::new(4).at_capacity(AtCapacity::Wait);
    let server = Server::start(stack, layer.low_watermark(1)).await;
    let mut sockets: Vec<_> = (0..6).map(|_| server.connect_silently()).collect();
    settle().await;
    assert_eq!((server.limit().open(), server.limit().waiting()), (4, 1));
    for open in [3, 2] {
        sockets.remove(0);
        settle().await;
        assert_eq!(server.limit().open(), open, "not yet");
    }
    sockets.remove(0);
    settle().await;
    assert_eq!(
        server.limit().open(),
        3,
        "the one that was left, and two that waited"
    );
    assert_eq!(server.limit().waiting(), 0);
}

pub(crate) async fn a_reconnecting_client_is_not_rejected_without_a_pause(stack: Stack) {
    // LIMIT-14
    let layer = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Reject);
    let server = Server::start(stack, layer.reserve(5)).await;
    let _holder = holder(&server).await;
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(ask!(server, "/").await.expect("an answer").status, 503);
    }
    // Five at once, and each place again after 100 ms.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(1));
}

// --- clients, upgrades

/// All pipes belong to one client.
fn per_client(max: usize) -> ConnectionLimitLayer {
    ConnectionLimitLayer::new(100)
        .max_per_client(max)
        .client(|_| Some(Client::named("somebody")))
}

pub(crate) async fn a_client_has_its_own_limit(stack: Stack) {
    // LIMIT-15
    let layer = per_client(2).at_capacity(AtCapacity::Reject);
    let server = Server::start(stack, layer).await;
    let first = holder(&server).await;
    let _second = holder(&server).await;
    let answer = ask!(server, "/").await.expect("an answer");
    assert_rejected(&answer, stack.protocol());
    settle().await;
    assert_eq!(server.limit().open(), 2);
    let top = server.limit().top_clients(10);
    assert_eq!(top, [(Client::named("somebody"), 2)]);

    drop(first);
    settle().await;
    assert_eq!(ask!(server, "/").await.expect("an answer").status, 200);
}

pub(crate) async fn a_client_makes_room_for_itself(stack: Stack) {
    // LIMIT-15
    let server = Server::start(stack, per_client(2)).await;
    let mut idle = holder(&server).await;
    let mut at_work = server.connect().await;
    let at_work = tokio::spawn(async move { at_work.get("/sleep/1000").await });
    sleep(Duration::from_millis(100)).await;
    let _third = holder(&server).await;
    idle.ended().await;
    assert_eq!((server.limit().open(), server.limit().evicted()), (2, 1));
    let answer = at_work.await.expect("no panic").expect("an answer");
    assert_eq!(answer.body, "slept");
}

pub(crate) async fn upgraded_connections_have_their_own_limit(stack: Stack) {
    // LIMIT-16
    if stack.protocol() == Protocol::Http2 {
        return;
    }
    let layer = ConnectionLimitLayer::new(2).at_capacity(AtCapacity::Reject);
    let server = Server::start(stack, layer.max_upgraded(1)).await;
    let web_socket = server.connect().await.web_socket().await;
    settle().await;
    assert_eq!((server.limit().open(), server.limit().upgraded()), (0, 1));
    let _holders = (holder(&server).await, holder(&server).await);

    server.limit().set_max(3);
    let mut second = server.connect().await;
    let answer = second.get_upgrade("/ws").await.expect("an answer");
    assert_rejected(&answer, Protocol::Http1);
    second.ended().await;

    drop(web_socket);
    settle().await;
    assert_eq!((server.limit().open(), server.limit().upgraded()), (2, 0));
    let web_socket = server.connect().await.web_socket().await;
    settle().await;
    assert_eq!((server.limit().open(), server.limit().upgraded()), (2, 1));
    drop(web_socket);
}

pub(crate) async fn every_ugly_end_gives_its_permit_back(stack: Stack) {
    // LIMIT-7
    let server = start(stack, 300, MAKE_ROOM).await;
    for n in 0..300 {
        if n % 3 == 0 {
            let mut socket = server.connect_silently();
            let garbage = [0x16, 0xff, b'G', b'\n', 0][n % 5];
            socket
                .write_all(&[garbage; 20])
                .await
                .expect("a new socket");
            continue;
        }
        let mut wire = server.connect().await;
        let path = ["/sleep/60000", "/endless", "/panic", "/abort", "/"][n % 5];
        let _cut = timeout(Duration::from_millis(1), wire.get(path)).await;
    }
    settle().await;
    assert_eq!((server.limit().open(), server.limit().in_reserve()), (0, 0));
    assert_eq!(server.handlers(), 0);
}

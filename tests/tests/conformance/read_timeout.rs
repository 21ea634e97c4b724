//! How slowly a client may speak.

use std::time::Duration;

use conformance::{Layers, Protocol, Server, Stack};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_read_timeout::{ReadTimeoutLayer, Reason};

use crate::raw::{self, GET, PREFACE, read, said};

const HEAD: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(30);
const JUST_BELOW_HEAD: Duration = Duration::from_millis(9_990);
const JUST_BELOW_BODY: Duration = Duration::from_millis(29_990);

async fn start(stack: Stack) -> Server {
    start_with(stack, ReadTimeoutLayer::default()).await
}

async fn start_with(stack: Stack, read_timeout: ReadTimeoutLayer) -> Server {
    let layers = Layers {
        read_timeout,
        ..Layers::default()
    };
    layers.start(stack).await
}

/// A millisecond before its end and at. Returns what the server has said.
async fn assert_ends_at(server: &Server, socket: &mut DuplexStream, at: Instant) -> Vec<u8> {
    sleep_until(at - Duration::from_millis(1)).await;
    assert_eq!(server.limit().open(), 1, "not yet");
    let mut said = Vec::new();
    let end = timeout(Duration::from_millis(10), socket.read_to_end(&mut said)).await;
    assert!(matches!(end, Ok(Ok(_))), "it ends");
    sleep(Duration::from_millis(1)).await;
    assert_eq!(server.limit().open(), 0);
    said
}

/// A bare socket, where that speaks the protocol.
async fn bare(stack: Stack, protocol: Protocol) -> Option<(Server, DuplexStream)> {
    if !is_bare(stack, protocol) {
        return None;
    }
    let server = start(stack).await;
    let socket = server.connect_silently();
    Some((server, socket))
}

fn is_bare(stack: Stack, protocol: Protocol) -> bool {
    !stack.is_tls() && stack.protocol() == protocol
}

fn assert_is_408(said: &[u8]) {
    let said = String::from_utf8_lossy(said);
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("\r\nconnection: close\r\n"), "{said}");
}

pub(crate) async fn a_silent_client_is_closed_without_a_word(stack: Stack) {
    // READ-1, READ-2: under TLS, that is a handshake that does not begin.
    let server = start(stack).await;
    let mut socket = server.connect_silently();
    let said = assert_ends_at(&server, &mut socket, Instant::now() + HEAD).await;
    assert!(!said.starts_with(b"HTTP"));
}

pub(crate) async fn a_client_that_is_silent_after_its_handshake_is_closed(stack: Stack) {
    // READ-2. A library says the preface of HTTP/2 by itself, and then may be silent.
    if stack.protocol() == Protocol::Http2 {
        return;
    }
    let server = start(stack).await;
    let mut wire = server.connect().await;
    let start = Instant::now();
    wire.ended().await;
    assert!(start.elapsed() > JUST_BELOW_HEAD);
    assert!(start.elapsed() < HEAD + Duration::from_millis(10));
}

pub(crate) async fn half_a_handshake_is_closed(stack: Stack) {
    // READ-1
    if !stack.is_tls() {
        return;
    }
    let server = start(stack).await;
    let mut socket = server.connect_silently();
    let start = Instant::now();
    for byte in [22, 3, 1, 2, 0, 1, 0] {
        socket.write_all(&[byte]).await.expect("still open");
        sleep(Duration::from_secs(1)).await;
    }
    assert_ends_at(&server, &mut socket, start + HEAD).await;
}

pub(crate) async fn a_head_is_not_given_time_by_its_bytes(stack: Stack) {
    // READ-3
    let Some((server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    sleep(Duration::from_secs(8)).await;
    let start = Instant::now();
    for byte in &GET[..19] {
        socket.write_all(&[*byte]).await.expect("still open");
        sleep(Duration::from_millis(500)).await;
    }
    assert_is_408(&assert_ends_at(&server, &mut socket, start + HEAD).await);
}

pub(crate) async fn a_head_that_comes_in_time_is_answered(stack: Stack) {
    // READ-3
    let Some((server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let (half, rest) = GET.split_at(10);
    for _ in 0..3 {
        sleep(JUST_BELOW_HEAD).await;
        socket.write_all(half).await.expect("still open");
        sleep(JUST_BELOW_HEAD).await;
        socket.write_all(rest).await.expect("still open");
        assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
    }
    // Between two requests, silence is for keep-alive; a second head is timed as the first.
    sleep(Duration::from_secs(3_600)).await;
    socket.write_all(half).await.expect("still open");
    assert_is_408(&assert_ends_at(&server, &mut socket, Instant::now() + HEAD).await);
}

pub(crate) async fn a_head_may_grow_up_to_its_maximum(stack: Stack) {
    // READ-3
    if !is_bare(stack, Protocol::Http1) {
        return;
    }
    let growing = ReadTimeoutLayer::new(HEAD).head_growing(2 * HEAD, 1_000);
    let server = start_with(stack, growing).await;
    let start = Instant::now();
    let mut socket = server.connect_silently();
    socket
        .write_all(b"GET / HTTP/1.1\r\nx: ")
        .await
        .expect("open");
    socket.write_all(&[b'.'; 4_981]).await.expect("open"); // 5,000 in all
    assert_is_408(&assert_ends_at(&server, &mut socket, start + HEAD * 3 / 2).await);

    let start = Instant::now();
    let mut socket = server.connect_silently();
    socket
        .write_all(b"GET / HTTP/1.1\r\nx: ")
        .await
        .expect("open");
    socket.write_all(&vec![b'.'; 30_000]).await.expect("open");
    assert_is_408(&assert_ends_at(&server, &mut socket, start + HEAD * 2).await);

    // What one head has brought is not the next one's.
    let mut socket = server.connect_silently();
    let whole = [b"GET / HTTP/1.1\r\nx: ", &[b'.'; 4_977][..], b"\r\n\r\n"].concat();
    socket.write_all(&whole).await.expect("open");
    assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
    sleep(Duration::from_secs(60)).await;
    let start = Instant::now();
    socket.write_all(&GET[..10]).await.expect("open");
    let grown = HEAD + Duration::from_millis(10);
    assert_is_408(&assert_ends_at(&server, &mut socket, start + grown).await);
}

pub(crate) async fn one_byte_is_not_enough(stack: Stack) {
    // READ-2, READ-4: it could begin either protocol.
    if stack.is_tls() {
        return;
    }
    let server = start(stack).await;
    let mut socket = server.connect_silently();
    socket.write_all(b"P").await.expect("a new socket");
    let said = assert_ends_at(&server, &mut socket, Instant::now() + HEAD).await;
    // A server of HTTP/2 alone has spoken it already.
    match stack {
        Stack::HyperHttp2 => assert!(!String::from_utf8_lossy(&said).contains("408")),
        _ => assert_is_408(&said),
    }
}

pub(crate) async fn an_opening_of_http2_must_come_in_time(stack: Stack) {
    // READ-4
    if !is_bare(stack, Protocol::Http2) {
        return;
    }
    for part in [12, 24, 30] {
        let server = start(stack).await;
        let mut socket = server.connect_silently();
        let start = Instant::now();
        socket.write_all(&PREFACE[..part]).await.expect("open");
        let said = assert_ends_at(&server, &mut socket, start + HEAD).await;
        assert!(part == 12 || !said.starts_with(b"HTTP"), "it speaks HTTP/2");
    }
    let server = start(stack).await;
    let mut socket = server.connect_silently();
    socket.write_all(&PREFACE).await.expect("a new socket");
    sleep(Duration::from_secs(3_600)).await;
    socket.write_all(&raw::get(1, "/")).await.expect("open");
    assert!(raw::answered(&said(&mut socket).await, 1));
}

pub(crate) async fn half_a_head_of_http2_ends_the_connection(stack: Stack) {
    // READ-4: nothing else may come before its end, so the connection has nothing to lose.
    if !is_bare(stack, Protocol::Http2) {
        return;
    }
    let head = raw::head(0x82, "/");
    let whole = raw::frame(1, 5, 1, &head);
    let unfinished = raw::frame(1, 1, 1, &head);
    for part in [&whole[..20], &unfinished] {
        let server = start(stack).await;
        let mut socket = server.connect_silently();
        socket.write_all(&PREFACE).await.expect("a new socket");
        sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        socket.write_all(part).await.expect("still open");
        assert_ends_at(&server, &mut socket, start + HEAD).await;
    }
}

pub(crate) async fn half_of_the_trailers_ends_the_connection(stack: Stack) {
    // READ-4: also when the stream is over, whose answer did not wait for its body; and a promise, which no client may
    // make, is refused when it is whole.
    if !is_bare(stack, Protocol::Http2) {
        return;
    }
    let fields = b"\0\x01a\x01b";
    let promised = [&[0, 0, 0, 2], &raw::head(0x82, "/")[..]].concat();
    for (path, half) in [
        ("/echo", raw::frame(1, 1, 1, fields)),
        ("/", raw::frame(1, 1, 1, fields)),
        ("/slow-ignore", raw::frame(1, 1, 1, fields)),
        ("/echo", raw::frame(5, 0, 1, &promised)),
    ] {
        let server = start(stack).await;
        let mut socket = server.connect_silently();
        let begin = [&PREFACE[..], &raw::post(1, path)].concat();
        socket.write_all(&begin).await.expect("a new socket");
        sleep(Duration::from_millis(10)).await;
        let start = Instant::now();
        socket.write_all(&half).await.expect("still open");
        assert_ends_at(&server, &mut socket, start + HEAD).await;
    }
    // In time, they are trailers.
    let (_server, mut socket) = bare(stack, Protocol::Http2).await.expect("it is bare");
    let begin = [&PREFACE[..], &raw::post(1, "/echo")].concat();
    socket.write_all(&begin).await.expect("a new socket");
    for part in [raw::frame(1, 1, 1, fields), raw::frame(9, 4, 1, b"")] {
        sleep(JUST_BELOW_HEAD).await;
        socket.write_all(&part).await.expect("still open");
    }
    sleep(HEAD).await;
    socket.write_all(&raw::get(3, "/")).await.expect("open");
    let said = said(&mut socket).await;
    assert!(raw::ended(&said, 1) && raw::answered(&said, 3));
}

pub(crate) async fn each_head_of_http2_has_its_own_time(stack: Stack) {
    // READ-4: the end of one and the begin of the next in one read.
    let Some((_server, mut socket)) = bare(stack, Protocol::Http2).await else {
        return;
    };
    socket.write_all(&PREFACE).await.expect("a new socket");
    let both = [raw::get(1, "/"), raw::get(3, "/")].concat();
    let half = raw::get(1, "/").len() / 2;
    for part in [&both[..half], &both[half..3 * half], &both[3 * half..]] {
        sleep(Duration::from_secs(8)).await;
        socket.write_all(part).await.expect("still open");
    }
    assert!(raw::answered(&said(&mut socket).await, 3));
}

pub(crate) async fn a_body_that_stops_is_answered_408(stack: Stack) {
    // READ-5
    let Some((server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let post = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    for _ in 0..5 {
        sleep(JUST_BELOW_BODY).await;
        socket.write_all(&[b'.'; 8_000]).await.expect("still open");
    }
    assert_is_408(&assert_ends_at(&server, &mut socket, Instant::now() + BODY).await);
}

pub(crate) async fn a_body_must_keep_its_rate(stack: Stack) {
    // READ-5: a byte in half a second, and the whole grace.
    let Some((server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let post = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    let start = Instant::now();
    while socket.write_all(b".").await.is_ok() && start.elapsed() < BODY * 2 {
        sleep(Duration::from_millis(500)).await;
    }
    assert!(start.elapsed() > BODY && start.elapsed() < BODY + Duration::from_secs(1));
    assert_is_408(read(&mut socket).await.as_bytes());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(server.limit().open(), 0);

    // At more than the rate, it may take as long as it needs.
    let mut socket = server.connect_silently();
    socket.write_all(post).await.expect("a new socket");
    for _ in 0..100 {
        sleep(Duration::from_secs(4)).await;
        socket.write_all(&[b'.'; 1_000]).await.expect("still open");
    }
    assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
}

pub(crate) async fn a_stream_whose_body_stops_ends_and_no_other(stack: Stack) {
    // READ-6
    let Some((_server, mut socket)) = bare(stack, Protocol::Http2).await else {
        return;
    };
    socket.write_all(&PREFACE).await.expect("a new socket");
    let start = Instant::now();
    socket
        .write_all(&raw::post(1, "/echo"))
        .await
        .expect("open");
    sleep_until(start + JUST_BELOW_BODY).await;
    assert!(!raw::answered(&said(&mut socket).await, 1));
    sleep(Duration::from_millis(20)).await;
    let end = said(&mut socket).await;
    assert!(raw::answered(&end, 1) && raw::has(&end, raw::RST_STREAM));
    assert!(!raw::has(&end, raw::GOAWAY));
    socket.write_all(&raw::get(3, "/")).await.expect("open");
    assert!(raw::answered(&said(&mut socket).await, 3));
}

pub(crate) async fn a_handler_that_does_not_read_is_not_the_clients_fault(stack: Stack) {
    // READ-7
    let Some((_server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let post = b"POST /late-echo/600000 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    sleep(Duration::from_secs(620)).await;
    socket.write_all(b"ok").await.expect("still open");
    let answer = read(&mut socket).await + &read(&mut socket).await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

pub(crate) async fn who_is_exempt_may_be_silent(stack: Stack) {
    // READ-7
    if !is_bare(stack, Protocol::Http1) {
        return;
    }
    let exempt = ReadTimeoutLayer::default().body_unless(|head| head.uri.path() == "/echo");
    let server = start_with(stack, exempt).await;
    let mut socket = server.connect_silently();
    let post = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    sleep(Duration::from_secs(3_600)).await;
    socket.write_all(b"ok").await.expect("still open");
    assert!(read(&mut socket).await.ends_with("\r\n\r\nok"));
}

pub(crate) async fn the_client_of_a_grpc_call_that_is_answered_may_be_silent(stack: Stack) {
    // READ-7: before that it may not. `/grpc-echo` answers as soon as it has the first message.
    let Some((_server, mut socket)) = bare(stack, Protocol::Http2).await else {
        return;
    };
    socket.write_all(&PREFACE).await.expect("a new socket");
    for stream in [1, 3] {
        let post = raw::post(stream, "/grpc-echo");
        socket.write_all(&post).await.expect("open");
    }
    sleep(JUST_BELOW_BODY).await;
    let word = |stream| raw::frame(0, 0, stream, b"ok");
    socket.write_all(&word(1)).await.expect("open");
    sleep(Duration::from_millis(20)).await;
    let told = said(&mut socket).await;
    assert!(raw::answered(&told, 1));
    assert_eq!(raw::resets(&told), [3]);
    for _ in 0..3 {
        sleep(Duration::from_secs(600)).await;
        socket.write_all(&word(1)).await.expect("open");
        let told = said(&mut socket).await;
        assert!(told.ends_with(b"ok") && !raw::has(&told, raw::RST_STREAM));
    }
}

pub(crate) async fn the_rest_of_a_body_is_no_head(stack: Stack) {
    // READ-3: the service answers without a look at it.
    let Some((_server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let post = b"POST /slow-ignore HTTP/1.1\r\nhost: localhost\r\ncontent-length: 7\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    sleep(Duration::from_millis(10)).await;
    socket.write_all(b"{\"a\":1}").await.expect("open");
    assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
    sleep(Duration::from_secs(3_600)).await;
    socket.write_all(GET).await.expect("still open");
    assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
}

pub(crate) async fn the_rest_of_a_body_that_is_read_after_the_answer_is_no_head(stack: Stack) {
    // READ-3: hyper has read a part of it, and reads once more when the service has dropped it.
    let Some((_server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let post = b"POST /ignore HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10000\r\n\r\n";
    let whole = [&post[..], &[b'.'; 10_000]].concat();
    socket.write_all(&whole).await.expect("a new socket");
    assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
    sleep(Duration::from_secs(3_600)).await;
    socket.write_all(GET).await.expect("still open");
    assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
}

/// hyper has all of a small body before the service is called, and a read for what comes next. The first thing to come
/// was taken for the rest of the body, and half a head stayed for ever.
pub(crate) async fn half_a_head_after_a_body_that_nobody_read_is_timed(stack: Stack) {
    // READ-3
    for post in raw::UNREAD {
        let Some((server, mut socket)) = bare(stack, Protocol::Http1).await else {
            return;
        };
        socket.write_all(post).await.expect("a new socket");
        assert!(read(&mut socket).await.starts_with("HTTP/1.1 "));
        sleep(Duration::from_secs(3_600)).await;
        let start = Instant::now();
        socket.write_all(&GET[..10]).await.expect("still open");
        assert_is_408(&assert_ends_at(&server, &mut socket, start + HEAD).await);
    }
}

pub(crate) async fn a_close_does_not_cut_a_body_that_outlives_its_response(stack: Stack) {
    // CONN-3
    let Some((server, mut socket)) = bare(stack, Protocol::Http1).await else {
        return;
    };
    let post = b"POST /swallow?close HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    assert!(
        read(&mut socket)
            .await
            .contains("\r\nconnection: close\r\n")
    );
    for _ in 0..3 {
        assert_eq!(server.handlers(), 1, "it reads on");
        sleep(Duration::from_secs(1)).await;
        socket.write_all(b".").await.expect("still open");
    }
    sleep(Duration::from_millis(5)).await;
    assert_eq!((server.handlers(), server.limit().open()), (0, 0));
}

pub(crate) async fn a_body_that_outlives_its_response_is_under_way(stack: Stack) {
    // READ-5, CONN-8
    if stack.is_tls() {
        return;
    }
    let layers = Layers {
        keep_alive: tower_keep_alive::KeepAliveLayer::default(),
        read_timeout: ReadTimeoutLayer::default(),
        ..Layers::default()
    };
    let server = layers.start(stack).await;
    let mut socket = server.connect_silently();
    let (head, body) = match stack.protocol() {
        Protocol::Http1 => (
            b"POST /swallow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\n\r\n".to_vec(),
            b".".to_vec(),
        ),
        Protocol::Http2 => (
            [&PREFACE[..], &raw::post(1, "/swallow")].concat(),
            raw::frame(0, 0, 1, b"."),
        ),
    };
    socket.write_all(&head).await.expect("a new socket");
    for _ in 0..7 {
        said(&mut socket).await;
        sleep(Duration::from_secs(4)).await;
        socket.write_all(&body).await.expect("still open");
    }
    assert_eq!(server.handlers(), 1, "it reads on");
    assert_eq!(server.limit().open(), 1);
    let end = match stack.protocol() {
        Protocol::Http1 => body,
        Protocol::Http2 => raw::frame(0, 1, 1, b"."),
    };
    socket.write_all(&end).await.expect("still open");
    sleep(Duration::from_millis(4_990)).await;
    assert_eq!((server.handlers(), server.limit().open()), (0, 1));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(server.limit().open(), 0, "idle since then");
}

pub(crate) async fn a_web_socket_may_be_silent(stack: Stack) {
    // READ-7
    let server = start(stack).await;
    let mut web_socket = hyper_util::rt::TokioIo::new(server.connect().await.web_socket().await);
    sleep(Duration::from_secs(3_600)).await;
    let read = timeout(Duration::from_millis(1), web_socket.read(&mut [0])).await;
    assert!(read.is_err(), "it is open");
    assert_eq!(server.limit().open(), 1);
}

pub(crate) async fn zero_bounds_nothing(stack: Stack) {
    let off = ReadTimeoutLayer::new(Duration::ZERO).body(Duration::ZERO);
    let server = start_with(stack, off).await;
    let _silent = server.connect_silently();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(server.limit().open(), 1);
}

pub(crate) async fn what_does_not_arrive_is_counted_once(stack: Stack) {
    // OBS-1. (The servers here have tower's `TimeoutLayer` around TLS, too: with the same time that would be first.)
    let layer = ReadTimeoutLayer::default().handshake(HEAD / 2);
    let ends = layer.ends();
    let server = start_with(stack, layer).await;
    let _silent = server.connect_silently();
    sleep(HEAD).await;
    sleep(Duration::from_millis(1)).await;
    let silent = if stack.is_tls() {
        Reason::Handshake
    } else {
        Reason::FirstByte
    };
    assert_eq!((ends.of(silent), ends.total()), (1, 1));
    if !is_bare(stack, Protocol::Http2) {
        return;
    }

    // Half a body, twice on one connection; then half a head.
    let mut socket = server.connect_silently();
    socket.write_all(&PREFACE).await.expect("a new socket");
    for stream in [1, 3] {
        let post = raw::post(stream, "/echo");
        socket.write_all(&post).await.expect("open");
        sleep(BODY + Duration::from_millis(1)).await;
        assert!(raw::answered(&said(&mut socket).await, stream));
    }
    assert_eq!((ends.of(Reason::Body), ends.total()), (2, 3));
    let half = raw::frame(1, 1, 5, &raw::head(0x82, "/"));
    socket.write_all(&half).await.expect("open");
    sleep(HEAD + Duration::from_millis(1)).await;
    assert_eq!((ends.of(Reason::Head), ends.total()), (1, 4));
}

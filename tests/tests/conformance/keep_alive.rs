//! How long, how often and how old a connection gets.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use conformance::{Layers, Protocol, Server, Stack, Wire, dice};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_keep_alive::{KeepAliveLayer, Reason};
use tower_read_timeout::ReadTimeoutLayer;

use crate::raw::{self, GET, PREFACE, read, said};

const TIMEOUT: Duration = Duration::from_secs(5);

async fn start(stack: Stack, keep_alive: KeepAliveLayer) -> Server {
    let layers = Layers {
        keep_alive,
        ..Layers::default()
    };
    layers.start(stack).await
}

/// A millisecond before its end and at, as its client sees it.
async fn assert_ends_at(wire: &mut Wire, at: Instant, stack: Stack) {
    sleep_until(at - Duration::from_millis(1)).await;
    assert!(!wire.ending().ended && !wire.ending().goaway);
    let ending = timeout(Duration::from_millis(10), wire.ended()).await;
    let ending = ending.expect("it ends");
    assert_eq!(ending.goaway, stack.protocol() == Protocol::Http2);
}

fn connection(answer: &conformance::Answer) -> (Option<&str>, Option<&str>) {
    (answer.header("connection"), answer.header("keep-alive"))
}

pub(crate) async fn an_idle_connection_is_closed_at_its_timeout(stack: Stack) {
    // KEEP-1
    let server = start(stack, KeepAliveLayer::default()).await;
    let mut wire = server.connect().await;
    for _ in 0..3 {
        sleep(Duration::from_millis(4_900)).await;
        wire.get("/").await.expect("an answer");
    }
    assert_ends_at(&mut wire, Instant::now() + TIMEOUT, stack).await;
    drop(wire);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn however_it_lived_it_ends_when_it_is_idle(stack: Stack) {
    // KEEP-1, KEEP-2, READ-3: seeded random lives, each with both layers.
    for seed in 1_u64..=20 {
        let mut roll = dice(seed);
        let layers = Layers {
            keep_alive: KeepAliveLayer::default(),
            read_timeout: ReadTimeoutLayer::default(),
            ..Layers::default()
        };
        let server = layers.start(stack).await;
        let mut wire = server.connect().await;
        let mut story = format!("seed {seed}:");
        for _ in 0..10 {
            match roll(4) {
                0 => {
                    let ms = roll(20_000);
                    write!(story, " sleep {ms}").expect("a string takes it");
                    let answer = wire.get(&format!("/sleep/{ms}")).await;
                    assert_eq!(answer.expect(&story).body, "slept");
                }
                1 => {
                    let size = usize::try_from(roll(200_000)).expect("it fits");
                    write!(story, " echo {size}").expect("a string takes it");
                    let answer = wire.post("/echo", vec![b'.'; size].into()).await;
                    assert_eq!(answer.expect(&story).body.len(), size);
                }
                2 if stack.protocol() == Protocol::Http2 => {
                    let (one, other) = (roll(20_000), roll(20_000));
                    write!(story, " sleep {one} and {other}").expect("a string takes it");
                    let mut second = wire.second_hand();
                    let (one, other) = (format!("/sleep/{one}"), format!("/sleep/{other}"));
                    let answers = tokio::join!(wire.get(&one), second.get(&other));
                    answers.0.expect(&story);
                    answers.1.expect(&story);
                }
                _ => {
                    story.push_str(" get");
                    wire.get("/").await.expect(&story);
                }
            }
            if roll(3) > 0 {
                let pause = roll(4_950);
                write!(story, " pause {pause}").expect("a string takes it");
                sleep(Duration::from_millis(pause.into())).await;
            }
        }
        wire.get("/").await.expect(&story);
        let idle_since = Instant::now();
        let ending = wire.ended().await;
        assert_eq!(
            ending.goaway,
            stack.protocol() == Protocol::Http2,
            "{story}"
        );
        let idle = idle_since.elapsed();
        let late = TIMEOUT + Duration::from_millis(10);
        assert!((TIMEOUT..late).contains(&idle), "{idle:?} {story}");
        drop(wire);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(server.limit().open(), 0, "{story}");
    }
}

pub(crate) async fn without_a_timeout_an_idle_connection_stays(stack: Stack) {
    // KEEP-1. (hyper's own timeout is another's business.)
    let server = start(stack, KeepAliveLayer::new(Duration::from_secs(3_600))).await;
    let mut wire = server.connect().await;
    wire.get("/").await.expect("an answer");
    sleep(Duration::from_secs(3_599)).await;
    assert_eq!(wire.get("/").await.expect("an answer").status, 200);
}

pub(crate) async fn a_slow_handler_is_not_idle(stack: Stack) {
    // KEEP-2
    let server = start(stack, KeepAliveLayer::default()).await;
    let mut wire = server.connect().await;
    let answer = wire.get("/sleep/60000").await.expect("an answer");
    assert_eq!(answer.body, "slept");
    assert_ends_at(&mut wire, Instant::now() + TIMEOUT, stack).await;
}

pub(crate) async fn a_silent_stream_is_not_idle(stack: Stack) {
    // KEEP-2
    let server = start(stack, KeepAliveLayer::default()).await;
    let mut wire = server.connect().await;
    let request = Request::get("http://localhost/endless").header("host", "localhost");
    let streaming = wire.begin(request.body(Bytes::new()).expect("a request"));
    let streaming = streaming.await.expect("a head");
    sleep(Duration::from_secs(3_600)).await;
    assert!(!wire.ending().ended && !wire.ending().goaway);
    drop(streaming);
}

pub(crate) async fn a_response_that_is_not_taken_is_not_idle(stack: Stack) {
    // KEEP-2
    let server = start(stack, KeepAliveLayer::default()).await;
    let mut wire = server.connect().await;
    let request = Request::get("http://localhost/bytes/16000000").header("host", "localhost");
    let response = wire.begin(request.body(Bytes::new()).expect("a request"));
    let response = response.await.expect("a head");
    sleep(Duration::from_secs(3_600)).await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    assert_eq!(body.expect("a whole body").to_bytes().len(), 16_000_000);
    assert_ends_at(&mut wire, Instant::now() + TIMEOUT, stack).await;
}

pub(crate) async fn a_web_socket_is_not_idle(stack: Stack) {
    // KEEP-2
    let server = start(stack, KeepAliveLayer::default().max_age(TIMEOUT)).await;
    let mut web_socket = hyper_util::rt::TokioIo::new(server.connect().await.web_socket().await);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(server.limit().open(), 1);
    let mut byte = [0];
    let read = timeout(Duration::from_millis(1), web_socket.read(&mut byte)).await;
    assert!(read.is_err(), "it is open");
}

pub(crate) async fn a_long_upload_is_not_idle(stack: Stack) {
    // KEEP-2
    let Some((server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
        return;
    };
    let post = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n";
    socket.write_all(post).await.expect("a new socket");
    for _ in 0..10 {
        sleep(Duration::from_secs(10)).await;
        socket.write_all(b".").await.expect("still open");
    }
    assert!(read(&mut socket).await.ends_with(".........."));
    drop(server);
}

pub(crate) async fn half_a_head_is_not_idle(stack: Stack) {
    // KEEP-2: it is slow, which is for a read timeout.
    let Some((server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
        return;
    };
    socket.write_all(GET).await.expect("a new socket");
    read(&mut socket).await;
    sleep(Duration::from_millis(4_990)).await;
    socket.write_all(&GET[..1]).await.expect("still open");
    sleep(Duration::from_secs(60)).await;
    socket.write_all(&GET[1..]).await.expect("still open");
    let answer = read(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let start = Instant::now();
    assert_eq!(read(&mut socket).await, "");
    assert!(start.elapsed() >= TIMEOUT);
    drop(server);
}

pub(crate) async fn half_a_head_after_a_body_that_nobody_read_is_not_idle(stack: Stack) {
    // KEEP-2
    for post in raw::UNREAD {
        let Some((_server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
            return;
        };
        socket.write_all(post).await.expect("a new socket");
        assert!(read(&mut socket).await.starts_with("HTTP/1.1 "));
        sleep(Duration::from_millis(4_990)).await;
        socket.write_all(&GET[..9]).await.expect("still open");
        sleep(Duration::from_secs(60)).await;
        socket.write_all(&GET[9..]).await.expect("still open");
        assert!(read(&mut socket).await.starts_with("HTTP/1.1 200 "));
    }
}

pub(crate) async fn blank_lines_are_not_activity(stack: Stack) {
    // KEEP-2
    let Some((server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
        return;
    };
    socket.write_all(GET).await.expect("a new socket");
    read(&mut socket).await;
    let start = Instant::now();
    for _ in 0..4 {
        sleep(Duration::from_secs(1)).await;
        socket.write_all(b"\r\n").await.expect("still open");
    }
    assert_eq!(read(&mut socket).await, "");
    assert!(start.elapsed() < TIMEOUT + Duration::from_millis(10));
    drop(server);
}

pub(crate) async fn pipelined_requests_are_all_answered(stack: Stack) {
    // KEEP-1, KEEP-5
    let keep_alive = KeepAliveLayer::default().max_requests(4);
    let Some((server, mut socket)) = http1(stack, keep_alive).await else {
        return;
    };
    socket
        .write_all(&GET.repeat(3))
        .await
        .expect("a new socket");
    let answers = said(&mut socket).await;
    let answers = String::from_utf8(answers).expect("text");
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 3, "{answers}");
    assert!(answers.contains("max=1\r\n"));
    let start = Instant::now();
    assert_eq!(read(&mut socket).await, "");
    assert!(start.elapsed() > Duration::from_millis(4_990));
    assert!(start.elapsed() < Duration::from_millis(5_010));

    // The fourth says that it is the last, and the fifth is not answered.
    let mut socket = server.connect_silently();
    socket
        .write_all(&GET.repeat(5))
        .await
        .expect("a new socket");
    let mut answers = String::new();
    let _end = socket.read_to_string(&mut answers).await;
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 4, "{answers}");
    assert_eq!(
        answers.matches("connection: close\r\n").count(),
        1,
        "{answers}"
    );
}

pub(crate) async fn pings_are_not_activity(stack: Stack) {
    // KEEP-2
    let Some((server, mut socket)) = http2(stack, KeepAliveLayer::default()).await else {
        return;
    };
    socket.write_all(&raw::get(1, "/")).await.expect("open");
    assert!(raw::answered(&said(&mut socket).await, 1));
    let start = Instant::now();
    let mut frames = Vec::new();
    for n in 0..8 {
        if socket.write_all(&raw::ping([n; 8])).await.is_err() {
            break;
        }
        frames.extend(said(&mut socket).await);
        sleep_until(start + Duration::from_secs(u64::from(n) + 1)).await;
    }
    frames.extend(said(&mut socket).await);
    assert!(raw::has(&frames, raw::GOAWAY));
    // It answers the pings of its own, and not that of a graceful shutdown.
    let end = timeout(Duration::from_secs(1), socket.read(&mut [0; 100])).await;
    assert!(matches!(end, Ok(Ok(0))));
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn who_still_reads_is_not_idle(stack: Stack) {
    // KEEP-2: all of the response is in the client's kernel, and it makes room as it reads.
    let Some((server, mut socket)) = http2(stack, KeepAliveLayer::default()).await else {
        return;
    };
    socket
        .write_all(&raw::get(1, "/bytes/50000"))
        .await
        .expect("open");
    assert!(raw::ended(&said(&mut socket).await, 1));
    for _ in 0..5 {
        sleep(Duration::from_secs(4)).await;
        socket
            .write_all(&raw::window(0, 10_000))
            .await
            .expect("open");
    }
    let frames = said(&mut socket).await;
    assert!(!raw::has(&frames, raw::GOAWAY));
    // It has read all of it, and more room is no activity.
    for _ in 0..6 {
        sleep(Duration::from_secs(1)).await;
        let _ = socket.write_all(&raw::window(0, 1)).await;
    }
    assert!(raw::has(&said(&mut socket).await, raw::GOAWAY));
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn an_http2_client_that_asks_nothing_is_idle(stack: Stack) {
    // KEEP-1
    let Some((server, mut socket)) = http2(stack, KeepAliveLayer::default()).await else {
        return;
    };
    sleep(Duration::from_millis(4_990)).await;
    assert_eq!(server.limit().open(), 1);
    let frames = said(&mut socket).await;
    assert!(!raw::has(&frames, raw::GOAWAY));
    sleep(Duration::from_millis(300)).await;
    assert!(raw::has(&said(&mut socket).await, raw::GOAWAY));
    assert_eq!(server.limit().open(), 0);
}

pub(crate) async fn a_silent_client_is_left_to_others(stack: Stack) {
    // KEEP-2: who has never asked is not idle but slow. (Under TLS, in its handshake.)
    if stack.is_tls() {
        return;
    }
    let server = start(stack, KeepAliveLayer::default()).await;
    let _silent = server.connect_silently();
    sleep(Duration::from_secs(29)).await;
    assert_eq!(server.limit().open(), 1);
}

pub(crate) async fn http1_clients_are_told_how_long(stack: Stack) {
    // KEEP-3
    let server = start(stack, KeepAliveLayer::default()).await;
    let mut wire = server.connect().await;
    let answer = wire.get("/").await.expect("an answer");
    let told = (stack.protocol() == Protocol::Http1).then_some("timeout=4");
    assert_eq!(connection(&answer), (None, told));

    let answer = wire.get("/close").await.expect("an answer");
    let close = (stack.protocol() == Protocol::Http1).then_some("close");
    assert_eq!(connection(&answer), (close, None));
}

/// hyper closes after the response to a request of which it has not all, and tells only who had sent no more before that
/// response was made: clients read "timeout=4", and lost the request that they sent at once.
pub(crate) async fn who_was_not_read_to_the_end_is_told_nothing(stack: Stack) {
    // KEEP-3
    let sized = "host: localhost\r\ncontent-length: 5\r\n";
    let chunked = "host: localhost\r\ntransfer-encoding: chunked\r\n";
    let large = [".".repeat(20_000), ".".repeat(180_000)];
    let requests = [
        [format!("POST / HTTP/1.1\r\n{sized}\r\n"), "abcde".into()],
        [
            format!("GET /sleep/100 HTTP/1.1\r\n{sized}\r\n"),
            "abcde".into(),
        ],
        [
            format!("GET / HTTP/1.1\r\n{sized}expect: 100-continue\r\n\r\n"),
            "abcde".into(),
        ],
        [
            format!("POST / HTTP/1.1\r\n{chunked}\r\n5\r\nabcde\r\n"),
            "0\r\n\r\n".into(),
        ],
        [
            format!("POST /echo HTTP/1.1\r\n{chunked}\r\nzz\r\n"),
            String::new(),
        ],
        [
            format!("POST /echo HTTP/1.1\r\n{sized}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            String::new(),
        ],
        [
            format!(
                "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 200000\r\n\r\n{}",
                large[0]
            ),
            large[1].clone(),
        ],
    ];
    for [first, second] in requests {
        let Some((_server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
            return;
        };
        socket
            .write_all(first.as_bytes())
            .await
            .expect("a new socket");
        sleep(Duration::from_millis(50)).await;
        let _ = socket.write_all(second.as_bytes()).await;
        let answer = read(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        assert!(
            !answer.contains("\r\nkeep-alive: "),
            "{first:.90}\n{answer}"
        );
    }
}

pub(crate) async fn who_was_read_to_the_end_is_told(stack: Stack) {
    // KEEP-3
    let Some((_server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
        return;
    };
    for (length, first, second) in [(5, "abcde", ""), (5, "ab", "cde"), (0, "", "")] {
        let post = format!(
            "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{first}"
        );
        socket.write_all(post.as_bytes()).await.expect("still open");
        sleep(Duration::from_millis(50)).await;
        socket
            .write_all(second.as_bytes())
            .await
            .expect("still open");
        let answer = read(&mut socket).await;
        assert!(answer.contains("\r\nkeep-alive: timeout=4\r\n"), "{answer}");
    }
    // What nobody read is no promise broken, and the next request has one.
    socket.write_all(raw::UNREAD[0]).await.expect("still open");
    assert!(!read(&mut socket).await.contains("\r\nkeep-alive: "));
    socket.write_all(GET).await.expect("still open");
    assert!(
        read(&mut socket)
            .await
            .contains("\r\nkeep-alive: timeout=4\r\n")
    );
}

pub(crate) async fn http10_clients_of_a_stream_are_told_of_its_end(stack: Stack) {
    // KEEP-3, KEEP-4: without a length, it ends with the connection.
    for (get, asked) in [("/chunks/9", "Keep-Alive"), ("/", "Keep-Alive, close")] {
        let Some((_server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
            return;
        };
        let get = format!("GET {get} HTTP/1.0\r\nConnection: {asked}\r\n\r\n");
        socket.write_all(get.as_bytes()).await.expect("open");
        let mut answer = String::new();
        let start = Instant::now();
        let _end = socket.read_to_string(&mut answer).await.expect("an end");
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
        assert!(!answer.contains("keep-alive"), "{answer}");
    }
}

pub(crate) async fn http10_clients_keep_what_they_ask_to_keep(stack: Stack) {
    // KEEP-4
    let Some((server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
        return;
    };
    for path in ["/", "/file/9", "/"] {
        let get = format!("GET {path} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        socket.write_all(get.as_bytes()).await.expect("open");
        let answer = read(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
        assert!(
            answer.contains("\r\nconnection: keep-alive\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nkeep-alive: timeout=4\r\n"), "{answer}");
    }
    socket
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .await
        .expect("open");
    let answer = read(&mut socket).await;
    assert!(!answer.contains("keep-alive"), "{answer}");
    assert_eq!(read(&mut socket).await, "");
    drop(server);
}

/// hyper 1.12 adds `keep-alive` to whatever a response of version 1.1 says to a client of 1.0 that wants to keep its
/// connection: the last answer said "close, keep-alive", and ab took the end for a failure.
pub(crate) async fn http10_clients_are_told_one_thing(stack: Stack) {
    // KEEP-4, KEEP-5
    let layer = KeepAliveLayer::default().max_requests(2);
    let Some((server, mut socket)) = http1(stack, layer).await else {
        return;
    };
    for word in ["keep-alive", "close"] {
        let get = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
        socket.write_all(get).await.expect("open");
        let answer = read(&mut socket).await;
        let lines = answer.lines();
        let said = lines.filter_map(|line| line.strip_prefix("connection: "));
        assert_eq!(said.collect::<Vec<_>>(), [word], "{answer}");
    }
    assert_eq!(read(&mut socket).await, "");
    drop(server);
}

pub(crate) async fn a_client_that_closes_is_told_nothing(stack: Stack) {
    // KEEP-3
    let Some((server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
        return;
    };
    let get = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: te, Close\r\n\r\n";
    socket.write_all(get).await.expect("open");
    let answer = read(&mut socket).await;
    assert!(!answer.contains("keep-alive"), "{answer}");
    drop(server);
}

pub(crate) async fn the_last_request_is_announced(stack: Stack) {
    // KEEP-5
    let server = start(stack, KeepAliveLayer::default().max_requests(3)).await;
    let mut wire = server.connect().await;
    let http1 = stack.protocol() == Protocol::Http1;
    for told in ["timeout=4, max=2", "timeout=4, max=1"] {
        let answer = wire.get("/").await.expect("an answer");
        assert_eq!(connection(&answer), (None, http1.then_some(told)));
    }
    let answer = wire.get("/sleep/100").await.expect("an answer");
    assert_eq!(answer.body, "slept");
    assert_eq!(connection(&answer), (http1.then_some("close"), None));
    let ending = timeout(Duration::from_millis(10), wire.ended()).await;
    assert_eq!(ending.expect("it ends").goaway, !http1);
}

pub(crate) async fn an_old_connection_is_closed_with_its_next_answer(stack: Stack) {
    // KEEP-6: never in the middle of one.
    let age = Duration::from_secs(100);
    let keep_alive = KeepAliveLayer::new(Duration::ZERO).max_age(age);
    let server = start(stack, keep_alive).await;
    let mut wire = server.connect().await;
    let start = Instant::now();
    let http1 = stack.protocol() == Protocol::Http1;
    sleep(Duration::from_secs(60)).await;
    let answer = wire.get("/sleep/60000").await.expect("an answer");
    assert_eq!(answer.body, "slept");
    assert_eq!(answer.header("connection"), http1.then_some("close"));
    let ending = timeout(Duration::from_millis(10), wire.ended()).await;
    assert_eq!(ending.expect("it ends").goaway, !http1);

    // In a closed loop, nothing is lost.
    let mut wire = server.connect().await;
    let begun = Instant::now();
    loop {
        let answer = match wire.get("/sleep/10").await {
            Ok(answer) => answer,
            // The GOAWAY came while the client was about to send: it did not, and says so.
            Err(error) => {
                assert!(wire.ending().goaway, "a request is lost: {error}");
                break;
            }
        };
        assert_eq!(answer.body, "slept");
        sleep(Duration::from_millis(100)).await;
        if answer.header("connection").is_some() || wire.ending().goaway {
            break;
        }
    }
    let lived = begun.elapsed();
    assert!(lived > age.mul_f64(0.9) && lived < age.mul_f64(1.1) + Duration::from_millis(200));
    assert!(start.elapsed() > age);
}

pub(crate) async fn an_old_idle_connection_is_closed_after_its_grace(stack: Stack) {
    // KEEP-6
    let age = Duration::from_secs(100);
    let grace = Duration::from_secs(3);
    let keep_alive = KeepAliveLayer::new(Duration::ZERO)
        .max_age(age)
        .age_grace(grace);
    let server = start(stack, keep_alive).await;
    let mut wire = server.connect().await;
    let start = Instant::now();
    wire.get("/").await.expect("an answer");
    let ending = wire.ended().await;
    let http1 = stack.protocol() == Protocol::Http1;
    assert_eq!(ending.goaway, !http1);
    let grace = if http1 { grace } else { Duration::ZERO };
    let lived = start.elapsed().saturating_sub(grace);
    assert!(lived >= age.mul_f64(0.9) && lived <= age.mul_f64(1.1) + Duration::from_millis(10));
}

pub(crate) async fn an_old_connection_waits_for_a_head_that_has_begun(stack: Stack) {
    // KEEP-6
    let keep_alive = KeepAliveLayer::new(Duration::ZERO).max_age(Duration::from_secs(100));
    let Some((server, mut socket)) = http1(stack, keep_alive).await else {
        return;
    };
    socket.write_all(GET).await.expect("a new socket");
    read(&mut socket).await;
    sleep(Duration::from_secs(80)).await;
    socket.write_all(&GET[..9]).await.expect("still open");
    sleep(Duration::from_secs(60)).await;
    socket.write_all(&GET[9..]).await.expect("still open");
    let answer = read(&mut socket).await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(read(&mut socket).await, "");
    drop(server);
}

pub(crate) async fn an_upgrade_is_told_nothing(stack: Stack) {
    // KEEP-3
    let Some((server, mut socket)) = http1(stack, KeepAliveLayer::default()).await else {
        return;
    };
    let upgrade =
        b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade).await.expect("a new socket");
    let answer = read(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(!answer.contains("keep-alive"), "{answer}");
    drop(server);
}

pub(crate) async fn idleness_of_http2_begins_with_its_opening(stack: Stack) {
    // KEEP-1
    if stack.is_tls() || stack.protocol() == Protocol::Http1 {
        return;
    }
    let layers = Layers {
        keep_alive: KeepAliveLayer::default(),
        read_timeout: ReadTimeoutLayer::default(),
        ..Layers::default()
    };
    let server = layers.start(stack).await;
    let mut socket = server.connect_silently();
    sleep(Duration::from_secs(8)).await;
    socket.write_all(&PREFACE).await.expect("still open");
    sleep(Duration::from_millis(4_900)).await;
    socket.write_all(&raw::get(1, "/")).await.expect("open");
    assert!(raw::answered(&said(&mut socket).await, 1));
}

pub(crate) async fn who_must_not_be_kept_is_closed_after_one_answer(stack: Stack) {
    // KEEP-7
    let keep_alive = KeepAliveLayer::default().unless(|head| head.uri.path() == "/connection");
    let server = start(stack, keep_alive).await;
    let mut wire = server.connect().await;
    wire.get("/").await.expect("an answer");
    let answer = wire.get("/connection").await.expect("an answer");
    let http1 = stack.protocol() == Protocol::Http1;
    assert_eq!(connection(&answer), (http1.then_some("close"), None));
    let ending = timeout(Duration::from_millis(10), wire.ended()).await;
    assert_eq!(ending.expect("it ends").goaway, !http1);
}

pub(crate) async fn each_end_is_counted_once(stack: Stack) {
    // OBS-1
    let keep_alive = KeepAliveLayer::default().max_requests(3);
    let ends = keep_alive.ends();
    let server = start(stack, keep_alive).await;
    let (mut idle, mut leaves) = (server.connect().await, server.connect().await);
    idle.get("/").await.expect("an answer");
    leaves.get("/").await.expect("an answer");
    drop(leaves);
    let mut asks = server.connect().await;
    for _ in 0..3 {
        assert_eq!(ends.total(), 0);
        asks.get("/").await.expect("an answer");
    }
    asks.ended().await;
    assert_eq!((ends.of(Reason::Requests), ends.total()), (1, 1));
    idle.ended().await;
    assert_eq!((ends.of(Reason::Idle), ends.total()), (1, 2));

    let keep_alive = KeepAliveLayer::new(Duration::ZERO).max_age(Duration::from_secs(100));
    let ends = keep_alive.ends();
    let server = start(stack, keep_alive).await;
    let mut old = server.connect().await;
    old.get("/").await.expect("an answer");
    old.ended().await;
    assert_eq!((ends.of(Reason::Age), ends.total()), (1, 1));
}

/// A bare socket, where that speaks HTTP/1.
async fn http1(stack: Stack, keep_alive: KeepAliveLayer) -> Option<(Server, DuplexStream)> {
    if stack.is_tls() || stack.protocol() == Protocol::Http2 {
        return None;
    }
    let server = start(stack, keep_alive).await;
    let socket = server.connect_silently();
    Some((server, socket))
}

/// A bare socket that has opened HTTP/2.
async fn http2(stack: Stack, keep_alive: KeepAliveLayer) -> Option<(Server, DuplexStream)> {
    if stack.is_tls() || stack.protocol() == Protocol::Http1 {
        return None;
    }
    let server = start(stack, keep_alive).await;
    let mut socket = server.connect_silently();
    socket.write_all(&PREFACE).await.expect("a new socket");
    Some((server, socket))
}

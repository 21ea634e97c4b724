//! A server ends.

use std::time::Duration;

use bytes::Bytes;
use conformance::{Answer, Layers, Protocol, Server, Stack, Wire, dice};
use http::Version;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};
use tower_drain::{Drain, Phase};

use crate::raw::{self, GET, PREFACE, read, said};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const LAST_CHANCE: Duration = Duration::from_millis(120);
const ARRIVING: Duration = Duration::from_millis(500);
/// How long an end of HTTP/2 is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

async fn start(stack: Stack, drain: Drain) -> Server {
    let layers = Layers {
        drain,
        limit: ConnectionLimitLayer::new(1_000), // counts
        ..Layers::default()
    };
    layers.start(stack).await
}

/// One without TLS, and a socket to speak to it by hand; where the protocol is that one.
async fn bare(stack: Stack, protocol: Protocol, drain: Drain) -> Option<(Server, DuplexStream)> {
    if stack.is_tls() || stack.protocol() != protocol {
        return None;
    }
    let server = start(stack, drain).await;
    let socket = server.connect_silently();
    Some((server, socket))
}

fn drain() -> Drain {
    Drain::new(30 * S)
}

/// It has the head of a response that tells what becomes of the connection.
fn assert_last(answer: &Answer, stack: Stack) {
    assert_eq!(answer.status, 200);
    let close = (stack.protocol() == Protocol::Http1).then_some("close");
    assert_eq!(answer.header("connection"), close);
}

async fn assert_over(server: Server) {
    assert_eq!(server.limit().open(), 0);
    assert_eq!(server.handlers(), 0);
    assert_eq!(server.drain().watch().progress().connections, 0);
    assert!(!server.is_listening());
    let ended = timeout(10 * MS, server.ended()).await;
    ended.expect("the server ends with its drain");
}

pub(crate) async fn a_lame_duck_turns_nobody_away(stack: Stack) {
    // DRAIN-1, DRAIN-2
    let server = start(stack, drain().lame_duck(5 * S)).await;
    let mut old = server.connect().await;
    old.get("/").await.expect("an answer");
    let mut idle = server.connect().await;
    idle.get("/").await.expect("an answer");

    server.drain().begin();
    for n in 0..4 {
        sleep(S).await;
        let mut new = server.connect().await;
        assert_last(&new.get("/").await.expect("an answer"), stack);
        if n == 0 && stack.protocol() == Protocol::Http1 {
            assert_last(&old.get("/").await.expect("an answer"), stack);
        }
        assert_eq!(server.drain().watch().phase(), Phase::LameDuck);
        // hyper's client of HTTP/2 leaves when it is told.
        assert!(!idle.ending().ended || idle.ending().goaway);
        assert!(server.is_listening());
    }
    sleep(S + MS).await;
    assert!(server.drain().watch().phase() >= Phase::Draining);
    assert!(!server.is_listening());
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    assert!(idle.ending().ended);
    assert!(report.took < 5 * S + LAST_CHANCE + PATIENCE + 50 * MS);
    assert_over(server).await;
}

pub(crate) async fn http2_hears_of_a_lame_duck_at_once_and_is_served_on(stack: Stack) {
    // DRAIN-1
    let drain = drain().lame_duck(5 * S);
    let Some((server, mut socket)) = bare(stack, Protocol::Http2, drain).await else {
        return;
    };
    socket.write_all(&PREFACE).await.expect("open");
    assert!(!raw::has(&said(&mut socket).await, raw::GOAWAY));
    server.drain().begin();
    let told = said(&mut socket).await;
    assert_eq!(raw::goaways(&told), [(1 << 31) - 1]);

    for stream in [1, 3] {
        sleep(S).await;
        let get = raw::get(stream, "/");
        socket.write_all(&get).await.expect("open");
        let answer = said(&mut socket).await;
        assert!(raw::ended(&answer, stream));
        assert!(raw::goaways(&answer).is_empty());
    }
    // Who comes now hears of it with the first request.
    let mut late = server.connect_silently();
    late.write_all(&PREFACE).await.expect("open");
    assert!(raw::goaways(&said(&mut late).await).is_empty());
    late.write_all(&raw::get(1, "/")).await.expect("open");
    let answer = said(&mut late).await;
    assert!(raw::ended(&answer, 1));
    assert_eq!(raw::goaways(&answer), [(1 << 31) - 1]);

    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    assert_eq!(raw::goaways(&said(&mut socket).await).last(), Some(&3));
    assert_over(server).await;
}

pub(crate) async fn a_goaway_never_names_more_than_the_one_before(stack: Stack) {
    // DRAIN-1, DRAIN-3: whenever the lame duck ends after the first word (RFC 9113, section 6.8).
    for lame_duck in [0, 50, 190, 200, 210, 240, 260, 400] {
        let drain = drain().lame_duck(lame_duck * MS);
        let Some((server, mut socket)) = bare(stack, Protocol::Http2, drain).await else {
            return;
        };
        socket.write_all(&PREFACE).await.expect("open");
        let get = raw::get(1, "/");
        socket.write_all(&get).await.expect("open");
        sleep(S).await;
        server.drain().begin();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.expect("a clean end");
        let named = raw::goaways(&all);
        assert!(named.is_sorted_by(|a, b| a >= b), "{lame_duck}: {named:?}");
        assert_eq!(named.last(), Some(&1), "{lame_duck}");
        server.drain().finished().await;
    }
}

pub(crate) async fn an_idle_connection_has_a_last_chance(stack: Stack) {
    // DRAIN-3
    let server = start(stack, drain()).await;
    let mut wires = Vec::new();
    for n in 0..4 {
        let mut wire = server.connect().await;
        if n < 3 {
            wire.get("/").await.expect("an answer"); // the fourth says nothing
        }
        wires.push(wire);
    }
    sleep(S).await;
    let begun = Instant::now();
    server.drain().begin();
    if stack.protocol() == Protocol::Http1 {
        sleep_until(begun + LAST_CHANCE - 10 * MS).await;
        assert!(wires.iter().all(|wire| !wire.ending().ended));
        assert_last(&wires[0].get("/").await.expect("an answer"), stack);
        wires[0].ended().await;
        sleep_until(begun + LAST_CHANCE - MS).await;
        assert!(wires[1..].iter().all(|wire| !wire.ending().ended));
    } else {
        sleep(5 * MS).await;
        assert!(wires[..3].iter().all(|wire| wire.ending().goaway));
    }
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.ended, 4);
    let took = begun.elapsed();
    assert!(took < LAST_CHANCE + PATIENCE + 30 * MS, "{took:?}");
    assert!(wires.iter().all(|wire| wire.ending().ended));
    assert_over(server).await;
}

pub(crate) async fn http2_that_has_just_come_has_a_last_chance(stack: Stack) {
    // DRAIN-3: told before it has asked, a client would have come for nothing.
    let Some((server, mut socket)) = bare(stack, Protocol::Http2, drain()).await else {
        return;
    };
    let accepted = Instant::now();
    socket.write_all(&PREFACE).await.expect("open");
    sleep(10 * MS).await;
    server.drain().begin();
    sleep_until(accepted + LAST_CHANCE - 10 * MS).await;
    assert!(raw::goaways(&said(&mut socket).await).is_empty());
    socket.write_all(&raw::get(1, "/")).await.expect("open");
    let answer = said(&mut socket).await;
    assert!(raw::ended(&answer, 1));
    assert_eq!(raw::goaways(&answer).first(), Some(&((1 << 31) - 1)));
    assert!(server.drain().finished().await.is_complete());
    assert_eq!(raw::goaways(&said(&mut socket).await).last(), Some(&1));
    assert_over(server).await;
}

pub(crate) async fn without_a_last_chance_an_idle_connection_ends_at_once(stack: Stack) {
    // DRAIN-3
    let server = start(stack, drain().last_chance(Duration::ZERO)).await;
    let mut wire = server.connect().await;
    wire.get("/").await.expect("an answer");
    server.drain().begin();
    let ended = timeout(PATIENCE + 10 * MS, wire.ended()).await;
    ended.expect("it ends");
    server.drain().finished().await;
    assert_over(server).await;
}

pub(crate) async fn half_a_head_has_a_little_longer(stack: Stack) {
    // DRAIN-5
    let (half, other) = match stack.protocol() {
        Protocol::Http1 => GET.split_at(20),
        Protocol::Http2 => PREFACE.split_at(28),
    };
    let Some((server, mut socket)) = bare(stack, stack.protocol(), drain()).await else {
        return;
    };
    let mut prompt = server.connect_silently();
    for socket in [&mut socket, &mut prompt] {
        socket.write_all(half).await.expect("open");
    }
    sleep(S).await;
    let begun = Instant::now();
    server.drain().begin();
    sleep_until(begun + ARRIVING - 10 * MS).await;
    prompt.write_all(other).await.expect("open");
    if stack.protocol() == Protocol::Http1 {
        let answer = read(&mut prompt).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    sleep_until(begun + ARRIVING - MS).await;
    assert_eq!(socket.write(b"").await.expect("open"), 0);
    assert!(server.limit().open() >= 1);
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    let took = begun.elapsed();
    assert!(
        took >= ARRIVING && took < ARRIVING + PATIENCE + 30 * MS,
        "{took:?}"
    );
    if stack.protocol() == Protocol::Http2 {
        assert!(raw::has(&said(&mut prompt).await, raw::GOAWAY));
    }
    assert_over(server).await;
}

pub(crate) async fn half_a_head_after_a_body_that_nobody_read_has_a_little_longer(stack: Stack) {
    // DRAIN-5
    for post in raw::UNREAD {
        let Some((server, mut socket)) = bare(stack, Protocol::Http1, drain()).await else {
            return;
        };
        socket.write_all(post).await.expect("a new socket");
        assert!(read(&mut socket).await.starts_with("HTTP/1.1 "));
        let begun = Instant::now();
        server.drain().begin();
        sleep_until(begun + LAST_CHANCE - 10 * MS).await;
        let begun = Instant::now();
        socket.write_all(&GET[..9]).await.expect("open");
        sleep_until(begun + ARRIVING - 10 * MS).await;
        socket.write_all(&GET[9..]).await.expect("open");
        let answer = read(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

pub(crate) async fn a_handshake_has_a_little_longer(stack: Stack) {
    // DRAIN-5
    if !stack.is_tls() {
        return;
    }
    let server = start(stack, drain()).await;
    let _silent = server.connect_silently();
    sleep(S).await;
    let begun = Instant::now();
    server.drain().begin();
    sleep_until(begun + ARRIVING - MS).await;
    assert_eq!(server.limit().open(), 1);
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    let took = begun.elapsed();
    assert!(took >= ARRIVING && took < ARRIVING + 30 * MS, "{took:?}");
    assert_over(server).await;
}

pub(crate) async fn a_handshake_from_the_backlog_has_no_longer(stack: Stack) {
    // DRAIN-2, DRAIN-5
    if !stack.is_tls() {
        return;
    }
    let server = start(stack, drain()).await;
    let shut = server.gate().shut();
    let _silent = server.connect_silently();
    server.drain().begin();
    sleep(2 * S).await;
    drop(shut);
    let accepted = Instant::now();
    assert!(server.drain().finished().await.is_complete());
    let took = accepted.elapsed();
    assert!((ARRIVING..ARRIVING + 10 * MS).contains(&took), "{took:?}");
    assert_over(server).await;
}

pub(crate) async fn who_ends_his_handshake_has_a_last_chance(stack: Stack) {
    // DRAIN-3, DRAIN-5
    if !stack.is_tls() || stack.protocol() == Protocol::Http2 {
        return;
    }
    let server = start(stack, drain()).await;
    let (silent, late) = (server.connect_silently(), server.connect_silently());
    sleep(MS).await;
    server.drain().begin();
    sleep(100 * MS).await;
    let mut silent = server.speak(silent).await.expect("a handshake");
    let mut late = server.speak(late).await.expect("a handshake");
    let made = Instant::now();
    sleep_until(made + LAST_CHANCE - 10 * MS).await;
    assert_last(&late.get("/").await.expect("an answer"), stack);
    assert!(!silent.ending().ended);
    silent.ended().await;
    assert!(made.elapsed() < LAST_CHANCE + 10 * MS);
    assert!(server.drain().finished().await.is_complete());
    assert_over(server).await;
}

pub(crate) async fn a_handshake_that_ends_after_the_begin_is_served(stack: Stack) {
    // DRAIN-2, DRAIN-5: its client has connected, and cannot know.
    let server = start(stack, drain()).await;
    let shut = server.gate().shut();
    let asked = async {
        let mut wire = server.connect().await;
        wire.get("/").await.expect("an answer")
    };
    let ends = async {
        sleep(10 * MS).await;
        server.drain().begin();
        sleep(2 * S).await;
        drop(shut);
    };
    let (answer, ()) = tokio::join!(asked, ends);
    assert_last(&answer, stack);
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    assert_over(server).await;
}

pub(crate) async fn who_waits_in_the_backlog_is_served(stack: Stack) {
    // DRAIN-2: also if only one is served at a time.
    let layers = Layers {
        drain: drain(),
        limit: ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Wait),
        ..Layers::default()
    };
    let server = layers.start(stack).await;
    let mut first = server.connect().await;
    let asked = async {
        // It takes longer than a silent acceptor is waited for.
        let first = async { first.get("/sleep/1500").await };
        let others = (0..10).map(|_| async { server.connect().await.get("/sleep/100").await });
        let (first, others) = tokio::join!(first, futures_util::future::join_all(others));
        [first].into_iter().chain(others).collect::<Vec<_>>()
    };
    let ends = async {
        sleep(100 * MS).await;
        server.drain().begin();
    };
    let (answers, ()) = tokio::join!(asked, ends);
    for answer in answers {
        assert_last(&answer.expect("an answer"), stack);
    }
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.ended, 11);
    assert_over(server).await;
}

pub(crate) async fn what_is_in_flight_finishes(stack: Stack) {
    // DRAIN-4
    let server = start(stack, drain()).await;
    let mut wire = server.connect().await;
    let ends = async {
        sleep(S).await;
        server.drain().begin();
    };
    let (answer, ()) = tokio::join!(wire.get("/sleep/10000"), ends);
    assert_last(&answer.expect("an answer"), stack);
    let answered = Instant::now();
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    let took = answered.elapsed();
    assert!(took <= PATIENCE + 10 * MS, "{took:?}");
    assert_over(server).await;
}

pub(crate) async fn a_response_that_had_begun_is_followed_by_a_last_chance(stack: Stack) {
    // DRAIN-4, DRAIN-3: it could not say that it was the last.
    let server = start(stack, drain()).await;
    let mut wire = server.connect().await;
    let request = http::Request::get("http://localhost/chunks/1000000").header("host", "localhost");
    let request = request.body(Bytes::new()).expect("a request");
    let response = wire.begin(request.clone()).await.expect("a head");
    let mut slow = server.connect().await;
    let read_later = slow.begin(request).await.expect("a head");
    server.drain().begin();
    sleep(5 * S).await;
    let body = response.into_body().collect().await.expect("all of it");
    assert_eq!(body.to_bytes().len(), 1_000_000);
    if stack.protocol() == Protocol::Http1 {
        sleep_until(Instant::now() + LAST_CHANCE - 10 * MS).await;
        assert_last(&wire.get("/").await.expect("an answer"), stack);
    }
    let body = read_later.into_body().collect().await.expect("all of it");
    assert_eq!(body.to_bytes().len(), 1_000_000);
    let answered = Instant::now();
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    let took = answered.elapsed();
    assert!(took < LAST_CHANCE.max(PATIENCE) + 20 * MS, "{took:?}");
    assert_over(server).await;
}

pub(crate) async fn what_runs_at_the_deadline_is_reset_and_named(stack: Stack) {
    // DRAIN-7, DRAIN-8
    let server = start(stack, Drain::new(10 * S)).await;
    let mut wire = server.connect().await;
    let mut stuck = Box::pin(wire.get("/sleep/3600000?token=secret"));
    assert!(timeout(S, &mut stuck).await.is_err());
    let begun = Instant::now();
    server.drain().begin();
    sleep_until(begun + 10 * S - MS).await;
    assert_eq!(server.handlers(), 1);
    let report = server.drain().finished().await;
    assert!(begun.elapsed() < 10 * S + 10 * MS, "{:?}", begun.elapsed());
    stuck.await.expect_err("it was cut");

    assert_eq!(report.cut.len(), 1);
    let cut = &report.cut[0];
    let (version, name) = match stack.protocol() {
        Protocol::Http1 => (Version::HTTP_11, "HTTP/1.1"),
        Protocol::Http2 => (Version::HTTP_2, "HTTP/2.0"),
    };
    assert_eq!(cut.protocol, Some(version));
    let expected = format!(
        "drained in 10.0 s: 0 connections ended, 1 cut\n  \
         unknown {name} GET /sleep/3600000 for 11.0 s, open for 11.0 s"
    );
    assert_eq!(report.to_string(), expected);
    assert_over(server).await;
}

pub(crate) async fn without_a_deadline_what_runs_is_waited_for(stack: Stack) {
    // DRAIN-7
    let server = start(stack, Drain::new(Duration::ZERO)).await;
    let mut wire = server.connect().await;
    let ends = async {
        sleep(MS).await;
        server.drain().begin();
    };
    let (answer, ()) = tokio::join!(wire.get("/sleep/3600000"), ends);
    assert_last(&answer.expect("an answer"), stack);
    assert!(server.drain().finished().await.is_complete());
    assert_over(server).await;
}

pub(crate) async fn a_second_word_ends_it_at_once(stack: Stack) {
    // DRAIN-7, DRAIN-8: before it has begun, in each phase, and whoever is there.
    for (lame_duck, begun_for) in [(S, None), (S, Some(100 * MS)), (Duration::ZERO, Some(S))] {
        let server = start(stack, drain().lame_duck(lame_duck)).await;
        let mut wire = server.connect().await;
        let mut stuck = Box::pin(wire.get("/sleep/3600000"));
        assert!(timeout(MS, &mut stuck).await.is_err());
        let mut idle = server.connect().await;
        idle.get("/").await.expect("an answer");
        let _silent = server.connect_silently();
        if let Some(begun_for) = begun_for {
            server.drain().begin();
            sleep(begun_for).await;
        }
        let told = Instant::now();
        server.drain().cut();
        let report = server.drain().finished().await;
        // An idle client of HTTP/2 is told, and not reset.
        assert!(told.elapsed() <= 201 * MS, "{:?}", told.elapsed());
        assert_eq!(report.cut.len(), 1, "{report}");
        stuck.await.expect_err("it was cut");
        assert_over(server).await;
    }
}

pub(crate) async fn who_is_idle_or_silent_is_not_cut(stack: Stack) {
    // DRAIN-8
    let server = start(stack, drain()).await;
    let mut idle = server.connect().await;
    idle.get("/").await.expect("an answer");
    let _silent = server.connect_silently();
    server.drain().cut();
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.ended, 2);
    assert_over(server).await;
}

pub(crate) async fn a_stream_is_told_and_knows_the_deadline(stack: Stack) {
    // DRAIN-6
    let server = start(stack, Drain::new(7 * S).lame_duck(3 * S)).await;
    let mut wire = server.connect().await;
    let begun = Instant::now();
    server.drain().begin_on(sleep(S));
    let answer = wire.get("/told").await.expect("an answer");
    assert_eq!(answer.body, ".7000");
    assert!(begun.elapsed() < 4 * S + 10 * MS, "{:?}", begun.elapsed());
    assert!(server.drain().finished().await.is_complete());
    assert_over(server).await;
}

pub(crate) async fn a_web_socket_is_told_and_waited_for(stack: Stack) {
    // DRAIN-6
    let server = start(stack, drain()).await;
    let mut socket = server.connect().await.web_socket_at("/ws-told").await;
    sleep(60 * S).await;
    server.drain().begin();
    let mut close = Vec::new();
    // Of TLS it is no clean end: the handler drops its socket.
    let _ = hyper_util::rt::TokioIo::new(&mut socket)
        .read_to_end(&mut close)
        .await;
    assert_eq!(close[..4], [0x88, 2, 0x03, 0xe9]); // 1001
    drop(socket);
    let report = server.drain().finished().await;
    assert!(report.is_complete(), "{report}");
    assert_over(server).await;
}

pub(crate) async fn a_web_socket_that_goes_on_is_cut(stack: Stack) {
    // DRAIN-6, DRAIN-7, DRAIN-8
    let server = start(stack, Drain::new(5 * S)).await;
    let mut socket = server.connect().await.web_socket().await;
    let begun = Instant::now();
    server.drain().begin();
    sleep_until(begun + 5 * S - MS).await;
    assert_eq!(server.limit().open(), 1);
    let report = server.drain().finished().await;
    assert_eq!(report.cut.len(), 1, "{report}");
    let http1 = stack.protocol() == Protocol::Http1;
    assert_eq!(report.cut[0].upgraded, http1);
    if http1 {
        assert!(
            report.to_string().contains(" upgraded GET /ws for"),
            "{report}"
        );
    }
    let mut rest = Vec::new();
    let _ = hyper_util::rt::TokioIo::new(&mut socket)
        .read_to_end(&mut rest)
        .await;
    assert_eq!(rest, b"");
    drop(socket);
    assert_over(server).await;
}

pub(crate) async fn closes_are_spread_over_their_window(stack: Stack) {
    // DRAIN-11
    let server = start(stack, drain().spread(10 * S)).await;
    let mut wires: Vec<Wire> = Vec::new();
    for _ in 0..50 {
        let mut wire = server.connect().await;
        wire.get("/").await.expect("an answer");
        wires.push(wire);
    }
    server.drain().begin();
    let mut ended = 0;
    for second in 1..=10 {
        sleep(S).await;
        let now = wires.iter().filter(|wire| wire.ending().ended).count();
        assert!(
            (2..=8).contains(&(now - ended)),
            "second {second}: {}",
            now - ended
        );
        ended = now;
        if second == 5 && stack.protocol() == Protocol::Http1 {
            let open = wires.iter_mut().find(|wire| !wire.ending().ended);
            let answer = open.expect("half of them").get("/").await;
            assert_last(&answer.expect("an answer"), stack);
            ended += 1;
        }
    }
    let report = server.drain().finished().await;
    assert_eq!((report.ended, report.cut.len()), (50, 0));
    assert_over(server).await;
}

pub(crate) async fn it_tells_what_it_waits_for(stack: Stack) {
    // DRAIN-10
    let server = start(stack, drain()).await;
    let mut watch = server.drain().watch();
    let mut wire = server.connect().await;
    let slow = tokio::spawn(async move { wire.get("/sleep/2000").await.is_ok() });
    sleep(MS).await;
    assert_eq!(watch.progress().requests, 1);
    server.drain().begin();
    let begun = Instant::now();
    assert_eq!(watch.changed().await.phase, Phase::LameDuck);
    let first = watch.changed().await;
    assert_eq!(
        (first.phase, first.connections, first.requests),
        (Phase::Draining, 1, 1)
    );
    assert_eq!(first.deadline, Some(begun + 30 * S));
    let mut told = 0;
    while watch.changed().await.phase < Phase::Finished {
        told += 1;
    }
    assert!((6..=10).contains(&told), "{told}");
    assert_eq!(slow.await.ok(), Some(true));
    assert_over(server).await;
}

/// A client of some kind, who does not care how it ends.
async fn live(server: &Server, mut roll: impl FnMut(u32) -> u32) {
    sleep(roll(3_000) * MS).await;
    let patience = roll(6_000) * MS;
    let kind = roll(10);
    let life = async {
        if kind < 2 {
            if server.is_listening() {
                let mut socket = server.connect_silently();
                let half = match roll(4) {
                    0 => &b""[..],
                    1 => b"GET / HT",
                    2 => b"PRI * HTTP/2.0\r\n",
                    _ => b"\x16\x03\x01",
                };
                let _ = socket.write_all(half).await;
                let _ = socket.read_to_end(&mut Vec::new()).await;
            }
            return;
        }
        let Some(mut wire) = server.try_connect().await else {
            return;
        };
        match kind {
            2 if server.limit().open() > 0 => {
                if wire.get("/").await.is_ok() && !wire.ending().goaway {
                    wire.ended().await;
                }
            }
            3 | 4 => {
                let path = format!("/sleep/{}", roll(4_000));
                while wire.get(&path).await.is_ok() {}
            }
            5 => drop(wire.get("/endless").await),
            6 => {
                let request = http::Request::get("http://localhost/chunks/300000");
                let request = request.header("host", "localhost").body(Bytes::new());
                let response = wire.begin(request.expect("a request")).await;
                sleep(roll(2_000) * MS).await;
                drop(response);
            }
            7 => drop(wire.get("/told").await),
            8 => drop(wire.get("/panic").await),
            _ => drop(wire.post("/swallow", vec![b'.'; 100_000].into()).await),
        }
    };
    let _ = timeout(patience, life).await;
}

pub(crate) async fn however_clients_live_it_ends_in_time(stack: Stack) {
    // DRAIN-7, DRAIN-9: seeded random lives, and a drain at a random moment.
    for seed in 1_u64..=12 {
        let mut roll = dice(seed);
        let most_ = roll(4_000) * MS + MS;
        let lame_duck = roll(2) * 500 * MS;
        let drain = Drain::new(most_).lame_duck(lame_duck);
        let drain = drain.spread(roll(2) * 700 * MS);
        let server = start(stack, drain).await;
        let begin_at = roll(3_000) * MS;
        let cut_after = (roll(4) == 0).then(|| roll(4_000) * MS);

        let clients = (0..20).map(|n| live(&server, dice(1_000 * seed + n)));
        let ends = async {
            sleep(begin_at).await;
            let begun = Instant::now();
            server.drain().begin();
            if let Some(cut_after) = cut_after {
                let drain = server.drain().clone();
                tokio::spawn(async move {
                    sleep(cut_after).await;
                    drain.cut();
                });
            }
            let report = server.drain().finished().await;
            let most = (lame_duck + most_).min(cut_after.unwrap_or(100 * S));
            let took = begun.elapsed();
            assert!(
                took <= most + 20 * MS,
                "seed {seed}: {took:?} of {most:?}\n{report}"
            );
            assert_eq!(server.limit().open(), 0, "seed {seed}");
            assert_eq!(server.handlers(), 0, "seed {seed}");
            assert_eq!(
                server.drain().watch().progress().connections,
                0,
                "seed {seed}"
            );
            assert!(!server.is_listening(), "seed {seed}");
        };
        tokio::join!(ends, futures_util::future::join_all(clients));
        assert_over(server).await;
    }
}

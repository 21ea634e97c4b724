//! What a client sees when there is more to do than can be done.

use std::time::Duration;

use bytes::Bytes;
use conformance::{Answer, Layers, Protocol, Server, Stack, Wire};
use futures_util::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, timeout};
use tower_connection::{AcceptGate, Head};
use tower_drain::Drain;
use tower_overload::{Adaptive, Criticality, InFlightLimitLayer, Reason, Ticket};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

async fn start(stack: Stack, overload: InFlightLimitLayer) -> Server {
    let layers = Layers {
        overload,
        ..Layers::default()
    };
    layers.start(stack).await
}

/// Lets everything run that can run: the clock moves only when nobody has anything to do.
async fn settle() {
    sleep(MS).await;
}

/// As many clients: connections of HTTP/1, hands on one connection of HTTP/2.
async fn clients(server: &Server, n: usize) -> Vec<Wire> {
    let first = server.connect().await;
    if server.protocol() == Protocol::Http2 {
        let mut wires: Vec<_> = (1..n).map(|_| first.second_hand()).collect();
        wires.push(first);
        return wires;
    }
    let mut wires = vec![first];
    for _ in 1..n {
        wires.push(server.connect().await);
    }
    wires
}

/// A request that is on its way, and does not end by itself.
fn runs(mut wire: Wire, path: &'static str) -> tokio::task::JoinHandle<Option<Answer>> {
    tokio::spawn(async move { wire.get(path).await.ok() })
}

fn assert_shed(answer: &Answer) {
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "");
    assert_eq!(answer.header("content-length"), Some("0"));
    let after = answer.header("retry-after").expect("a time");
    assert!(after.parse::<u64>().expect("seconds") >= 1);
}

pub(crate) async fn past_the_limit_a_request_reads_a_503_at_once(stack: Stack) {
    // SHED-1, SHED-3: the router of `axum::serve` is layered again for each connection.
    let server = start(stack, InFlightLimitLayer::new(10)).await;
    let asked = Instant::now();
    let answers = clients(&server, 50)
        .await
        .into_iter()
        .map(|mut wire| async move {
            let answer = wire.get("/sleep/1000").await.expect("an answer");
            (answer, asked.elapsed())
        });
    let answers = join_all(answers).await;
    let (served, shed): (Vec<_>, Vec<_>) = (answers.iter()).partition(|(a, _)| a.status == 200);
    assert_eq!((served.len(), shed.len()), (10, 40));
    for (answer, took) in shed {
        assert_shed(answer);
        assert_eq!(answer.header("connection"), None);
        assert!(*took < 10 * MS, "{took:?}");
    }
    assert_eq!(server.overload().shed_for(Reason::Full), 40);
    assert_eq!(server.overload().in_flight(), 0);
}

pub(crate) async fn a_shed_request_keeps_its_connection(stack: Stack) {
    // SHED-12
    let server = start(stack, InFlightLimitLayer::new(1)).await;
    let _running = runs(server.connect().await, "/endless");
    let mut wire = server.connect().await;
    settle().await;
    for _ in 0..3 {
        assert_shed(&wire.get("/").await.expect("an answer"));
    }
    // What was sent whole is no reason to end it, either.
    let answer = wire.post("/echo", Bytes::from("small")).await;
    let answer = answer.expect("an answer");
    assert_shed(&answer);
    assert_eq!(answer.header("connection"), None);
    server.overload().set_limit(2);
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");
}

pub(crate) async fn a_streaming_body_holds_its_slot(stack: Stack) {
    // SHED-2
    let server = start(stack, InFlightLimitLayer::new(1)).await;
    let mut streaming = server.connect().await;
    let request = Request::get("http://localhost/ticks/100").header("host", "localhost");
    let request = request.body(Bytes::new()).expect("a request");
    let mut response = streaming.begin(request).await.expect("an answer");
    assert_eq!(response.status(), 200);

    let mut wire = server.connect().await;
    for _ in 0..5 {
        response.frame().await.expect("a tick").expect("a tick");
        assert_shed(&wire.get("/").await.expect("an answer"));
    }
    drop((response, streaming));
    settle().await;
    assert_eq!(server.overload().in_flight(), 0);
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");
}

pub(crate) async fn a_client_that_leaves_gives_its_slot_back(stack: Stack) {
    // SHED-2
    let server = start(stack, InFlightLimitLayer::new(2)).await;
    for path in ["/endless", "/ticks/10", "/sleep/50000", "/bytes/5000000"] {
        let running = [
            runs(server.connect().await, path),
            runs(server.connect().await, path),
        ];
        sleep(5 * MS).await;
        if path != "/bytes/5000000" {
            assert_eq!(server.overload().in_flight(), 2, "{path}");
        }
        for running in running {
            running.abort();
        }
        settle().await;
        assert_eq!(server.overload().in_flight(), 0, "{path}");
    }
    assert_eq!(
        server
            .connect()
            .await
            .get("/")
            .await
            .expect("an answer")
            .body,
        "ok"
    );
}

pub(crate) async fn a_panic_gives_its_slot_back(stack: Stack) {
    // SHED-2
    let server = start(stack, InFlightLimitLayer::new(1)).await;
    for _ in 0..5 {
        assert!(server.connect().await.get("/panic").await.is_err());
        assert_eq!(server.overload().in_flight(), 0);
    }
    assert_eq!(
        server
            .connect()
            .await
            .get("/")
            .await
            .expect("an answer")
            .body,
        "ok"
    );
}

pub(crate) async fn an_exempt_request_is_served_at_the_limit(stack: Stack) {
    // SHED-4
    let health = |head: &Head<'_>| match head.uri.path() {
        "/" => Ticket::exempt(),
        _ => Ticket::default(),
    };
    let server = start(stack, InFlightLimitLayer::new(1).classify(health)).await;
    let _running = runs(server.connect().await, "/endless");
    settle().await;
    let mut wire = server.connect().await;
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");
    assert_shed(&wire.get("/sleep/1").await.expect("an answer"));
    assert_eq!(server.overload().in_flight(), 1);
}

pub(crate) async fn who_waits_is_served_when_a_slot_is_free(stack: Stack) {
    // SHED-5
    let server = start(stack, InFlightLimitLayer::new(5).max_wait(3 * S)).await;
    let asked = Instant::now();
    let answers = clients(&server, 12)
        .await
        .into_iter()
        .map(|mut wire| async move {
            let answer = wire.get("/sleep/500").await.expect("an answer");
            (answer.status.as_u16(), asked.elapsed().as_millis() / 100)
        });
    let mut answers = join_all(answers).await;
    answers.sort_unstable();
    let expected = [vec![(200, 5); 5], vec![(200, 10); 5], vec![(503, 0); 2]].concat();
    assert_eq!(answers, expected);
    assert_eq!(
        (server.overload().in_flight(), server.overload().waiting()),
        (0, 0)
    );
}

pub(crate) async fn a_wait_ends_in_time(stack: Stack) {
    // SHED-5
    let server = start(stack, InFlightLimitLayer::new(1).max_wait(200 * MS)).await;
    let _running = runs(server.connect().await, "/endless");
    settle().await;
    let mut wire = server.connect().await;
    let asked = Instant::now();
    let answer = wire.get("/").await.expect("an answer");
    assert_shed(&answer);
    let took = asked.elapsed();
    assert!(200 * MS <= took && took < 210 * MS, "{took:?}");
    assert_eq!(server.overload().shed_for(Reason::Waited), 1);
    // It was said on a connection that goes on.
    server.overload().set_limit(2);
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");
}

pub(crate) async fn who_leaves_the_room_makes_way(stack: Stack) {
    // SHED-5
    let server = start(stack, InFlightLimitLayer::new(1).max_wait(3 * S)).await;
    let running = runs(server.connect().await, "/endless");
    settle().await;
    let waits = runs(server.connect().await, "/");
    settle().await;
    assert_eq!(server.overload().waiting(), 1);
    assert_shed(&server.connect().await.get("/").await.expect("an answer"));
    waits.abort();
    settle().await;
    assert_eq!(server.overload().waiting(), 0);
    let next = runs(server.connect().await, "/");
    settle().await;
    running.abort();
    let answer = next.await.expect("no panic").expect("an answer");
    assert_eq!(answer.body, "ok");
    settle().await;
    assert_eq!(
        (server.overload().in_flight(), server.overload().waiting()),
        (0, 0)
    );
}

pub(crate) async fn a_shed_call_reads_unavailable(stack: Stack) {
    // SHED-11
    let server = start(stack, InFlightLimitLayer::new(1)).await;
    let _running = runs(server.connect().await, "/endless");
    settle().await;
    let call = Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("host", "localhost")
        .header("content-type", "application/grpc")
        .body(Bytes::from_static(&[0; 5]))
        .expect("a request");
    let answer = server.connect().await.send(call).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status"), Some("14"));
    let pushback = answer.header("grpc-retry-pushback-ms").expect("a time");
    assert!(pushback.parse::<u64>().expect("milliseconds") >= 1_000);
    assert_eq!(answer.body, "");
}

pub(crate) async fn a_shed_upload_still_reads_the_503(stack: Stack) {
    // SHED-12: more than the pipe holds, so the client is still sending when the answer comes.
    let server = start(stack, InFlightLimitLayer::new(1)).await;
    let _running = runs(server.connect().await, "/endless");
    settle().await;
    for size in [100 * 1024, 5 * 1024 * 1024] {
        let mut wire = server.connect().await;
        let answer = wire.post("/echo", vec![0; size].into()).await;
        let answer = answer.expect("an answer");
        assert_shed(&answer);
        let close = (server.protocol() == Protocol::Http1).then_some("close");
        assert_eq!(answer.header("connection"), close);
        if close.is_some() {
            let ended = timeout(3 * S, wire.ended()).await.expect("it ends");
            assert!(ended.ended);
        }
    }
}

pub(crate) async fn a_connection_that_reads_only_refusals_ends(stack: Stack) {
    // SHED-13
    let server = start(stack, InFlightLimitLayer::new(1)).await;
    let _running = runs(server.connect().await, "/endless");
    settle().await;
    let mut wire = server.connect().await;
    for _ in 0..5 {
        assert_shed(&wire.get("/").await.expect("an answer"));
        sleep(998 * MS).await;
    }
    let answer = wire.get("/").await.expect("an answer");
    assert_eq!(answer.header("connection"), None);
    assert!(!wire.ending().goaway && !wire.ending().ended);
    sleep(20 * MS).await;
    assert_shed(&wire.get("/").await.expect("an answer"));
    let ending = timeout(S, wire.ended()).await.expect("it ends");
    assert_eq!(ending.goaway, server.protocol() == Protocol::Http2);
}

pub(crate) async fn a_web_socket_holds_no_slot(stack: Stack) {
    // SHED-15
    let server = start(stack, InFlightLimitLayer::new(1).max_streams(2)).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        sockets.push(server.connect().await.web_socket().await);
    }
    settle().await;
    // Nothing tells a service of the end of a stream of HTTP/2.
    let counted = if server.protocol() == Protocol::Http1 {
        2
    } else {
        0
    };
    assert_eq!(
        (server.overload().in_flight(), server.overload().streams()),
        (0, counted)
    );
    assert_eq!(
        server
            .connect()
            .await
            .get("/")
            .await
            .expect("an answer")
            .body,
        "ok"
    );
    if server.protocol() == Protocol::Http1 {
        let refused = server.connect().await.get_upgrade("/ws").await;
        assert_shed(&refused.expect("an answer"));
    }
    drop(sockets);
    settle().await;
    assert_eq!(server.overload().streams(), 0);
    server.connect().await.web_socket().await;
}

pub(crate) async fn a_drain_serves_who_waits(stack: Stack) {
    // SHED-5, DRAIN-4
    let layers = Layers {
        drain: Drain::new(5 * S),
        overload: InFlightLimitLayer::new(1).max_wait(3 * S),
        ..Layers::default()
    };
    let server = layers.start(stack).await;
    let running = runs(server.connect().await, "/sleep/500");
    settle().await;
    let waits = runs(server.connect().await, "/sleep/500");
    settle().await;
    server.drain().begin();
    for answer in [running, waits] {
        let answer = answer.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let report = server.drain().finished().await;
    assert!(report.cut.is_empty(), "{report}");
}

pub(crate) async fn pressure_pauses_accepting(stack: Stack) {
    // SHED-17
    let gate = AcceptGate::default();
    let overload = InFlightLimitLayer::new(1).pause_accepting(gate.clone());
    let server = start(stack, overload).await;
    let running = runs(server.connect().await, "/endless");
    let mut wire = server.connect().await;
    settle().await;
    assert_shed(&wire.get("/").await.expect("an answer"));
    sleep(100 * MS).await;
    assert!(!gate.is_shut());
    assert_shed(&wire.get("/").await.expect("an answer"));
    assert!(gate.is_shut());
    running.abort();
    settle().await;
    assert!(!gate.is_shut());
    wire.get("/").await.expect("an answer");
}

pub(crate) async fn who_would_be_too_late_is_refused_at_once(stack: Stack) {
    // SHED-7
    let server = start(stack, InFlightLimitLayer::new(1).max_wait(5 * S)).await;
    let mut wire = server.connect().await;
    // A second is what it takes, as it has seen.
    assert_eq!(
        wire.get("/sleep/1000").await.expect("an answer").status,
        200
    );
    let _running = runs(server.connect().await, "/endless");
    settle().await;
    let call = Request::get("http://localhost/")
        .header("host", "localhost")
        .header("grpc-timeout", "1S")
        .body(Bytes::new())
        .expect("a request");
    let asked = Instant::now();
    let answer = wire.send(call).await.expect("an answer");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), None);
    assert!(asked.elapsed() < 10 * MS);
    assert_eq!(server.overload().shed_for(Reason::TooLate), 1);
}

/// Limit 1, taken for 60 ms. Meanwhile each of these asks, 2 ms apart. Returns them in the order in which they are answered.
async fn order(server: &Server, paths: &[&'static str]) -> Vec<&'static str> {
    let _running = runs(server.connect().await, "/sleep/60");
    settle().await;
    let (answered, mut order) = tokio::sync::mpsc::unbounded_channel();
    for &path in paths {
        let mut wire = server.connect().await;
        let answered = answered.clone();
        tokio::spawn(async move {
            assert_eq!(wire.get(path).await.expect("an answer").status, 200);
            answered.send(path)
        });
        sleep(2 * MS).await;
    }
    drop(answered);
    let mut paths = Vec::new();
    while let Some(path) = order.recv().await {
        paths.push(path);
    }
    paths
}

pub(crate) async fn who_is_more_critical_goes_first(stack: Stack) {
    // SHED-6, SHED-8
    let classify = |head: &Head<'_>| match head.uri.path() {
        "/sleep/1" | "/sleep/2" => Ticket::new(Criticality::Sheddable),
        "/sleep/5" => Ticket::new(Criticality::CriticalPlus),
        _ => Ticket::default(),
    };
    let overload = InFlightLimitLayer::new(1)
        .max_wait(5 * S)
        .max_waiting(9)
        .classify(classify);
    let server = start(stack, overload).await;
    let served = order(
        &server,
        &["/sleep/1", "/sleep/3", "/sleep/2", "/sleep/4", "/sleep/5"],
    )
    .await;
    assert_eq!(
        served,
        ["/sleep/5", "/sleep/3", "/sleep/4", "/sleep/1", "/sleep/2"]
    );
}

pub(crate) async fn who_has_few_requests_in_the_house_goes_first(stack: Stack) {
    // SHED-9
    let classify = |head: &Head<'_>| match head.uri.path() {
        "/sleep/9" => Ticket::default().key("few"),
        _ => Ticket::default().key("many"),
    };
    let overload = InFlightLimitLayer::new(1)
        .max_wait(5 * S)
        .max_waiting(9)
        .classify(classify);
    let server = start(stack, overload).await;
    let served = order(&server, &["/sleep/1", "/sleep/2", "/sleep/3", "/sleep/9"]).await;
    assert_eq!(served, ["/sleep/9", "/sleep/1", "/sleep/2", "/sleep/3"]);
}

pub(crate) async fn who_is_refused_is_told_a_second_of_its_own(stack: Stack) {
    // SHED-14: of ten in a second, which nobody has measured yet, one is told to come in each.
    let server = start(stack, InFlightLimitLayer::new(1)).await;
    let _running = runs(server.connect().await, "/endless");
    settle().await;
    let mut wire = server.connect().await;
    for second in 1..=5 {
        let answer = wire.get("/").await.expect("an answer");
        assert_eq!(
            answer.header("retry-after"),
            Some(second.to_string().as_str())
        );
    }
}

pub(crate) async fn a_limit_changes_while_requests_run(stack: Stack) {
    // SHED-16
    let server = start(stack, InFlightLimitLayer::new(2).max_wait(5 * S)).await;
    let running = [
        runs(server.connect().await, "/endless"),
        runs(server.connect().await, "/endless"),
    ];
    settle().await;
    let waits = runs(server.connect().await, "/");
    settle().await;
    assert_eq!(server.overload().waiting(), 1);
    server.overload().set_limit(1);
    running[0].abort();
    settle().await;
    assert_eq!(
        (server.overload().in_flight(), server.overload().waiting()),
        (1, 1)
    );
    server.overload().set_limit(2);
    let answer = waits.await.expect("no panic").expect("an answer");
    assert_eq!(answer.body, "ok");
}

pub(crate) async fn a_limit_that_finds_itself_lets_more_in_while_nothing_gets_slower(stack: Stack) {
    // SHED-21: sleeping takes as long whatever else sleeps, so there is no reason to refuse anybody.
    let law = Adaptive::new().floor(2).start(2).seed(7);
    let server = start(stack, InFlightLimitLayer::with_limit(law)).await;
    let mut refused = Vec::new();
    let mut wires = clients(&server, 20).await;
    for _ in 0..40 {
        let answers = join_all(wires.iter_mut().map(|wire| wire.get("/sleep/100"))).await;
        let statuses = answers.iter().flatten().map(|answer| answer.status);
        refused.push(statuses.filter(|&status| status == 503).count());
        sleep(10 * MS).await;
    }
    assert_eq!(refused[0], 18, "{refused:?}");
    assert_eq!(refused[39], 0, "{refused:?}");
    let course = server.overload().course();
    assert!(
        course.iter().any(|step| step.reason == "slow start"),
        "{course:?}"
    );
}

pub(crate) async fn a_limit_that_finds_itself_refuses_who_would_only_queue(stack: Stack) {
    // SHED-21: one at a time is served, whoever else is in.
    let law = Adaptive::new().floor(2).start(8).seed(7);
    let server = start(stack, InFlightLimitLayer::with_limit(law)).await;
    let wires = clients(&server, 60).await;
    let end = Instant::now() + 4 * S; // before those that are only refused are told to go
    let asking = wires.into_iter().map(|mut wire| async move {
        let mut refused = false;
        while Instant::now() < end {
            let answer = wire.get("/turn/10").await.expect("an answer");
            refused = answer.status == 503;
            sleep(100 * MS).await;
        }
        refused
    });
    let refused = join_all(asking).await;
    let refused = refused.iter().filter(|&&refused| refused).count();
    assert!((30..60).contains(&refused), "{refused}");
    let limit = server.overload().limit();
    assert!(limit <= 16, "{limit}: {:?}", server.overload().course());
}

pub(crate) async fn who_does_not_read_keeps_nobody_out_of_a_limit_that_finds_itself(stack: Stack) {
    // SHED-22: a fixed limit of two would be all taken.
    let law = Adaptive::new().floor(2).start(2).ceiling(2);
    let server = start(stack, InFlightLimitLayer::with_limit(law)).await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut wire = server.connect().await;
        let request = Request::get("http://localhost/chunks/10000000").header("host", "localhost");
        let request = request.body(Bytes::new()).expect("a request");
        let response = wire.begin(request).await.expect("an answer");
        settle().await;
        readers.push((wire, response));
    }
    assert_eq!(server.overload().in_flight(), 2);
    let mut wire = server.connect().await;
    assert_eq!(wire.get("/").await.expect("an answer").body, "ok");
    // One whose service has yet to say more holds its slot.
    let running = [
        runs(server.connect().await, "/endless"),
        runs(server.connect().await, "/endless"),
    ];
    settle().await;
    assert_eq!(server.overload().in_flight(), 4);
    assert_shed(&wire.get("/").await.expect("an answer"));
    drop((readers, running));
}

//! What a limit tells of what it shed, and of how it moved.

mod support;

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use events::Log;
use http::{HeaderValue, Request, Response, StatusCode, header::UPGRADE};
use http_body_util::Empty;
use support::{answer, ask, asked, get, limited};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt, service_fn};
use tower_connection::{ConnectionHandle, Head, Label};
use tower_overload::{Criticality, InFlightLimitLayer, Limit, Reason, Sample, Ticket};
use tracing::Level;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn listen() -> Log {
    events::listen(Level::DEBUG, "tower_overload")
}

/// By the path.
fn classify(head: &Head<'_>) -> Ticket {
    match head.uri.path() {
        "/batch" => Ticket::new(Criticality::Sheddable),
        "/healthz" => Ticket::exempt(),
        _ => Ticket::default(),
    }
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn what_is_shed_is_counted_by_its_reason_and_its_class() {
    let _log = listen();
    let layer = InFlightLimitLayer::new(1)
        .max_wait(100 * MS)
        .max_waiting(1)
        .classify(classify);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let mut waits = ask(&service, get("/"));
    assert!(waits.poll().is_pending());
    answer(&service, get("/batch"));
    answer(&service, get("/batch"));
    advance(99 * MS).await;
    assert!(waits.poll().is_pending());
    let by = |reason, class| overload.shed_by(reason, class);
    assert_eq!(by(Reason::Waited, Criticality::Critical), 0);
    advance(MS).await;
    assert!(waits.poll().is_ready());
    assert_eq!(by(Reason::Waited, Criticality::Critical), 1);
    assert_eq!(by(Reason::Full, Criticality::Sheddable), 2);
    assert_eq!((overload.shed_for(Reason::Full), overload.shed()), (2, 3));
    // Neither who leaves nor who is served.
    let mut leaves = ask(&service, get("/"));
    assert!(leaves.poll().is_pending());
    drop(leaves);
    handler.end(2);
    assert!(matches!(
        ask(&service, get("/healthz")).poll(),
        Poll::Ready(Ok(_))
    ));
    assert_eq!(overload.shed(), 3);
}

#[test]
fn a_reason_is_a_label() {
    fn names<L: Label>() -> Vec<&'static str> {
        L::ALL.iter().map(|label| label.as_str()).collect()
    }
    let names = names::<Reason>();
    assert_eq!(names.len(), 7);
    assert!(names.contains(&"full") && names.contains(&"not_ready"));
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn what_is_shed_is_told_and_a_flood_is_not() {
    let log = listen();
    let layer = InFlightLimitLayer::new(1).classify(classify);
    let (service, _handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let mut request = get("/batch");
    request
        .extensions_mut()
        .insert(ConnectionHandle::detached());
    answer(&service, request);
    for _ in 0..24 {
        answer(&service, get("/"));
    }
    assert_eq!(log.lines().len(), 10);
    let told = "peer=unknown reason=\"full\" class=\"sheddable\" in_flight=1 limit=1 retry_after=";
    assert!(
        log.lines()[0].contains("INFO") && log.lines()[0].contains(told),
        "{}",
        log.lines()[0]
    );
    assert!(
        !log.lines()[1].contains("peer="),
        "nobody knows: {}",
        log.lines()[1]
    );
    advance(S).await;
    answer(&service, get("/"));
    assert!(
        log.lines()[10].contains("suppressed=15"),
        "{}",
        log.lines()[10]
    );
    assert_eq!(layer.handle().shed(), 26, "each is counted");
}

// OBS-1, OBS-2
#[tokio::test(start_paused = true)]
async fn an_upgrade_for_which_there_is_no_room_is_told() {
    let log = listen();
    let layer = InFlightLimitLayer::new(10).max_streams(1);
    let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| async {
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        Ok::<_, Infallible>(response)
    }));
    let connection = ConnectionHandle::detached();
    let upgrade = || {
        let mut request = get("/");
        let websocket = HeaderValue::from_static("websocket");
        request.headers_mut().insert(UPGRADE, websocket);
        request.extensions_mut().insert(connection.clone());
        service.clone().oneshot(request)
    };
    assert_eq!(upgrade().await.unwrap().status(), 101);
    assert!(log.lines().is_empty());
    assert_eq!(upgrade().await.unwrap().status(), 503);
    let shed = |class| layer.handle().shed_by(Reason::Streams, class);
    assert_eq!(shed(Criticality::Critical), 1);
    let told = "peer=unknown reason=\"streams\" class=\"critical\"";
    assert!(log.lines()[0].contains(told), "{}", log.lines()[0]);
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn a_step_of_the_limit_is_told() {
    let log = listen();
    let overload = InFlightLimitLayer::new(10).handle();
    overload.set_limit(20);
    overload.set_limit(20);
    overload.set_limit(30); // one step with the first
    assert_eq!(log.lines().len(), 1);
    let told = "from=10 to=20 reason=\"by hand\" suppressed=0";
    assert!(
        log.lines()[0].contains("DEBUG") && log.lines()[0].contains(told),
        "{}",
        log.lines()[0]
    );
    advance(100 * MS).await;
    overload.set_limit(40);
    assert!(
        log.lines()[1].contains("from=30 to=40"),
        "{}",
        log.lines()[1]
    );
}

/// Another limit, and another reason, with each request that finds no slot.
#[derive(Debug, Default)]
struct Restless(AtomicUsize);

impl Limit for Restless {
    fn limit(&self) -> usize {
        self.0.load(Ordering::Relaxed) % 2
    }

    fn on_sample(&self, _: &Sample) {}

    fn on_full(&self, _: Instant) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn reason(&self) -> &'static str {
        ["less", "more"][self.limit()]
    }
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn of_a_flood_of_steps_a_few_are_told() {
    let log = listen();
    let layer = InFlightLimitLayer::with_limit(Restless::default());
    let overload = layer.handle();
    let (service, _handler) = limited(&layer);
    let mut running = Vec::new();
    while overload.course().len() < 25 {
        let mut request = ask(&service, get("/"));
        let _ = request.poll();
        running.push(request);
    }
    let moves = || {
        let moves = log.lines().into_iter();
        let moves = moves.filter(|line| line.contains("moved the limit"));
        moves.collect::<Vec<_>>()
    };
    assert_eq!(moves().len(), 10);
    advance(S).await;
    overload.set_limit(7);
    assert!(moves()[10].contains("suppressed=15"), "{}", moves()[10]);
}

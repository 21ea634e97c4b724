//! A limit that finds itself, in the layer that asks it, under the paused clock.

mod support;

use std::{
    collections::HashSet,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use support::{Endless, answer, ask, asked, get, limited};
use tokio::{
    sync::Semaphore,
    task::yield_now,
    time::{Instant, Sleep, advance, sleep, sleep_until},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};
use tower_overload::{
    Adaptive, InFlightLimitLayer, Limit, Overload, OverloadBody, Sample, UploadLayer,
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Chance that can be repeated (Steele's splitmix).
struct Chance(u64);

impl Chance {
    /// Above zero, at most one.
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.0;
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        let z = u32::try_from((z ^ z >> 31) >> 32).expect("a half");
        (f64::from(z) + 1.0) / 4_294_967_296.0
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.part().ln() * mean
    }
}

/// What a client does but ask and read the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Quick,
    /// Takes a frame, and for so long no other.
    Reads(Duration),
    /// Sends its body after so long.
    Uploads(Duration),
}

/// Clients that come by chance to a service of a few places, each of which takes [`MEAN`] for a request.
#[derive(Clone, Copy)]
struct Load {
    places: usize,
    /// How much is asked for, of what can be served.
    asked: f64,
    /// One in so many is another one than quick.
    one_in: u32,
    other: Client,
    /// Whether the wait for uploads is.
    measured: bool,
}

/// A request takes 50 ms of a place, by chance, and then half a millisecond, as the clock's steps are rounded up.
const MEAN: f64 = 0.05;

impl Load {
    fn new(places: usize, asked: f64) -> Self {
        Self {
            places,
            asked,
            one_in: u32::MAX,
            other: Client::Quick,
            measured: false,
        }
    }

    /// What can be served in a second.
    fn capacity(&self) -> f64 {
        let places = u32::try_from(self.places).expect("a few");
        f64::from(places) / (MEAN + 0.0005)
    }

    async fn run(&self, layer: &InFlightLimitLayer, time: Duration) -> Run {
        let places = Arc::new(Semaphore::new(self.places));
        let service: Service = if self.measured {
            let serve = service_fn(move |request| serve(places.clone(), request));
            BoxCloneService::new(UploadLayer::new().layer(layer.layer(serve)))
        } else {
            let serve = service_fn(move |request| serve(places.clone(), request));
            BoxCloneService::new(layer.layer(serve))
        };
        let run = Arc::new(Mutex::new(Run::default()));
        let start = Instant::now();
        let mut at = start;
        let mut chance = Chance(7);
        for number in 1.. {
            at += Duration::from_secs_f64(chance.exponential(1.0 / self.capacity() / self.asked));
            if at > start + time {
                break;
            }
            sleep_until(at).await;
            let other = number % self.one_in == 0;
            let client = if other { self.other } else { Client::Quick };
            let late = match client {
                Client::Uploads(after) => Late(Some(Box::pin(sleep(after)))),
                Client::Quick | Client::Reads(_) => Late(None),
            };
            let mut request = Request::new(late);
            let work = Duration::from_secs_f64(chance.exponential(MEAN));
            request.extensions_mut().insert(Work(work));
            let (service, run) = (service.clone(), run.clone());
            tokio::spawn(async move {
                let came = Instant::now();
                let answer = service.oneshot(request).await.unwrap();
                let served = answer.status() == 200;
                if client == Client::Quick {
                    run.lock().unwrap().note(served, came.elapsed());
                } else if let Client::Reads(after) = client {
                    let mut body = answer.into_body();
                    drop(body.frame().await);
                    sleep(after).await;
                }
            });
        }
        let mut run = std::mem::take(&mut *run.lock().unwrap());
        run.seconds = time.as_secs_f64();
        run
    }
}

#[derive(Clone, Copy)]
struct Work(Duration);

type Service = BoxCloneService<Request<Late>, Response<OverloadBody<Frames>>, Infallible>;

async fn serve<B: Body>(
    places: Arc<Semaphore>,
    request: Request<B>,
) -> Result<Response<Frames>, Infallible> {
    let work = request.extensions().get::<Work>().expect("it is said").0;
    let sent = request.into_body().collect().await;
    assert!(sent.is_ok());
    let _place = places.acquire().await.expect("it is open");
    sleep(work).await;
    Ok(Response::new(Frames(2)))
}

/// What became of those who are quick.
#[derive(Debug, Default)]
struct Run {
    seconds: f64,
    served: f64,
    refused: f64,
    /// How long all that were served took together, in seconds.
    took: f64,
}

impl Run {
    fn note(&mut self, served: bool, took: Duration) {
        if served {
            self.served += 1.0;
            self.took += took.as_secs_f64();
        } else {
            self.refused += 1.0;
        }
    }

    /// Which part of what can be served was.
    fn used(&self, load: &Load) -> f64 {
        self.served / self.seconds / load.capacity()
    }

    /// By how much it took longer than it does alone.
    fn longer(&self) -> f64 {
        self.took / self.served / MEAN
    }

    fn refused(&self) -> f64 {
        self.refused / (self.refused + self.served)
    }
}

/// A body of a request that is there late, or none.
struct Late(Option<Pin<Box<Sleep>>>);

impl Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(sleep) = &mut self.0 else {
            return Poll::Ready(None);
        };
        std::task::ready!(sleep.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a")))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// So many more bytes, one by one.
struct Frames(u8);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a")))))
    }
}

fn adaptive() -> InFlightLimitLayer {
    let law = Adaptive::new().floor(4).start(8).seed(7);
    InFlightLimitLayer::with_limit(law)
}

/// What the law says: without those who only read.
fn limit(overload: &Overload) -> usize {
    overload.course().last().expect("it moved").to
}

// ## It finds the limit

// SHED-21
#[tokio::test(start_paused = true)]
async fn from_a_cold_start_all_places_are_used_and_nobody_waits_long_in_line() {
    for factor in [2.0, 5.0] {
        let load = Load::new(16, factor);
        let layer = adaptive();
        load.run(&layer, 2 * S).await;
        let early = load.run(&layer, 5 * S).await;
        assert!(early.used(&load) > 0.9, "{factor}: {early:?}");
        assert!(early.longer() < 5.0, "{factor}: {early:?}");
        load.run(&layer, 15 * S).await;
        let late = load.run(&layer, 10 * S).await;
        assert!(late.used(&load) > 0.93, "{factor}: {late:?}");
        assert!(late.longer() < 2.7, "{factor}: {late:?}");
        let limit = limit(&layer.handle());
        assert!((6..=64).contains(&limit), "{factor}: {limit}");
    }
}

// SHED-21
#[tokio::test(start_paused = true)]
async fn it_is_as_good_after_a_long_time() {
    let load = Load::new(8, 2.0);
    let layer = adaptive();
    load.run(&layer, 10 * S).await;
    let mut parts = Vec::new();
    for _ in 0..4 {
        let run = load.run(&layer, 60 * S).await;
        assert!(run.longer() < 2.5, "{}", run.longer());
        parts.push(run.used(&load));
    }
    for part in &parts {
        assert!((part - parts[0]).abs() < 0.03, "{parts:?}");
    }
}

// SHED-21
#[tokio::test(start_paused = true)]
async fn at_half_of_what_it_can_do_hardly_anybody_is_refused() {
    let load = Load::new(16, 0.5);
    let layer = adaptive().max_wait(200 * MS);
    load.run(&layer, 2 * S).await;
    let run = load.run(&layer, 60 * S).await;
    assert!(run.served > 9_000.0, "{run:?}");
    assert!(run.refused() < 0.002, "{run:?}");
}

// ## Who does not count

// SHED-22
#[tokio::test(start_paused = true)]
async fn clients_that_read_slowly_keep_nobody_out() {
    let load = Load {
        one_in: 10,
        other: Client::Reads(20 * S),
        ..Load::new(16, 2.0)
    };
    let layer = adaptive();
    let overload = layer.handle();
    load.run(&layer, 10 * S).await;
    let run = load.run(&layer, 20 * S).await;
    let used = run.used(&load) / 0.9; // they are of those that are served
    assert!(used > 0.9, "{used}");
    assert!(run.longer() < 2.5, "{}", run.longer());
    assert!((6..=64).contains(&limit(&overload)), "{}", limit(&overload));
    let in_flight = overload.in_flight();
    assert!(in_flight > 300, "they are counted: {in_flight}");
    assert!(overload.limit() >= in_flight - 64);
    sleep(21 * S).await;
    assert_eq!(overload.in_flight(), 0);
}

// SHED-19
#[tokio::test(start_paused = true)]
async fn clients_that_send_slowly_are_not_taken_for_a_slow_service() {
    for measured in [false, true] {
        let load = Load {
            one_in: 10,
            other: Client::Uploads(S),
            measured,
            ..Load::new(16, 2.0)
        };
        let layer = adaptive();
        load.run(&layer, 10 * S).await;
        let run = load.run(&layer, 20 * S).await;
        let used = run.used(&load) / 0.9; // they are of those that are served
        assert!(used > 0.8, "{measured}: {used}");
        assert!(run.longer() < 2.5, "{measured}: {}", run.longer());
    }
}

// SHED-15
#[tokio::test(start_paused = true)]
async fn who_goes_on_for_ever_holds_no_slot() {
    let law = Adaptive::new().floor(1).ceiling(1).seed(7);
    let layer = InFlightLimitLayer::with_limit(law);
    let overload = layer.handle();
    let service = layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
        let mut response = Response::new(Endless);
        if request.uri() == "/upgrade" {
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        } else {
            let events = "text/event-stream".parse().unwrap();
            response.headers_mut().insert("content-type", events);
        }
        Ok::<_, Infallible>(response)
    }));
    let mut open = Vec::new();
    for number in 0..20 {
        let path = if number % 2 == 0 {
            "/upgrade"
        } else {
            "/events"
        };
        let response = service.clone().oneshot(get(path)).await.unwrap();
        assert_ne!(response.status(), 503, "{number}");
        open.push(response);
        assert_eq!(overload.in_flight(), 0);
    }
    assert_eq!(overload.streams(), 20);
    drop(open);
    assert_eq!(overload.streams(), 0);
}

// ## How it moved

/// Its limit, and why, are what it is told by hand; it panics when asked why.
#[derive(Clone, Debug, Default)]
struct Said(Arc<(AtomicUsize, bool)>);

impl Limit for Said {
    fn limit(&self) -> usize {
        self.0.0.load(Ordering::Relaxed)
    }

    fn on_sample(&self, _: &Sample) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }

    fn reason(&self) -> &'static str {
        assert!(!self.0.1, "as asked");
        "one more"
    }
}

fn said(panics: bool) -> InFlightLimitLayer {
    InFlightLimitLayer::with_limit(Said(Arc::new((AtomicUsize::new(1), panics))))
}

// SHED-24
#[tokio::test(start_paused = true)]
async fn the_last_sixty_four_moves_are_told() {
    let layer = said(false);
    let (service, handler) = limited(&layer);
    handler.end(100);
    let overload = layer.handle();
    assert_eq!(overload.course(), []);
    let start = Instant::now();
    // A look at the run queue that is under way would take it for as long.
    let pass = async |time| {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        advance(time).await;
    };
    for number in 1..=64 {
        pass(100 * MS).await;
        drop(answer(&service, get("/")));
        assert_eq!(overload.course().len(), number);
    }
    let course = overload.course();
    assert_eq!((course[0].from, course[0].to), (1, 2));
    assert_eq!(course[0].at, start + 100 * MS);
    pass(100 * MS).await;
    drop(answer(&service, get("/")));
    let course = overload.course();
    assert_eq!(course.len(), 64);
    assert_eq!((course[0].from, course[63].to), (2, 66));
    // What goes on for the same reason within 100 ms is one move.
    pass(99 * MS).await;
    drop(answer(&service, get("/")));
    let course = overload.course();
    assert_eq!(
        (course[0].from, course[63].from, course[63].to),
        (2, 65, 67)
    );
    assert!(course.iter().all(|step| step.reason == "one more"));
    assert!(course.windows(2).all(|two| two[0].to == two[1].from));
}

// SHED-24
#[tokio::test(start_paused = true)]
async fn a_limit_that_is_set_was_set_by_hand_and_only_if_it_moved() {
    let layer = InFlightLimitLayer::new(10);
    let overload = layer.handle();
    overload.set_limit(10);
    assert_eq!(overload.course(), []);
    overload.set_limit(20);
    overload.set_limit(20);
    let course = overload.course();
    assert_eq!(course.len(), 1);
    let step = course[0];
    assert_eq!((step.from, step.to, step.reason), (10, 20, "by hand"));
}

// SHED-24
#[tokio::test(start_paused = true)]
async fn a_limit_that_finds_itself_says_why() {
    let load = Load::new(16, 2.0);
    let layer = adaptive();
    let mut reasons = HashSet::new();
    for second in 0..10 {
        load.run(&layer, S).await;
        let course = layer.handle().course();
        if second == 0 {
            assert_eq!((course[0].from, course[0].reason), (8, "slow start"));
        }
        assert!(course.len() <= 64);
        assert!(course.windows(2).all(|two| two[0].to == two[1].from));
        assert!(course.windows(2).all(|two| two[0].at <= two[1].at));
        reasons.extend(course.iter().map(|step| step.reason));
    }
    assert!(
        reasons.is_superset(&["latency", "probe"].into()),
        "{reasons:?}"
    );
}

// SHED-18
#[tokio::test(start_paused = true)]
async fn a_law_that_panics_when_asked_why_is_obeyed_the_next_time() {
    let layer = said(true);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    handler.end(1);
    drop(answer(&service, get("/")));
    assert_eq!((overload.limit(), overload.in_flight()), (1, 0));
    assert_eq!(overload.course(), []);
    let [_one] = asked(&service);
    assert_eq!(answer(&service, get("/")).status(), 503);
    let [_two] = asked(&service);
    assert_eq!((overload.limit(), overload.in_flight()), (2, 2));
}

// ## A run queue

/// A law that lets so many in, and keeps what it is told.
#[derive(Clone, Debug)]
struct Told(Arc<(usize, AtomicUsize)>);

impl Limit for Told {
    fn limit(&self) -> usize {
        self.0.0
    }

    fn on_sample(&self, _: &Sample) {}

    fn on_delay(&self, _: Instant, _: Duration) {
        self.0.1.fetch_add(1, Ordering::Relaxed);
    }
}

/// Moves the clock without a yield, as a task does that works.
fn work(time: Duration) {
    let polled = tokio_test::task::spawn(advance(time)).poll();
    assert!(polled.is_pending());
}

/// A layer with a law that lets two in, and to which the run queue was so long when it was looked at.
async fn crowded(delay: Duration) -> InFlightLimitLayer {
    let law = Told(Arc::new((2, AtomicUsize::new(0))));
    let layer = InFlightLimitLayer::with_limit(law.clone());
    let (service, handler) = limited(&layer);
    handler.end(1);
    tokio::spawn(async move { work(delay) });
    drop(answer(&service, get("/")));
    while law.0.1.load(Ordering::Relaxed) == 0 {
        yield_now().await;
    }
    layer
}

// SHED-23
#[tokio::test(start_paused = true)]
async fn in_a_crowd_a_request_has_its_slot_for_one_turn_before_it_is_served() {
    for (delay, waits) in [(Duration::from_nanos(4_999_999), false), (5 * MS, true)] {
        let layer = crowded(delay).await;
        let overload = layer.handle();
        let (service, handler) = limited(&layer);
        let mut first = ask(&service, get("/"));
        assert!(first.poll().is_pending());
        assert_eq!(overload.in_flight(), 1);
        assert_eq!(handler.running(), usize::from(!waits), "{delay:?}");
        assert_eq!(first.is_woken(), waits);
        if waits {
            // Those that are ready meanwhile are counted, and refused where there are too many.
            let mut second = ask(&service, get("/"));
            assert!(second.poll().is_pending());
            assert_eq!(answer(&service, get("/")).status(), 503);
            assert!(first.poll().is_pending());
            assert_eq!(handler.running(), 1);
            assert!(!first.is_woken(), "it has had its turn");
            drop(second);
            assert_eq!(
                overload.in_flight(),
                1,
                "who leaves before his turn gives back"
            );
        }
    }
}

/// How many of twenty requests are refused that are ready at once, of a handler that never comes back to an `await`.
async fn refused(layer: &InFlightLimitLayer) -> usize {
    let service = layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        work(10 * MS);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let ask = || {
        let answer = service.clone().oneshot(get("/"));
        tokio::spawn(async { answer.await.unwrap().status() })
    };
    let asks: Vec<_> = (0..20).map(|_| ask()).collect();
    let mut refused = 0;
    for ask in asks {
        refused += usize::from(ask.await.unwrap() == 503);
    }
    refused
}

// SHED-23: each was done before the next was read, so there was never more than one.
#[tokio::test(start_paused = true)]
async fn a_handler_that_never_awaits_is_limited_in_a_crowd() {
    assert_eq!(refused(&crowded(MS).await).await, 0);
    assert_eq!(refused(&crowded(5 * MS).await).await, 18);
}

// SHED-23
#[tokio::test(start_paused = true)]
async fn without_a_law_nobody_waits_for_a_turn() {
    let layer = InFlightLimitLayer::new(2);
    for _ in 0..8 {
        tokio::spawn(async { work(10 * MS) });
    }
    let (service, handler) = limited(&layer);
    for number in 1..=2 {
        let mut running = ask(&service, get("/"));
        assert!(running.poll().is_pending());
        assert_eq!(handler.running(), 1, "{number}");
        yield_now().await;
    }
    assert_eq!(refused(&layer).await, 0);
}

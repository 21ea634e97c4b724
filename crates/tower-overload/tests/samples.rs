//! What a law is told.

mod support;

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use support::{answer, ask, asked, get, limited};
use tokio::time::{Instant, Sleep, advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_connection::{Accept, Head};
use tower_overload::{
    Criticality, InFlightLimit, InFlightLimitLayer, Limit, Outcome, Reason, Sample, Ticket,
    UploadBody, UploadLayer,
};
use tower_read_timeout::ReadTimeoutLayer;

const MS: Duration = Duration::from_millis(1);

/// A law that keeps what it is told, and changes nothing by itself.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Notes>);

#[derive(Debug, Default)]
struct Notes {
    limit: AtomicUsize,
    full: AtomicUsize,
    samples: Mutex<Vec<Sample>>,
}

impl Told {
    fn new(limit: usize) -> Self {
        let told = Self::default();
        told.0.limit.store(limit, Ordering::Relaxed);
        told
    }

    fn full(&self) -> usize {
        self.0.full.load(Ordering::Relaxed)
    }

    /// The only sample that it was told of since.
    fn sample(&self) -> Sample {
        let mut samples = self.0.samples.lock().unwrap();
        assert_eq!(samples.len(), 1);
        samples.remove(0)
    }
}

impl Limit for Told {
    fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Relaxed)
    }

    fn on_sample(&self, sample: &Sample) {
        self.0.samples.lock().unwrap().push(sample.clone());
    }

    fn on_full(&self, _: Instant) {
        self.0.full.fetch_add(1, Ordering::Relaxed);
    }
}

// SHED-18
#[tokio::test(start_paused = true)]
async fn a_law_is_told_once_of_each_request_that_finds_no_slot() {
    let law = Told::new(2);
    let layer = InFlightLimitLayer::with_limit(law.clone());
    let (service, handler) = limited(&layer);
    // It takes 100 ms to serve one, as it has seen.
    let [mut one, _two] = asked(&service);
    advance(100 * MS).await;
    handler.end(1);
    assert!(one.poll().is_ready());
    let _three = asked::<1>(&service);
    assert_eq!(law.full(), 0, "the last slot is one");
    assert_eq!(answer(&service, get("/")).status(), 503);
    assert_eq!(law.full(), 1);

    let layer = layer.max_wait(200 * MS).max_waiting(1);
    let [mut waits] = asked(&service);
    assert_eq!(law.full(), 2);
    assert_eq!(answer(&service, get("/")).status(), 503);
    assert_eq!(law.full(), 3, "no place to wait in");
    let mut hurries = get("/");
    let soon = "1m".parse().unwrap();
    hurries.headers_mut().insert("grpc-timeout", soon);
    assert_eq!(answer(&service, hurries).status(), 503);
    assert_eq!(layer.handle().shed_for(Reason::TooLate), 1);
    assert_eq!(law.full(), 4);
    advance(200 * MS).await;
    assert!(waits.poll().is_ready());
    assert_eq!(layer.handle().shed_for(Reason::Waited), 1);
    assert_eq!(law.full(), 4, "it was told of him");
}

// SHED-18
#[tokio::test(start_paused = true)]
async fn a_slot_that_is_kept_for_others_is_none() {
    let law = Told::new(4);
    let layer = InFlightLimitLayer::with_limit(law.clone()).classify(|head: &Head<'_>| match head
        .uri
        .path()
    {
        "/bulk" => Ticket::new(Criticality::Sheddable),
        _ => Ticket::default(),
    });
    let (service, _handler) = limited(&layer);
    let mut running: Vec<_> = (0..4).map(|_| ask(&service, get("/bulk"))).collect();
    for running in &mut running {
        assert!(running.poll().is_pending());
    }
    assert_eq!(answer(&service, get("/")).status(), 503);
    assert_eq!(law.full(), 1);
    running.pop();
    assert_eq!(answer(&service, get("/bulk")).status(), 503);
    assert_eq!(layer.handle().shed_for(Reason::Kept), 1);
    assert_eq!(law.full(), 2);
}

// SHED-18
#[tokio::test(start_paused = true)]
async fn who_needs_no_slot_finds_none_missing() {
    let law = Told::new(1);
    let layer = InFlightLimitLayer::with_limit(law.clone()).classify(|head: &Head<'_>| match head
        .uri
        .path()
    {
        "/healthz" => Ticket::exempt(),
        _ => Ticket::default(),
    });
    let (service, _handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let mut exempt = ask(&service, get("/healthz"));
    assert!(exempt.poll().is_pending());
    assert_eq!(law.full(), 0);
}

/// Never ready.
#[derive(Clone)]
struct Busy;

impl Service<Request<Empty<Bytes>>> for Busy {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        pending()
    }
}

// SHED-18
#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_is_no_missing_slot() {
    let law = Told::new(1);
    let layer = InFlightLimitLayer::with_limit(law.clone());
    let service = layer.layer(Busy);
    assert_eq!(answer(&service, get("/")).status(), 503);
    assert_eq!(layer.handle().shed_for(Reason::NotReady), 1);
    assert_eq!(law.full(), 0);
}

/// Of one slot it makes two when it is told that there is none, or panics.
#[derive(Debug)]
struct Eager {
    limit: AtomicUsize,
    panics: bool,
}

impl Limit for Eager {
    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn on_sample(&self, _: &Sample) {}

    fn on_full(&self, _: Instant) {
        assert!(!self.panics, "as asked");
        self.limit.store(2, Ordering::Relaxed);
    }
}

fn eager(panics: bool) -> InFlightLimitLayer {
    let limit = AtomicUsize::new(1);
    InFlightLimitLayer::with_limit(Eager { limit, panics }).max_wait(100 * MS)
}

// SHED-18
#[tokio::test(start_paused = true)]
async fn a_law_that_is_told_may_let_him_in() {
    let layer = eager(false);
    let (service, handler) = limited(&layer);
    let _running = asked::<2>(&service);
    assert_eq!(handler.running(), 2);
    assert_eq!((layer.handle().limit(), layer.handle().waiting()), (2, 0));
}

// SHED-18
#[tokio::test(start_paused = true)]
async fn a_law_that_panics_when_it_is_told_costs_nobody_his_place() {
    let layer = eager(true);
    let (service, handler) = limited(&layer);
    let [one, mut two] = asked(&service);
    assert_eq!(layer.handle().waiting(), 1);
    drop(one);
    assert!(two.poll().is_pending());
    assert_eq!(handler.running(), 1);
}

/// One byte after so long.
struct Slow(Option<Pin<Box<Sleep>>>);

impl Slow {
    fn new(after: Duration) -> Self {
        Self(Some(Box::pin(sleep(after))))
    }
}

impl Body for Slow {
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

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::from(self.0.is_some()))
    }
}

type Answered = Result<Response<Full<Bytes>>, Infallible>;

fn ok() -> Response<Full<Bytes>> {
    Response::new(Full::from("ok"))
}

/// Works for 10 ms, reads the body, works for 20 ms.
async fn reads<B: Body>(request: Request<B>) -> Answered {
    sleep(10 * MS).await;
    let body = request.into_body().collect().await;
    assert!(body.is_ok());
    sleep(20 * MS).await;
    Ok(ok())
}

fn law() -> (Told, InFlightLimitLayer) {
    let law = Told::new(9);
    (law.clone(), InFlightLimitLayer::with_limit(law))
}

// SHED-19
#[tokio::test(start_paused = true)]
async fn the_latency_is_without_the_wait_for_an_upload() {
    let (law, layer) = law();
    // Two who measure see the same.
    let measured = UploadLayer::new().layer(layer.layer(service_fn(reads)));
    let service = UploadLayer::new().layer(measured);
    let request = upload(500 * MS);
    let began = Instant::now();
    service.clone().oneshot(request).await.unwrap();
    assert_eq!(began.elapsed(), 520 * MS);
    let sample = law.sample();
    assert_eq!((sample.latency, sample.uploads), (30 * MS, false));
    assert_eq!(sample.now - sample.began, 520 * MS);

    // What came while the service did something else was not waited for.
    let request = upload(9 * MS);
    service.oneshot(request).await.unwrap();
    assert_eq!(law.sample().latency, 30 * MS);
}

// SHED-19
#[tokio::test(start_paused = true)]
async fn a_wait_that_goes_on_is_one_until_it_is_given_up() {
    let (law, layer) = law();
    let handler = |request: Request<UploadBody<Slow>>| async move {
        let drops = request.uri().path() == "/drops";
        let mut body = Box::pin(request.into_body());
        let first = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx))).await;
        assert!(first.is_pending());
        sleep(10 * MS).await;
        let kept = (!drops).then_some(body);
        sleep(5 * MS).await;
        tokio::spawn(async { drop(kept) });
        Ok::<_, Infallible>(ok())
    };
    let service = UploadLayer::new().layer(layer.layer(service_fn(handler)));
    for (path, latency) in [("/drops", 5 * MS), ("/keeps", Duration::ZERO)] {
        let request = Request::post(path).body(Slow::new(500 * MS)).unwrap();
        service.clone().oneshot(request).await.unwrap();
        assert_eq!(law.sample().latency, latency, "{path}");
    }
}

// SHED-19
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_amid_its_upload_was_waited_for() {
    let (law, layer) = law();
    let service = UploadLayer::new().layer(layer.layer(service_fn(reads)));
    let request = upload(500 * MS);
    let left = tokio::time::timeout(100 * MS, service.oneshot(request)).await;
    assert!(left.is_err());
    let sample = law.sample();
    assert_eq!(sample.outcome, Outcome::Cancelled);
    assert_eq!(sample.latency, 10 * MS);
}

// SHED-19
#[tokio::test(start_paused = true)]
async fn without_a_measure_the_latency_of_an_upload_is_said_to_tell_nothing() {
    let (law, layer) = law();
    let service = layer.layer(service_fn(reads));
    let request = upload(500 * MS);
    service.oneshot(request).await.unwrap();
    let sample = law.sample();
    assert_eq!((sample.latency, sample.uploads), (520 * MS, true));
    assert_eq!(sample.outcome, Outcome::Ok);

    let service = layer.layer(service_fn(reads));
    service.oneshot(get("/")).await.unwrap();
    let sample = law.sample();
    assert_eq!((sample.latency, sample.uploads), (30 * MS, false));
}

// SHED-19
#[tokio::test(start_paused = true)]
async fn an_upload_that_waits_for_its_slot_is_measured_from_then() {
    let law = Told::new(1);
    let layer = InFlightLimitLayer::with_limit(law.clone()).max_wait(100 * MS);
    let (service, handler) = limited(&layer);
    let [mut first] = asked(&service);
    let measured = UploadLayer::new().layer(layer.layer(service_fn(reads)));
    let second = tokio::spawn(measured.oneshot(upload(200 * MS)));
    sleep(50 * MS).await;
    handler.end(1);
    assert!(first.poll().is_ready());
    second.await.unwrap().unwrap();
    let samples = law.0.samples.lock().unwrap();
    let latencies: Vec<_> = samples.iter().map(|sample| sample.latency).collect();
    assert_eq!(latencies, [50 * MS, 30 * MS]);
    assert_eq!(samples[1].now - samples[1].began, 170 * MS);
}

// SHED-19
#[tokio::test(start_paused = true)]
async fn a_timeout_for_bodies_measures_them() {
    let (law, layer) = law();
    let accept = Accept::new(layer.layer(service_fn(reads)));
    for (body, latency, uploads) in [
        (Duration::from_secs(1), 30 * MS, false),
        (Duration::ZERO, 520 * MS, true),
    ] {
        let acceptor = ReadTimeoutLayer::default().body(body).layer(accept.clone());
        let (_client, socket) = tokio::io::duplex(64);
        let connection = acceptor.oneshot(socket).await.unwrap();
        let (_io, service) = connection.into_parts();
        let answer = service.oneshot(upload(500 * MS)).await;
        assert!(answer.is_ok());
        let sample = law.sample();
        assert_eq!((sample.latency, sample.uploads), (latency, uploads));
    }
}

fn upload(after: Duration) -> Request<Slow> {
    Request::post("/").body(Slow::new(after)).unwrap()
}

// SHED-19
#[test]
fn a_measured_body_is_what_it_was() {
    let forward = service_fn(async |request: Request<UploadBody<Full<Bytes>>>| {
        let body = request.body();
        let told = (body.size_hint().exact(), body.is_end_stream());
        let all = request.into_body().collect().await?.to_bytes();
        Ok::<_, Infallible>((told, all))
    });
    let service = UploadLayer::new().layer(forward);
    for (sent, told) in [("abc", (Some(3), false)), ("", (Some(0), true))] {
        let request = Request::new(Full::from(sent));
        let mut asks = tokio_test::task::spawn(service.clone().oneshot(request));
        let answer = tokio_test::assert_ready!(asks.poll());
        assert_eq!(answer, Ok((told, Bytes::from(sent))));
    }
}

// SHED-16: a quota of one client is no load of the server.
#[tokio::test(start_paused = true)]
async fn only_overload_is_told_as_overload() {
    use Outcome::{Ignore, Ok as Served, Overload};
    let (law, layer) = law();
    let service: InFlightLimit<_> =
        layer.layer(service_fn(async |request: Request<Empty<Bytes>>| {
            let mut response = Response::new(Full::<Bytes>::default());
            let said = request.uri().path()[1..].parse::<u16>().unwrap();
            if said < 100 {
                response.headers_mut().insert("grpc-status", said.into());
            } else {
                *response.status_mut() = StatusCode::from_u16(said).unwrap();
            }
            Ok::<_, Infallible>(response)
        }));
    let cases = [
        ("/503", Overload),
        ("/504", Overload),
        ("/429", Ignore),
        ("/500", Ignore),
        ("/404", Ignore),
        ("/200", Served),
        ("/302", Served),
        ("/0", Served),
        ("/4", Overload),
        ("/14", Overload),
        ("/8", Ignore),
        ("/13", Ignore),
    ];
    for (said, outcome) in cases {
        service.clone().oneshot(get(said)).await.unwrap();
        assert_eq!(law.sample().outcome, outcome, "{said}");
    }
}

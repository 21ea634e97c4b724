//! What a request reads that is not served, and what becomes of its connection.

mod support;

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use support::{Answer, Handler, answer, ask, asked, get, limited};
use tokio::time::advance;
use tokio_test::assert_pending;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn,
};
use tower_connection::{AcceptGate, ConnectionHandle, Head};
use tower_overload::{InFlightLimit, InFlightLimitLayer, LoadShedLayer, Overloaded, Reason, Shed};

/// A limit of one, taken.
fn full(layer: &InFlightLimitLayer) -> (InFlightLimit<Handler>, impl Sized + use<>) {
    let (service, handler) = limited(layer);
    let running = asked::<1>(&service);
    (service, (running, handler))
}

// SHED-11
#[tokio::test(start_paused = true)]
async fn a_grpc_call_reads_unavailable_with_pushback() {
    let (service, _running) = full(&InFlightLimitLayer::new(1));
    let mut call = get("/grpc.health.v1.Health/Check");
    *call.version_mut() = Version::HTTP_2;
    *call.method_mut() = http::Method::POST;
    let grpc = "application/grpc".parse().unwrap();
    call.headers_mut().insert("content-type", grpc);
    let refused = answer(&service, call);
    assert_eq!(refused.status(), 200);
    assert_eq!(refused.headers()["grpc-status"], "14");
    let pushback: u64 = refused.headers()["grpc-retry-pushback-ms"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1_000..2_000).contains(&pushback), "{pushback}");
    assert!(!refused.headers().contains_key("retry-after"));
    assert!(refused.body().is_end_stream());
}

// SHED-11
#[tokio::test(start_paused = true)]
async fn a_refusal_says_that_it_has_no_body() {
    // hyper says so on HTTP/1 only.
    let layer = InFlightLimitLayer::new(1);
    let (service, _running) = full(&layer);
    assert_eq!(answer(&service, get("/")).headers()["content-length"], "0");
}

// SHED-11
#[tokio::test(start_paused = true)]
async fn a_problem_document_is_a_choice() {
    let layer = InFlightLimitLayer::new(1).respond(Overloaded::default().problem_json());
    let (service, _running) = full(&layer);
    let refused = answer(&service, get("/"));
    assert_eq!(refused.status(), 503);
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(refused.headers()["retry-after"], "1");
    let size = refused.body().size_hint().exact();
    let length = refused.headers()["content-length"].clone();
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(size, Some(body.len() as u64));
    assert_eq!(length, body.len().to_string());
    assert!(body.starts_with(b"{\"type\":") && body.ends_with(b"\"status\":503}"));
}

// SHED-11
#[tokio::test(start_paused = true)]
async fn an_answer_of_ones_own_knows_why() {
    let layer = InFlightLimitLayer::new(1).respond(|head: &Head<'_>, shed: &Shed| {
        let mut answer = Response::new(Bytes::from(head.uri.path().to_owned()));
        *answer.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
        let why = shed.reason.as_str().parse().unwrap();
        answer.headers_mut().insert("why", why);
        answer
    });
    let (service, _running) = full(&layer);
    let refused = answer(&service, get("/mine"));
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["why"]),
        (429, &"full".parse().unwrap())
    );
    assert_eq!(
        refused.into_body().collect().await.unwrap().to_bytes(),
        "/mine"
    );
}

// SHED-14
#[tokio::test(start_paused = true)]
async fn who_is_refused_is_told_different_seconds() {
    let layer = InFlightLimitLayer::new(20);
    let (service, handler) = limited(&layer);
    let mut running = Vec::from(asked::<20>(&service));
    advance(Duration::from_millis(500)).await;
    handler.end(20);
    running.retain_mut(|running| running.poll().is_pending());
    let _running = asked::<20>(&service);
    // 40 in a second can be served, and a tenth of them be told the same.
    let mut told: Vec<u64> = (0..40)
        .map(|_| {
            let refused = answer(&service, get("/"));
            refused.headers()["retry-after"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    told.sort_unstable();
    // A slot is held for half a second, and what was full may be so for four times that.
    let expected: Vec<u64> = (3..=12).flat_map(|second| [second; 4]).collect();
    assert_eq!(told, expected);
}

/// A body of so many bytes, which come one frame with each poll after so many polls for nothing.
struct Sent {
    after: usize,
    frames: VecDeque<&'static [u8]>,
    size: Option<u64>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.after > 0 {
            self.after -= 1;
            return Poll::Pending;
        }
        let frame = self.frames.pop_front();
        Poll::Ready(frame.map(|bytes| Ok(Frame::data(Bytes::from_static(bytes)))))
    }

    fn size_hint(&self) -> SizeHint {
        self.size
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What a client of HTTP/1 reads whose body is that.
fn upload(after: usize, size: Option<u64>, change: impl FnOnce(&mut Request<Sent>)) -> Answer {
    let (service, _running) = full(&InFlightLimitLayer::new(1));
    let frames = VecDeque::from([&b"ab"[..], b"c"]);
    let body = Sent {
        after,
        frames,
        size,
    };
    let mut request = Request::post("/").body(body).unwrap();
    change(&mut request);
    let mut running = ask(&service, request);
    for _ in 0..3 {
        if let Poll::Ready(answer) = running.poll() {
            return answer.unwrap();
        }
        assert!(running.is_woken(), "it waits for nobody");
    }
    panic!("it waits for the client")
}

fn closes(answer: &Answer) -> bool {
    assert_eq!(answer.status(), 503);
    answer
        .headers()
        .get("connection")
        .is_some_and(|value| value == "close")
}

// SHED-12
#[tokio::test(start_paused = true)]
async fn the_connection_is_kept_if_the_body_is_small_and_there() {
    assert!(!closes(&upload(0, Some(3), |_| {})));
    assert!(
        !closes(&upload(2, Some(3), |_| {})),
        "hyper hands it over when it is polled next"
    );
    assert!(closes(&upload(3, Some(3), |_| {})), "it is not there yet");
    assert!(!closes(&upload(0, Some(64 * 1024), |_| {})));
    assert!(
        closes(&upload(0, Some(64 * 1024 + 1), |_| {})),
        "it is large"
    );
    assert!(
        closes(&upload(0, None, |_| {})),
        "nobody knows how large it is"
    );
}

// SHED-12
#[tokio::test(start_paused = true)]
async fn who_waits_with_its_body_is_not_asked_for_it() {
    let expects = |request: &mut Request<Sent>| {
        let value = "100-continue".parse().unwrap();
        request.headers_mut().insert("expect", value);
    };
    assert!(closes(&upload(0, Some(3), expects)));
}

// SHED-12
#[tokio::test(start_paused = true)]
async fn http2_has_streams_and_needs_no_close() {
    let http2 = |request: &mut Request<Sent>| *request.version_mut() = Version::HTTP_2;
    assert!(!closes(&upload(9, None, http2)));
}

// SHED-13
#[tokio::test(start_paused = true)]
async fn a_connection_on_which_only_refusals_were_sent_for_five_seconds_ends() {
    let layer = InFlightLimitLayer::new(1);
    let (service, handler) = limited(&layer);
    let [mut running] = asked(&service);
    let connection = ConnectionHandle::detached();
    let shed = || {
        let mut request = get("/");
        request.extensions_mut().insert(connection.clone());
        assert_eq!(answer(&service, request).status(), 503);
        connection.is_closing()
    };
    assert!(!shed());
    advance(Duration::from_millis(4_999)).await;
    assert!(!shed());

    // It was served in between.
    handler.end(2);
    assert!(running.poll().is_ready());
    let mut request = get("/");
    request.extensions_mut().insert(connection.clone());
    assert_eq!(answer(&service, request).status(), 200);
    let [_running] = asked(&service);
    assert!(!shed());
    advance(Duration::from_millis(4_999)).await;
    assert!(!shed());
    advance(Duration::from_millis(1)).await;
    assert!(shed());
}

// SHED-13: who is served in between, however much later, is no reason to end a connection; a wait in vain is.
#[tokio::test(start_paused = true)]
async fn only_what_is_served_counts_as_served() {
    let connection = ConnectionHandle::detached();
    let on_it = || {
        let mut request = get("/");
        request.extensions_mut().insert(connection.clone());
        request
    };
    let layer = InFlightLimitLayer::new(1).max_wait(Duration::from_millis(20));
    let (service, handler) = limited(&layer);
    let [mut running] = asked(&service);
    let mut waits = ask(&service, on_it());
    assert_pending!(waits.poll());
    advance(Duration::from_millis(20)).await;
    assert!(waits.poll().is_ready());
    handler.end(2);
    assert!(running.poll().is_ready());
    advance(Duration::from_secs(60)).await;
    assert_eq!(answer(&service, on_it()).status(), 200);
    let [_running] = asked(&service);
    for n in 0..300 {
        assert!(!connection.is_closing(), "{n}");
        let mut waits = ask(&service, on_it());
        assert_pending!(waits.poll());
        advance(Duration::from_millis(20)).await;
        assert!(waits.poll().is_ready());
        if n >= 250 {
            break;
        }
    }
    assert!(connection.is_closing());
}

// SHED-13: a proxy that sends its health checks on the connections of its clients does not keep them on a sick server.
#[tokio::test(start_paused = true)]
async fn an_answer_to_who_is_exempt_does_not_count_as_served() {
    let layer = InFlightLimitLayer::new(1).classify(|head: &Head<'_>| match head.uri.path() {
        "/healthz" => tower_overload::Ticket::exempt(),
        _ => tower_overload::Ticket::default(),
    });
    let (service, handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let connection = ConnectionHandle::detached();
    let on_it = |path: &str| {
        let mut request = get(path);
        request.extensions_mut().insert(connection.clone());
        request
    };
    assert_eq!(answer(&service, on_it("/")).status(), 503);
    advance(Duration::from_secs(3)).await;
    let mut health = ask(&service, on_it("/healthz"));
    assert_pending!(health.poll());
    handler.end(2);
    advance(Duration::from_secs(3)).await;
    assert_eq!(answer(&service, on_it("/")).status(), 503);
    assert!(connection.is_closing());
}

// SHED-13
#[tokio::test(start_paused = true)]
async fn load_shed_knows_whom_it_serves() {
    let connection = ConnectionHandle::detached();
    let service = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(1))
        .service(Handler::new());
    let shed = async || {
        let mut request = get("/");
        request.extensions_mut().insert(connection.clone());
        service.clone().oneshot(request).await.unwrap().status()
    };
    let mut holder = service.clone().map_request(|()| get("/"));
    let running = holder.ready().await.unwrap().call(());
    assert_eq!(shed().await, 503);
    drop(running);
    let mut request = get("/");
    request.extensions_mut().insert(connection.clone());
    drop(tokio_test::task::spawn(service.clone().oneshot(request)).poll());
    advance(Duration::from_secs(6)).await;
    let _running = holder.ready().await.unwrap().call(());
    assert_eq!(shed().await, 503);
    assert!(!connection.is_closing());
}

// SHED-17
#[tokio::test(start_paused = true)]
async fn pressure_pauses_accepting_and_lets_go() {
    let gate = AcceptGate::default();
    let layer = InFlightLimitLayer::new(4).pause_accepting(gate.clone());
    let overload = layer.handle();
    let (service, _handler) = limited(&layer);
    let mut running = Vec::from(asked::<4>(&service));
    let shed = || drop(answer(&service, get("/")));
    assert_eq!(
        overload.pressure().full_for,
        Duration::ZERO,
        "to be full is no pressure"
    );
    shed();
    advance(Duration::from_millis(99)).await;
    shed();
    assert!(!overload.pressure().is_high() && !gate.is_shut());
    advance(Duration::from_millis(1)).await;
    shed();
    assert!(overload.pressure().is_high() && gate.is_shut());
    running.pop();
    assert!(
        !gate.is_shut() && !overload.pressure().is_high(),
        "a quarter is free"
    );
}

// SHED-10
#[tokio::test(start_paused = true)]
async fn what_tower_makes_wait_is_shed_and_its_error_stays() {
    let handler = Handler::new();
    let shed = LoadShedLayer::new();
    let service = ServiceBuilder::new()
        .layer(shed.clone())
        .layer(GlobalConcurrencyLimitLayer::new(1))
        .service(handler.clone());
    let mut first = tokio_test::task::spawn(service.clone().oneshot(get("/")));
    assert_pending!(first.poll());
    let refused: Result<_, Infallible> = service.clone().oneshot(get("/")).await;
    let Ok(refused) = refused;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(shed.handle().shed_for(Reason::NotReady), 1);
    handler.end(2);
    assert!(first.poll().is_ready());
    assert_eq!(service.oneshot(get("/")).await.unwrap().status(), 200);
}

// SHED-10, SHED-2
#[tokio::test(start_paused = true)]
async fn a_pool_of_fifty_behind_ten_thousand_clients_has_no_hidden_queue() {
    let handler = Handler::new();
    let shed = LoadShedLayer::new();
    let pool = ServiceBuilder::new()
        .layer(shed.clone())
        .layer(GlobalConcurrencyLimitLayer::new(50))
        .service(handler.clone());
    let mut running = Vec::new();
    let mut refused = 0;
    for _ in 0..10_000 {
        let mut client = tokio_test::task::spawn(pool.clone().oneshot(get("/")));
        match client.poll() {
            Poll::Pending => running.push(client),
            Poll::Ready(answer) => {
                assert_eq!(answer.unwrap().status(), 503);
                refused += 1;
            }
        }
    }
    assert_eq!((running.len(), refused, handler.running()), (50, 9_950, 50));
    assert_eq!(
        (shed.handle().in_flight(), shed.handle().shed()),
        (50, 9_950)
    );
    drop(running);
    assert_eq!(shed.handle().in_flight(), 0);
}

// SHED-10: tower's own LoadShed refused 872 of 1,000 calls over an empty Buffer, as tokio's budget for the task was
// spent and the channel said so; Apollo's router met it in production. It is asked outside of the budget.
#[tokio::test(start_paused = true)]
async fn nothing_is_shed_because_the_budget_of_the_task_is_spent() {
    let hello = service_fn(|_: Request<Empty<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
    });
    let (buffer, worker) = tower::buffer::Buffer::pair(hello, 2_000);
    let _worker = tokio::spawn(worker);
    let shed = LoadShedLayer::new();
    let limited = InFlightLimitLayer::new(2_000);
    let over_shed = shed.layer(buffer.clone());
    let over_limit = limited.layer(buffer);
    let mut answers = Vec::new();
    let mut more = Vec::new();
    for _ in 0..1_000 {
        let (mut one, mut two) = (over_shed.clone(), over_limit.clone());
        answers.push(one.ready().await.unwrap().call(get("/")));
        more.push(two.ready().await.unwrap().call(get("/")));
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    for answer in more {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    assert_eq!((shed.handle().shed(), limited.handle().shed()), (0, 0));
}

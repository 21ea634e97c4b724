//! A slot is one request's from its head to the end of its response, however that ends.

mod support;

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use support::{Handler, answer, ask, asked, get, limited};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_connection::{ConnectionHandle, Head};
use tower_overload::{InFlightLimitLayer, Limit, Outcome, Reason, Sample, Ticket};

// SHED-1
#[tokio::test(start_paused = true)]
async fn past_the_limit_a_request_is_answered_at_once() {
    let layer = InFlightLimitLayer::new(2);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let _running = asked::<2>(&service);
    assert_eq!((overload.in_flight(), overload.available()), (2, 0));

    let refused = answer(&service, get("/"));
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(!refused.headers().contains_key("connection"));
    assert!(refused.body().is_end_stream());
    assert_eq!(
        handler.running(),
        2,
        "the service inside did not hear of it"
    );
    assert_eq!(overload.shed_for(Reason::Full), 1);
    assert_eq!(overload.shed(), 1);
}

// SHED-2
#[tokio::test(start_paused = true)]
async fn the_slot_is_held_to_the_last_byte_of_the_response() {
    let layer = InFlightLimitLayer::new(1);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    handler.end(1);
    let response = answer(&service, get("/"));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(overload.in_flight(), 1);
    assert_eq!(answer(&service, get("/")).status(), 503);

    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "ok"
    );
    assert_eq!(overload.in_flight(), 0);
    handler.end(1);
    assert_eq!(answer(&service, get("/")).status(), 200);
}

// SHED-2
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_gives_its_slot_back() {
    let layer = InFlightLimitLayer::new(3);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let [_one, two, mut three] = asked(&service);
    drop(two); // under its handler
    assert_eq!(overload.in_flight(), 2);
    handler.end(2);
    let Poll::Ready(Ok(response)) = three.poll() else {
        panic!("it is served");
    };
    drop(response); // in the midst of its body
    assert_eq!(overload.in_flight(), 1);
}

// SHED-2
#[tokio::test(start_paused = true)]
async fn a_panic_gives_its_slot_back() {
    let layer = InFlightLimitLayer::new(1);
    let (service, _handler) = limited(&layer);
    let mut running = ask(&service, get("/panic"));
    assert!(catch_unwind(AssertUnwindSafe(|| running.poll())).is_err());
    drop(running);
    assert_eq!(layer.handle().in_flight(), 0);
}

// SHED-2
#[tokio::test(start_paused = true)]
async fn an_error_stays_that_of_the_service_and_gives_its_slot_back() {
    #[derive(Debug, PartialEq)]
    struct Broken;
    let layer = InFlightLimitLayer::new(1);
    let mut service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| async {
        Err::<Response<Full<Bytes>>, _>(Broken)
    }));
    let answer = service.ready().await.unwrap().call(get("/")).await;
    assert_eq!(answer.map(drop), Err(Broken));
    assert_eq!(layer.handle().in_flight(), 0);
}

// SHED-3
#[tokio::test(start_paused = true)]
async fn one_layer_is_one_limit_however_often_it_is_applied() {
    let layer = InFlightLimitLayer::new(1);
    let (first, _handler) = limited(&layer);
    let (second, _handler) = limited(&layer.clone());
    let _running = asked::<1>(&first);
    assert_eq!(answer(&second, get("/")).status(), 503);
    assert_eq!(answer(&first.clone(), get("/")).status(), 503);
}

// SHED-3
#[tokio::test(start_paused = true)]
async fn readiness_reserves_and_who_does_not_call_gives_it_back() {
    let layer = InFlightLimitLayer::new(1);
    let overload = layer.handle();
    let (service, _handler) = limited(&layer);
    let mut reserved = service.clone();
    let poll = |service: &mut tower_overload::InFlightLimit<Handler>| {
        task::spawn(()).enter(|cx, _| Service::<Request<Empty<Bytes>>>::poll_ready(service, cx))
    };
    for _ in 0..3 {
        assert!(poll(&mut reserved).is_ready());
        assert_eq!(overload.in_flight(), 1, "asking again takes no other");
    }
    assert_eq!(answer(&service, get("/")).status(), 503);
    let copy = reserved.clone();
    drop(reserved);
    assert_eq!(overload.in_flight(), 0, "a clone has none");
    drop(copy);
    assert_eq!(overload.in_flight(), 0);
}

// SHED-4
#[tokio::test(start_paused = true)]
async fn who_is_exempt_is_served_and_counts_nowhere() {
    let layer = InFlightLimitLayer::new(1).classify(|head: &Head<'_>| match head.uri.path() {
        "/healthz" => Ticket::exempt(),
        _ => Ticket::default(),
    });
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let mut health = ask(&service, get("/healthz"));
    assert_pending!(health.poll());
    assert_eq!(overload.in_flight(), 0);
    let _running = asked::<1>(&service);
    let mut second = ask(&service, get("/healthz"));
    assert_pending!(second.poll());
    assert_eq!((overload.in_flight(), handler.running()), (1, 3));
    handler.end(1);
    assert!(matches!(health.poll(), Poll::Ready(Ok(answer)) if answer.status() == 200));
}

// SHED-16
#[tokio::test(start_paused = true)]
async fn a_limit_changes_while_requests_run() {
    let layer = InFlightLimitLayer::new(2);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let [one, two] = asked(&service);
    overload.set_limit(1);
    assert_eq!((overload.limit(), overload.in_flight()), (1, 2));
    drop(one);
    assert_eq!(
        answer(&service, get("/")).status(),
        503,
        "one is as many as may be"
    );
    drop(two);
    overload.set_limit(0);
    let _running = asked::<20>(&service);
    assert_eq!(handler.running(), 20);
}

/// A law that keeps what it is told: three, and one less for each.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<Sample>>>);

impl Limit for Told {
    fn limit(&self) -> usize {
        3 - self.0.lock().unwrap().len()
    }

    fn on_sample(&self, sample: &Sample) {
        self.0.lock().unwrap().push(sample.clone());
    }
}

// SHED-16
#[tokio::test(start_paused = true)]
async fn a_law_is_told_of_each_response_and_decides_the_limit() {
    let law = Told::default();
    let layer = InFlightLimitLayer::with_limit(law.clone());
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let [mut one, _two, _three] = asked(&service);
    assert_eq!(answer(&service, get("/")).status(), 503);
    tokio::time::advance(Duration::from_millis(30)).await;
    handler.end(1);
    let response = one.poll();
    assert!(response.is_ready());
    assert_eq!(overload.limit(), 2);
    let samples = law.0.lock().unwrap();
    let [sample] = samples.as_slice() else {
        panic!("what is shed is no sample: {samples:?}");
    };
    assert_eq!(sample.latency, Duration::from_millis(30));
    assert_eq!((sample.in_flight, sample.outcome), (3, Outcome::Ok));
}

fn streams() -> (
    InFlightLimitLayer,
    impl Service<
        Request<Empty<Bytes>>,
        Response = Response<tower_overload::OverloadBody<support::Endless>>,
        Error = Infallible,
        Future: Unpin + Future,
    > + Clone,
) {
    let layer = InFlightLimitLayer::new(2).max_streams(2);
    let service = layer.layer(service_fn(|request: Request<Empty<Bytes>>| {
        let mut response = Response::new(support::Endless);
        match request.uri().path() {
            "/events" => {
                let kind = "text/event-stream; charset=utf-8".parse().unwrap();
                response.headers_mut().insert("content-type", kind);
            }
            "/ws" => *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS,
            _ => {}
        }
        std::future::ready(Ok(response))
    }));
    (layer, tower::util::BoxCloneService::new(service))
}

// SHED-15
#[tokio::test(start_paused = true)]
async fn what_goes_on_for_ever_holds_no_slot_but_counts() {
    let (layer, mut service) = streams();
    let overload = layer.handle();
    let one = service
        .ready()
        .await
        .unwrap()
        .call(get("/events"))
        .await
        .unwrap();
    let two = service
        .ready()
        .await
        .unwrap()
        .call(get("/events"))
        .await
        .unwrap();
    assert_eq!((overload.in_flight(), overload.streams()), (0, 2));
    let three = service
        .ready()
        .await
        .unwrap()
        .call(get("/events"))
        .await
        .unwrap();
    assert_eq!(three.status(), 200);
    assert_eq!(
        (overload.in_flight(), overload.streams()),
        (1, 2),
        "past the cap it holds a slot"
    );
    drop((one, two));
    assert_eq!((overload.in_flight(), overload.streams()), (1, 0));
    drop(three);
    let _plain = service.ready().await.unwrap().call(get("/")).await.unwrap();
    assert_eq!(
        (overload.in_flight(), overload.streams()),
        (1, 0),
        "a mere response is none"
    );
}

// SHED-15
#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_counts_until_its_socket_is_closed() {
    let (layer, mut service) = streams();
    let overload = layer.handle();
    let upgrade = |connection: &ConnectionHandle| {
        let mut request = get("/ws");
        let websocket = "websocket".parse().unwrap();
        request.headers_mut().insert("upgrade", websocket);
        request.extensions_mut().insert(connection.clone());
        request
    };
    let (one, two) = (ConnectionHandle::detached(), ConnectionHandle::detached());
    assert_eq!(
        service
            .ready()
            .await
            .unwrap()
            .call(upgrade(&one))
            .await
            .unwrap()
            .status(),
        101
    );
    assert_eq!(
        service
            .ready()
            .await
            .unwrap()
            .call(upgrade(&two))
            .await
            .unwrap()
            .status(),
        101
    );
    assert_eq!((overload.in_flight(), overload.streams()), (0, 2));

    let three = ConnectionHandle::detached();
    let refused = service
        .ready()
        .await
        .unwrap()
        .call(upgrade(&three))
        .await
        .unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(overload.shed_for(Reason::Streams), 1);
    drop(one); // its socket, and all that knows of it
    assert_eq!(overload.streams(), 1);

    // Who asks and is not upgraded has no place for long.
    let mut asks = upgrade(&three);
    *asks.uri_mut() = "/".parse().unwrap();
    let answered = service.ready().await.unwrap().call(asks).await.unwrap();
    assert_eq!((overload.in_flight(), overload.streams()), (1, 1));
    drop(answered);
    assert_eq!(overload.in_flight(), 0);
}

// SHED-15: curl says `Upgrade: h2c` to everybody.
#[tokio::test(start_paused = true)]
async fn who_asks_for_an_upgrade_and_gets_none_needs_no_place() {
    let (_layer, mut service) = streams();
    let _one = service
        .ready()
        .await
        .unwrap()
        .call(get("/events"))
        .await
        .unwrap();
    let _two = service
        .ready()
        .await
        .unwrap()
        .call(get("/events"))
        .await
        .unwrap();
    let mut request = get("/");
    request
        .headers_mut()
        .insert("upgrade", "h2c".parse().unwrap());
    let answer = service.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(answer.status(), 200);
}

// SHED-16: with a limit of zero no response comes that could be told of.
#[tokio::test(start_paused = true)]
async fn a_law_that_says_zero_is_asked_again() {
    #[derive(Debug, Default)]
    struct Law(std::sync::atomic::AtomicUsize);
    impl Limit for Law {
        fn limit(&self) -> usize {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) / 2
        }
        fn on_sample(&self, _: &Sample) {}
    }
    let layer = InFlightLimitLayer::with_limit(Law::default());
    let (service, _handler) = limited(&layer);
    assert_eq!(layer.handle().limit(), 0);
    assert_eq!(answer(&service, get("/")).status(), 503);
    assert_eq!(answer(&service, get("/")).status(), 503);
    let _running = asked::<1>(&service);
}

// SHED-16
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_a_sample_that_tells_nothing() {
    let law = Told::default();
    let layer = InFlightLimitLayer::with_limit(law.clone());
    let (service, _handler) = limited(&layer);
    drop(asked::<1>(&service));
    let outcomes: Vec<_> = law
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|sample| sample.outcome)
        .collect();
    assert_eq!(outcomes, [Outcome::Cancelled]);
    assert_eq!(layer.handle().service_time(), None);
}

// SHED-16
#[tokio::test(start_paused = true)]
async fn a_law_that_panics_costs_nobody_a_slot() {
    #[derive(Debug)]
    struct Wrong;
    impl Limit for Wrong {
        fn limit(&self) -> usize {
            2
        }
        fn on_sample(&self, _: &Sample) {
            panic!("as asked")
        }
    }
    let layer = InFlightLimitLayer::with_limit(Wrong);
    let (service, handler) = limited(&layer);
    handler.end(1);
    assert_eq!(answer(&service, get("/")).status(), 200);
    drop(asked::<2>(&service));
    let overload = layer.handle();
    assert_eq!(overload.in_flight(), 0);
    assert_eq!(
        overload.in_flight_of(tower_overload::Criticality::Critical),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_off_counts_nothing_and_refuses_nobody() {
    let layer = InFlightLimitLayer::off();
    layer.handle().set_limit(1);
    assert!(!layer.handle().is_limited() && layer.handle().course().is_empty());
    let (service, handler) = limited(&layer);
    let held = asked::<3>(&service);
    assert_eq!(layer.handle().in_flight(), 0);
    drop(held);
    handler.end(1);
    assert_eq!(answer(&service, get("/")).status(), 200);
    assert_eq!(layer.handle().shed(), 0);
}

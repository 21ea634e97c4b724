//! Who waits, for how long, and who goes first.

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use support::{Running, answer, ask, asked, get, limited};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready};
use tower::{Layer, Service};
use tower_connection::Head;
use tower_overload::{
    Admission, Criticality, InFlightLimitLayer, Reason, Ticket, WaiterId, WaitingRoom,
};

const MS: Duration = Duration::from_millis(1);

fn status(running: &mut Running) -> Option<u16> {
    match running.poll() {
        Poll::Ready(answer) => Some(answer.unwrap().status().as_u16()),
        Poll::Pending => None,
    }
}

// SHED-5
#[tokio::test(start_paused = true)]
async fn a_slot_that_comes_back_is_handed_to_who_waits_and_to_nobody_else() {
    let layer = InFlightLimitLayer::new(1).max_wait(100 * MS).max_waiting(2);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let [one] = asked(&service);
    let [mut two, mut three] = asked(&service);
    assert_eq!((overload.in_flight(), overload.waiting()), (1, 2));
    assert_eq!(handler.running(), 1);

    drop(one);
    assert!(two.is_woken() && !three.is_woken());
    assert_eq!(
        (overload.in_flight(), overload.waiting()),
        (1, 1),
        "it is his already"
    );
    let mut late = ask(&service, get("/late"));
    assert_pending!(late.poll(), "the slot is not for who comes later");
    drop(late);
    assert_eq!(status(&mut two), None);
    assert_eq!(handler.running(), 1);
    handler.end(1);
    assert_eq!(status(&mut two), Some(200));
    assert!(three.is_woken());
    handler.end(1);
    assert_eq!(status(&mut three), Some(200));
    assert_eq!((overload.in_flight(), overload.waiting()), (0, 0));
}

// SHED-5
#[tokio::test(start_paused = true)]
async fn a_wait_ends_in_time() {
    let layer = InFlightLimitLayer::new(1).max_wait(100 * MS);
    let overload = layer.handle();
    let (service, _handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let [mut waits] = asked(&service);
    advance(99 * MS).await;
    assert!(!waits.is_woken());
    assert_eq!(status(&mut waits), None);
    advance(MS).await;
    assert!(waits.is_woken());
    assert_eq!(status(&mut waits), Some(503));
    assert_eq!(overload.shed_for(Reason::Waited), 1);
    assert_eq!(overload.waiting(), 0);
}

// SHED-5
#[tokio::test(start_paused = true)]
async fn the_room_is_bounded() {
    let layer = InFlightLimitLayer::new(2).max_wait(100 * MS);
    let (service, _handler) = limited(&layer);
    let _running = asked::<2>(&service);
    let _waiting = asked::<2>(&service);
    assert_eq!(
        answer(&service, get("/")).status(),
        503,
        "as many as may be in flight"
    );
    assert_eq!(layer.handle().shed_for(Reason::Full), 1);

    let layer = layer.max_waiting(3);
    let _third = asked::<1>(&service);
    assert_eq!(answer(&service, get("/")).status(), 503);
    assert_eq!(layer.handle().waiting(), 3);
}

// SHED-5
#[tokio::test(start_paused = true)]
async fn who_leaves_the_room_is_passed_over() {
    let layer = InFlightLimitLayer::new(1).max_wait(100 * MS).max_waiting(9);
    let overload = layer.handle();
    let (service, _handler) = limited(&layer);
    let [one] = asked(&service);
    let [two, three, mut four] = asked(&service);
    drop(two);
    assert_eq!(overload.waiting(), 2);
    drop(one);
    assert!(!four.is_woken());
    drop(three); // who was granted, and did not know it yet
    assert!(four.is_woken());
    assert_eq!(status(&mut four), None);
    assert_eq!((overload.in_flight(), overload.waiting()), (1, 0));
    drop(four);
    assert_eq!(overload.in_flight(), 0);
    assert_eq!(overload.in_flight_of(Criticality::Critical), 0);
}

// SHED-5
#[tokio::test(start_paused = true)]
async fn a_grant_at_the_last_moment_is_served() {
    let layer = InFlightLimitLayer::new(1).max_wait(100 * MS);
    let (service, handler) = limited(&layer);
    let [one] = asked(&service);
    let [mut waits] = asked(&service);
    advance(100 * MS).await;
    drop(one);
    handler.end(1);
    assert_eq!(status(&mut waits), Some(200));
    assert_eq!(layer.handle().in_flight(), 0);
}

// SHED-16
#[tokio::test(start_paused = true)]
async fn a_higher_limit_lets_in_who_waits() {
    let layer = InFlightLimitLayer::new(1).max_wait(100 * MS).max_waiting(9);
    let (service, handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let [mut one, mut two, three] = asked(&service);
    layer.handle().set_limit(3);
    assert!(one.is_woken() && two.is_woken() && !three.is_woken());
    assert_eq!((status(&mut one), status(&mut two)), (None, None));
    assert_eq!(handler.running(), 3);

    // A lower one keeps the next slots.
    layer.handle().set_limit(2);
    drop(one);
    assert!(!three.is_woken());
    drop(two);
    assert!(three.is_woken());
}

/// Limit 1, and who waits asks for `/0`, `/1` and so on, a millisecond apart. Returns the order in which they are served
/// once `stood` has passed.
async fn order(stood: Duration, layer: &InFlightLimitLayer, paths: &[&str]) -> Vec<String> {
    let (service, handler) = limited(layer);
    let mut running = vec![ask(&service, get("/first"))];
    assert_pending!(running[0].poll());
    for path in paths {
        running.push(ask(&service, get(path)));
        assert_pending!(running.last_mut().unwrap().poll(), "{path}");
        advance(MS).await;
    }
    advance(stood).await;
    for _ in 0..running.len() {
        handler.end(1);
        running.retain_mut(|running| running.poll().is_pending());
        // Who was granted meanwhile begins.
        running.retain_mut(|running| running.poll().is_pending());
    }
    assert!(running.is_empty());
    handler.begun().split_off(1)
}

fn room() -> InFlightLimitLayer {
    InFlightLimitLayer::new(1)
        .max_wait(Duration::from_secs(1))
        .max_waiting(100)
}

// SHED-6
#[tokio::test(start_paused = true)]
async fn a_burst_is_served_in_order() {
    let served = order(50 * MS, &room(), &["/0", "/1", "/2"]).await;
    assert_eq!(served, ["/0", "/1", "/2"]);
}

// SHED-6
#[tokio::test(start_paused = true)]
async fn once_a_queue_stands_who_came_last_goes_first() {
    // 400 ms after the first has waited for 5; the three came within 3.
    let served = order(401 * MS, &room(), &["/0", "/1", "/2"]).await;
    assert_eq!(served, ["/0", "/1", "/2"]);
    let served = order(402 * MS, &room(), &["/0", "/1", "/2"]).await;
    assert_eq!(served, ["/2", "/1", "/0"]);
}

// SHED-6
#[tokio::test(start_paused = true)]
async fn in_a_full_room_that_stands_a_newcomer_takes_the_place_of_the_first() {
    let layer = InFlightLimitLayer::new(1)
        .max_wait(Duration::from_secs(1))
        .max_waiting(2);
    let (service, _handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let [mut first, mut second] = asked(&service);
    assert_eq!(answer(&service, get("/too-many")).status(), 503);
    advance(406 * MS).await;
    let mut newcomer = ask(&service, get("/newcomer"));
    assert_pending!(newcomer.poll());
    assert!(first.is_woken() && !second.is_woken());
    assert_eq!(status(&mut first), Some(503));
    assert_eq!(status(&mut second), None);
    assert_eq!(layer.handle().shed_for(Reason::Displaced), 1);
    assert_eq!(layer.handle().waiting(), 2);
}

// SHED-6: those who are left have not waited for long, as the others were sent away.
#[tokio::test(start_paused = true)]
async fn a_room_that_overflows_stands_until_it_is_empty() {
    let layer = InFlightLimitLayer::new(1)
        .max_wait(Duration::from_secs(1))
        .max_waiting(1);
    let (service, _handler) = limited(&layer);
    let running = asked::<1>(&service);
    let [mut zero] = asked(&service);
    advance(406 * MS).await;
    let [mut one] = asked(&service);
    assert_eq!(status(&mut zero), Some(503));
    advance(MS).await;
    let [two] = asked(&service);
    assert_eq!(status(&mut one), Some(503), "it has waited for 1 ms");
    drop((running, two));
    // It was empty: it is calm.
    let _running = asked::<1>(&service);
    let [mut first] = asked(&service);
    advance(MS).await;
    assert_eq!(answer(&service, get("/too-many")).status(), 503);
    assert_eq!(status(&mut first), None);
}

fn by_path(head: &Head<'_>) -> Ticket {
    let path = head.uri.path();
    let class = match path.as_bytes()[1] {
        b'p' => Criticality::CriticalPlus,
        b's' => Criticality::Sheddable,
        _ => Criticality::Critical,
    };
    Ticket::new(class)
}

// SHED-8
#[tokio::test(start_paused = true)]
async fn who_is_more_critical_goes_first() {
    let served = order(
        MS,
        &room().classify(by_path),
        &["/s1", "/c1", "/p1", "/s2", "/p2"],
    )
    .await;
    assert_eq!(served, ["/p1", "/p2", "/c1", "/s1", "/s2"]);
}

// SHED-8
#[tokio::test(start_paused = true)]
async fn who_is_more_critical_takes_the_place_of_who_is_less_in_a_full_room() {
    let layer = room().max_waiting(2).classify(by_path);
    let (service, _handler) = limited(&layer);
    let _running = asked::<1>(&service);
    let mut sheddable = [ask(&service, get("/s1")), ask(&service, get("/s2"))];
    for waits in &mut sheddable {
        assert_pending!(waits.poll());
    }
    let mut critical = ask(&service, get("/c"));
    assert_pending!(critical.poll());
    assert_eq!(
        status(&mut sheddable[1]),
        Some(503),
        "who came last had waited the least"
    );
    assert_eq!(status(&mut sheddable[0]), None);
    assert_eq!(answer(&service, get("/s3")).status(), 503);
    assert_eq!(layer.handle().shed_of(Criticality::Sheddable), 2);
    assert_eq!(layer.handle().shed_of(Criticality::Critical), 0);
}

// SHED-8
#[tokio::test(start_paused = true)]
async fn a_share_is_kept_however_much_comes_that_is_more_critical() {
    let layer = InFlightLimitLayer::new(10)
        .max_wait(Duration::from_secs(1))
        .max_waiting(100)
        .classify(by_path)
        .share(Criticality::Sheddable, 0.2);
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let mut running: Vec<_> = (0..10).map(|_| ask(&service, get("/p"))).collect();
    running.extend((0..20).map(|n| ask(&service, get(if n % 2 == 0 { "/p" } else { "/s" }))));
    for running in &mut running {
        assert_pending!(running.poll());
    }
    for _ in 0..4 {
        handler.end(1);
        running.retain_mut(|running| running.poll().is_pending());
        running.retain_mut(|running| running.poll().is_pending());
    }
    let of = |class| overload.in_flight_of(class);
    assert_eq!(
        (of(Criticality::CriticalPlus), of(Criticality::Sheddable)),
        (8, 2)
    );
}

// SHED-8
#[tokio::test(start_paused = true)]
async fn without_a_room_slots_are_kept_for_who_was_refused_and_is_more_critical() {
    let layer = InFlightLimitLayer::new(4).classify(by_path);
    let overload = layer.handle();
    let (service, _handler) = limited(&layer);
    let mut sheddable: Vec<_> = (0..4).map(|_| ask(&service, get("/s"))).collect();
    for running in &mut sheddable {
        assert_pending!(running.poll());
    }
    assert_eq!(
        answer(&service, get("/c")).status(),
        503,
        "all slots are taken"
    );
    sheddable.pop();
    assert_eq!(answer(&service, get("/s")).status(), 503);
    assert_eq!(overload.shed_for(Reason::Kept), 1);
    let mut critical = ask(&service, get("/c"));
    assert_pending!(critical.poll());
    sheddable.pop();
    assert_eq!(
        answer(&service, get("/s")).status(),
        503,
        "the next is kept, too"
    );

    // It is forgotten when nobody was refused for a while.
    advance(Duration::from_secs(9)).await;
    let mut back = ask(&service, get("/s"));
    assert_pending!(back.poll());
    assert_eq!(overload.in_flight(), 4);
}

// SHED-9
#[tokio::test(start_paused = true)]
async fn who_has_few_requests_in_the_house_goes_before_who_has_many() {
    let layer = room().classify(|head: &Head<'_>| Ticket::default().key(&head.uri.path()[..2]));
    let served = order(MS, &layer, &["/a1", "/a2", "/a3", "/b1", "/a4", "/b2"]).await;
    assert_eq!(served[0], "/b1");
    assert_eq!(
        served.iter().filter(|path| path.starts_with("/b")).count(),
        2
    );
    assert!(served[..4].contains(&"/b2".to_owned()), "{served:?}");
}

// SHED-9
#[tokio::test(start_paused = true)]
async fn a_key_that_fills_the_room_makes_way_for_another() {
    let layer = room()
        .max_waiting(3)
        .classify(|head: &Head<'_>| Ticket::default().key(&head.uri.path()[..2]));
    let (service, _handler) = limited(&layer);
    let mut running = Vec::from(asked::<1>(&service));
    for _ in 0..3 {
        running.push(ask(&service, get("/a")));
        assert_pending!(running.last_mut().unwrap().poll());
    }
    let mut other = ask(&service, get("/b"));
    assert_pending!(other.poll());
    running.retain_mut(|running| running.poll().is_pending());
    assert_eq!(layer.handle().shed_for(Reason::Displaced), 1);
    assert_eq!(answer(&service, get("/a")).status(), 503);
}

// SHED-7
#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_in_time_is_refused_at_once() {
    let layer = room();
    let overload = layer.handle();
    let (service, handler) = limited(&layer);
    let call = |timeout: &str| {
        let mut request = get("/");
        request
            .headers_mut()
            .insert("grpc-timeout", timeout.parse().unwrap());
        request
    };
    // It takes 100 ms to serve one, as it has seen.
    let [mut first] = asked(&service);
    advance(100 * MS).await;
    handler.end(1);
    assert_ready!(first.poll()).unwrap();
    let _running = asked::<1>(&service);
    assert_eq!(overload.service_time(), Some(100 * MS));
    assert_eq!(overload.estimated_wait(), 100 * MS);

    let refused = answer(&service, call("199m"));
    assert_eq!(refused.status(), 503);
    assert!(
        !refused.headers().contains_key("retry-after"),
        "it would be too late then, too"
    );
    assert_eq!(overload.shed_for(Reason::TooLate), 1);
    let mut waits = ask(&service, call("200m"));
    assert_pending!(waits.poll());
    // It is given up when it can no longer be in time.
    advance(99 * MS).await;
    assert_eq!(status(&mut waits), None);
    advance(MS).await;
    assert_eq!(status(&mut waits), Some(503));
}

/// Ready when the test says so.
#[derive(Clone)]
struct Pool(Arc<AtomicBool>);

impl<B> Service<Request<B>> for Pool {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.0.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

// SHED-10
#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_sheds() {
    let pool = Pool(Arc::default());
    let layer = InFlightLimitLayer::new(5);
    let service = layer.layer(pool.clone());
    assert_eq!(answer(&service, get("/")).status(), 503);
    assert_eq!(layer.handle().shed_for(Reason::NotReady), 1);
    assert_eq!(layer.handle().in_flight(), 0);
    pool.0.store(true, Ordering::Relaxed);
    assert_eq!(answer(&service, get("/")).status(), 200);
}

// SHED-10
#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_ready_in_time_serves() {
    let pool = Pool(Arc::default());
    let layer = InFlightLimitLayer::new(5).max_wait(100 * MS);
    let service = layer.layer(pool.clone());
    let [mut served, mut shed] = [ask(&service, get("/")), ask(&service, get("/"))];
    assert_pending!(served.poll());
    assert_pending!(shed.poll());
    assert_eq!(layer.handle().in_flight(), 2);
    advance(99 * MS).await;
    pool.0.store(true, Ordering::Relaxed);
    assert_eq!(status(&mut served), Some(200));
    pool.0.store(false, Ordering::Relaxed);
    assert_eq!(status(&mut shed), None);
    advance(MS).await;
    assert_eq!(status(&mut shed), Some(503));
    assert_eq!(layer.handle().shed_for(Reason::NotReady), 1);
    assert_eq!(layer.handle().in_flight(), 0);
}

// SHED-6
#[tokio::test(start_paused = true)]
async fn an_order_of_ones_own_decides() {
    #[derive(Debug)]
    struct Last;
    impl Admission for Last {
        fn next(&mut self, room: &WaitingRoom) -> Option<WaiterId> {
            room.of(Criticality::Critical)
                .next_back()
                .map(|waiter| waiter.id)
        }
    }
    let served = order(MS, &room().admission(Last), &["/0", "/1", "/2"]).await;
    assert_eq!(served, ["/2", "/1", "/0"]);
}

// SHED-8
#[tokio::test(start_paused = true)]
async fn a_share_has_places_in_a_room_full_of_who_is_more_critical() {
    let layer = InFlightLimitLayer::new(10)
        .max_wait(Duration::from_secs(1))
        .classify(by_path)
        .share(Criticality::Sheddable, 0.2);
    let (service, handler) = limited(&layer);
    let mut critical: Vec<_> = (0..20).map(|_| ask(&service, get("/c"))).collect();
    for running in &mut critical {
        assert_pending!(running.poll());
    }
    let mut sheddable = [ask(&service, get("/s")), ask(&service, get("/s"))];
    for waits in &mut sheddable {
        assert_pending!(waits.poll(), "it is owed two slots");
    }
    assert_eq!(answer(&service, get("/s")).status(), 503, "and no more");
    assert_eq!(
        answer(&service, get("/c")).status(),
        503,
        "nor do others take its places"
    );
    critical.retain_mut(|running| running.poll().is_pending());
    assert_eq!(layer.handle().shed_for(Reason::Displaced), 2);
    handler.end(2);
    critical.retain_mut(|running| running.poll().is_pending());
    assert!(sheddable.iter().all(tokio_test::task::Spawn::is_woken));
}

// SHED-8
#[tokio::test(start_paused = true)]
async fn without_a_room_a_share_is_kept_for_who_was_refused() {
    let layer = InFlightLimitLayer::new(10)
        .classify(by_path)
        .share(Criticality::Sheddable, 0.1);
    let (service, _handler) = limited(&layer);
    let mut critical: Vec<_> = (0..10).map(|_| ask(&service, get("/c"))).collect();
    for running in &mut critical {
        assert_pending!(running.poll());
    }
    assert_eq!(answer(&service, get("/s")).status(), 503);
    critical.pop();
    assert_eq!(answer(&service, get("/c")).status(), 503);
    assert_eq!(layer.handle().shed_for(Reason::Kept), 1);
    assert_pending!(ask(&service, get("/s")).poll());
}

// SHED-8
#[tokio::test(start_paused = true)]
async fn nobody_is_refused_by_an_idle_server() {
    for limit in 1..20 {
        let layer = InFlightLimitLayer::new(limit).classify(by_path);
        let (service, _handler) = limited(&layer);
        let paths = ["/s", "/c", "/p"];
        for path in paths {
            let mut running: Vec<_> = (0..limit).map(|_| ask(&service, get(path))).collect();
            for running in &mut running {
                let _ = running.poll();
            }
            for path in paths {
                for _ in 0..10 {
                    let _ = ask(&service, get(path)).poll();
                }
            }
        }
        for path in paths {
            assert_pending!(ask(&service, get(path)).poll(), "{limit} {path}");
        }
    }
}

// SHED-5
#[tokio::test(start_paused = true)]
async fn an_order_that_panics_costs_nobody_a_slot() {
    #[derive(Debug)]
    struct Wrong;
    impl Admission for Wrong {
        fn next(&mut self, _: &WaitingRoom) -> Option<WaiterId> {
            panic!("as asked")
        }
    }
    let layer = room().admission(Wrong);
    let (service, _handler) = limited(&layer);
    let [running] = asked(&service);
    let waiting = asked::<2>(&service);
    drop(running);
    drop(waiting);
    assert_eq!(
        (layer.handle().in_flight(), layer.handle().waiting()),
        (0, 0)
    );
    let _running = asked::<1>(&service);
}

// SHED-7, SHED-10
#[tokio::test(start_paused = true)]
async fn a_deadline_counts_where_the_service_is_waited_for_too() {
    let layer = InFlightLimitLayer::new(5).max_wait(Duration::from_secs(10));
    let service = layer.layer(Pool(Arc::default()));
    let mut request = get("/");
    request
        .headers_mut()
        .insert("grpc-timeout", "30m".parse().unwrap());
    let mut waits = ask(&service, request);
    assert_eq!(status(&mut waits), None);
    advance(29 * MS).await;
    assert_eq!(status(&mut waits), None);
    advance(MS).await;
    assert_eq!(status(&mut waits), Some(503));
}

// SHED-4, SHED-10
#[tokio::test(start_paused = true)]
async fn who_is_exempt_waits_no_longer_for_a_service_than_others() {
    let exempt = |_: &Head<'_>| Ticket::exempt();
    let layer = InFlightLimitLayer::new(5).classify(exempt);
    let service = layer.layer(Pool(Arc::default()));
    assert_eq!(answer(&service, get("/")).status(), 503);
    let layer = layer.max_wait(100 * MS);
    let service = layer.layer(Pool(Arc::default()));
    let mut waits = ask(&service, get("/"));
    advance(99 * MS).await;
    assert_eq!(status(&mut waits), None);
    advance(MS).await;
    assert_eq!(status(&mut waits), Some(503));
}

// SHED-7, SHED-8: who goes first does not wait for the others, whatever they are.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_measured_by_who_goes_before() {
    let layer = room().classify(by_path);
    let (service, handler) = limited(&layer);
    // It takes 100 ms to serve one, as it has seen.
    let mut first = ask(&service, get("/c"));
    assert_pending!(first.poll());
    advance(100 * MS).await;
    handler.end(1);
    assert!(assert_ready!(first.poll()).is_ok());
    let mut running = ask(&service, get("/c"));
    assert_pending!(running.poll());
    let mut sheddable: Vec<_> = (0..20).map(|_| ask(&service, get("/s"))).collect();
    for waits in &mut sheddable {
        assert_pending!(waits.poll());
    }
    let within = |path: &str, timeout: &str| {
        let mut request = get(path);
        request
            .headers_mut()
            .insert("grpc-timeout", timeout.parse().unwrap());
        ask(&service, request)
    };
    let mut critical = within("/c", "200m");
    assert_pending!(critical.poll(), "one slot, and its own time");
    let mut next = within("/c", "299m");
    assert_eq!(status(&mut next), Some(503), "one is before it");
    assert_eq!(status(&mut within("/s", "2S")), Some(503), "21 are");
    assert_eq!(layer.handle().shed_for(Reason::TooLate), 2);
}

// SHED-9
#[tokio::test(start_paused = true)]
async fn who_has_no_key_does_not_pass_who_has_one() {
    let layer = room().classify(|head: &Head<'_>| match head.uri.path() {
        "/a" => Ticket::default().key("a"),
        _ => Ticket::default(),
    });
    let served = order(MS, &layer, &["/a", "/nobody", "/a", "/nobody"]).await;
    assert_eq!(served[0], "/a");
}

// SHED-17
#[tokio::test(start_paused = true)]
async fn a_gate_opens_when_the_last_leaves_the_room() {
    #[derive(Debug)]
    struct Nobody;
    impl Admission for Nobody {
        fn next(&mut self, _: &WaitingRoom) -> Option<WaiterId> {
            None
        }
    }
    let gate = tower_connection::AcceptGate::default();
    let layer = room().admission(Nobody).pause_accepting(gate.clone());
    let (service, _handler) = limited(&layer);
    let [running] = asked(&service);
    let waiting = asked::<1>(&service);
    advance(100 * MS).await;
    let more = asked::<1>(&service);
    assert!(gate.is_shut());
    drop(running);
    assert!(gate.is_shut(), "somebody waits");
    drop((waiting, more));
    assert!(!gate.is_shut());
}

// SHED-6
#[tokio::test(start_paused = true)]
async fn a_moment_of_calm_begins_the_count_anew() {
    let layer = room();
    let (service, handler) = limited(&layer);
    let [first, mut zero] = asked(&service);
    advance(49 * MS).await;
    let [mut one] = asked(&service);
    advance(MS).await;
    drop(first);
    assert_eq!(status(&mut zero), None);
    assert_eq!(handler.running(), 1);
    // Who is first now came a millisecond ago.
    advance(10 * MS).await;
    let [two] = asked(&service);
    advance(60 * MS).await;
    drop(zero);
    assert!(one.is_woken() && !two.is_woken());
    assert_eq!(status(&mut one), None);
}

// SHED-17
#[tokio::test(start_paused = true)]
async fn who_hears_late_of_a_refusal_presses_nobody() {
    let layer = InFlightLimitLayer::new(1)
        .max_wait(Duration::from_secs(1))
        .max_waiting(1);
    let (service, _handler) = limited(&layer);
    let [running] = asked(&service);
    let [mut waits] = asked(&service);
    advance(406 * MS).await;
    let mut newcomer = ask(&service, get("/"));
    assert_pending!(newcomer.poll());
    drop(running);
    drop(newcomer);
    assert_eq!(status(&mut waits), Some(503), "it was displaced");
    advance(Duration::from_secs(5)).await;
    assert_eq!(layer.handle().pressure().full_for, Duration::ZERO);
}

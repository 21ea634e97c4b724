//! Readiness: who waits, and who is woken when.

use std::{convert::Infallible, time::Duration};

use tokio::io::{DuplexStream, duplex};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Service, ServiceBuilder, service_fn};
use tower_connection::{Accept, Connection};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};

async fn hello(_: http::Request<()>) -> Result<http::Response<()>, Infallible> {
    Ok(http::Response::new(()))
}

macro_rules! acceptor {
    ($layer:expr) => {
        ServiceBuilder::new()
            .layer($layer.clone().at_capacity(AtCapacity::Wait))
            .service(Accept::new(service_fn(hello)))
    };
}

macro_rules! ready {
    ($acceptor:expr) => {
        ready!($acceptor, task::spawn(()))
    };
    ($acceptor:expr, $task:expr) => {
        $task.enter(|cx, _| Service::<DuplexStream>::poll_ready(&mut $acceptor, cx))
    };
}

fn parts<Io, S>(connection: Connection<Io, S>) -> (Io, S) {
    connection.into_parts()
}

#[tokio::test]
async fn the_next_acceptor_is_woken_by_the_end_of_the_socket_and_by_nothing_else() {
    // LIMIT-2, LIMIT-7
    let layer = ConnectionLimitLayer::new(1);
    let mut acceptor = acceptor!(layer);
    assert_ready_ok!(ready!(acceptor));
    let Ok(connection) = acceptor.call(duplex(1).1).await;

    let mut waiting = task::spawn(());
    assert_pending!(ready!(acceptor, waiting));
    let (io, service) = parts(connection);
    drop(service);
    assert!(!waiting.is_woken());
    drop(io);
    assert!(waiting.is_woken());
    assert_ready_ok!(ready!(acceptor, waiting));
}

#[tokio::test]
async fn a_connection_that_is_never_made_gives_its_permit_back() {
    let layer = ConnectionLimitLayer::new(1);
    let mut acceptor = acceptor!(layer);
    assert_ready_ok!(ready!(acceptor));
    let making = acceptor.call(duplex(1).1);
    assert_eq!(layer.limit().open(), 1);
    drop(making);
    assert_eq!(layer.limit().open(), 0);
}

#[test]
fn a_reservation_belongs_to_one_acceptor_and_ends_with_it() {
    let layer = ConnectionLimitLayer::new(1);
    let mut first = acceptor!(layer);
    assert_ready_ok!(ready!(first));
    assert_eq!(layer.limit().open(), 0, "a reservation is not a connection");

    let mut clone = first.clone();
    assert_pending!(ready!(clone));
    assert_eq!(layer.limit().waiting(), 1);
    drop(first);
    assert_ready_ok!(ready!(clone));
    drop(clone);
    assert_eq!(layer.limit().waiting(), 0);
}

#[test]
fn a_higher_limit_wakes_who_waits() {
    // LIMIT-8
    let layer = ConnectionLimitLayer::new(1);
    let mut first = acceptor!(layer);
    let mut second = acceptor!(layer);
    assert_ready_ok!(ready!(first));
    let mut waiting = task::spawn(());
    assert_pending!(ready!(second, waiting));
    layer.limit().set_max(2);
    assert!(waiting.is_woken());
    assert_ready_ok!(ready!(second, waiting));
}

#[tokio::test]
async fn a_permit_that_came_free_is_used_rather_than_a_rejection() {
    // LIMIT-3
    let layer = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Reject);
    let mut acceptor = layer_over_hello(&layer);
    assert_ready_ok!(ready!(acceptor));
    let Ok(first) = acceptor.call(duplex(1).1).await;
    assert_ready_ok!(ready!(acceptor)); // ready to reject
    assert_eq!(layer.limit().in_reserve(), 0, "nobody is there yet");
    drop(first);
    let Ok(_second) = acceptor.call(duplex(1).1).await;
    assert_eq!((layer.limit().open(), layer.limit().rejected()), (1, 0));
    assert_eq!(layer.limit().in_reserve(), 0);
}

#[tokio::test]
async fn a_place_that_cools_down_wakes_who_waits_for_it() {
    // LIMIT-14
    tokio::time::pause();
    let layer = ConnectionLimitLayer::new(1)
        .at_capacity(AtCapacity::Close)
        .reserve(1);
    let mut acceptor = layer_over_hello(&layer);
    assert_ready_ok!(ready!(acceptor));
    let Ok(_holder) = acceptor.call(duplex(1).1).await;
    assert_ready_ok!(ready!(acceptor));
    let Ok(reset) = acceptor.call(duplex(1).1).await;
    drop(reset);

    let mut waiting = task::spawn(());
    assert_pending!(ready!(acceptor, waiting));
    tokio::time::advance(Duration::from_millis(99)).await;
    assert!(!waiting.is_woken());
    tokio::time::advance(Duration::from_millis(2)).await; // a timer is a millisecond late
    assert!(waiting.is_woken());
    assert_ready_ok!(ready!(acceptor, waiting));
}

#[tokio::test]
async fn a_permit_that_a_ready_acceptor_holds_is_not_a_connection_at_the_watermark() {
    // LIMIT-13: two servers share the limit, and nobody comes to the second.
    let layer = ConnectionLimitLayer::new(2).low_watermark(0);
    let mut first = acceptor!(layer);
    let mut second = acceptor!(layer);
    assert_ready_ok!(ready!(second));
    assert_ready_ok!(ready!(first));
    let Ok(connection) = first.call(duplex(1).1).await;
    let mut waiting = task::spawn(());
    assert_pending!(ready!(first, waiting));
    drop(connection);
    assert!(waiting.is_woken());
    assert_ready_ok!(ready!(first, waiting));
}

#[tokio::test(start_paused = true)]
async fn settings_without_end_are_no_mistake() {
    let forever = Duration::MAX;
    let layer = ConnectionLimitLayer::new(1)
        .min_idle(forever)
        .rejection_pause(forever)
        .rejection_timeout(forever)
        .linger(forever)
        .retry_after(forever);
    let mut acceptor = layer_over_hello(&layer);
    assert_ready_ok!(ready!(acceptor));
    let Ok(_holder) = acceptor.call(duplex(1).1).await;
    for _ in 0..3 {
        assert_ready_ok!(ready!(acceptor));
        let Ok(_newcomer) = acceptor.call(duplex(1).1).await;
    }
    assert_eq!(layer.limit().open(), 1);
}

#[tokio::test]
async fn every_newcomer_waits_without_a_reserve() {
    let layer = ConnectionLimitLayer::new(1)
        .at_capacity(AtCapacity::Reject)
        .reserve(0);
    let mut acceptor = layer_over_hello(&layer);
    assert_ready_ok!(ready!(acceptor));
    let Ok(_holder) = acceptor.call(duplex(1).1).await;
    assert_pending!(ready!(acceptor));
    assert_eq!(layer.limit().waiting(), 1);
}

#[test]
fn a_clone_of_a_layer_has_policies_of_its_own_and_the_same_counts() {
    let layer = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Reject);
    let mut waits = acceptor!(layer);
    let mut rejects = layer_over_hello(&layer);
    assert_ready_ok!(ready!(waits));
    assert_ready_ok!(ready!(rejects)); // to reject
    drop(waits);
    let mut waits = acceptor!(layer);
    assert_ready_ok!(ready!(waits));
    let mut another = acceptor!(layer);
    assert_pending!(ready!(another));
}

#[test]
fn policies_that_nobody_would_reach_are_a_mistake() {
    use AtCapacity::{Close, MakeRoom, Reject, Wait};
    let valid: [&[AtCapacity]; 7] = [
        &[MakeRoom, Reject, Wait],
        &[MakeRoom, Close],
        &[MakeRoom, Wait],
        &[MakeRoom],
        &[Reject, Wait],
        &[Close],
        &[Wait],
    ];
    let wrong: [&[AtCapacity]; 6] = [
        &[],
        &[Wait, Reject],
        &[Reject, Close],
        &[Reject, MakeRoom],
        &[MakeRoom, MakeRoom],
        &[Wait, Wait],
    ];
    let is_taken = |policies: &[AtCapacity]| {
        let policies = policies.to_vec();
        std::panic::catch_unwind(|| ConnectionLimitLayer::new(1).at_capacity(policies)).is_ok()
    };
    for policies in valid {
        assert!(is_taken(policies), "{policies:?}");
    }
    for policies in wrong {
        assert!(!is_taken(policies), "{policies:?}");
    }
}

#[tokio::test]
async fn the_default_is_a_thousand_per_worker_or_what_the_descriptors_allow() {
    // LIMIT-17
    let max = ConnectionLimitLayer::default().limit().max();
    assert!((1..=1_024).contains(&max), "one worker here: {max}");
}

fn layer_over_hello(
    layer: &ConnectionLimitLayer,
) -> impl Service<
    DuplexStream,
    Response = impl Sized + use<>,
    Error = Infallible,
    Future = impl Future<Output = Result<impl Sized + use<>, Infallible>> + use<>,
> + use<> {
    ServiceBuilder::new()
        .layer(layer.clone())
        .service(Accept::new(service_fn(hello)))
}

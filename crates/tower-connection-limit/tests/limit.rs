//! Readiness: who waits, and who is woken when.

use std::convert::Infallible;

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

//! What a limit tells of whom it turned away, and who made room.

use std::{convert::Infallible, future::pending, time::Duration};

use events::Log;
use http::{Request, Response, StatusCode, Version};
use tokio::{
    io::{AsyncReadExt, DuplexStream, duplex},
    time::{sleep, timeout},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_connection::{Accept, BoxIo, Connection, ConnectionHandle};
use tower_connection_limit::{AtCapacity, Client, ConnectionLimitLayer, LimitedIo, Reason};
use tracing::Level;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// The connection becomes something else.
async fn upgrade(_: Request<()>) -> Result<Response<()>, Infallible> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(response)
}

/// A client that has come, and what answers it.
struct Comer<S> {
    _client: DuplexStream,
    io: BoxIo,
    handle: ConnectionHandle,
    service: S,
}

async fn come(
    layer: &ConnectionLimitLayer,
) -> Comer<impl Service<Request<()>, Error = Infallible>> {
    let (client, socket) = duplex(64);
    let acceptor = layer.clone().layer(Accept::new(service_fn(upgrade)));
    let Ok(connection) = acceptor.oneshot(socket).await;
    let handle = connection.handle().clone();
    let (io, service) = connection.map_io(BoxIo::new).into_parts();
    Comer {
        _client: client,
        io,
        handle,
        service,
    }
}

/// For each reason.
fn rejected(layer: &ConnectionLimitLayer) -> [u64; 3] {
    let limit = layer.limit();
    let each = [Reason::Full, Reason::PerClient, Reason::Upgraded];
    let each = each.map(|reason| limit.rejected_for(reason));
    assert_eq!(each.iter().sum::<u64>(), limit.rejected());
    each
}

fn listen() -> Log {
    events::listen(Level::INFO, "tower_connection_limit")
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_finds_no_permit_is_counted_as_such() {
    let _log = listen();
    for policy in [AtCapacity::Reject, AtCapacity::Close] {
        let layer = ConnectionLimitLayer::new(1).at_capacity(policy);
        let _first = come(&layer).await;
        assert_eq!(rejected(&layer), [0, 0, 0]);
        let mut second = come(&layer).await;
        assert_eq!(rejected(&layer), [1, 0, 0]);
        let _ = timeout(S, second.io.read_u8()).await;
        drop(second);
        assert_eq!(rejected(&layer), [1, 0, 0], "once");
    }
}

// OBS-1, OBS-2
#[tokio::test(start_paused = true)]
async fn who_waited_first_is_counted_and_told_when_it_is_turned_away() {
    let log = listen();
    let layer = ConnectionLimitLayer::new(1);
    let first = come(&layer).await;
    let mut second = come(&layer).await;
    let _at_work = first.handle.begin(Version::HTTP_11);
    assert!(timeout(24 * MS, second.io.read_u8()).await.is_err());
    assert_eq!((rejected(&layer), log.lines().len()), ([0, 0, 0], 0));
    assert!(timeout(2 * MS, second.io.read_u8()).await.is_err());
    assert_eq!((rejected(&layer), log.lines().len()), ([1, 0, 0], 1));
    assert!(
        log.lines()[0].contains("reason=\"full\""),
        "{}",
        log.lines()[0]
    );
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_has_as_many_as_it_may_is_counted_as_such() {
    let log = listen();
    for policy in [AtCapacity::Reject, AtCapacity::Close] {
        let layer = ConnectionLimitLayer::new(10)
            .max_per_client(2)
            .client(|_| Some(Client::named("one")))
            .at_capacity(policy);
        let _two = (come(&layer).await, come(&layer).await);
        assert_eq!(rejected(&layer), [0, 0, 0]);
        let _third = come(&layer).await;
        assert_eq!(rejected(&layer), [0, 1, 0]);
    }
    let told = "reason=\"per_client\" open=2 max=2";
    assert!(
        log.lines().iter().all(|line| line.contains(told)),
        "{:?}",
        log.lines()
    );
    let what = ["what=\"reject\"", "what=\"close\""];
    assert!(log.lines()[0].contains(what[0]) && log.lines()[1].contains(what[1]));
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_may_not_upgrade_is_counted_as_such() {
    let log = listen();
    let layer = ConnectionLimitLayer::new(10).max_upgraded(1);
    let (mut first, mut second) = (come(&layer).await, come(&layer).await);
    assert!(first.service.call(Request::new(())).await.is_ok());
    assert_eq!(rejected(&layer), [0, 0, 0]);
    assert!(second.service.call(Request::new(())).await.is_ok());
    assert_eq!(rejected(&layer), [0, 0, 1]);
    assert_eq!(layer.limit().upgraded(), 1);
    let told = "peer=unknown reason=\"upgraded\" open=1 max=1 what=\"reject\"";
    assert!(log.lines()[0].contains(told), "{:?}", log.lines());
}

// OBS-1
#[tokio::test(start_paused = true)]
async fn who_waits_or_finds_room_is_not_counted() {
    let _log = listen();
    let waits = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Wait);
    let first = come(&waits).await;
    assert!(timeout(S, come(&waits)).await.is_err());
    drop(first);
    let _second = come(&waits).await;
    assert_eq!(rejected(&waits), [0, 0, 0]);

    let makes_room = ConnectionLimitLayer::new(1);
    let _first = come(&makes_room).await;
    sleep(25 * MS).await;
    let _second = come(&makes_room).await;
    assert_eq!(rejected(&makes_room), [0, 0, 0]);
    assert_eq!(makes_room.limit().evicted(), 1);
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn who_made_room_is_told_and_for_how_long_it_was_idle() {
    let log = listen();
    let layer = ConnectionLimitLayer::new(1);
    let mut idle = come(&layer).await;
    sleep(3 * S).await;
    let _newcomer = come(&layer).await;
    for _ in 0..2 {
        assert!(timeout(2 * S, idle.io.read_u8()).await.unwrap().is_err());
    }
    assert_eq!(log.lines().len(), 1, "once");
    let told = ["INFO", "peer=unknown idle_for=3s suppressed=0"];
    assert!(
        told.iter().all(|told| log.lines()[0].contains(told)),
        "{}",
        log.lines()[0]
    );
}

// OBS-2
#[tokio::test(start_paused = true)]
async fn a_handshake_that_made_room_is_told() {
    let log = listen();
    let layer = ConnectionLimitLayer::new(1);
    let handshake = service_fn(|mut io: LimitedIo<DuplexStream>| async move {
        for _ in 0..2 {
            let _ = io.read_u8().await;
        }
        pending::<Result<Made, Infallible>>().await
    });
    let (_client, socket) = duplex(64);
    let stalled = layer.layer(handshake).oneshot(socket);
    let stalled = tokio::spawn(async { stalled.await.is_ok() });
    sleep(3 * S).await;
    let _newcomer = come(&layer).await;
    sleep(MS).await;
    assert_eq!(log.lines().len(), 1, "once");
    assert!(
        log.lines()[0].contains("peer=unknown idle_for=3"),
        "{}",
        log.lines()[0]
    );
    stalled.abort();
}

type Made = Connection<DuplexStream, ()>;

// OBS-2
#[tokio::test(start_paused = true)]
async fn who_is_turned_away_is_told_and_a_flood_is_not() {
    let log = listen();
    let layer = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Reject);
    let _first = come(&layer).await;
    for _ in 0..25 {
        drop(come(&layer).await);
    }
    assert_eq!(log.lines().len(), 10);
    let told = [
        "INFO",
        "peer=unknown reason=\"full\" open=1 max=1 what=\"reject\" suppressed=0",
    ];
    assert!(
        told.iter().all(|told| log.lines()[0].contains(told)),
        "{}",
        log.lines()[0]
    );
    sleep(S).await;
    drop(come(&layer).await);
    assert!(
        log.lines()[10].contains("suppressed=15"),
        "{}",
        log.lines()[10]
    );
    assert_eq!(rejected(&layer), [26, 0, 0], "each is counted");
}

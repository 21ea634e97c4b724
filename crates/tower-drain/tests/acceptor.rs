//! What an acceptor under a drain says when it is asked.

use std::{
    convert::Infallible,
    future::{pending, ready},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Version};
use tokio::io::DuplexStream;
use tokio_test::task;
use tower::{Layer, Service, service_fn};
use tower_connection::{Accept, AcceptError, AcceptExt, AcceptGate, Closed};
use tower_drain::{Drain, Phase};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn hello(_: Request<()>) -> Result<Response<String>, Infallible> {
    Ok(Response::default())
}

/// Asks `acceptor` as a listener would.
fn ask<A>(acceptor: &mut A, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>
where
    A: Service<DuplexStream, Error = BoxError>,
{
    acceptor.poll_ready(cx)
}

fn is_closed(ready: &Poll<Result<(), BoxError>>) -> bool {
    matches!(ready, Poll::Ready(Err(error)) if Closed::caused(&**error))
}

fn is_ready(ready: &Poll<Result<(), BoxError>>) -> bool {
    matches!(ready, Poll::Ready(Ok(())))
}

async fn draining(drain: &Drain) {
    drain.begin();
    while drain.watch().phase() < Phase::Draining {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_closed_once_the_listener_had_nobody_for_it() {
    // DRAIN-2
    let drain = Drain::new(Duration::ZERO);
    let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let mut task = task::spawn(());
    assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
    assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));

    assert!(!task.is_woken());
    draining(&drain).await;
    assert!(
        task.is_woken(),
        "it waits for a client, and must hear of the end"
    );
    for _ in 0..3 {
        assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
        assert!(task.is_woken(), "it must be asked again if nobody comes");
        let (_client, socket) = tokio::io::duplex(64);
        drop(acceptor.call(socket));
    }
    assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
    assert!(task.enter(|cx, _| is_closed(&ask(&mut acceptor, cx))));

    // Who is found at the very last is served.
    assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
    let (_client, socket) = tokio::io::duplex(64);
    drop(acceptor.call(socket));
    assert!(drain.finished().await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_full_one_is_closed_and_waits_for_who_is_left() {
    // DRAIN-2: newcomers should go elsewhere; those from the backlog are served.
    let drain = Drain::new(Duration::from_secs(5));
    let gate = AcceptGate::default();
    let mut acceptor = (drain.layer()).layer(gate.layer(Accept::new(service_fn(hello))));
    let shut = gate.shut();
    let mut task = task::spawn(());
    assert!(task.enter(|cx, _| ask(&mut acceptor, cx).is_pending()));
    draining(&drain).await;
    assert!(task.is_woken());
    assert!(task.enter(|cx, _| is_closed(&ask(&mut acceptor, cx))));

    assert!(task.enter(|cx, _| ask(&mut acceptor, cx).is_pending()));
    drop(shut);
    assert!(task.is_woken());
    assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
    let (_client, socket) = tokio::io::duplex(64);
    drop(acceptor.call(socket));

    let shut = gate.shut();
    assert!(task.enter(|cx, _| ask(&mut acceptor, cx).is_pending()));
    tokio::time::sleep(Duration::from_millis(4_990)).await;
    assert!(!task.is_woken());
    assert_eq!(drain.watch().phase(), Phase::Draining);
    // DRAIN-7
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(
        task.is_woken(),
        "at the deadline nobody is waited for any more"
    );
    assert!(task.enter(|cx, _| is_closed(&ask(&mut acceptor, cx))));
    assert!(drain.finished().await.is_complete());
    drop(shut);
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_that_nobody_asks_is_waited_for_a_second() {
    // DRAIN-9
    let drain = Drain::new(Duration::ZERO);
    let acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    drain.begin();
    let report = drain.finished().await;
    assert_eq!(report.took, Duration::from_secs(1));
    drop(acceptor);
}

#[tokio::test(start_paused = true)]
async fn each_clone_of_an_acceptor_is_waited_for() {
    // DRAIN-9: until it is dropped, or has said nothing for a second.
    let drain = Drain::new(Duration::ZERO);
    let acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let mut clone = acceptor.clone();
    let mut task = task::spawn(());
    draining(&drain).await;
    drop(acceptor);
    assert!(task.enter(|cx, _| is_ready(&ask(&mut clone, cx))));
    assert!(task.enter(|cx, _| is_closed(&ask(&mut clone, cx))));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(task.enter(|cx, _| is_ready(&ask(&mut clone, cx))));
    let report = drain.finished().await;
    assert_eq!(report.took, Duration::from_millis(1_500));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_counted_before_it_is_made() {
    // DRAIN-9
    let drain = Drain::new(Duration::ZERO);
    let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let mut task = task::spawn(());
    assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
    let (_client, socket) = tokio::io::duplex(64);
    let connection = acceptor.call(socket);
    assert_eq!(drain.watch().progress().connections, 1);
    let connection = connection.await.expect("nothing can fail");
    let (io, mut service) = connection.into_parts();
    let answer = service.call(Request::new(())).await;
    assert_eq!(drain.watch().progress().requests, 1);
    drop(answer);
    assert_eq!(drain.watch().progress().requests, 0);
    drop(service);
    assert_eq!(drain.watch().progress().connections, 1);
    drop(io);
    assert_eq!(drain.watch().progress().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_handed_over_after_the_end_is_reset_and_reported() {
    // DRAIN-7, DRAIN-8
    let drain = Drain::new(Duration::ZERO);
    let gate = AcceptGate::default();
    let mut acceptor = (drain.layer()).layer(gate.layer(Accept::new(service_fn(hello))));
    let _shut = gate.shut();
    let mut task = task::spawn(());
    draining(&drain).await;
    assert!(task.enter(|cx, _| is_closed(&ask(&mut acceptor, cx))));
    assert!(task.enter(|cx, _| ask(&mut acceptor, cx).is_pending()));
    drain.cut();
    while drain.watch().phase() < Phase::Cutting {
        tokio::task::yield_now().await;
    }
    assert!(task.enter(|cx, _| is_closed(&ask(&mut acceptor, cx))));
    let (_client, socket) = tokio::io::duplex(64);
    let error = acceptor.call(socket).await.expect_err("too late");
    assert!(Closed::caused(&*error));
    drop(acceptor);
    let report = drain.finished().await;
    assert_eq!(report.unserved, 1);
    assert!(!report.is_complete());
    let expected = "drained in 0.0 s: 0 connections ended, none was cut, 1 not served";
    assert_eq!(report.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_handed_over_is_waited_for_and_reported() {
    // DRAIN-2, DRAIN-8: without descriptors, whoever accepts asks again and again, and has nobody to hand over.
    for served in [true, false] {
        let drain = Drain::new(Duration::from_secs(5));
        let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
        let mut task = task::spawn(());
        draining(&drain).await;
        assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
        assert!(task.enter(|cx, _| is_closed(&ask(&mut acceptor, cx))));
        for _ in 0..9 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
        }
        assert_eq!(drain.watch().phase(), Phase::Draining);
        if served {
            let (_client, socket) = tokio::io::duplex(64);
            drop(acceptor.call(socket));
        } else {
            tokio::time::sleep(Duration::from_millis(510)).await;
            assert!(task.enter(|cx, _| is_closed(&ask(&mut acceptor, cx))));
        }
        drop(acceptor);
        let report = drain.finished().await;
        assert_eq!(report.unserved, usize::from(!served));
    }
    // Nor does it help not to say so.
    let drain = Drain::new(Duration::from_secs(1));
    let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let mut task = task::spawn(());
    draining(&drain).await;
    for ready in [true, false, true, true] {
        assert_eq!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))), ready);
    }
    assert_eq!(drain.finished().await.unserved, 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_begins_before_its_server_waits_for_it_a_second() {
    // DRAIN-2
    let drain = Drain::new(Duration::ZERO);
    drain.begin();
    tokio::time::sleep(Duration::from_millis(990)).await;
    assert_eq!(drain.watch().phase(), Phase::Draining);
    let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let mut task = task::spawn(());
    assert!(task.enter(|cx, _| is_ready(&ask(&mut acceptor, cx))));
    let (_client, socket) = tokio::io::duplex(64);
    let connection = acceptor.call(socket).await;
    drop(acceptor);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(drain.watch().phase(), Phase::Draining);
    drop(connection);
    assert!(drain.finished().await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn readiness_changes_with_the_first_word() {
    // DRAIN-1
    let drain = Drain::new(Duration::ZERO);
    assert!(!drain.watch().has_begun());
    drain.begin();
    assert!(drain.watch().has_begun());
}

#[test]
fn a_drain_that_could_not_begin_can_begin_later() {
    let drain = Drain::new(Duration::ZERO);
    let outside = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drain.begin()));
    assert!(outside.is_err(), "there is no runtime");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let report = runtime.block_on(drain.run(async { Ok(()) }));
    assert!(report.expect("no error").is_complete());
}

#[tokio::test(start_paused = true)]
async fn times_without_an_end_are_no_mistake() {
    let drain = Drain::new(Duration::MAX)
        .last_chance(Duration::MAX)
        .arriving(Duration::MAX)
        .spread(Duration::MAX);
    let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let (_client, socket) = tokio::io::duplex(64);
    let connection = acceptor.call(socket).await;
    drain.begin();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(drain.watch().phase(), Phase::Draining);
    drop((acceptor, connection));
    assert!(drain.finished().await.is_complete());
}

#[tokio::test(start_paused = true)]
async fn requests_are_told_apart() {
    // DRAIN-8: whatever the order in which they begin and end.
    let drain = Drain::new(Duration::ZERO);
    let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let (_client, socket) = tokio::io::duplex(64);
    let connection = acceptor.call(socket).await.expect("nothing can fail");
    let (io, mut service) = connection.into_parts();
    let mut ask = |path: &str| {
        let request = Request::get(format!("{path}?secret"))
            .body(())
            .expect("a request");
        service.call(request)
    };
    let (a, b, c) = (ask("/a"), ask("/b"), ask(&"/c".repeat(100)));
    drop(a);
    let d = ask("/d");
    drop(b);
    drain.cut();
    while drain.watch().phase() < Phase::Cutting {
        tokio::task::yield_now().await;
    }
    drop((io, acceptor));
    let report = drain.finished().await;
    let mut lines: Vec<_> = report.cut[0]
        .requests
        .iter()
        .map(|request| &request.line[..])
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, [&format!("GET {}", "/c".repeat(58)), "GET /d"]);
    drop((c, d));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_by_itself_begins_the_drain() {
    let drain = Drain::new(Duration::from_secs(5)).lame_duck(Duration::from_secs(60));
    let report = drain.run(async { Ok(()) }).await;
    // Nobody accepts any more: there is nothing to be a lame duck for.
    assert_eq!(report.expect("no error").took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_ends_as_it_may_accept_no_more_has_not_failed() {
    // DRAIN-2: what it has accepted is waited for.
    let drain = Drain::new(Duration::from_secs(5));
    let mut acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    let (_client, server) = tokio::io::duplex(64);
    let accepted = acceptor.accept(ready(Ok((server, ())))).await;
    let connection = accepted.expect("it is ready").await.expect("it accepts");
    let request = connection.handle().begin(Version::HTTP_11);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop((request, connection));
    });
    drain.begin_on(tokio::time::sleep(Duration::from_secs(1)));
    let nobody = pending::<std::io::Result<(DuplexStream, ())>>();
    let accept = async {
        let accepted = acceptor.accept(nobody).await;
        accepted.map(drop).map_err(|error| match error {
            AcceptError::Listener(error) => error,
            AcceptError::Acceptor(error) => std::io::Error::other(error),
            _ => unreachable!(),
        })
    };
    let report = drain.run(accept).await.expect("no error");
    assert!(report.is_complete());
    assert_eq!(report.took, Duration::from_secs(2));

    let broken = drain.run(async { Err(std::io::ErrorKind::NotFound.into()) });
    assert!(broken.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_ends_is_not_waited_for() {
    // DRAIN-7
    let drain = Drain::new(Duration::from_secs(5));
    drain.begin_on(tokio::time::sleep(Duration::from_secs(1)));
    let report = drain
        .run(std::future::pending::<std::io::Result<()>>())
        .await;
    assert!(report.expect("no error").is_complete());
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "settings come before layers")]
async fn settings_come_first() {
    let drain = Drain::new(Duration::from_secs(5));
    let _layer = drain.layer();
    let _ = drain.lame_duck(Duration::from_secs(1));
}

//! A limit of requests inside of the app's own layers, which then see what it refuses: the recipe of `docs/ordering.md`.

use std::{mem, time::Duration};

use axum::{Router, body::Body, routing::get};
use http::{Request, Response, header::ORIGIN};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_http::cors::CorsLayer;
use tower_serve::{MaxInFlight, Preset, Settings, overload::InFlightLimitLayer};

fn asks(path: &str) -> Request<Body> {
    let request = Request::get(path).header(ORIGIN, "https://other.example");
    request.body(Body::empty()).expect("a request")
}

fn is_for_others<B>(answer: &Response<B>) -> bool {
    answer.headers().contains_key("access-control-allow-origin")
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_reads_the_headers_of_layers_outside_and_is_counted() {
    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Fixed(1);
    let mut preset = Preset::new(&settings);
    let watch = preset.watch();
    let limit = mem::replace(&mut preset.overload, InFlightLimitLayer::off());
    let app = Router::new()
        .route("/", get(|| sleep(Duration::from_secs(1))))
        .route_service("/status", watch.status_page())
        .layer(limit)
        .layer(CorsLayer::permissive());
    // As `acceptor` does it.
    let app = preset.overload.layer(app.with_state(()));

    let slow = tokio::spawn(app.clone().oneshot(asks("/")));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(watch.look().requests_admitted, 1);
    let refused = app.clone().oneshot(asks("/")).await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(is_for_others(&refused), "{refused:?}");

    let page = app.oneshot(asks("/status")).await.expect("an answer");
    assert_eq!(page.status(), 200, "it is never shed");
    let counts = watch.look().counts.into_iter();
    let shed = counts.filter(|count| count.name == "server_requests_shed_total");
    assert_eq!(shed.map(|count| count.value).sum::<u64>(), 1);
    let served = slow.await.expect("no panic").expect("an answer");
    assert_eq!(served.status(), 200);
}

// The other way round, which is what a preset does by itself.
#[tokio::test(start_paused = true)]
async fn a_limit_around_the_app_is_outside_of_its_layers() {
    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Fixed(1);
    let app = Router::new()
        .route("/", get(|| sleep(Duration::from_secs(1))))
        .layer(CorsLayer::permissive());
    let app = Preset::new(&settings).overload.layer(app.with_state(()));

    let slow = tokio::spawn(app.clone().oneshot(asks("/")));
    sleep(Duration::from_millis(1)).await;
    let refused = app.oneshot(asks("/")).await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(!is_for_others(&refused), "{refused:?}");
    let served = slow.await.expect("no panic").expect("an answer");
    assert!(is_for_others(&served));
}

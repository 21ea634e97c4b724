//! The page and the metrics, as who looks at them reads them.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, header::ACCEPT};
use serde_json::Value;
use tower::{Layer, ServiceExt};
use tower_serve::{
    MaxInFlight, Preset, Settings, Watch,
    overload::{InFlightLimitLayer, Limit, Sample},
};

async fn page(watch: &Watch, request: Request<()>) -> Response<String> {
    let Ok(answer) = watch.status_page().oneshot(request).await;
    answer
}

fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).expect("a request")
}

#[tokio::test]
async fn a_person_reads_html_that_runs_nothing() {
    let answer = page(&Preset::direct().watch(), get("/status")).await;
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    assert!(
        answer.headers()["content-security-policy"]
            .to_str()
            .expect("text")
            .starts_with("default-src 'none'")
    );
    assert!(
        answer.body().contains("<h1 id=\"phase\">serving</h1>"),
        "{}",
        answer.body()
    );
    assert!(
        answer.body().contains("nobody was refused"),
        "{}",
        answer.body()
    );
    assert!(!answer.body().contains("<script"));
}

#[tokio::test]
async fn a_program_reads_json() {
    let mut accepting = get("/status");
    accepting
        .headers_mut()
        .insert(ACCEPT, "application/json".parse().expect("a value"));
    for request in [accepting, get("/status?a=b&format=json")] {
        let answer = page(&Preset::direct().watch(), request).await;
        assert_eq!(answer.headers()["content-type"], "application/json");
        let told: Value = serde_json::from_str(answer.body()).expect("JSON");
        assert_eq!(told["phase"], "serving");
        assert_eq!(told["time_left_seconds"], Value::Null);
        assert_eq!(told["now"]["server_connections_open"], 0);
        assert_eq!(
            told["now"]["server_requests_limit"],
            Value::Null,
            "there is none"
        );
        let shed = told["since_start"].as_array().expect("a list");
        let shed = shed
            .iter()
            .find(|count| count["name"] == "server_requests_shed_total")
            .expect("it is there");
        assert_eq!(
            (
                &shed["value"],
                shed["reason"].is_string(),
                shed["class"].is_string()
            ),
            (&Value::from(0), true, true)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_seen() {
    let mut settings = Settings::direct();
    settings.set("lame_duck", "5s").expect("a duration");
    let preset = Preset::new(&settings);
    preset.drain.begin();
    preset.drain.watch().begun().await;
    let answer = page(&preset.watch(), get("/status")).await;
    assert!(answer.body().contains("lame duck"), "{}", answer.body());
}

#[tokio::test]
async fn a_move_of_the_limit_is_seen_with_its_reason() {
    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Fixed(10);
    let preset = Preset::new(&settings);
    preset.overload.handle().set_limit(20);
    let answer = page(&preset.watch(), get("/status")).await;
    assert!(
        answer.body().contains("ago: by hand</td><td>"),
        "{}",
        answer.body()
    );
    assert!(answer.body().contains(" to 20</td>"), "{}", answer.body());
}

/// One more with each answer, for a reason that is no HTML.
#[derive(Debug, Default)]
struct Law(AtomicUsize);

impl Limit for Law {
    fn limit(&self) -> usize {
        10 + self.0.load(Ordering::Relaxed)
    }

    fn on_sample(&self, _: &Sample) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn reason(&self) -> &'static str {
        "p99 < 5 ms & room"
    }
}

#[tokio::test]
async fn what_a_law_of_ones_own_says_is_text() {
    let mut preset = Preset::direct();
    preset.overload = InFlightLimitLayer::with_limit(Law::default());
    let hello = |_: Request<String>| async { Ok::<_, Infallible>(Response::new(String::new())) };
    let Ok(_) = (preset.overload.layer(tower::service_fn(hello)))
        .oneshot(Request::default())
        .await;
    let answer = page(&preset.watch(), get("/status")).await;
    let told = answer.body();
    assert!(
        told.contains("ago: p99 &lt; 5 ms &amp; room</td>"),
        "{told}"
    );
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn the_recorder_hears_every_name_and_its_meaning() {
    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Fixed(2);
    let preset = Preset::new(&settings);
    preset
        .keep_alive
        .ends()
        .count(tower_serve::keep_alive::Reason::Idle);
    for _ in 0..2 {
        preset
            .write_timeout
            .ends()
            .count(tower_serve::write_timeout::Reason::TooSlow);
    }
    for _ in 0..3 {
        preset
            .proxy_protocol
            .ends()
            .count(tower_serve::proxy_protocol::Reason::Header);
    }
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let watch = preset.watch();
        watch.record();
        watch.record(); // a count is told as it is, and not added to itself
    });
    let told = handle.render();
    for line in [
        "server_connections_open 0",
        "server_requests_limit 2",
        "server_connections_ended_total{layer=\"keep_alive\",reason=\"idle\"} 1",
        "server_connections_ended_total{layer=\"write_timeout\",reason=\"too_slow\"} 2",
        "server_connections_ended_total{layer=\"proxy_protocol\",reason=\"header\"} 3",
        "server_connections_rejected_total{reason=\"full\"} 0",
        "server_requests_shed_total{reason=\"full\",class=\"critical\"} 0",
        "server_drain_phase 0",
    ] {
        assert!(
            told.lines().any(|told| told == line),
            "{line} is not in\n{told}"
        );
    }
    let typed = told
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in typed {
        assert!(
            told.contains(&format!("# HELP {name} ")),
            "{name} is not explained"
        );
    }
}

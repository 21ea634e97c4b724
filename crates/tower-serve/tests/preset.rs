//! The presets as their clients meet them (SERVE-1): hyper's HTTP/1 over pipes in memory, and a clock that is paused.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::yield_now,
    time::{Instant, advance, sleep, timeout},
};
use tower::{Service, ServiceExt, service_fn};
use tower_serve::{
    Incoming, MaxConnections, MaxInFlight, Preset, ProxyProtocol, Settings,
    connection::ConnectionHandle, hyper::drive, keep_alive::KeepAliveLayer,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Says who asks; `/slow` takes a second, `/forever` does not end, and all else takes no time.
async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let connection = request.extensions().get::<ConnectionHandle>();
    let peer = connection.expect("it came over one").peer().clone();
    match request.uri().path() {
        "/slow" => sleep(Duration::from_secs(1)).await,
        "/forever" => std::future::pending().await,
        _ => drop(request.into_body().collect().await),
    }
    Ok(Response::new(format!("you are {peer}")))
}

/// A client of a server behind `preset`.
async fn connect(preset: &Preset) -> DuplexStream {
    let (client, server) = duplex(64 * 1024);
    let mut acceptor = preset.acceptor(service_fn(answer));
    let ready = ServiceExt::<DuplexStream>::ready(&mut acceptor).await;
    let made = ready.expect("it never fails").call(server);
    tokio::spawn(async move {
        if let Ok(connection) = made.await {
            let _ = drive(connection, &http1::Builder::new()).await;
        }
    });
    client
}

async fn ask(client: &mut DuplexStream, request: &[u8]) -> String {
    client.write_all(request).await.expect("a server");
    let mut buf = [0; 4096];
    let n = client.read(&mut buf).await.expect("an answer");
    String::from_utf8_lossy(&buf[..n]).into_owned()
}

/// How long until the server ends the connection, to the millisecond.
async fn ends_after(client: &mut DuplexStream) -> Option<Duration> {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(3_600), client.read_to_end(&mut rest)).await;
    ended.is_ok().then(|| begun.elapsed())
}

fn is_about(took: Option<Duration>, seconds: u64) -> bool {
    let (least, most) = (
        Duration::from_secs(seconds),
        Duration::from_millis(seconds * 1_000 + 2),
    );
    took.is_some_and(|took| (least..=most).contains(&took))
}

// SERVE-1
#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_after_five_seconds() {
    let mut client = connect(&Preset::direct()).await;
    assert!(
        ask(&mut client, GET)
            .await
            .contains("keep-alive: timeout=4")
    );
    let took = ends_after(&mut client).await;
    assert!(is_about(took, 5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn behind_a_balancer_it_ends_after_75() {
    let mut client = connect(&Preset::behind_balancer(ProxyProtocol::Off)).await;
    assert!(ask(&mut client, GET).await.contains("you are unknown"));
    let took = ends_after(&mut client).await;
    assert!(is_about(took, 75), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_has_ten_seconds() {
    let mut client = connect(&Preset::direct()).await;
    let took = ends_after(&mut client).await;
    assert!(is_about(took, 10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_setting_of_zero_turns_a_layer_off() {
    let mut settings = Settings::direct();
    settings.keep_alive_timeout = Duration::ZERO;
    let mut client = connect(&Preset::new(&settings)).await;
    ask(&mut client, GET).await;
    assert_eq!(ends_after(&mut client).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_layer_can_be_replaced() {
    let mut preset = Preset::direct();
    preset.keep_alive = KeepAliveLayer::new(Duration::from_secs(20)).margin(Duration::from_secs(5));
    let mut client = connect(&preset).await;
    assert!(
        ask(&mut client, GET)
            .await
            .contains("keep-alive: timeout=15")
    );
    let took = ends_after(&mut client).await;
    assert!(is_about(took, 20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_client_is_who_the_balancer_says() {
    let mut client = connect(&Preset::behind_balancer(ProxyProtocol::Required)).await;
    client
        .write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n")
        .await
        .expect("a server");
    assert!(
        ask(&mut client, GET)
            .await
            .contains("you are 203.0.113.7:4711")
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_has_so_many_connections_through_the_balancer() {
    let mut settings = Settings::behind_balancer(ProxyProtocol::Required);
    settings.max_connections_per_client = 1;
    settings
        .set("at_capacity", "reject, wait")
        .expect("policies");
    let preset = Preset::new(&settings);
    let mut answers = Vec::new();
    let mut kept = Vec::new();
    for peer in ["203.0.113.7", "203.0.113.7", "203.0.113.8"] {
        let mut client = connect(&preset).await;
        let header = format!("PROXY TCP4 {peer} 192.0.2.1 4711 80\r\n");
        client.write_all(header.as_bytes()).await.expect("a server");
        answers.push(ask(&mut client, GET).await[9..12].to_owned());
        kept.push(client);
    }
    assert_eq!(answers, ["200", "503", "200"]);
}

// Whom the server ends in the middle of a header was counted and told as a client that sends none.
#[tokio::test(start_paused = true)]
async fn who_is_ended_in_the_middle_of_a_header_is_not_to_blame() {
    let preset = Preset::behind_balancer(ProxyProtocol::Required);
    let mut client = connect(&preset).await;
    client
        .write_all(b"PROXY TCP4 203.0.113.7 ")
        .await
        .expect("a server");
    preset.drain.begin();
    let report = preset.drain.finished().await;
    assert!(report.is_complete());
    assert_eq!(ends_after(&mut client).await, Some(Duration::ZERO));
    assert_eq!(preset.proxy_protocol.ends().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn load_is_not_shed_until_it_is_asked_for() {
    let preset = Preset::direct();
    assert_eq!(preset.watch().look().max_requests, None);
}

#[tokio::test(start_paused = true)]
async fn a_health_check_is_never_shed() {
    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Fixed(1);
    settings.never_shed.push("/up/*".into());
    let preset = Preset::new(&settings);
    let mut slow = connect(&preset).await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("a server");
    let mut client = connect(&preset).await;
    yield_now().await;
    assert!(ask(&mut client, GET).await.starts_with("HTTP/1.1 503 "));
    assert!(
        ask(&mut client, b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    advance(Duration::from_secs(1)).await;
    assert!(ask(&mut slow, b"").await.starts_with("HTTP/1.1 200 "));
    assert!(ask(&mut client, GET).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(start_paused = true)]
async fn what_runs_for_ever_is_cut_in_time_for_kubernetes() {
    let balanced = Preset::behind_balancer(ProxyProtocol::Off);
    for (preset, seconds) in [(Preset::direct(), 30), (balanced, 25)] {
        // Without an acceptor nobody could come, and there would be no lame duck.
        let _acceptor = preset.acceptor(service_fn(answer));
        let mut client = connect(&preset).await;
        client
            .write_all(b"GET /forever HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("a server");
        yield_now().await;
        let begun = Instant::now();
        preset.drain.begin();
        let report = preset.drain.finished().await;
        assert_eq!(report.cut.len(), 1, "{report}");
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}

// OBS-3
#[tokio::test(start_paused = true)]
async fn a_watch_sees_what_is_open_and_why_it_ended() {
    let preset = Preset::direct();
    let watch = preset.watch();
    let mut idle = connect(&preset).await;
    let mut slow = connect(&preset).await;
    ask(&mut idle, GET).await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("a server");
    yield_now().await;
    let now = watch.look();
    assert_eq!((now.connections, now.requests), (2, 1));
    let ended = |layer, reason| {
        let counts = watch.look().counts.into_iter();
        let labels = [("layer", layer), ("reason", reason)];
        let mut found = counts.filter(|count| count.labels == labels);
        found.next().expect("it is counted").value
    };
    assert_eq!(ended("keep_alive", "idle"), 0);
    ends_after(&mut idle).await;
    assert_eq!(ended("keep_alive", "idle"), 1);
    let Ok(page) = watch.status_page().oneshot(Request::new(())).await;
    let row = "<td>connections ended: keep alive, idle</td><td>1</td>";
    assert!(page.body().contains(row), "{}", page.body());
    let mut silent = connect(&preset).await;
    ends_after(&mut silent).await;
    assert_eq!(ended("read_timeout", "first_byte"), 1);
    drop(slow);
    sleep(Duration::from_secs(10)).await;
    let now = watch.look();
    assert_eq!((now.connections, now.requests), (0, 0));
}

/// Each setting, and what is then in the layer that it belongs to. All numbers are different ones.
#[tokio::test]
async fn each_setting_arrives_where_it_belongs() {
    let settings = [
        ("max_connections", "1001", "connection_limit", "max: 1001,"),
        (
            "max_connections_per_client",
            "1002",
            "connection_limit",
            "max_per_client: 1002",
        ),
        (
            "at_capacity",
            "close, wait",
            "connection_limit",
            "at_capacity: [Close, Wait]",
        ),
        (
            "at_capacity",
            "close, wait",
            "client_limit",
            "at_capacity: [Close, Wait]",
        ),
        (
            "keep_alive_timeout",
            "1003s",
            "keep_alive",
            "timeout: Some(1003s)",
        ),
        (
            "max_requests_per_connection",
            "1004",
            "keep_alive",
            "max_requests: Some(1004)",
        ),
        (
            "max_connection_age",
            "1005s",
            "keep_alive",
            "max_age: Some(1005s)",
        ),
        (
            "header_read_timeout",
            "1006s",
            "read_timeout",
            "handshake: Some(1006s), head: Some(1006s)",
        ),
        (
            "body_read_timeout",
            "1007s",
            "read_timeout",
            "body: Some(1007s)",
        ),
        ("min_body_rate", "1008", "read_timeout", "body_rate: 1008"),
        (
            "write_timeout",
            "1009s",
            "write_timeout",
            "timeout: Some(1009s)",
        ),
        ("min_write_rate", "1010", "write_timeout", "rate: 1010"),
        ("drain_timeout", "1011s", "drain", "timeout: Some(1011s)"),
        ("lame_duck", "1012s", "drain", "lame_duck: 1012s"),
        (
            "proxy_protocol",
            "required",
            "proxy_protocol",
            "required: true",
        ),
        ("max_in_flight", "1013", "overload", "limit: 1013"),
        ("max_in_flight", "adaptive", "overload", "limit: 4,"), // what it begins with
    ];
    let told = |settings: &Settings, layer| {
        let preset = Preset::new(settings);
        match layer {
            "connection_limit" => format!("{:?}", preset.connection_limit),
            "client_limit" => format!("{:?}", preset.client_limit),
            "keep_alive" => format!("{:?}", preset.keep_alive),
            "read_timeout" => format!("{:?}", preset.read_timeout),
            "write_timeout" => format!("{:?}", preset.write_timeout),
            "drain" => format!("{:?}", preset.drain),
            "proxy_protocol" => format!("{:?}", preset.proxy_protocol),
            _ => format!("{:?}", preset.overload),
        }
    };
    for (name, text, layer, expected) in settings {
        let mut settings = Settings::direct();
        let before = told(&settings, layer);
        assert!(
            !before.contains(expected),
            "{name}: {expected} is there anyway"
        );
        settings.set(name, text).expect(name);
        let after = told(&settings, layer);
        assert!(after.contains(expected), "{name}: no {expected} in {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_timed_unless_its_path_is_named() {
    let mut settings = Settings::direct();
    settings.untimed_bodies.push("/feed/*".into());
    let preset = Preset::new(&settings);
    for (path, seconds) in [("/", Some(30)), ("/feed/1", None)] {
        let mut client = connect(&preset).await;
        let post = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
        client.write_all(post.as_bytes()).await.expect("a server");
        let took = ends_after(&mut client).await;
        match seconds {
            Some(seconds) => assert!(is_about(took, seconds), "{path}: {took:?}"),
            None => assert_eq!(took, None, "{path}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_not_admitted_and_a_limit_of_zero_is_none() {
    let mut settings = Settings::direct();
    settings.max_in_flight = MaxInFlight::Fixed(1);
    settings.max_wait = Duration::from_secs(60);
    settings.max_connections = MaxConnections::Fixed(0);
    let preset = Preset::new(&settings);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = connect(&preset).await;
        client
            .write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("a server");
        clients.push(client);
    }
    sleep(Duration::from_millis(1)).await;
    let now = preset.watch().look();
    assert_eq!(
        (now.requests, now.requests_admitted, now.requests_waiting),
        (2, 1, 1)
    );
    assert_eq!((now.max_requests, now.max_connections), (Some(1), None));
}

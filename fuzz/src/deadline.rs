//! How long a request waits that says how long its client does.

use std::{convert::Infallible, future::pending, time::Duration};

use http::{HeaderName, HeaderValue, Request, Response};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_overload::InFlightLimitLayer;

const MAX_WAIT: Duration = Duration::from_secs(1_000);

/// A `grpc-timeout`, a line feed, and a number of milliseconds.
pub fn run(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let grpc = lines.next().unwrap_or_default();
    let own = lines.next();
    let mut request = Request::new(String::new());
    let headers = request.headers_mut();
    let Ok(value) = HeaderValue::from_bytes(grpc) else {
        return;
    };
    headers.insert("grpc-timeout", value);
    if let Some(own) = own {
        let Ok(value) = HeaderValue::from_bytes(own) else {
            return;
        };
        headers.insert("x-timeout-ms", value);
    }
    let within = [grpc_timeout(grpc), own.and_then(milliseconds)];
    let within = within.into_iter().flatten().min();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let waited = runtime.block_on(waits(request));
    let expected = within.map_or(MAX_WAIT, |within| within.min(MAX_WAIT));
    // A timer turns once in a millisecond.
    assert!(
        waited <= expected + Duration::from_millis(1)
            && waited + Duration::from_millis(1) >= expected,
        "{waited:?}, not {expected:?}"
    );
}

/// How long it waits for its slot, which another request never gives back.
async fn waits(request: Request<String>) -> Duration {
    let layer = InFlightLimitLayer::new(1)
        .max_wait(MAX_WAIT)
        .deadline_header(HeaderName::from_static("x-timeout-ms"));
    let mut service =
        ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(|_: Request<String>| {
                pending::<Result<Response<String>, Infallible>>()
            }));
    let mut other = service.clone();
    let other = other
        .ready()
        .await
        .expect("it is")
        .call(Request::new(String::new()));
    let start = Instant::now();
    let waiting = async { service.ready().await.expect("it is").call(request).await };
    tokio::select! {
        biased;
        _ = other => unreachable!("it is never answered"),
        answer = waiting => assert_eq!(answer.expect("an answer").status(), 503),
    }
    start.elapsed()
}

/// "Timeout" of gRPC over HTTP/2, read once more, and in another way.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let nanos: u64 = match value.last()? {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    let digits = &value[..value.len() - 1];
    let n = (1..=8)
        .contains(&digits.len())
        .then(|| digits_of(digits))??;
    Some(Duration::from_nanos(nanos) * u32::try_from(n).expect("eight digits"))
}

fn milliseconds(value: &[u8]) -> Option<Duration> {
    digits_of(value).map(Duration::from_millis)
}

fn digits_of(value: &[u8]) -> Option<u64> {
    let mut n = value.first().map(|_| 0_u64)?;
    for digit in value {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        n = n.checked_mul(10)?.checked_add(digit)?;
    }
    Some(n)
}

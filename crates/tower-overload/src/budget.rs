//! How long a client will wait.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tower_connection::FOREVER;

use crate::Ticket;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The earliest deadline of a request: what was said of it, its `grpc-timeout`, and `header` in milliseconds. A client
/// can only shorten its own wait, so anybody may send them; what does not parse is no deadline.
pub(crate) fn deadline(
    ticket: &Ticket,
    headers: &HeaderMap,
    header: Option<&HeaderName>,
    now: Instant,
) -> Option<Instant> {
    let grpc = headers.get(GRPC_TIMEOUT).and_then(grpc_timeout);
    let own = header
        .and_then(|header| headers.get(header))
        .and_then(milliseconds);
    let within = [ticket.deadline, grpc, own].into_iter().flatten().min()?;
    Some(now + within.min(FOREVER))
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let n = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(n * 60 * 60),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    number(value.as_bytes()).map(Duration::from_millis)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None; // `parse` would take a sign
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    fn parsed(text: &'static str) -> Option<Duration> {
        grpc_timeout(&HeaderValue::from_static(text))
    }

    #[test]
    fn a_timeout_of_grpc_is_eight_digits_and_a_unit() {
        assert_eq!(parsed("3H"), Some(Duration::from_secs(3 * 60 * 60)));
        assert_eq!(parsed("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parsed("10S"), Some(Duration::from_secs(10)));
        assert_eq!(parsed("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parsed("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parsed("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in [
            "",
            "S",
            "10",
            "+1S",
            "-1S",
            "1 S",
            "123456789S",
            "1s",
            "1.5S",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_counts() {
        let header = HeaderName::from_static("x-timeout-ms");
        let mut headers = HeaderMap::new();
        let now = Instant::now();
        let ticket = Ticket::default();
        assert_eq!(deadline(&ticket, &headers, Some(&header), now), None);

        headers.insert(&header, HeaderValue::from_static("700"));
        let at = |ticket: &Ticket, headers: &HeaderMap| {
            deadline(ticket, headers, Some(&header), now).map(|at| at - now)
        };
        assert_eq!(at(&ticket, &headers), Some(Duration::from_millis(700)));
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("300m"));
        assert_eq!(at(&ticket, &headers), Some(Duration::from_millis(300)));
        let ticket = ticket.deadline(Duration::from_millis(100));
        assert_eq!(at(&ticket, &headers), Some(Duration::from_millis(100)));
        assert!(
            deadline(
                &Ticket::default().deadline(Duration::MAX),
                &headers,
                None,
                now
            )
            .is_some()
        );
    }
}

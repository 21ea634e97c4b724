use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::Criticality;

/// How many requests may be in flight, if that depends on how they fare.
///
/// [`InFlightLimitLayer::new`](crate::InFlightLimitLayer::new) takes a number; this is for a law that finds one. It is told
/// of every response, and asked afterwards; it should be quick, and hold no lock for long.
///
/// # Examples
///
/// Half as many for each response that says the server is overloaded, one more for each that does not:
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use tower_overload::{InFlightLimitLayer, Limit, Outcome, Sample};
///
/// #[derive(Debug)]
/// struct Aimd(AtomicUsize);
///
/// impl Limit for Aimd {
///     fn limit(&self) -> usize {
///         self.0.load(Ordering::Relaxed)
///     }
///
///     fn on_sample(&self, sample: &Sample) {
///         let next = match sample.outcome {
///             Outcome::Overload => self.limit() / 2,
///             Outcome::Ok if sample.in_flight * 2 > self.limit() => self.limit() + 1,
///             _ => return,
///         };
///         self.0.store(next.clamp(10, 1_000), Ordering::Relaxed);
///     }
/// }
///
/// let layer = InFlightLimitLayer::with_limit(Aimd(AtomicUsize::new(20)));
/// assert_eq!(layer.handle().limit(), 20);
/// ```
pub trait Limit: fmt::Debug + Send + Sync + 'static {
    /// How many may be in flight now. Zero lets nobody in.
    ///
    /// A response does not count while its client takes its time to read: from a frame of its body that was taken until
    /// the next is asked for. A client that reads slowly holds back itself, and no limit that is found.
    fn limit(&self) -> usize;

    /// A request that had a slot got its response head, or did not.
    fn on_sample(&self, sample: &Sample);

    /// A request found no slot at once: it waits for one, or is refused. Without these the limit binds nobody, and what is
    /// seen tells little of whether it should be higher.
    ///
    /// Once for each, and not for who is exempt, or was refused because the service inside is not ready.
    fn on_full(&self, now: Instant) {
        let _ = now;
    }

    /// A task that could run was not polled for so long: the run queue of tokio, of the worker that had a request. Looked at
    /// with a response head or a request that finds no slot, at most once in 10 ms, and never while there are none.
    ///
    /// It is not all that a request waits: tokio looks for what sockets have to say after 61 tasks, if the queue is never
    /// empty, and they wait for that first.
    fn on_delay(&self, now: Instant, delay: Duration) {
        let _ = (now, delay);
    }

    /// Why it is as it is, in a word or two: what [`Overload::course`](crate::Overload::course) says of a move.
    fn reason(&self) -> &'static str {
        ""
    }
}

/// How one request fared.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sample {
    /// When it was known.
    pub now: Instant,
    /// When it had its slot.
    pub began: Instant,
    /// From then to its response head, without the time for which the service waited for the body of the request, if
    /// somebody measured that; see [`uploads`](Self::uploads).
    pub latency: Duration,
    /// The latency is at most so, and tells nothing: the request had a body that was not there yet, and nobody measured how
    /// long that was waited for. For what else it tells, its end and that one more was served, it counts as any other.
    ///
    /// An [`UploadLayer`](crate::UploadLayer) measures, and so does a timeout of `tower-read-timeout` for bodies. Without
    /// one this is so of any request that has a body, and so of all of gRPC.
    pub uploads: bool,
    /// How many were in flight then, itself included; without those whose client takes its time to read.
    pub in_flight: usize,
    /// How it ended.
    pub outcome: Outcome,
    /// How critical it was said to be.
    pub class: Criticality,
}

/// What a response says of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was served.
    Ok,
    /// Something further in is overloaded: 503 or 504, or the gRPC statuses 4 and 14.
    ///
    /// Not 429, nor 8, which is its twin in gRPC: that one client has asked too much, or sent too much, tells nothing of
    /// the server. A limit that followed it would let one client take from all others.
    Overload,
    /// The client left before: it would have taken at least so long.
    Cancelled,
    /// It tells nothing: the client's mistake or quota, an error, an upgrade.
    Ignore,
}

impl Sample {
    /// A critical request alone, known now: for tests of a [`Limit`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_overload::{Outcome, Sample};
    ///
    /// let sample = Sample::new(Duration::from_millis(30), Outcome::Ok);
    /// assert_eq!(sample.in_flight, 1);
    /// ```
    #[must_use]
    pub fn new(latency: Duration, outcome: Outcome) -> Self {
        let now = Instant::now();
        Self {
            now,
            began: now.checked_sub(latency).unwrap_or(now),
            latency,
            uploads: false,
            in_flight: 1,
            outcome,
            class: Criticality::default(),
        }
    }
}

impl Outcome {
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Self::Overload,
            _ if status.is_success() || status.is_redirection() => {
                match headers.get("grpc-status").map(HeaderValue::as_bytes) {
                    Some(b"4" | b"14") => Self::Overload,
                    Some(b"0") | None => Self::Ok,
                    Some(_) => Self::Ignore,
                }
            }
            _ => Self::Ignore,
        }
    }
}

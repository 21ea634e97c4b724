use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use tokio::time::Instant;
use tower_connection::{ConnectionHandle, FOREVER, Head, Tally};
use tower_layer::Layer;

use crate::{KeepAlive, Reason, ends::Ends};

/// Closes connections that nobody is using, and renews those that are used for long. See the
/// [crate docs](crate).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::KeepAliveLayer;
///
/// let behind_a_balancer = KeepAliveLayer::new(Duration::from_secs(65))
///     .max_age(Duration::from_secs(600));
/// # let _ = behind_a_balancer;
/// ```
#[derive(Clone, Debug)]
pub struct KeepAliveLayer {
    settings: Settings,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) timeout: Option<Duration>,
    margin: Duration,
    pub(crate) max_requests: Option<u64>,
    max_age: Option<Duration>,
    pub(crate) age_grace: Duration,
    unless: Option<Unless>,
    /// Not a setting: it belongs to the layer and all that is made with it, clones too.
    pub(crate) ends: Arc<Ends>,
}

type Unless = Arc<dyn Fn(&Head<'_>) -> bool + Send + Sync>;

impl KeepAliveLayer {
    /// Closes connections that have been idle for `timeout`. The default is 5 s; zero never closes them.
    ///
    /// Other names for it: `keepalive_timeout` (nginx), `KeepAliveTimeout` (Apache), `IdleTimeout` (Go),
    /// `timeout http-keep-alive` (HAProxy).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_keep_alive::KeepAliveLayer;
    /// let layer = KeepAliveLayer::new(Duration::from_secs(65));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            settings: Settings {
                timeout: duration(timeout),
                margin: Duration::from_secs(1),
                max_requests: None,
                max_age: None,
                age_grace: Duration::from_millis(120),
                unless: None,
                ends: Arc::default(),
            },
        }
    }

    /// How much less than the timeout is told to HTTP/1 clients. Default is one second; zero tells the timeout
    /// itself.
    ///
    /// What is told is whole seconds, and at least one: with a timeout of 2 s or 1.5 s, clients are told
    /// `timeout=1`. With one of a second or less they are told nothing, as there is no true number to tell.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_keep_alive::KeepAliveLayer;
    /// // Closes after 65 s, and says `Keep-Alive: timeout=60`.
    /// let layer = KeepAliveLayer::new(Duration::from_secs(65)).margin(Duration::from_secs(5));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn margin(mut self, margin: Duration) -> Self {
        self.settings.margin = margin;
        self
    }

    /// Closes a connection after so many requests. Default is zero, which is no limit.
    ///
    /// The last response of HTTP/1 says `Connection: close`, and those before it count down in `Keep-Alive:
    /// max=`. HTTP/2 reads a GOAWAY, and the streams that are open then finish. Browsers take few GOAWAYs in a
    /// row for an error, so take no fewer than a thousand there.
    ///
    /// Another name for it: `keepalive_requests` (nginx, 1000), `MaxKeepAliveRequests` (Apache, 100).
    ///
    /// ```
    /// # use tower_keep_alive::KeepAliveLayer;
    /// let layer = KeepAliveLayer::default().max_requests(10_000);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn max_requests(mut self, max: u64) -> Self {
        self.settings.max_requests = (max > 0).then_some(max);
        self
    }

    /// Closes a connection when it is so old, give or take a tenth: each has an age of its own, so that
    /// connections which came together do not all come back together. Default is zero, which is no limit.
    ///
    /// Nothing is cut. HTTP/1 says `Connection: close` with the response in progress, or with the next one if
    /// that begins to come within the [grace](Self::age_grace), and else ends with FIN. HTTP/2 reads a GOAWAY, and the
    /// open streams finish. It spreads clients over the servers of a pool that grows.
    ///
    /// Other names for it: `keepalive_time` (nginx, 1 h), `max_connection_age` (gRFC A9).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_keep_alive::KeepAliveLayer;
    /// // Each connection lives for 9 to 11 minutes.
    /// let layer = KeepAliveLayer::default().max_age(Duration::from_secs(600));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = duration(age);
        self
    }

    /// How long an idle HTTP/1 connection waits for one more request when it is old. Default is 120 ms; zero
    /// closes it at once.
    ///
    /// A busy client sends its next request right after a response. If that crossed with the end of the
    /// connection, the client could not know whether it was processed.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_keep_alive::KeepAliveLayer;
    /// let layer = KeepAliveLayer::default()
    ///     .max_age(Duration::from_secs(600))
    ///     .age_grace(Duration::from_secs(2));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn age_grace(mut self, grace: Duration) -> Self {
        self.settings.age_grace = grace.min(FOREVER);
        self
    }

    /// Closes a connection after the response to a request for which this is true.
    ///
    /// For clients that do not cope with kept connections, or must not keep any.
    ///
    /// Another name for it: `keepalive_disable` (nginx).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_keep_alive::KeepAliveLayer;
    /// let layer = KeepAliveLayer::new(Duration::from_secs(5))
    ///     .unless(|head| head.headers.contains_key("x-health-check"));
    /// ```
    #[must_use]
    pub fn unless(mut self, unless: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.settings.unless = Some(Arc::new(unless));
        self
    }

    /// How many connections it ended so far, and why: of all acceptors that it is applied to, and of its clones.
    ///
    /// One that [`unless`](Self::unless) closes is not counted: that was asked for.
    ///
    /// ```
    /// # use tower_keep_alive::{KeepAliveLayer, Reason};
    /// let layer = KeepAliveLayer::default();
    /// let ends = layer.ends(); // look at it while the server runs
    /// assert_eq!(ends.of(Reason::Idle), 0);
    /// ```
    #[must_use]
    pub fn ends(&self) -> Tally<Reason> {
        self.settings.ends.tally.clone()
    }
}

impl Default for KeepAliveLayer {
    fn default() -> Self {
        Self::new(Duration::from_secs(5))
    }
}

impl<A> Layer<A> for KeepAliveLayer {
    type Service = KeepAlive<A>;

    fn layer(&self, inner: A) -> Self::Service {
        KeepAlive::new(inner, Arc::new(self.settings.clone()))
    }
}

fn duration(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration.min(FOREVER))
}

// === impl Settings ===

impl Settings {
    /// What clients are told of the timeout, in whole seconds.
    fn told(&self) -> Option<u64> {
        let timeout = self.timeout?;
        let told = timeout.saturating_sub(self.margin).as_secs().max(1);
        (Duration::from_secs(told) < timeout || self.margin.is_zero() && timeout.as_secs() > 0)
            .then_some(told)
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let told = self.told()?;
        HeaderValue::try_from(format!("timeout={told}")).ok()
    }

    /// The same, and how many more requests there may be.
    pub(crate) fn header_with_max(&self, left: u64) -> Option<HeaderValue> {
        let header = match self.told() {
            Some(told) => format!("timeout={told}, max={left}"),
            None => format!("max={left}"),
        };
        HeaderValue::try_from(header).ok()
    }

    pub(crate) fn forbids(&self, head: &Head<'_>) -> bool {
        self.unless.as_ref().is_some_and(|unless| unless(head))
    }

    /// When a connection is old: each has an age of its own.
    pub(crate) fn old_at(&self, handle: &ConnectionHandle) -> Option<Instant> {
        let age = self.max_age?;
        // The keys of the standard library's hasher are random, which is all that is needed here.
        let random = RandomState::new().hash_one(handle.id());
        #[expect(
            clippy::cast_precision_loss,
            reason = "a random number between 0 and 1"
        )]
        let between = random as f64 / u64::MAX as f64;
        Some(handle.accepted_at() + age.mul_f64(0.9 + 0.2 * between))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("timeout", &self.timeout)
            .field("margin", &self.margin)
            .field("max_requests", &self.max_requests)
            .field("max_age", &self.max_age)
            .field("age_grace", &self.age_grace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(timeout: u64, margin: u64) -> Option<u64> {
        KeepAliveLayer::new(Duration::from_millis(timeout))
            .margin(Duration::from_millis(margin))
            .settings
            .told()
    }

    #[test]
    fn clients_are_told_a_margin_less_in_whole_seconds_and_at_least_one() {
        // KEEP-3
        assert_eq!(told(5_000, 1_000), Some(4));
        assert_eq!(told(65_000, 5_000), Some(60));
        assert_eq!(told(5_900, 1_000), Some(4));
        assert_eq!(told(2_000, 1_000), Some(1));
        assert_eq!(told(1_500, 1_000), Some(1));
        assert_eq!(told(5_000, 0), Some(5));
        assert_eq!(told(5_000, 60_000), Some(1));
        assert_eq!(told(1_000, 1_000), None, "there is no true number");
        assert_eq!(told(400, 0), None);
        assert_eq!(told(0, 1_000), None);
    }

    #[test]
    fn ages_are_spread_over_a_tenth_on_either_side() {
        // KEEP-6
        let layer = KeepAliveLayer::default().max_age(Duration::from_secs(100));
        let ages: Vec<_> = (0..1_000)
            .map(|_| {
                let handle = ConnectionHandle::detached();
                let old = layer.settings.old_at(&handle).expect("there is an age");
                (old - handle.accepted_at()).as_secs_f64()
            })
            .collect();
        let (least, most) = (ages.iter().copied(), ages.iter().copied());
        let (least, most) = (least.fold(f64::MAX, f64::min), most.fold(0.0, f64::max));
        assert!((90.0..92.0).contains(&least), "{least}");
        assert!((108.0..=110.0).contains(&most), "{most}");
    }
}

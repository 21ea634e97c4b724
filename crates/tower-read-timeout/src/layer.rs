use std::{fmt, sync::Arc, time::Duration};

use http::Request;
use http_body::Body;
use tower_connection::{FOREVER, Head, Tally};
use tower_layer::Layer;

use crate::{ReadTimeout, Reason, ends::Ends};

/// Bounds how long a request may take to arrive. See the [crate docs](crate).
///
/// Put it outside of TLS, so that it covers the handshake.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_read_timeout::ReadTimeoutLayer;
///
/// let layer = ReadTimeoutLayer::new(Duration::from_secs(10))
///     .head_growing(Duration::from_secs(20), 500)
///     .body(Duration::from_secs(30))
///     .body_rate(240);
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
pub struct ReadTimeoutLayer {
    settings: Settings,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) handshake: Option<Duration>,
    head: Option<Duration>,
    /// At most so long, and so many bytes for a second more.
    growing: Option<(Duration, u64)>,
    pub(crate) body: Option<Duration>,
    pub(crate) body_rate: u64,
    body_unless: Option<Unless>,
    /// Not a setting: it belongs to the layer and all that is made with it, clones too.
    pub(crate) ends: Arc<Ends>,
}

type Unless = Arc<dyn Fn(&Head<'_>) -> bool + Send + Sync>;

impl ReadTimeoutLayer {
    /// Bounds the handshake, the first byte, the head of each request and HTTP/2's opening by `head`. Default
    /// is 10 s; zero does not bound them.
    ///
    /// Other names for it: `client_header_timeout` (nginx), `timeout http-request` (HAProxy),
    /// `RequestReadTimeout header=` (Apache), `ReadHeaderTimeout` (Go).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_read_timeout::ReadTimeoutLayer;
    /// let layer = ReadTimeoutLayer::new(Duration::from_secs(10));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn new(head: Duration) -> Self {
        Self {
            settings: Settings {
                handshake: duration(head),
                head: duration(head),
                growing: None,
                body: Some(Duration::from_secs(30)),
                body_rate: 240,
                body_unless: None,
                ends: Arc::default(),
            },
        }
    }

    /// Bounds what the acceptor inside does by `timeout`: a TLS handshake, a PROXY protocol header. Default is
    /// the time for a head; zero does not bound it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_read_timeout::ReadTimeoutLayer;
    /// let layer = ReadTimeoutLayer::new(Duration::from_secs(10)).handshake(Duration::from_secs(3));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn handshake(mut self, timeout: Duration) -> Self {
        self.settings.handshake = duration(timeout);
        self
    }

    /// Gives a head more time for each byte that came of it, up to `max` in all: one second for each
    /// `bytes_per_second`. Default is not to.
    ///
    /// For clients with large heads and slow lines. With `new` of 10 s, `max` of 20 s and 500 bytes a second, a
    /// head of 2,000 bytes has 14 s.
    ///
    /// Another name for it: `header=10-20,MinRate=500` (Apache's `RequestReadTimeout`).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_read_timeout::ReadTimeoutLayer;
    /// let layer =
    ///     ReadTimeoutLayer::new(Duration::from_secs(10)).head_growing(Duration::from_secs(20), 500);
    /// # let _ = layer;
    /// ```
    ///
    /// # Panics
    ///
    /// If `bytes_per_second` is zero.
    #[must_use]
    pub fn head_growing(mut self, max: Duration, bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "a head grows by a rate");
        self.settings.growing = Some((max.min(FOREVER), bytes_per_second));
        self
    }

    /// How long the service may wait for the next bytes of a body, and in all for a body that comes more slowly
    /// than its [rate](Self::body_rate). Default is 30 s; zero does not bound bodies at all.
    ///
    /// Other names for it: `client_body_timeout` (nginx), `RequestReadTimeout body=` (Apache).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_read_timeout::ReadTimeoutLayer;
    /// let layer = ReadTimeoutLayer::new(Duration::from_secs(10)).body(Duration::from_secs(60));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn body(mut self, timeout: Duration) -> Self {
        self.settings.body = duration(timeout);
        self
    }

    /// How many bytes a second a body must bring at least, on average over the time for which the service waited
    /// for it, once it has waited for [so long](Self::body). Default is 240; zero bounds only how long no byte
    /// comes.
    ///
    /// Another name for it: `MinRequestBodyDataRate` (Kestrel, 240 bytes a second).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_read_timeout::ReadTimeoutLayer;
    /// let layer = ReadTimeoutLayer::new(Duration::from_secs(10)).body_rate(1_000);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn body_rate(mut self, bytes_per_second: u64) -> Self {
        self.settings.body_rate = bytes_per_second;
        self
    }

    /// Does not bound the bodies of requests for which this is true. Default is to bound all.
    ///
    /// For calls whose client may be silent for longer than a body may, whatever the service sends meanwhile: a gRPC stream
    /// of the client's messages, say, which is answered after the last. (One that is answered before is exempt from then
    /// on: a chat, a watch.) Decide by what only such calls have, a path rather than a header, as whoever is exempt may be
    /// as slow as it likes. Nothing here finds one that has vanished without a word, either, while the service has nothing to
    /// say: let TCP's keepalive (`socket2`, on the socket that listens) or hyper's `http2().keep_alive_interval(..)` do that.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_read_timeout::ReadTimeoutLayer;
    /// let layer = ReadTimeoutLayer::new(Duration::from_secs(10))
    ///     .body_unless(|head| head.uri.path().starts_with("/chat.v1.Chat/"));
    /// ```
    #[must_use]
    pub fn body_unless(
        mut self,
        unless: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.body_unless = Some(Arc::new(unless));
        self
    }

    /// How often something did not arrive in time so far, and what: of all acceptors that it is applied to, and of its
    /// clones.
    ///
    /// ```
    /// # use tower_read_timeout::{ReadTimeoutLayer, Reason};
    /// let layer = ReadTimeoutLayer::default();
    /// let ends = layer.ends(); // look at it while the server runs
    /// assert_eq!(ends.of(Reason::Head), 0);
    /// ```
    #[must_use]
    pub fn ends(&self) -> Tally<Reason> {
        self.settings.ends.tally.clone()
    }
}

impl Default for ReadTimeoutLayer {
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

impl<A> Layer<A> for ReadTimeoutLayer {
    type Service = ReadTimeout<A>;

    fn layer(&self, inner: A) -> Self::Service {
        ReadTimeout::new(inner, Arc::new(self.settings.clone()))
    }
}

fn duration(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration.min(FOREVER))
}

// === impl Settings ===

impl Settings {
    /// How long a head may take of which so many bytes have come.
    pub(crate) fn head(&self, bytes: u64) -> Option<Duration> {
        let least = self.head?;
        let Some((max, rate)) = self.growing else {
            return Some(least);
        };
        let grown = least.saturating_add(earned(bytes, rate));
        Some(grown.min(max.max(least)))
    }

    pub(crate) fn bounds_body<B: Body>(&self, request: &Request<B>) -> bool {
        self.body.is_some()
            && !request.body().is_end_stream()
            && !(self.body_unless.as_ref()).is_some_and(|unless| unless(&Head::of(request)))
    }

    /// For how long the service may wait for a body in all, of which so many bytes have come.
    pub(crate) fn body(&self, bytes: u64) -> Option<Duration> {
        let grace = self.body?;
        if self.body_rate == 0 {
            return Some(FOREVER);
        }
        Some(
            grace
                .saturating_add(earned(bytes, self.body_rate))
                .min(FOREVER),
        )
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("handshake", &self.handshake)
            .field("head", &self.head)
            .field("growing", &self.growing)
            .field("body", &self.body)
            .field("body_rate", &self.body_rate)
            .finish_non_exhaustive()
    }
}

/// The time in which so many bytes come at that rate.
fn earned(bytes: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_head_is_not_given_more_time_by_its_bytes_unless_asked() {
        // READ-3
        let plain = ReadTimeoutLayer::new(10 * S).settings;
        assert_eq!(plain.head(1_000_000), Some(10 * S));
        let growing = ReadTimeoutLayer::new(10 * S)
            .head_growing(20 * S, 500)
            .settings;
        assert_eq!(growing.head(0), Some(10 * S));
        assert_eq!(growing.head(2_000), Some(14 * S));
        assert_eq!(growing.head(1_000_000), Some(20 * S));
        let low = ReadTimeoutLayer::new(10 * S).head_growing(5 * S, 1);
        assert_eq!(low.settings.head(9), Some(10 * S), "never less than asked");
        let off = ReadTimeoutLayer::new(Duration::ZERO).head_growing(20 * S, 500);
        assert_eq!(off.settings.head(0), None);
    }

    #[test]
    fn a_body_earns_time_by_its_bytes() {
        // READ-5
        let settings = ReadTimeoutLayer::default()
            .body(30 * S)
            .body_rate(100)
            .settings;
        assert_eq!(settings.body(0), Some(30 * S));
        assert_eq!(settings.body(550), Some(35 * S + S / 2));
        assert_eq!(settings.body(u64::MAX), Some(FOREVER));
        let idle_only = ReadTimeoutLayer::default().body_rate(0).settings;
        assert_eq!(idle_only.body(0), Some(FOREVER));
        assert_eq!(
            ReadTimeoutLayer::default()
                .body(Duration::ZERO)
                .settings
                .body(9),
            None
        );
    }
}

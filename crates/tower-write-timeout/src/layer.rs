use std::{sync::Arc, time::Duration};

use tower_connection::{FOREVER, Tally};
use tower_layer::Layer;

use crate::{Reason, WriteTimeout, ends::Ends, pace::Terms};

/// Gives up clients that do not take their responses. See the [crate docs](crate).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_write_timeout::WriteTimeoutLayer;
///
/// let for_phones = WriteTimeoutLayer::new(Duration::from_secs(60))
///     .min_rate(100)
///     .grace(Duration::from_secs(20));
/// # let _ = for_phones;
/// ```
#[derive(Clone, Debug)]
pub struct WriteTimeoutLayer {
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) terms: Terms,
    pub(crate) unsent: u32,
    /// Not a setting: it belongs to the layer and all that is made with it, clones too.
    pub(crate) ends: Arc<Ends>,
}

impl WriteTimeoutLayer {
    /// Gives up a client that takes nothing for `timeout`, of what it is owed. The default is 30 s; zero leaves
    /// it to the [rate](Self::min_rate), and with a rate of zero waits for ever.
    ///
    /// Other names for it: `send_timeout` (nginx, 60 s), `idle_send_timeout` (Varnish, 60 s), `TimeOut` (Apache).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_write_timeout::WriteTimeoutLayer;
    /// let layer = WriteTimeoutLayer::new(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            settings: Settings {
                terms: Terms {
                    timeout: duration(timeout),
                    rate: 240,
                    grace: Duration::from_secs(5),
                    ceiling: None,
                },
                unsent: 128 * 1024,
                ends: Arc::default(),
            },
        }
    }

    /// How many bytes a second a client must take at least, while it is owed something. Default is 240; zero asks
    /// only that it takes something within the timeout.
    ///
    /// What it takes faster counts for later: it earns time, up to the timeout. A client that a handler keeps
    /// waiting is owed nothing, and uses up none.
    ///
    /// Another name for it: `MinResponseDataRate` (Kestrel, 240 bytes a second).
    ///
    /// ```
    /// # use tower_write_timeout::WriteTimeoutLayer;
    /// let layer = WriteTimeoutLayer::default().min_rate(1_000);
    /// ```
    #[must_use]
    pub fn min_rate(mut self, bytes_per_second: u64) -> Self {
        self.settings.terms.rate = bytes_per_second;
        self
    }

    /// For how long a client may stay below the [rate](Self::min_rate) when it begins to owe. Default is 5 s; zero
    /// leaves it what it has earned.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_write_timeout::WriteTimeoutLayer;
    /// let layer = WriteTimeoutLayer::default().grace(Duration::from_secs(20));
    /// ```
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.terms.grace = grace.min(FOREVER);
        self
    }

    /// How long a client may owe in all: from when it first falls behind until it has taken everything, however
    /// steadily it does. Default is zero, which is no limit.
    ///
    /// It cuts honest clients with slow lines and large downloads; set it, if at all, to many minutes.
    ///
    /// Another name for it: `send_timeout` (Varnish, 600 s).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_write_timeout::WriteTimeoutLayer;
    /// let layer = WriteTimeoutLayer::default().ceiling(Duration::from_secs(3_600));
    /// ```
    #[must_use]
    pub fn ceiling(mut self, ceiling: Duration) -> Self {
        self.settings.terms.ceiling = duration(ceiling);
        self
    }

    /// How many bytes the kernel takes that it cannot send yet (`TCP_NOTSENT_LOWAT`), and so how much a client that does
    /// not read can make it hold. Default is 128 KiB; zero leaves it to the kernel, which on Linux takes up to 4 MiB
    /// for each connection (`net.ipv4.tcp_wmem`).
    ///
    /// What is on its way to the client does not count, so a fast line stays fast. It sets nothing but TCP sockets
    /// on Linux.
    ///
    /// ```
    /// # use tower_write_timeout::WriteTimeoutLayer;
    /// let layer = WriteTimeoutLayer::default().unsent_limit(64 * 1024);
    /// ```
    #[must_use]
    pub fn unsent_limit(mut self, bytes: u32) -> Self {
        self.settings.unsent = bytes;
        self
    }

    /// How many streams and connections it gave up so far, and why: of all acceptors that it is applied to, and of its
    /// clones.
    ///
    /// A connection that ends because none of its streams is taken is counted as those.
    ///
    /// ```
    /// # use tower_write_timeout::{Reason, WriteTimeoutLayer};
    /// let layer = WriteTimeoutLayer::default();
    /// let ends = layer.ends(); // look at it while the server runs
    /// assert_eq!(ends.of(Reason::Stopped), 0);
    /// ```
    #[must_use]
    pub fn ends(&self) -> Tally<Reason> {
        self.settings.ends.tally.clone()
    }
}

impl Default for WriteTimeoutLayer {
    fn default() -> Self {
        Self::new(Duration::from_secs(30))
    }
}

impl<A> Layer<A> for WriteTimeoutLayer {
    type Service = WriteTimeout<A>;

    fn layer(&self, inner: A) -> Self::Service {
        WriteTimeout::new(inner, Arc::new(self.settings.clone()))
    }
}

fn duration(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration.min(FOREVER))
}

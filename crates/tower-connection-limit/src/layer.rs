use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use tower_connection::{Address, FOREVER};
use tower_layer::Layer;

use crate::{
    AtCapacity, Client, ConnectionLimit, Limit, descriptors,
    ledger::Ledger,
    settings::{RetryAfter, Settings},
};

/// How many sockets may be open past the limit, by default.
const RESERVE: usize = 128;

/// Limits how many connections are open at once.
///
/// Put it outermost, outside of TLS above all: a permit then covers the handshake, and so do the bounds on
/// a rejection. One layer is one limit, however many acceptors it is applied to; clones share its counts
/// and its maxima, and each has policies of its own.
///
/// The default is a limit that this process can afford: 1024 connections for each worker of the runtime,
/// but never more than `RLIMIT_NOFILE` allows when a quarter of it (32 to 1024) is left to the rest of the
/// process and an eighth (at most 128) to the [`reserve`](Self::reserve). It is read when the layer is made.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};
///
/// let layer = ConnectionLimitLayer::new(1024)
///     .max_per_client(64)
///     .at_capacity([AtCapacity::MakeRoom, AtCapacity::Reject])
///     .retry_after(Duration::from_secs(5));
/// let limit = layer.limit(); // ask it, or change it, while the server runs
/// assert_eq!(limit.open(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct ConnectionLimitLayer {
    ledger: Ledger,
    settings: Settings,
}

impl ConnectionLimitLayer {
    /// At most `max` connections at once. Zero is no limit.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            ledger: Ledger::new(max, RESERVE),
            settings: Settings::default(),
        }
    }

    /// What happens to a client that comes when the limit is reached: one policy, or several of which each
    /// is tried when the one before cannot help. After the last of them, clients wait.
    ///
    /// Default is to [make room](AtCapacity::MakeRoom), then to [reject](AtCapacity::Reject), then to
    /// [wait](AtCapacity::Wait).
    ///
    /// ```
    /// # use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};
    /// let layer = ConnectionLimitLayer::new(100).at_capacity([AtCapacity::MakeRoom, AtCapacity::Close]);
    /// let layer = ConnectionLimitLayer::new(100).at_capacity(AtCapacity::Wait);
    /// ```
    ///
    /// # Panics
    ///
    /// If there is no policy, if one is named twice, and if one follows [`Reject`](AtCapacity::Reject) or
    /// [`Close`](AtCapacity::Close) other than `Wait`, or follows `Wait`: nobody would ever get there.
    #[must_use]
    pub fn at_capacity(mut self, policies: impl AsRef<[AtCapacity]>) -> Self {
        let policies = policies.as_ref();
        assert!(!policies.is_empty(), "a policy is needed");
        for (n, policy) in policies.iter().enumerate() {
            let rest = &policies[n + 1..];
            let reached = match policy {
                AtCapacity::MakeRoom => !rest.contains(policy),
                AtCapacity::Reject | AtCapacity::Close => matches!(rest, [] | [AtCapacity::Wait]),
                AtCapacity::Wait => rest.is_empty(),
            };
            assert!(reached, "{rest:?} is never reached after {policy:?}");
        }
        self.settings.at_capacity = policies.to_vec();
        self
    }

    /// How many connections one client may have. Default is zero, which is no limit.
    ///
    /// Who has as many gets room by [`MakeRoom`](AtCapacity::MakeRoom) from its own connections only, and
    /// else is turned away: with [`Close`](AtCapacity::Close) among the policies by a reset, with any
    /// others by a rejection, since a client that waits would keep the others waiting. The rejection looks
    /// the same as that for the whole server.
    ///
    /// Without a call of this, or of [`Limit::set_max_per_client`], clients are not told apart, and
    /// [`Limit::top_clients`] knows none. A client is remembered while it has a connection.
    ///
    /// ```
    /// # use tower_connection_limit::ConnectionLimitLayer;
    /// let layer = ConnectionLimitLayer::new(10_000).max_per_client(100);
    /// assert_eq!(layer.limit().max_per_client(), 100);
    /// ```
    #[must_use]
    pub fn max_per_client(self, max: usize) -> Self {
        self.ledger.set_max_per_client(max);
        self
    }

    /// Who is one client. Default is an IPv4 address or an IPv6 /64; see [`Client`].
    ///
    /// The function is given the peer of the socket that comes to this layer. Behind a balancer that is the
    /// balancer; put a PROXY protocol layer outside of this one, or a second limit inside of it. `None` is
    /// a client that is not limited by itself.
    ///
    /// ```
    /// # use tower_connection_limit::{Client, ConnectionLimitLayer};
    /// let layer = ConnectionLimitLayer::new(10_000)
    ///     .max_per_client(100)
    ///     .client(|peer| Some(Client::network(peer.ip()?.ip(), 24, 48)));
    /// ```
    #[must_use]
    pub fn client(
        mut self,
        client: impl Fn(&Address) -> Option<Client> + Send + Sync + 'static,
    ) -> Self {
        self.settings.client = Arc::new(client);
        self
    }

    /// Gives connections that were upgraded (WebSockets over HTTP/1) a limit of their own: they give their
    /// permit back, and count there. Zero is no limit. Default is that they keep their permit.
    ///
    /// Past it, a request for an upgrade is answered as a rejected one, in place of the `101`.
    ///
    /// A WebSocket over HTTP/2 is a stream in a connection, and counts as nothing of its own.
    ///
    /// ```
    /// # use tower_connection_limit::ConnectionLimitLayer;
    /// let layer = ConnectionLimitLayer::new(1024).max_upgraded(10_000);
    /// ```
    #[must_use]
    pub fn max_upgraded(self, max: usize) -> Self {
        self.ledger.set_max_upgraded(max);
        self
    }

    /// How long a connection must have been idle before it makes room. Default is 25 ms; zero is no time.
    ///
    /// A client that has just read a response may already be sending its next request. Longer is kinder to
    /// distant clients, and lets a newcomer wait as long when everybody was active a moment ago.
    #[must_use]
    pub fn min_idle(mut self, min_idle: Duration) -> Self {
        self.settings.min_idle = min_idle.min(FOREVER);
        self
    }

    /// Once nobody could be accepted any more, accepts again only when no more than `low` connections are
    /// left. Default is as soon as there is a permit.
    ///
    /// For a balancer that watches whether connects succeed: without a distance between the two, a full
    /// server says yes and no in turn.
    #[must_use]
    pub fn low_watermark(self, low: usize) -> Self {
        self.ledger.set_low_watermark(low);
        self
    }

    /// How many sockets may be open past the limit: rejected clients that are still reading, connections
    /// that make room, newcomers for whom that happens. Default is 128; with zero, everybody waits.
    ///
    /// Limit and reserve together are the descriptors that clients can take.
    #[must_use]
    pub fn reserve(self, reserve: usize) -> Self {
        self.ledger.set_reserve(reserve);
        self
    }

    /// How long a client that was turned away keeps its place in the reserve at least, counted from
    /// accept, also if it leaves sooner. Default is 100 ms; zero is no time.
    ///
    /// A client that comes back at once, in a loop, so cannot keep the acceptor busy: with the default
    /// reserve, at most 1,280 are turned away in a second, and the others wait.
    #[must_use]
    pub fn rejection_pause(mut self, pause: Duration) -> Self {
        self.settings.rejection_pause = pause.min(FOREVER);
        self
    }

    /// How long a rejection may take, from accept to close, a TLS handshake included. Default is 5 s.
    ///
    /// # Panics
    ///
    /// If it is zero: nobody could read anything.
    #[must_use]
    pub fn rejection_timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a rejection takes time");
        self.settings.rejection_timeout = timeout.min(FOREVER);
        self
    }

    /// How many bytes are read from a rejected client at most. Default is 16 MiB; with zero nothing is
    /// read, and so nothing answered.
    ///
    /// A close with bytes unread resets the connection, and the reset can overtake the answer.
    #[must_use]
    pub fn rejection_bytes(mut self, bytes: usize) -> Self {
        self.settings.rejection_bytes = bytes;
        self
    }

    /// How long a rejected client is read once it was answered, and how long a connection that made room
    /// may take to leave. Default is 1 s; zero closes at once.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger.min(FOREVER);
        self
    }

    /// What a rejected client reads as `Retry-After`. Default is one second; a fraction is rounded up.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.settings.retry_after = RetryAfter::Fixed(retry_after);
        self
    }

    /// Computes the `Retry-After` from how fast connections end, within `bounds`: the number of clients
    /// that were turned away lately times the time in which one place came free. In a rush, those who come
    /// later are told to come back later, so they do not return all at once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_connection_limit::ConnectionLimitLayer;
    /// let layer = ConnectionLimitLayer::new(1024)
    ///     .retry_after_turnover(Duration::from_secs(1)..=Duration::from_secs(60));
    /// ```
    ///
    /// # Panics
    ///
    /// If the bounds are the wrong way round.
    #[must_use]
    pub fn retry_after_turnover(mut self, bounds: RangeInclusive<Duration>) -> Self {
        assert!(!bounds.is_empty(), "the bounds are the wrong way round");
        self.settings.retry_after = RetryAfter::Turnover(bounds);
        self
    }

    /// The limit itself: its counts, and a way to change it.
    #[must_use]
    pub fn limit(&self) -> Limit {
        Limit::new(self.ledger.clone())
    }
}

impl Default for ConnectionLimitLayer {
    fn default() -> Self {
        let reserve = RESERVE.min(descriptors::descriptors() / 8);
        Self::new(descriptors::affordable(reserve)).reserve(reserve)
    }
}

impl<A> Layer<A> for ConnectionLimitLayer {
    type Service = ConnectionLimit<A>;

    fn layer(&self, inner: A) -> Self::Service {
        ConnectionLimit::new(inner, self.ledger.clone(), Arc::new(self.settings.clone()))
    }
}

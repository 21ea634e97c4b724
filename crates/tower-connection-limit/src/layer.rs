use std::time::Duration;

use tower_connection::Rejection;
use tower_layer::Layer;

use crate::{ConnectionLimit, permit::Counts};

/// How many rejections may be in progress by default.
const MAX_REJECTING: usize = 128;

/// Limits how many connections are open at once.
///
/// Put it outermost, outside of TLS above all: a permit then covers the handshake, and so do the bounds on
/// a rejection. One layer is one limit, however many acceptors it is applied to; clones share it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};
///
/// let layer = ConnectionLimitLayer::new(1024)
///     .at_capacity(AtCapacity::Reject)
///     .retry_after(Duration::from_secs(5));
/// let limit = layer.limit(); // ask it, or change it, while the server runs
/// assert_eq!(limit.open(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct ConnectionLimitLayer {
    counts: Counts,
    at_capacity: AtCapacity,
    rejection: Rejection,
}

impl ConnectionLimitLayer {
    /// At most `max` connections at once. Zero is no limit.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            counts: Counts::new(max, MAX_REJECTING),
            at_capacity: AtCapacity::default(),
            rejection: rejection(Duration::from_secs(1)),
        }
    }

    /// What happens to a client that comes when the limit is reached. Default is
    /// [`AtCapacity::Reject`].
    #[must_use]
    pub fn at_capacity(mut self, at_capacity: AtCapacity) -> Self {
        self.at_capacity = at_capacity;
        self
    }

    /// What a rejected client reads as `Retry-After`. Default is one second; a fraction is rounded up.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.rejection = rejection(retry_after);
        self
    }

    /// The limit itself: its counts, and a way to change it.
    #[must_use]
    pub fn limit(&self) -> Limit {
        Limit {
            counts: self.counts.clone(),
        }
    }
}

fn rejection(retry_after: Duration) -> Rejection {
    Rejection::new(retry_after).close()
}

impl<A> Layer<A> for ConnectionLimitLayer {
    type Service = ConnectionLimit<A>;

    fn layer(&self, inner: A) -> Self::Service {
        ConnectionLimit::new(
            inner,
            self.counts.clone(),
            self.at_capacity,
            self.rejection.clone(),
        )
    }
}

/// What happens to a client that comes when the limit is reached.
///
/// ```
/// # use tower_connection_limit::AtCapacity;
/// assert_eq!(AtCapacity::default(), AtCapacity::Reject);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtCapacity {
    /// It waits in the kernel's backlog: nobody accepts until a connection ends.
    ///
    /// Nothing is lost, and nothing is said: a balancer in front sees a slow server, not a full one.
    /// Another name for it is back-pressure.
    Wait,
    /// It reads a complete `503` with `Retry-After`, then its connection is closed.
    ///
    /// The answer goes through the HTTP stack, so it is inside TLS, and valid HTTP/2. The client may
    /// already be sending: the connection is half-closed and read (and dropped) until the client has
    /// closed, so that no reset overtakes the answer.
    ///
    /// A rejection is bounded: five seconds from accept to close, one second once it was answered, 16
    /// MiB read, and at most 128 at once. Further clients wait as with [`Wait`](AtCapacity::Wait).
    #[default]
    Reject,
}

/// A limit while the server runs: what it counts, and a way to change it.
///
/// ```
/// # use tower_connection_limit::ConnectionLimitLayer;
/// let limit = ConnectionLimitLayer::new(10).limit();
/// limit.set_max(20);
/// assert_eq!(limit.max(), 20);
/// ```
#[derive(Clone, Debug)]
pub struct Limit {
    counts: Counts,
}

impl Limit {
    /// How many connections may be open; `usize::MAX` if there is no limit.
    #[must_use]
    pub fn max(&self) -> usize {
        self.counts.max()
    }

    /// Changes it. Zero is no limit. Open connections stay: a lower limit is reached as they end.
    pub fn set_max(&self, max: usize) {
        self.counts.set_max(max);
    }

    /// How many connections hold a permit, from `accept(2)` to `close(2)`. Rejected ones do not.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counts.open()
    }

    /// How many rejections are in progress, or promised to an acceptor that waits for a client.
    #[must_use]
    pub fn rejecting(&self) -> usize {
        self.counts.rejecting()
    }

    /// How many connections were rejected so far.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.counts.rejected()
    }

    /// How many acceptors wait for a connection to end. Their clients wait in the kernel's backlog,
    /// where nobody counts them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.counts.waiting()
    }
}

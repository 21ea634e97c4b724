use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use tower_connection::Address;

use crate::Client;

/// What happens to a client that comes when the limit is reached.
///
/// [`ConnectionLimitLayer::at_capacity`](crate::ConnectionLimitLayer::at_capacity) takes one of these, or
/// several that are tried in turn.
///
/// ```
/// use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};
///
/// let patient = ConnectionLimitLayer::new(100).at_capacity(AtCapacity::Wait);
/// let hospitable = ConnectionLimitLayer::new(100).at_capacity([AtCapacity::MakeRoom, AtCapacity::Wait]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AtCapacity {
    /// It gets the place of the connection that is idle the longest, which is closed: HTTP/1 with FIN,
    /// HTTP/2 with GOAWAY.
    ///
    /// Idle is a connection with no request in flight, and one that never asked for anything: a silent
    /// socket, a stalled TLS handshake, half a request head. Never closed are a connection at work (with a
    /// request in flight, a response that the client is slow to take, an open stream of HTTP/2), an
    /// upgraded one, and one whose last response ended less than
    /// [`min_idle`](crate::ConnectionLimitLayer::min_idle) ago; if only such are left, the newcomer waits
    /// up to so long, and then the next policy decides. Without this, as many silent sockets as the limit
    /// allows keep everybody else out.
    ///
    /// With more than 5,000 connections at work, one that has become idle may be found later: each of them
    /// delays that by 5 us, so that looking for one costs the same however many there are.
    ///
    /// Other names for it: `worker_connections` and its reusable connections (nginx), idle eviction (H2O).
    MakeRoom,
    /// It reads a complete `503` with `Retry-After`, then its connection is closed.
    ///
    /// The answer goes through the HTTP stack, so it is inside TLS, and valid HTTP/2. The client may
    /// already be sending: the connection is half-closed and read (and dropped) until the client has
    /// closed, so that no reset overtakes the answer.
    ///
    /// Rejections in progress take places in the [`reserve`](crate::ConnectionLimitLayer::reserve); when
    /// that is full, the next client waits.
    Reject,
    /// It is reset, without a word: the cheapest answer, and one that clients take for a broken network.
    ///
    /// It takes a place in the reserve as a rejection does, for as long as the
    /// [`rejection_pause`](crate::ConnectionLimitLayer::rejection_pause).
    Close,
    /// It waits in the kernel's backlog: nobody accepts until a connection ends.
    ///
    /// Nothing is lost, and nothing is said: a balancer in front sees a slow server, not a full one.
    /// Another name for it is back-pressure.
    Wait,
}

impl AsRef<[AtCapacity]> for AtCapacity {
    fn as_ref(&self) -> &[AtCapacity] {
        std::slice::from_ref(self)
    }
}

/// What an acceptor needs to decide, beside the counts.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) at_capacity: Vec<AtCapacity>,
    pub(crate) min_idle: Duration,
    pub(crate) rejection_pause: Duration,
    pub(crate) rejection_timeout: Duration,
    pub(crate) rejection_bytes: usize,
    pub(crate) linger: Duration,
    pub(crate) retry_after: RetryAfter,
    pub(crate) client: ClientKey,
}

#[derive(Clone, Debug)]
pub(crate) enum RetryAfter {
    Fixed(Duration),
    Turnover(RangeInclusive<Duration>),
}

pub(crate) type ClientKey = Arc<dyn Fn(&Address) -> Option<Client> + Send + Sync>;

impl Settings {
    pub(crate) fn makes_room(&self) -> bool {
        self.at_capacity.contains(&AtCapacity::MakeRoom)
    }

    /// Whether and how a newcomer for whom there is no room is sent away.
    pub(crate) fn turns_away(&self) -> Option<AtCapacity> {
        let sends_away =
            |policy: &&AtCapacity| matches!(policy, AtCapacity::Reject | AtCapacity::Close);
        self.at_capacity.iter().find(sends_away).copied()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            at_capacity: vec![AtCapacity::MakeRoom, AtCapacity::Reject, AtCapacity::Wait],
            min_idle: Duration::from_millis(25),
            rejection_pause: Duration::from_millis(100),
            rejection_timeout: Duration::from_secs(5),
            rejection_bytes: 16 * 1024 * 1024,
            linger: Duration::from_secs(1),
            retry_after: RetryAfter::Fixed(Duration::from_secs(1)),
            client: Arc::new(|peer| Some(Client::network(peer.ip()?.ip(), 32, 64))),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("at_capacity", &self.at_capacity)
            .field("min_idle", &self.min_idle)
            .field("retry_after", &self.retry_after)
            .finish_non_exhaustive()
    }
}

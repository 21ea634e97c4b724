use crate::{Client, Reason, ledger::Ledger};

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
    ledger: Ledger,
}

impl Limit {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    /// How many connections may be open; `usize::MAX` if there is no limit.
    #[must_use]
    pub fn max(&self) -> usize {
        self.ledger.counts().max
    }

    /// Changes it. Zero is no limit. Open connections stay: a lower limit is reached as they end.
    pub fn set_max(&self, max: usize) {
        self.ledger.set_max(max);
    }

    /// How many connections one client may have; `usize::MAX` if there is no limit.
    #[must_use]
    pub fn max_per_client(&self) -> usize {
        self.ledger.counts().max_per_client
    }

    /// Changes it. Zero is no limit. Open connections stay; those from before clients were first told apart
    /// are nobody's.
    pub fn set_max_per_client(&self, max: usize) {
        self.ledger.set_max_per_client(max);
    }

    /// How many connections hold a permit, from `accept(2)` to `close(2)`. Those in the reserve do not, nor
    /// do upgraded ones that have a limit of their own.
    #[must_use]
    pub fn open(&self) -> usize {
        self.ledger.counts().open
    }

    /// How many sockets are open past the limit, all on their way: rejected clients, connections that
    /// made room, newcomers for whom that happens.
    #[must_use]
    pub fn in_reserve(&self) -> usize {
        self.ledger.counts().in_reserve
    }

    /// How many upgraded connections there are, if they have a limit of their own.
    #[must_use]
    pub fn upgraded(&self) -> usize {
        self.ledger.counts().upgraded
    }

    /// How many clients were turned away so far: by a rejection, by a reset, or when they asked for an
    /// upgrade.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.ledger.counts().rejected
    }

    /// How many of them for this reason.
    ///
    /// ```
    /// # use tower_connection_limit::{ConnectionLimitLayer, Reason};
    /// let limit = ConnectionLimitLayer::new(1024).limit();
    /// let each = Reason::ALL.iter().map(|&reason| limit.rejected_for(reason));
    /// assert_eq!(each.sum::<u64>(), limit.rejected());
    /// ```
    #[must_use]
    pub fn rejected_for(&self, reason: Reason) -> u64 {
        self.ledger.rejected_for(reason)
    }

    /// How many connections made room for another so far.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.ledger.counts().evicted
    }

    /// How many acceptors wait for a connection to end. Their clients wait in the kernel's backlog,
    /// where nobody counts them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.ledger.counts().waiting
    }

    /// The `n` clients with the most connections, the most first. Empty unless clients are told apart; see
    /// [`max_per_client`](crate::ConnectionLimitLayer::max_per_client).
    ///
    /// Looks at every client, under the limit's lock: for a dashboard, not for a request.
    #[must_use]
    pub fn top_clients(&self, n: usize) -> Vec<(Client, usize)> {
        self.ledger.top(n)
    }
}

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::OnceLock,
    time::Duration,
};

use tower_connection::Head;

/// How much it matters that a request is served, when not all can be.
///
/// While there is a free slot, it does not matter. When there is none, who is more critical goes first, and keeps some
/// slots free of who is less: as many as were missed of late. See also [`share`](crate::InFlightLimitLayer::share).
///
/// Source: the criticalities of Google's SRE book, chapter "Handling Overload".
///
/// ```
/// # use tower_overload::Criticality;
/// assert!(Criticality::CriticalPlus > Criticality::Sheddable);
/// assert_eq!(Criticality::default(), Criticality::Critical);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criticality {
    /// Partial unavailability is expected, for good: what can be tried again in hours.
    Sheddable,
    /// Partial unavailability is expected: batch jobs, which try again in minutes.
    SheddablePlus,
    /// What users see. The default.
    #[default]
    Critical,
    /// What must not fail: few requests should be this.
    CriticalPlus,
}

impl Criticality {
    /// From the most critical to the least.
    pub const ALL: [Self; 4] = [
        Self::CriticalPlus,
        Self::Critical,
        Self::SheddablePlus,
        Self::Sheddable,
    ];

    /// In lower case, for a label.
    ///
    /// ```
    /// # use tower_overload::Criticality;
    /// assert_eq!(Criticality::SheddablePlus.as_str(), "sheddable_plus");
    /// ```
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::SheddablePlus => "sheddable_plus",
            Self::Critical => "critical",
            Self::CriticalPlus => "critical_plus",
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Those that are less critical.
    pub(crate) fn lower(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |class| *class < self)
    }

    /// Those that are more critical.
    pub(crate) fn higher(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |class| *class > self)
    }
}

/// What is known of a request before it is served. The default is [critical](Criticality::Critical), of nobody in
/// particular, without a deadline.
///
/// ```
/// use std::time::Duration;
/// use tower_overload::{Criticality, Ticket};
///
/// let ticket = Ticket::new(Criticality::Sheddable)
///     .key("tenant 7")
///     .deadline(Duration::from_millis(300));
/// # drop(ticket);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ticket {
    pub(crate) class: Criticality,
    pub(crate) key: Option<Key>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) exempt: bool,
    pub(crate) stream: bool,
}

/// A key is only ever compared by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) u64);

impl Ticket {
    /// A request of this class.
    #[must_use]
    pub fn new(class: Criticality) -> Self {
        Self {
            class,
            ..Self::default()
        }
    }

    /// A request that is served whatever the load, and counts nowhere: a health check, the metrics. The service inside
    /// must be ready for it, or become so within [`max_wait`](crate::InFlightLimitLayer::max_wait).
    ///
    /// Decide by the path, or by what a layer further out put into the extensions. Not by a header that anybody can send:
    /// that is a way around the limit.
    ///
    /// ```
    /// # use tower_connection::Head;
    /// # use tower_overload::Ticket;
    /// fn classify(head: &Head<'_>) -> Ticket {
    ///     match head.uri.path() {
    ///         "/healthz" => Ticket::exempt(),
    ///         _ => Ticket::default(),
    ///     }
    /// }
    /// # let _ = classify;
    /// ```
    #[must_use]
    pub fn exempt() -> Self {
        Self {
            exempt: true,
            ..Self::default()
        }
    }

    /// Whose it is: a tenant, a user, an address. When not all can be served, who has many requests in the house makes
    /// way for who has few.
    ///
    /// Only its hash is kept, with a secret of the process: clients cannot choose with whom they collide.
    ///
    /// ```
    /// use tower_connection::{ConnectionHandle, Head};
    /// use tower_overload::{InFlightLimitLayer, Ticket};
    ///
    /// let fair = InFlightLimitLayer::new(100).classify(|head: &Head<'_>| {
    ///     let connection = head.extensions.get::<ConnectionHandle>();
    ///     let client = connection.and_then(|connection| connection.peer().ip());
    ///     Ticket::default().key(client.map(|address| address.ip()))
    /// });
    /// # drop(fair);
    /// ```
    #[must_use]
    pub fn key(mut self, key: impl Hash) -> Self {
        static SECRET: OnceLock<RandomState> = OnceLock::new();
        let secret = SECRET.get_or_init(RandomState::new);
        self.key = Some(Key(secret.hash_one(key)));
        self
    }

    /// How long its client will wait for the answer, from now on. See
    /// [`deadline_header`](crate::InFlightLimitLayer::deadline_header); the shortest counts.
    #[must_use]
    pub fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// Its response goes on for ever (server-sent events, a subscription): from its head on it counts as a
    /// [stream](crate::InFlightLimitLayer::max_streams), and holds no slot. Responses of type `text/event-stream` and
    /// upgrades do so anyway.
    ///
    /// ```
    /// # use tower_overload::Ticket;
    /// let long_poll = Ticket::default().stream();
    /// # drop(long_poll);
    /// ```
    #[must_use]
    pub fn stream(mut self) -> Self {
        self.stream = true;
        self
    }

    /// Its class.
    #[must_use]
    pub fn class(&self) -> Criticality {
        self.class
    }
}

/// Says what a request is, from its head.
///
/// Any `Fn(&Head<'_>) -> Ticket` is one. It is called for every request, before a slot is taken.
///
/// # Examples
///
/// ```
/// use tower_connection::Head;
/// use tower_overload::{Criticality, InFlightLimitLayer, Ticket};
///
/// let layer = InFlightLimitLayer::new(100).classify(|head: &Head<'_>| match head.uri.path() {
///     "/healthz" | "/metrics" => Ticket::exempt(),
///     "/checkout" => Ticket::new(Criticality::CriticalPlus),
///     path if path.starts_with("/batch/") => Ticket::new(Criticality::Sheddable),
///     _ => Ticket::default(),
/// });
/// # drop(layer);
/// ```
pub trait Classify: Send + Sync + 'static {
    /// What the request with this head is.
    fn classify(&self, head: &Head<'_>) -> Ticket;
}

impl<F> Classify for F
where
    F: Fn(&Head<'_>) -> Ticket + Send + Sync + 'static,
{
    fn classify(&self, head: &Head<'_>) -> Ticket {
        self(head)
    }
}

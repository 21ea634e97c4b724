use std::{sync::Arc, time::Duration};

use crate::{
    Criticality, Pressure, Reason, Step,
    core::{Core, or_none},
};

/// A limit while the server runs: how many are in, how many wait, how long it will take; and a way to change it.
///
/// # Examples
///
/// The ticket that one draws at the post office:
///
/// ```
/// use tower_overload::{InFlightLimitLayer, Overload};
///
/// fn ticket(overload: &Overload) -> String {
///     match overload.available() {
///         0 => format!("{} before you, about {:?}", overload.waiting(), overload.estimated_wait()),
///         free => format!("{free} counters are free"),
///     }
/// }
///
/// let overload = InFlightLimitLayer::new(3).handle();
/// assert_eq!(ticket(&overload), "3 counters are free");
/// ```
#[derive(Clone, Debug)]
pub struct Overload {
    core: Arc<Core>,
}

impl Overload {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// How many requests may be in flight; 2,097,151 if there is no limit.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.core.counts().limit
    }

    /// Whether there is a limit.
    ///
    /// ```
    /// # use tower_overload::InFlightLimitLayer;
    /// assert!(InFlightLimitLayer::new(10).handle().is_limited());
    /// assert!(!InFlightLimitLayer::new(0).handle().is_limited());
    /// ```
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.core.has_limit()
    }

    /// Changes it. Zero is no limit. A higher one lets in at once who waits; a lower one ends nobody, and is reached as
    /// requests end.
    ///
    /// A law ([`with_limit`](crate::InFlightLimitLayer::with_limit)) changes it again with the next response or refusal.
    ///
    /// ```
    /// # use tower_overload::InFlightLimitLayer;
    /// let overload = InFlightLimitLayer::new(10).handle();
    /// overload.set_limit(20);
    /// assert_eq!(overload.limit(), 20);
    /// ```
    pub fn set_limit(&self, limit: usize) {
        self.core.set_limit(or_none(limit));
    }

    /// How the limit moved, by a law or by hand, and why: the last 64 steps, the latest last.
    ///
    /// Of a law, what it says. What [`limit`](Self::limit) says may be more: with a law, a response whose client takes its
    /// time to read does not count, so one more may be in flight for each of these.
    ///
    /// ```
    /// # use tower_overload::InFlightLimitLayer;
    /// let overload = InFlightLimitLayer::new(10).handle();
    /// overload.set_limit(20);
    /// let last = overload.course().pop().expect("a step");
    /// assert_eq!((last.from, last.to, last.reason), (10, 20, "by hand"));
    /// ```
    #[must_use]
    pub fn course(&self) -> Vec<Step> {
        self.core.course()
    }

    /// Changes how long a request may wait; see [`max_wait`](crate::InFlightLimitLayer::max_wait).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_overload::InFlightLimitLayer;
    /// let overload = InFlightLimitLayer::new(10).handle();
    /// overload.set_max_wait(Duration::from_millis(50));
    /// ```
    pub fn set_max_wait(&self, max: Duration) {
        self.core.set_max_wait(max);
    }

    /// How many requests are in flight: from the slot to the last byte of the response.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.core.counts().in_flight
    }

    /// How many of them are of this class.
    #[must_use]
    pub fn in_flight_of(&self, class: Criticality) -> usize {
        self.core.shares().in_flight(class)
    }

    /// How many requests wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.counts().waiting
    }

    /// How many slots are free.
    #[must_use]
    pub fn available(&self) -> usize {
        let counts = self.core.counts();
        counts.limit.saturating_sub(counts.in_flight)
    }

    /// How many upgrades and endless responses there are; see
    /// [`max_streams`](crate::InFlightLimitLayer::max_streams).
    #[must_use]
    pub fn streams(&self) -> usize {
        self.core.streams().open()
    }

    /// How long a request that comes now would wait for its slot if all who wait are served in order; zero if one is
    /// free, and while nothing is known because nothing was served yet.
    #[must_use]
    pub fn estimated_wait(&self) -> Duration {
        self.core.wait_of(self.core.counts())
    }

    /// How long a request holds its slot, on average over the last ones; `None` before the first has ended.
    #[must_use]
    pub fn service_time(&self) -> Option<Duration> {
        self.core.held()
    }

    /// How hard the load presses.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.core.pressure()
    }

    /// How many requests were shed so far.
    #[must_use]
    pub fn shed(&self) -> u64 {
        let each = Criticality::ALL.into_iter();
        each.map(|class| self.shed_of(class)).sum()
    }

    /// How many of this class.
    #[must_use]
    pub fn shed_of(&self, class: Criticality) -> u64 {
        let each = Reason::ALL.iter();
        each.map(|&reason| self.shed_by(reason, class)).sum()
    }

    /// How many for this reason.
    #[must_use]
    pub fn shed_for(&self, reason: Reason) -> u64 {
        let each = Criticality::ALL.into_iter();
        each.map(|class| self.shed_by(reason, class)).sum()
    }

    /// How many of this class for this reason: two labels of one metric.
    ///
    /// ```
    /// # use tower_overload::{Criticality, InFlightLimitLayer, Reason};
    /// let overload = InFlightLimitLayer::new(100).handle();
    /// for &reason in Reason::ALL {
    ///     for class in Criticality::ALL {
    ///         let labels = format!("reason=\"{}\",class=\"{}\"", reason.as_str(), class.as_str());
    ///         println!("requests_shed_total{{{labels}}} {}", overload.shed_by(reason, class));
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn shed_by(&self, reason: Reason, class: Criticality) -> u64 {
        self.core.shed_by(reason, class)
    }
}

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tower_connection::Label;

use crate::Criticality;

/// Why a request is not served, and when to come back: what a [`Respond`](crate::Respond) answers with.
///
/// ```
/// # use http::Request;
/// # use tower_connection::Head;
/// use tower_overload::{Overloaded, Reason, Respond, Shed};
///
/// let answer = Overloaded::default().respond(&Head::of(&Request::new(())), &Shed::new(Reason::Full));
/// assert_eq!(answer.status(), 503);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shed {
    /// Why.
    pub reason: Reason,
    /// How critical the request was said to be.
    pub class: Criticality,
    /// After how many seconds there is a slot for it, as far as one can tell; spread, so that those who are told so do
    /// not come all at once. `None` if it would not be served in time then either.
    pub retry_after: Option<Duration>,
    /// A part of a second, different for each, for protocols that can tell it.
    pub spread: Duration,
    /// It should not come back by itself: the next ten minutes are promised to others.
    pub give_up: bool,
}

impl Shed {
    /// A critical request, to come back after a second: for tests of a [`Respond`](crate::Respond).
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            class: Criticality::default(),
            retry_after: Some(Duration::from_secs(1)),
            spread: Duration::ZERO,
            give_up: false,
        }
    }
}

/// Why a request is not served.
///
/// ```
/// # use tower_overload::{InFlightLimitLayer, Reason};
/// let overload = InFlightLimitLayer::new(100).handle();
/// for &reason in Reason::ALL {
///     println!("requests_shed_total{{reason=\"{}\"}} {}", reason.as_str(), overload.shed_for(reason));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// All slots are taken, and so are the places in the waiting room.
    Full,
    /// The last free slots are kept for requests that are more critical, or of others.
    Kept,
    /// It would not be served before its deadline.
    TooLate,
    /// It waited as long as it may.
    Waited,
    /// It waited, and made way for another.
    Displaced,
    /// It was about to be upgraded, and there are as many streams as may be. (Counted; what is read in its place is a plain
    /// `503`.)
    Streams,
    /// The service inside is not ready.
    NotReady,
}

impl Reason {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Full,
        Self::Kept,
        Self::TooLate,
        Self::Waited,
        Self::Displaced,
        Self::Streams,
        Self::NotReady,
    ];

    /// In lower case, for a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Kept => "kept",
            Self::TooLate => "too_late",
            Self::Waited => "waited",
            Self::Displaced => "displaced",
            Self::Streams => "streams",
            Self::NotReady => "not_ready",
        }
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

/// How many were shed. Relaxed: numbers to look at.
#[derive(Debug, Default)]
pub(crate) struct Tally([[AtomicU64; 4]; Reason::ALL.len()]);

impl Tally {
    pub(crate) fn count(&self, reason: Reason, class: Criticality) {
        self.0[reason as usize][class.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, reason: Reason, class: Criticality) -> u64 {
        self.0[reason as usize][class.index()].load(Ordering::Relaxed)
    }
}

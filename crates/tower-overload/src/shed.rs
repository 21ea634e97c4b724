use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::Criticality;

/// Why a request is not served, and when to come back: what a [`Respond`](crate::Respond) answers with.
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
    /// It should not come back by itself: for ten seconds there have been more refused clients than the next minute has
    /// room for.
    pub give_up: bool,
}

/// Why a request is not served.
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
    /// It asked for an upgrade, and there are as many streams as may be.
    Streams,
    /// The service inside is not ready.
    NotReady,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
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

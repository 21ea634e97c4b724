//! When to look at a client that is owed something.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_connection::{Deadline, LATE};

use crate::pace::Looks;

/// The next look, and how long to wait for the one after it.
#[derive(Debug)]
pub(crate) struct Watch {
    at: Instant,
    looks: Looks,
}

impl Watch {
    pub(crate) fn begin(now: Instant, mut looks: Looks) -> Self {
        let at = now + looks.next();
        Self { at, looks }
    }

    /// Ready when it is time to look.
    pub(crate) fn poll(&self, timer: &mut Deadline, cx: &mut Context<'_>) -> Poll<()> {
        timer.set(self.at);
        timer.poll(cx)
    }

    /// How long nobody looked who should have; zero if that is not worth a word.
    pub(crate) fn late(&self, now: Instant) -> Duration {
        let late = now.saturating_duration_since(self.at);
        if late < LATE { Duration::ZERO } else { late }
    }

    /// Looks again in a while, and at `until` at the latest.
    pub(crate) fn again(&mut self, now: Instant, until: Option<Instant>) {
        let at = now + self.looks.next();
        self.at = until.map_or(at, |until| until.min(at));
    }
}

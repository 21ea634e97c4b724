//! How the limit moved, and why.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_connection::Throttle;
use tracing::debug;

/// A move of the limit: [`Overload::course`](crate::Overload::course).
///
/// ```
/// use tower_overload::{InFlightLimitLayer, Step};
///
/// fn line(step: &Step) -> String {
///     format!("{:?} ago: {} -> {} ({})", step.at.elapsed(), step.from, step.to, step.reason)
/// }
///
/// let overload = InFlightLimitLayer::new(10).handle();
/// overload.set_limit(20);
/// let course = overload.course();
/// assert!(line(&course[0]).ends_with("10 -> 20 (by hand)"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// When.
    pub at: Instant,
    /// What it was.
    pub from: usize,
    /// What it is.
    pub to: usize,
    /// Why, in a word or two: of an [`Adaptive`](crate::Adaptive) one "slow start", "room" (nothing gets slower), "latency"
    /// (answers take too long), "probe", "probe ended", "probe kept", "check" and "slower service" (they take as long
    /// whatever the limit), "burst", "idle", "overload within", "run queue", "in vain", "nobody answered"; "by hand"; or
    /// what another law [says](crate::Limit::reason).
    pub reason: &'static str,
}

/// The last steps.
const KEPT: usize = 64;

const SOON: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Course {
    limit: AtomicUsize,
    steps: Mutex<VecDeque<Step>>,
    events: Throttle,
}

impl Course {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            steps: Mutex::default(),
            events: Throttle::new(10),
        }
    }

    pub(crate) fn note(&self, limit: usize, reason: impl FnOnce() -> &'static str) {
        // Relaxed: a step that two see is noted by one of them.
        if self.limit.load(Ordering::Relaxed) == limit {
            return;
        }
        let from = self.limit.swap(limit, Ordering::Relaxed);
        if from == limit {
            return;
        }
        let step = Step {
            at: Instant::now(),
            from,
            to: limit,
            reason: reason(),
        };
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        // One after the other for the same reason are one: a limit that doubles does so in steps of one.
        if let Some(last) = steps.back_mut() {
            if last.reason == step.reason && step.at.duration_since(last.at) < SOON {
                last.to = limit;
                return;
            }
        }
        if steps.len() == KEPT {
            steps.pop_front();
        }
        steps.push_back(step);
        // Not under the lock: who listens may ask for the course.
        drop(steps);
        if let Some(suppressed) = self.events.pass() {
            let Step { to, reason, .. } = step;
            debug!(from, to, reason, suppressed, "moved the limit");
        }
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().copied().collect()
    }
}

//! A limit that finds itself.

mod finder;
mod tally;

use std::{
    fmt,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use self::{
    finder::{Bounds, Decision, Finder},
    tally::{Tally, nanoseconds},
};
use crate::{Limit, Sample};

/// A limit that finds itself: as many requests as keep the server busy, and no queue behind them. It needs no tuning.
///
/// It watches how long requests take to their response head, and moves the limit so that they take a little longer than
/// with few others: with exponential times 1.85 times as long, more if times vary more. How long that is, is found by
/// experiment: while requests are turned away, and only then, the limit is lowered now and then for a moment (each 1 to
/// 20 s, by chance), and what that changes decides. Nothing is a minimum or an average of a long time, so nothing drifts.
///
/// - It starts at twice as many as there are processors, and doubles while nothing gets slower.
/// - It moves only while it binds: without load it stays, and falls to twice as many as were in flight lately.
/// - Responses that say that something is overloaded ([`Outcome::Overload`](crate::Outcome::Overload), more than one in
///   ten), and a run queue of tokio's that is longer than 20 ms, lower it too: as long as that helps.
/// - The first answer of a window after a change counts when what was queued before is gone.
///
/// It works with any kind of requests whose latency grows with a queue, mixed or not. It cannot see a queue after the
/// response head (a body that is slow to make), and of a service that handles one kind of requests quickly and another
/// one slowly it bounds the sum. [`max_wait`](crate::InFlightLimitLayer::max_wait) makes the most of it: bursts then wait
/// for their turn, 100 ms or 200 ms of it, and are not refused.
///
/// How it compares, and what was measured, is in `docs/overload.md` of the repository.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_overload::{Adaptive, InFlightLimitLayer};
///
/// let layer = InFlightLimitLayer::with_limit(Adaptive::new()).max_wait(Duration::from_millis(100));
/// let overload = layer.handle();
/// for step in overload.course() {
///     println!("{} -> {} ({})", step.from, step.to, step.reason);
/// }
/// ```
pub struct Adaptive {
    settings: Settings,
    limit: AtomicUsize,
    began: OnceLock<Instant>,
    tally: Tally,
    finder: Mutex<Finder>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    floor: usize,
    ceiling: usize,
    start: usize,
    seed: u64,
}

impl Adaptive {
    /// Between as many as there are processors (at least 4) and 10,000; at first, twice as many as processors.
    #[must_use]
    pub fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::of(Settings {
            floor: processors.max(4),
            ceiling: 10_000,
            start: (2 * processors).max(4),
            seed: crate::core::seed(),
        })
    }

    fn of(settings: Settings) -> Self {
        let bounds = Bounds {
            floor: float(settings.floor),
            ceiling: float(settings.ceiling),
        };
        let finder = Finder::new(bounds, float(settings.start), settings.seed);
        let decision = finder.decision(0.0);
        let this = Self {
            settings,
            limit: AtomicUsize::new(0),
            began: OnceLock::new(),
            tally: Tally::new(&decision),
            finder: Mutex::new(finder),
        };
        this.set(&decision);
        this
    }

    /// It is never less than this. Zero is one.
    ///
    /// Default is as many as there are processors, at least 4. Lower it for something that does one thing at a time;
    /// raise it only for what must be let in whatever it costs.
    ///
    /// # Panics
    ///
    /// If it is above the [ceiling](Self::ceiling).
    ///
    /// ```
    /// # use tower_overload::{Adaptive, Limit};
    /// assert_eq!(Adaptive::new().floor(100).limit(), 100);
    /// ```
    #[must_use]
    pub fn floor(self, floor: usize) -> Self {
        let ceiling = self.settings.ceiling;
        assert!(floor <= ceiling, "the floor is below the ceiling");
        let floor = floor.max(1);
        Self::of(Settings {
            floor,
            ..self.settings
        })
    }

    /// It is never more than this: what memory, descriptors or a pool allow. Default is 10,000.
    ///
    /// # Panics
    ///
    /// If it is below the [floor](Self::floor).
    ///
    /// ```
    /// # use tower_overload::{Adaptive, Limit};
    /// assert!(Adaptive::new().floor(2).ceiling(3).limit() <= 3);
    /// ```
    #[must_use]
    pub fn ceiling(self, ceiling: usize) -> Self {
        let floor = self.settings.floor;
        assert!(ceiling >= floor, "the ceiling is above the floor");
        Self::of(Settings {
            ceiling,
            ..self.settings
        })
    }

    /// What it is before anything is known. Default is twice as many as there are processors, at least 4; it doubles
    /// within one latency or two if it is too few.
    ///
    /// ```
    /// # use tower_overload::{Adaptive, Limit};
    /// assert_eq!(Adaptive::new().start(50).limit(), 50);
    /// ```
    #[must_use]
    pub fn start(self, start: usize) -> Self {
        Self::of(Settings {
            start,
            ..self.settings
        })
    }

    /// Chance decides when it tries a lower limit, so that the servers of a fleet do not do it at once. The same seed
    /// decides the same, for a simulation.
    ///
    /// ```
    /// # use tower_overload::Adaptive;
    /// let law = Adaptive::new().seed(7);
    /// # drop(law);
    /// ```
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self::of(Settings {
            seed,
            ..self.settings
        })
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        let began = self.began.get_or_init(|| now);
        nanoseconds(now.saturating_duration_since(*began))
    }

    /// Whoever sees that a window is over decides; who sees it at the same time does not wait for him.
    fn look(&self, now: u64) {
        let Some(from) = self.tally.is_over(now) else {
            return;
        };
        let Ok(mut finder) = self.finder.try_lock() else {
            return;
        };
        if let Some(window) = self.tally.take(from, now) {
            let decision = finder.on(&window, float(self.limit()));
            self.set(&decision);
            self.tally.begin(&decision, now);
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between its bounds"
    )]
    fn set(&self, decision: &Decision) {
        let limit = decision.limit.round() as usize;
        self.limit.store(limit, Ordering::Relaxed);
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Adaptive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adaptive")
            .field("limit", &self.limit())
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}

impl Limit for Adaptive {
    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn on_sample(&self, sample: &Sample) {
        let now = self.nanoseconds(sample.now);
        if self.tally.grows(sample) {
            // In one step: of two at once, only one may be the last.
            let grow = |limit| (limit < self.settings.ceiling).then_some(limit + 1);
            let order = Ordering::Relaxed;
            let _ = self.limit.fetch_update(order, order, grow);
        }
        if self.tally.sample(sample, self.limit(), now) {
            self.look(now);
        }
    }

    fn on_full(&self, now: Instant) {
        let now = self.nanoseconds(now);
        if self.tally.full(now) {
            self.look(now);
        }
    }

    fn on_delay(&self, _: Instant, delay: Duration) {
        self.tally.delay(delay);
    }

    fn reason(&self) -> &'static str {
        let finder = self.finder.lock().unwrap_or_else(PoisonError::into_inner);
        finder.reason()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few thousands")]
fn float(number: usize) -> f64 {
    number as f64
}

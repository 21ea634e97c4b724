//! A limit that finds itself.

mod finder;

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{Limit, Outcome, Sample};
use finder::{Bounds, Decision, Finder, Window};

/// A limit that finds itself.
#[derive(Debug)]
pub struct Adaptive {
    began: OnceLock<Instant>,
    limit: AtomicUsize,
    tally: Tally,
    finder: Mutex<(Finder, &'static str)>,
}

/// What is counted without a lock. Times are in nanoseconds since the first.
#[derive(Debug, Default)]
struct Tally {
    /// Nothing is counted before.
    from: AtomicU64,
    settle: AtomicU64,
    /// How many answers make a window, which latency ends one early, and which counts for no more.
    enough: AtomicU64,
    alarm: AtomicU64,
    cap: AtomicU64,
    answers: AtomicU64,
    latency: AtomicU64,
    /// Of microseconds.
    squares: AtomicU64,
    cancelled: AtomicU64,
    overloaded: AtomicU64,
    full: AtomicU64,
    most: AtomicU64,
    delays: AtomicU64,
    delay: AtomicU64,
}

/// No window is shorter, unless something is wrong; and a longer one needs fewer answers.
const SHORT: u64 = 100_000_000;
const SHORT_AT_START: u64 = 20_000_000;
const LONG: u64 = 2_000_000_000;
const FEW: u64 = 8;

impl Default for Adaptive {
    fn default() -> Self {
        Self::new()
    }
}

impl Adaptive {
    /// With the defaults.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    pub fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with(cores.max(4) as f64, (2 * cores).max(4) as f64, 10_000.0, 7)
    }

    /// For this many cores.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    pub fn cores(cores: usize, seed: u64) -> Self {
        Self::with(cores.max(4) as f64, (2 * cores).max(4) as f64, 10_000.0, seed)
    }

    fn with(floor: f64, start: f64, ceiling: f64, seed: u64) -> Self {
        let finder = Finder::new(Bounds { floor, ceiling }, start, seed);
        let first = finder.first();
        let this = Self {
            began: OnceLock::new(),
            limit: AtomicUsize::new(0),
            tally: Tally::default(),
            finder: Mutex::new((finder, first.reason)),
        };
        this.obey(first, 0);
        this
    }

    fn time(&self, now: Instant) -> u64 {
        let began = self.began.get_or_init(|| now);
        nanoseconds(now.saturating_duration_since(*began))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count, a time"
    )]
    fn obey(&self, decision: Decision, now: u64) {
        let tally = &self.tally;
        self.limit
            .store(decision.limit.round() as usize, Ordering::Relaxed);
        tally.enough.store(decision.answers as u64, Ordering::Relaxed);
        tally.alarm.store((decision.alarm * 1e9) as u64, Ordering::Relaxed);
        tally.cap.store((decision.cap * 1e9) as u64, Ordering::Relaxed);
        let settle = (decision.settle * 1e9) as u64;
        let settle = if settle == 0 { u64::MAX } else { settle };
        tally.settle.store(settle, Ordering::Relaxed);
        tally.from.store(now, Ordering::Relaxed);
    }

    /// A window may be over.
    fn look(&self, now: u64) {
        let tally = &self.tally;
        let from = tally.from.load(Ordering::Relaxed);
        let answers = tally.answers.load(Ordering::Relaxed) + tally.cancelled.load(Ordering::Relaxed);
        let enough = tally.enough.load(Ordering::Relaxed);
        let long = now.saturating_sub(from);
        let short = if enough <= 16 { SHORT_AT_START } else { SHORT };
        let over = answers >= enough && long >= short || answers >= FEW && long >= LONG;
        let alarm = || {
            answers >= (enough / 4).max(16)
                && tally.latency.load(Ordering::Relaxed) / answers
                    > tally.alarm.load(Ordering::Relaxed)
        };
        if !over && !alarm() {
            return;
        }
        let Ok(mut guard) = self.finder.try_lock() else {
            return;
        };
        if tally.from.load(Ordering::Relaxed) != from {
            return;
        }
        let window = tally.take(now, long);
        let decision = guard.0.on(&window);
        guard.1 = decision.reason;
        self.obey(decision, now);
    }
}

impl Tally {
    #[expect(clippy::cast_precision_loss, reason = "means")]
    fn take(&self, now: u64, long: u64) -> Window {
        let take = |word: &AtomicU64| word.swap(0, Ordering::Relaxed) as f64;
        let answers = take(&self.answers);
        let cancelled = take(&self.cancelled);
        let all = (answers + cancelled).max(1.0);
        let latency = take(&self.latency) / all / 1e9;
        let squares = take(&self.squares) / all / 1e12;
        let delays = take(&self.delays).max(1.0);
        Window {
            now: now as f64 / 1e9,
            seconds: long as f64 / 1e9,
            answers,
            latency,
            variation: (squares / (latency * latency).max(1e-18) - 1.0).max(0.0),
            cancelled,
            overloaded: take(&self.overloaded),
            full: take(&self.full),
            most: take(&self.most),
            delay: take(&self.delay) / delays / 1e9,
        }
    }
}

impl Limit for Adaptive {
    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn on_sample(&self, sample: &Sample) {
        let now = self.time(sample.now);
        let tally = &self.tally;
        tally.most.fetch_max(sample.in_flight as u64, Ordering::Relaxed);
        let from = tally.from.load(Ordering::Relaxed);
        if now < from {
            return;
        }
        // Until as few are in flight as may be, and those have been answered, it was another limit.
        let settle = tally.settle.load(Ordering::Relaxed);
        if settle != u64::MAX {
            if sample.in_flight <= self.limit() {
                tally.settle.store(u64::MAX, Ordering::Relaxed);
                tally.from.store(now + settle, Ordering::Relaxed);
            }
            return;
        }
        let took = nanoseconds(sample.latency);
        match sample.outcome {
            Outcome::Ok => {
                tally.answers.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Cancelled => {
                let answers = tally.answers.load(Ordering::Relaxed).max(1);
                if took < tally.latency.load(Ordering::Relaxed) / answers {
                    return;
                }
                tally.cancelled.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Overload => {
                tally.overloaded.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Outcome::Ignore => return,
        }
        let took = took.min(tally.cap.load(Ordering::Relaxed));
        let micros = took / 1000;
        tally.latency.fetch_add(took, Ordering::Relaxed);
        tally
            .squares
            .fetch_add(micros.saturating_mul(micros), Ordering::Relaxed);
        self.look(now);
    }

    fn on_full(&self, now: Instant) {
        let now = self.time(now);
        if now >= self.tally.from.load(Ordering::Relaxed) {
            self.tally.full.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_delay(&self, _: Instant, delay: Duration) {
        self.tally.delays.fetch_add(1, Ordering::Relaxed);
        self.tally.delay.fetch_add(nanoseconds(delay), Ordering::Relaxed);
    }

    fn reason(&self) -> &'static str {
        self.finder.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

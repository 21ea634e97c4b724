//! Counts what was seen, without a lock, until it is enough to decide.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use super::finder::Decision;
use crate::{Outcome, Sample};

/// What was seen in a while.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Window {
    /// When it ended, and how long it was, in seconds.
    pub(crate) now: f64,
    pub(crate) seconds: f64,
    /// Requests that were served.
    pub(crate) answers: f64,
    /// How long they took, in seconds, and those whose client did not wait so long; 0 if there were none.
    pub(crate) latency: f64,
    /// The square of its coefficient of variation.
    pub(crate) variation: f64,
    /// Requests whose client left, after longer than others took.
    pub(crate) cancelled: f64,
    /// Responses that said that something is overloaded.
    pub(crate) overloaded: f64,
    /// Requests that found no slot.
    pub(crate) full: f64,
    /// The most that were in flight.
    pub(crate) most: f64,
    /// How long a task that could run was not polled, on average, in seconds.
    pub(crate) delay: f64,
}

/// In nanoseconds. A window is not shorter, while the limit doubles not shorter than that; and not longer, if there were
/// a few answers.
const SHORT: u64 = 100_000_000;
const SHORT_AT_START: u64 = 20_000_000;
const LONG: u64 = 2_000_000_000;
const FEW: u64 = 8;

/// Nothing to wait for.
const SETTLED: u64 = u64::MAX;

/// All is relaxed, and what two do at once may be counted in the next window or, seldom, in none: it is statistics.
/// Times are in nanoseconds, since the first thing that was seen.
#[derive(Debug)]
pub(crate) struct Tally {
    // As it was decided.
    from: AtomicU64,
    settle: AtomicU64,
    /// What began before this began under another limit.
    kept: AtomicU64,
    enough: AtomicU64,
    short: AtomicU64,
    alarm: AtomicU64,
    grows: AtomicBool,
    cap: AtomicU64,
    patience: AtomicU64,
    // As it was seen.
    answers: AtomicU64,
    /// Of requests whose body was not there: perhaps it was the client that took so long.
    uploads: AtomicU64,
    upload_latency: AtomicU64,
    cancelled: AtomicU64,
    latency: AtomicU64,
    /// Of microseconds.
    squares: AtomicU64,
    overloaded: AtomicU64,
    full: AtomicU64,
    most: AtomicU64,
    delays: AtomicU64,
    delay: AtomicU64,
}

impl Tally {
    pub(crate) fn new(decision: &Decision) -> Self {
        let zero = || AtomicU64::new(0);
        let this = Self {
            from: zero(),
            kept: zero(),
            settle: AtomicU64::new(SETTLED),
            enough: zero(),
            short: zero(),
            alarm: zero(),
            grows: AtomicBool::new(false),
            cap: zero(),
            patience: zero(),
            answers: zero(),
            uploads: zero(),
            upload_latency: zero(),
            cancelled: zero(),
            latency: zero(),
            squares: zero(),
            overloaded: zero(),
            full: zero(),
            most: zero(),
            delays: zero(),
            delay: zero(),
        };
        this.begin(decision, 0);
        this
    }

    /// A window begins.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count; and times, which saturate"
    )]
    pub(crate) fn begin(&self, decision: &Decision, now: u64) {
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        let enough = decision.answers as u64;
        let short = if enough <= 16 { SHORT_AT_START } else { SHORT };
        let settle = if decision.settle > 0.0 {
            nanoseconds(decision.settle)
        } else {
            SETTLED
        };
        let set = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        set(&self.enough, enough);
        set(&self.short, short);
        set(&self.alarm, nanoseconds(decision.alarm));
        self.grows.store(decision.grows, Ordering::Relaxed);
        set(&self.cap, nanoseconds(decision.cap));
        set(&self.patience, nanoseconds(decision.patience));
        set(&self.settle, settle);
        if !decision.strict {
            set(&self.kept, 0);
        } else if settle != SETTLED {
            set(&self.kept, now);
        }
        set(&self.from, now);
    }

    /// Whether it is worth looking whether the window is over.
    pub(crate) fn sample(&self, sample: &Sample, limit: usize, now: u64) -> bool {
        if !self.counts(sample, limit, now) {
            return false;
        }
        if self.most.load(Ordering::Relaxed) < sample.in_flight as u64 {
            self.most.store(sample.in_flight as u64, Ordering::Relaxed);
        }
        let took = nanoseconds(sample.latency).min(self.cap.load(Ordering::Relaxed));
        match sample.outcome {
            Outcome::Ok => add(&self.answers, 1),
            Outcome::Overload => {
                add(&self.overloaded, 1);
                return true;
            }
            Outcome::Cancelled => {
                // Who left sooner than others were answered tells nothing.
                let answers = self.answers.load(Ordering::Relaxed).max(1);
                if took < self.latency.load(Ordering::Relaxed) / answers {
                    return false;
                }
                add(&self.cancelled, 1);
            }
            Outcome::Ignore => return false,
        }
        if sample.uploads {
            add(&self.uploads, 1);
            add(&self.upload_latency, took);
        } else {
            let micros = took / 1_000;
            add(&self.latency, took);
            add(&self.squares, micros.saturating_mul(micros));
        }
        true
    }

    /// Whether there may be one more for this one.
    pub(crate) fn grows(&self, sample: &Sample) -> bool {
        self.grows.load(Ordering::Relaxed)
            && sample.outcome == Outcome::Ok
            && self.full.load(Ordering::Relaxed) > 0
            && nanoseconds(sample.latency) < self.alarm.load(Ordering::Relaxed) / 2
    }

    /// Whether what is seen now is of this limit: as few are in flight as may be, and those are gone that waited behind
    /// more.
    fn counts(&self, sample: &Sample, limit: usize, now: u64) -> bool {
        if now < self.from.load(Ordering::Relaxed) {
            return false;
        }
        let settle = self.settle.load(Ordering::Relaxed);
        if settle == SETTLED {
            let age = nanoseconds(sample.now.saturating_duration_since(sample.began));
            return now.saturating_sub(age) >= self.kept.load(Ordering::Relaxed);
        }
        if sample.in_flight <= limit {
            self.settle.store(SETTLED, Ordering::Relaxed);
            if self.kept.load(Ordering::Relaxed) != 0 {
                self.kept.store(now, Ordering::Relaxed);
            }
            self.from.store(now + settle, Ordering::Relaxed);
        }
        false
    }

    /// Whether it is worth looking.
    pub(crate) fn full(&self, now: u64) -> bool {
        let from = self.from.load(Ordering::Relaxed);
        if now < from {
            return false;
        }
        if self.settle.load(Ordering::Relaxed) == SETTLED {
            add(&self.full, 1);
        }
        now - from >= self.patience.load(Ordering::Relaxed)
    }

    pub(crate) fn delay(&self, delay: Duration) {
        add(&self.delays, 1);
        add(&self.delay, nanoseconds(delay));
    }

    /// If the window is over, when it began.
    pub(crate) fn is_over(&self, now: u64) -> Option<u64> {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let from = load(&self.from);
        let long = now.saturating_sub(from);
        let answers = load(&self.answers) + load(&self.cancelled);
        let all = answers + load(&self.overloaded);
        let enough = load(&self.enough);
        let over = all >= enough && long >= load(&self.short)
            || all >= FEW && long >= LONG
            || long >= load(&self.patience).max(LONG);
        let alarm = || {
            let least = (enough / 4).max(16);
            answers >= least && load(&self.latency) / answers > load(&self.alarm)
        };
        (over || alarm()).then_some(from)
    }

    /// What was seen since. Nothing, if somebody else has just looked.
    #[expect(clippy::cast_precision_loss, reason = "means")]
    pub(crate) fn take(&self, from: u64, now: u64) -> Option<Window> {
        if self.from.load(Ordering::Relaxed) != from {
            return None;
        }
        let take = |word: &AtomicU64| word.swap(0, Ordering::Relaxed) as f64;
        let answers = take(&self.answers);
        let (uploads, upload_latency) = (take(&self.uploads), take(&self.upload_latency));
        let (latency, squares) = (take(&self.latency), take(&self.squares));
        let cancelled = take(&self.cancelled);
        let all = answers + cancelled;
        let known = (all - uploads).max(0.0);
        // If that is few of them, the others are better than nothing: a client that uploads slowly does so always.
        let (latency, variation) = if known > all / 4.0 {
            let latency = latency / known / 1e9;
            let square = (latency * latency).max(1e-18);
            (latency, (squares / known / 1e12 / square - 1.0).max(0.0))
        } else if all > 0.0 {
            ((latency + upload_latency) / all / 1e9, 1.0)
        } else {
            (0.0, 0.0)
        };
        Some(Window {
            now: now as f64 / 1e9,
            seconds: now.saturating_sub(from) as f64 / 1e9,
            answers,
            latency,
            variation,
            cancelled,
            overloaded: take(&self.overloaded),
            full: take(&self.full),
            most: take(&self.most),
            delay: take(&self.delay) / take(&self.delays).max(1.0) / 1e9,
        })
    }
}

fn add(word: &AtomicU64, more: u64) {
    word.fetch_add(more, Ordering::Relaxed);
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

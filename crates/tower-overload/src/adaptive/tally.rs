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
                if took < self.mean() {
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
            self.known() >= least && self.mean() > load(&self.alarm)
        };
        (over || alarm()).then_some(from)
    }

    /// Of how many it is known how long they took, without doubt.
    fn known(&self) -> u64 {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        (load(&self.answers) + load(&self.cancelled)).saturating_sub(load(&self.uploads))
    }

    /// How long those took, so far.
    fn mean(&self) -> u64 {
        self.latency.load(Ordering::Relaxed) / self.known().max(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A window of 64 answers, with nothing to wait for.
    fn decision() -> Decision {
        Decision {
            limit: 10.0,
            reason: "",
            settle: 0.0,
            strict: false,
            answers: 64.0,
            alarm: f64::INFINITY,
            grows: false,
            cap: f64::INFINITY,
            patience: 3.0,
        }
    }

    fn tally(decision: &Decision) -> Tally {
        Tally::new(decision)
    }

    fn sample(milliseconds: u64, outcome: Outcome) -> Sample {
        Sample::new(Duration::from_millis(milliseconds), outcome)
    }

    /// So many were served in 10 ms each, and this is when.
    fn serve(tally: &Tally, answers: u64, now: u64) {
        for _ in 0..answers {
            assert!(tally.sample(&sample(10, Outcome::Ok), 10, now));
        }
    }

    fn upload(milliseconds: u64) -> Sample {
        Sample {
            uploads: true,
            ..sample(milliseconds, Outcome::Ok)
        }
    }

    fn seen(tally: &Tally, now: u64) -> Window {
        let from = tally.from.load(Ordering::Relaxed);
        tally.take(from, now).expect("nobody else looks")
    }

    #[track_caller]
    fn assert_same(is: f64, should: f64) {
        assert!((is - should).abs() < 1e-9, "{is} is not {should}");
    }

    // ## When a window ends

    #[test]
    fn enough_answers_end_it() {
        let tally = tally(&decision());
        serve(&tally, 63, 500 * MS);
        assert_eq!(tally.is_over(500 * MS), None);
        serve(&tally, 1, 500 * MS);
        assert_eq!(tally.is_over(500 * MS), Some(0));
    }

    #[test]
    fn it_is_not_shorter_than_a_tenth_of_a_second_and_at_first_than_a_fiftieth() {
        for (answers, least) in [(17.0, 100 * MS), (16.0, 20 * MS)] {
            let tally = tally(&Decision {
                answers,
                ..decision()
            });
            serve(&tally, 100, MS);
            assert_eq!(tally.is_over(least - 1), None, "{answers}");
            assert_eq!(tally.is_over(least), Some(0), "{answers}");
        }
    }

    #[test]
    fn it_is_not_longer_than_two_seconds_if_there_were_a_few() {
        for (answers, over) in [(7, None), (8, Some(0))] {
            let tally = tally(&decision());
            serve(&tally, answers, MS);
            assert_eq!(tally.is_over(2_000 * MS - 1), None);
            assert_eq!(tally.is_over(2_000 * MS), over, "{answers}");
        }
    }

    #[test]
    fn patience_ends_it_whatever_was_seen() {
        for (patience, ends) in [(3.0, 3_000 * MS), (1.0, 2_000 * MS)] {
            let tally = tally(&Decision {
                patience,
                ..decision()
            });
            assert_eq!(tally.is_over(ends - 1), None, "{patience}");
            assert_eq!(tally.is_over(ends), Some(0), "{patience}");
            assert_same(seen(&tally, ends).latency, 0.0);
        }
    }

    #[test]
    fn whoever_finds_no_slot_looks_once_patience_has_ended() {
        let tally = tally(&decision());
        assert!(!tally.full(3_000 * MS - 1));
        assert!(tally.full(3_000 * MS));
        assert_same(seen(&tally, 3_000 * MS).full, 2.0);
    }

    #[test]
    fn an_alarm_ends_it_early() {
        for (latency, over) in [(20, None), (21, Some(0))] {
            let tally = tally(&Decision {
                answers: 24.0,
                alarm: 0.02,
                ..decision()
            });
            for _ in 0..15 {
                tally.sample(&sample(latency, Outcome::Ok), 10, MS);
            }
            assert_eq!(tally.is_over(MS), None, "15 are too few");
            tally.sample(&sample(latency, Outcome::Ok), 10, MS);
            assert_eq!(tally.is_over(MS), over, "{latency}");
        }
    }

    #[test]
    fn an_alarm_is_of_a_quarter_of_the_answers_if_those_are_many() {
        let tally = tally(&Decision {
            answers: 400.0,
            alarm: 0.001,
            ..decision()
        });
        serve(&tally, 99, MS);
        assert_eq!(tally.is_over(MS), None);
        serve(&tally, 1, MS);
        assert_eq!(tally.is_over(MS), Some(0));
    }

    #[test]
    fn who_left_and_who_was_overloaded_fill_a_window_too() {
        for outcome in [Outcome::Overload, Outcome::Cancelled] {
            let tally = tally(&decision());
            serve(&tally, 63, 100 * MS);
            tally.sample(&sample(1, Outcome::Ignore), 10, 100 * MS);
            assert_eq!(tally.is_over(100 * MS), None);
            assert!(tally.sample(&sample(10, outcome), 10, 100 * MS));
            assert_eq!(tally.is_over(100 * MS), Some(0), "{outcome:?}");
        }
    }

    // ## What is counted after a change

    #[test]
    fn until_as_few_are_in_flight_as_may_be_nothing_counts() {
        let tally = tally(&Decision {
            settle: 0.05,
            ..decision()
        });
        let with = |in_flight| Sample {
            in_flight,
            ..sample(10, Outcome::Ok)
        };
        assert!(!tally.sample(&with(11), 10, 500 * MS), "one too many");
        assert!(!tally.full(500 * MS));
        assert!(!tally.sample(&with(10), 10, 501 * MS), "it only says so");
        // Then those are waited for that began behind more.
        assert!(!tally.full(551 * MS - 1));
        assert!(!tally.sample(&with(10), 10, 551 * MS - 1));
        assert!(
            tally.sample(&with(11), 10, 551 * MS),
            "a new limit is not waited for"
        );
        tally.full(551 * MS);
        let window = seen(&tally, 561 * MS);
        assert_same(window.answers, 1.0);
        assert_same(window.full, 1.0);
        assert_same(window.seconds, 0.01);
        assert_same(window.most, 11.0);
    }

    #[test]
    fn a_window_is_as_long_as_it_is_counted() {
        let tally = tally(&Decision {
            settle: 0.05,
            ..decision()
        });
        assert!(!tally.sample(&sample(10, Outcome::Ok), 10, 0));
        serve(&tally, 64, 50 * MS);
        assert_eq!(tally.is_over(150 * MS - 1), None);
        assert_eq!(tally.is_over(150 * MS), Some(50 * MS));
    }

    #[test]
    fn one_that_never_settles_ends_with_patience() {
        let tally = tally(&Decision {
            settle: 0.05,
            ..decision()
        });
        assert!(!tally.full(3_000 * MS - 1));
        assert!(tally.full(3_000 * MS));
        assert_eq!(tally.is_over(3_000 * MS), Some(0));
        assert_same(seen(&tally, 3_000 * MS).full, 0.0);
    }

    // ## What is seen

    #[test]
    fn a_window_is_the_mean_and_the_variation_of_its_answers() {
        let tally = tally(&decision());
        for milliseconds in [10, 30, 10, 30] {
            tally.sample(&sample(milliseconds, Outcome::Ok), 10, MS);
        }
        tally.delay(Duration::from_millis(1));
        tally.delay(Duration::from_millis(2));
        let window = seen(&tally, 3_000 * MS);
        assert_same(window.now, 3.0);
        assert_same(window.seconds, 3.0);
        assert_same(window.answers, 4.0);
        assert_same(window.latency, 0.02);
        assert_same(window.variation, 0.25);
        assert_same(window.most, 1.0);
        assert_same(window.delay, 0.0015);
    }

    #[test]
    fn the_next_window_begins_with_nothing() {
        let tally = tally(&decision());
        serve(&tally, 10, MS);
        tally.sample(&sample(10, Outcome::Overload), 10, MS);
        tally.sample(&sample(10, Outcome::Cancelled), 10, MS);
        tally.sample(&upload(10), 10, MS);
        tally.full(MS);
        tally.delay(Duration::from_millis(1));
        seen(&tally, 100 * MS);
        tally.begin(&decision(), 100 * MS);
        let nothing = Window {
            now: 0.2,
            seconds: 0.1,
            ..Window::default()
        };
        assert_eq!(seen(&tally, 200 * MS), nothing);
    }

    #[test]
    fn a_latency_counts_for_no_more_than_the_cap() {
        let tally = tally(&Decision {
            cap: 0.03,
            ..decision()
        });
        tally.sample(&sample(10, Outcome::Ok), 10, MS);
        tally.sample(&sample(60_000, Outcome::Ok), 10, MS);
        assert_same(seen(&tally, MS).latency, 0.02);
    }

    #[test]
    fn who_left_counts_if_he_waited_longer_than_others() {
        for (milliseconds, mean) in [(9, 0.01), (10, 0.01), (40, 0.02)] {
            let tally = tally(&decision());
            serve(&tally, 2, MS);
            let left = tally.sample(&sample(milliseconds, Outcome::Cancelled), 10, MS);
            assert_eq!(left, milliseconds >= 10);
            let window = seen(&tally, MS);
            assert_same(window.latency, mean);
            assert_same(window.answers, 2.0);
        }
    }

    // The mean was that of all answers, though uploads took no part in it: one in two made it half as long.
    #[test]
    fn who_left_is_compared_to_those_who_did_not_upload() {
        for (milliseconds, counts) in [(9, false), (10, true)] {
            let tally = tally(&decision());
            for _ in 0..4 {
                serve(&tally, 1, MS);
                tally.sample(&upload(500), 10, MS);
            }
            let left = tally.sample(&sample(milliseconds, Outcome::Cancelled), 10, MS);
            assert_eq!(left, counts, "{milliseconds}");
        }
    }

    // As above: it came later, or never.
    #[test]
    fn an_alarm_is_of_those_who_did_not_upload() {
        let tally = tally(&Decision {
            alarm: 0.02,
            ..decision()
        });
        for _ in 0..15 {
            tally.sample(&sample(21, Outcome::Ok), 10, MS);
            tally.sample(&upload(500), 10, MS);
        }
        assert_eq!(tally.is_over(MS), None, "15 are too few");
        tally.sample(&sample(21, Outcome::Ok), 10, MS);
        assert_eq!(tally.is_over(MS), Some(0));
    }

    #[test]
    fn what_tells_nothing_counts_nowhere() {
        let tally = tally(&decision());
        assert!(!tally.sample(&sample(10, Outcome::Ignore), 10, MS));
        let window = seen(&tally, MS);
        assert_same(window.answers + window.overloaded + window.full, 0.0);
        assert_same(window.latency, 0.0);
    }

    #[test]
    fn overload_is_no_answer_and_no_latency() {
        let tally = tally(&decision());
        serve(&tally, 1, MS);
        assert!(tally.sample(&sample(1, Outcome::Overload), 10, MS));
        let window = seen(&tally, MS);
        assert_same(window.overloaded, 1.0);
        assert_same(window.answers, 1.0);
        assert_same(window.latency, 0.01);
    }

    #[test]
    fn uploads_tell_how_long_it_took_only_if_little_else_does() {
        // Of 12 answers, so many of 10 ms that had no body.
        for (others, latency) in [(4, 0.01), (3, 0.3775), (0, 0.5)] {
            let tally = tally(&decision());
            serve(&tally, others, MS);
            for _ in others..12 {
                assert!(tally.sample(&upload(500), 10, MS));
            }
            let window = seen(&tally, MS);
            assert_same(window.answers, 12.0);
            assert_same(window.latency, latency);
        }
    }

    // ## What grows

    #[test]
    fn each_that_was_quick_makes_room_for_one_more_while_slots_are_wanted() {
        let decision = Decision {
            alarm: 0.04,
            grows: true,
            ..decision()
        };
        let tally = tally(&decision);
        assert!(!tally.grows(&sample(10, Outcome::Ok)), "nobody wants one");
        tally.full(MS);
        assert!(tally.grows(&sample(19, Outcome::Ok)));
        assert!(!tally.grows(&sample(20, Outcome::Ok)));
        for outcome in [Outcome::Overload, Outcome::Cancelled, Outcome::Ignore] {
            assert!(!tally.grows(&sample(10, outcome)), "{outcome:?}");
        }
        tally.begin(
            &Decision {
                grows: false,
                ..decision
            },
            2 * MS,
        );
        assert!(!tally.grows(&sample(10, Outcome::Ok)));
    }

    // ## Two at once

    #[test]
    fn of_two_that_look_at_once_one_decides() {
        let tally = tally(&decision());
        serve(&tally, 64, MS);
        let now = 100 * MS;
        let (one, other) = (tally.is_over(now), tally.is_over(now));
        let [Some(one), Some(other)] = [one, other] else {
            panic!("both see that it is over");
        };
        assert!(tally.take(one, now).is_some());
        tally.begin(&decision(), now);
        serve(&tally, 1, now);
        assert!(tally.take(other, now).is_none());
        assert_same(seen(&tally, now).answers, 1.0);
    }

    #[test]
    fn what_lasts_for_ever_is_no_reason_to_panic() {
        let tally = tally(&decision());
        for outcome in [Outcome::Ok, Outcome::Cancelled, Outcome::Overload] {
            for _ in 0..3 {
                let mut sample = sample(0, outcome);
                sample.latency = Duration::MAX;
                tally.sample(&sample, 10, MS);
            }
        }
        tally.delay(Duration::MAX);
        let window = seen(&tally, MS);
        assert!(window.latency.is_finite() && window.latency >= 0.0);
        assert!(window.variation.is_finite() && window.variation >= 0.0);
    }
}

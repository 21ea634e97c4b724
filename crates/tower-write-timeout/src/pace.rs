//! What a client is owed, and until when it must have taken it.

use std::time::Duration;

use tokio::time::Instant;
use tower_connection::FOREVER;

use crate::Reason;

/// What is asked of a client that is owed something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// It must take something within this time,
    pub(crate) timeout: Option<Duration>,
    /// so many bytes a second, or none need be,
    pub(crate) rate: u64,
    /// but has this time first,
    pub(crate) grace: Duration,
    /// and all of it within this time.
    pub(crate) ceiling: Option<Duration>,
}

impl Terms {
    pub(crate) fn ask_nothing(&self) -> bool {
        self.timeout.is_none() && self.rate == 0 && self.ceiling.is_none()
    }

    /// The time that so many bytes are worth.
    fn earned(&self, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)).min(FOREVER)
    }

    /// How often to look: a client that stops is given up no later than an eighth after its time.
    pub(crate) fn looks(&self) -> Looks {
        let by_rate = (self.rate > 0 && !self.grace.is_zero()).then_some(self.grace);
        let least = [self.timeout, by_rate, self.ceiling];
        let least = least.into_iter().flatten().min();
        let seldom = least.map_or(SELDOM, |least| (least / 8).clamp(OFTEN, SELDOM));
        Looks {
            next: seldom / 4,
            seldom,
        }
    }
}

/// Between two looks there is at least this time, and at most.
const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_secs(60);

/// How long to wait for the next look: ever longer, as most who fall behind are soon done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looks {
    next: Duration,
    seldom: Duration,
}

impl Looks {
    /// Begins with `first`.
    pub(crate) fn soon(self, first: Duration) -> Self {
        let next = first.min(self.seldom);
        Self { next, ..self }
    }

    /// The longest time between two.
    pub(crate) fn seldom(self) -> Duration {
        self.seldom
    }

    pub(crate) fn next(&mut self) -> Duration {
        let next = self.next;
        self.next = (next * 2).min(self.seldom);
        next
    }
}

/// For how long after it fell behind a client is not seen to take anything, or a quarter of its timeout: Linux
/// pushes into a window that is all but shut what still fits, 200 ms after it could not send a whole segment. That
/// is no client that reads.
const SETTLING: Duration = Duration::from_millis(600);

/// Who takes how much, of one connection or one stream.
///
/// The clock runs while something is owed. It is Kestrel's rule on what was taken, instead of what was written:
/// what is taken faster than asked counts for later, though for no longer than the timeout.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    taken: u64,
    owed: Option<Owed>,
    /// By the rate, until then it has taken enough.
    enough_until: Option<Instant>,
}

#[derive(Debug)]
struct Owed {
    since: Instant,
    /// When it was last seen to have taken something.
    moved: Instant,
    looked: Instant,
    /// It had the benefit of a late look since it last moved.
    forgiven: bool,
    /// What it had taken when it began to owe.
    had: u64,
}

impl Pace {
    /// In all, it has taken so much by `now`, and is or is not owed something.
    pub(crate) fn look(&mut self, terms: &Terms, now: Instant, taken: u64, owed: bool) {
        let more = taken.saturating_sub(self.taken);
        self.taken += more;
        if !owed {
            // ## Owed => Free
            self.owed = None;
            return;
        }
        let earned = terms.earned(more);
        let enough_until = match &mut self.owed {
            // ## Free => Owed
            owed @ None => {
                *owed = Some(Owed {
                    since: now,
                    moved: now,
                    looked: now,
                    forgiven: false,
                    had: taken,
                });
                let anew = now + earned.max(terms.grace);
                self.enough_until.map_or(anew, |until| until.max(anew))
            }
            Some(owed) => {
                let timeout = terms.timeout.unwrap_or(FOREVER);
                let settling = owed.looked < owed.since + SETTLING.min(timeout / 4);
                let mut enough_until = self.enough_until.unwrap_or(now) + earned;
                if more > 0 && !settling {
                    if !owed.has_moved() {
                        enough_until = enough_until.max(now + terms.grace);
                    }
                    owed.moved = now;
                    owed.forgiven = false;
                }
                owed.looked = now;
                enough_until
            }
        };
        let most = terms.timeout.unwrap_or(FOREVER).max(terms.grace);
        self.enough_until = Some(enough_until.min(now + most));
    }

    /// Its time begins anew, if it runs.
    pub(crate) fn restart(&mut self, terms: &Terms, now: Instant) {
        if self.owed.take().is_some() {
            self.look(terms, now, self.taken, true);
        }
    }

    /// Nobody looked for so long, which is not the client's fault. But the kernel went on offering it what it owes: so
    /// it is forgiven once, until it takes something.
    pub(crate) fn forgive(&mut self, late: Duration) {
        if late.is_zero() {
            return;
        }
        if let Some(owed) = self.owed.as_mut().filter(|owed| !owed.forgiven) {
            owed.forgiven = true;
            owed.since += late;
            owed.moved += late;
            owed.looked += late;
            self.enough_until = self.enough_until.map(|until| until + late);
        }
    }

    pub(crate) fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// When it is given up if it takes nothing more, and why.
    pub(crate) fn until(&self, terms: &Terms) -> Option<(Instant, Reason)> {
        let owed = self.owed.as_ref()?;
        let stopped = terms.timeout.map(|timeout| owed.moved + timeout);
        // Who takes nothing at all is not slow: the timeout is for that, if there is one.
        let slow = owed.has_moved() || terms.timeout.is_none();
        let too_slow = self.enough_until.filter(|_| terms.rate > 0 && slow);
        let too_long = terms.ceiling.map(|ceiling| owed.since + ceiling);
        [
            stopped.map(|at| (at, Reason::Stopped)),
            too_slow.map(|at| (at, Reason::TooSlow)),
            too_long.map(|at| (at, Reason::TooLong)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Why it is given up, if it is.
    pub(crate) fn over(&self, terms: &Terms, now: Instant) -> Option<Reason> {
        let (at, why) = self.until(terms)?;
        (at <= now).then_some(why)
    }

    /// For how long it has owed, for how long it has taken nothing, and how much it has taken since it owes.
    pub(crate) fn owing(&self, now: Instant) -> (Duration, Duration, u64) {
        let owed = self.owed.as_ref();
        owed.map_or_else(Default::default, |owed| {
            let taken = self.taken.saturating_sub(owed.had);
            (now - owed.since, now - owed.moved, taken)
        })
    }
}

impl Owed {
    /// Whether it was seen to take something.
    fn has_moved(&self) -> bool {
        self.moved > self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn terms() -> Terms {
        Terms {
            timeout: Some(30 * S),
            rate: 240,
            grace: 5 * S,
            ceiling: None,
        }
    }

    /// Takes `step` bytes every so often, until it is given up. Returns when, or that it was not in an hour.
    fn reader(
        terms: Terms,
        at_first: u64,
        step: u64,
        every: Duration,
    ) -> Option<(Duration, Reason)> {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut taken = at_first;
        let mut steps_at = start + every;
        pace.look(&terms, start, taken, true);
        for look in 1..=36_000 {
            let now = start + look * 100 * MS;
            if steps_at <= now {
                steps_at += every;
                taken += step;
            }
            pace.look(&terms, now, taken, true);
            if let Some(why) = pace.over(&terms, now) {
                let (until, _) = pace.until(&terms).expect("it is owed something");
                assert_eq!(pace.over(&terms, until - MS), None);
                return Some((until - start, why));
            }
        }
        None
    }

    #[test]
    fn who_takes_nothing_is_given_up_at_the_timeout() {
        // WRITE-1
        let idle_only = Terms { rate: 0, ..terms() };
        for terms in [terms(), idle_only] {
            for at_first in [0, 1_000_000] {
                let stopped = reader(terms, at_first, 0, S);
                assert_eq!(stopped, Some((30 * S, Reason::Stopped)));
            }
        }
    }

    #[test]
    fn a_steady_reader_above_the_rate_is_never_given_up() {
        // WRITE-3: however coarse the steps are in which its window opens
        for (step, every) in [
            (240, S),
            (6_000, S),
            (113_000, 19 * S),
            (1_152, 4_800 * MS),
            (7_200, 29_990 * MS),
        ] {
            assert_eq!(
                reader(terms(), step.max(2_304), step, every),
                None,
                "{step}"
            );
        }
        assert_eq!(reader(Terms { rate: 0, ..terms() }, 0, 1, 29 * S), None);
    }

    #[test]
    fn a_reader_below_the_rate_is_given_up_after_its_grace() {
        // WRITE-3
        let (at, why) = reader(terms(), 0, 100, S).expect("it is given up");
        assert_eq!(why, Reason::TooSlow);
        assert!((9 * S..10 * S).contains(&at), "{at:?}");
        let (at, _) = reader(terms(), 0, 1, S).expect("it is given up");
        assert!((5 * S..7 * S).contains(&at), "{at:?}");
        // What it took at first counts for later, but no longer than the timeout.
        let (at, _) = reader(terms(), 2_400, 100, S).expect("it is given up");
        assert!((16 * S..19 * S).contains(&at), "{at:?}");
        let (at, _) = reader(terms(), u64::MAX / 2, 100, S).expect("it is given up");
        assert!((50 * S..54 * S).contains(&at), "{at:?}");
    }

    #[test]
    fn what_the_kernel_fits_into_a_shut_window_is_no_progress() {
        // WRITE-1
        let terms = Terms {
            timeout: Some(2 * S),
            rate: 0,
            ..terms()
        };
        let start = Instant::now();
        let look = |at: &[(u32, u64)]| {
            let mut pace = Pace::default();
            for (ms, taken) in at {
                pace.look(&terms, start + *ms * MS, *taken, true);
            }
            pace.until(&terms).expect("it is owed something").0 - start
        };
        assert_eq!(look(&[(0, 0), (187, 0), (437, 392)]), 2 * S);
        assert_eq!(look(&[(0, 0), (187, 0), (437, 392), (687, 392)]), 2 * S);
        assert_eq!(look(&[(0, 0), (500, 0), (750, 1)]), 2_750 * MS);
    }

    #[test]
    fn the_clock_stands_while_nothing_is_owed() {
        // WRITE-4
        let terms = terms();
        let mut now = Instant::now();
        let mut pace = Pace::default();
        for byte in 1..1_000 {
            pace.look(&terms, now, byte, true);
            now += 4_900 * MS;
            assert_eq!(pace.over(&terms, now), None);
            pace.look(&terms, now, byte + 1, false);
            assert_eq!(pace.until(&terms), None);
            now += 60 * S;
        }
    }

    #[test]
    fn nobody_may_owe_longer_than_the_ceiling() {
        let terms = Terms {
            ceiling: Some(600 * S),
            ..terms()
        };
        let (at, why) = reader(terms, 0, 10_000, S).expect("it is given up");
        assert_eq!((at, why), (600 * S, Reason::TooLong));
    }

    #[test]
    fn time_in_which_nobody_looked_is_not_charged() {
        // WRITE-5
        let terms = terms();
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.look(&terms, now, 1_000_000, true);
        pace.forgive(60 * S);
        assert_eq!(pace.over(&terms, now + 90 * S - MS), None);
        assert!(pace.over(&terms, now + 90 * S).is_some());
    }

    #[test]
    fn it_is_forgiven_once_until_it_takes_something() {
        // WRITE-5
        let terms = Terms { rate: 0, ..terms() };
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.look(&terms, start, 1_000_000, true);
        for _ in 0..10 {
            pace.forgive(10 * S);
        }
        assert!(pace.over(&terms, start + 40 * S).is_some());
        pace.look(&terms, start + 39 * S, 1_000_001, true);
        pace.look(&terms, start + 39 * S + MS, 1_001_001, true);
        pace.forgive(10 * S);
        assert_eq!(pace.over(&terms, start + 79 * S), None);
    }

    #[test]
    fn without_a_timeout_the_rate_is_for_who_takes_nothing_as_well() {
        let terms = Terms {
            timeout: None,
            ..terms()
        };
        assert_eq!(reader(terms, 0, 0, S), Some((5 * S, Reason::TooSlow)));
        assert_eq!(reader(terms, 2_400, 0, S), Some((10 * S, Reason::TooSlow)));
    }

    #[test]
    fn who_takes_its_first_bytes_late_has_its_grace_from_then() {
        // WRITE-3
        let terms = terms();
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.look(&terms, start, 0, true);
        pace.look(&terms, start + 19 * S, 0, true);
        pace.look(&terms, start + 20 * S, 1, true);
        assert_eq!(pace.over(&terms, start + 25 * S - MS), None);
        assert_eq!(pace.over(&terms, start + 25 * S), Some(Reason::TooSlow));
    }

    #[test]
    fn nobody_is_looked_at_all_the_time() {
        let busy = Terms {
            timeout: Some(MS),
            grace: Duration::ZERO,
            ..terms()
        };
        assert_eq!(busy.looks().seldom(), 10 * MS);
        let by_rate = Terms {
            timeout: None,
            ..busy
        };
        assert_eq!(by_rate.looks().seldom(), 60 * S);
    }

    #[test]
    fn without_terms_nobody_is_given_up() {
        let nothing = Terms {
            timeout: None,
            rate: 0,
            grace: 5 * S,
            ceiling: None,
        };
        assert!(nothing.ask_nothing());
        let mut pace = Pace::default();
        pace.look(&nothing, Instant::now(), 0, true);
        assert_eq!(pace.until(&nothing), None);
    }
}

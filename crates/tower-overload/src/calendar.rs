//! When to come back: a calendar of what was promised.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many refused clients were told to come back in which second.
///
/// Clients that are told the same second come together, and would be refused together. So a second takes only as many as
/// a part of what the server does in one, and the next client is told the next second with room.
#[derive(Debug)]
pub(crate) struct Calendar {
    /// For each of the next seconds: which, and how many were told to come then.
    seconds: [AtomicU64; LENGTH],
    /// The second in which nothing was left.
    full: AtomicU64,
    /// Since when that was so in each second.
    full_since: AtomicU64,
}

/// How far ahead it promises.
pub(crate) const SECONDS: u64 = LENGTH as u64;
const LENGTH: usize = 64;

/// A second takes a tenth of what the server can do in it: the retry budget of Google's SRE book.
const PART: f64 = 0.1;

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    /// To come back after so many seconds.
    pub(crate) after: u64,
    /// Or better not at all: for ten seconds, all that could be promised was.
    pub(crate) give_up: bool,
}

const GIVE_UP_AFTER: u64 = 10;

impl Calendar {
    pub(crate) fn new() -> Self {
        Self {
            seconds: std::array::from_fn(|_| AtomicU64::new(0)),
            full: AtomicU64::new(u64::MAX),
            full_since: AtomicU64::new(u64::MAX),
        }
    }

    /// A second to come back in, `earliest` seconds from the second `now` or later.
    ///
    /// `rate` is what is served in a second; `chance` is a number that differs each time.
    pub(crate) fn promise(&self, now: u64, earliest: u64, rate: f64, chance: u64) -> Promise {
        let earliest = earliest.max(1);
        if earliest >= SECONDS {
            let after = earliest.saturating_add(chance % (earliest / 2));
            return Promise {
                after,
                give_up: false,
            };
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, or saturated")]
        let room = ((rate * PART) as u32).max(1);
        if self.full.load(Ordering::Relaxed) != now {
            let span = SECONDS - earliest;
            let offset = chance % (earliest / 2 + 1);
            let seconds = (0..span).map(|n| earliest + (offset + n) % span);
            for after in seconds {
                if self.book(now + after, room) {
                    return Promise {
                        after,
                        give_up: false,
                    };
                }
            }
            // Each second has room of its own, far ahead; it is soon gone if the last one's was.
            let last = self.full.swap(now, Ordering::Relaxed);
            if last.saturating_add(1) < now || last > now {
                self.full_since.store(now, Ordering::Relaxed);
            }
        }
        let since = self.full_since.load(Ordering::Relaxed);
        Promise {
            after: SECONDS + chance % SECONDS,
            give_up: now.saturating_sub(since) >= GIVE_UP_AFTER,
        }
    }

    fn book(&self, second: u64, room: u32) -> bool {
        let entry = &self.seconds[(second % SECONDS) as usize];
        let book = |word: u64| {
            let (of, booked) = (word >> 32, word & u64::from(u32::MAX));
            let booked = if of == second { booked } else { 0 };
            (booked < u64::from(room)).then_some(second << 32 | (booked + 1))
        };
        entry
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, book)
            .is_ok()
    }
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    fn told(calendar: &Calendar, now: u64, earliest: u64, rate: f64, clients: usize) -> Vec<u64> {
        let mut chance = 1;
        let promises = (0..clients).map(|_| {
            chance = (chance * 6_364_136_223_846_793_005_u128 + 1) % (1 << 64);
            #[expect(clippy::cast_possible_truncation, reason = "reduced")]
            calendar.promise(now, earliest, rate, chance as u64 >> 33).after
        });
        promises.collect()
    }

    #[test]
    fn no_second_is_promised_to_more_than_a_tenth_of_what_it_serves() {
        let calendar = Calendar::new();
        let told = told(&calendar, 1_000, 1, 200.0, 63 * 20);
        for second in 1..SECONDS {
            let n = told.iter().filter(|after| **after == second).count();
            assert_eq!(n, 20, "{second}");
        }
    }

    #[test]
    fn the_first_second_with_room_is_told_first() {
        let calendar = Calendar::new();
        assert_eq!(told(&calendar, 7, 1, 20.0, 6), [1, 1, 2, 2, 3, 3]);
        assert_eq!(told(&calendar, 8, 1, 20.0, 2), [3, 3]); // two of the three are over, one has become the next
    }

    #[test]
    fn nobody_is_told_to_come_before_there_is_a_chance() {
        let told = told(&Calendar::new(), 5, 10, 1_000.0, 300);
        assert!(told.iter().all(|after| (10..=15).contains(after)), "{told:?}");
        assert!((10..=15).all(|after| told.contains(&after)));
    }

    #[test]
    fn a_full_calendar_spreads_over_the_minute_after_and_says_in_time_to_give_up() {
        let calendar = Calendar::new();
        told(&calendar, 0, 1, 10.0, 63);
        let promise = calendar.promise(0, 1, 10.0, 77);
        assert_eq!((promise.after, promise.give_up), (64 + 13, false));
        for second in 1..10 {
            told(&calendar, second, 1, 10.0, 64);
            assert!(!calendar.promise(second, 1, 10.0, 0).give_up);
        }
        told(&calendar, 10, 1, 10.0, 1);
        assert!(calendar.promise(10, 1, 10.0, 0).give_up);
        // A second with room to spare ends it.
        assert!(!calendar.promise(30, 1, 10.0, 0).give_up);
    }

    #[test]
    fn a_wait_beyond_the_calendar_is_spread_too() {
        let told = told(&Calendar::new(), 0, 100, 1.0, 200);
        assert!(told.iter().all(|after| (100..150).contains(after)));
        assert!(told.iter().max() > told.iter().min());
    }
}

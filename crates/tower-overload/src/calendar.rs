//! When to come back: a calendar of what was promised.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many refused clients were told to come back in which second.
///
/// Clients that are told the same second come together, and would be refused together. So a second takes only as many as
/// a part of what the server does in one, and the next client is told the next second with room: of the next minute by
/// chance about the first one, after that in order.
#[derive(Debug)]
pub(crate) struct Calendar {
    /// For each of the next seconds: which, and how many were told to come then.
    seconds: [AtomicU64; LENGTH],
    /// The same of the last second that was told beyond these.
    last: AtomicU64,
    /// In which second, and from which on, none of the next was left.
    full: AtomicU64,
}

/// How far ahead each second has an entry.
pub(crate) const SECONDS: u64 = LENGTH as u64;
const LENGTH: usize = 64;

/// A second takes a tenth of what the server can do in it: the retry budget of Google's SRE book. Further ahead, half:
/// who was told to wait for so long often does not come.
const PART: f64 = 0.1;
const PART_LATER: f64 = 0.5;

/// Nobody is promised a later second: who finds none is told one after it, and better not to come.
const GIVE_UP: u64 = 600;

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    /// To come back after so many seconds.
    pub(crate) after: u64,
    /// Or better not at all: the next ten minutes are promised to others.
    pub(crate) give_up: bool,
}

impl Promise {
    fn kept(after: u64) -> Self {
        Self {
            after,
            give_up: false,
        }
    }
}

impl Calendar {
    pub(crate) fn new() -> Self {
        Self {
            seconds: std::array::from_fn(|_| AtomicU64::new(0)),
            last: AtomicU64::new(0),
            full: AtomicU64::new(u64::MAX),
        }
    }

    /// A second to come back in, `earliest` seconds from the second `now` or later.
    ///
    /// `rate` is what is served in a second; `chance` is a number that differs each time.
    pub(crate) fn promise(&self, now: u64, earliest: u64, rate: f64, chance: u64) -> Promise {
        let earliest = earliest.max(1);
        let full = self.full.load(Ordering::Relaxed);
        if earliest < SECONDS && (full >> 32 != now || earliest < full & u64::from(u32::MAX)) {
            let (span, room) = (SECONDS - earliest, Room::of(rate, PART));
            let offset = chance % (earliest / 2 + 1);
            let seconds = (0..span).map(|n| earliest + (offset + n) % span);
            for after in seconds.filter(|after| room.is_in(now + after)) {
                let entry = (now + after) % SECONDS;
                let entry = usize::try_from(entry).map(|entry| &self.seconds[entry]);
                if entry.is_ok_and(|entry| book(entry, now + after, room.each)) {
                    return Promise::kept(after);
                }
            }
            // Nor is one left for who comes in this second and could come back no earlier.
            self.full.store(now << 32 | earliest, Ordering::Relaxed);
        }
        let first = now + earliest.max(SECONDS);
        let room = Room::of(rate, PART_LATER);
        loop {
            let last = self.last.load(Ordering::Relaxed);
            let second = (last >> 32).max(first);
            if second >= now + GIVE_UP {
                return Promise {
                    after: GIVE_UP + chance % GIVE_UP,
                    give_up: true,
                };
            }
            if room.is_in(second) && book(&self.last, second, room.each) {
                return Promise::kept(second - now);
            }
            // The second is full: the next one.
            let next = room.next(second) << 32;
            let _ = self
                .last
                .compare_exchange(last, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// How many clients have room: so many in each second; or one in every so many, if it is less than one.
#[derive(Clone, Copy, Debug)]
struct Room {
    each: u32,
    step: u64,
}

impl Room {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates"
    )]
    fn of(rate: f64, part: f64) -> Self {
        let each = rate * part;
        Self {
            each: (each as u32).max(1),
            step: ((1.0 / each).ceil() as u64).clamp(1, GIVE_UP),
        }
    }

    fn is_in(self, second: u64) -> bool {
        second % self.step == 0
    }

    fn next(self, second: u64) -> u64 {
        (second / self.step + 1) * self.step
    }
}

/// Books one more of `second`, of which an entry has the second and the number, if fewer than `room` were.
fn book(entry: &AtomicU64, second: u64, room: u32) -> bool {
    let book = |word: u64| {
        let (of, booked) = (word >> 32, word & u64::from(u32::MAX));
        let booked = if of == second { booked } else { 0 };
        (of <= second && booked < u64::from(room)).then_some(second << 32 | (booked + 1))
    };
    entry
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, book)
        .is_ok()
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    fn told(calendar: &Calendar, now: u64, earliest: u64, rate: f64, clients: usize) -> Vec<u64> {
        let mut chance = 1;
        let promises = (0..clients).map(|_| {
            chance = (chance * 6_364_136_223_846_793_005_u128 + 1) % (1 << 64);
            #[expect(clippy::cast_possible_truncation, reason = "reduced")]
            calendar
                .promise(now, earliest, rate, chance as u64 >> 33)
                .after
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
        assert!(
            told.iter().all(|after| (10..=15).contains(after)),
            "{told:?}"
        );
        assert!((10..=15).all(|after| told.contains(&after)));
    }

    #[test]
    fn past_the_minute_the_flow_is_bounded_too() {
        let calendar = Calendar::new();
        let told = told(&calendar, 9, 1, 40.0, 63 * 4 + 100 * 20);
        for second in SECONDS..SECONDS + 100 {
            let n = told.iter().filter(|after| **after == second).count();
            assert_eq!(n, 20, "{second}");
        }
    }

    #[test]
    fn who_finds_ten_minutes_full_should_give_up() {
        let calendar = Calendar::new();
        let all = 63 + (600 - 64) * 5;
        assert!(
            told(&calendar, 3, 1, 10.0, all)
                .iter()
                .all(|after| *after < 600)
        );
        let promise = calendar.promise(3, 1, 10.0, 77);
        assert_eq!((promise.after, promise.give_up), (677, true));
        assert_eq!(
            calendar.promise(4, 1, 10.0, 0).after,
            63,
            "each second has room of its own"
        );
    }

    #[test]
    fn who_can_only_come_late_takes_nothing_from_who_can_come_soon() {
        let calendar = Calendar::new();
        told(&calendar, 5, 60, 10.0, 1_000);
        assert_eq!(calendar.promise(5, 1, 10.0, 0).after, 1);
    }

    #[test]
    fn a_wait_beyond_ten_minutes_is_spread_and_better_not_begun() {
        let told = told(&Calendar::new(), 0, 1_000, 1.0, 200);
        assert!(told.iter().all(|after| (600..1_200).contains(after)));
        assert!(told.iter().max() > told.iter().min());
        assert!(Calendar::new().promise(0, 1_000, 1.0, 0).give_up);
    }

    #[test]
    fn who_serves_less_than_one_in_a_second_promises_less_than_one() {
        let calendar = Calendar::new();
        // One in five seconds is served: of the next minute one in fifty is told, after that one in ten.
        let told = told(&calendar, 3, 1, 0.2, 5);
        assert_eq!(told, [47, 67, 77, 87, 97]);
    }
}

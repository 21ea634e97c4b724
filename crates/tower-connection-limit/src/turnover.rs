use std::time::Duration;

use tokio::time::Instant;

/// How far back it looks: between one and two of these.
const WINDOW: Duration = Duration::from_secs(10);

/// How fast places come free, seen when somebody is turned away and at no other time.
#[derive(Debug, Default)]
pub(crate) struct Turnover {
    /// When this window began, and the one before.
    current: Option<Mark>,
    previous: Option<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    departed: u64,
    rejected: u64,
}

impl Turnover {
    /// How long it will take until the clients that were turned away lately have found a place: their
    /// number times the time in which one place came free. So those who come later in a rush are told to
    /// come back later, and do not return all at once.
    pub(crate) fn wait(&mut self, now: Instant, departed: u64, rejected: u64) -> Duration {
        let mark = Mark {
            at: now,
            departed,
            rejected,
        };
        let current = *self.current.get_or_insert(mark);
        if now.duration_since(current.at) >= WINDOW {
            // A window without a rejection ended unseen: what was before it is too old to tell.
            let fresh = now.duration_since(current.at) < WINDOW * 2;
            self.previous = fresh.then_some(current);
            self.current = Some(mark);
        }
        let since = self.previous.or(self.current).unwrap_or(mark);
        let rejected = rejected - since.rejected + 1;
        let departed = (departed - since.departed).max(1);
        let seconds = now.duration_since(since.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = seconds * rejected as f64 / departed as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn one_place_a_second_for_five_clients_is_five_seconds() {
        let start = Instant::now();
        let mut turnover = Turnover::default();
        turnover.wait(start, 100, 50);
        assert_eq!(turnover.wait(start + 4 * S, 104, 54), 5 * S);
    }

    #[test]
    fn who_comes_later_in_a_rush_waits_longer() {
        let start = Instant::now();
        let mut turnover = Turnover::default();
        turnover.wait(start, 0, 0);
        let waits: Vec<_> = (1..100)
            .map(|rejected| turnover.wait(start + S, 10, rejected))
            .collect();
        assert!(waits.is_sorted());
        assert!(waits[98] > waits[0] * 40);
    }

    #[test]
    fn nobody_leaving_is_not_the_end_of_the_world() {
        let start = Instant::now();
        let mut turnover = Turnover::default();
        assert_eq!(turnover.wait(start, 0, 0), Duration::ZERO);
        assert_eq!(turnover.wait(start + 3 * S, 0, 1), 6 * S);
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let start = Instant::now();
        let mut turnover = Turnover::default();
        turnover.wait(start, 0, 0);
        turnover.wait(start + 5 * S, 0, 1_000);
        // Ten to twenty seconds back still counts, a minute does not.
        assert_eq!(turnover.wait(start + 10 * S, 10, 1_000), 1_001 * S);
        assert_eq!(turnover.wait(start + 80 * S, 10, 1_000), Duration::ZERO);
    }
}

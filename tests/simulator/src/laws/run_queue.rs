use std::time::Duration;

use tokio::time::Instant;
use tower_overload::Sample;

use super::{Law, real};

const DECREASE: f64 = 0.02;
const INCREASE: f64 = 1.0;

/// Breakwater's law: down by how far the delay of the run queue is above its target, up by one below it.
///
/// Read from `breakwater/src/bw_server.c` and `bw_config.h` of `shenango/caladan` at bdb4dde, and from
/// `breakwater/server_interceptor.go` of `lohpaul9/breakwater-grpc` at e347fb8, which asks Go what the first asks its own
/// runtime. Differs: one step for each delay, so one in 10 ms, where the first has one in 10 µs and the second at most one
/// in 5 ms; one more at a time, the least of the second, as both add a thousandth of their clients, whom nobody counts
/// here; only if a request found no slot since the last delay, where the first never issues more than 64 to a client; and
/// no request is refused because the delay is twice the target, as a limit can only be lower.
#[derive(Clone, Debug)]
pub struct RunQueue {
    target: Duration,
    least: f64,
    limit: f64,
    full: bool, // since the last delay
}

impl RunQueue {
    /// How long a task may wait to run, and on how many cores: as many requests are always let in.
    ///
    /// # Panics
    ///
    /// If the target is zero.
    #[must_use]
    pub fn new(target: Duration, cores: usize) -> Self {
        assert!(!target.is_zero(), "a task always waits");
        Self {
            target,
            least: real(cores),
            limit: real(cores),
            full: false,
        }
    }
}

impl Law for RunQueue {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn sample(&mut self, _: &Sample) {}

    fn full(&mut self, _: Instant) {
        self.full = true;
    }

    fn delay(&mut self, _: Instant, delay: Duration) {
        let full = std::mem::take(&mut self.full);
        if let Some(above) = delay.checked_sub(self.target) {
            let part = (1.0 - DECREASE * above.div_duration_f64(self.target)).max(0.5);
            self.limit = (self.limit * part).floor().max(self.least);
        } else if full {
            self.limit += INCREASE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_near;
    use super::*;

    const TARGET: Duration = Duration::from_millis(20);

    fn after(limit: f64, full: bool, delay: Duration) -> f64 {
        let mut law = RunQueue::new(TARGET, 4);
        law.limit = limit;
        if full {
            law.full(Instant::now());
        }
        law.delay(Instant::now(), delay);
        law.limit()
    }

    #[test]
    fn below_the_target_it_grows_if_somebody_found_no_slot() {
        let below = TARGET.checked_sub(Duration::from_nanos(1)).unwrap();
        assert_near(after(100.0, true, below), 101.0);
        assert_near(after(100.0, false, below), 100.0);
        assert_near(after(100.0, true, TARGET), 100.0);
    }

    #[test]
    fn who_found_no_slot_is_forgotten_with_the_next_delay() {
        let mut law = RunQueue::new(TARGET, 4);
        law.full(Instant::now());
        law.delay(Instant::now(), TARGET);
        law.delay(Instant::now(), Duration::ZERO);
        assert_near(law.limit(), 4.0);
    }

    #[test]
    fn above_the_target_it_shrinks_by_how_far() {
        assert_near(after(100.0, true, TARGET * 2), 98.0);
        assert_near(after(100.0, true, TARGET * 11), 80.0);
        assert_near(after(10.0, true, TARGET * 2), 9.0); // 9.8
    }

    #[test]
    fn it_is_never_less_than_half_nor_than_the_cores() {
        assert_near(after(100.0, true, TARGET * 25), 52.0);
        assert_near(after(100.0, true, TARGET * 26), 50.0);
        assert_near(after(100.0, true, TARGET * 500), 50.0);
        assert_near(after(7.0, true, TARGET * 500), 4.0);
    }
}

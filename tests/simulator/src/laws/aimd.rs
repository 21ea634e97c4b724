use std::time::Duration;

use tower_overload::Sample;

use super::{Law, dropped, real};

const LEAST: f64 = 20.0;
const MOST: f64 = 200.0;
const BACKOFF: f64 = 0.9;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Netflix's `AIMDLimit`: one more for each response while half the limit is used, a tenth less for each drop.
///
/// Read from `limit/AIMDLimit.java` of `Netflix/concurrency-limits` at 78a74b9; no difference but those of all.
#[derive(Clone, Debug)]
pub struct Aimd {
    limit: f64,
}

impl Default for Aimd {
    fn default() -> Self {
        Self { limit: LEAST }
    }
}

impl Law for Aimd {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn sample(&mut self, sample: &Sample) {
        let Some(dropped) = dropped(sample.outcome) else {
            return;
        };
        let next = if dropped || sample.latency > TIMEOUT {
            (self.limit * BACKOFF).floor()
        } else if real(sample.in_flight) * 2.0 >= self.limit {
            self.limit + 1.0
        } else {
            self.limit
        };
        self.limit = next.clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use tower_overload::Outcome;

    use super::super::tests::{assert_near, sample};
    use super::*;

    fn after(limit: f64, latency: Duration, in_flight: usize, outcome: Outcome) -> f64 {
        let mut law = Aimd { limit };
        law.sample(&sample(latency, in_flight, outcome));
        law.limit()
    }

    #[test]
    fn it_grows_by_one_if_half_of_it_is_used() {
        let fast = Duration::from_millis(1);
        assert_near(after(30.0, fast, 14, Outcome::Ok), 30.0);
        assert_near(after(30.0, fast, 15, Outcome::Ok), 31.0);
        assert_near(after(31.0, fast, 15, Outcome::Ok), 31.0);
        assert_near(after(200.0, fast, 200, Outcome::Ok), 200.0);
    }

    #[test]
    fn a_drop_takes_a_tenth_and_the_fraction() {
        for outcome in [Outcome::Overload, Outcome::Cancelled] {
            assert_near(after(200.0, Duration::ZERO, 200, outcome), 180.0);
            assert_near(after(31.0, Duration::ZERO, 31, outcome), 27.0); // 27.9
            assert_near(after(21.0, Duration::ZERO, 21, outcome), 20.0);
        }
        let slow = Duration::from_secs(9);
        assert_near(after(31.0, slow, 31, Outcome::Ignore), 31.0);
    }

    #[test]
    fn longer_than_the_timeout_is_a_drop() {
        for (nanos, limit) in [(5_000_000_000, 32.0), (5_000_000_001, 27.0)] {
            let latency = Duration::from_nanos(nanos);
            assert_near(after(31.0, latency, 31, Outcome::Ok), limit);
        }
    }
}

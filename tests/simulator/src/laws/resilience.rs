use std::time::Duration;

use tower_overload::{Outcome, Sample};

use super::Law;

const FIRST: f64 = 10.0;
const LEAST: f64 = 1.0;
const MOST: f64 = 100.0;

/// The AIMD of tower-resilience-adaptive: one more for each fast success, half for each slow one and each failure.
///
/// Read from `src/algorithm.rs` of that crate, and `src/aimd.rs` of tower-resilience-core, both 0.14.0
/// (`joshrotenberg/tower-resilience` at 96367cd). Differs: an overload is a failure here; their layer, which asks only
/// whether there is a response, would see a success in each 503. As there, a client that left tells nothing.
#[derive(Clone, Debug)]
pub struct ResilienceAimd {
    limit: f64,
}

/// The Vegas of tower-resilience-adaptive: a limit of which three to six wait, by the least latency that was ever seen.
///
/// Read from `src/algorithm.rs` of that crate, 0.14.0 (`joshrotenberg/tower-resilience` at 96367cd). Differs: an overload is
/// a failure, as in [`ResilienceAimd`]; and the smooth latency is not cut to nanoseconds.
#[derive(Clone, Debug)]
pub struct ResilienceVegas {
    limit: f64,
    least: f64,
    smooth: Option<f64>,
    samples: u32,
}

// === impl ResilienceAimd ===

impl ResilienceAimd {
    const SLOW: Duration = Duration::from_millis(100);
}

impl Default for ResilienceAimd {
    fn default() -> Self {
        Self { limit: FIRST }
    }
}

impl Law for ResilienceAimd {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn sample(&mut self, sample: &Sample) {
        self.limit = match sample.outcome {
            Outcome::Ok if sample.latency <= Self::SLOW => (self.limit + 1.0).min(MOST),
            Outcome::Ok | Outcome::Overload => halved(self.limit),
            Outcome::Cancelled | Outcome::Ignore => return,
        };
    }
}

// === impl ResilienceVegas ===

impl ResilienceVegas {
    const ALPHA: f64 = 3.0;
    const BETA: f64 = 6.0;
    const SMOOTHING: f64 = 0.5;
    const ENOUGH: u32 = 10;

    fn served(&mut self, latency: f64) {
        self.least = self.least.min(latency);
        let smooth = self.smooth.map_or(latency, |smooth| {
            latency * Self::SMOOTHING + smooth * (1.0 - Self::SMOOTHING)
        });
        self.smooth = Some(smooth);
        self.samples = self.samples.saturating_add(1);
        if self.samples < Self::ENOUGH || self.least <= 0.0 {
            return;
        }
        let queue = ((smooth - self.least) / self.least * self.limit).floor();
        if queue < Self::ALPHA {
            self.limit = (self.limit + 1.0).min(MOST);
        } else if queue > Self::BETA {
            self.limit = (self.limit - 1.0).max(LEAST);
        }
    }
}

impl Default for ResilienceVegas {
    fn default() -> Self {
        Self {
            limit: FIRST,
            least: f64::INFINITY,
            smooth: None,
            samples: 0,
        }
    }
}

impl Law for ResilienceVegas {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn sample(&mut self, sample: &Sample) {
        match sample.outcome {
            Outcome::Ok => self.served(sample.latency.as_secs_f64()),
            Outcome::Overload => self.limit = halved(self.limit),
            Outcome::Cancelled | Outcome::Ignore => {}
        }
    }
}

fn halved(limit: f64) -> f64 {
    (limit / 2.0).floor().max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_near, sample, served};
    use super::*;

    fn after<L: Law>(mut law: L, samples: &[Sample]) -> f64 {
        for sample in samples {
            law.sample(sample);
        }
        law.limit()
    }

    #[test]
    fn aimd_halves_for_each_that_takes_longer_than_100_ms() {
        let aimd = ResilienceAimd::default;
        assert_near(after(aimd(), &[served(100_000)]), 11.0);
        assert_near(after(aimd(), &[served(100_001)]), 5.0);
        assert_near(after(aimd(), &vec![served(100_001); 9]), 1.0);
        assert_near(after(aimd(), &vec![served(1); 91]), 100.0);
    }

    #[test]
    fn both_halve_for_a_failure_and_not_for_a_client_that_left() {
        for (outcome, limit) in [
            (Outcome::Overload, 5.0),
            (Outcome::Cancelled, 10.0),
            (Outcome::Ignore, 10.0),
        ] {
            let samples = [sample(Duration::from_millis(1), 1, outcome)];
            assert_near(after(ResilienceAimd::default(), &samples), limit);
            assert_near(after(ResilienceVegas::default(), &samples), limit);
        }
    }

    #[test]
    fn vegas_moves_from_the_tenth_sample() {
        let vegas = ResilienceVegas::default;
        assert_near(after(vegas(), &vec![served(100_000); 9]), 10.0);
        assert_near(after(vegas(), &vec![served(100_000); 10]), 11.0);
    }

    #[test]
    fn vegas_moves_by_the_length_of_the_queue() {
        // nine of 100 ms and one: ⌊(one - 100)/2/100·10⌋
        for (last, limit) in [
            (158_000, 11.0), // 2
            (162_000, 10.0), // 3
            (238_000, 10.0), // 6
            (242_000, 9.0),  // 7
        ] {
            let mut samples = vec![served(100_000); 9];
            samples.push(served(last));
            assert_near(after(ResilienceVegas::default(), &samples), limit);
        }
    }

    #[test]
    fn vegas_never_forgets_the_least_latency() {
        let mut samples = vec![served(1_000)];
        samples.extend(vec![served(100_000); 1_000]);
        assert_near(after(ResilienceVegas::default(), &samples), 1.0);
    }
}

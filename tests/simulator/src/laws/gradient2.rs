use tower_overload::{Outcome, Sample};

use super::{Law, real};

const LEAST: f64 = 20.0;
const MOST: f64 = 200.0;
const QUEUE: f64 = 4.0;
const SMOOTHING: f64 = 0.2;
const TOLERANCE: f64 = 1.5;
const LONG: f64 = 600.0;
const WARM_UP: f64 = 10.0;

/// Netflix's `Gradient2Limit`: by how much the latency is above its own long average. A drop is a latency as any other.
///
/// Read from `limit/Gradient2Limit.java` and `limit/measurement/ExpAvgMeasurement.java` of `Netflix/concurrency-limits` at
/// 78a74b9. Differs: a latency of zero, by which the source divides, is not counted.
#[derive(Clone, Debug)]
pub struct Gradient2 {
    limit: f64,
    most: f64,
    long: Average,
}

impl Gradient2 {
    /// With another limit of limits than 200, which is theirs.
    ///
    /// # Panics
    ///
    /// If it is less than 20.
    #[must_use]
    pub fn up_to(most: usize) -> Self {
        let most = real(most);
        assert!(most >= LEAST, "not below the least limit");
        Self {
            limit: LEAST,
            most,
            long: Average::default(),
        }
    }
}

impl Default for Gradient2 {
    fn default() -> Self {
        Self {
            limit: LEAST,
            most: MOST,
            long: Average::default(),
        }
    }
}

impl Law for Gradient2 {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn sample(&mut self, sample: &Sample) {
        if sample.outcome == Outcome::Ignore || sample.latency.is_zero() {
            return;
        }
        let short = sample.latency.as_secs_f64();
        let long = self.long.add(short);
        if long > short * 2.0 {
            // For the next time: this gradient is still of the average as it was.
            self.long.value *= 0.95;
        }
        if real(sample.in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * long / short).clamp(0.5, 1.0);
        let next = self.limit * gradient + QUEUE;
        let next = self.limit * (1.0 - SMOOTHING) + next * SMOOTHING;
        self.limit = next.clamp(LEAST, self.most);
    }
}

/// The mean of the first ones, from then on exponential: of samples, not of time.
#[derive(Clone, Debug, Default)]
struct Average {
    value: f64,
    sum: f64,
    count: f64,
}

impl Average {
    fn add(&mut self, sample: f64) -> f64 {
        if self.count < WARM_UP {
            self.count += 1.0;
            self.sum += sample;
            self.value = self.sum / self.count;
        } else {
            let weight = 2.0 / (LONG + 1.0);
            self.value = self.value * (1.0 - weight) + sample * weight;
        }
        self.value
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{assert_near, sample, served};
    use super::*;

    fn told(micros: &[u64]) -> Gradient2 {
        let mut law = Gradient2::default();
        for micros in micros {
            law.sample(&served(*micros));
        }
        law
    }

    #[test]
    fn without_a_queue_it_grows_by_a_fifth_of_four() {
        assert_near(told(&[100_000]).limit(), 20.8);
        assert_near(told(&[100_000; 2]).limit(), 21.6);
    }

    #[test]
    fn it_moves_by_the_gradient() {
        // mean 225: 20.8·0.8 + 0.2·(20.8·1.5·225/350 + 4)
        assert_near(
            told(&[100_000, 350_000]).limit(),
            16.64 + 0.2 * (20.8 * 337.5 / 350.0 + 4.0),
        );
        // mean 150: the gradient is above one
        assert_near(told(&[100_000, 200_000]).limit(), 21.6);
    }

    #[test]
    fn it_holds_if_less_than_half_is_used() {
        for (in_flight, limit) in [(10, 20.8), (11, 21.6)] {
            let mut law = told(&[100_000]);
            let latency = Duration::from_millis(100);
            law.sample(&sample(latency, in_flight, Outcome::Ok));
            assert_near(law.limit(), limit);
        }
    }

    #[test]
    fn a_drop_is_a_latency_as_any_other() {
        for (outcome, limit) in [(Outcome::Overload, 21.6), (Outcome::Ignore, 20.8)] {
            let mut law = told(&[100_000]);
            law.sample(&sample(Duration::from_millis(100), 20, outcome));
            assert_near(law.limit(), limit);
        }
    }

    #[test]
    fn the_average_is_exponential_from_the_eleventh() {
        let mut first = vec![100_000; 9];
        first.push(701_000);
        assert_near(told(&first).long.value, 0.1601);
        first.insert(0, 100_000);
        assert_near(told(&first).long.value, 0.102); // (599·100 + 2·701) / 601
    }

    #[test]
    fn the_average_is_let_down_if_it_is_twice_the_latency() {
        assert_near(told(&[100_000, 34_000]).long.value, 0.067);
        assert_near(told(&[100_000, 33_000]).long.value, 0.0665 * 0.95);
    }

    #[test]
    fn it_grows_to_its_most() {
        let latency = Duration::from_millis(100);
        for (mut law, times, limit) in [
            (Gradient2::default(), 224, 199.2),
            (Gradient2::default(), 226, 200.0),
            (Gradient2::up_to(2_000), 226, 200.8),
        ] {
            for _ in 0..times {
                law.sample(&sample(latency, 200, Outcome::Ok));
            }
            assert_near(law.limit(), limit);
        }
    }

    #[test]
    fn it_does_not_shrink_below_twenty() {
        let mut law = Gradient2 {
            limit: 20.8,
            ..told(&[1_000; 9])
        };
        law.sample(&served(1_000_000)); // 20.8·0.8 + 0.2·(20.8·0.5 + 4) is 19.52
        assert_near(law.limit(), 20.0);
    }
}

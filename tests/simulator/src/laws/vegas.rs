use std::time::Duration;

use tower_overload::Sample;

use super::{Law, dropped, real};
use crate::chance::Chance;

const FIRST: f64 = 20.0;
const MOST: f64 = 1000.0;
/// So many samples for each slot are between two baselines, at most.
const PROBE: f64 = 30.0;

/// Netflix's `VegasLimit`: the queue is what is in flight beyond what the least latency explains. Of each sample: without
/// [`Windowed`](super::Windowed) it is what their limiters do if nothing else is asked for.
///
/// Read from `limit/VegasLimit.java` and `limit/functions/Log10RootIntFunction.java` of `Netflix/concurrency-limits` at
/// 78a74b9. Differs: a latency of zero, for which the source throws, is not counted; and its chance can be repeated.
#[derive(Clone, Debug)]
pub struct Vegas {
    limit: f64,
    unloaded: Option<Duration>,
    seen: f64, // since the last probe
    jitter: f64,
    chance: Chance,
}

impl Vegas {
    /// With chance of this seed: when it takes a new baseline.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        Self {
            limit: FIRST,
            unloaded: None,
            seen: 0.0,
            jitter: jitter(&mut chance),
            chance,
        }
    }

    /// What the limit becomes, if it moves.
    fn next(&self, queue: f64, used: f64, dropped: bool) -> Option<f64> {
        let step = self.limit.log10().floor().max(1.0);
        if dropped {
            Some(self.limit - step)
        } else if used * 2.0 < self.limit {
            None
        } else if queue <= step {
            Some(self.limit + 6.0 * step)
        } else if queue < 3.0 * step {
            Some(self.limit + step)
        } else if queue > 6.0 * step {
            Some(self.limit - step)
        } else {
            None
        }
    }
}

impl Law for Vegas {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn sample(&mut self, sample: &Sample) {
        let Some(dropped) = dropped(sample.outcome) else {
            return;
        };
        let latency = sample.latency;
        if latency.is_zero() {
            return;
        }
        self.seen += 1.0;
        if self.jitter * PROBE * self.limit <= self.seen {
            // Whatever the load is, and be it a drop: this latency is the baseline now.
            self.unloaded = Some(latency);
            self.seen = 0.0;
            self.jitter = jitter(&mut self.chance);
            return;
        }
        let Some(unloaded) = self.unloaded.filter(|least| *least <= latency) else {
            self.unloaded = Some(latency);
            return;
        };
        let queue = (self.limit * (1.0 - unloaded.div_duration_f64(latency))).ceil();
        if let Some(next) = self.next(queue, real(sample.in_flight), dropped) {
            self.limit = next.clamp(1.0, MOST);
        }
    }
}

fn jitter(chance: &mut Chance) -> f64 {
    0.5 + chance.part() / 2.0
}

#[cfg(test)]
mod tests {
    use tower_overload::Outcome;

    use super::super::tests::{assert_near, sample, served};
    use super::*;

    /// From 20, with 10 ms as the baseline.
    fn after(micros: u64, in_flight: usize, outcome: Outcome) -> f64 {
        let mut law = Vegas::new(1);
        law.sample(&served(10_000));
        assert_near(law.limit(), 20.0);
        law.sample(&sample(Duration::from_micros(micros), in_flight, outcome));
        law.limit()
    }

    #[test]
    fn it_moves_by_the_length_of_the_queue() {
        // ⌈20·(1 - 10/10.5)⌉ = 1, and so on
        assert_near(after(10_500, 20, Outcome::Ok), 26.0); // 1
        assert_near(after(10_600, 20, Outcome::Ok), 21.0); // 2
        assert_near(after(11_200, 20, Outcome::Ok), 20.0); // 3
        assert_near(after(14_200, 20, Outcome::Ok), 20.0); // 6
        assert_near(after(14_500, 20, Outcome::Ok), 19.0); // 7
    }

    #[test]
    fn it_holds_if_less_than_half_is_used_unless_it_drops() {
        assert_near(after(10_500, 9, Outcome::Ok), 20.0);
        assert_near(after(10_500, 10, Outcome::Ok), 26.0);
        assert_near(after(10_500, 9, Outcome::Overload), 19.0);
        assert_near(after(10_500, 9, Outcome::Cancelled), 19.0);
        assert_near(after(10_500, 20, Outcome::Ignore), 20.0);
    }

    #[test]
    fn the_steps_are_longer_from_a_hundred() {
        for (limit, next) in [(99.0, 105.0), (100.0, 112.0), (999.0, 1000.0)] {
            let mut law = Vegas::new(1);
            law.limit = limit;
            law.sample(&sample(Duration::from_millis(10), 1000, Outcome::Ok));
            law.sample(&sample(Duration::from_millis(10), 1000, Outcome::Ok));
            assert_near(law.limit(), next);
        }
    }

    #[test]
    fn a_lower_latency_is_the_baseline_and_moves_nothing_even_if_dropped() {
        let mut law = Vegas::new(1);
        law.sample(&served(10_000));
        law.sample(&sample(Duration::from_millis(9), 20, Outcome::Cancelled));
        assert_near(law.limit(), 20.0);
        assert_eq!(law.unloaded, Some(Duration::from_millis(9)));
    }

    #[test]
    fn a_slow_sample_becomes_the_baseline_within_thirty_for_each_slot() {
        let slow = sample(Duration::from_millis(50), 1, Outcome::Ok);
        let mut law = Vegas::new(1);
        law.sample(&served(10_000));
        for _ in 1..299 {
            law.sample(&slow);
        }
        assert_eq!(law.unloaded, Some(Duration::from_millis(10)));
        for _ in 299..600 {
            law.sample(&slow);
        }
        assert_eq!(law.unloaded, Some(slow.latency));
    }
}

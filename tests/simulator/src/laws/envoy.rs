use std::time::Duration;

use tokio::time::Instant;
use tower_overload::{Outcome, Sample};

use super::{Law, real, whole};
use crate::chance::Chance;

const LEAST: f64 = 3.0;
const MOST: f64 = 1000.0;
const WINDOW: Duration = Duration::from_millis(100);
const PROBE_EVERY: Duration = Duration::from_secs(60);
const PROBE_JITTER_MILLIS: usize = 9_000; // 15 %
const PROBE_REQUESTS: usize = 50;
const BUFFER: f64 = 0.25;
/// After so many windows in a row at the least limit, the baseline is doubted.
const DOUBT: u32 = 5;

/// Envoy's gradient controller: the latency of a tenth of a second against one that was measured with three in flight.
///
/// Read from `source/extensions/filters/http/adaptive_concurrency/controller/gradient_controller.cc` of `envoyproxy/envoy` at
/// c35f67f; 100 ms and 60 s have no default there, and are those of its documentation's example. Differs: its timers go off
/// with what the law is told next; the percentile is exact, where the source has whole microseconds in a histogram of two
/// digits; and what tells nothing is not counted. As there, a client that left is not counted either, and an answer is a
/// latency whatever its status.
#[derive(Clone, Debug)]
pub struct Envoy {
    percentile: f64,
    limit: f64,
    latencies: Vec<Duration>,
    baseline: Duration,
    epoch: Option<Instant>, // the last probe's beginning: what is older tells nothing any more
    at_least: u32,          // windows in a row
    phase: Phase,
    chance: Chance,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Few are let in, to see what a request takes alone.
    Probe { afterwards: f64 },
    Steady {
        window_ends: Instant,
        probe_at: Instant,
    },
}

impl Envoy {
    /// Of this percentile of the latencies, from zero to one: 0.5 is theirs. The seed is of when it measures again.
    ///
    /// # Panics
    ///
    /// If the percentile is not from zero to one.
    #[must_use]
    pub fn new(percentile: f64, seed: u64) -> Self {
        assert!((0.0..=1.0).contains(&percentile), "from zero to one");
        Self {
            percentile,
            limit: LEAST,
            latencies: Vec::new(),
            baseline: Duration::ZERO,
            epoch: None,
            at_least: 0,
            phase: Phase::Probe { afterwards: LEAST },
            chance: Chance::new(seed),
        }
    }

    /// What the timers would have done until now.
    fn catch_up(&mut self, now: Instant) {
        let Phase::Steady {
            mut window_ends,
            mut probe_at,
        } = self.phase
        else {
            return;
        };
        if window_ends <= now.min(probe_at) && self.end_window() {
            probe_at = now;
        }
        while window_ends <= now {
            window_ends += WINDOW;
        }
        self.phase = if probe_at <= now {
            self.begin_probe(now)
        } else {
            Phase::Steady {
                window_ends,
                probe_at,
            }
        };
    }

    // ## Steady => Probe
    fn begin_probe(&mut self, now: Instant) -> Phase {
        self.epoch = Some(now);
        self.latencies.clear();
        self.at_least = 0;
        let afterwards = std::mem::replace(&mut self.limit, LEAST);
        Phase::Probe { afterwards }
    }

    // ## Probe => Steady
    fn end_probe(&mut self, now: Instant, afterwards: f64) {
        self.baseline = self.take_percentile();
        self.limit = afterwards;
        let jitter = self.chance.below(PROBE_JITTER_MILLIS) as u64;
        self.phase = Phase::Steady {
            window_ends: now + WINDOW,
            probe_at: now + PROBE_EVERY + Duration::from_millis(jitter),
        };
    }

    /// True if the baseline is doubted.
    fn end_window(&mut self) -> bool {
        if self.latencies.is_empty() {
            return false;
        }
        let latency = self.take_percentile();
        let gradient = self
            .baseline
            .mul_f64(1.0 + BUFFER)
            .div_duration_f64(latency);
        let limit = self.limit * gradient.clamp(0.5, 2.0);
        let next = (limit + limit.sqrt()).floor().clamp(LEAST, MOST);
        let stays = self.limit <= LEAST && next <= LEAST;
        self.at_least = if stays { self.at_least + 1 } else { 0 };
        self.limit = next;
        self.at_least >= DOUBT
    }

    /// At least a microsecond: the source asserts so.
    fn take_percentile(&mut self) -> Duration {
        self.latencies.sort_unstable();
        let rank = whole((real(self.latencies.len()) * self.percentile).ceil());
        let latency = self.latencies[rank.saturating_sub(1)];
        self.latencies.clear();
        latency.max(Duration::from_micros(1))
    }
}

impl Law for Envoy {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn sample(&mut self, sample: &Sample) {
        self.catch_up(sample.now);
        if matches!(sample.outcome, Outcome::Cancelled | Outcome::Ignore)
            || self.epoch.is_some_and(|epoch| sample.began < epoch)
        {
            return;
        }
        self.latencies.push(sample.latency);
        if let Phase::Probe { afterwards } = self.phase {
            if self.latencies.len() >= PROBE_REQUESTS {
                self.end_probe(sample.now, afterwards);
            }
        }
    }

    fn full(&mut self, now: Instant) {
        self.catch_up(now);
    }

    fn delay(&mut self, now: Instant, _: Duration) {
        self.catch_up(now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_near, sample};
    use super::*;

    const LATENCY: Duration = Duration::from_millis(10);

    struct Told {
        law: Envoy,
        /// When its first probe ended.
        began: Instant,
    }

    impl Told {
        fn new() -> Self {
            Self::with_seed(1)
        }

        /// Its baseline is 10 ms.
        fn with_seed(seed: u64) -> Self {
            let mut told = Self {
                law: Envoy::new(0.5, seed),
                began: Instant::now(),
            };
            told.sampled(0, LATENCY, PROBE_REQUESTS);
            assert_eq!(told.law.baseline, LATENCY);
            told
        }

        fn sampled(&mut self, millis: u64, latency: Duration, times: usize) {
            for _ in 0..times {
                let mut sample = sample(latency, 3, Outcome::Ok);
                sample.now = self.at(millis);
                sample.began = sample.now;
                self.law.sample(&sample);
            }
        }

        /// When it probes, if it does within so many windows of slow answers.
        fn slow(&mut self, millis: u64, windows: u64) -> Option<u64> {
            (0..windows).find_map(|window| {
                let begins = millis + window * 100;
                self.sampled(begins + 1, LATENCY * 100, 1);
                assert!(!self.probes(begins + 99));
                self.probes(begins + 100).then_some(begins + 100)
            })
        }

        fn limit(&mut self, millis: u64) -> f64 {
            self.law.full(self.at(millis));
            self.law.limit()
        }

        fn probes(&mut self, millis: u64) -> bool {
            self.law.full(self.at(millis));
            matches!(self.law.phase, Phase::Probe { .. })
        }

        fn at(&self, millis: u64) -> Instant {
            self.began + Duration::from_millis(millis)
        }
    }

    #[test]
    fn it_begins_with_fifty_requests_three_at_a_time() {
        let mut told = Told {
            law: Envoy::new(0.5, 1),
            began: Instant::now(),
        };
        told.sampled(0, LATENCY, 49);
        assert!(told.probes(10_000));
        assert_near(told.law.limit(), 3.0);
        told.sampled(10_000, LATENCY, 1);
        assert!(!told.probes(10_000));
    }

    #[test]
    fn it_moves_at_the_end_of_a_window() {
        let mut told = Told::new();
        told.sampled(1, LATENCY, 1);
        assert_near(told.limit(99), 3.0);
        assert_near(told.limit(100), 5.0); // ⌊3.75 + √3.75⌋
        told.sampled(101, LATENCY * 2, 1);
        assert_near(told.limit(199), 5.0);
        assert_near(told.limit(200), 4.0); // ⌊3.125 + √3.125⌋
        assert_near(told.limit(1_000), 4.0);
    }

    #[test]
    fn it_neither_more_than_doubles_nor_halves_before_the_root_is_added() {
        // 200, 100·12.5/8 and 50, each and its root
        for (latency, limit) in [(1, 214.0), (8, 168.0), (1_000, 57.0)] {
            let mut told = Told::new();
            told.law.limit = 100.0;
            told.sampled(1, Duration::from_millis(latency), 1);
            assert_near(told.limit(100), limit);
        }
    }

    #[test]
    fn the_percentile_is_of_the_window() {
        for (percentile, latency) in [(0.0, 1), (0.5, 5), (0.51, 6), (0.9, 9), (1.0, 10)] {
            let mut law = Envoy::new(percentile, 1);
            law.latencies = (1..=10).rev().map(Duration::from_millis).collect();
            assert_eq!(law.take_percentile(), Duration::from_millis(latency));
            assert!(law.latencies.is_empty());
        }
    }

    #[test]
    fn after_five_windows_at_the_least_limit_the_baseline_is_doubted() {
        let mut told = Told::new();
        assert!(told.slow(0, 4).is_none());
        assert_eq!(told.slow(400, 9), Some(500));
        // and again only after as many
        told.sampled(600, LATENCY, PROBE_REQUESTS);
        assert_eq!(told.slow(600, 9), Some(1_100));
    }

    #[test]
    fn a_better_window_takes_the_doubt_away() {
        let mut told = Told::new();
        assert!(told.slow(0, 4).is_none());
        told.sampled(401, LATENCY, 1);
        assert_near(told.limit(500), 5.0);
        // down to 4, down to 3, and five that stay there
        assert_eq!(told.slow(500, 9), Some(1_200));
    }

    #[test]
    fn a_probe_forgets_the_window_that_it_interrupts() {
        let mut told = Told::new();
        told.law.phase = Phase::Steady {
            window_ends: told.at(100),
            probe_at: told.at(50),
        };
        told.sampled(49, LATENCY, 1);
        assert_eq!(told.law.latencies.len(), 1);
        assert!(told.probes(50));
        assert_eq!(told.law.latencies.len(), 0);
    }

    #[test]
    fn it_stays_within_three_and_a_thousand() {
        for (limit, next) in [(600.0, 777.0), (900.0, 1_000.0)] {
            let mut told = Told::new();
            told.law.limit = limit;
            told.sampled(1, LATENCY, 1);
            assert_near(told.limit(100), next); // 750 + 27.4, 1125 + 33.5
        }
        let mut told = Told::new();
        told.sampled(1, LATENCY * 100, 1);
        assert_near(told.limit(100), 3.0); // 1.5 + 1.2
    }

    #[test]
    fn it_probes_after_a_minute_and_up_to_nine_seconds_more() {
        for seed in 0..100 {
            let mut told = Told::with_seed(seed);
            assert!(!told.probes(59_999));
            assert!(told.probes(69_000));
        }
    }

    #[test]
    fn a_probe_pins_and_restores_the_limit_and_sees_only_what_began_in_it() {
        let mut told = Told::new();
        told.law.limit = 100.0;
        assert!(told.probes(69_000));
        assert_near(told.law.limit(), 3.0);
        let mut old = sample(LATENCY, 3, Outcome::Ok);
        old.now = told.at(69_001);
        old.began = told.at(68_999);
        for _ in 0..PROBE_REQUESTS {
            told.law.sample(&old);
        }
        assert!(told.probes(69_001));
        told.sampled(69_002, LATENCY * 2, PROBE_REQUESTS);
        assert!(!told.probes(69_002));
        assert_near(told.law.limit(), 100.0);
        assert_eq!(told.law.baseline, LATENCY * 2);
    }

    #[test]
    fn an_answer_is_a_latency_whatever_it_says() {
        for (outcome, count) in [
            (Outcome::Ok, 1),
            (Outcome::Overload, 1),
            (Outcome::Cancelled, 0),
            (Outcome::Ignore, 0),
        ] {
            let mut law = Envoy::new(0.5, 1);
            law.sample(&sample(LATENCY, 3, outcome));
            assert_eq!(law.latencies.len(), count);
        }
    }
}

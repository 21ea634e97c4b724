use std::time::Duration;

use tokio::time::Instant;
use tower_overload::{Outcome, Sample};

use super::{Law, dropped};

const WINDOW: Duration = Duration::from_secs(1);
const ENOUGH: u32 = 10;
const SHORTEST: Duration = Duration::from_micros(100);

/// Netflix's `WindowedLimit`: a law hears once a second, of the mean latency, of the most that were in flight, and whether
/// any was dropped.
///
/// Read from `limit/WindowedLimit.java` and `limit/window/ImmutableAverageSampleWindow.java` of `Netflix/concurrency-limits`
/// at 78a74b9. Differs: the sample ends when it is known, which is later than its beginning and its latency if the body of
/// the request was waited for. As there, a drop is in the mean, and the very first sample is a window of its own, too few.
#[derive(Clone, Debug)]
pub struct Windowed<L> {
    inner: L,
    ends: Option<Instant>,
    window: Window,
}

#[derive(Clone, Debug, Default)]
struct Window {
    count: u32,
    sum: Duration,
    in_flight: usize,
    dropped: bool,
}

// === impl Windowed ===

impl<L: Law> Windowed<L> {
    /// `inner` hears of windows.
    pub fn new(inner: L) -> Self {
        Self {
            inner,
            ends: None,
            window: Window::default(),
        }
    }
}

impl<L: Law> Law for Windowed<L> {
    fn limit(&self) -> f64 {
        self.inner.limit()
    }

    fn sample(&mut self, sample: &Sample) {
        let Some(dropped) = dropped(sample.outcome) else {
            return;
        };
        if sample.latency < SHORTEST {
            return;
        }
        self.window.add(sample, dropped);
        if self.ends.is_none_or(|ends| sample.now > ends) {
            self.ends = Some(sample.now + WINDOW);
            let window = std::mem::take(&mut self.window);
            if window.count >= ENOUGH {
                self.inner.sample(&window.as_if_one(sample));
            }
        }
    }

    fn full(&mut self, now: Instant) {
        self.inner.full(now);
    }

    fn delay(&mut self, now: Instant, delay: Duration) {
        self.inner.delay(now, delay);
    }
}

// === impl Window ===

impl Window {
    fn add(&mut self, sample: &Sample, dropped: bool) {
        self.count += 1;
        self.sum += sample.latency;
        self.in_flight = self.in_flight.max(sample.in_flight);
        self.dropped |= dropped;
    }

    fn as_if_one(&self, last: &Sample) -> Sample {
        let mut sample = last.clone();
        sample.latency = self.sum / self.count;
        sample.in_flight = self.in_flight;
        sample.outcome = if self.dropped {
            Outcome::Overload
        } else {
            Outcome::Ok
        };
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[derive(Debug, Default)]
    struct Seen(Vec<(Duration, usize, Outcome)>);

    impl Law for Seen {
        fn limit(&self) -> f64 {
            1.0
        }

        fn sample(&mut self, sample: &Sample) {
            self.0
                .push((sample.latency, sample.in_flight, sample.outcome));
        }
    }

    struct Told {
        law: Windowed<Seen>,
        began: Instant,
    }

    impl Told {
        /// Its first sample, and with it its first window, was at zero.
        fn new() -> Self {
            let mut told = Self {
                law: Windowed::new(Seen::default()),
                began: Instant::now(),
            };
            told.at(0, 1_000, 99, Outcome::Cancelled);
            told
        }

        fn at(&mut self, millis: u64, micros: u64, in_flight: usize, outcome: Outcome) {
            let mut sample = sample(Duration::from_micros(micros), in_flight, outcome);
            sample.now = self.began + Duration::from_millis(millis);
            self.law.sample(&sample);
        }

        fn seen(&self) -> &[(Duration, usize, Outcome)] {
            &self.law.inner.0
        }
    }

    #[test]
    fn a_window_is_one_sample_of_the_mean_and_the_most() {
        let mut told = Told::new();
        for in_flight in 1..=9 {
            told.at(500, 2_000, in_flight, Outcome::Ok);
        }
        told.at(1_001, 12_000, 1, Outcome::Ok);
        assert_eq!(told.seen(), [(Duration::from_millis(3), 9, Outcome::Ok)]);
    }

    #[test]
    fn it_ends_after_a_second_and_not_at_it() {
        let mut told = Told::new();
        for _ in 0..10 {
            told.at(1_000, 2_000, 1, Outcome::Ok);
        }
        assert_eq!(told.seen(), []);
        told.at(1_001, 2_000, 1, Outcome::Ok);
        assert_eq!(told.seen().len(), 1);
        for _ in 0..10 {
            told.at(2_001, 2_000, 1, Outcome::Ok);
        }
        assert_eq!(told.seen().len(), 1);
        told.at(2_002, 2_000, 1, Outcome::Ok);
        assert_eq!(told.seen().len(), 2);
    }

    #[test]
    fn nine_are_too_few_and_are_forgotten() {
        let mut told = Told::new();
        for _ in 0..8 {
            told.at(500, 2_000, 1, Outcome::Cancelled);
        }
        told.at(1_001, 2_000, 1, Outcome::Cancelled);
        assert_eq!(told.seen(), []);
        for _ in 0..9 {
            told.at(1_500, 4_000, 1, Outcome::Ok);
        }
        told.at(2_002, 4_000, 1, Outcome::Ok);
        assert_eq!(told.seen(), [(Duration::from_millis(4), 1, Outcome::Ok)]);
    }

    #[test]
    fn one_drop_is_a_drop_and_its_latency_counts() {
        let mut told = Told::new();
        for _ in 0..9 {
            told.at(500, 2_000, 1, Outcome::Ok);
        }
        told.at(1_001, 12_000, 1, Outcome::Cancelled);
        let dropped = (Duration::from_millis(3), 1, Outcome::Overload);
        assert_eq!(told.seen(), [dropped]);
    }

    #[test]
    fn what_is_shorter_than_a_hundred_microseconds_is_not_counted() {
        for (micros, windows) in [(99, 0), (100, 1)] {
            let mut told = Told::new();
            for _ in 0..9 {
                told.at(500, 2_000, 1, Outcome::Ok);
            }
            told.at(1_001, micros, 1, Outcome::Ok);
            assert_eq!(told.seen().len(), windows);
        }
    }

    #[test]
    fn what_tells_nothing_does_not_end_a_window() {
        let mut told = Told::new();
        for _ in 0..10 {
            told.at(500, 2_000, 1, Outcome::Ok);
        }
        told.at(1_001, 2_000, 50, Outcome::Ignore);
        assert_eq!(told.seen(), []);
    }
}

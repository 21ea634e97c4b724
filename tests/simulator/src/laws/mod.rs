//! What others do, restated from their sources with the constants they ship: for comparison, not for use.
//!
//! Each is a [`Law`], which knows no clock: its time is that of the samples, of those who found no slot, and of the delays.
//! So where its source has a timer, the law notices that the time is up at the first of these past it. [`Told`] makes a
//! [`Limit`] of a law.
//!
//! Those of Netflix and Envoy differ from their sources in what they are told, too: a latency ends with the response head,
//! and there with the whole response; and what is in flight is counted then, where Netflix counts it as the request gets its
//! slot.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_overload::{Limit, Outcome, Sample};

mod aimd;
mod clock;
mod envoy;
mod gradient2;
mod resilience;
mod run_queue;
mod vegas;
mod windowed;

pub use self::{
    aimd::Aimd,
    clock::Clock,
    envoy::Envoy,
    gradient2::Gradient2,
    resilience::{ResilienceAimd, ResilienceVegas},
    run_queue::RunQueue,
    vegas::Vegas,
    windowed::Windowed,
};

/// A law as a state machine: what it is told, in order, is all that it knows.
pub trait Law: fmt::Debug + Send + 'static {
    /// How many may be in flight now. Only whole ones are let in.
    fn limit(&self) -> f64;

    /// A request that had a slot got its response head, or did not.
    fn sample(&mut self, sample: &Sample);

    /// A request found no slot.
    fn full(&mut self, now: Instant) {
        let _ = now;
    }

    /// A task that could run was not polled for so long.
    fn delay(&mut self, now: Instant, delay: Duration) {
        let _ = (now, delay);
    }
}

/// A [`Limit`] of a [`Law`]: tells it one thing at a time, and remembers what it says.
#[derive(Debug)]
pub struct Told<M> {
    law: Mutex<M>,
    limit: AtomicUsize,
}

/// Always so many.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub usize);

// === impl Told ===

impl<M: Law> Told<M> {
    /// The limit that `law` finds.
    pub fn new(law: M) -> Self {
        Self {
            limit: AtomicUsize::new(whole(law.limit())),
            law: Mutex::new(law),
        }
    }

    fn tell(&self, what: impl FnOnce(&mut M)) {
        let mut law = self.law.lock().expect("no law panics");
        what(&mut law);
        // Relaxed: the number is all that is read. Under the lock: what the law said last is what stays.
        self.limit.store(whole(law.limit()), Ordering::Relaxed);
    }
}

impl<M: Law> Limit for Told<M> {
    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn on_sample(&self, sample: &Sample) {
        self.tell(|law| law.sample(sample));
    }

    fn on_full(&self, now: Instant) {
        self.tell(|law| law.full(now));
    }

    fn on_delay(&self, now: Instant, delay: Duration) {
        self.tell(|law| law.delay(now, delay));
    }
}

// === impl Fixed ===

impl Limit for Fixed {
    fn limit(&self) -> usize {
        self.0
    }

    fn on_sample(&self, _: &Sample) {}
}

/// Whether it counts as dropped. `None` is not to be counted at all.
fn dropped(outcome: Outcome) -> Option<bool> {
    match outcome {
        Outcome::Ok => Some(false),
        Outcome::Overload | Outcome::Cancelled => Some(true),
        Outcome::Ignore => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 requests")]
fn real(requests: usize) -> f64 {
    requests as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a limit that is not whole lets only whole ones in, and none is below zero"
)]
fn whole(limit: f64) -> usize {
    limit as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One known now.
    pub(super) fn sample(latency: Duration, in_flight: usize, outcome: Outcome) -> Sample {
        let mut sample = Sample::new(latency, outcome);
        sample.in_flight = in_flight;
        sample
    }

    /// One that was served, with 20 in flight.
    pub(super) fn served(micros: u64) -> Sample {
        sample(Duration::from_micros(micros), 20, Outcome::Ok)
    }

    #[track_caller]
    pub(super) fn assert_near(is: f64, should: f64) {
        assert!((is - should).abs() < 1e-9, "{is} is not {should}");
    }

    /// Adds a third of what it is told of.
    #[derive(Debug)]
    struct Thirds(f64);

    impl Law for Thirds {
        fn limit(&self) -> f64 {
            self.0 / 3.0
        }

        fn sample(&mut self, _: &Sample) {
            self.0 += 1.0;
        }

        fn full(&mut self, _: Instant) {
            self.0 += 3.0;
        }

        fn delay(&mut self, _: Instant, delay: Duration) {
            self.0 += 3.0 * delay.as_secs_f64();
        }
    }

    #[test]
    fn only_whole_ones_are_let_in() {
        let told = Told::new(Thirds(10.0));
        assert_eq!(told.limit(), 3);
        told.on_sample(&served(1));
        assert_eq!(told.limit(), 3);
        told.on_sample(&served(1));
        assert_eq!(told.limit(), 4);
    }

    #[test]
    fn a_law_is_told_of_everything() {
        let told = Told::new(Thirds(0.0));
        told.on_full(Instant::now());
        assert_eq!(told.limit(), 1);
        told.on_delay(Instant::now(), Duration::from_secs(4));
        assert_eq!(told.limit(), 5);
    }

    #[test]
    fn a_fixed_limit_stays() {
        let fixed = Fixed(64);
        fixed.on_sample(&sample(Duration::from_secs(9), 64, Outcome::Overload));
        assert_eq!(fixed.limit(), 64);
    }
}

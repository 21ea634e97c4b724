//! What many clients and many servers do to each other: retries that keep a server down, servers that vanish, that look
//! for their limit at the same time, that look idle as they refuse, and clients that come back together.
//!
//! Each experiment has a short variant, of seconds, and a long one. Both draw the same conclusions; the long one from more
//! cases. All are the same from run to run.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;
use tower_overload::{Adaptive, Limit, Sample};

use crate::{
    laws::{Envoy, Fixed, Gradient2, Told, Windowed},
    room::Order,
    run::Run,
    table::Report,
    work::Work,
    world::{Policy, Retry, Scenario},
};

mod balance;
mod herd;
mod map;
mod probes;
mod speed;
mod zone;

pub use self::{
    balance::balance,
    herd::herd,
    map::{map, why},
    probes::probes,
    speed::speed,
    zone::zone,
};

/// All but the speed, which is another on each machine.
#[must_use]
pub fn run(quick: bool) -> Vec<Report> {
    vec![
        map(quick),
        zone(quick),
        probes(quick),
        balance(quick),
        herd(quick),
    ]
}

/// Who is compared: a law and a waiting room.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// What it is called in tables.
    pub name: &'static str,
    law: fn(&Work, u64) -> Box<dyn Limit>,
    max_wait: f64,
    endless: bool,
}

impl Contender {
    /// `Adaptive`, whose clients wait for up to 200 ms.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            name: "Adaptive",
            law: |work, seed| {
                let floor = work.cores.max(4);
                let start = (2 * work.cores).max(4);
                Box::new(Adaptive::new().floor(floor).start(start).seed(seed))
            },
            max_wait: 0.2,
            endless: false,
        }
    }

    /// The same without a waiting room.
    #[must_use]
    pub fn refusing() -> Self {
        Self {
            name: "Adaptive, no wait",
            max_wait: 0.0,
            ..Self::ours()
        }
    }

    /// As ours, but chance is the same for each server.
    #[must_use]
    pub fn alike() -> Self {
        let law = |work: &Work, _| (Self::ours().law)(work, 1);
        Self {
            name: "Adaptive, one seed",
            law,
            ..Self::ours()
        }
    }

    /// A law that tries a lower limit for a tenth of every second second: all servers at once.
    #[must_use]
    pub fn clock() -> Self {
        Self {
            name: "by the clock",
            law: |_, _| Box::new(Clock::default()),
            ..Self::ours()
        }
    }

    /// `ConcurrencyLimit` of tower: 64, and all others wait.
    #[must_use]
    pub fn tower() -> Self {
        Self {
            name: "tower ConcurrencyLimit(64)",
            law: |_, _| Box::new(Fixed(64)),
            max_wait: 0.0,
            endless: true,
        }
    }

    /// 64 at a time, and all others are refused: right for A.
    #[must_use]
    pub fn fixed() -> Self {
        Self {
            name: "64, refusing",
            endless: false,
            ..Self::tower()
        }
    }

    /// Netflix's, as it is recommended for servers.
    #[must_use]
    pub fn gradient2() -> Self {
        Self {
            name: "Gradient2, windowed",
            law: |_, _| Box::new(Told::new(Windowed::new(Gradient2::default()))),
            max_wait: 0.0,
            endless: false,
        }
    }

    /// Envoy's adaptive concurrency.
    #[must_use]
    pub fn envoy() -> Self {
        Self {
            name: "Envoy",
            law: |_, seed| Box::new(Told::new(Envoy::new(0.5, seed))),
            max_wait: 0.0,
            endless: false,
        }
    }

    /// What it makes of a scenario.
    #[must_use]
    pub fn run(&self, scenario: &Scenario<'_>) -> Run {
        let work = scenario.work.clone();
        let law = |seed| (self.law)(&work, seed);
        scenario.run(&Policy {
            law: &law,
            max_wait: self.max_wait,
            order: if self.endless {
                Order::Fifo
            } else {
                Order::AdaptiveLifo
            },
            endless: self.endless,
        })
    }
}

#[derive(Debug, Default)]
struct Clock {
    began: OnceLock<Instant>,
    probes: AtomicBool,
}

impl Clock {
    fn look(&self, now: Instant) {
        let began = self.began.get_or_init(|| now);
        let now = now.saturating_duration_since(*began).as_millis();
        // Relaxed: nothing else is read by it, and there is one thread.
        self.probes.store(now % 2_000 < 100, Ordering::Relaxed);
    }
}

impl Limit for Clock {
    fn limit(&self) -> usize {
        if self.probes.load(Ordering::Relaxed) {
            26
        } else {
            64
        }
    }

    fn on_sample(&self, sample: &Sample) {
        self.look(sample.now);
    }

    fn on_full(&self, now: Instant) {
        self.look(now);
    }
}

/// How clients behave that were refused.
const RETRIES: [Retry; 5] = [
    Retry::Never,
    Retry::Fast,
    Retry::Constant,
    Retry::Jitter,
    Retry::Told,
];

/// So much of what is asked for counts as all of it: 95 %, and what chance takes of a second.
const BACK: f64 = 0.95 * 0.97;

/// In how many seconds after `from` it is back at `rate` good answers in a second, for three seconds on end, and at the
/// end too. Infinite if it is not.
fn back_in(run: &Run, from: f64, rate: f64) -> f64 {
    let line = BACK * rate;
    let end = tenths(run.bins.len());
    if run.goodput_between(end - 10.0, end) < line {
        return f64::INFINITY;
    }
    let back = |at: &f64| {
        (0..3).all(|second| {
            let from = at + f64::from(second);
            run.goodput_between(from, from + 1.0) >= line
        })
    };
    let tries = (0..)
        .map(|tenth| from + tenths(tenth))
        .take_while(|at| at + 3.0 <= end);
    let first = tries.into_iter().find(back);
    first.map_or(f64::INFINITY, |at| at - from)
}

/// In seconds.
#[expect(clippy::cast_precision_loss, reason = "a time")]
fn tenths(tenths: usize) -> f64 {
    tenths as f64 / 10.0
}

#[expect(clippy::cast_precision_loss, reason = "few")]
fn real(count: usize) -> f64 {
    count as f64
}

/// Their mean.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / real(values.len().max(1))
}

/// Their variance.
fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares = values.iter().map(|value| (value - mean).powi(2));
    squares.sum::<f64>() / real(values.len().max(2) - 1)
}

/// The greatest.
fn most(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// The least.
fn least(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 80 in a second; none between two times.
    fn run(from: usize, to: usize) -> Run {
        let rate = |_: f64| 0.0;
        let scenario = Scenario::steady(Work::mixed(), &rate, 60.0, 1);
        let mut run = Contender::fixed().run(&scenario);
        for (tenth, bin) in run.bins.iter_mut().enumerate() {
            bin.good = if (from..to).contains(&tenth) { 0 } else { 8 };
        }
        run
    }

    #[test]
    fn it_is_back_once_it_has_been_for_three_seconds() {
        assert!(back_in(&run(300, 350), 30.0, 80.0) - 5.0 < 0.11);
        assert!(back_in(&run(0, 0), 30.0, 80.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_down_at_the_end_is_not_back() {
        assert!(back_in(&run(500, 600), 30.0, 80.0).is_infinite());
        assert!(back_in(&run(0, 0), 30.0, 90.0).is_infinite());
    }

    #[test]
    fn what_asks_for_nothing_is_served_nothing() {
        let rate = |_: f64| 0.0;
        let scenario = Scenario::steady(Work::mixed(), &rate, 5.0, 1);
        let all = Contender::ours().run(&scenario).sum_of_all();
        assert!(all.came == 0.0 && all.good == 0.0);
    }

    #[test]
    fn one_run_is_the_next_to_the_last_bit() {
        let report = || map::one(Contender::ours(), 0.9, 0.2, Retry::Fast, 3).goodput();
        assert_eq!(report().to_bits(), report().to_bits());
    }

    #[test]
    fn a_variance_is_of_a_sample() {
        assert!((variance(&[1.0, 2.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!((mean(&[1.0, 2.0, 3.0]) - 2.0).abs() < 1e-12);
    }
}

//! What many clients and many servers do to each other: retries that keep a server down, servers that vanish, that look
//! for their limit at the same time, that look idle as they refuse, and clients that come back together.
//!
//! Each experiment has a short variant, of seconds, and a long one. Both draw the same conclusions; the long one from more
//! cases. All are the same from run to run.

use crate::{
    contender::Contender,
    run::{Run, real},
    table::Report,
    world::Retry,
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
    use crate::{work::Work, world::Scenario};

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

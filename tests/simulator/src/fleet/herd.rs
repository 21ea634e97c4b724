//! Whether clients that were refused come back together.

use super::{Contender, back_in, mean, most, real};
use crate::{
    plot::LineChart,
    run::{Bin, Run},
    table::{Report, Table, Verdict, figure, percent},
    work::Work,
    world::{Retry, Scenario},
};

const LOAD: f64 = 0.85;

/// When the trigger is, in seconds.
const FROM: usize = 30;

/// The part of those who come back that is looked at: without the few who came first and last.
const MIDDLE: f64 = 0.9;

/// How long the calendar plans for: a minute. Further ahead it promises more.
const MINUTE: usize = 60;

/// Which part of what is served in a second the calendar promises to those who come back.
const PROMISED: f64 = 0.1;

/// One server with 0.85 of what it can do to do. Either it has but a twentieth of its processors for ten seconds, as good
/// as an outage but it refuses; or for one second ten times as many come. Who was refused comes back after a second, or by
/// chance, or when the calendar of promises says.
///
/// How the flow of those who come back is measured: in whole seconds, as that is what `Retry-After` can say; who was told
/// to come in each. A flow begins and ends, and what comes before and after is not a part of it. So it is measured twice:
/// in the shortest span in which nine tenths come; and from when the trigger is over to a minute after it began, for which
/// the calendar has planned each second. The latter is the steady part, if what can be served is known and the same, as
/// after the burst; in an outage the calendar promises a part of what little is served in it.
///
/// Peak to mean alone is not fair: who tells everybody to come in a second has a steady flow, of all of them. So the peak
/// is said in terms of what the server can do, too, and which part of what comes later is refused.
#[must_use]
pub fn herd(quick: bool) -> Report {
    let seeds = if quick { 2 } else { 10 };
    let mut table = Table::new(
        "Who was refused comes back: one server, 0.85 of what it can do",
        [
            "trigger",
            "retry",
            "told to come back",
            "nine tenths in, s",
            "peak to mean of these",
            "peak to mean in the minute",
            "peak in it, of what can be served",
            "peak ever",
            "refused later",
            "back in, s",
        ],
    );
    let mut report = Report::default();
    let capacity = Work::mixed().capacity();
    // Of so many by chance, hardly ever more.
    let line = PROMISED + 3.0 * (PROMISED / capacity).sqrt();
    for trigger in [Trigger::Outage, Trigger::Burst] {
        let mut plot = LineChart::new(
            format!("Who comes back after {}", trigger.name()),
            "time in s",
            "in a second",
        )
        .log()
        .across("a tenth of what can be served", PROMISED * capacity);
        for retry in [Retry::Constant, Retry::Jitter, Retry::Told] {
            let flows = (1..=seeds).map(|seed| Flow::of(trigger, &trigger.run(retry, seed)));
            let flows: Vec<_> = flows.collect();
            let worst = |what: fn(&Flow) -> f64| most(flows.iter().map(what));
            table.row([
                trigger.name().to_owned(),
                format!("{retry:?}"),
                figure(worst(|flow| flow.all)),
                figure(worst(|flow| flow.middle)),
                figure(worst(|flow| flow.middle_ratio)),
                figure(worst(|flow| flow.minute_ratio)),
                percent(worst(|flow| flow.minute_peak) / capacity),
                percent(worst(|flow| flow.peak) / capacity),
                percent(worst(|flow| flow.refused)),
                figure(worst(|flow| flow.back)),
            ]);
            if retry == Retry::Told {
                let name = trigger.name();
                if trigger == Trigger::Burst {
                    report.verdicts.push(Verdict::at_most(
                        format!("herd: peak to mean of the calendar, {name}"),
                        worst(|flow| flow.minute_ratio),
                        1.3,
                    ));
                }
                report.verdicts.push(Verdict::at_most(
                    format!("herd: peak of the calendar, of what can be served, {name}"),
                    worst(|flow| flow.minute_peak) / capacity,
                    line,
                ));
                report.verdicts.push(Verdict::at_most(
                    format!("herd: refused later with the calendar, {name}"),
                    worst(|flow| flow.refused),
                    0.1,
                ));
            }
            // Later there are but a few.
            let points = flows[0].each.iter().enumerate().take(FROM + 2 * MINUTE);
            let points = points.skip(FROM - 10);
            let points = points.map(|(second, count)| (real(second), *count));
            plot = plot.line(format!("{retry:?}"), points);
        }
        let name = format!(
            "herd-{}",
            if trigger == Trigger::Burst {
                "burst"
            } else {
                "outage"
            }
        );
        report.plots.push((name, plot.to_svg()));
    }
    report.tables.push(table);
    report
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    Outage,
    Burst,
}

impl Trigger {
    fn name(self) -> &'static str {
        match self {
            Self::Outage => "10 s at a twentieth of the capacity",
            Self::Burst => "1 s of ten times the capacity",
        }
    }

    fn lasts(self) -> usize {
        match self {
            Self::Outage => 10,
            Self::Burst => 1,
        }
    }

    fn run(self, retry: Retry, seed: u64) -> Run {
        let work = Work::mixed();
        let capacity = work.capacity();
        let during = |now: f64| (real(FROM)..real(FROM + self.lasts())).contains(&now);
        let rate = |now: f64| {
            if self == Self::Burst && during(now) {
                10.0 * capacity
            } else {
                LOAD * capacity
            }
        };
        let slow = |now: f64, _| {
            if self == Self::Outage && during(now) {
                20.0
            } else {
                1.0
            }
        };
        let mut scenario = Scenario::steady(work, &rate, 700.0, seed);
        scenario.retry = retry;
        scenario.slow = &slow;
        Contender::ours().run(&scenario)
    }
}

/// Those who come back because they were told to.
struct Flow {
    /// In each second.
    each: Vec<f64>,
    all: f64,
    /// In how many seconds nine tenths of them come, and the peak to mean of these.
    middle: f64,
    middle_ratio: f64,
    /// Of the minute after the trigger, and of all time.
    minute_ratio: f64,
    minute_peak: f64,
    peak: f64,
    /// Which part of all who came from ten seconds after the trigger on was refused.
    refused: f64,
    back: f64,
}

impl Flow {
    fn of(trigger: Trigger, run: &Run) -> Self {
        let seconds = run.bins.chunks(10);
        let each = seconds.map(|bins| bins.iter().map(|bin| f64::from(bin.returns)).sum());
        let each: Vec<f64> = each.collect();
        let over = FROM + trigger.lasts();
        let (middle, minute) = (middle(&each[FROM..]), &each[over + 2..FROM + MINUTE]);
        let later = &run.bins[10 * (over + 10)..];
        let sum = |what: fn(&Bin) -> u32| later.iter().map(|bin| f64::from(what(bin))).sum::<f64>();
        let ratio = |span: &[f64]| most(span.iter().copied()) / mean(span);
        Self {
            all: each[FROM..].iter().sum(),
            middle: real(middle.len()),
            middle_ratio: ratio(middle),
            minute_ratio: ratio(minute),
            minute_peak: most(minute.iter().copied()),
            peak: most(each[FROM..].iter().copied()),
            refused: sum(|bin| bin.refused) / sum(|bin| bin.came),
            back: back_in(run, real(over), LOAD * Work::mixed().capacity()),
            each,
        }
    }
}

/// The shortest stretch with nine tenths of it.
fn middle(each: &[f64]) -> &[f64] {
    let enough = MIDDLE * each.iter().sum::<f64>();
    let (mut shortest, mut from, mut sum) = (each, 0, 0.0);
    for (to, value) in each.iter().enumerate() {
        sum += value;
        while from < to && sum - each[from] >= enough {
            sum -= each[from];
            from += 1;
        }
        if sum >= enough && to + 1 - from < shortest.len() {
            shortest = &each[from..=to];
        }
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_who_come_first_and_last_are_not_the_middle() {
        let each = [1.0, 0.0, 0.0, 30.0, 31.0, 32.0, 0.0, 0.0, 1.0];
        assert_eq!(middle(&each), [30.0, 31.0, 32.0]);
    }

    #[test]
    fn nobody_is_a_flow_of_nothing() {
        assert!(middle(&[0.0, 0.0]).iter().all(|value| *value == 0.0));
    }
}

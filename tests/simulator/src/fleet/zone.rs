//! What is left of a fleet when a third of it vanishes.

use super::{BACK, Contender, RETRIES, least, most, real};
use crate::{
    run::Run,
    table::{Report, Table, Verdict, figure, percent},
    work::Work,
    world::{Balancer, Retry, Scenario},
};

const LOST: f64 = 60.0;
const FOUND: f64 = 120.0;
const END: f64 = 150.0;

/// A third of thirty servers, or of 999, are gone for a minute: those that remain must do what they can. At 0.6 of what
/// all can do the others have nine tenths of what they can do to do; at 0.8, twelve tenths. Whoever was with a server that
/// vanished comes again at once, and so do those who are refused.
#[must_use]
pub fn zone(quick: bool) -> Report {
    let fleets: &[usize] = if quick { &[30] } else { &[30, 999] };
    let retries: &[Retry] = if quick { &[Retry::Fast] } else { &RETRIES };
    let mut report = Report::default();
    let columns = [
        "policy",
        "servers",
        "load of all",
        "retry",
        "served while a third is gone",
        "least in a second after 5 s",
        "served after",
        "back in, s",
        "back after, s",
    ];
    let title = "A third of the servers vanish for a minute: of what could be served in time";
    let mut table = Table::new(title, columns);
    let (mut worst, mut slowest) = (f64::INFINITY, 0.0);
    for &servers in fleets {
        // What others do does not depend on how many there are.
        let all = [Contender::ours(), Contender::tower(), Contender::fixed()];
        let contenders = match servers {
            _ if servers > 30 => &all[..1],
            _ if quick => &all[..2],
            _ => &all[..],
        };
        for who in contenders {
            for load in [0.6, 0.8] {
                // What they all do takes many minutes, of so many servers.
                let retries = if servers > 30 {
                    &retries[1..2]
                } else {
                    retries
                };
                for &retry in retries {
                    let loss = Loss::of(*who, servers, load, retry);
                    if who.name == Contender::ours().name {
                        worst = least([worst, loss.during, loss.after]);
                        slowest = most([slowest, loss.back, loss.back_after]);
                    }
                    table.row([
                        who.name.to_owned(),
                        servers.to_string(),
                        figure(load),
                        format!("{retry:?}"),
                        percent(loss.during),
                        percent(loss.least),
                        percent(loss.after),
                        figure(loss.back),
                        figure(loss.back_after),
                    ]);
                }
            }
        }
    }
    report.tables.push(table);
    report.verdicts = vec![
        Verdict::at_least("zone: served in time of what could be", worst, 0.95),
        Verdict::at_most("zone: back, s", slowest, 5.0),
    ];
    report
}

struct Loss {
    /// Of what could be served: from five seconds after the loss until its end, in the worst second, and from five seconds
    /// after the others are back.
    during: f64,
    least: f64,
    after: f64,
    /// Seconds after the loss, and after its end.
    back: f64,
    back_after: f64,
}

pub(super) fn one(who: Contender, servers: usize, load: f64, retry: Retry) -> Run {
    let work = Work::mixed();
    let rate = load * work.capacity() * real(servers);
    let rate = |_: f64| rate;
    let slow = |now: f64, server| {
        if server % 3 == 0 && (LOST..FOUND).contains(&now) {
            0.0
        } else {
            1.0
        }
    };
    let mut scenario = Scenario::steady(work, &rate, END, 1);
    scenario.servers = servers;
    scenario.balancer = Balancer::TwoChoices;
    scenario.slow = &slow;
    scenario.retry = retry;
    who.run(&scenario)
}

impl Loss {
    fn of(who: Contender, servers: usize, load: f64, retry: Retry) -> Self {
        let run = one(who, servers, load, retry);
        let capacity = Work::mixed().capacity() * real(servers);
        let before = load * capacity;
        let during = before.min(capacity * 2.0 / 3.0);
        let seconds = (65..120).map(|second| {
            let from = f64::from(second);
            run.goodput_between(from, from + 1.0) / during
        });
        Self {
            during: run.goodput_between(LOST + 5.0, FOUND) / during,
            least: least(seconds),
            after: run.goodput_between(FOUND + 5.0, END) / before,
            back: back_between(&run, LOST, FOUND, during),
            back_after: back_between(&run, FOUND, END, before),
        }
    }
}

/// After how many seconds, at the latest, a second had less than it should.
fn back_between(run: &Run, from: f64, to: f64, rate: f64) -> f64 {
    let mut back = 0.0;
    let mut at = from;
    while at + 1.0 <= to {
        if run.goodput_between(at, at + 1.0) < BACK * rate {
            back = at + 0.1 - from;
        }
        at += 0.1;
    }
    back
}

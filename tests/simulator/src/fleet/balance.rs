//! What a balancer makes of a server that refuses.

use super::{Contender, least, most, real};
use crate::{
    run::Run,
    table::{Report, Table, Verdict, figure, percent},
    work::Work,
    world::{Balancer, Retry, Scenario},
};

const SERVERS: usize = 30;

/// By how much the sick one is slower.
const SICK: f64 = 10.0;

/// Thirty servers, one of which is ten times as slow as the others, and seven tenths of what they can do to do. A refusal
/// takes no time, so a server that refuses has few requests; who sends each request to the server with the fewest sends
/// more of them there to be refused. How much is that, and does a waiting room help, in which they count?
///
/// What could be served is what the others can do and a tenth of the sick one: all of it, here.
#[must_use]
pub fn balance(quick: bool) -> Report {
    let retries: &[Retry] = if quick {
        &[Retry::Never, Retry::Fast]
    } else {
        &[Retry::Never, Retry::Fast, Retry::Told]
    };
    let loads: &[f64] = if quick { &[0.7] } else { &[0.5, 0.7, 0.9] };
    let mut table = Table::new(
        format!("{SERVERS} servers, one of them {SICK:.0} times as slow; a fair part is 3.3 %"),
        [
            "balancer",
            "policy",
            "load",
            "retry",
            "come to the sick one",
            "of these refused",
            "refused of all",
            "served in time",
        ],
    );
    let (mut attracted, mut served) = (Vec::new(), Vec::new());
    for balancer in [Balancer::Random, Balancer::RoundRobin, Balancer::TwoChoices] {
        for who in [Contender::ours(), Contender::refusing(), Contender::fixed()] {
            for &load in loads {
                for &retry in retries {
                    let sick = Sick::of(who, balancer, load, retry, quick);
                    if who.name == Contender::ours().name && balancer == Balancer::TwoChoices {
                        attracted.push(sick.part);
                        if retry != Retry::Never {
                            served.push(sick.good);
                        }
                    }
                    table.row([
                        format!("{balancer:?}"),
                        who.name.to_owned(),
                        figure(load),
                        format!("{retry:?}"),
                        percent(sick.part),
                        percent(sick.refused_there),
                        percent(sick.refused),
                        percent(sick.good),
                    ]);
                }
            }
        }
    }
    Report {
        tables: vec![table],
        verdicts: vec![
            Verdict::at_most(
                "balance: part of all that two choices send to the sick one",
                most(attracted),
                2.0 / real(SERVERS),
            ),
            Verdict::at_least("balance: served in time with retries", least(served), 0.95),
        ],
        ..Report::default()
    }
}

struct Sick {
    /// Which part of what comes, that which comes again among it, comes to the sick one.
    part: f64,
    refused_there: f64,
    refused: f64,
    /// Of those who came the first time.
    good: f64,
}

impl Sick {
    fn of(who: Contender, balancer: Balancer, load: f64, retry: Retry, quick: bool) -> Self {
        let work = Work::mixed();
        let rate = load * work.capacity() * real(SERVERS);
        let first = rate;
        let rate = |_: f64| rate;
        let slow = |_: f64, server| if server == 0 { SICK } else { 1.0 };
        let duration = if quick { 40.0 } else { 160.0 };
        let mut scenario = Scenario::steady(work, &rate, duration, 1);
        scenario.servers = SERVERS;
        scenario.balancer = balancer;
        scenario.retry = retry;
        scenario.slow = &slow;
        let run: Run = who.run(&scenario);
        let (sick, all) = (run.servers[0], run.sum_of_all());
        Self {
            part: sick.came / all.came,
            refused_there: sick.refused / sick.came,
            refused: all.refused / all.came,
            good: run.goodput() / first,
        }
    }
}

//! How long the simulator takes for a large fleet.

use super::{Contender, real};
use crate::{
    table::{Report, Table, Verdict, figure},
    work::Work,
    world::{Balancer, Scenario},
};

/// In seconds, of a thousand servers and a minute.
const PATIENCE: f64 = 120.0;

/// A thousand servers that could serve 800 a second each, and twice as much to do, for a minute: how long that takes here,
/// on one core. The short variant has fifty servers; what it says of a thousand is a guess, and too low, as more memory is
/// slower memory.
#[must_use]
#[expect(
    clippy::disallowed_types,
    reason = "it is the time of a clock on the wall"
)]
pub fn speed(quick: bool) -> Report {
    let (servers, seconds) = if quick { (50, 10.0) } else { (1_000, 60.0) };
    let work = Work::mixed();
    let rate = 2.0 * work.capacity() * real(servers);
    let rate = |_: f64| rate;
    let mut scenario = Scenario::steady(work, &rate, seconds, 1);
    scenario.servers = servers;
    scenario.balancer = Balancer::TwoChoices;
    scenario.from = 0.0;
    let began = std::time::Instant::now();
    let run = Contender::ours().run(&scenario);
    let took = began.elapsed().as_secs_f64();
    let all = run.sum_of_all();
    let mut table = Table::new(
        "How long the simulator takes, on one core",
        [
            "servers",
            "seconds of theirs",
            "requests",
            "served",
            "took, s",
            "requests in a second",
        ],
    );
    table.row([
        servers.to_string(),
        figure(seconds),
        figure(all.came),
        figure(all.served),
        figure(took),
        figure(all.came / took),
    ]);
    let thousand = took * (1_000.0 / real(servers)) * (60.0 / seconds);
    Report {
        tables: vec![table],
        verdicts: vec![Verdict::at_most(
            "speed: a thousand servers for a minute, s",
            thousand,
            PATIENCE,
        )],
        ..Report::default()
    }
}

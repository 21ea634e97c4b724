//! Whether servers that were started at once look for their limit at once.

use super::{Contender, mean, real, variance};
use crate::{
    chance::Chance,
    plot::LineChart,
    run::Bin,
    table::{Report, Table, Verdict, figure},
    work::Work,
    world::{Balancer, Scenario},
};

/// When they have found a limit, in seconds.
const FROM: usize = 20;

/// In which time they are started, if not at once, in seconds.
const APART: f64 = 10.0;

/// At most so much more than by chance is chance.
const NOISE: f64 = 1.5;

/// A hundred servers, started at once, with twice what they can do to do. A server that tries a lower limit sheds more: if
/// all did so at once, it would show in what the fleet sheds in a tenth of a second, and in how that varies.
///
/// For comparison: the same fleet behind the same balancer, whose servers are started at any time within ten seconds. If the
/// phases of the fleet's probes were alike, what it sheds would vary more than that. A fleet all of whose servers have the
/// same seed is there to see whether what they meet is enough to tell them apart; and one whose servers do it by the clock, to
/// see whether it would be noticed.
#[must_use]
pub fn probes(quick: bool) -> Report {
    let (servers, seconds, seeds) = if quick { (40, 30, 1) } else { (100, 180, 3) };
    let balancers: &[Balancer] = if quick {
        &[Balancer::TwoChoices]
    } else {
        &[Balancer::Random, Balancer::TwoChoices, Balancer::RoundRobin]
    };
    let mut table = Table::new(
        format!("What {servers} servers shed in a tenth of a second, at twice what they can do"),
        [
            "balancer",
            "started",
            "shed, mean",
            "variance",
            "of that apart",
            "served, variance",
            "of that apart",
        ],
    );
    let (mut worst, mut noticed): (f64, f64) = (0.0, f64::INFINITY);
    let mut plot = LineChart::new(
        format!("Sheds of {servers} servers at twice what they can do"),
        "time since the first was started, in s",
        "sheds in a second",
    );
    for &balancer in balancers {
        let fleets = |who: Contender, apart: f64| {
            let fleets =
                (1..=seeds).map(|seed| fleet(who, balancer, servers, seconds, apart, seed));
            Fleets(fleets.collect())
        };
        let apart = fleets(Contender::ours(), APART);
        let at_once = fleets(Contender::ours(), 0.0);
        let alike = fleets(Contender::alike(), 0.0);
        let clock = fleets(Contender::clock(), 0.0);
        for (name, fleets) in [
            ("within 10 s", &apart),
            ("at once", &at_once),
            ("at once, one seed", &alike),
            ("by the clock", &clock),
        ] {
            let by_shed = fleets.variance(shed) / apart.variance(shed);
            let by_served = fleets.variance(served) / apart.variance(served);
            table.row([
                format!("{balancer:?}"),
                name.to_owned(),
                figure(fleets.mean(shed)),
                figure(fleets.variance(shed)),
                format!("{by_shed:.2}"),
                figure(fleets.variance(served)),
                format!("{by_served:.2}"),
            ]);
            if name == "at once" {
                worst = worst.max(by_shed).max(by_served);
            }
            if name == "by the clock" {
                noticed = noticed.min(by_shed);
            }
            if balancer == Balancer::TwoChoices {
                plot = plot.line(format!("started {name}"), fleets.points());
            }
        }
    }
    Report {
        tables: vec![table],
        verdicts: vec![
            Verdict::at_most(
                "probes: variance of a fleet started at once, of that of one started apart",
                worst,
                NOISE,
            ),
            Verdict::at_least("probes: the same of one by the clock", noticed, 2.0 * NOISE),
        ],
        plots: vec![("probes".to_owned(), plot.to_svg())],
    }
}

fn shed(bin: &Bin) -> f64 {
    f64::from(bin.refused)
}

fn served(bin: &Bin) -> f64 {
    f64::from(bin.good)
}

fn fleet(
    who: Contender,
    balancer: Balancer,
    servers: usize,
    seconds: usize,
    apart: f64,
    seed: u64,
) -> Vec<Bin> {
    let work = Work::mixed();
    let rate = 2.0 * work.capacity() * real(servers);
    let rate = |_: f64| rate;
    let mut chance = Chance::new(seed);
    // The first is there from the beginning, so that there is one.
    let starts: Vec<f64> = (0..servers)
        .map(|server| {
            if server == 0 {
                0.0
            } else {
                apart * chance.part()
            }
        })
        .collect();
    let slow = |now: f64, server: usize| if now >= starts[server] { 1.0 } else { 0.0 };
    let mut scenario = Scenario::steady(work, &rate, real(FROM + seconds), seed);
    scenario.servers = servers;
    scenario.balancer = balancer;
    scenario.slow = &slow;
    let run = who.run(&scenario);
    run.bins[10 * FROM..].to_vec()
}

/// Of some seeds.
struct Fleets(Vec<Vec<Bin>>);

impl Fleets {
    fn variance(&self, what: fn(&Bin) -> f64) -> f64 {
        self.mean_of(|bins| variance(&bins.iter().map(what).collect::<Vec<_>>()))
    }

    fn mean(&self, what: fn(&Bin) -> f64) -> f64 {
        self.mean_of(|bins| mean(&bins.iter().map(what).collect::<Vec<_>>()))
    }

    fn mean_of(&self, what: impl Fn(&[Bin]) -> f64) -> f64 {
        let all: Vec<f64> = self.0.iter().map(|bins| what(bins)).collect();
        mean(&all)
    }

    /// Of the first.
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        let bins = self.0[0].iter().enumerate();
        bins.map(|(n, bin)| (real(FROM) + real(n) / 10.0, 10.0 * shed(bin)))
    }
}

//! Whether a server that was slow for ten seconds comes back.

use std::fmt::Write as _;

use super::{BACK, Contender, RETRIES, back_in, most, real, tenths};
use crate::{
    plot::HeatMap,
    run::Run,
    table::{Report, Table, Verdict, figure, percent},
    work::Work,
    world::{Retry, Scenario},
};

const FROM: f64 = 30.0;
const TO: f64 = 40.0;

/// How long it is waited for, in seconds.
const PATIENCE: f64 = 60.0;

/// The trigger: what of the capacity is left for ten seconds.
const LEFT: [f64; 3] = [0.1, 0.2, 0.5];

/// One server, which asks for 5 ms of four processors, and for ten seconds has but a tenth, a fifth or half of them: in how
/// many seconds after that nineteen in twenty of those who come are served in time again. Clients wait for a second and
/// come up to four times more. In some region of load, trigger and retries a server never comes back: it is metastable.
///
/// Ours must come back everywhere, in three seconds; tower's `ConcurrencyLimit` does not, else nothing was shown.
#[must_use]
pub fn map(quick: bool) -> Report {
    let (loads, seeds): (&[f64], u64) = if quick {
        (&[0.5, 0.7, 0.8, 0.9], 1)
    } else {
        (&[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95], 5)
    };
    let contenders = [
        Contender::ours(),
        Contender::refusing(),
        Contender::tower(),
        Contender::fixed(),
        Contender::gradient2(),
        Contender::envoy(),
    ];
    let maps: Vec<Map> = contenders
        .iter()
        .map(|who| Map::of(*who, loads, seeds))
        .collect();
    let mut report = Report {
        tables: vec![summary(&maps), maps[0].table()],
        ..Report::default()
    };
    let tower = maps[2].never();
    report.verdicts = vec![
        Verdict::at_most(
            "map: Adaptive never comes back, cells",
            maps[0].never(),
            0.0,
        ),
        Verdict::at_most("map: Adaptive is back, s", maps[0].worst(), 3.0),
        Verdict::at_least("map: tower's never comes back, cells", tower, 1.0),
    ];
    for map in [&maps[0], &maps[2]] {
        report.plots.push(map.plot());
    }
    report
}

/// Of all loads, triggers and retries.
struct Map {
    who: Contender,
    loads: Vec<f64>,
    cells: Vec<Cell>,
}

struct Cell {
    load: f64,
    left: f64,
    retry: Retry,
    /// Of each seed: seconds.
    back: Vec<f64>,
    /// Which part of what came was served in time before the trigger.
    before: f64,
}

impl Cell {
    /// In the worst case.
    fn worst(&self) -> f64 {
        most(self.back.iter().copied())
    }
}

/// What happens.
pub(super) fn one(who: Contender, load: f64, left: f64, retry: Retry, seed: u64) -> Run {
    let work = Work::mixed();
    let rate = load * work.capacity();
    let rate = |_: f64| rate;
    let slow = |now: f64, _| {
        if (FROM..TO).contains(&now) {
            1.0 / left
        } else {
            1.0
        }
    };
    let mut scenario = Scenario::steady(work, &rate, TO + PATIENCE, seed);
    scenario.slow = &slow;
    scenario.retry = retry;
    who.run(&scenario)
}

impl Map {
    fn of(who: Contender, loads: &[f64], seeds: u64) -> Self {
        let mut cells = Vec::new();
        for retry in RETRIES {
            for left in LEFT {
                for &load in loads {
                    let rate = load * Work::mixed().capacity();
                    let runs = (1..=seeds).map(|seed| one(who, load, left, retry, seed));
                    let runs: Vec<_> = runs.collect();
                    let before = runs
                        .iter()
                        .map(|run| run.goodput_between(10.0, FROM) / rate);
                    cells.push(Cell {
                        load,
                        left,
                        retry,
                        back: runs.iter().map(|run| back_in(run, TO, rate)).collect(),
                        before: before.sum::<f64>() / real(runs.len()),
                    });
                }
            }
        }
        Self {
            who,
            loads: loads.to_vec(),
            cells,
        }
    }

    /// In how many of the cells it does not come back with some seed.
    fn never(&self) -> f64 {
        real(
            self.cells
                .iter()
                .filter(|cell| cell.worst().is_infinite())
                .count(),
        )
    }

    fn worst(&self) -> f64 {
        most(self.cells.iter().map(Cell::worst))
    }

    fn cell(&self, load: f64, left: f64, retry: Retry) -> &Cell {
        let is = |cell: &&Cell| (cell.load, cell.left, cell.retry) == (load, left, retry);
        self.cells.iter().find(is).expect("all are there")
    }

    /// Retries and triggers down, loads across.
    fn table(&self) -> Table {
        let title = format!(
            "{}: seconds until it is back, in the worst case",
            self.who.name
        );
        let columns = self.loads.iter().map(|load| format!("at {load}"));
        let columns = ["retry".to_owned(), "of the capacity".to_owned()]
            .into_iter()
            .chain(columns);
        let mut table = Table::new(title, columns);
        for retry in RETRIES {
            for left in LEFT {
                let cells = self.loads.iter().map(|&load| {
                    let back = self.cell(load, left, retry).worst();
                    if back.is_infinite() {
                        "never".to_owned()
                    } else {
                        figure(back)
                    }
                });
                let head = [format!("{retry:?}"), format!("{:.0} %", 100.0 * left)];
                table.row(head.into_iter().chain(cells));
            }
        }
        table
    }

    fn plot(&self) -> (String, String) {
        let name = if self.who.endless {
            "tower"
        } else {
            "adaptive"
        };
        let rows = RETRIES.iter().flat_map(|retry| {
            LEFT.iter()
                .map(move |left| format!("{retry:?}, {:.0} %", 100.0 * left))
        });
        let mut map = HeatMap::new(
            format!("{}: seconds until it is back", self.who.name),
            "load",
            self.loads.iter().map(|load| format!("{load}")),
            "retry, and what is left of the capacity for 10 s",
            rows,
        )
        .up_to(10.0);
        for retry in RETRIES {
            for left in LEFT {
                let row = self.loads.iter();
                map = map.row(row.map(|&load| self.cell(load, left, retry).worst()));
            }
        }
        (format!("metastable-{name}"), map.to_svg())
    }
}

fn summary(maps: &[Map]) -> Table {
    let columns = [
        "policy",
        "cells",
        "never back",
        "slowest, s",
        "mean, s",
        "served in time before it, at the highest load",
    ];
    let title = format!(
        "A server that is slow for {:.0} s: back at {} of what is asked for",
        TO - FROM,
        percent(BACK)
    );
    let mut table = Table::new(title, columns);
    for map in maps {
        let times = map.cells.iter().map(Cell::worst);
        let times: Vec<f64> = times.filter(|back| back.is_finite()).collect();
        let slowest = if times.is_empty() {
            f64::NAN
        } else {
            most(times.iter().copied())
        };
        let highest = most(map.loads.iter().copied());
        let before = map.cells.iter().filter(|cell| cell.load >= highest);
        let before: Vec<f64> = before.map(|cell| cell.before).collect();
        table.row([
            map.who.name.to_owned(),
            map.cells.len().to_string(),
            figure(map.never()),
            figure(slowest),
            figure(super::mean(&times)),
            percent(super::least(before)),
        ]);
    }
    table
}

/// The course of the limit in a case of the map, and what was served and the mean limit in each second: to find out why.
#[must_use]
pub fn why(load: f64, left: f64, retry: Retry, seed: u64) -> String {
    let run = one(Contender::ours(), load, left, retry, seed);
    let mut text = String::new();
    for (at, limit, why) in &run.course {
        if (FROM - 2.0..TO + 20.0).contains(at) {
            writeln!(text, "{at:8.3} {limit:5} {why}").expect("a string takes all");
        }
    }
    for bin in 0..run.bins.len() / 10 {
        let from = tenths(10 * bin);
        let good = run.goodput_between(from, from + 1.0);
        let limit = run.limit_between(from, from + 1.0);
        write!(text, "{from}: {good:.0}/{limit:.0} ").expect("a string takes all");
    }
    text
}

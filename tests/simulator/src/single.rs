//! One server: how much of what it could do is left under load, whatever the requests; and how soon, when something
//! changes.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    contender::Contender,
    plot::LineChart,
    run::{Run, real},
    table::{Report, Table, Verdict, percent},
    work::{Time, Work},
    world::Scenario,
};

/// How many times as much comes as can be served.
const LOADS: [f64; 5] = [0.5, 0.9, 2.0, 5.0, 10.0];

fn seeds(quick: bool) -> std::ops::RangeInclusive<u64> {
    1..=if quick { 1 } else { 3 }
}

/// D is slow: it needs long for as many requests.
fn long(work: &Work, quick: bool) -> f64 {
    match (work.name, quick) {
        ("D", true) => 600.0,
        ("D", false) => 3_600.0,
        (_, true) => 20.0,
        (_, false) => 60.0,
    }
}

fn steady(who: &Contender, work: &Work, load: f64, seed: u64, duration: f64) -> Run {
    let rate = work.capacity() * load;
    who.run(&Scenario::steady(work.clone(), &|_| rate, duration, seed))
}

/// What the best of all fixed limits makes of the same requests: good answers in a second, the limit, and which part it
/// refuses. With hindsight, with and without a wait.
fn best_fixed(work: &Work, load: f64, seed: u64, duration: f64) -> (f64, usize, f64) {
    const LIMITS: [usize; 13] = [4, 5, 6, 7, 8, 10, 12, 16, 24, 40, 64, 90, 128];
    let mut best = (0.0, 0, 0.0);
    for limit in LIMITS {
        for wait in [0.0, 0.2] {
            let run = steady(&Contender::of(limit, wait), work, load, seed, duration);
            if run.goodput() > best.0 {
                best = (run.goodput(), limit, run.refused_part());
            }
        }
    }
    best
}

/// Every law, every kind of requests, every load.
#[must_use]
pub fn matrix(quick: bool) -> Report {
    let mut report = Report::default();
    let mut works = Work::all().to_vec();
    let mut contenders = vec![Contender::ours(), Contender::gradient2()];
    if !quick {
        works.extend([Work::lognormal(), Work::heavy()]);
        contenders = Contender::all();
    }
    let names = works.iter().map(|work| work.name);
    let columns = ["", "at"]
        .into_iter()
        .chain(names)
        .chain(["least of A to D"]);
    let mut table = Table::new(
        "Good answers, in percent of what is possible; the least of the seeds",
        columns,
    );
    let mut cells = Vec::new();
    for &who in &contenders {
        for load in LOADS {
            cells.extend(works.iter().map(|work| (who, load, work)));
        }
    }
    let good = each(&cells, |&(who, load, work)| {
        let possible = work.capacity() * load.min(1.0) * work.ceiling(load);
        let runs = seeds(quick).map(|seed| steady(&who, work, load, seed, long(work, quick)));
        runs.map(|run| run.goodput() / possible)
            .fold(f64::INFINITY, f64::min)
    });
    for (row, good) in cells.chunks(works.len()).zip(good.chunks(works.len())) {
        let (who, load, _) = row[0];
        let least = good.iter().take(Work::all().len());
        let least = least.copied().fold(f64::INFINITY, f64::min);
        let figures = good.iter().chain([&least]);
        let figures = figures.map(|good| format!("{:.1}", 100.0 * good));
        table.row(
            [who.name.to_owned(), format!("{load}x")]
                .into_iter()
                .chain(figures),
        );
    }
    report.tables.push(table);
    let beside = against_hindsight(quick, &mut report.verdicts);
    report.tables.push(beside);
    report
}

/// Ours beside the best fixed limit of all, which nobody knows beforehand and which is another for each cell.
fn against_hindsight(quick: bool, verdicts: &mut Vec<Verdict>) -> Table {
    let mut table = Table::new(
        "Adaptive beside the best fixed limit, which is another in each row; the worst of the seeds",
        [
            "",
            "at",
            "good answers, of the best's",
            "the best",
            "found, on average",
            "refused",
            "by the best",
            "p99 of the admitted",
        ],
    );
    let mut cells = Vec::new();
    for work in Work::all() {
        cells.extend(LOADS.map(|load| (work.clone(), load)));
    }
    let compared = each(&cells, |(work, load)| compare(work, *load, quick));
    for ((work, load), compared) in cells.iter().zip(compared) {
        let Compared {
            good,
            best,
            found,
            refused,
            refused_by_best,
            late,
        } = compared;
        table.row([
            work.name.to_owned(),
            format!("{load}x"),
            percent(good),
            best.to_string(),
            format!("{found:.0}"),
            format!("{:.2} %", 100.0 * refused),
            format!("{:.2} %", 100.0 * refused_by_best),
            format!("{:.0} ms", 1e3 * late),
        ]);
        let name = |what: &str| format!("{} at {load}x: {what}", work.name);
        let least =
            |line| Verdict::at_least(name("good answers, of the best fixed limit's"), good, line);
        let most = |line| Verdict::at_most(name("refused"), refused, line);
        match load {
            0.5 => verdicts.push(most(0.001)),
            0.9 => verdicts.extend([least(0.98), most(0.01)]),
            2.0 => verdicts.push(least(0.95)),
            5.0 => verdicts.push(least(0.93)),
            _ => verdicts.push(least(0.9)),
        }
    }
    table
}

/// The worst of the seeds.
struct Compared {
    good: f64,
    best: usize,
    found: f64,
    refused: f64,
    refused_by_best: f64,
    late: f64,
}

fn compare(work: &Work, load: f64, quick: bool) -> Compared {
    let duration = long(work, quick);
    let mut worst = Compared {
        good: f64::INFINITY,
        best: 0,
        found: 0.0,
        refused: 0.0,
        refused_by_best: 0.0,
        late: 0.0,
    };
    for seed in seeds(quick) {
        let run = steady(&Contender::ours(), work, load, seed, duration);
        let (best, limit, refused_by_best) = best_fixed(work, load, seed, duration);
        worst.good = worst.good.min(run.goodput() / best);
        worst.best = limit;
        worst.found = run.limit_between(duration / 4.0, duration);
        worst.refused = worst.refused.max(run.refused_part());
        worst.refused_by_best = worst.refused_by_best.max(refused_by_best);
        worst.late = worst.late.max(run.latency(0.99));
    }
    worst
}

/// What comes of each, in order, on as many threads as there are processors.
fn each<T: Sync, R: Send>(all: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    // Relaxed: each number is one thread's.
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(number) else {
                        return;
                    };
                    let result = run(one);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|&(number, _)| number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Half an hour at twice the load.
#[must_use]
pub fn drift(quick: bool) -> Report {
    let mut report = Report::default();
    let duration = if quick { 300.0 } else { 1_800.0 };
    let mut table = Table::new(
        "Twice the load for half an hour: good answers (of what can be served) and limit",
        ["", "", "after 1 min", "after 5 min", "at the end"],
    );
    let mut chart = LineChart::new("The limit at twice the load (A)", "minutes", "limit").log();
    let works = Work::all()
        .into_iter()
        .map(|work| (Contender::ours(), work));
    let others = [
        Contender::gradient2(),
        Contender::gradient2_free(),
        Contender::aimd(),
        Contender::vegas(),
        Contender::envoy(),
    ];
    let others = others.map(|who| (who, Work::mixed()));
    for (who, work) in works.chain(others.into_iter().filter(|_| !quick)) {
        let run = steady(&who, &work, 2.0, 1, duration);
        let at = |to: f64| {
            let part = run.goodput_between(to - 60.0, to) / work.capacity();
            let limit = run.limit_between(to - 60.0, to);
            (part, format!("{}, {limit:.0}", percent(part)))
        };
        let (first, last) = (at(120.0), at(duration));
        table.row([
            who.name.to_owned(),
            work.name.to_owned(),
            first.1,
            at(300.0).1,
            last.1,
        ]);
        if who.is_ours() {
            // D answers 600 requests in a minute: chance alone is two points.
            let noise = if work.name == "D" { 0.08 } else { 0.03 };
            let name = format!("{}: lost from the second minute to the last", work.name);
            let verdict = Verdict::at_most(name, first.0 - last.0, noise);
            report.verdicts.push(verdict);
        }
        if work.name == "A" {
            let seconds = (0..)
                .map(|n| 5.0 * f64::from(n))
                .take_while(|&t| t + 5.0 <= duration);
            let points = seconds.map(|t| (t / 60.0, run.limit_between(t, t + 5.0)));
            chart = chart.line(who.name, points);
        }
    }
    report.tables.push(table);
    report.plots.push(("drift".to_owned(), chart.to_svg()));
    report
}

/// The mean of many runs that differ in the seed, of one kind.
struct Many(Vec<Run>);

impl Many {
    fn new(number: u64, run: impl Fn(u64) -> Run) -> Self {
        Self((1..=number).map(run).collect())
    }

    fn goodput(&self, from: f64, to: f64) -> f64 {
        let sum: f64 = self.0.iter().map(|run| run.goodput_between(from, to)).sum();
        sum / real(self.0.len())
    }

    fn course(&self, from: f64, to: f64, step: f64, unit: f64) -> Vec<(f64, f64)> {
        let times = (0..).map(|n| from + step * f64::from(n));
        let times = times.take_while(|t| t + step <= to + 1e-9);
        times
            .map(|t| (t, self.goodput(t, t + step) / unit))
            .collect()
    }
}

fn number(work: &Work, quick: bool) -> u64 {
    match (work.name, quick) {
        ("D", true) => 60,
        ("D", false) => 400,
        (_, true) => 5,
        (_, false) => 40,
    }
}

/// Five times the load from the first moment.
#[must_use]
pub fn cold_start(quick: bool) -> Report {
    let mut report = Report::default();
    let mut table = Table::new(
        "Started under five times the load: good answers of what is possible",
        ["", "0-1 s", "1-2 s", "2-4 s", "4-8 s"],
    );
    let mut chart = LineChart::new(
        "Started under five times the load: good answers (A)",
        "seconds",
        "part of what is possible",
    );
    let who = Contender::ours();
    for work in Work::all() {
        let possible = work.capacity() * work.ceiling(5.0);
        let runs = Many::new(number(&work, quick), |seed| {
            steady(&who, &work, 5.0, seed, 10.0)
        });
        let part = |from, to| runs.goodput(from, to) / possible;
        let cells = [(0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0)];
        let cells = cells.map(|(from, to)| percent(part(from, to)));
        table.row([work.name.to_owned()].into_iter().chain(cells));
        report.verdicts.push(Verdict::at_least(
            format!("{}: from the third second on", work.name),
            part(2.0, 4.0),
            0.9,
        ));
        if work.name == "A" {
            chart = chart.line(who.name, runs.course(0.0, 5.0, 0.1, possible));
        }
    }
    if !quick {
        let work = Work::mixed();
        let possible = work.capacity() * work.ceiling(5.0);
        for who in [
            Contender::gradient2(),
            Contender::vegas(),
            Contender::envoy(),
        ] {
            let runs = Many::new(10, |seed| steady(&who, &work, 5.0, seed, 10.0));
            chart = chart.line(who.name, runs.course(0.0, 5.0, 0.1, possible));
        }
    }
    report.tables.push(table);
    report.plots.push(("cold-start".to_owned(), chart.to_svg()));
    report
}

/// Requests take three times as much of a processor for a minute, at 1.5 times the load.
#[must_use]
pub fn step(quick: bool) -> Report {
    const SLOW: (f64, f64) = (60.0, 120.0);
    let mut report = Report::default();
    let mut table = Table::new(
        "Requests take three times as much of a processor for a minute: good answers of what the best fixed limit has",
        [
            "",
            "before",
            "1st s",
            "2nd s",
            "3rd to 10th s",
            "last 10 s",
            "after: 1st s",
            "2nd to 10th s",
        ],
    );
    let mut chart = LineChart::new(
        "Three times as much work for a minute: good answers (A)",
        "seconds",
        "in a second",
    )
    .down("slower", SLOW.0)
    .down("as before", SLOW.1);
    let slow = |time: f64, _: usize| {
        if (SLOW.0..SLOW.1).contains(&time) {
            3.0
        } else {
            1.0
        }
    };
    let run = |who: &Contender, work: &Work, seed| {
        let rate = 1.5 * work.capacity();
        let rate = move |_: f64| rate;
        let mut scenario = Scenario::steady(work.clone(), &rate, 140.0, seed);
        scenario.slow = &slow;
        who.run(&scenario)
    };
    let who = Contender::ours();
    for work in Work::all() {
        let runs = Many::new(number(&work, quick) / 2, |seed| run(&who, &work, seed));
        // What is possible while it is slow.
        let slower = Work {
            processor: times(work.processor, 3.0),
            ..work.clone()
        };
        let duration = long(&work, quick);
        let (best_slow, ..) = best_fixed(&slower, 4.5, 1, duration);
        let (best, ..) = best_fixed(&work, 1.5, 1, duration);
        let part = |from, to, best: f64| runs.goodput(from, to) / best;
        let cells = [
            part(40.0, 60.0, best),
            part(60.0, 61.0, best_slow),
            part(61.0, 62.0, best_slow),
            part(62.0, 70.0, best_slow),
            part(110.0, 120.0, best_slow),
            part(120.0, 121.0, best),
            part(121.0, 130.0, best),
        ];
        table.row([work.name.to_owned()].into_iter().chain(cells.map(percent)));
        let name = |what: &str| format!("{}: {what}", work.name);
        report.verdicts.extend([
            Verdict::at_least(name("slower, from the third second on"), cells[3], 0.9),
            Verdict::at_least(name("as before, from the second second on"), cells[6], 0.9),
        ]);
        if work.name == "A" {
            chart = chart.line(who.name, runs.course(50.0, 140.0, 0.5, 1.0));
        }
    }
    if !quick {
        for who in [
            Contender::fixed(),
            Contender::gradient2(),
            Contender::vegas(),
            Contender::envoy(),
        ] {
            let runs = Many::new(10, |seed| run(&who, &Work::mixed(), seed));
            chart = chart.line(who.name, runs.course(50.0, 140.0, 0.5, 1.0));
        }
    }
    report.tables.push(table);
    report.plots.push(("step".to_owned(), chart.to_svg()));
    report
}

fn times(time: Time, by: f64) -> Time {
    match time {
        Time::Constant(time) => Time::Constant(by * time),
        Time::Exponential(mean) => Time::Exponential(by * mean),
        Time::Bimodal { short, long, part } => Time::Bimodal {
            short: by * short,
            long: by * long,
            part,
        },
        Time::Lognormal { mean, variation } => Time::Lognormal {
            mean: by * mean,
            variation,
        },
        Time::Pareto(mean) => Time::Pareto(by * mean),
    }
}

/// Critical requests for four fifths of what can be served, and ten times as many that are not.
#[must_use]
pub fn classes(quick: bool) -> Report {
    let mut report = Report::default();
    let mut table = Table::new(
        "Critical requests for 80 % of what can be served, and sheddable ones for ten times what can be served",
        [
            "",
            "critical: not refused",
            "critical: good",
            "sheddable: of what is left",
        ],
    );
    let who = Contender::ours();
    for work in Work::all() {
        // A refusal is not free: what they cost is not there for anybody.
        let work = Work {
            refusal: 0.0,
            ..work
        };
        let rate = 10.8 * work.capacity();
        let mut least = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
        for seed in seeds(quick) {
            let rate = move |_: f64| rate;
            let mut scenario = Scenario::steady(work.clone(), &rate, long(&work, quick), seed);
            scenario.critical = 0.8 / 10.8;
            let run = who.run(&scenario);
            let [critical, sheddable] = run.sums;
            let left = work.capacity() * run.seconds - critical.served;
            least = (
                least.0.min(1.0 - critical.refused / critical.came),
                least.1.min(critical.good / critical.came),
                least.2.min(sheddable.served / left),
            );
        }
        table.row([
            work.name.to_owned(),
            format!("{:.2} %", 100.0 * least.0),
            percent(least.1),
            percent(least.2),
        ]);
        let name = format!("{}: critical requests that are not refused", work.name);
        report
            .verdicts
            .push(Verdict::at_least(name, least.0, 0.999));
    }
    report.tables.push(table);
    report
}

/// Ten times the load for a second in twenty, half of it otherwise.
#[must_use]
pub fn bursts(quick: bool) -> Report {
    let mut report = Report::default();
    let mut table = Table::new(
        "Ten times the load for one second in twenty (A)",
        [
            "",
            "good answers in that second, of what can be served",
            "p99 of the admitted",
        ],
    );
    let work = Work::mixed();
    let duration = if quick { 110.0 } else { 610.0 };
    let capacity = work.capacity();
    let rate = |time: f64| {
        if time > 10.0 && time % 20.0 < 1.0 {
            10.0 * capacity
        } else {
            0.5 * capacity
        }
    };
    let contenders = [
        Contender::ours(),
        Contender::fixed(),
        Contender::gradient2(),
        Contender::envoy(),
    ];
    for who in contenders {
        let run = who.run(&Scenario::steady(work.clone(), &rate, duration, 1));
        let bursts = (1..)
            .map(|n| 20.0 * f64::from(n))
            .take_while(|t| t + 1.0 < duration);
        let good: Vec<f64> = bursts.map(|t| run.goodput_between(t, t + 1.0)).collect();
        let mean = good.iter().sum::<f64>() / real(good.len());
        table.row([
            who.name.to_owned(),
            percent(mean / capacity),
            format!("{:.0} ms", 1e3 * run.latency(0.99)),
        ]);
        if who.is_ours() {
            let name = "bursts: p99 of the admitted, in s";
            let late = Verdict::at_most(name, run.latency(0.99), 0.3);
            report.verdicts.push(late);
        }
    }
    report.tables.push(table);
    report
}

/// Some clients read their response slowly.
#[must_use]
pub fn readers(quick: bool) -> Report {
    let mut report = Report::default();
    let mut table = Table::new(
        "Clients that read slowly: good answers, of what is possible (A)",
        ["", "at 0.9x", "at 2x"],
    );
    for (part, reads, about) in [
        (0.1, 10.0, "one in ten takes 10 s"),
        (0.01, 30.0, "one in a hundred takes 30 s"),
        (0.5, 1.0, "half take 1 s"),
    ] {
        let work = Work {
            slow_readers: (part, reads),
            ..Work::mixed()
        };
        let duration = if quick { 40.0 } else { 120.0 };
        let good = [0.9, 2.0].map(|load| {
            let run = steady(&Contender::ours(), &work, load, 1, duration);
            run.goodput() / work.capacity() / load.min(1.0) / work.ceiling(load)
        });
        table.row([about.to_owned(), percent(good[0]), percent(good[1])]);
        let least = good[0].min(good[1]);
        report.verdicts.push(Verdict::at_least(about, least, 0.93));
    }
    report.tables.push(table);
    report
}

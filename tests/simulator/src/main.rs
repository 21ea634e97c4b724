use simulator::{
    room::Order,
    work::Work,
    world::{Policy, Retry, Scenario},
};
use tower_overload::{Adaptive, Limit, Sample};

#[derive(Debug)]
struct Fixed(usize);
impl Limit for Fixed {
    fn limit(&self) -> usize {
        self.0
    }
    fn on_sample(&self, _: &Sample) {}
}

fn best_fixed(work: &Work, load: f64, seed: u64, dur: f64) -> (f64, usize, f64, f64) {
    let order = Order::AdaptiveLifo;
    let mut best = (0.0, 0, 0.0, 0.0);
    for l in [
        3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 56, 64, 80, 100, 128,
    ] {
        for w in [0.0, 0.1] {
            let c = work.capacity() * load;
            let law = |_| Box::new(Fixed(l)) as Box<dyn Limit>;
            let run = Scenario::steady(work.clone(), &|_| c, dur, seed).run(&Policy {
                law: &law,
                max_wait: w,
                order,
                endless: false,
            });
            if run.goodput() > best.0 {
                best = (run.goodput(), l, w, run.refused_part())
            }
        }
    }
    best
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let which = args.first().map_or("steady", |s| s.as_str());
    let wait: f64 = std::env::var("WAIT").map_or(0.1, |w| w.parse().unwrap());
    let order = if std::env::var("FIFO").is_ok() {
        Order::Fifo
    } else {
        Order::AdaptiveLifo
    };
    match which {
        "steady" => {
            for work in [
                Work::mixed(),
                Work::bimodal(),
                Work::constant(),
                Work::slow(),
                Work::lognormal(),
                Work::heavy(),
            ] {
                if args.len() > 1 && !args[1..].iter().any(|a| a == work.name) {
                    continue;
                }
                let dur = if work.name == "D" { 1200.0 } else { 60.0 };
                for load in [0.5, 0.9, 1.0, 2.0, 5.0, 10.0] {
                    let c = work.capacity() * load;
                    print!("{} {load:4}x ", work.name);
                    for seed in [1, 2, 3] {
                        let cores = work.cores;
                        let law = |seed| {
                            Box::new(
                                Adaptive::new()
                                    .floor(cores.max(4))
                                    .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                                    .seed(seed),
                            ) as Box<dyn Limit>
                        };
                        let run = Scenario::steady(work.clone(), &|_| c, dur, seed).run(&Policy {
                            law: &law,
                            max_wait: wait,
                            order,
                            endless: false,
                        });
                        let best = best_fixed(
                            &work,
                            load,
                            seed,
                            if work.name == "D" { dur } else { dur / 2.0 },
                        )
                        .0;
                        let ceil = c.min(work.capacity()) * work.ceiling(load);
                        print!(
                            " | {:5.1}% of ceil {:5.1}% of best; shed {:5.2}% p99 {:4.0}ms L {:.0}",
                            100.0 * run.goodput() / ceil,
                            100.0 * run.goodput() / best,
                            100.0 * run.refused_part(),
                            1e3 * run.latency(0.99),
                            run.limit_between(dur / 4.0, dur)
                        );
                    }
                    println!();
                }
            }
        }
        "best" => {
            for work in Work::all() {
                for load in [0.5, 0.9, 1.0, 2.0, 5.0, 10.0] {
                    let dur = if work.name == "D" { 1200.0 } else { 60.0 };
                    let (g, l, w, shed) = best_fixed(&work, load, 1, dur);
                    println!(
                        "{} {load}x best fixed {l} wait {w}: {:.1}% of ceil, shed {:.2}%",
                        work.name,
                        100.0 * g / (work.capacity() * load.min(1.0) * work.ceiling(load)),
                        shed * 100.0
                    );
                }
            }
        }
        "trace" => {
            let work = [
                Work::mixed(),
                Work::bimodal(),
                Work::constant(),
                Work::slow(),
                Work::lognormal(),
                Work::heavy(),
            ]
            .into_iter()
            .find(|w| w.name == args[1])
            .unwrap();
            let load: f64 = args[2].parse().unwrap();
            let dur: f64 = args[3].parse().unwrap();
            let c = work.capacity() * load;
            let cores = work.cores;
            let law = |seed| {
                Box::new(
                    Adaptive::new()
                        .floor(cores.max(4))
                        .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                        .seed(seed),
                ) as Box<dyn Limit>
            };
            let run = Scenario::steady(work.clone(), &|_| c, dur, 1).run(&Policy {
                law: &law,
                max_wait: wait,
                order,
                endless: false,
            });
            for (t, l, why) in &run.course {
                println!("{t:8.3} {l:5} {why}");
            }
            for t in 0..(dur as usize) {
                let t = t as f64;
                print!(
                    "{:.0}/{:.0} ",
                    run.goodput_between(t, t + 1.0),
                    run.limit_between(t, t + 1.0)
                );
            }
            println!();
        }
        "drift" => {
            for work in Work::all() {
                for seed in [1, 2, 3] {
                    let c = work.capacity() * 2.0;
                    let cores = work.cores;
                    let law = |seed| {
                        Box::new(
                            Adaptive::new()
                                .floor(cores.max(4))
                                .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                                .seed(seed),
                        ) as Box<dyn Limit>
                    };
                    let run = Scenario::steady(work.clone(), &|_| c, 1800.0, seed).run(&Policy {
                        law: &law,
                        max_wait: wait,
                        order,
                        endless: false,
                    });
                    print!("{} ", work.name);
                    for t in [60.0, 300.0, 600.0, 1200.0, 1770.0] {
                        print!(
                            " t{t}: L={:.0} g={:.1}%",
                            run.limit_between(t - 30.0, t + 30.0),
                            100.0 * run.goodput_between(t - 30.0, t + 30.0) / work.capacity()
                        );
                    }
                    println!();
                }
            }
        }
        "cold" => {
            for work in Work::all() {
                let c = work.capacity() * 5.0;
                let cores = work.cores;
                let law = |seed| {
                    Box::new(
                        Adaptive::new()
                            .floor(cores.max(4))
                            .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                            .seed(seed),
                    ) as Box<dyn Limit>
                };
                let n = 40;
                let runs: Vec<_> = (0..n)
                    .map(|seed| {
                        Scenario::steady(work.clone(), &|_| c, 10.0, seed).run(&Policy {
                            law: &law,
                            max_wait: wait,
                            order,
                            endless: false,
                        })
                    })
                    .collect();
                print!("{} ", work.name);
                for t in [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0] {
                    let g: f64 = runs
                        .iter()
                        .map(|r| r.goodput_between(t, t + 0.5))
                        .sum::<f64>()
                        / n as f64;
                    let l: f64 = runs
                        .iter()
                        .map(|r| r.limit_between(t, t + 0.5))
                        .sum::<f64>()
                        / n as f64;
                    print!(
                        " {t}: {:.0}%/{l:.0}",
                        100.0 * g / work.capacity() / work.ceiling(5.0)
                    );
                }
                println!();
            }
        }
        "step" => {
            for io in [false, true] {
                for work in Work::all() {
                    let load: f64 = args.get(1).map_or(1.5, |a| a.parse().unwrap());
                    let c = work.capacity() * load;
                    let cores = work.cores;
                    let law = |seed| {
                        Box::new(
                            Adaptive::new()
                                .floor(cores.max(4))
                                .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                                .seed(seed),
                        ) as Box<dyn Limit>
                    };
                    let n = 20;
                    let slow = |t: f64, _| if (60.0..120.0).contains(&t) { 3.0 } else { 1.0 };
                    let runs: Vec<_> = (0..n)
                        .map(|seed| {
                            let rate = |_: f64| c;
                            let mut s = Scenario::steady(work.clone(), &rate, 150.0, seed);
                            s.slow = &slow;
                            s.slow_io = io;
                            s.run(&Policy {
                                law: &law,
                                max_wait: wait,
                                order,
                                endless: false,
                            })
                        })
                        .collect();
                    print!("{} io {io} ", work.name);
                    for t in [
                        50.0, 59.0, 60.0, 61.0, 62.0, 63.0, 64.0, 66.0, 70.0, 80.0, 100.0, 119.0,
                        120.0, 121.0, 122.0, 124.0, 130.0,
                    ] {
                        let cap =
                            work.capacity() / if (60.0..120.0).contains(&t) { 3.0 } else { 1.0 };
                        let g: f64 = runs
                            .iter()
                            .map(|r| r.goodput_between(t, t + 1.0))
                            .sum::<f64>()
                            / n as f64;
                        let l: f64 = runs
                            .iter()
                            .map(|r| r.limit_between(t, t + 1.0))
                            .sum::<f64>()
                            / n as f64;
                        print!(" {t}: {:.0}%/{l:.0}", 100.0 * g / cap);
                    }
                    println!();
                }
            }
        }
        "burst" => {
            for work in Work::all() {
                let c = work.capacity();
                let cores = work.cores;
                let law = |seed| {
                    Box::new(
                        Adaptive::new()
                            .floor(cores.max(4))
                            .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                            .seed(seed),
                    ) as Box<dyn Limit>
                };
                let rate = |t: f64| {
                    if t > 10.0 && t % 20.0 < 1.0 {
                        c * 10.0
                    } else {
                        c * 0.5
                    }
                };
                let run = Scenario::steady(work.clone(), &rate, 410.0, 1).run(&Policy {
                    law: &law,
                    max_wait: wait,
                    order,
                    endless: false,
                });
                let during: f64 = (1..20)
                    .map(|k| run.goodput_between(20.0 * k as f64, 20.0 * k as f64 + 1.0))
                    .sum::<f64>()
                    / 19.0;
                let after: f64 = (1..20)
                    .map(|k| run.goodput_between(20.0 * k as f64 + 1.0, 20.0 * k as f64 + 3.0))
                    .sum::<f64>()
                    / 19.0;
                println!(
                    "{} during {:.0}% after (of 50) {:.0}% p99 {:.0}ms",
                    work.name,
                    100.0 * during / c,
                    100.0 * after / c,
                    run.latency(0.99) * 1e3
                );
            }
        }
        "storm" => {
            for work in [
                Work::mixed(),
                Work::bimodal(),
                Work::constant(),
                Work::slow(),
            ] {
                for base in [0.8] {
                    for retry in [
                        Retry::Never,
                        Retry::Fast,
                        Retry::Constant,
                        Retry::Jitter,
                        Retry::Told,
                    ] {
                        let c = work.capacity() * base;
                        let cores = work.cores;
                        let law = |seed| {
                            Box::new(
                                Adaptive::new()
                                    .floor(cores.max(4))
                                    .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                                    .seed(seed),
                            ) as Box<dyn Limit>
                        };
                        let n = 5;
                        let slow = |t: f64, _| if (30.0..40.0).contains(&t) { 5.0 } else { 1.0 };
                        let runs: Vec<_> = (0..n)
                            .map(|seed| {
                                let rate = |_: f64| c;
                                let mut s = Scenario::steady(work.clone(), &rate, 100.0, seed);
                                s.slow = &slow;
                                s.retry = retry;
                                s.run(&Policy {
                                    law: &law,
                                    max_wait: wait,
                                    order,
                                    endless: false,
                                })
                            })
                            .collect();
                        print!("{} {retry:?} ", work.name);
                        for t in [
                            20.0, 29.0, 32.0, 36.0, 40.0, 41.0, 42.0, 43.0, 44.0, 46.0, 50.0, 60.0,
                            90.0,
                        ] {
                            let g: f64 = runs
                                .iter()
                                .map(|r| r.goodput_between(t, t + 1.0))
                                .sum::<f64>()
                                / n as f64;
                            let l: f64 = runs
                                .iter()
                                .map(|r| r.limit_between(t, t + 1.0))
                                .sum::<f64>()
                                / n as f64;
                            print!(" {t}: {:.0}%/{l:.0}", 100.0 * g / c);
                        }
                        println!();
                    }
                }
            }
        }
        "sweep" => {
            let mut work = Work::all().into_iter().find(|w| w.name == args[1]).unwrap();
            let load: f64 = args[2].parse().unwrap();
            let slowf: f64 = args[3].parse().unwrap();
            let dur = if work.name == "D" { 2400.0 } else { 120.0 };
            let c = work.capacity() * load;
            work.refusal *= 1.0;
            let slow = move |_: f64, _: usize| slowf;
            for w in [0.0, 0.1, 0.2] {
                print!("{} {load}x slow {slowf} wait {w}: ", work.name);
                for l in [3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 40, 64, 100] {
                    let rate = |_: f64| c;
                    let mut s = Scenario::steady(work.clone(), &rate, dur, 1);
                    s.slow = &slow;
                    let law = |_| Box::new(Fixed(l)) as Box<dyn Limit>;
                    let run = s.run(&Policy {
                        law: &law,
                        max_wait: w,
                        order,
                        endless: false,
                    });
                    print!(
                        " {l}:{:.1}%({:.1})",
                        100.0 * run.goodput() / (work.capacity() / slowf).min(c),
                        100.0 * run.refused_part()
                    );
                }
                println!();
            }
        }
        "stepone" => {
            let work = Work::all().into_iter().find(|w| w.name == args[1]).unwrap();
            let load: f64 = args[2].parse().unwrap();
            let seed: u64 = args[3].parse().unwrap();
            let c = work.capacity() * load;
            let cores = work.cores;
            let slow = |t: f64, _| if (60.0..120.0).contains(&t) { 3.0 } else { 1.0 };
            let law = |seed| {
                Box::new(
                    Adaptive::new()
                        .floor(cores.max(4))
                        .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                        .seed(seed),
                ) as Box<dyn Limit>
            };
            let rate = |_: f64| c;
            let mut s = Scenario::steady(work.clone(), &rate, 150.0, seed);
            s.slow = &slow;
            let run = s.run(&Policy {
                law: &law,
                max_wait: wait,
                order,
                endless: false,
            });
            for (t, l, why) in &run.course {
                if (58.0..75.0).contains(t) || (119.0..124.0).contains(t) {
                    println!("{t:8.3} {l:5} {why}");
                }
            }
        }
        "visible" => {
            for work in Work::all() {
                for load in [0.9, 2.0, 10.0] {
                    let work = work.clone().visible();
                    let c = work.capacity() * load;
                    let cores = work.cores;
                    let law = |seed| {
                        Box::new(
                            Adaptive::new()
                                .floor(cores.max(4))
                                .start(std::env::var("START").map_or((2 * cores).max(4), |s| s.parse().unwrap()))
                                .seed(seed),
                        ) as Box<dyn Limit>
                    };
                    let dur = if work.name == "D" { 1200.0 } else { 60.0 };
                    let run = Scenario::steady(work.clone(), &|_| c, dur, 1).run(&Policy {
                        law: &law,
                        max_wait: wait,
                        order,
                        endless: false,
                    });
                    println!(
                        "{} {load}: {:.1}% shed {:.2} L {:.0}",
                        work.name,
                        100.0 * run.goodput() / c.min(work.capacity()) / work.ceiling(load),
                        100.0 * run.refused_part(),
                        run.limit_between(dur / 4.0, dur)
                    );
                }
            }
        }
        "readers" => {
            for (part, reads) in [(0.1, 1.0), (0.1, 10.0), (0.01, 30.0), (0.5, 1.0)] {
                for load in [0.5, 0.9, 2.0, 5.0] {
                    let mut work = Work::mixed();
                    work.slow_readers = (part, reads);
                    let c = work.capacity() * load;
                    let law = |seed| {
                        Box::new(Adaptive::new().floor(4).start(8).seed(seed)) as Box<dyn Limit>
                    };
                    let run = Scenario::steady(work.clone(), &|_| c, 120.0, 1).run(&Policy {
                        law: &law,
                        max_wait: wait,
                        order,
                        endless: false,
                    });
                    print!(
                        "readers {part} {reads} {load}: {:.1}% shed {:.2} L {:.0} ::",
                        100.0 * run.goodput() / c.min(work.capacity()) / work.ceiling(load),
                        100.0 * run.refused_part(),
                        run.limit_between(30.0, 120.0)
                    );
                    for t in [0.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
                        print!(
                            " {:.0}%/{:.0}",
                            run.goodput_between(t, t + 2.0) / c.min(work.capacity()) * 100.0,
                            run.limit_between(t, t + 2.0)
                        );
                    }
                    println!();
                }
            }
        }
        _ => {}
    }
}

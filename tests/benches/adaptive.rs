//! A limit that finds itself, next to others that do and to one that somebody found: `cargo bench -p conformance
//! --bench adaptive`.
//!
//! Open loop over loopback TCP, as in the bench `overload`, whose remarks hold here: the program is its own server, on
//! another core than the load. A table for each workload, and at the end the worst that each variant did at each load.
//! Goodput is what was answered within the workload's objective, as a part of what was offered or, if that is less, of
//! what the resource alone can do. The arrivals and the times of service are the same for all variants. A row is run
//! again if the generator was late, or the server had to wait for its core; and marked if that does not help.
//!
//! It takes 20 minutes. Words after `--` choose rows (`-- A http1 10x`); `quick` is three minutes of it, `long` has ten
//! times as long to warm up and to measure, and `limits` looks for the limits of `fixed`. `COURSE` in the environment
//! prints each move of ours.
//!
//! - `A` to `D` are those of the simulator: blocking workers behind a queue that the limiter does not see, and for some
//!   time elsewhere. The processor is nearly idle.
//! - `cpu`: 1 ms of the only thread per request, in ten slices, as handlers come back to their `await`s.
//! - `cpu, no await`: in one. Each is answered before the next is looked at, so that there is never more than one in
//!   flight: the queue is before all of the limiters, in the runtime and the sockets.

mod pinned;

use std::{
    collections::HashMap,
    convert::Infallible,
    env, fs,
    io::{self, Write},
    mem,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use conformance::{Load, Outcome, Protocol};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use little_loadshedder::{LoadShedLayer as LittleLayer, LoadShedResponse};
use simulator::{
    chance::Chance,
    work::{Time, Work},
};
use tokio::{
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
    time::{Instant, sleep, sleep_until},
};
use tower::{Layer, ServiceExt, load_shed::LoadShedLayer, service_fn};
use tower_overload::{Adaptive, InFlightLimitLayer};
use tower_resilience_adaptive::{
    AdaptiveLimiterLayer, Aimd, ConcurrencyAlgorithm, Gradient2, Vegas,
};

use pinned::{BoxError, Handler, PROTOCOLS, Server, TRIES, float, millis, named, runtime, serve};

const LOADS: [(&str, f64); 5] = [
    ("0.5x", 0.5),
    ("0.9x", 0.9),
    ("2x", 2.0),
    ("5x", 5.0),
    ("10x", 10.0),
];
/// - `fixed`: ours, at the limit that is best for this workload.
/// - `adaptive`: ours, which knows nothing of the workload. `waiting`: for 100 ms at most.
/// - `resilience`: tower-resilience-adaptive's limiter with its defaults. It waits for ever and never sheds, so tower's
///   `LoadShed` is around it, and what that refuses is made a 503.
/// - `little`: little-loadshedder as in its example, with half of the objective for a target. It has its own queue.
const VARIANTS: [&str; 9] = [
    "none",
    "fixed",
    "fixed, waiting",
    "adaptive",
    "adaptive, waiting",
    "resilience AIMD",
    "resilience Vegas",
    "resilience Gradient2",
    "little",
];
/// Where the limiters do not see the queue, and all are the same.
const HIDDEN: &str = "cpu, no await";
const MAX_WAIT: Duration = Duration::from_millis(100);
/// Which part of the time the server may wait for its core.
const DELAYED: f64 = 0.03;

fn main() -> io::Result<ExitCode> {
    pinned::main(|words| {
        match words {
            ["server", variant, limit, workload, protocol] => {
                let limit = limit.parse().map_err(io::Error::other)?;
                server(
                    variant,
                    limit,
                    &called(workload),
                    named(&PROTOCOLS, protocol),
                )?;
            }
            ["capacity", workload] => println!("{}", capacity(&called(workload))),
            ["table", "limits", words @ ..] => limits(words)?,
            ["table", words @ ..] => table(words)?,
            _ => return Ok(false),
        }
        Ok(true)
    })
}

// === The resource ===

#[derive(Clone)]
struct Workload {
    work: Work,
    place: Place,
    /// For `fixed`, and if it may wait. Found with `limits`: of those, the one whose worst over the loads is best.
    limits: [usize; 2],
}

/// Where the time of the processor is spent.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// By a thread of its own.
    Worker,
    /// By the runtime's only thread, a tenth at a time.
    Slices,
    /// By the runtime's only thread, at once.
    Whole,
}

fn workloads() -> [Workload; 6] {
    let worked = |work, limits| Workload {
        work,
        place: Place::Worker,
        limits,
    };
    let computed = |name, place| Workload {
        work: Work {
            name,
            about: "1 ms of 1 processor, always; within 30 ms",
            processor: Time::Constant(0.001),
            cores: 1,
            objective: 0.03,
            ..Work::constant()
        },
        place,
        limits: [16, 12],
    };
    [
        worked(Work::mixed(), [72, 60]),
        worked(Work::bimodal(), [48, 36]),
        worked(Work::constant(), [24, 12]),
        worked(Work::slow(), [10, 10]),
        computed("cpu", Place::Slices),
        computed(HIDDEN, Place::Whole),
    ]
}

fn called(name: &str) -> Workload {
    let found = workloads().into_iter().find(|w| w.work.name == name);
    found.expect("one of the names")
}

impl Workload {
    fn objective(&self) -> Duration {
        Duration::from_secs_f64(self.work.objective)
    }

    /// Ten in a second are too few for a short row; but so little to do that all variants can be measured at once.
    fn is_slow(&self) -> bool {
        self.work.capacity() < 100.0
    }
}

#[derive(Clone)]
struct Resource {
    workload: Arc<Workload>,
    workers: Arc<Semaphore>,
    chance: Arc<Mutex<Chance>>,
    drawn: Drawn,
}

impl Resource {
    fn new(workload: &Workload) -> Self {
        Self {
            workload: Arc::new(workload.clone()),
            workers: Arc::new(Semaphore::new(workload.work.cores)),
            chance: Arc::new(Mutex::new(Chance::new(1))),
            drawn: Arc::default(),
        }
    }

    async fn answer(self, _: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (time, elsewhere) = {
            let mut chance = lock(&self.chance);
            let work = &self.workload.work;
            (work.processor.draw(&mut chance), work.io.draw(&mut chance))
        };
        lock(&self.drawn).count(time);
        self.work(Duration::from_secs_f64(time)).await;
        if elsewhere > 0.0 {
            sleep(Duration::from_secs_f64(elsewhere)).await;
        }
        Ok(Response::new(Full::from("ok")))
    }

    async fn work(self, time: Duration) {
        match self.workload.place {
            Place::Worker => {
                let worker = self.workers.acquire_owned().await.expect("never closed");
                // As in a pool, what was begun for a client who left is worked to its end.
                let done = spawn_blocking(move || {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a worker; and a timer of tokio's is up to 1 ms late, a fifth of the capacity"
                    )]
                    thread::sleep(time);
                    drop(worker);
                });
                done.await.expect("no panic");
            }
            Place::Slices => {
                for _ in 0..10 {
                    burn(time / 10);
                    yield_now().await;
                }
            }
            Place::Whole => burn(time),
        }
    }
}

fn burn(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {}
}

/// What the resource can do per second if nothing else is to be done: the best of several runs.
fn capacity(workload: &Workload) -> f64 {
    let runs = (0..TRIES).map(|_| runtime(workload.work.cores).block_on(rate(workload)));
    runs.fold(0.0, f64::max)
}

/// With the mean for each: what chance would make of it takes long to find out.
async fn rate(workload: &Workload) -> f64 {
    const LONG: Duration = Duration::from_secs(1);
    let resource = Resource::new(workload);
    let time = Duration::from_secs_f64(workload.work.processor.mean());
    let begin = Instant::now();
    let clients = (0..2 * workload.work.cores).map(|_| {
        let resource = resource.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while begin.elapsed() < LONG {
                resource.clone().work(time).await;
                done += 1;
                yield_now().await;
            }
            done
        })
    });
    let mut done = 0;
    for client in clients.collect::<Vec<_>>() {
        done += client.await.expect("no panic");
    }
    f64::from(done) / begin.elapsed().as_secs_f64()
}

// === The server ===

/// Serves until it is killed, or who started it was.
fn server(variant: &str, limit: usize, workload: &Workload, protocol: Protocol) -> io::Result<()> {
    let resource = Resource::new(workload);
    let drawn = resource.drawn.clone();
    let handler = service_fn(move |request| resource.clone().answer(request));
    runtime(workload.work.cores).block_on(async {
        match variant {
            "none" => {
                watch(&drawn, || (0, ""));
                serve(protocol, handler).await
            }
            "resilience AIMD" => {
                let law = Aimd::builder().build().map_err(io::Error::other)?;
                serve(protocol, resilience(law, &drawn, handler)).await
            }
            "resilience Vegas" => {
                let law = Vegas::builder().build().map_err(io::Error::other)?;
                serve(protocol, resilience(law, &drawn, handler)).await
            }
            "resilience Gradient2" => {
                let law = Gradient2::builder().build().map_err(io::Error::other)?;
                serve(protocol, resilience(law, &drawn, handler)).await
            }
            "little" => serve(protocol, little(workload.objective() / 2, &drawn, handler)).await,
            ours => serve(protocol, self::ours(ours, limit, &drawn).layer(handler)).await,
        }
    })
}

fn ours(variant: &str, limit: usize, drawn: &Drawn) -> InFlightLimitLayer {
    let (name, wait) = variant.split_once(", ").unwrap_or((variant, ""));
    let layer = if name == "fixed" {
        InFlightLimitLayer::new(limit)
    } else {
        InFlightLimitLayer::with_limit(Adaptive::new().seed(1))
    };
    let overload = layer.handle();
    watch(drawn, move || {
        let reason = overload.course().last().map_or("", |step| step.reason);
        (overload.limit(), reason)
    });
    if wait.is_empty() {
        layer
    } else {
        layer.max_wait(MAX_WAIT)
    }
}

fn resilience(
    law: impl ConcurrencyAlgorithm + 'static,
    drawn: &Drawn,
    handler: impl Handler<Full<Bytes>>,
) -> impl Handler<Full<Bytes>> {
    // No error of the handler is in the way of telling what was refused: it has none.
    let limited = AdaptiveLimiterLayer::new(law).layer(handler.map_err(Into::<BoxError>::into));
    let seen = limited.clone();
    watch(drawn, move || (seen.limit(), ""));
    let shedding = LoadShedLayer::new().layer(limited);
    shedding.map_result(|answered: Result<_, BoxError>| {
        Ok::<_, BoxError>(answered.unwrap_or_else(|_| unavailable()))
    })
}

fn little(
    target: Duration,
    drawn: &Drawn,
    handler: impl Handler<Full<Bytes>>,
) -> impl Handler<Full<Bytes>> {
    let shedding = LittleLayer::new(0.01, target).layer(handler);
    let seen = shedding.clone();
    watch(drawn, move || (seen.concurrency(), ""));
    shedding.map_response(|answered| match answered {
        LoadShedResponse::Inner(response) => response,
        LoadShedResponse::Overload => unavailable(),
    })
}

fn unavailable() -> Response<Full<Bytes>> {
    let mut shed = Response::default();
    *shed.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    shed
}

type Drawn = Arc<Mutex<Mean>>;

#[derive(Debug, Default)]
struct Mean {
    sum: f64,
    times: f64,
}

impl Mean {
    fn count(&mut self, value: f64) {
        self.sum += value;
        self.times += 1.0;
    }

    fn take(&mut self) -> f64 {
        let mean = mem::take(self);
        mean.sum / mean.times
    }
}

/// Tells who started this the mean of the limit and of what was drawn, since they last asked.
fn watch(drawn: &Drawn, limit: impl Fn() -> (usize, &'static str) + Send + 'static) {
    let limits = Drawn::default();
    let (drawn, told) = (drawn.clone(), limits.clone());
    pinned::attend(move || format!("{} {}", lock(&told).take(), lock(&drawn).take()));
    let prints = env::var_os("COURSE").is_some();
    thread::spawn(move || {
        let begin = Instant::now();
        let mut last = 0;
        loop {
            let (limit, reason) = limit();
            lock(&limits).count(float(limit));
            if prints && limit != last {
                let at = begin.elapsed().as_secs_f64();
                eprintln!("{at:8.3} {last:5} => {limit:5} {reason}");
            }
            last = limit;
            thread::park_timeout(Duration::from_millis(5));
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === The table ===

#[derive(Clone)]
struct Row {
    variant: &'static str,
    /// If it is fixed.
    limit: usize,
    workload: Workload,
    protocol: (&'static str, Protocol),
    load: (&'static str, f64),
    /// How much longer than usual.
    scale: f64,
}

/// What came of a row.
struct Seen {
    outcome: Outcome,
    limit: f64,
    /// Of the server's time for a request.
    drawn: f64,
    /// The part of the time for which the server waited for its core.
    delayed: f64,
}

fn table(words: &[&str]) -> io::Result<()> {
    let mut capacities = HashMap::new();
    let mut worst = HashMap::new();
    let mut above = "";
    let rows: Vec<Row> = rows(words).collect();
    for rows in rows.chunk_by(Row::is_measured_with) {
        let work = &rows[0].workload.work;
        if above != work.name {
            above = work.name;
            let capacity = pinned::told(&["capacity", work.name])?;
            capacities.insert(work.name, capacity);
            println!(
                "\n{}: {}. {capacity:.0} per second.\n",
                work.name, work.about
            );
            println!(
                "| load | variant | goodput | admitted p50, p99 ms | shed p99 ms | shed | timeouts, errors | limit, mean | late p99 ms, without core |"
            );
            println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        }
        let capacity = capacities[work.name];
        for (row, seen) in rows.iter().zip(run_in_time(rows, capacity)?) {
            let good = row.print(&seen, capacity);
            if work.name == HIDDEN {
                continue;
            }
            let worst = worst
                .entry((row.variant, row.load.0))
                .or_insert((good, row.name()));
            if good < worst.0 {
                *worst = (good, row.name());
            }
        }
    }
    println!("\nThe worst over the workloads but `{HIDDEN}`, and which:\n");
    let loads = LOADS.map(|l| l.0);
    println!("| variant | {} |", loads.join(" | "));
    println!("| --- |{}", " ---: |".repeat(loads.len()));
    for variant in VARIANTS {
        let each = loads.map(|load| {
            let worst = worst.get(&(variant, load));
            worst.map_or("-".into(), |(good, name)| {
                format!("{:.1} % {name}", good * 100.0)
            })
        });
        println!("| {variant} | {} |", each.join(" | "));
    }
    Ok(())
}

/// The variants of one load beside each other, and the lowest load first.
fn rows(words: &[&str]) -> impl Iterator<Item = Row> {
    let quick = words.contains(&"quick");
    let scale = if quick {
        0.5
    } else if words.contains(&"long") {
        10.0
    } else {
        1.0
    };
    let words = words.iter().copied();
    let words: Vec<&str> = words.filter(|w| !["quick", "long"].contains(w)).collect();
    let protocols = workloads()
        .into_iter()
        .flat_map(|w| PROTOCOLS.map(|p| (w.clone(), p)));
    let loads = protocols.flat_map(|(w, p)| LOADS.map(|l| (w.clone(), p, l)));
    let all = loads.flat_map(move |(workload, protocol, load)| {
        VARIANTS.map(|variant| Row {
            variant,
            limit: workload.limits[usize::from(variant.contains("waiting"))],
            workload: workload.clone(),
            protocol,
            load,
            scale,
        })
    });
    all.filter(move |row| row.is_called(&words))
}

impl Row {
    fn is_called(&self, words: &[&str]) -> bool {
        let name = [
            self.variant,
            self.workload.work.name,
            self.protocol.0,
            self.load.0,
        ];
        let extreme = ["2x", "10x"].contains(&self.load.0);
        let usual = match self.protocol.1 {
            Protocol::Http1 => true,
            Protocol::Http2 => {
                words.contains(&"http2") || self.workload.work.name == "A" && extreme
            }
        };
        let reduced = ["fixed", "adaptive, waiting", "resilience AIMD", "little"]
            .contains(&self.variant)
            && self.protocol.1 == Protocol::Http1
            && extreme;
        usual && (reduced || self.scale >= 1.0) && words.iter().all(|word| name.contains(word))
    }

    fn is_measured_with(&self, other: &Self) -> bool {
        self.workload.is_slow()
            && self.workload.work.name == other.workload.work.name
            && self.protocol.0 == other.protocol.0
            && self.load.0 == other.load.0
    }

    fn name(&self) -> String {
        match self.protocol.1 {
            Protocol::Http1 => self.workload.work.name.into(),
            Protocol::Http2 => format!("{} {}", self.workload.work.name, self.protocol.0),
        }
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.scale * if self.workload.is_slow() { 5.0 } else { 1.5 })
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(
            self.scale
                * match self.load.1 {
                    _ if self.workload.is_slow() => 45.0,
                    ..0.9 => 1.5,
                    _ => 3.0,
                },
        )
    }

    /// One of the table, and its goodput.
    fn print(&self, seen: &Seen, capacity: f64) -> f64 {
        let answers = &seen.outcome.first;
        let seconds = self.duration().as_secs_f64();
        let offered = float(answers.asked()) / seconds;
        let good = float(answers.good(self.workload.objective())) / seconds;
        // Few requests can have had more work in them than many, or less.
        let possible = capacity * self.workload.work.processor.mean() / seen.drawn;
        let good = good / offered.min(possible);
        println!(
            "| {}{} | {} | {:.1} % | {}, {} | {} | {:.1} % | {}, {} | {:.1} | {}, {:.1} %{} |",
            self.load.0,
            if self.protocol.0 == "http2" {
                " http2"
            } else {
                ""
            },
            self.variant,
            good * 100.0,
            millis(answers.admitted(50)),
            millis(answers.admitted(99)),
            millis(answers.shed(99)),
            float(answers.shed.len()) / float(answers.asked()) * 100.0,
            answers.timeouts,
            answers.errors + answers.others,
            seen.limit,
            millis(seen.outcome.lag(99)),
            seen.delayed * 100.0,
            if seen.is_in_time() { "" } else { " (!)" },
        );
        if let Some(error) = &seen.outcome.error {
            eprintln!("the first error: {error}");
        }
        good
    }
}

impl Seen {
    fn is_in_time(&self) -> bool {
        pinned::is_in_time(&self.outcome) && self.delayed <= DELAYED
    }
}

fn run_in_time(rows: &[Row], capacity: f64) -> io::Result<Vec<Seen>> {
    let mut best = run(rows, capacity)?;
    for _ in 1..TRIES {
        if best.iter().all(Seen::is_in_time) {
            break;
        }
        best = run(rows, capacity)?;
    }
    Ok(best)
}

/// All at once.
fn run(rows: &[Row], capacity: f64) -> io::Result<Vec<Seen>> {
    let (warm_up, duration) = (rows[0].warm_up(), rows[0].duration());
    let each = rows.iter().map(|row| {
        let limit = row.limit.to_string();
        let workload = row.workload.work.name;
        Server::start(&["server", row.variant, &limit, workload, row.protocol.0])
    });
    let mut servers = each.collect::<io::Result<Vec<_>>>()?;
    let (outcomes, delayed) = runtime(1).block_on(async {
        let start = Instant::now();
        let loads = rows.iter().zip(&servers).map(|(row, server)| {
            let load = Load {
                warm_up,
                duration,
                timeout: Duration::from_secs_f64(row.workload.work.timeout),
                ..Load::new(server.address, row.protocol.1, capacity * row.load.1)
            };
            tokio::spawn(load.run())
        });
        let loads: Vec<_> = loads.collect();
        sleep_until(start + warm_up).await;
        let before = mark(&mut servers)?;
        sleep_until(start + warm_up + duration).await;
        let delayed = (mark(&mut servers)? - before) / duration.as_secs_f64() / float(rows.len());
        let mut outcomes = Vec::new();
        for load in loads {
            outcomes.push(load.await.map_err(io::Error::other)?);
        }
        io::Result::Ok((outcomes, delayed))
    })?;
    let seen = outcomes.into_iter().zip(&mut servers);
    let seen = seen.map(|(outcome, server)| {
        server.answer()?;
        let answer = server.answer()?;
        let (limit, drawn) = answer.split_once(' ').expect("two numbers");
        Ok(Seen {
            outcome,
            limit: limit.parse().map_err(io::Error::other)?,
            drawn: drawn.parse().map_err(io::Error::other)?,
            delayed,
        })
    });
    seen.collect()
}

/// The servers begin another mean; and so many seconds they had to wait for their core until now.
fn mark(servers: &mut [Server]) -> io::Result<f64> {
    let mut delayed = 0.0;
    for server in servers {
        // Of the main thread: what it ran, and what it waited, in nanoseconds.
        let stat = fs::read_to_string(format!("/proc/{}/schedstat", server.child.id()))?;
        let waited = stat.split_whitespace().nth(1).expect("three numbers");
        delayed += waited.parse::<f64>().map_err(io::Error::other)? / 1e9;
        let lines = server.child.stdin.as_mut().expect("a pipe");
        lines.write_all(b"\n")?;
    }
    Ok(delayed)
}

/// The goodput of `fixed` by its limit, around those that are known.
fn limits(words: &[&str]) -> io::Result<()> {
    const PARTS: [f64; 8] = [0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0];
    let mut words = words.to_vec();
    words.push("http1");
    for row in rows(&words).filter(|row| row.variant.starts_with("fixed")) {
        let work = &row.workload.work;
        let capacity = pinned::told(&["capacity", work.name])?;
        let limited = PARTS.map(|part| Row {
            limit: scaled(row.limit, part),
            ..row.clone()
        });
        for rows in limited.chunk_by(Row::is_measured_with) {
            for (row, seen) in rows.iter().zip(run_in_time(rows, capacity)?) {
                print!("{} {} ", work.name, row.limit);
                row.print(&seen, capacity);
            }
        }
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few"
)]
fn scaled(n: usize, part: f64) -> usize {
    (float(n) * part).round() as usize
}

//! What is left of a server under more load than it can carry: `cargo bench -p conformance --bench overload`.
//!
//! An open-loop load over loopback TCP, below and above the capacity of a simulated resource. The program
//! runs itself as the server, pinned to another core than the load where there are two and `taskset`; every
//! row has a server of its own. The figures are wall-clock, to be compared within one table. Of a row whose
//! generator was late they mean little, so it is run again, and marked if that does not help; where each who
//! waits is a connection, as on HTTP/1 without a limit, the machine may have no more of them to offer. Words
//! after `--` choose rows: `-- pool http1 10x`.
//!
//! - `pool`: 8 blocking workers, each 5 ms per request. The processor is nearly idle.
//! - `cpu`: 1 ms of the only thread per request, in ten slices, as handlers come back to their `await`s.

mod pinned;

use std::{
    collections::HashMap, convert::Infallible, fs, io, process::ExitCode, sync::Arc, thread,
    time::Duration,
};

use bytes::Bytes;
use conformance::{Load, Outcome, Protocol};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::{
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
    time::{Instant, sleep_until},
};
use tower::{
    Layer, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer,
    load_shed::LoadShedLayer, service_fn,
};
use tower_overload::InFlightLimitLayer;

use pinned::{BoxError, Handler, PROTOCOLS, Server, TRIES, float, millis, named, runtime, serve};

/// The workers of the pool, and what the limits are set to: what somebody would who knew the answer.
const SLOTS: usize = 8;
const WARM_UP: Duration = Duration::from_secs(2);
const DURATION: Duration = Duration::from_secs(10);
const WORKLOADS: [(&str, Workload); 2] = [("pool", Workload::Pool), ("cpu", Workload::Cpu)];
const LOADS: [(&str, f64); 3] = [("0.9x", 0.9), ("2x", 2.0), ("10x", 10.0)];
/// No limit, so that the queue is at the resource; tower's, with its own queue; tower's, which sheds; ours.
/// Ours again, with a wait of twice as long as a request takes.
const VARIANTS: [&str; 5] = [
    "none",
    "ConcurrencyLimit",
    "LoadShed",
    "ours",
    "ours, waiting",
];

fn main() -> io::Result<ExitCode> {
    pinned::main(|words| {
        match words {
            ["server", variant, workload, protocol] => {
                let protocol = named(&PROTOCOLS, protocol);
                server(variant, named(&WORKLOADS, workload), protocol)?;
            }
            ["capacity", workload] => println!("{}", capacity(named(&WORKLOADS, workload))),
            ["table", words @ ..] => table(words)?,
            _ => return Ok(false),
        }
        Ok(true)
    })
}

// === The resource ===

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Workload {
    Pool,
    Cpu,
}

#[derive(Clone)]
struct Resource {
    workload: Workload,
    slots: Arc<Semaphore>,
}

impl Workload {
    fn service_time(self) -> Duration {
        match self {
            Self::Pool => Duration::from_millis(5),
            Self::Cpu => Duration::from_millis(1),
        }
    }

    fn objective(self) -> Duration {
        5 * self.service_time() + Duration::from_millis(25)
    }
}

impl Resource {
    fn new(workload: Workload) -> Self {
        Self {
            workload,
            slots: Arc::new(Semaphore::new(SLOTS)),
        }
    }

    async fn work(self) {
        let time = self.workload.service_time();
        match self.workload {
            Workload::Pool => {
                let slot = self.slots.acquire_owned().await.expect("never closed");
                // As in a pool, what was begun for a client who left is worked to its end.
                let done = spawn_blocking(move || {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "a worker; and a timer of tokio's is up to 1 ms late, a fifth of the capacity"
                    )]
                    thread::sleep(time);
                    drop(slot);
                });
                done.await.expect("no panic");
            }
            Workload::Cpu => {
                for _ in 0..10 {
                    let begin = Instant::now();
                    while begin.elapsed() < time / 10 {}
                    yield_now().await;
                }
            }
        }
    }

    async fn answer(self, _: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        self.work().await;
        Ok(Response::new(Full::from("ok")))
    }
}

/// What the resource can do per second if nothing else is to be done: the best of several runs.
fn capacity(workload: Workload) -> f64 {
    let runs = (0..TRIES).map(|_| runtime(SLOTS).block_on(rate(workload)));
    runs.fold(0.0, f64::max)
}

async fn rate(workload: Workload) -> f64 {
    const EACH: u32 = 250;
    let resource = Resource::new(workload);
    let begin = Instant::now();
    let clients = (0..SLOTS).map(|_| {
        let resource = resource.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                resource.clone().work().await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
    f64::from(EACH) * float(SLOTS) / begin.elapsed().as_secs_f64()
}

// === The server ===

/// Serves until it is killed, or who started it was.
fn server(variant: &str, workload: Workload, protocol: Protocol) -> io::Result<()> {
    pinned::attend(String::new);
    let resource = Resource::new(workload);
    let in_flight = InFlightLimitLayer::new(SLOTS);
    let handler = service_fn(move |request| resource.clone().answer(request));
    runtime(SLOTS).block_on(async {
        match variant {
            "none" => serve(protocol, handler).await,
            "ConcurrencyLimit" => {
                let limit = GlobalConcurrencyLimitLayer::new(SLOTS);
                serve(protocol, limit.layer(handler)).await
            }
            "LoadShed" => serve(protocol, load_shed(handler)).await,
            "ours" => serve(protocol, in_flight.layer(handler)).await,
            _ => {
                let waiting = in_flight.max_wait(2 * workload.service_time());
                serve(protocol, waiting.layer(handler)).await
            }
        }
    })
}

fn load_shed(handler: impl Handler<Full<Bytes>>) -> impl Handler<Full<Bytes>> {
    let limited = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(SLOTS))
        .service(handler);
    limited.map_result(|answered: Result<_, BoxError>| {
        Ok::<_, BoxError>(answered.unwrap_or_else(|_| {
            let mut shed = Response::default();
            *shed.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            shed
        }))
    })
}

// === The table ===

struct Row {
    variant: &'static str,
    workload: (&'static str, Workload),
    protocol: (&'static str, Protocol),
    load: (&'static str, f64),
}

fn table(words: &[&str]) -> io::Result<()> {
    let mut capacities = HashMap::new();
    // What was spent under the least load, by workload, protocol and variant.
    let mut least = HashMap::new();
    println!(
        "| variant | workload | protocol | load | offered/s | good/s | of what was possible | admitted p50, p99 ms | shed p50, p99 ms | timeouts | errors | generator late p99 ms | server CPU s per 1000 sheds |"
    );
    println!(
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for row in rows().filter(|row| row.is_called(words)) {
        let capacity = match capacities.get(&row.workload.1) {
            Some(&capacity) => capacity,
            None => pinned::told(&["capacity", row.workload.0])?,
        };
        capacities.insert(row.workload.1, capacity);
        let (outcome, processor) = row.run_in_time(capacity)?;
        let answers = &outcome.first;
        let spent = Spent {
            admitted: float(answers.admitted.len()),
            shed: float(answers.shed.len()),
            processor,
        };
        let key = (row.workload.0, row.protocol.0, row.variant);
        let least = *least.entry(key).or_insert(spent);

        let seconds = DURATION.as_secs_f64();
        let offered = float(answers.asked()) / seconds;
        let good = float(answers.good(row.workload.1.objective())) / seconds;
        println!(
            "| {} | {} | {} | {} | {offered:.0} | {good:.0} | {:.1} % | {}, {} | {}, {} | {} | {} | {}{} | {} |",
            row.variant,
            row.workload.0,
            row.protocol.0,
            row.load.0,
            good / offered.min(capacity) * 100.0,
            millis(answers.admitted(50)),
            millis(answers.admitted(99)),
            millis(answers.shed(50)),
            millis(answers.shed(99)),
            answers.timeouts,
            answers.errors + answers.others,
            millis(outcome.lag(99)),
            if pinned::is_in_time(&outcome) {
                ""
            } else {
                " (!)"
            },
            spent
                .per_shed(least)
                .map_or("-".into(), |cost| format!("{:.4}", cost * 1_000.0)),
        );
        if let Some(error) = outcome.error {
            eprintln!("the first error: {error}");
        }
    }
    for ((name, _), capacity) in WORKLOADS
        .iter()
        .filter_map(|w| Some((w, capacities.get(&w.1)?)))
    {
        println!("\nThe capacity of `{name}` is {capacity:.0} requests per second.");
    }
    Ok(())
}

/// The variants of one load beside each other, and the lowest load first.
fn rows() -> impl Iterator<Item = Row> {
    let workloads = WORKLOADS.into_iter();
    let protocols = workloads.flat_map(|w| PROTOCOLS.map(|p| (w, p)));
    let loads = protocols.flat_map(|(w, p)| LOADS.map(|l| (w, p, l)));
    loads.flat_map(|(workload, protocol, load)| {
        VARIANTS.map(|variant| Row {
            variant,
            workload,
            protocol,
            load,
        })
    })
}

impl Row {
    fn is_called(&self, words: &[&str]) -> bool {
        let name = [self.variant, self.workload.0, self.protocol.0, self.load.0];
        words.iter().all(|word| name.contains(word))
    }

    fn run_in_time(&self, capacity: f64) -> io::Result<(Outcome, f64)> {
        let mut best = self.run(capacity)?;
        for _ in 1..TRIES {
            if pinned::is_in_time(&best.0) {
                break;
            }
            let again = self.run(capacity)?;
            if again.0.lag(99) < best.0.lag(99) {
                best = again;
            }
        }
        Ok(best)
    }

    /// What the clients saw, and the processor time of the server in the meantime.
    fn run(&self, capacity: f64) -> io::Result<(Outcome, f64)> {
        let server = Server::start(&["server", self.variant, self.workload.0, self.protocol.0])?;
        let load = Load {
            warm_up: WARM_UP,
            duration: DURATION,
            ..Load::new(server.address, self.protocol.1, capacity * self.load.1)
        };
        let from = WARM_UP;
        runtime(SLOTS).block_on(async {
            let start = Instant::now();
            let processor = async {
                sleep_until(start + from).await;
                let before = processor_time(&server)?;
                sleep_until(start + from + DURATION).await;
                io::Result::Ok(processor_time(&server)? - before)
            };
            let (outcome, processor) = tokio::join!(load.run(), processor);
            Ok((outcome, processor?))
        })
    }
}

/// Seconds of the server's processor, in its own name and the kernel's, until now.
fn processor_time(server: &Server) -> io::Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, on every Linux
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.child.id()))?;
    // The name, in brackets, may have spaces in it. `utime` and `stime` are the 12th and 13th behind it.
    let (_, stat) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = stat.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.map(|n| n.parse::<f64>().expect("a number")).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// Seconds of the server's processor, and for what.
#[derive(Clone, Copy)]
struct Spent {
    admitted: f64,
    shed: f64,
    processor: f64,
}

impl Spent {
    /// The price of one that was shed, if there is a price for each kind that explains both loads. Where few
    /// were shed it would be the small difference of large numbers.
    fn per_shed(self, least: Self) -> Option<f64> {
        let price = least.admitted * self.processor - self.admitted * least.processor;
        let price = price / (least.admitted * self.shed - self.admitted * least.shed);
        // Without its lowest load, of which it is the difference, a row has none.
        (self.shed > 4.0 * self.admitted && price.is_finite()).then_some(price)
    }
}

//! The limit against what queueing theory says of it, under the paused clock: the same seed is the same run.
//!
//! tokio's clock has steps of a millisecond, rounded up (1.54), so a millisecond of the model is a second here.

use std::{cell::RefCell, convert::Infallible, rc::Rc, time::Duration};

use bytes::Bytes;
use conformance::dice;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep, sleep_until},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_connection::Head;
use tower_overload::{Criticality, InFlightLimit, InFlightLimitLayer, Overload, Ticket};

/// Chance of the model.
struct Chance(Box<dyn FnMut(u32) -> u32>);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(Box::new(dice(seed)))
    }

    /// Above zero, at most one.
    fn part(&mut self) -> f64 {
        f64::from((self.0)(1 << 30) + 1) / f64::from(1 << 30)
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.part().ln() * mean
    }
}

/// How long a request is served, in seconds of the clock.
#[derive(Clone, Copy, Debug)]
enum Work {
    Exponential,
    Constant,
    /// One in twenty takes twenty times as long as each of the others.
    Bimodal,
}

const MEAN: f64 = 100.0;

impl Work {
    fn draw(self, chance: &mut Chance) -> Duration {
        Duration::from_secs_f64(match self {
            Self::Exponential => chance.exponential(MEAN),
            Self::Constant => MEAN,
            Self::Bimodal => {
                let short = MEAN / (0.95 + 0.05 * 20.0);
                if chance.part() < 0.05 {
                    short * 20.0
                } else {
                    short
                }
            }
        })
    }
}

/// What became of the requests of a run.
#[derive(Debug, Default)]
struct Run {
    served: u32,
    shed: u32,
    /// How long each was in the house, in all, in seconds; and how much of that it held a slot, which is the sum over
    /// time of how many did.
    sojourn: f64,
    in_flight: f64,
    /// Of clients that came back when they were told to.
    returned: u32,
    admitted_then: u32,
    by_class: [[u32; 2]; 2],
    /// All that happened, in order.
    trace: u64,
    took: f64,
}

impl Run {
    fn note(&mut self, event: u64) {
        self.trace = (self.trace ^ event).wrapping_mul(0x0100_0000_01b3);
    }

    fn loss(&self) -> f64 {
        f64::from(self.shed) / f64::from(self.shed + self.served)
    }
}

type Served = InFlightLimit<
    tower::util::BoxCloneService<Request<Empty<Bytes>>, Response<Full<Bytes>>, Infallible>,
>;

/// Requests that come by chance, `rate` in the time that one takes, each served for as long as its query says.
#[derive(Clone)]
struct Model {
    work: Work,
    rate: f64,
    requests: u32,
    returns: bool,
    /// This part is critical, the rest sheddable.
    critical: f64,
    /// How far a second of the client's is from a millisecond of the model.
    unit: f64,
}

impl Model {
    fn new(work: Work, rate: f64, requests: u32) -> Self {
        Self {
            work,
            rate,
            requests,
            returns: false,
            critical: 1.0,
            unit: 1.0,
        }
    }

    fn run(&self, seed: u64, layer: InFlightLimitLayer) -> (Run, Overload) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let layer = layer
            .seed(seed)
            .classify(|head: &Head<'_>| match head.uri.path() {
                "/critical" => Ticket::default(),
                _ => Ticket::new(Criticality::Sheddable),
            });
        LocalSet::new().block_on(&runtime, self.course(seed, layer))
    }

    async fn course(&self, seed: u64, layer: InFlightLimitLayer) -> (Run, Overload) {
        let run = Rc::new(RefCell::new(Run::default()));
        let service = layer.layer(tower::util::BoxCloneService::new(service_fn(
            |request: Request<Empty<Bytes>>| async move {
                let time = request
                    .uri()
                    .query()
                    .expect("a time")
                    .parse()
                    .expect("a number");
                sleep(Duration::from_secs_f64(time)).await;
                Ok::<_, Infallible>(Response::new(Full::from("ok")))
            },
        )));
        let mut chance = Chance::new(seed);
        let start = Instant::now();
        let mut at = start;
        let mut clients = Vec::new();
        for _ in 0..self.requests {
            at += Duration::from_secs_f64(chance.exponential(MEAN * self.unit / self.rate));
            sleep_until(at).await;
            let time = self.work.draw(&mut chance).mul_f64(self.unit);
            let critical = chance.part() <= self.critical;
            let client = client(service.clone(), run.clone(), time, critical, self.returns);
            clients.push(tokio::task::spawn_local(client));
        }
        for client in clients {
            client.await.expect("no panic");
        }
        let mut run = Rc::into_inner(run).expect("all have ended").into_inner();
        run.took = start.elapsed().as_secs_f64();
        (run, layer.handle())
    }
}

async fn client(
    service: Served,
    run: Rc<RefCell<Run>>,
    time: Duration,
    critical: bool,
    returns: bool,
) {
    let ask = async || {
        let path = if critical { "critical" } else { "sheddable" };
        let uri = format!("/{path}?{}", time.as_secs_f64());
        let request = Request::get(uri).body(Empty::new()).expect("a request");
        let came = Instant::now();
        let answer = service.clone().oneshot(request).await.expect("an answer");
        let stayed = came.elapsed();
        let served = answer.status() == 200;
        let after = answer.headers().get("retry-after").map(|after| {
            let after = after.to_str().expect("text");
            Duration::from_secs(after.parse().expect("seconds"))
        });
        drop(answer); // and with it the slot
        (served, stayed, after)
    };
    let (served, stayed, after) = ask().await;
    {
        let mut run = run.borrow_mut();
        run.note(u64::from(served) << 40 | u64::try_from(stayed.as_millis()).expect("short"));
        run.by_class[usize::from(critical)][usize::from(served)] += 1;
        if served {
            run.served += 1;
            run.sojourn += stayed.as_secs_f64();
            run.in_flight += time.as_secs_f64().ceil();
        } else {
            run.shed += 1;
        }
    }
    if let (true, Some(after)) = (returns, after) {
        sleep(after).await;
        let (served, ..) = ask().await;
        let mut run = run.borrow_mut();
        run.returned += 1;
        run.admitted_then += u32::from(served);
    }
}

/// The part of the requests that is lost where `servers` serve `load` (Erlang's B formula) with `places` to wait in
/// (M/M/c/K).
fn lost(load: f64, servers: u32, places: u32) -> f64 {
    let mut weight = 1.0;
    let mut sum = 1.0;
    for n in 1..=servers + places {
        weight *= load / f64::from(n.min(servers));
        sum += weight;
    }
    weight / sum
}

/// Four deviations of a binomial: independent losses would deviate less in all but one of 16,000 runs. Those of a queue
/// come in bursts, which doubles it.
fn tolerance(loss: f64, requests: u32) -> f64 {
    2.0 * 4.0 * (loss * (1.0 - loss) / f64::from(requests)).sqrt()
}

const REQUESTS: u32 = 40_000;

// SHED-1
#[test]
fn as_many_are_shed_as_erlang_says_whatever_the_distribution() {
    for (servers, load) in [(1, 0.5), (4, 8.0), (10, 9.0), (50, 45.0), (50, 500.0)] {
        let expected = lost(load, servers, 0);
        for work in [Work::Exponential, Work::Constant, Work::Bimodal] {
            let (run, overload) =
                Model::new(work, load, REQUESTS).run(7, InFlightLimitLayer::new(servers as usize));
            let tolerance = tolerance(expected, REQUESTS) + 0.005; // times are rounded up
            let loss = run.loss();
            assert!(
                (loss - expected).abs() < tolerance,
                "{servers} {load} {work:?}: {loss} of {expected}"
            );
            assert_eq!(overload.shed(), u64::from(run.shed));
            assert_eq!((overload.in_flight(), overload.waiting()), (0, 0));
        }
    }
}

// SHED-5
#[test]
fn a_room_loses_as_many_as_its_places_say() {
    for (servers, places, load) in [(4, 4, 3.6), (4, 4, 8.0), (10, 20, 9.5)] {
        let expected = lost(load, servers, places);
        let layer = InFlightLimitLayer::new(servers as usize)
            .max_wait(Duration::from_secs(100_000_000))
            .max_waiting(places as usize);
        let (run, overload) = Model::new(Work::Exponential, load, REQUESTS).run(11, layer);
        let loss = run.loss();
        let tolerance = tolerance(expected, REQUESTS) * 2.0 + 0.005;
        assert!(
            (loss - expected).abs() < tolerance,
            "{servers} {places} {load}: {loss} of {expected}"
        );
        assert_eq!((overload.in_flight(), overload.waiting()), (0, 0));
    }
}

// SHED-1: L = lambda W, of those in service.
#[test]
fn littles_law_holds() {
    let (run, overload) =
        Model::new(Work::Exponential, 9.0, REQUESTS).run(3, InFlightLimitLayer::new(10));
    let arrivals = f64::from(run.served) / run.took;
    let in_house = run.in_flight / run.took;
    let (expected, stayed) = (arrivals * run.sojourn / f64::from(run.served), in_house);
    assert!(
        (expected - stayed).abs() < expected * 0.01, // times are rounded up
        "{expected} {stayed}"
    );
    let carried = 9.0 * (1.0 - lost(9.0, 10, 0));
    assert!(
        (stayed - carried).abs() < carried * 0.03,
        "{stayed} {carried}"
    );
    // So the layer estimates how long a slot is held, from the last few.
    let held = overload
        .service_time()
        .expect("many were served")
        .as_secs_f64();
    assert!((MEAN * 0.4..MEAN * 2.2).contains(&held), "{held}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let layer = || {
        InFlightLimitLayer::new(5)
            .max_wait(Duration::from_secs(300))
            .max_waiting(5)
    };
    let model = Model {
        returns: true,
        critical: 0.3,
        ..Model::new(Work::Bimodal, 7.0, 5_000)
    };
    let trace = |seed| model.run(seed, layer()).0.trace;
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

// SHED-14: at 85 % of what 50 slots can do, and clients that come back once, when they are told to.
#[test]
fn who_returns_when_told_is_admitted() {
    for seed in 0..3 {
        let model = Model {
            returns: true,
            unit: 0.01, // a request takes a second
            ..Model::new(Work::Exponential, 42.5, REQUESTS)
        };
        let (run, _) = model.run(seed, InFlightLimitLayer::new(50));
        let honest = f64::from(run.admitted_then) / f64::from(run.returned);
        assert!(run.returned > 500, "{run:?}");
        assert!(honest >= 0.9, "seed {seed}: {honest}, {run:?}");
    }
}

// SHED-8: critical requests are four fifths of what can be served, sheddable ones ten times that.
#[test]
fn who_is_critical_hardly_notices_a_flood_of_who_is_not() {
    for (max_wait, well, most) in [(0, 0.99, 0.2), (100, 0.998, 0.95)] {
        let model = Model {
            critical: 0.8 / 8.8,
            unit: 0.001, // a request takes a tenth of a second
            ..Model::new(Work::Exponential, 100.0 * 8.8, 200_000)
        };
        let layer = InFlightLimitLayer::new(100).max_wait(Duration::from_millis(max_wait));
        let (run, _) = model.run(5, layer);
        let part = |[shed, served]: [u32; 2]| f64::from(served) / f64::from(shed + served);
        let critical = part(run.by_class[1]);
        let sheddable = f64::from(run.by_class[0][1]);
        let used = sheddable / (run.took / (MEAN * 0.001) * 20.0);
        assert!(critical >= well, "{max_wait} ms: {critical}");
        assert!(used >= most, "{max_wait} ms: {used} of what is left");
    }
}

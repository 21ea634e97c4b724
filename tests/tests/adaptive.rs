//! The simulator, on which the law was tried, against the layer itself: the same servers and clients, of both.
//!
//! tokio's clock has steps of a millisecond, rounded up (1.54), so all is ten times slower than the simulator's own.

use std::{cell::RefCell, convert::Infallible, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use simulator::{
    chance::Chance,
    room::Order,
    work::{Time, Work},
    world::{Policy, Scenario},
};
use tokio::{
    sync::Semaphore,
    task::{LocalSet, spawn_local},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_overload::{Adaptive, InFlightLimitLayer, Limit};

/// How much slower.
const SCALE: f64 = 10.0;
/// In seconds.
const WAIT: f64 = 0.2 * SCALE;
const DURATION: f64 = 200.0;
/// By how much a time is longer for being rounded up, in seconds; on average.
const ROUNDED: f64 = 0.0005;

fn work() -> Work {
    let slower = |time| match time {
        Time::Exponential(mean) => Time::Exponential(mean * SCALE),
        other => panic!("{other:?}"),
    };
    let work = Work::mixed();
    Work {
        processor: slower(work.processor),
        io: slower(work.io),
        objective: work.objective * SCALE,
        timeout: work.timeout * SCALE,
        refusal: 0.0,
        ..work
    }
}

fn law(seed: u64) -> Adaptive {
    Adaptive::new().floor(4).start(8).seed(seed)
}

/// What came of it, after a quarter of the time.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Good answers in a second, of what can be done.
    goodput: f64,
    limit: f64,
    /// The part of the requests that was.
    refused: f64,
}

fn simulated(load: f64, seed: u64) -> Seen {
    let work = work();
    let capacity = work.capacity();
    let rate = |_: f64| load * capacity;
    let law = |seed| Box::new(law(seed)) as Box<dyn Limit>;
    let run = Scenario::steady(work, &rate, DURATION, seed).run(&Policy {
        law: &law,
        max_wait: WAIT,
        order: Order::AdaptiveLifo,
        endless: false,
    });
    Seen {
        goodput: run.goodput() / capacity,
        limit: run.limit_between(DURATION / 4.0, DURATION),
        refused: run.refused_part(),
    }
}

fn real(load: f64, seed: u64) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, course(load, seed))
}

/// How long a request takes: of a processor, of something else, and of a processor again.
#[derive(Clone, Copy)]
struct Times([Duration; 3]);

async fn serve(
    cores: Arc<Semaphore>,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let Times([first, io, second]) = *request.extensions().get().expect("they are said");
    for (work, io) in [(first, io), (second, Duration::ZERO)] {
        let core = cores.acquire().await.expect("it is open");
        sleep(work).await;
        drop(core);
        sleep(io).await;
    }
    Ok(Response::new(Full::default()))
}

#[derive(Default)]
struct Counts {
    came: f64,
    good: f64,
    refused: f64,
}

async fn course(load: f64, seed: u64) -> Seen {
    let work = work();
    let layer = InFlightLimitLayer::with_limit(law(seed))
        .max_wait(Duration::from_secs_f64(WAIT))
        .seed(seed);
    let cores = Arc::new(Semaphore::new(work.cores));
    let service = layer.layer(service_fn(move |request| serve(cores.clone(), request)));
    let counts = Rc::new(RefCell::new(Counts::default()));
    let overload = layer.handle();
    let start = Instant::now();
    let (from, end) = (
        start + Duration::from_secs_f64(DURATION / 4.0),
        start + Duration::from_secs_f64(DURATION),
    );
    let limits = spawn_local(async move {
        let (mut sum, mut looks) = (0.0, 0.0);
        sleep_until(from).await;
        while Instant::now() < end {
            sum += f64::from(u32::try_from(overload.limit()).expect("a few"));
            looks += 1.0;
            sleep(Duration::from_millis(100)).await;
        }
        sum / looks
    });
    let mut chance = Chance::new(seed);
    let mut at = start;
    loop {
        at += Duration::from_secs_f64(chance.exponential(1.0 / work.capacity() / load));
        if at > end {
            break;
        }
        sleep_until(at).await;
        let processor = work.processor.draw(&mut chance);
        let times = [processor * 0.6, work.io.draw(&mut chance), processor * 0.4];
        let mut request = Request::new(Empty::new());
        let times = times.map(|time| Duration::from_secs_f64((time - ROUNDED).max(0.0)));
        request.extensions_mut().insert(Times(times));
        let answer = service.clone().oneshot(request);
        let counts = counts.clone();
        let (objective, timeout) = (work.objective, work.timeout);
        spawn_local(async move {
            let came = Instant::now();
            let until = came + Duration::from_secs_f64(timeout);
            let served = timeout_at(until, answer).await;
            let served = served.map(|answer| answer.expect("an answer").status() == 200);
            let took = came.elapsed().as_secs_f64();
            let mut counts = counts.borrow_mut();
            let counted = |at| (from..=end).contains(&at);
            counts.came += f64::from(u8::from(counted(came)));
            if counted(Instant::now()) {
                let good = served == Ok(true) && took <= objective;
                counts.good += f64::from(u8::from(good));
                counts.refused += f64::from(u8::from(served == Ok(false)));
            }
        });
    }
    let limit = limits.await.expect("no panic");
    let counts = counts.borrow();
    Seen {
        goodput: counts.good / (DURATION * 0.75) / work.capacity(),
        limit,
        refused: counts.refused / counts.came,
    }
}

#[test]
fn the_layer_does_as_the_simulator_says() {
    for load in [0.9, 2.0] {
        let said = mean([1, 2].map(|seed| simulated(load, seed)));
        let is = mean([1, 2].map(|seed| real(load, seed)));
        let near = |is: f64, said: f64, by: f64| (is - said).abs() < by;
        let agree = near(is.goodput, said.goodput, 0.05)
            && near(is.refused, said.refused, 0.05)
            && near(is.limit / said.limit, 1.0, 0.25);
        assert!(agree, "{load}: {is:?}, and not {said:?}");
        assert!(said.goodput > 0.85 * load.min(1.0), "{load}: {said:?}");
    }
}

fn mean([one, other]: [Seen; 2]) -> Seen {
    Seen {
        goodput: f64::midpoint(one.goodput, other.goodput),
        limit: f64::midpoint(one.limit, other.limit),
        refused: f64::midpoint(one.refused, other.refused),
    }
}

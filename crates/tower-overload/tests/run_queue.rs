//! For how long tasks wait that could run, as a law is told.

mod support;

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use support::{answer, get, limited};
use tokio::{
    runtime::{Builder, Handle},
    task::yield_now,
    time::{Instant, advance},
};
use tower_overload::{InFlightLimit, InFlightLimitLayer, Limit, Sample};

const MS: Duration = Duration::from_millis(1);

/// A law that keeps what it is told: nobody gets in before.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Notes>);

#[derive(Debug, Default)]
struct Notes {
    delays: Mutex<Vec<Duration>>,
    limit: AtomicUsize,
    panics: bool,
}

impl Told {
    fn delays(&self) -> Vec<Duration> {
        self.0.delays.lock().unwrap().clone()
    }
}

impl Limit for Told {
    fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Relaxed)
    }

    fn on_sample(&self, _: &Sample) {}

    fn on_delay(&self, _: Instant, delay: Duration) {
        self.0.delays.lock().unwrap().push(delay);
        self.0.limit.store(1, Ordering::Relaxed);
        assert!(!self.0.panics, "as asked");
    }
}

fn told() -> (Told, InFlightLimitLayer) {
    let law = Told::default();
    (law.clone(), InFlightLimitLayer::with_limit(law))
}

type Service = InFlightLimit<support::Handler>;

/// A request that is refused.
fn refused(service: &Service) {
    assert_eq!(answer(service, get("/")).status(), 503);
}

async fn settle() {
    for _ in 0..9 {
        yield_now().await;
    }
}

/// Moves the clock without a yield, as a task does that works.
fn work(time: Duration) {
    let polled = tokio_test::task::spawn(advance(time)).poll();
    assert!(polled.is_pending());
}

/// A task that always has something to do, for so long each time.
async fn busy(time: Duration) -> Infallible {
    poll_fn(|cx| {
        work(time);
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

// SHED-20
#[tokio::test(start_paused = true)]
async fn the_queue_is_as_long_as_all_that_are_in_it() {
    for tasks in [1, 4, 16] {
        let (law, layer) = told();
        let (service, _handler) = limited(&layer);
        let busy: Vec<_> = (0..tasks).map(|_| tokio::spawn(busy(5 * MS))).collect();
        refused(&service);
        while law.delays().is_empty() {
            yield_now().await;
        }
        assert_eq!(law.delays(), [tasks * 5 * MS]);
        for task in busy {
            task.abort();
        }
        settle().await;
    }
}

// SHED-20: a batch that the driver has woken is over when the probe is polled.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_over_with_one_turn_is_seen() {
    let (law, layer) = told();
    let (service, _handler) = limited(&layer);
    for _ in 0..4 {
        tokio::spawn(async { work(5 * MS) });
    }
    refused(&service);
    settle().await;
    assert_eq!(law.delays(), [20 * MS]);
}

// SHED-20: there, a task that another spawns goes past the queue.
#[test]
fn a_probe_does_not_go_past_the_queue_of_a_worker() {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).build().unwrap();
    let (law, layer) = told();
    let (service, _handler) = limited(&layer);
    let told = law.clone();
    let asks = runtime.spawn(async move {
        for _ in 0..8 {
            tokio::spawn(async {
                let began = Instant::now();
                while began.elapsed() < MS {}
            });
        }
        refused(&service);
        while told.delays().is_empty() {
            yield_now().await;
        }
    });
    runtime.block_on(asks).unwrap();
    assert!(law.delays()[0] >= 8 * MS, "{:?}", law.delays());
}

// SHED-20
#[tokio::test(start_paused = true)]
async fn at_most_one_probe_in_ten_milliseconds() {
    let (law, layer) = told();
    let (service, handler) = limited(&layer);
    refused(&service);
    refused(&service);
    assert_eq!(alive(), 1, "one is under way");
    settle().await;
    assert_eq!(law.delays(), [Duration::ZERO]);
    assert_eq!(alive(), 0);
    handler.end(9);
    let served = || assert_eq!(answer(&service, get("/")).status(), 200);
    advance(Duration::from_nanos(9_999_999)).await;
    served();
    assert_eq!(alive(), 0);
    advance(Duration::from_nanos(1)).await;
    served();
    settle().await;
    assert_eq!(law.delays().len(), 2, "a response is as good");
}

fn alive() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

// SHED-20
#[tokio::test(start_paused = true)]
async fn without_requests_nothing_is_done() {
    let (law, layer) = told();
    let (service, _handler) = limited(&layer);
    advance(Duration::from_secs(1)).await;
    assert_eq!(alive(), 0);
    refused(&service);
    for _ in 0..100 {
        tokio::time::sleep(10 * MS).await;
        assert_eq!(alive(), 0);
    }
    assert_eq!(law.delays(), [Duration::ZERO]);
}

// SHED-20
#[tokio::test(start_paused = true)]
async fn without_a_law_nothing_is_done() {
    let layer = InFlightLimitLayer::new(1);
    let (service, _handler) = limited(&layer);
    let _running = support::asked::<1>(&service);
    refused(&service);
    assert_eq!(alive(), 0);
}

// SHED-20
#[test]
fn without_a_runtime_nothing_is_done() {
    let (law, layer) = told();
    let (service, _handler) = limited(&layer);
    refused(&service);
    assert_eq!(law.delays(), []);
    assert_is_probed(&law, &service);
}

// SHED-20
#[test]
fn a_probe_whose_runtime_is_gone_is_followed_by_another() {
    let (law, layer) = told();
    let (service, _handler) = limited(&layer);
    let runtime = paused();
    runtime.block_on(async {
        refused(&service);
        assert_eq!(alive(), 1);
    });
    drop(runtime);
    assert_eq!(law.delays(), []);
    assert_is_probed(&law, &service);
}

fn paused() -> tokio::runtime::Runtime {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}

fn assert_is_probed(law: &Told, service: &Service) {
    paused().block_on(async {
        advance(Duration::from_secs(1)).await;
        refused(service);
        settle().await;
    });
    assert_eq!(law.delays(), [Duration::ZERO]);
}

// SHED-20
#[tokio::test(start_paused = true)]
async fn a_law_that_panics_is_told_again_and_one_that_does_not_is_obeyed() {
    for panics in [true, false] {
        let notes = Notes {
            panics,
            ..Notes::default()
        };
        let law = Told(Arc::new(notes));
        let layer = InFlightLimitLayer::with_limit(law.clone());
        let (service, _handler) = limited(&layer);
        refused(&service);
        settle().await;
        assert_eq!(layer.handle().limit(), usize::from(!panics));
        let _running = (!panics).then(|| support::asked::<1>(&service));
        advance(10 * MS).await;
        refused(&service);
        settle().await;
        assert_eq!(law.delays().len(), 2);
    }
}

//! For how long a task that could run is not polled.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use crate::core::Core;

/// Between the end of a probe and the next.
const PAUSE: Duration = Duration::from_millis(10);

/// When the next probe is due.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Nanoseconds since the layer was made.
    due: AtomicU64,
}

const UNDER_WAY: u64 = u64::MAX;

impl Probes {
    /// Whether one is due, which is then under way until [`end`](Self::end).
    pub(crate) fn begin(&self, now: Duration) -> bool {
        // Relaxed: it is one number, and says nothing of others.
        let due = self.due.load(Ordering::Relaxed);
        let begin = || {
            self.due
                .compare_exchange(due, UNDER_WAY, Ordering::Relaxed, Ordering::Relaxed)
        };
        nanoseconds(now) >= due && begin().is_ok()
    }

    fn end(&self, now: Duration) {
        let due = nanoseconds(now + PAUSE);
        self.due.store(due, Ordering::Relaxed);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(UNDER_WAY - 1)
}

/// A task that is polled twice, each time after all that were in line before it, and tells the law for which of the two it
/// waited longer.
///
/// One would not be enough (tokio 1.54, `runtime/scheduler`; measured with tasks of 1 ms each). On `multi_thread` a task
/// that another spawns is the next to run, past the queue; only from a poll in which it wakes itself it goes to the back. On
/// `current_thread` it goes there at once; but where the driver has woken all of a batch, that is over with its first poll.
///
/// `yield_now` does not wait in the queue: its task is woken after the driver was polled, which is after 61 tasks, or when
/// the queue is empty. It said 50 ms with one busy task and with 64.
#[derive(Debug)]
pub(crate) struct Probe {
    core: Arc<Core>,
    since: Instant,
    first: Option<Duration>,
}

impl Probe {
    /// It begins now; where there is no runtime it also ends.
    pub(crate) fn spawn(core: Arc<Core>, now: Instant) {
        let probe = Self {
            core,
            since: now,
            first: None,
        };
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(probe));
        }
    }
}

impl Future for Probe {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let waited = now.duration_since(self.since);
        if let Some(first) = self.first {
            self.core.note_delay(now, first.max(waited));
            return Poll::Ready(());
        }
        self.since = now;
        self.first = Some(waited);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

// Also when its runtime is shut down.
impl Drop for Probe {
    fn drop(&mut self) {
        self.core.probes().end(self.core.age(Instant::now()));
    }
}

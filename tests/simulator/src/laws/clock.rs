//! A law that is wrong in a way that a fleet feels.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;
use tower_overload::{Limit, Sample};

/// 64, and 26 for a tenth of every second second: in all servers at once, if they were started at once.
#[derive(Debug, Default)]
pub struct Clock {
    began: OnceLock<Instant>,
    probes: AtomicBool,
}

impl Clock {
    fn look(&self, now: Instant) {
        let began = self.began.get_or_init(|| now);
        let now = now.saturating_duration_since(*began).as_millis();
        // Relaxed: nothing else is read by it, and there is one thread.
        self.probes.store(now % 2_000 < 100, Ordering::Relaxed);
    }
}

impl Limit for Clock {
    fn limit(&self) -> usize {
        if self.probes.load(Ordering::Relaxed) {
            26
        } else {
            64
        }
    }

    fn on_sample(&self, sample: &Sample) {
        self.look(sample.now);
    }

    fn on_full(&self, now: Instant) {
        self.look(now);
    }
}

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower_connection::{AcceptGate, Shut};

/// How hard the load presses: [`Overload::pressure`](crate::Overload::pressure).
///
/// ```
/// # use tower_overload::InFlightLimitLayer;
/// let overload = InFlightLimitLayer::new(100).handle();
/// assert!(!overload.pressure().is_high());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// Which part of the slots is taken: above 1 after the limit was lowered.
    pub used: f64,
    /// For how long requests have been refused for want of a slot, or have been waiting, without three quarters of the slots having been
    /// enough in between.
    pub full_for: Duration,
}

impl Pressure {
    /// It has pressed for 100 ms.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.full_for >= HIGH
    }
}

const HIGH: Duration = Duration::from_millis(100);

/// Remembers since when it presses, and pauses accepting meanwhile if it is to.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Milliseconds since the layer was made, and one; 0 while it does not press.
    since: AtomicU64,
    gate: Mutex<Option<Gate>>,
}

#[derive(Debug)]
struct Gate {
    gate: AcceptGate,
    shut: Option<Shut>,
}

impl Gauge {
    pub(crate) fn drive(&self, gate: AcceptGate) {
        let gate = Gate { gate, shut: None };
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = Some(gate);
    }

    pub(crate) fn full_for(&self, now: u64) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((now + 1).saturating_sub(since)),
        }
    }

    /// A request found no slot.
    pub(crate) fn press(&self, now: u64) {
        let since = self.since.load(Ordering::SeqCst);
        if since == 0 {
            // SeqCst, as where slots are counted and below: who presses looks at the slots afterwards, and who gives
            // back the last one looks here. One of them sees the other, or it would press for ever on an idle server.
            self.since.store(now + 1, Ordering::SeqCst);
        } else if now + 1 >= since + u64::try_from(HIGH.as_millis()).unwrap_or(u64::MAX) {
            let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            // It may have eased since.
            if let (Some(gate), true) = (&mut *gate, self.is_pressing()) {
                gate.shut.get_or_insert_with(|| gate.gate.shut());
            }
        }
    }

    pub(crate) fn is_pressing(&self) -> bool {
        self.since.load(Ordering::SeqCst) != 0
    }

    /// Three quarters of the slots are enough.
    pub(crate) fn ease(&self) {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.since.store(0, Ordering::SeqCst);
        let shut = gate.as_mut().and_then(|gate| gate.shut.take());
        drop(gate);
        drop(shut); // wakes acceptors
    }
}

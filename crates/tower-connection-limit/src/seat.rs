//! What one connection is told, and how it hears of it.

#[cfg(tower_loom)]
use loom::{
    future::AtomicWaker,
    sync::atomic::{AtomicU8, Ordering},
};
#[cfg(not(tower_loom))]
use {
    atomic_waker::AtomicWaker,
    std::sync::atomic::{AtomicU8, Ordering},
};

use std::{sync::OnceLock, task::Waker};

use tower_connection::ConnectionHandle;

/// How a connection stands with the limit. Only the ledger changes it, under its lock; the socket reads it
/// without one, before each of its reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It has a permit, and a handle.
    Served,
    /// It has a permit; the acceptor inside (a TLS handshake) is still at work.
    Making,
    /// It came when all permits were taken, and may still get one.
    Waiting,
    /// It will read a rejection.
    Rejected,
    /// It had a permit, and has left it to another.
    Evicted,
    /// It was one of these two, and its time is over: others need its place in the reserve.
    Spent,
    /// It is reset.
    Reset,
}

const PHASES: [Phase; 7] = [
    Phase::Served,
    Phase::Making,
    Phase::Waiting,
    Phase::Rejected,
    Phase::Evicted,
    Phase::Spent,
    Phase::Reset,
];

/// Shared by the ledger and the socket of one connection.
#[derive(Debug)]
pub(crate) struct Seat {
    phase: AtomicU8,
    /// The socket, when it waits for something that only the ledger can tell.
    waker: AtomicWaker,
    handle: OnceLock<ConnectionHandle>,
}

impl Seat {
    pub(crate) fn new(phase: Phase) -> Self {
        Self {
            phase: AtomicU8::new(phase as u8),
            waker: AtomicWaker::new(),
            handle: OnceLock::new(),
        }
    }

    /// The one question that is asked for each read and write.
    #[inline]
    pub(crate) fn is_served(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Served as u8
    }

    pub(crate) fn phase(&self) -> Phase {
        // Acquire: who sees the phase sees the handle that came with it.
        PHASES[usize::from(self.phase.load(Ordering::Acquire))]
    }

    pub(crate) fn tell(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.waker.wake();
    }

    /// Wakes `waker` at the next [`tell`](Self::tell). Register first, look at the phase second.
    pub(crate) fn register(&self, waker: &Waker) {
        #[cfg(tower_loom)]
        self.waker.register_by_ref(waker);
        #[cfg(not(tower_loom))]
        self.waker.register(waker);
    }

    pub(crate) fn handle(&self) -> Option<&ConnectionHandle> {
        self.handle.get()
    }

    pub(crate) fn set_handle(&self, handle: ConnectionHandle) {
        // A connection is made once; a second handle could only be another connection's.
        let _ = self.handle.set(handle);
    }
}

#[cfg(all(test, tower_loom))]
mod tests {
    use std::{future::poll_fn, sync::Arc, task::Poll};

    use super::*;

    #[test]
    fn a_socket_that_waits_hears_what_it_is_told() {
        loom::model(|| {
            let seat = Arc::new(Seat::new(Phase::Waiting));
            let ledger = seat.clone();
            let ledger = loom::thread::spawn(move || ledger.tell(Phase::Served));
            // Deadlocks, and so fails, if the socket registers and is not woken.
            loom::future::block_on(poll_fn(|cx| {
                if seat.phase() == Phase::Served {
                    return Poll::Ready(());
                }
                seat.register(cx.waker());
                match seat.phase() {
                    Phase::Served => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            }));
            ledger.join().unwrap();
        });
    }
}

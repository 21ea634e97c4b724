//! What the two halves of a connection and its handles agree on, without a lock.

#[cfg(loom)]
use loom::{
    future::AtomicWaker,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use {
    atomic_waker::AtomicWaker,
    std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use std::task::Waker;

use http::Version;

/// How far a connection is on its way to its end. It only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// Ends after the current work.
    Closing,
    /// Ends now, with a reset.
    Aborted,
}

#[derive(Default)]
pub(crate) struct State {
    phase: AtomicU8,
    in_flight: AtomicUsize,
    requests: AtomicU64,
    protocol: AtomicU8,
    upgraded: AtomicBool,
    driven: AtomicBool,
    // Reads and writes of an upgraded connection may be awaited by two tasks, and a driver is a third.
    reader: AtomicWaker,
    writer: AtomicWaker,
    driver: AtomicWaker,
}

impl State {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Open,
            1 => Phase::Closing,
            _ => Phase::Aborted,
        }
    }

    /// Moves the phase forward and wakes everybody who acts on it.
    pub(crate) fn advance(&self, to: Phase) {
        // SeqCst: see `end`.
        if self.phase.fetch_max(to as u8, Ordering::SeqCst) < to as u8 {
            self.reader.wake();
            self.writer.wake();
            self.driver.wake();
        }
    }

    pub(crate) fn begin(&self, version: Version) {
        // Relaxed: two statistics. The protocol never changes once it is known.
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.protocol.store(encode(version), Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends a request; called by a guard's `Drop`, and nowhere else.
    pub(crate) fn end(&self) {
        // SeqCst, on both words and in both threads: while this one ends the last request and then
        // looks whether somebody closes, another closes and then looks whether a request is in
        // flight. In any weaker order both may read the old value, and nobody ends the connection.
        let last = self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.phase() != Phase::Open {
            self.reader.wake();
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn protocol(&self) -> Option<Version> {
        decode(self.protocol.load(Ordering::Relaxed))
    }

    pub(crate) fn set_upgraded(&self) {
        // Relaxed: read by the socket half, which the same task polls after the response was made.
        self.upgraded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_driven(&self) {
        // Relaxed: set before the socket is first polled, by the task that will poll it.
        self.driven.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_driven(&self) -> bool {
        self.driven.load(Ordering::Relaxed)
    }

    // A waker is registered first and the phase looked at second; `advance` goes the other way. An
    // `AtomicWaker` then guarantees that one of the two sees the other.
    pub(crate) fn register_reader(&self, waker: &Waker) {
        register(&self.reader, waker);
    }

    pub(crate) fn register_writer(&self, waker: &Waker) {
        register(&self.writer, waker);
    }

    pub(crate) fn register_driver(&self, waker: &Waker) {
        register(&self.driver, waker);
    }
}

#[cfg(not(loom))]
fn register(slot: &AtomicWaker, waker: &Waker) {
    slot.register(waker);
}

#[cfg(loom)]
fn register(slot: &AtomicWaker, waker: &Waker) {
    slot.register_by_ref(waker);
}

fn encode(version: Version) -> u8 {
    match version {
        Version::HTTP_09 => 9,
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        Version::HTTP_3 => 30,
        _ => 11,
    }
}

fn decode(version: u8) -> Option<Version> {
    Some(match version {
        0 => return None,
        9 => Version::HTTP_09,
        10 => Version::HTTP_10,
        20 => Version::HTTP_2,
        30 => Version::HTTP_3,
        _ => Version::HTTP_11,
    })
}

#[cfg(all(test, loom))]
mod tests {
    use std::{future::poll_fn, sync::Arc, task::Poll};

    use super::*;

    // The socket half waits until the connection closes and nothing is in flight.
    async fn ended(state: Arc<State>) {
        poll_fn(|cx| {
            state.register_reader(cx.waker());
            if state.phase() != Phase::Open && state.in_flight() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    #[test]
    fn the_last_request_and_a_close_never_miss_each_other() {
        loom::model(|| {
            let state = Arc::new(State::default());
            state.begin(Version::HTTP_11);

            let request = state.clone();
            let request = loom::thread::spawn(move || request.end());
            let closer = state.clone();
            let closer = loom::thread::spawn(move || closer.advance(Phase::Closing));

            // Deadlocks, and so fails, if neither of the two wakes the socket.
            loom::future::block_on(ended(state));
            request.join().unwrap();
            closer.join().unwrap();
        });
    }

    #[test]
    fn an_abort_wakes_the_writer() {
        loom::model(|| {
            let state = Arc::new(State::default());
            let aborter = state.clone();
            let aborter = loom::thread::spawn(move || aborter.advance(Phase::Aborted));
            loom::future::block_on(poll_fn(|cx| {
                state.register_writer(cx.waker());
                match state.phase() {
                    Phase::Aborted => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            }));
            aborter.join().unwrap();
        });
    }
}

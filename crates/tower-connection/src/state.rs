//! What the two halves of a connection and its handles agree on, without a lock.

#[cfg(tower_loom)]
use loom::{
    future::AtomicWaker,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};
#[cfg(not(tower_loom))]
use {
    atomic_waker::AtomicWaker,
    std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use std::task::Waker;

use http::Version;

/// How far a connection is on its way to its end. It only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Ends after the current work.
    Closing,
    /// Ends now, with a reset.
    Aborted,
}

const CLOSING: usize = 0b01;
const ABORTED: usize = 0b10;
const REQUEST: usize = 0b100;

#[derive(Default)]
pub(crate) struct State {
    // The phase in two bits, and above them how many requests are in flight. One word, because the last
    // request must see that somebody closes, or who closes must see that it was the last. Two words would
    // need sequential consistency in both threads, which costs more and which loom cannot check.
    work: AtomicUsize,
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
        phase(self.work.load(Ordering::Acquire))
    }

    /// Asks for an end after the current work, and wakes everybody who acts on it.
    pub(crate) fn close(&self) {
        self.advance(CLOSING);
    }

    /// Asks for an end now, and wakes everybody who acts on it.
    pub(crate) fn abort(&self) {
        self.advance(CLOSING | ABORTED);
    }

    fn advance(&self, to: usize) {
        // AcqRel: what was done before the close is seen by the half that obeys it.
        let before = self.work.fetch_or(to, Ordering::AcqRel);
        if before & to != to {
            self.reader.wake();
            self.writer.wake();
            self.driver.wake();
        }
    }

    pub(crate) fn begin(&self, version: Version) {
        // Relaxed: two statistics. The protocol never changes once it is known.
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.protocol.store(encode(version), Ordering::Relaxed);
        self.work.fetch_add(REQUEST, Ordering::AcqRel);
    }

    /// Ends a request; called by a guard's `Drop`, and nowhere else.
    pub(crate) fn end(&self) {
        // AcqRel: who sees no request in flight also sees what the last one did. A request that ends
        // while nobody closes wakes nobody.
        let before = self.work.fetch_sub(REQUEST, Ordering::AcqRel);
        if before / REQUEST == 1 && phase(before) != Phase::Open {
            self.reader.wake();
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.work.load(Ordering::Acquire) / REQUEST
    }

    /// Whether it closes and nothing is in flight, both at one moment.
    pub(crate) fn has_ended(&self) -> bool {
        self.work.load(Ordering::Acquire) == CLOSING
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

    // A waker is registered first and the state looked at second; who changes it goes the other way. An
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

#[cfg(not(tower_loom))]
fn register(slot: &AtomicWaker, waker: &Waker) {
    slot.register(waker);
}

#[cfg(tower_loom)]
fn register(slot: &AtomicWaker, waker: &Waker) {
    slot.register_by_ref(waker);
}

fn phase(work: usize) -> Phase {
    if work & ABORTED != 0 {
        Phase::Aborted
    } else if work & CLOSING != 0 {
        Phase::Closing
    } else {
        Phase::Open
    }
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

#[cfg(all(test, tower_loom))]
mod tests {
    use std::{future::poll_fn, sync::Arc, task::Poll};

    use super::*;

    // The socket half waits until the connection closes and nothing is in flight.
    async fn ended(state: Arc<State>) {
        poll_fn(|cx| {
            state.register_reader(cx.waker());
            if state.has_ended() {
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
            let closer = loom::thread::spawn(move || closer.close());

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
            let aborter = loom::thread::spawn(move || aborter.abort());
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

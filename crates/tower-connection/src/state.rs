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

const CLOSING: usize = 0b000_0001;
const ABORTED: usize = 0b000_0010;
const UPGRADED: usize = 0b000_0100;
/// Requests are refused from now on.
const REFUSING: usize = 0b000_1000;
/// The socket half has something under way that no request counts any more.
const BUSY: usize = 0b001_0000;
/// The body of a request is being received, perhaps longer than its response is sent.
const RECEIVING: usize = 0b010_0000;
/// The connection's task wants to be woken by the end of the last request.
const AWAITED: usize = 0b100_0000;
const REQUEST: usize = 0b1000_0000;

/// What a request of HTTP/1 declares of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declared {
    Nothing,
    Length,
    Chunks,
}

/// The last request had no body, or all of it was seen.
const NO_REST: u8 = 0;
/// None is expected any more, and perhaps the HTTP stack closes, as it expected one.
const PAST_REST: u8 = 1;
/// Nobody wants the rest, and the HTTP stack may read it at most once more.
const LAST_REST: u8 = 2;
/// Somebody may read it, for as long as he likes.
const REST: u8 = 3;
/// As above, in chunks.
const REST_IN_CHUNKS: u8 = 4;

#[derive(Default)]
pub(crate) struct State {
    // The flags, and above them how many requests are in flight. One word, because the last request
    // must see that somebody closes, or who closes must see that it was the last. Two words would need
    // sequential consistency in both threads, which costs more and which loom cannot check.
    work: AtomicUsize,
    requests: AtomicU64,
    /// When the last work ended, in nanoseconds since the connection was accepted.
    idle_since: AtomicU64,
    /// Since when a head is being received, in nanoseconds since the connection was accepted; zero is none.
    head_since: AtomicU64,
    protocol: AtomicU8,
    timed: AtomicBool,
    announced: AtomicBool,
    unread: AtomicBool,
    lingering: AtomicBool,
    half_close: AtomicBool,
    /// Since when requests are answered in the place of their service, in nanoseconds since the connection was accepted,
    /// and one; zero is none.
    refused_since: AtomicU64,
    /// Whether what comes on HTTP/1 may be the rest of a body: one of the five above.
    rest: AtomicU8,
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
            self.wake();
        }
    }

    /// Asks for an end if, at this moment, nothing is under way and it is still HTTP. Requests that begin
    /// later are refused.
    pub(crate) fn close_if_idle(&self) -> bool {
        // AcqRel: what was done before is seen by the half that obeys, and by who refuses. Acquire: who is
        // told that it works, by a flag or a count, sees what it works at.
        let closed = self
            .work
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |work| {
                let idle = work & !(CLOSING | REFUSING | AWAITED) == 0;
                idle.then_some(work | CLOSING | REFUSING)
            });
        if closed.is_ok() {
            self.wake();
        }
        closed.is_ok()
    }

    /// Refuses the requests that begin from now on.
    pub(crate) fn refuse(&self) {
        // AcqRel: who refuses sees the answer, which was stored before.
        self.work.fetch_or(REFUSING, Ordering::AcqRel);
    }

    pub(crate) fn is_refusing(&self) -> bool {
        self.work.load(Ordering::Acquire) & REFUSING != 0
    }

    fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
        self.driver.wake();
    }

    /// Begins a request. Returns whether it is to be refused.
    pub(crate) fn begin(&self) -> bool {
        // Relaxed: a statistic, and what the task of the connection knows in any case. HTTP/1 has one head at a
        // time, and this was it; of HTTP/2 the socket half knows.
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.protocol.load(Ordering::Relaxed) != encode(Version::HTTP_2) {
            self.set_head_since(None);
        }
        self.work.fetch_add(REQUEST, Ordering::AcqRel) & REFUSING != 0
    }

    /// Ends a request; called by a guard's `Drop`, and nowhere else.
    pub(crate) fn end(&self, since_accept: u64) {
        // Relaxed: published by the next line.
        self.idle_since.store(since_accept, Ordering::Relaxed);
        // AcqRel: who sees no request in flight also sees what the last one did. A request that ends
        // while nobody closes or awaits it wakes nobody.
        let before = self.work.fetch_sub(REQUEST, Ordering::AcqRel);
        if before / REQUEST == 1 && (phase(before) != Phase::Open || before & AWAITED != 0) {
            self.reader.wake();
        }
    }

    /// The body of a request of HTTP/1 is being received. (Of HTTP/2, the socket half sees the streams.)
    pub(crate) fn begin_body(&self) {
        self.work.fetch_or(RECEIVING, Ordering::AcqRel);
    }

    pub(crate) fn end_body(&self, since_accept: u64) {
        // Relaxed: published by the next line.
        self.idle_since.store(since_accept, Ordering::Relaxed);
        let unread = self.rest.load(Ordering::Relaxed) >= REST;
        if unread {
            self.rest.store(LAST_REST, Ordering::Relaxed);
        }
        let before = self.work.fetch_and(!RECEIVING, Ordering::AcqRel);
        // The task of the connection may wait for nothing else. And hyper may have all of the body and wait for a head
        // already, with a read that it began before: it looks again, and finds no rest.
        if unread || before < REQUEST {
            self.reader.wake();
        }
    }

    /// A request of HTTP/1 has begun, perhaps with a body. (So the body of the one before is over.)
    pub(crate) fn set_rest(&self, declared: Declared) {
        // Relaxed, as all of these: it is the task of the connection that calls the service and that reads.
        let rest = match declared {
            Declared::Nothing => NO_REST,
            Declared::Length => REST,
            Declared::Chunks => REST_IN_CHUNKS,
        };
        self.rest.store(rest, Ordering::Relaxed);
    }

    /// All of the body was seen.
    pub(crate) fn clear_rest(&self) {
        // A request that has a `content-length`, too, is the last one for hyper, which hides that length (1.12,
        // `proto/h1/role.rs`).
        let chunks = self.rest.load(Ordering::Relaxed) == REST_IN_CHUNKS;
        let rest = if chunks { PAST_REST } else { NO_REST };
        self.rest.store(rest, Ordering::Relaxed);
    }

    /// Nothing is there to read. Of a body that nobody wants, hyper reads no more then: it has all of it, or closes (1.12,
    /// `proto/h1/conn.rs`, `poll_drain_or_close_read`).
    pub(crate) fn end_rest(&self) {
        if self.rest.load(Ordering::Relaxed) == LAST_REST {
            self.rest.store(PAST_REST, Ordering::Relaxed);
        }
    }

    /// Whether bytes that come now, with no request in flight, may be the rest of a body.
    pub(crate) fn takes_rest(&self) -> bool {
        let rest = self.rest.load(Ordering::Relaxed);
        self.end_rest();
        rest >= LAST_REST
    }

    /// Whether all of the last request was seen.
    pub(crate) fn is_whole(&self) -> bool {
        self.rest.load(Ordering::Relaxed) == NO_REST
    }

    /// The socket half has something under way; said by that half alone.
    pub(crate) fn set_busy(&self) {
        self.work.fetch_or(BUSY, Ordering::AcqRel);
    }

    /// It has not any more. It looks itself whether that is the end.
    pub(crate) fn set_done(&self, since_accept: u64) {
        // Relaxed: published by the next line.
        self.idle_since.store(since_accept, Ordering::Relaxed);
        self.work.fetch_and(!BUSY, Ordering::AcqRel);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.work.load(Ordering::Acquire) / REQUEST
    }

    /// Whether it closes, nothing is in flight and it is still HTTP, all at one moment. Of what the socket
    /// half has under way, that half knows more than the flag.
    pub(crate) fn has_ended(&self) -> bool {
        self.work.load(Ordering::Acquire) & !(REFUSING | BUSY | AWAITED) == CLOSING
    }

    /// Since when nothing is under way, in nanoseconds since the connection was accepted; `None` while
    /// something is, or if it is no longer HTTP.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let work = self.work.load(Ordering::Acquire);
        is_idle(work).then(|| self.idle_since.load(Ordering::Relaxed))
    }

    /// The same, for the task of the connection. If all has been written and the last request has just not
    /// ended yet, its end wakes that task, which nothing else would.
    pub(crate) fn idle_since_or_wake(&self) -> Option<u64> {
        let work = self.work.load(Ordering::Acquire);
        // The end of a request of HTTP/1 is in that task already.
        let http2 = self.protocol.load(Ordering::Relaxed) == encode(Version::HTTP_2);
        if http2 && work >= REQUEST && work & (BUSY | UPGRADED | AWAITED) == 0 {
            // AcqRel: whoever ends the last request sees this, or this sees that it has ended.
            self.work.fetch_or(AWAITED, Ordering::AcqRel);
        }
        let idle_since = self.idle_since();
        if idle_since.is_some() && work & AWAITED != 0 {
            self.work.fetch_and(!AWAITED, Ordering::AcqRel);
        }
        idle_since
    }

    /// Something has happened that idleness counts from.
    pub(crate) fn set_idle_since(&self, since_accept: u64) {
        self.idle_since.store(since_accept, Ordering::Relaxed);
    }

    /// Whether what comes next on HTTP/1 is the head of a request.
    pub(crate) fn awaits_head(&self) -> bool {
        self.work.load(Ordering::Acquire) & !(CLOSING | ABORTED | REFUSING | BUSY | AWAITED) == 0
    }

    /// Said by the socket half alone.
    pub(crate) fn set_head_since(&self, since_accept: Option<u64>) {
        // Relaxed: read by the task of the connection, or to be looked at.
        let since_accept = since_accept.map_or(0, |since| since.max(1));
        self.head_since.store(since_accept, Ordering::Relaxed);
    }

    pub(crate) fn head_since(&self) -> Option<u64> {
        let since = self.head_since.load(Ordering::Relaxed);
        (since != 0).then_some(since)
    }

    pub(crate) fn set_timed(&self) {
        // Relaxed: set while the connection is made, and read when it is served.
        self.timed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_timed(&self) -> bool {
        self.timed.load(Ordering::Relaxed)
    }

    /// Asks for a word to the client, and wakes who says it.
    pub(crate) fn announce(&self) {
        // Release, and Acquire below: the waker orders it already, but that is its own affair.
        if !self.announced.swap(true, Ordering::AcqRel) {
            self.reader.wake();
        }
    }

    pub(crate) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn set_protocol(&self, version: Version) {
        // Relaxed: it never changes once it is known.
        self.protocol.store(encode(version), Ordering::Relaxed);
    }

    /// The client has said HTTP/2's preface.
    pub(crate) fn set_http2(&self) {
        self.set_protocol(Version::HTTP_2);
        // Only now a driver has something to do about it.
        if self.phase() != Phase::Open {
            self.driver.wake();
        }
    }

    pub(crate) fn protocol(&self) -> Option<Version> {
        decode(self.protocol.load(Ordering::Relaxed))
    }

    /// It becomes something else than HTTP; called while its last request is still in flight.
    pub(crate) fn set_upgraded(&self) {
        self.work.fetch_or(UPGRADED, Ordering::AcqRel);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.work.load(Ordering::Acquire) & UPGRADED != 0
    }

    /// A request was refused whose body nobody reads.
    pub(crate) fn set_unread(&self) {
        // Relaxed: read by the socket half, which the same task polls after the answer was made.
        self.unread.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The socket half reads on for a while when it is shut down.
    pub(crate) fn set_lingering(&self) {
        // Relaxed: as above.
        self.lingering.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_lingering(&self) -> bool {
        self.lingering.load(Ordering::Relaxed)
    }

    /// The end of what a client sends is not the end of the client.
    pub(crate) fn set_half_close(&self) {
        // Relaxed: said before the connection is served.
        self.half_close.store(true, Ordering::Relaxed);
    }

    pub(crate) fn may_half_close(&self) -> bool {
        self.half_close.load(Ordering::Relaxed)
    }

    /// Since when requests are refused: since `now`, if this is the first.
    pub(crate) fn refused_since(&self, now: u64) -> u64 {
        // Relaxed: one number, which says nothing of others.
        let since = &self.refused_since;
        let first = since.compare_exchange(0, now + 1, Ordering::Relaxed, Ordering::Relaxed);
        first.map_or_else(|since| (since - 1).min(now), |_| now)
    }

    pub(crate) fn clear_refused(&self) {
        if self.refused_since.load(Ordering::Relaxed) != 0 {
            self.refused_since.store(0, Ordering::Relaxed);
        }
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

fn is_idle(work: usize) -> bool {
    work & !(CLOSING | ABORTED | REFUSING | AWAITED) == 0
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
            state.begin();

            let request = state.clone();
            let request = loom::thread::spawn(move || request.end(1));
            let closer = state.clone();
            let closer = loom::thread::spawn(move || closer.close());

            // Deadlocks, and so fails, if neither of the two wakes the socket.
            loom::future::block_on(ended(state));
            request.join().unwrap();
            closer.join().unwrap();
        });
    }

    #[test]
    fn an_announcement_wakes_the_socket() {
        loom::model(|| {
            let state = Arc::new(State::default());
            let announcer = state.clone();
            let announcer = loom::thread::spawn(move || announcer.announce());
            loom::future::block_on(poll_fn(|cx| {
                state.register_reader(cx.waker());
                match state.is_announced() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            }));
            announcer.join().unwrap();
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

    #[test]
    fn a_request_that_begins_while_an_idle_connection_is_closed_is_refused_or_keeps_it() {
        loom::model(|| {
            let state = Arc::new(State::default());
            let request = state.clone();
            let request = loom::thread::spawn(move || request.begin());
            let closed = state.close_if_idle();
            assert_eq!(request.join().unwrap(), closed);
        });
    }

    #[test]
    fn whoever_sees_a_connection_idle_sees_since_when() {
        loom::model(|| {
            let state = Arc::new(State::default());
            state.begin();
            let request = state.clone();
            let request = loom::thread::spawn(move || request.end(7));
            assert!(matches!(state.idle_since(), None | Some(7)));
            request.join().unwrap();
        });
    }

    #[test]
    fn a_request_that_ends_after_the_last_flush_wakes_who_awaits_it() {
        loom::model(|| {
            let state = Arc::new(State::default());
            state.set_protocol(Version::HTTP_2);
            state.begin();
            let request = state.clone();
            let request = loom::thread::spawn(move || request.end(1));
            // Deadlocks, and so fails, if the end is neither seen nor told.
            loom::future::block_on(poll_fn(|cx| {
                state.register_reader(cx.waker());
                match state.idle_since_or_wake() {
                    Some(since) => Poll::Ready(since),
                    None => Poll::Pending,
                }
            }));
            request.join().unwrap();
        });
    }

    // The end of the response was taken by HTTP/2; the socket half knows that it still waits to be written.
    #[test]
    fn a_response_that_is_not_written_is_never_taken_for_idleness() {
        loom::model(|| {
            let state = Arc::new(State::default());
            state.set_busy();
            state.begin();
            let request = state.clone();
            let request = loom::thread::spawn(move || request.end(1));
            assert!(!state.close_if_idle());
            assert_eq!(state.idle_since(), None);
            request.join().unwrap();
            state.set_done(2);
            assert_eq!(state.idle_since(), Some(2));
            assert!(state.close_if_idle());
        });
    }

    #[test]
    fn an_upgrade_is_never_taken_for_idleness() {
        loom::model(|| {
            let state = Arc::new(State::default());
            state.begin();
            let upgrade = state.clone();
            let upgrade = loom::thread::spawn(move || {
                upgrade.set_upgraded();
                upgrade.end(1);
            });
            assert!(!state.close_if_idle());
            upgrade.join().unwrap();
        });
    }
}

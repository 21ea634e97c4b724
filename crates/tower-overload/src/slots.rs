//! How many are in, how many wait, how many may: one word, so that every change is one step.

#[cfg(tower_loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(tower_loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::PoisonError,
    task::Waker,
};

use tokio::time::Instant;

use crate::{
    Admission, Ticket, WaiterId, WaitingRoom,
    room::{Entry, Verdict},
};

/// The largest limit.
pub(crate) const MOST: usize = (1 << BITS) - 1;

const BITS: u32 = 21;

/// What is in the word, 21 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
    pub(crate) limit: usize,
}

impl Counts {
    #[expect(clippy::cast_possible_truncation, reason = "masked")]
    fn unpack(word: u64) -> Self {
        let part = |n: u32| (word >> (n * BITS)) as usize & MOST;
        Self {
            in_flight: part(0),
            waiting: part(1),
            limit: part(2),
        }
    }

    fn pack(self) -> u64 {
        debug_assert!(self.in_flight <= MOST && self.waiting <= MOST && self.limit <= MOST);
        self.in_flight as u64 | (self.waiting as u64) << BITS | (self.limit as u64) << (2 * BITS)
    }

    pub(crate) fn is_full(self) -> bool {
        self.in_flight >= self.limit
    }

    fn one_more(self) -> Self {
        Self {
            in_flight: self.in_flight + 1,
            ..self
        }
    }

    fn one_less(self) -> Self {
        Self {
            in_flight: self.in_flight - 1,
            ..self
        }
    }

    fn one_waits_more(self) -> Self {
        Self {
            waiting: self.waiting + 1,
            ..self
        }
    }

    fn one_waits_less(self) -> Self {
        Self {
            waiting: self.waiting - 1,
            ..self
        }
    }
}

/// The slots, and the room in which requests wait for one.
///
/// A slot is taken and given back by one compare-and-swap while nobody waits. Who waits is entered, granted and
/// struck out under the lock, and in the same step counted in the word: so whoever gives back a slot either sees
/// that somebody waits, and hands it over, or was before him, and he sees the slot.
#[derive(Debug)]
pub(crate) struct Slots {
    word: AtomicU64,
    room: Mutex<Room>,
}

#[derive(Debug)]
struct Room {
    waiting: WaitingRoom,
    admission: Box<dyn Admission>,
}

/// What became of a request that found no slot.
#[derive(Debug)]
pub(crate) enum Offer {
    /// One was given back meanwhile.
    Taken,
    Waits(Entry),
    /// The room is full, or there is none.
    Refused,
    TooLate,
}

/// Wakers, to be woken when no lock is held.
type Woken = Vec<Waker>;

impl Slots {
    pub(crate) fn new(limit: usize, waiting: WaitingRoom, admission: Box<dyn Admission>) -> Self {
        let counts = Counts {
            in_flight: 0,
            waiting: 0,
            limit: limit.min(MOST),
        };
        Self {
            word: AtomicU64::new(counts.pack()),
            room: Mutex::new(Room { waiting, admission }),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts::unpack(self.word.load(Ordering::SeqCst))
    }

    pub(crate) fn set_admission(&self, admission: Box<dyn Admission>) {
        self.room().admission = admission;
    }

    /// Takes a slot if one is free and nobody waits for it.
    pub(crate) fn try_take(&self) -> bool {
        self.try_take_if(|_| true)
    }

    /// The same, if so many that stay free are enough.
    pub(crate) fn try_take_if(&self, enough: impl Fn(usize) -> bool) -> bool {
        let take = |now: Counts| {
            let free = !now.is_full() && now.waiting == 0;
            (free && enough(now.limit - now.in_flight - 1)).then(|| now.one_more())
        };
        self.change(take).is_some()
    }

    /// Takes a slot even if there is none.
    pub(crate) fn take(&self) -> bool {
        self.change(|now| (now.in_flight < MOST).then(|| now.one_more()))
            .is_some()
    }

    /// Gives back a slot: to the next who waits, or to whoever comes.
    pub(crate) fn give_back(&self) {
        let leave =
            |now: Counts| (now.waiting == 0 || now.in_flight > now.limit).then(|| now.one_less());
        if self.change(leave).is_some() {
            return;
        }
        let mut room = self.room();
        // Under the lock nobody comes or leaves the room.
        self.change(|now| Some(now.one_less()));
        let woken = self.grant(&mut room);
        drop(room);
        wake(woken);
    }

    /// Takes a slot, or a place in the room of at most `max` until one is handed over; if that is in time with so many
    /// ahead, for who has a deadline.
    pub(crate) fn offer(
        &self,
        ticket: &Ticket,
        max: usize,
        now: Instant,
        in_time: Option<impl FnOnce(usize) -> bool>,
    ) -> Offer {
        if self.try_take() {
            return Offer::Taken;
        }
        let mut room = self.room();
        if self.try_take() {
            return Offer::Taken;
        }
        let mut displaced = None;
        room.waiting.look(now, self.counts().limit);
        if let Some(in_time) = in_time {
            let ahead = asked(|| Some(room.admission.ahead(ticket, &room.waiting)));
            if !in_time(ahead.unwrap_or_else(|| room.waiting.len())) {
                return Offer::TooLate;
            }
        }
        if room.waiting.len() >= max.min(MOST) {
            let Room { waiting, admission } = &mut *room;
            let Some(id) = asked(|| admission.displace(ticket, waiting)) else {
                return Offer::Refused;
            };
            displaced = self.strike_out(waiting, id, Verdict::Displaced);
            if displaced.is_none() {
                return Offer::Refused; // it named nobody
            }
        }
        let entry = room.waiting.enter(ticket, now);
        self.change(|now| Some(now.one_waits_more()));
        let woken = self.grant(&mut room);
        drop(room);
        wake(displaced);
        wake(woken);
        Offer::Waits(entry)
    }

    /// Strikes out who does not wait any more. Returns what was decided about him before.
    pub(crate) fn leave(&self, entry: &Entry) -> Verdict {
        let mut room = self.room();
        room.waiting.look(Instant::now(), self.counts().limit);
        let struck = self.strike_out(&mut room.waiting, entry.id(), Verdict::Left);
        drop(room);
        // The one who leaves need not be woken. Nor may a waker be dropped under the lock: it can own a task that waits.
        drop(struck);
        entry.verdict()
    }

    /// Whom to wake when the verdict is there.
    pub(crate) fn register(&self, entry: &Entry, waker: &Waker) {
        let before = self.room().waiting.register(entry.id(), waker);
        drop(before); // see `leave`
    }

    /// Another limit. A higher one lets in who waits.
    pub(crate) fn resize(&self, limit: usize) {
        let limit = limit.min(MOST);
        if self.counts().limit == limit {
            return;
        }
        let mut room = self.room();
        self.change(|now| Some(Counts { limit, ..now }));
        let woken = self.grant(&mut room);
        drop(room);
        wake(woken);
    }

    /// Hands the free slots to who waits.
    fn grant(&self, room: &mut Room) -> Woken {
        let mut woken = Woken::new();
        let mut now = self.counts();
        if now.waiting == 0 || now.is_full() {
            return woken;
        }
        let Room { waiting, admission } = room;
        waiting.look(Instant::now(), now.limit);
        while now.waiting > 0 && !now.is_full() {
            let next = asked(|| admission.next(waiting));
            // It may name somebody who is not there.
            let Some(waker) = next.and_then(|id| waiting.strike_out(id, Verdict::Granted)) else {
                break;
            };
            // Nobody takes a slot past who waits, and the limit is changed under the lock only.
            self.change(|now| Some(now.one_more().one_waits_less()));
            woken.push(waker);
            now = self.counts();
        }
        woken
    }

    fn strike_out(&self, room: &mut WaitingRoom, id: WaiterId, why: Verdict) -> Option<Waker> {
        let waker = room.strike_out(id, why)?;
        self.change(|now| Some(now.one_waits_less()));
        Some(waker)
    }

    /// One step from what is to what `next` makes of it.
    fn change(&self, next: impl Fn(Counts) -> Option<Counts>) -> Option<Counts> {
        let next = |word| next(Counts::unpack(word)).map(Counts::pack);
        // What was done in a slot is done for who takes it next. SeqCst: see `Gauge::press`.
        let changed = self
            .word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        changed.ok().map(Counts::unpack)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Nothing panics while it is held: policies are caught.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A policy that panics names nobody: the panic was told where panics are, and belongs to no request.
pub(crate) fn asked<T>(policy: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(policy)).unwrap_or(None)
}

fn wake(woken: impl IntoIterator<Item = Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

#[cfg(all(test, tower_loom))]
mod tests {
    use std::sync::Arc as StdArc;

    use loom::{sync::Arc, thread};

    use super::*;
    use crate::{AdaptiveLifo, shares::Shares};

    fn slots(limit: usize) -> Arc<Slots> {
        let room = WaitingRoom::new(StdArc::new(Shares::new()));
        Arc::new(Slots::new(limit, room, Box::new(AdaptiveLifo)))
    }

    fn offer(slots: &Slots) -> Offer {
        slots.offer(
            &Ticket::default(),
            9,
            Instant::now(),
            None::<fn(usize) -> bool>,
        )
    }

    /// Ends as a request does that gave up at this moment. Returns whether it had a slot.
    fn ends(slots: &Slots, offer: Offer) -> bool {
        let had = match offer {
            Offer::Taken => true,
            Offer::Waits(entry) => slots.leave(&entry) == Verdict::Granted,
            Offer::Refused | Offer::TooLate => false,
        };
        if had {
            slots.give_back();
        }
        had
    }

    fn nobody(limit: usize) -> Counts {
        Counts {
            in_flight: 0,
            waiting: 0,
            limit,
        }
    }

    #[test]
    fn one_slot_is_never_two_requests() {
        loom::model(|| {
            let slots = slots(1);
            let other = thread::spawn({
                let slots = slots.clone();
                move || {
                    let taken = slots.try_take();
                    if taken {
                        assert_eq!(slots.counts().in_flight, 1);
                        slots.give_back();
                    }
                }
            });
            if slots.try_take() {
                assert_eq!(slots.counts().in_flight, 1);
                slots.give_back();
            }
            other.join().unwrap();
            assert_eq!(slots.counts(), nobody(1));
        });
    }

    #[test]
    fn who_waits_gets_the_slot_that_is_given_back_meanwhile() {
        loom::model(|| {
            let slots = slots(1);
            assert!(slots.try_take());
            let ends = thread::spawn({
                let slots = slots.clone();
                move || slots.give_back()
            });
            let offer = offer(&slots);
            ends.join().unwrap();
            // Nobody else is there: whichever came first, it has the slot now.
            match &offer {
                Offer::Taken => {}
                Offer::Waits(entry) => assert_eq!(entry.verdict(), Verdict::Granted),
                Offer::Refused | Offer::TooLate => panic!("there is room"),
            }
            assert_eq!(
                slots.counts(),
                Counts {
                    in_flight: 1,
                    ..nobody(1)
                }
            );
        });
    }

    #[test]
    fn who_leaves_the_room_loses_no_slot_for_the_next() {
        loom::model(|| {
            let slots = slots(1);
            assert!(slots.try_take());
            let (first, second) = (offer(&slots), offer(&slots));
            let leaves = thread::spawn({
                let slots = slots.clone();
                move || ends(&slots, first)
            });
            slots.give_back();
            leaves.join().unwrap();
            let Offer::Waits(entry) = &second else {
                panic!("it had to wait")
            };
            assert_eq!(entry.verdict(), Verdict::Granted);
            ends(&slots, second);
            assert_eq!(slots.counts(), nobody(1));
        });
    }

    #[test]
    fn a_higher_limit_misses_nobody_who_comes_meanwhile() {
        loom::model(|| {
            let slots = slots(1);
            assert!(slots.try_take());
            let grows = thread::spawn({
                let slots = slots.clone();
                move || slots.resize(2)
            });
            let offer = offer(&slots);
            grows.join().unwrap();
            assert!(ends(&slots, offer));
            slots.give_back();
            assert_eq!(slots.counts(), nobody(2));
        });
    }

    #[test]
    fn a_lower_limit_and_a_higher_one_lose_nobody() {
        loom::model(|| {
            let slots = slots(2);
            assert!(slots.try_take() && slots.try_take());
            let waits = offer(&slots);
            let changes = thread::spawn({
                let slots = slots.clone();
                move || {
                    slots.resize(1);
                    slots.resize(2);
                }
            });
            slots.give_back();
            changes.join().unwrap();
            assert!(ends(&slots, waits), "a slot is free, and it waits");
            slots.give_back();
            assert_eq!(slots.counts(), nobody(2));
        });
    }
}

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
use std::{sync::PoisonError, task::Waker};

use tokio::time::Instant;

use crate::{
    Admission, Ticket, WaitingRoom,
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
        Counts::unpack(self.word.load(Ordering::Acquire))
    }

    pub(crate) fn set_admission(&self, admission: Box<dyn Admission>) {
        self.room().admission = admission;
    }

    /// Takes a slot if one is free and nobody waits for it.
    pub(crate) fn try_take(&self) -> bool {
        let take = |now: Counts| {
            (!now.is_full() && now.waiting == 0).then_some(Counts {
                in_flight: now.in_flight + 1,
                ..now
            })
        };
        self.change(take).is_some()
    }

    /// Gives back a slot: to the next who waits, or to whoever comes.
    pub(crate) fn give_back(&self) {
        let leave = |now: Counts| {
            (now.waiting == 0 || now.in_flight > now.limit).then_some(Counts {
                in_flight: now.in_flight - 1,
                ..now
            })
        };
        if self.change(leave).is_some() {
            return;
        }
        let mut room = self.room();
        // Under the lock nobody comes or leaves the room.
        let give = |now: Counts| {
            Some(Counts {
                in_flight: now.in_flight - 1,
                ..now
            })
        };
        self.change(give);
        let woken = self.grant(&mut room);
        drop(room);
        wake(woken);
    }

    /// Takes a slot, or a place in the room of at most `max` until one is handed over.
    pub(crate) fn offer(&self, ticket: &Ticket, max: usize, now: Instant) -> Offer {
        if self.try_take() {
            return Offer::Taken;
        }
        let mut room = self.room();
        let take = |now: Counts| {
            (!now.is_full() && now.waiting == 0).then_some(Counts {
                in_flight: now.in_flight + 1,
                ..now
            })
        };
        if self.change(take).is_some() {
            return Offer::Taken;
        }
        let mut displaced = None;
        room.waiting.look(now, self.counts().limit);
        if room.waiting.len() >= max.min(MOST) {
            let Room { waiting, admission } = &mut *room;
            let Some(id) = admission.displace(ticket, waiting) else {
                return Offer::Refused;
            };
            displaced = self.strike_out(waiting, id, Verdict::Displaced);
            if displaced.is_none() {
                return Offer::Refused; // it named nobody
            }
        }
        let entry = room.waiting.enter(ticket, now);
        self.change(|now| {
            Some(Counts {
                waiting: now.waiting + 1,
                ..now
            })
        });
        let woken = self.grant(&mut room);
        drop(room);
        wake(displaced);
        wake(woken);
        Offer::Waits(entry)
    }

    /// Strikes out who does not wait any more. Returns what was decided about him before.
    pub(crate) fn leave(&self, entry: &Entry) -> Verdict {
        let mut room = self.room();
        // The one who leaves need not be woken.
        drop(self.strike_out(&mut room.waiting, entry.id(), Verdict::Left));
        entry.verdict()
    }

    /// Whom to wake when the verdict is there.
    pub(crate) fn register(&self, entry: &Entry, waker: &Waker) {
        self.room().waiting.register(entry.id(), waker);
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
            let Some(id) = admission.next(waiting) else {
                break;
            };
            let take = |now: Counts| {
                (!now.is_full()).then_some(Counts {
                    in_flight: now.in_flight + 1,
                    ..now
                })
            };
            // Nobody takes a slot past who waits; but a policy may name nobody, and must not be asked for ever.
            if self.change(take).is_none() {
                break;
            }
            let Some(waker) = self.strike_out(waiting, id, Verdict::Granted) else {
                self.change(|now| {
                    Some(Counts {
                        in_flight: now.in_flight - 1,
                        ..now
                    })
                });
                break;
            };
            woken.push(waker);
            now = self.counts();
        }
        woken
    }

    fn strike_out(&self, room: &mut WaitingRoom, id: crate::WaiterId, why: Verdict) -> Option<Waker> {
        let waker = room.strike_out(id, why)?;
        self.change(|now| {
            Some(Counts {
                waiting: now.waiting - 1,
                ..now
            })
        });
        Some(waker)
    }

    /// One step from what is to what `next` makes of it.
    fn change(&self, next: impl Fn(Counts) -> Option<Counts>) -> Option<Counts> {
        let next = |word| next(Counts::unpack(word)).map(Counts::pack);
        // AcqRel: what was done in a slot is done for who takes it next.
        let changed = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        changed.ok().map(Counts::unpack)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // A policy of the user's may have panicked in it; the counts are in the word.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(woken: impl IntoIterator<Item = Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

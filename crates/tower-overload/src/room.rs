//! Who waits.

#[cfg(tower_loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
#[cfg(not(tower_loom))]
use std::sync::atomic::{AtomicU8, Ordering};
use std::{collections::BTreeMap, sync::Arc, task::Waker, time::Duration};

use tokio::time::Instant;

use crate::{Criticality, Ticket, shares::Shares};

/// A wait that is no sign of overload, and how long nothing but longer ones are one: target and interval of `CoDel` (RFC
/// 8289, sections 4.2 to 4.4); but four times its interval. Where requests take long, queues of 100 ms pass at nine tenths
/// of the load too, and to serve the last one first then refuses those who would have been served (`docs/overload.md`).
const TARGET: Duration = Duration::from_millis(5);
const INTERVAL: Duration = Duration::from_millis(400);

/// Who waits for a slot, as an [`Admission`](crate::Admission) sees it.
///
/// ```
/// use tower_overload::{Criticality, WaitingRoom};
///
/// /// How long the first of the critical ones has waited, in milliseconds.
/// fn longest(room: &WaitingRoom) -> Option<u128> {
///     let first = room.of(Criticality::Critical).next()?;
///     Some(room.now().duration_since(first.since).as_millis())
/// }
/// # let _ = longest;
/// ```
#[derive(Debug)]
pub struct WaitingRoom {
    /// By criticality.
    lines: [Line; 4],
    came: u64,
    now: Instant,
    limit: usize,
    shares: Arc<Shares>,
}

/// Those of one class, in the order in which they came.
#[derive(Debug)]
struct Line {
    waiting: BTreeMap<u64, Waiting>,
    /// When last nobody had waited for longer than the target, and whether that is so now.
    calm: Instant,
    is_calm: bool,
    /// Somebody made way for a newcomer since the line was empty. Who is first then has not waited for long, and it is no
    /// calm: the others were sent away.
    overflows: bool,
}

impl Line {
    fn new(now: Instant) -> Self {
        Self {
            waiting: BTreeMap::new(),
            calm: now,
            is_calm: true,
            overflows: false,
        }
    }

    fn look(&mut self, now: Instant) {
        self.overflows &= !self.waiting.is_empty();
        if self.is_calm {
            // Nobody came or left since; whoever was first may have waited for too long in between.
            self.calm = self.oldest().map_or(now, |since| now.min(since + TARGET));
        }
        self.note_calm(now);
    }

    fn note_calm(&mut self, now: Instant) {
        let calm = |since| now.duration_since(since) < TARGET;
        self.is_calm = !self.overflows && self.oldest().is_none_or(calm);
        if self.is_calm {
            self.calm = now;
        }
    }

    fn oldest(&self) -> Option<Instant> {
        let first = self.waiting.first_key_value();
        first.map(|(_, waiting)| waiting.since)
    }
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    since: Instant,
    verdict: Arc<AtomicU8>,
    waker: Waker,
}

/// Somebody who waits.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Waiter<'a> {
    /// Which one.
    pub id: WaiterId,
    /// What was said of the request when it came.
    pub ticket: &'a Ticket,
    /// When it came.
    pub since: Instant,
}

/// Tells who waits apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaiterId {
    class: Criticality,
    number: u64,
}

/// A place in the room.
#[derive(Debug)]
pub(crate) struct Entry {
    id: WaiterId,
    verdict: Arc<AtomicU8>,
}

/// What was decided about who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    None,
    Granted,
    Displaced,
    /// By the one who waited.
    Left,
}

impl Entry {
    pub(crate) fn id(&self) -> WaiterId {
        self.id
    }

    pub(crate) fn verdict(&self) -> Verdict {
        // Acquire: what was done in the slot before is done for who gets it.
        match self.verdict.load(Ordering::Acquire) {
            0 => Verdict::None,
            1 => Verdict::Granted,
            2 => Verdict::Displaced,
            _ => Verdict::Left,
        }
    }
}

impl WaitingRoom {
    pub(crate) fn new(shares: Arc<Shares>) -> Self {
        let now = Instant::now();
        Self {
            lines: std::array::from_fn(|_| Line::new(now)),
            came: 0,
            now,
            limit: 0,
            shares,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        Criticality::ALL
            .map(|class| self.waiting(class))
            .iter()
            .sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The time of this decision.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many slots there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Who of `class` waits, in the order in which they came.
    #[must_use]
    pub fn of(&self, class: Criticality) -> impl DoubleEndedIterator<Item = Waiter<'_>> {
        let line = self.lines[class.index()].waiting.iter();
        line.map(move |(&number, waiting)| Waiter {
            id: WaiterId { class, number },
            ticket: &waiting.ticket,
            since: waiting.since,
        })
    }

    /// How many slots requests of `class` hold.
    #[must_use]
    pub fn in_flight(&self, class: Criticality) -> usize {
        self.shares.in_flight(class)
    }

    /// How many of `class` wait.
    #[must_use]
    pub fn waiting(&self, class: Criticality) -> usize {
        self.lines[class.index()].waiting.len()
    }

    /// How many slots `class` lacks of those that its [share](crate::InFlightLimitLayer::share) guarantees.
    #[must_use]
    pub fn owed(&self, class: Criticality) -> usize {
        self.shares.owed(class, self.limit)
    }

    /// How many requests of `ticket`'s key are in the house: in flight or waiting. Zero without a key.
    ///
    /// Keys are counted in a table of fixed size, so that a rare collision makes it too many.
    #[must_use]
    pub fn requests_of_key(&self, ticket: &Ticket) -> usize {
        ticket.key.map_or(0, |key| self.shares.keys().load(key))
    }

    /// Whether the queue of `class` stands: for 400 ms there was always somebody who had waited for longer than 5 ms.
    ///
    /// A burst passes; a queue that stands makes everybody late and nobody faster. Source: `CoDel`, RFC 8289.
    #[must_use]
    pub fn is_standing(&self, class: Criticality) -> bool {
        self.now.duration_since(self.lines[class.index()].calm) >= INTERVAL
    }

    /// To be called before each change, so that the time and the limit are known to who decides it.
    pub(crate) fn look(&mut self, now: Instant, limit: usize) {
        (self.now, self.limit) = (now, limit);
        for line in &mut self.lines {
            line.look(now);
        }
    }

    pub(crate) fn enter(&mut self, ticket: &Ticket, now: Instant) -> Entry {
        self.came += 1;
        let verdict = Arc::new(AtomicU8::new(Verdict::None as u8));
        let waiting = Waiting {
            ticket: ticket.clone(),
            since: now,
            verdict: verdict.clone(),
            waker: Waker::noop().clone(), // who registers a better one looks at the verdict afterwards
        };
        if let Some(key) = ticket.key {
            self.shares.keys().enter(key);
        }
        let class = ticket.class;
        let line = &mut self.lines[class.index()];
        line.waiting.insert(self.came, waiting);
        line.note_calm(now);
        Entry {
            id: WaiterId {
                class,
                number: self.came,
            },
            verdict,
        }
    }

    /// Returns the waker that was there before.
    pub(crate) fn register(&mut self, id: WaiterId, waker: &Waker) -> Option<Waker> {
        let line = &mut self.lines[id.class.index()].waiting;
        let waiting = line.get_mut(&id.number)?;
        (!waiting.waker.will_wake(waker))
            .then(|| std::mem::replace(&mut waiting.waker, waker.clone()))
    }

    /// A granted one counts for its class from now on, and goes on counting for its key.
    pub(crate) fn strike_out(&mut self, id: WaiterId, why: Verdict) -> Option<Waker> {
        let line = &mut self.lines[id.class.index()];
        let waiting = line.waiting.remove(&id.number)?;
        // For him somebody comes: the line is not empty.
        line.overflows = why == Verdict::Displaced || line.overflows && !line.waiting.is_empty();
        line.note_calm(self.now);
        if why == Verdict::Granted {
            self.shares.enter_class(id.class);
        } else if let Some(key) = waiting.ticket.key {
            self.shares.keys().leave(key);
        }
        waiting.verdict.store(why as u8, Ordering::Release);
        Some(waiting.waker)
    }
}

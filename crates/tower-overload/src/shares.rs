//! Which class, and whose requests, hold how many slots; and who may take one of the last.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use crate::{Criticality, Ticket, class::Key};

/// Numbers to decide by, and none that must be exact: only the word of the slots is. Hence relaxed throughout.
#[derive(Debug)]
pub(crate) struct Shares {
    /// In thousandths of the limit.
    guaranteed: [AtomicU32; 4],
    in_flight: [AtomicUsize; 4],
    /// What a class keeps free of the less critical ones, and of all while it lacks some of its share.
    kept: [Headroom; 4],
    /// What keys with few requests keep free of those with many.
    kept_for_keys: Headroom,
    /// Whether any of these were ever needed.
    keeps: AtomicBool,
    keys: Keys,
}

impl Shares {
    pub(crate) fn new() -> Self {
        Self {
            guaranteed: Default::default(),
            in_flight: Default::default(),
            kept: Default::default(),
            kept_for_keys: Headroom::default(),
            keeps: AtomicBool::new(false),
            keys: Keys::new(),
        }
    }

    /// Whether it can be guaranteed: all together are at most 1,000.
    pub(crate) fn guarantee(&self, class: Criticality, thousandths: u32) -> bool {
        let other = Criticality::ALL.into_iter().filter(|other| *other != class);
        let others = other.map(|other| self.guaranteed[other.index()].load(Ordering::Relaxed));
        let possible = others.sum::<u32>() + thousandths <= 1000;
        if possible {
            self.guaranteed[class.index()].store(thousandths, Ordering::Relaxed);
        }
        possible
    }

    /// How many of `limit` slots a class has for itself.
    pub(crate) fn guaranteed(&self, class: Criticality, limit: usize) -> usize {
        let thousandths = self.guaranteed[class.index()].load(Ordering::Relaxed);
        limit * thousandths as usize / 1000
    }

    pub(crate) fn in_flight(&self, class: Criticality) -> usize {
        self.in_flight[class.index()].load(Ordering::Relaxed)
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn enter_class(&self, class: Criticality) {
        self.in_flight[class.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, ticket: &Ticket) {
        self.enter_class(ticket.class);
        if let Some(key) = ticket.key {
            self.keys.enter(key);
        }
    }

    pub(crate) fn leave(&self, class: Criticality, key: Option<Key>) {
        self.in_flight[class.index()].fetch_sub(1, Ordering::Relaxed);
        if let Some(key) = key {
            self.keys.leave(key);
        }
    }

    /// Whether slots were ever kept for somebody.
    pub(crate) fn keeps(&self) -> bool {
        self.keeps.load(Ordering::Relaxed)
    }

    /// How many slots a class lacks of those it has for itself.
    pub(crate) fn owed(&self, class: Criticality, limit: usize) -> usize {
        self.guaranteed(class, limit)
            .saturating_sub(self.in_flight(class))
    }

    /// Whether a request may take a slot, after which `free` are left: or those are kept for others.
    pub(crate) fn may_enter(
        &self,
        ticket: &Ticket,
        free: usize,
        limit: usize,
        second: u32,
    ) -> bool {
        let kept = |class: Criticality| self.kept[class.index()].at(second);
        if self.owed(ticket.class, limit) == 0 {
            // Never more than half: a limit of two is for all.
            let higher: usize = ticket.class.higher().map(kept).sum();
            let higher = higher.min(limit.saturating_sub(1) / 2);
            let lower = ticket.class.lower();
            let lower: usize = lower
                .map(|class| kept(class).min(self.owed(class, limit)))
                .sum();
            if higher + lower > free {
                return false;
            }
        }
        let kept = self
            .kept_for_keys
            .at(second)
            .min(limit.saturating_sub(1) / 2);
        kept <= free || !self.is_above_fair(ticket, limit)
    }

    /// A request was refused: those that took more than their part will keep a slot more free for the next.
    pub(crate) fn note_refused(&self, ticket: &Ticket, limit: usize, second: u32) {
        let class = ticket.class;
        let above = |class| self.in_flight(class) > self.guaranteed(class, limit);
        let owed = self.owed(class, limit);
        if owed > 0 || class.lower().any(above) {
            self.kept[class.index()].raise(second, owed.max(limit.div_ceil(4)));
            self.keeps.store(true, Ordering::Relaxed);
        }
        if ticket.key.is_some() && !self.is_above_fair(ticket, limit) {
            self.kept_for_keys.raise(second, limit.div_ceil(4));
            self.keeps.store(true, Ordering::Relaxed);
        }
    }

    /// A request was admitted for which slots were kept, if any were.
    pub(crate) fn note_admitted(&self, ticket: &Ticket, limit: usize, second: u32) {
        self.kept[ticket.class.index()].lower(second);
        if ticket.key.is_some() && !self.is_above_fair(ticket, limit) {
            self.kept_for_keys.lower(second);
        }
    }

    /// Whether its key has as many requests as it would have if all keys had equally many.
    fn is_above_fair(&self, ticket: &Ticket, limit: usize) -> bool {
        let Some(key) = ticket.key else {
            return false;
        };
        self.keys.load(key) >= (limit / self.keys.active().max(1)).max(1)
    }
}

/// How many slots are kept free: one more with each refusal, a thousandth less with each admission. So in the long run
/// one in a thousand is refused, however many come. When nobody comes any more it is forgotten: half of it every eight
/// seconds.
#[derive(Debug, Default)]
struct Headroom {
    /// In thousandths of a slot, and in which second that was said.
    word: AtomicU64,
}

const HALVES_AFTER: u32 = 8;

/// A slot.
const WHOLE: u64 = 1000;

impl Headroom {
    fn at(&self, second: u32) -> usize {
        let word = self.word.load(Ordering::Relaxed);
        if word == 0 {
            return 0; // in peace, nothing is worked out
        }
        usize::try_from((Self::left(word, second) + WHOLE / 2 - 1) / WHOLE).unwrap_or(0)
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a word")]
    fn left(word: u64, second: u32) -> u64 {
        let halvings = second.saturating_sub(word as u32) / HALVES_AFTER;
        (word >> 32).checked_shr(halvings).unwrap_or(0)
    }

    /// Never to more than `most` slots: a moment at which everybody came does not starve who is less critical.
    fn raise(&self, second: u32, most: usize) {
        let word = self.word.load(Ordering::Relaxed);
        let most = most as u64 * WHOLE;
        self.set((Self::left(word, second) + WHOLE).min(most), second);
    }

    fn lower(&self, second: u32) {
        let word = self.word.load(Ordering::Relaxed);
        if word != 0 {
            self.set(Self::left(word, second).saturating_sub(1), second);
        }
    }

    // Two at once are one: the next makes up for it.
    fn set(&self, left: u64, second: u32) {
        let word = if left == 0 {
            0
        } else {
            left << 32 | u64::from(second)
        };
        self.word.store(word, Ordering::Relaxed);
    }
}

/// Counts requests by key in a table of fixed size, twice: a key's count is the smaller, so two keys must collide twice
/// to be taken for one (a count-min sketch).
pub(crate) struct Keys {
    rows: [Box<[AtomicU32]>; 2],
    active: AtomicUsize,
}

const BUCKETS: usize = 1024;

/// Not the table.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

impl Keys {
    fn new() -> Self {
        let row = || (0..BUCKETS).map(|_| AtomicU32::new(0)).collect();
        Self {
            rows: [row(), row()],
            active: AtomicUsize::new(0),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a hash")]
    fn buckets(&self, key: Key) -> [&AtomicU32; 2] {
        let bucket = |row: usize, hash: u64| &self.rows[row][hash as usize % BUCKETS];
        [bucket(0, key.0), bucket(1, key.0 >> 32)]
    }

    /// How many requests of `key` there are: perhaps too many, never too few.
    pub(crate) fn load(&self, key: Key) -> usize {
        let loads = self
            .buckets(key)
            .map(|bucket| bucket.load(Ordering::Relaxed));
        loads[0].min(loads[1]) as usize
    }

    /// How many keys there are: too few, if some collide.
    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, key: Key) {
        let [first, second] = self.buckets(key);
        if first.fetch_add(1, Ordering::Relaxed) == 0 {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        second.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self, key: Key) {
        let [first, second] = self.buckets(key);
        if first.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
        second.fetch_sub(1, Ordering::Relaxed);
    }
}

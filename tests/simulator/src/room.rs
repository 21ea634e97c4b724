//! Who waits for a slot: what `AdaptiveLifo` does, without keys and shares.

use std::collections::VecDeque;

/// In nanoseconds, as the layer has them.
const TARGET: u64 = 5_000_000;
const INTERVAL: u64 = 400_000_000;

/// How many classes there are: the first goes first.
pub const CLASSES: usize = 2;

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First come, first served, until a queue stands; then last come.
    AdaptiveLifo,
    /// First come, first served.
    Fifo,
}

/// Who waits, by class.
#[derive(Debug)]
pub struct Room {
    order: Order,
    lines: [Line; CLASSES],
}

#[derive(Debug, Default)]
struct Line {
    /// Who, and since when.
    waiting: VecDeque<(u32, u64)>,
    calm: u64,
    is_calm: bool,
    /// Somebody made way for a newcomer since the line was empty.
    overflows: bool,
}

impl Line {
    fn look(&mut self, now: u64) {
        self.overflows &= !self.waiting.is_empty();
        if self.is_calm {
            let first = self.waiting.front();
            self.calm = first.map_or(now, |(_, since)| now.min(since + TARGET));
        }
        self.note_calm(now);
    }

    fn note_calm(&mut self, now: u64) {
        let first = self.waiting.front();
        self.is_calm = !self.overflows && first.is_none_or(|(_, since)| now - since < TARGET);
        if self.is_calm {
            self.calm = now;
        }
    }

    fn is_standing(&self, now: u64) -> bool {
        now - self.calm >= INTERVAL
    }
}

/// Nobody.
impl Room {
    /// Nobody.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self {
            order,
            lines: std::array::from_fn(|_| Line::default()),
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }

    /// Whether nobody does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    fn look(&mut self, now: u64) {
        for line in &mut self.lines {
            line.look(now);
        }
    }

    /// Who makes way for a newcomer of `class`, if anybody does.
    pub fn displace(&mut self, class: usize, now: u64) -> Option<u32> {
        self.look(now);
        let lower = (class + 1..CLASSES).rev();
        let lower = lower.filter(|&class| !self.lines[class].waiting.is_empty());
        let other = lower.chain([class]).next()?;
        let standing = self.order == Order::AdaptiveLifo && self.lines[other].is_standing(now);
        let line = &mut self.lines[other];
        let gone = if standing {
            line.waiting.pop_front()
        } else if other > class {
            line.waiting.pop_back()
        } else {
            None
        };
        line.overflows |= gone.is_some();
        line.note_calm(now);
        gone.map(|(id, _)| id)
    }

    /// One more waits.
    pub fn enter(&mut self, id: u32, class: usize, now: u64) {
        self.look(now);
        self.lines[class].waiting.push_back((id, now));
        self.lines[class].look(now);
    }

    /// Who has the slot that is free.
    pub fn next(&mut self, now: u64) -> Option<u32> {
        self.look(now);
        let line = self
            .lines
            .iter_mut()
            .find(|line| !line.waiting.is_empty())?;
        let next = if self.order == Order::AdaptiveLifo && line.is_standing(now) {
            line.waiting.pop_back()
        } else {
            line.waiting.pop_front()
        };
        line.note_calm(now);
        next.map(|(id, _)| id)
    }

    /// One waits no longer.
    pub fn leave(&mut self, id: u32, class: usize, now: u64) {
        self.look(now);
        let line = &mut self.lines[class];
        if let Some(place) = line.waiting.iter().position(|&(other, _)| other == id) {
            line.waiting.remove(place);
        }
        line.look(now);
    }
}

//! What a request holds, and gives back however it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use http_body::Body;
use tokio::time::Instant;
use tower_connection::BodyWait;

use crate::{Criticality, Outcome, Sample, Ticket, class::Key, core::Core};

/// A slot, of a request that nothing is known of yet.
#[derive(Debug)]
pub(crate) struct Slot {
    core: Arc<Core>,
}

impl Slot {
    /// One that was taken.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// It is for this request from now on.
    pub(crate) fn permit(self, ticket: &Ticket, now: Instant) -> Permit {
        self.core.shares().enter(ticket);
        self.granted(ticket, now)
    }

    /// As [`permit`](Self::permit), for a request that was counted when it got it.
    pub(crate) fn granted(self, ticket: &Ticket, now: Instant) -> Permit {
        self.core.note_admitted(ticket.class);
        Permit {
            held: Held::Slot(self),
            class: ticket.class,
            key: ticket.key,
            began: now,
            answered: false,
            is_read: false,
            upload: Upload::None,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.core.give_back();
    }
}

/// The slot of a request, or its place among the streams.
#[derive(Debug)]
pub(crate) struct Permit {
    held: Held,
    class: Criticality,
    key: Option<Key>,
    began: Instant,
    /// There was a response: a client that left before says nothing of how long one takes.
    answered: bool,
    /// The next frame of the response has not been asked for since the last was taken.
    is_read: bool,
    upload: Upload,
}

#[derive(Debug)]
enum Held {
    Slot(Slot),
    Stream { _place: StreamPlace },
}

/// What is known of the body of the request.
#[derive(Debug)]
enum Upload {
    /// All of it was there, or nobody asks.
    None,
    Unmeasured,
    Measured(BodyWait),
}

impl Permit {
    /// The service is about to be called.
    pub(crate) fn receives<B: Body>(&mut self, request: &Request<B>) {
        let asks = self.core().is_some_and(|core| core.has_law());
        if asks && !request.body().is_end_stream() {
            let wait = request.extensions().get().cloned();
            self.upload = wait.map_or(Upload::Unmeasured, Upload::Measured);
        }
    }

    /// There is a response head, which says this of the load.
    pub(crate) fn answered(&mut self, outcome: impl FnOnce() -> Outcome) {
        self.answered = true;
        let now = Instant::now();
        if let Held::Slot(slot) = &self.held {
            slot.core.note_served(now.duration_since(self.began));
            // Not before: on its own worker the probe would wait for the handler, which is no queue.
            slot.core.probe(now);
        }
        self.sample(now, outcome);
    }

    /// Tells the law, if there is one.
    fn sample(&self, now: Instant, outcome: impl FnOnce() -> Outcome) {
        if let Held::Slot(slot) = &self.held {
            let waited = match &self.upload {
                Upload::Measured(wait) => wait.until(now),
                Upload::None | Upload::Unmeasured => Duration::ZERO,
            };
            slot.core.sample(|in_flight| Sample {
                now,
                began: self.began,
                latency: now.duration_since(self.began).saturating_sub(waited),
                uploads: matches!(self.upload, Upload::Unmeasured),
                in_flight,
                outcome: outcome(),
                class: self.class,
            });
        }
    }

    pub(crate) fn core(&self) -> Option<&Arc<Core>> {
        match &self.held {
            Held::Slot(slot) => Some(&slot.core),
            Held::Stream { .. } => None,
        }
    }

    /// A frame of the response was taken: until the next is asked for, it is the client that takes its time.
    pub(crate) fn waits_for_reader(&mut self) {
        if let Some(core) = self.core().filter(|core| core.has_law()) {
            core.note_reader();
            self.is_read = true;
        }
    }

    /// The next is.
    pub(crate) fn reads_on(&mut self) {
        if std::mem::take(&mut self.is_read) {
            if let Some(core) = self.core() {
                core.end_reader();
            }
        }
    }

    /// Gives the slot back and has a place among the streams instead, if there is one.
    pub(crate) fn become_stream(&mut self) -> bool {
        let Some(place) = self.core().and_then(Streams::try_enter) else {
            return false;
        };
        self.end();
        self.held = Held::Stream { _place: place };
        true
    }

    /// Before the slot is given back, as whoever gets it looks at this.
    fn end(&self) {
        if let Held::Slot(slot) = &self.held {
            slot.core.shares().leave(self.class, self.key);
            let now = Instant::now();
            if self.answered {
                slot.core.note_held(now.duration_since(self.began));
            } else {
                self.sample(now, || Outcome::Cancelled);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.reads_on();
        self.end();
    }
}

/// Responses that go on for ever.
#[derive(Debug)]
pub(crate) struct Streams {
    open: AtomicUsize,
    max: AtomicUsize,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(usize::MAX),
        }
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn try_enter(core: &Arc<Core>) -> Option<StreamPlace> {
        // Relaxed: it is one number, and says nothing of others.
        let max = core.streams().max.load(Ordering::Relaxed);
        let enter = |open| (open < max).then_some(open + 1);
        let open = &core.streams().open;
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter)
            .ok()?;
        Some(StreamPlace { core: core.clone() })
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    core: Arc<Core>,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.core.streams().open.fetch_sub(1, Ordering::Relaxed);
    }
}

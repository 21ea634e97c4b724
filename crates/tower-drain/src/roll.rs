//! Who is there: the connections of a server, and the acceptors that make them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tower_connection::{Notice, NoticeBoard};

use crate::{
    phase::{Current, Phase, Progress},
    report::Report,
    seat::Seat,
    settings::Settings,
};

/// An acceptor that nobody asks any more (the loop around it has ended, and it was not dropped) is waited for no
/// longer.
pub(crate) const UNHEARD: Duration = Duration::from_secs(1);

/// What all parts of a drain share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Settings,
    phase: Current,
    roll: Mutex<Roll>,
    board: NoticeBoard,
    /// The drain has something to look at.
    changed: Notify,
    /// Those who watch are told of each phase, and now and then of what is left.
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) report: watch::Sender<Option<Arc<Report>>>,
    /// To the end at once.
    pub(crate) urgent: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Roll {
    seats: Slab<Arc<Seat>>,
    numbers: u64,
    /// How many have ended since the drain began.
    ended: usize,
    /// How many were reset before they could be accepted.
    unserved: usize,
    acceptors: Slab<Acceptor>,
    /// There was one, or nobody should wait for one.
    had_acceptors: bool,
    /// To be looked at: they have come, or their response has ended.
    fresh: Vec<Arc<Seat>>,
    deadline: Option<Instant>,
}

/// What an acceptor has been seen to do since it was told of the end.
#[derive(Debug, Default)]
struct Acceptor {
    waker: Option<Waker>,
    stage: Stage,
    /// Somebody waits whom nobody can take out of the backlog.
    lacks: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Unheard,
    /// It has said something at that time: that it is ready, or that accepting is over, in which case those are handed
    /// over now who wait in the backlog. (Both adapters then drop it.)
    Heard(Instant),
    /// What is inside is not ready for the next client: a full limit.
    Waits,
}

/// A connection on the roll. Dropping it takes the connection out.
#[derive(Debug)]
pub(crate) struct Entry {
    seat: Arc<Seat>,
    key: usize,
}

impl Entry {
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let shared = &self.seat.shared;
        let mut roll = shared.roll();
        roll.seats.remove(self.key);
        let last = roll.seats.is_empty();
        if shared.phase() > Phase::Serving && !self.seat.was_reset() {
            roll.ended += 1;
        }
        drop(roll);
        if last {
            shared.changed.notify_one();
        }
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        let progress = Progress {
            phase: Phase::Serving,
            connections: 0,
            requests: 0,
            upgraded: 0,
            deadline: None,
        };
        Self {
            settings,
            phase: Current::default(),
            roll: Mutex::default(),
            board: NoticeBoard::default(),
            changed: Notify::new(),
            progress: watch::Sender::new(progress),
            report: watch::Sender::default(),
            urgent: watch::Sender::default(),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn notice(&self) -> Notice {
        self.board.notice()
    }

    // === connections ===

    pub(crate) fn enter(self: &Arc<Self>) -> Entry {
        let mut roll = self.roll();
        roll.numbers += 1;
        let seat = Arc::new(Seat::new(self.clone(), roll.numbers));
        let key = roll.seats.insert(seat.clone());
        // Under the lock under which it is changed.
        let phase = self.phase();
        if phase == Phase::Draining {
            roll.fresh.push(seat.clone());
            self.changed.notify_one();
        }
        let late = phase > Phase::Draining;
        roll.unserved += usize::from(late);
        drop(roll);
        if late {
            seat.reset();
        }
        Entry { seat, key }
    }

    /// A client comes too late.
    pub(crate) fn refuse(&self) {
        self.roll().unserved += 1;
    }

    /// Looks at a connection again, now that something has changed there.
    pub(crate) fn look_at(&self, seat: Arc<Seat>) {
        self.roll().fresh.push(seat);
        self.changed.notify_one();
    }

    /// All connections that are there.
    pub(crate) fn seats(&self) -> Vec<Arc<Seat>> {
        let roll = self.roll();
        roll.seats.iter().map(|(_, seat)| seat.clone()).collect()
    }

    /// Those to be looked at since this was last asked.
    pub(crate) fn take_fresh(&self) -> Vec<Arc<Seat>> {
        std::mem::take(&mut self.roll().fresh)
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn ended_and_unserved(&self) -> (usize, usize) {
        let roll = self.roll();
        let lacking = roll.acceptors.iter();
        let lacking = lacking.filter(|(_, acceptor)| acceptor.lacks).count();
        (roll.ended, roll.unserved + lacking)
    }

    pub(crate) fn look(&self) -> Progress {
        let seats = self.seats();
        Progress {
            phase: self.phase(),
            connections: seats.len(),
            requests: seats.iter().map(|seat| seat.requests()).sum(),
            upgraded: seats.iter().filter(|seat| seat.is_upgraded()).count(),
            deadline: self.roll().deadline,
        }
    }

    // === acceptors ===

    pub(crate) fn new_acceptor(&self) -> usize {
        let mut roll = self.roll();
        roll.had_acceptors = true;
        roll.acceptors.insert(Acceptor::default())
    }

    pub(crate) fn drop_acceptor(&self, key: usize) {
        let mut roll = self.roll();
        let acceptor = roll.acceptors.remove(key);
        roll.unserved += usize::from(acceptor.lacks);
        drop(roll);
        drop(acceptor); // its waker, and not under the lock
        self.changed.notify_one();
    }

    /// Whether there is an acceptor, or one is still to be made.
    pub(crate) fn may_accept(&self) -> bool {
        let roll = self.roll();
        !roll.acceptors.is_empty() || !roll.had_acceptors
    }

    /// No acceptor is still to be made.
    pub(crate) fn expect_nobody(&self) {
        self.roll().had_acceptors = true;
    }

    /// The phase, with a promise to wake the acceptor at the next one.
    pub(crate) fn heed(&self, key: usize, cx: &Context<'_>) -> Phase {
        let mut roll = self.roll();
        let before = roll.acceptors[key].waker.replace(cx.waker().clone());
        // Under the lock under which it is changed.
        let phase = self.phase();
        drop(roll);
        drop(before);
        phase
    }

    pub(crate) fn acceptor_waits(&self, key: usize) {
        self.roll().acceptors[key].stage = Stage::Waits;
    }

    pub(crate) fn acceptor_lacks(&self, key: usize, lacks: bool) {
        self.roll().acceptors[key].lacks = lacks;
    }

    pub(crate) fn acceptor_spoke(&self, key: usize) {
        self.roll().acceptors[key].stage = Stage::Heard(Instant::now());
    }

    // === the course ===

    pub(crate) fn advance(&self, phase: Phase, deadline: Option<Instant>) {
        let mut roll = self.roll();
        self.phase.set(phase);
        roll.deadline = deadline;
        if phase > Phase::Draining {
            roll.fresh = Vec::new(); // nobody looks any more
        }
        let acceptors = roll.acceptors.iter();
        let wakers: Vec<_> = acceptors
            .filter_map(|(_, acceptor)| acceptor.waker.clone())
            .collect();
        drop(roll);
        wakers.into_iter().for_each(Waker::wake);
        self.progress.send_replace(self.look());
    }

    pub(crate) fn give_notice(&self, deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => self.board.give(deadline),
            None => self.board.give_without_deadline(),
        }
    }

    /// Whether nobody is there, and nobody can come. If that is only a matter of time, until when.
    pub(crate) fn is_empty(&self, now: Instant, unheard_until: Instant) -> Result<bool, Instant> {
        let roll = self.roll();
        if !roll.seats.is_empty() {
            return Ok(false);
        }
        let mut over = if roll.had_acceptors {
            now
        } else {
            unheard_until
        };
        for (_, acceptor) in &roll.acceptors {
            over = over.max(match acceptor.stage {
                Stage::Waits => return Ok(false),
                Stage::Unheard => unheard_until,
                Stage::Heard(at) => unheard_until.max(at + UNHEARD),
            });
        }
        if over <= now { Ok(true) } else { Err(over) }
    }

    /// Whether nobody is left, neither a connection nor an acceptor.
    pub(crate) fn is_deserted(&self) -> bool {
        let roll = self.roll();
        roll.seats.is_empty() && roll.acceptors.is_empty()
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        // Nothing panics while it is held.
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

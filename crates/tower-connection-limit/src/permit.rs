use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use crate::AtCapacity;

/// The counts of a limit, shared by its layer, its acceptors, its permits and its handles.
///
/// One lock, taken when a connection comes and when it goes, never for a request. A semaphore of tokio
/// would do half of this, but its waits end with the task's coop budget, and then a limit that has room
/// looks full.
#[derive(Clone, Debug)]
pub(crate) struct Counts(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    max: usize,
    max_rejecting: usize,
    /// Permits taken: by sockets, and by acceptors that are ready for one.
    taken: usize,
    /// Of these, by acceptors.
    reserved: usize,
    /// Rejections in progress, those reserved by acceptors included.
    rejecting: usize,
    rejected: u64,
    waiting: HashMap<AcceptorId, Waker>,
    next_acceptor: u64,
}

/// Which acceptor waits, so that asking twice does not wait twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AcceptorId(u64);

/// What an acceptor that is ready holds for the next socket.
#[derive(Debug)]
pub(crate) enum Admission {
    Serve(Permit),
    Reject(Refusal),
}

impl Counts {
    pub(crate) fn new(max: usize, max_rejecting: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            max: unlimited(max),
            max_rejecting,
            taken: 0,
            reserved: 0,
            rejecting: 0,
            rejected: 0,
            waiting: HashMap::new(),
            next_acceptor: 0,
        })))
    }

    pub(crate) fn acceptor(&self) -> AcceptorId {
        let mut state = self.lock();
        state.next_acceptor += 1;
        AcceptorId(state.next_acceptor)
    }

    /// Takes a permit or, if there is none and the policy rejects, the right to reject. If there is
    /// neither, `waker` is woken when it is worth asking again.
    pub(crate) fn reserve(
        &self,
        id: AcceptorId,
        at_capacity: AtCapacity,
        waker: &Waker,
    ) -> Option<Admission> {
        let mut state = self.lock();
        if state.taken < state.max {
            state.taken += 1;
            state.reserved += 1;
            state.waiting.remove(&id);
            return Some(Admission::Serve(Permit {
                counts: self.clone(),
                reserved: true,
            }));
        }
        if at_capacity == AtCapacity::Reject && state.rejecting < state.max_rejecting {
            state.rejecting += 1;
            state.waiting.remove(&id);
            return Some(Admission::Reject(Refusal {
                counts: self.clone(),
            }));
        }
        state.waiting.insert(id, waker.clone());
        None
    }

    /// A socket came: what was reserved is now used. A permit that became free since is used first.
    pub(crate) fn admit(&self, reserved: Admission) -> Admission {
        let mut state = self.lock();
        match reserved {
            Admission::Serve(mut permit) => {
                state.reserved -= 1;
                permit.reserved = false;
                Admission::Serve(permit)
            }
            Admission::Reject(refusal) if state.taken < state.max => {
                state.taken += 1;
                drop(state); // the refusal, dropped here, takes the lock
                drop(refusal);
                Admission::Serve(Permit {
                    counts: self.clone(),
                    reserved: false,
                })
            }
            Admission::Reject(refusal) => {
                state.rejected += 1;
                Admission::Reject(refusal)
            }
        }
    }

    pub(crate) fn leave(&self, id: AcceptorId) {
        self.lock().waiting.remove(&id);
    }

    pub(crate) fn max(&self) -> usize {
        self.lock().max
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.change(|state| state.max = unlimited(max));
    }

    pub(crate) fn open(&self) -> usize {
        let state = self.lock();
        state.taken - state.reserved
    }

    pub(crate) fn rejecting(&self) -> usize {
        self.lock().rejecting
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.lock().rejected
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Changes a count, and wakes the acceptors that may now be ready. There is one for each server
    /// that shares the limit, so waking them all is cheap, and none is forgotten.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let woken: Vec<Waker> = state.waiting.drain().map(|(_, waker)| waker).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unlimited(max: usize) -> usize {
    if max == 0 { usize::MAX } else { max }
}

/// One of the connections that may be open. It lives in the socket, and is free when that is closed.
#[derive(Debug)]
pub(crate) struct Permit {
    counts: Counts,
    reserved: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.change(|state| {
            state.taken -= 1;
            state.reserved -= usize::from(self.reserved);
        });
    }
}

/// One of the rejections that may be in progress. It lives in the socket too.
#[derive(Debug)]
pub(crate) struct Refusal {
    counts: Counts,
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.counts.change(|state| state.rejecting -= 1);
    }
}

//! The books under their lock, and who holds a line in them.

use std::{
    cmp::Reverse,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use tokio::time::Instant;
use tower_connection::{Address, ConnectionHandle, Rejection, Socket, Throttle};
use tracing::info;

use crate::{
    Client, Reason,
    books::{Books, Member, Standing, Verdict},
    seat::{Phase, Seat},
    settings::Settings,
};

/// The numbers that a [`Limit`](crate::Limit) shows.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) max: usize,
    pub(crate) max_per_client: usize,
    pub(crate) open: usize,
    pub(crate) in_reserve: usize,
    pub(crate) upgraded: usize,
    pub(crate) waiting: usize,
    pub(crate) rejected: u64,
    pub(crate) evicted: u64,
}

/// Who is in, who waits, who was turned away: one for each limit, shared by its acceptors, its sockets and
/// its handles.
///
/// One lock, taken when a connection comes and when it goes, never for a request. A semaphore of tokio
/// would do a part of this, but its waits end with the task's coop budget, and then a limit that has room
/// looks full.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Shared>);

struct Shared {
    /// Somebody asked to tell clients apart: from then on connections are counted per client.
    tells_clients_apart: AtomicBool,
    books: Mutex<Books>,
    rejections: Throttle,
    evictions: Throttle,
}

/// Which acceptor waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AcceptorId(u64);

/// What an acceptor that is ready holds for its next socket. It must be given back: [`Ledger::admit`] or
/// [`Ledger::give_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reservation {
    Permit,
    /// A place in the reserve: who comes makes room, or is turned away.
    Aside,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

impl Ledger {
    pub(crate) fn new(max: usize, reserve: usize) -> Self {
        Self(Arc::new(Shared {
            tells_clients_apart: AtomicBool::new(false),
            books: Mutex::new(Books::new(unlimited(max), reserve)),
            rejections: Throttle::new(10),
            evictions: Throttle::new(10),
        }))
    }

    // --- acceptors

    pub(crate) fn acceptor(&self) -> AcceptorId {
        let mut books = self.lock();
        books.next_acceptor += 1;
        AcceptorId(books.next_acceptor)
    }

    pub(crate) fn forget(&self, acceptor: AcceptorId) {
        self.lock().acceptors.remove(&acceptor);
    }

    /// Reserves what the next socket will need. If that cannot be, `waker` is woken when something has
    /// changed, and the error says when to ask again in any case.
    pub(crate) fn reserve(
        &self,
        acceptor: AcceptorId,
        settings: &Settings,
        waker: &Waker,
    ) -> Result<Reservation, Option<Instant>> {
        let mut books = self.lock();
        if books.has_permit() && !books.holds_back() {
            books.taken += 1;
            books.ready += 1;
            books.wait_no_more(acceptor);
            return Ok(Reservation::Permit);
        }
        let mut again = None;
        if !books.has_permit() {
            let now = Instant::now();
            books.warm_up(now);
            match books.may_take_aside(settings, now) {
                Ok(()) => {
                    books.aside += 1;
                    books.promised += 1;
                    books.wait_no_more(acceptor);
                    return Ok(Reservation::Aside);
                }
                Err(at) => again = at,
            }
        }
        books.stopped = true;
        books.acceptors.insert(acceptor, waker.clone());
        Err(again)
    }

    /// An acceptor ended before a socket came.
    pub(crate) fn give_back(&self, reservation: Reservation) {
        self.change(|books| match reservation {
            Reservation::Permit => {
                books.ready -= 1;
                books.taken -= 1;
            }
            Reservation::Aside => {
                books.promised -= 1;
                books.aside -= 1;
            }
        });
    }

    // --- connections

    /// A socket came: decides about it.
    pub(crate) fn admit(
        &self,
        reservation: Reservation,
        settings: &Arc<Settings>,
        client: Option<Client>,
    ) -> (Entry, Verdict) {
        let now = Instant::now();
        let mut books = self.lock();
        let vacant = books.members.vacant_entry();
        let line = Arc::new(Line {
            seat: Seat::new(Phase::Waiting),
            key: vacant.key(),
            accepted: now,
            ledger: self.clone(),
            settings: settings.clone(),
        });
        vacant.insert(Member {
            line: line.clone(),
            standing: Standing::Waiting,
            accepted: now,
            client,
            owned: false,
            listed: None,
        });
        // Whatever was reserved: it stands in the reserve until it is decided.
        match reservation {
            Reservation::Permit => {
                books.ready -= 1;
                books.taken -= 1;
                books.aside += 1;
            }
            Reservation::Aside => books.promised -= 1,
        }
        let verdict = books.decide(line.key, settings, now);
        let woken = books.settle();
        drop(books);
        wake(woken);
        (Entry(line), verdict)
    }

    // --- handles

    pub(crate) fn counts(&self) -> Counts {
        let books = self.lock();
        Counts {
            max: books.max,
            max_per_client: books.max_per_client,
            open: books.taken - books.ready,
            in_reserve: books.aside - books.promised - books.cooling.len(),
            upgraded: books.upgraded,
            waiting: books.acceptors.len(),
            rejected: books.rejected.total(),
            evicted: books.evicted,
        }
    }

    pub(crate) fn rejected_for(&self, reason: Reason) -> u64 {
        self.lock().rejected.of(reason)
    }

    /// The clients with the most connections, the most first.
    pub(crate) fn top(&self, n: usize) -> Vec<(Client, usize)> {
        let books = self.lock();
        let mut clients: Vec<_> = books
            .clients
            .iter()
            .map(|(client, open)| (client.clone(), open.len()))
            .collect();
        drop(books);
        clients.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
        clients.truncate(n);
        clients
    }

    pub(crate) fn set_max(&self, max: usize) {
        self.change(|books| books.max = unlimited(max));
    }

    pub(crate) fn tells_clients_apart(&self) -> bool {
        // Relaxed: who sees it late counts its connection as nobody's.
        self.0.tells_clients_apart.load(Ordering::Relaxed)
    }

    pub(crate) fn set_max_per_client(&self, max: usize) {
        self.0.tells_clients_apart.store(true, Ordering::Relaxed);
        self.change(|books| books.max_per_client = unlimited(max));
    }

    pub(crate) fn set_max_upgraded(&self, max: usize) {
        self.change(|books| books.max_upgraded = Some(unlimited(max)));
    }

    pub(crate) fn set_low_watermark(&self, low: usize) {
        self.change(|books| books.low = Some(low));
    }

    pub(crate) fn set_reserve(&self, reserve: usize) {
        self.change(|books| books.reserve = reserve);
    }

    /// Changes something, lets in who can now come in, and wakes who may now be ready. There is one
    /// acceptor for each server that shares the limit, so waking them all is cheap, and none is forgotten.
    fn change(&self, change: impl FnOnce(&mut Books)) {
        let mut books = self.lock();
        change(&mut books);
        let woken = books.settle();
        drop(books);
        wake(woken);
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // Nothing panics while it is held.
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Line ===

/// A connection's line in the books.
pub(crate) struct Line {
    pub(crate) seat: Seat,
    key: usize,
    accepted: Instant,
    ledger: Ledger,
    settings: Arc<Settings>,
}

/// The socket's hold on its line, which is struck out when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry(Arc<Line>);

/// What leads to the line for as long as it is there.
#[derive(Clone, Debug)]
pub(crate) struct Ticket(Arc<Line>);

impl Ticket {
    /// The acceptor inside has made a connection of the socket.
    pub(crate) fn adopt(&self, handle: &ConnectionHandle) {
        let seat = &self.0.seat;
        let mut books = self.0.ledger.lock();
        let Some(member) = self.member(&mut books) else {
            return;
        };
        seat.set_handle(handle.clone());
        match &mut member.standing {
            Standing::Served => seat.tell(Phase::Served),
            Standing::TurnedAway { answer, .. } => {
                if let Some(answer) = answer.take() {
                    handle.refuse(answer);
                }
            }
            // It made room in the middle of its handshake.
            Standing::Evicted(_) => {
                let refusal = books.rejection(&self.0.settings, Instant::now());
                // Nothing can be under way on it.
                let _ = handle.close_if_idle(refusal);
            }
            Standing::Waiting | Standing::Upgraded => {}
        }
        if books.max_upgraded.is_some() {
            // Weak: the handle would otherwise keep what keeps the handle.
            let line = Arc::downgrade(&self.0);
            handle.gate_upgrades(move || match line.upgrade() {
                Some(line) => Self(line).upgrade(),
                None => Ok(()),
            });
        }
    }

    /// Moves the connection from the one limit to the other, if that has room.
    fn upgrade(&self) -> Result<(), Rejection> {
        let mut books = self.0.ledger.lock();
        let Some(max) = books.max_upgraded else {
            return Ok(());
        };
        let full = books.upgraded >= max;
        let Some(member) = self.member(&mut books) else {
            return Ok(());
        };
        if !matches!(member.standing, Standing::Served) {
            return Ok(());
        }
        if full {
            books.rejected.count(Reason::Upgraded);
            let rejection = books.rejection(&self.0.settings, Instant::now());
            drop(books);
            self.0
                .tell_rejected(Reason::Upgraded, "reject", || Address::Unknown);
            return Err(rejection);
        }
        member.standing = Standing::Upgraded;
        books.unlist(self.0.key);
        books.upgraded += 1;
        books.taken -= 1;
        let woken = books.settle();
        drop(books);
        wake(woken);
        Ok(())
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.0.seat
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Unless the socket is gone already, and the key another's.
    fn member<'a>(&self, books: &'a mut Books) -> Option<&'a mut Member> {
        let member = books.members.get_mut(self.0.key)?;
        Arc::ptr_eq(&member.line, &self.0).then_some(member)
    }
}

impl Line {
    // Not under the lock, both of these: who listens may ask the limit.

    /// Says whom the limit turned away.
    fn tell_rejected(&self, reason: Reason, what: &str, peer: impl FnOnce() -> Address) {
        let Some(suppressed) = self.ledger.0.rejections.pass() else {
            return;
        };
        let (open, max) = {
            let books = self.ledger.lock();
            // The line is there for as long as its socket.
            let client = books.members.get(self.key);
            books.reached(reason, client.and_then(|member| member.client.as_ref()))
        };
        let peer = self.peer(peer);
        info!(
            %peer, reason = reason.as_str(), open, max, what, suppressed,
            "turned a client away"
        );
    }

    /// Says who made room.
    fn tell_evicted(&self, peer: impl FnOnce() -> Address) {
        let Some(suppressed) = self.ledger.0.evictions.pass() else {
            return;
        };
        let idle_since = match self.seat.handle() {
            Some(handle) => handle.idle_since(),
            None => Some(self.accepted),
        };
        let idle_for = idle_since.map(|since| tracing::field::debug(since.elapsed()));
        let peer = self.peer(peer);
        info!(%peer, idle_for, suppressed, "ended an idle connection to make room");
    }

    /// Of a connection behind a PROXY protocol, the handle knows the client.
    fn peer(&self, peer: impl FnOnce() -> Address) -> Address {
        let handle = self.seat.handle();
        handle.map_or_else(peer, |handle| handle.peer().clone())
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seat.fmt(f)
    }
}

impl Entry {
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.0.clone())
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.0.seat
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn accepted(&self) -> Instant {
        self.0.accepted
    }

    /// Says so if the client was turned away.
    pub(crate) fn tell(&self, verdict: &Verdict, io: &impl Socket) {
        match verdict {
            Verdict::Reject(reason) => self.0.tell_rejected(*reason, "reject", || io.peer()),
            Verdict::Reset(reason) => self.0.tell_rejected(*reason, "close", || io.peer()),
            Verdict::Serve | Verdict::Wait(_) | Verdict::Again | Verdict::Decided => {}
        }
    }

    /// Says that the connection has made room.
    pub(crate) fn tell_evicted(&self, io: &impl Socket) {
        self.0.tell_evicted(|| io.peer());
    }

    /// A newcomer that waits asks again.
    pub(crate) fn ask_again(&self) -> Verdict {
        let key = self.0.key;
        let now = Instant::now();
        let mut books = self.0.ledger.lock();
        match self.seat().phase() {
            Phase::Waiting => {
                let verdict = books.decide(key, &self.0.settings, now);
                let woken = books.settle();
                drop(books);
                wake(woken);
                verdict
            }
            _ => Verdict::Decided,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let key = self.0.key;
        self.0.ledger.change(|books| {
            books.unlist(key);
            books.disown(key);
            books.leaving.remove(&key);
            let member = books.members.remove(key);
            match member.standing {
                Standing::Served => {
                    books.taken -= 1;
                    books.departed += 1;
                }
                Standing::Upgraded => books.upgraded -= 1,
                Standing::Evicted(_) => books.aside -= 1,
                Standing::Waiting => {
                    books.anteroom.retain(|waiting| *waiting != key);
                    books.aside -= 1;
                }
                // Its place stays taken for a while: who comes back at once finds the others still there,
                // and so nobody can make the server reject without a pause.
                Standing::TurnedAway { until, .. } => books.cooling.push(Reverse(until)),
            }
        });
    }
}

fn unlimited(max: usize) -> usize {
    if max == 0 { usize::MAX } else { max }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(all(test, not(tower_loom)))]
#[path = "simulation.rs"]
mod simulation;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use slab::Slab;
use tokio::time::Instant;
use tower_connection::{ConnectionHandle, Rejection};

use crate::{
    AtCapacity, Client,
    seat::{Phase, Seat},
    settings::{RetryAfter, Settings},
    turnover::Turnover,
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

/// How many connections one search for an idle one looks at before it lets others at the lock.
const LOOKS: usize = 256;

/// Each busy connection is looked at again after so long for each of them: a look takes some 0.2 us, so that
/// looking takes a few hundredths of a core, however many there are and however many newcomers come.
const LOOK: Duration = Duration::from_micros(5);

/// How soon a newcomer that waits for somebody to become idle looks again. Nobody tells it: that would be
/// work for each request.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long a client that was turned away keeps its place after the answer when others need it, and a
/// connection that made room after it was told.
const HASTE: Duration = Duration::from_millis(100);

/// Who is in, who waits, who was turned away: one for each limit, shared by its acceptors, its sockets and
/// its handles.
///
/// One lock, taken when a connection comes and when it goes, never for a request. A semaphore of tokio
/// would do a part of this, but its waits end with the task's coop budget, and then a limit that has room
/// looks full.
///
/// Every socket is in one of two accounts. `taken` is the permits: served connections, and acceptors that
/// are ready for one. `aside` is the reserve: sockets past the limit, on their way out or in. Making room
/// swaps two sockets between the accounts, so neither ever holds more than its bound.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Shared>);

struct Shared {
    /// Somebody asked to tell clients apart: from then on connections are counted per client.
    tells_clients_apart: AtomicBool,
    books: Mutex<Books>,
}

struct Books {
    max: usize,
    max_per_client: usize,
    /// `None`: an upgraded connection keeps its permit.
    max_upgraded: Option<usize>,
    /// Once nobody was accepted any more, accepting begins again at so many connections.
    low: Option<usize>,
    stopped: bool,
    reserve: usize,

    taken: usize,
    /// Of these, by acceptors that are ready for a socket.
    ready: usize,
    aside: usize,
    /// Of these, by acceptors that are ready for a socket.
    promised: usize,
    /// Of these, by rejections that ended, until when.
    cooling: BinaryHeap<Reverse<Instant>>,
    upgraded: usize,

    members: Slab<Member>,
    /// The connections with a permit: those that were idle when last seen, by since when, and those that
    /// were busy, by when that was.
    idle: Roll,
    busy: Roll,
    clients: HashMap<Client, BTreeSet<usize>>,
    /// Newcomers in the reserve that wait for a permit, the first first.
    anteroom: VecDeque<usize>,
    /// Who is in the reserve on the way out.
    leaving: BTreeSet<usize>,
    /// Acceptors that wait, by whom, so that asking twice does not wait twice.
    acceptors: HashMap<AcceptorId, Waker>,
    next_acceptor: u64,

    rejected: u64,
    evicted: u64,
    departed: u64,
    turnover: Turnover,
}

/// Connections by a time that is a lower bound: what happened since is not told, and can only make it
/// later. So the first one is the longest idle of all, if what is known of it is still true.
type Roll = BTreeSet<(Instant, usize)>;

#[derive(Debug)]
struct Member {
    line: Arc<Line>,
    standing: Standing,
    accepted: Instant,
    client: Option<Client>,
    /// It counts as one of its client's.
    owned: bool,
    listed: Option<Listed>,
}

/// On which roll a connection is.
#[derive(Clone, Copy, Debug)]
enum Listed {
    Idle(Instant),
    Busy(Instant),
}

#[derive(Debug)]
enum Standing {
    Served,
    Upgraded,
    Waiting,
    /// With the answer, until there is a handle to refuse with, and how long its place is kept.
    TurnedAway {
        answer: Option<Rejection>,
        until: Instant,
    },
    /// And since when.
    Evicted(Instant),
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

/// What a newcomer is told.
#[derive(Debug)]
pub(crate) enum Verdict {
    Serve,
    /// Ask again then, or when told.
    Wait(Instant),
    /// Ask again at once: others wanted the lock meanwhile.
    Again,
    Reject,
    Reset,
}

/// The outcome of a search for the connection that is idle the longest.
enum Oldest {
    Found(usize),
    /// It is not idle for long enough before then.
    NotBefore(Instant),
    /// There may be one, but others want the lock.
    Unfinished,
    Nobody,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

impl Ledger {
    pub(crate) fn new(max: usize, reserve: usize) -> Self {
        let books = Books {
            max: unlimited(max),
            max_per_client: usize::MAX,
            max_upgraded: None,
            low: None,
            stopped: false,
            reserve,
            taken: 0,
            ready: 0,
            aside: 0,
            promised: 0,
            cooling: BinaryHeap::new(),
            upgraded: 0,
            members: Slab::new(),
            idle: Roll::new(),
            busy: Roll::new(),
            clients: HashMap::new(),
            anteroom: VecDeque::new(),
            leaving: BTreeSet::new(),
            acceptors: HashMap::new(),
            next_acceptor: 0,
            rejected: 0,
            evicted: 0,
            departed: 0,
            turnover: Turnover::default(),
        };
        Self(Arc::new(Shared {
            tells_clients_apart: AtomicBool::new(false),
            books: Mutex::new(books),
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
            rejected: books.rejected,
            evicted: books.evicted,
        }
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
struct Line {
    seat: Seat,
    key: usize,
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
            Standing::Waiting | Standing::Evicted(_) | Standing::Upgraded => {}
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
            books.rejected += 1;
            return Err(books.rejection(&self.0.settings, Instant::now()));
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

    /// A newcomer that waits asks again.
    pub(crate) fn ask_again(&self) -> Verdict {
        let key = self.0.key;
        let now = Instant::now();
        let mut books = self.0.ledger.lock();
        match self.seat().phase() {
            Phase::Waiting => {
                books.anteroom.retain(|waiting| *waiting != key);
                let verdict = books.decide(key, &self.0.settings, now);
                let woken = books.settle();
                drop(books);
                wake(woken);
                verdict
            }
            Phase::Rejected | Phase::Evicted | Phase::Spent => Verdict::Reject,
            Phase::Reset => Verdict::Reset,
            Phase::Served | Phase::Making => Verdict::Serve,
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

// === impl Books ===

impl Books {
    fn has_permit(&self) -> bool {
        self.taken < self.max
    }

    fn wait_no_more(&mut self, acceptor: AcceptorId) {
        // A map hashes also to find nothing.
        if !self.acceptors.is_empty() {
            self.acceptors.remove(&acceptor);
        }
    }

    /// Whether accepting has stopped and not enough connections have ended since.
    fn holds_back(&mut self) -> bool {
        self.stopped &= self.low.is_some_and(|low| self.taken > low);
        self.stopped
    }

    /// Gives back the places of rejections that ended long enough ago.
    fn warm_up(&mut self, now: Instant) {
        while self.cooling.peek().is_some_and(|Reverse(at)| *at <= now) {
            self.cooling.pop();
            self.aside -= 1;
        }
    }

    /// Whether a newcomer past the limit would be told something at once. If not, when to ask again.
    fn may_take_aside(&mut self, settings: &Settings, now: Instant) -> Result<(), Option<Instant>> {
        if self.aside >= self.reserve {
            let cooled = self.cooling.peek().map(|Reverse(at)| *at);
            let hastened = self.hasten(settings, now);
            return Err(cooled.into_iter().chain(hastened).min());
        }
        if settings.turns_away().is_some() {
            return Ok(());
        }
        if !settings.makes_room() {
            return Err(None);
        }
        match self.oldest(settings.min_idle, now, now) {
            Oldest::Found(_) => Ok(()),
            Oldest::NotBefore(at) => Err(Some(at)),
            Oldest::Unfinished => Err(Some(now)),
            Oldest::Nobody => Err(Some(now + LOOK_AGAIN)),
        }
    }

    /// Decides about a newcomer, who stands in the reserve and waits.
    fn decide(&mut self, key: usize, settings: &Settings, now: Instant) -> Verdict {
        self.warm_up(now);
        if let Some(verdict) = self.decide_for_client(key, settings, now) {
            return verdict;
        }
        if self.taken < self.max {
            return self.serve(key);
        }
        for policy in &settings.at_capacity {
            match policy {
                AtCapacity::MakeRoom => match self.make_room(key, settings, now) {
                    Oldest::Found(_) => return self.serve(key),
                    Oldest::NotBefore(at) if at <= self.patience(key, settings) => {
                        return self.wait(key, at);
                    }
                    Oldest::Unfinished => return self.again(key),
                    Oldest::NotBefore(_) | Oldest::Nobody => {}
                },
                AtCapacity::Reject => return self.reject(key, settings, now),
                AtCapacity::Close => return self.reset(key, settings),
                AtCapacity::Wait => break,
            }
        }
        self.wait(key, now + LOOK_AGAIN)
    }

    /// How long a newcomer waits for somebody to be idle for long enough.
    fn patience(&self, key: usize, settings: &Settings) -> Instant {
        self.members[key].accepted + settings.min_idle
    }

    /// Takes the newcomer for one of its client's connections, if the client may have one more.
    fn decide_for_client(
        &mut self,
        key: usize,
        settings: &Settings,
        now: Instant,
    ) -> Option<Verdict> {
        let member = &self.members[key];
        let client = member.client.clone().filter(|_| !member.owned)?;
        let own = self.clients.get(&client);
        if own.is_some_and(|own| own.len() >= self.max_per_client) {
            // One of its own makes room. Nobody else has to, and nobody else could wait for it.
            let oldest = own
                .filter(|_| settings.makes_room() && self.aside <= self.reserve)
                .into_iter()
                .flatten()
                .filter(|key| matches!(self.members[**key].standing, Standing::Served))
                .filter_map(|key| Some((self.members[*key].idle_since()?, *key)))
                .min();
            match oldest {
                Some((since, victim)) if since + settings.min_idle <= now => {
                    if !self.evict(victim, settings, now) {
                        return Some(self.again(key));
                    }
                }
                Some((since, _)) if since + settings.min_idle <= self.patience(key, settings) => {
                    return Some(self.wait(key, since + settings.min_idle));
                }
                _ => return Some(self.turn_away(key, settings, now)),
            }
        }
        self.clients.entry(client).or_default().insert(key);
        self.members[key].owned = true;
        None
    }

    /// Ends the connection that is idle the longest, if it is for long enough.
    fn make_room(&mut self, newcomer: usize, settings: &Settings, now: Instant) -> Oldest {
        let fresh = self.members[newcomer].accepted;
        loop {
            match self.oldest(settings.min_idle, now, fresh) {
                // A request came this very moment: it is busy then, and the search finds another.
                Oldest::Found(victim) if !self.evict(victim, settings, now) => {
                    self.list(victim, Listed::Busy(now));
                }
                oldest => return oldest,
            }
        }
    }

    /// Finds the connection that is idle the longest.
    ///
    /// What it learns on the way it writes down, so that no connection is looked at twice for one change
    /// of its own. A busy one is looked at once for a newcomer who came after `fresh`, and not before it
    /// could be idle for long enough.
    fn oldest(&mut self, min_idle: Duration, now: Instant, fresh: Instant) -> Oldest {
        let rest = min_idle.max(LOOK * u32::try_from(self.busy.len()).unwrap_or(u32::MAX));
        for _ in 0..LOOKS {
            let idle = self.idle.first().copied();
            let due = idle.filter(|(since, _)| *since + min_idle <= now);
            let busy = self.busy.first().copied();
            let busy = busy.filter(|(at, _)| *at + rest <= now && *at < fresh);
            match (due, busy) {
                // ## Busy => (Busy | Idle), unless it could not be idle for longer than the first who is
                (due, Some((at, key))) if due.is_none_or(|(since, _)| at < since) => {
                    self.look(key, now);
                }
                (Some((since, key)), _) if self.members[key].idle_since() == Some(since) => {
                    return Oldest::Found(key);
                }
                // ## Idle => (Busy | Idle, but later)
                (Some((_, key)), _) => self.look(key, now),
                (None, _) => {
                    let not_before = |(since, _)| Oldest::NotBefore(since + min_idle);
                    return idle.map_or(Oldest::Nobody, not_before);
                }
            }
        }
        Oldest::Unfinished
    }

    /// Puts a connection where it belongs now.
    fn look(&mut self, key: usize, now: Instant) {
        match self.members[key].idle_since() {
            Some(since) => self.list(key, Listed::Idle(since)),
            None if self.members[key].is_upgraded() => self.unlist(key),
            None => self.list(key, Listed::Busy(now)),
        }
    }

    /// The reserve is full: ends the stay of those in it who had time enough. Returns when the next of them
    /// will have had it.
    fn hasten(&mut self, settings: &Settings, now: Instant) -> Option<Instant> {
        let due = |key: &usize| (self.members[*key].may_be_hastened(settings), *key);
        let (over, rest): (Vec<_>, Vec<_>) =
            self.leaving.iter().map(due).partition(|(at, _)| *at <= now);
        for (_, key) in over {
            self.leaving.remove(&key);
            self.members[key].line.seat.tell(Phase::Spent);
        }
        rest.into_iter().map(|(at, _)| at).min()
    }

    // --- what can become of a newcomer

    fn serve(&mut self, key: usize) -> Verdict {
        self.aside -= 1;
        self.taken += 1;
        let member = &mut self.members[key];
        member.standing = Standing::Served;
        member.line.seat.tell(match member.line.seat.handle() {
            Some(_) => Phase::Served,
            None => Phase::Making,
        });
        let since = member.accepted;
        self.list(key, Listed::Idle(since));
        Verdict::Serve
    }

    fn wait(&mut self, key: usize, until: Instant) -> Verdict {
        self.anteroom.push_back(key);
        Verdict::Wait(until)
    }

    fn again(&mut self, key: usize) -> Verdict {
        self.anteroom.push_back(key);
        Verdict::Again
    }

    /// Rejects or resets, whichever the settings name. Nobody else must wait for what one client does, so
    /// without a place in the reserve it is a reset.
    fn turn_away(&mut self, key: usize, settings: &Settings, now: Instant) -> Verdict {
        if self.aside > self.reserve || settings.turns_away() == Some(AtCapacity::Close) {
            self.reset(key, settings)
        } else {
            self.reject(key, settings, now)
        }
    }

    fn reject(&mut self, key: usize, settings: &Settings, now: Instant) -> Verdict {
        let answer = self.rejection(settings, now);
        let answer = match self.members[key].line.seat.handle() {
            Some(handle) => {
                handle.refuse(answer);
                None
            }
            None => Some(answer),
        };
        self.put_out(key, settings, answer, Phase::Rejected);
        Verdict::Reject
    }

    fn reset(&mut self, key: usize, settings: &Settings) -> Verdict {
        self.put_out(key, settings, None, Phase::Reset);
        Verdict::Reset
    }

    fn put_out(
        &mut self,
        key: usize,
        settings: &Settings,
        answer: Option<Rejection>,
        phase: Phase,
    ) {
        self.rejected += 1;
        self.disown(key);
        let member = &mut self.members[key];
        let until = member.accepted + settings.rejection_pause;
        member.standing = Standing::TurnedAway { answer, until };
        member.line.seat.tell(phase);
        if phase == Phase::Rejected {
            self.leaving.insert(key);
        }
    }

    fn rejection(&mut self, settings: &Settings, now: Instant) -> Rejection {
        let retry_after = match &settings.retry_after {
            RetryAfter::Fixed(fixed) => *fixed,
            RetryAfter::Turnover(bounds) => {
                let estimate = self.turnover.wait(now, self.departed, self.rejected);
                estimate.clamp(*bounds.start(), *bounds.end())
            }
        };
        Rejection::new(retry_after).close()
    }

    // --- what can become of a connection

    /// Takes the permit of a connection, unless it is at work at this moment.
    fn evict(&mut self, key: usize, settings: &Settings, now: Instant) -> bool {
        let refusal = self.rejection(settings, now);
        let member = &mut self.members[key];
        if let Some(handle) = member.line.seat.handle() {
            if !handle.close_if_idle(refusal) {
                return false;
            }
        }
        member.standing = Standing::Evicted(now);
        member.line.seat.tell(Phase::Evicted);
        self.leaving.insert(key);
        self.unlist(key);
        self.disown(key);
        self.taken -= 1;
        self.aside += 1;
        self.evicted += 1;
        self.departed += 1;
        true
    }

    fn disown(&mut self, key: usize) {
        let member = &mut self.members[key];
        let Some(client) = member.client.as_ref().filter(|_| member.owned) else {
            return;
        };
        member.owned = false;
        // A client is remembered while it has a connection, so their number is bounded by the sockets'.
        if let Some(own) = self.clients.get_mut(client) {
            own.remove(&key);
            if own.is_empty() {
                self.clients.remove(client);
            }
        }
    }

    fn list(&mut self, key: usize, listed: Listed) {
        self.unlist(key);
        match listed {
            Listed::Idle(at) => self.idle.insert((at, key)),
            Listed::Busy(at) => self.busy.insert((at, key)),
        };
        self.members[key].listed = Some(listed);
    }

    fn unlist(&mut self, key: usize) {
        match self.members[key].listed.take() {
            Some(Listed::Idle(at)) => self.idle.remove(&(at, key)),
            Some(Listed::Busy(at)) => self.busy.remove(&(at, key)),
            None => false,
        };
    }

    /// Gives free permits to the newcomers that wait, and returns the acceptors to be woken.
    fn settle(&mut self) -> Vec<Waker> {
        while self.taken < self.max {
            // Who waits for one of its client's own connections does not wait for a permit.
            let waits =
                |key: &usize| self.members[*key].owned || self.members[*key].client.is_none();
            let Some(first) = self.anteroom.iter().position(waits) else {
                break;
            };
            let key = self.anteroom.remove(first).expect("just found");
            self.serve(key);
        }
        self.acceptors.drain().map(|(_, waker)| waker).collect()
    }
}

impl Member {
    /// Since when nothing is in flight; `None` while something is, or if the connection ends anyway.
    fn idle_since(&self) -> Option<Instant> {
        match self.line.seat.handle() {
            None => Some(self.accepted),
            Some(handle) if handle.is_closing() => None,
            Some(handle) => handle.idle_since(),
        }
    }

    /// When it has had time enough to leave the reserve, if others wait for its place.
    fn may_be_hastened(&self, settings: &Settings) -> Instant {
        let handle = self.line.seat.handle();
        let answered = handle.filter(|handle| handle.requests() > 0);
        match (&self.standing, answered) {
            (Standing::Evicted(since), _) => *since + HASTE,
            (_, Some(handle)) => match handle.idle_since() {
                Some(answered) => answered + HASTE,
                None => Instant::now() + HASTE, // just now
            },
            (_, None) => self.accepted + settings.linger,
        }
    }

    fn is_upgraded(&self) -> bool {
        self.line
            .seat
            .handle()
            .is_some_and(ConnectionHandle::is_upgraded)
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

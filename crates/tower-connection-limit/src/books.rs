//! What the limit knows, and what it decides: functions of what is written and the time.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use slab::Slab;
use tokio::time::Instant;
use tower_connection::{ConnectionHandle, Rejection, Tally};

use crate::{
    AtCapacity, Client, Reason,
    ledger::{AcceptorId, Line},
    seat::Phase,
    settings::{RetryAfter, Settings},
    turnover::Turnover,
};

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

/// Every socket is in one of two accounts. `taken` is the permits: served connections, and acceptors that
/// are ready for one. `aside` is the reserve: sockets past the limit, on their way out or in. Making room
/// swaps two sockets between the accounts, so neither ever holds more than its bound.
pub(crate) struct Books {
    pub(crate) max: usize,
    pub(crate) max_per_client: usize,
    /// `None`: an upgraded connection keeps its permit.
    pub(crate) max_upgraded: Option<usize>,
    /// Once nobody was accepted any more, accepting begins again at so many connections.
    pub(crate) low: Option<usize>,
    pub(crate) stopped: bool,
    pub(crate) reserve: usize,

    pub(crate) taken: usize,
    /// Of these, by acceptors that are ready for a socket.
    pub(crate) ready: usize,
    pub(crate) aside: usize,
    /// Of these, by acceptors that are ready for a socket.
    pub(crate) promised: usize,
    /// Of these, by rejections that ended, until when.
    pub(crate) cooling: BinaryHeap<Reverse<Instant>>,
    pub(crate) upgraded: usize,

    pub(crate) members: Slab<Member>,
    /// The connections with a permit: those that were idle when last seen, by since when, and those that
    /// were busy, by when that was.
    pub(crate) idle: Roll,
    pub(crate) busy: Roll,
    pub(crate) clients: HashMap<Client, BTreeSet<usize>>,
    /// Newcomers in the reserve that wait for a permit, the first first.
    pub(crate) anteroom: VecDeque<usize>,
    /// Who is in the reserve on the way out.
    pub(crate) leaving: BTreeSet<usize>,
    /// Acceptors that wait, by whom, so that asking twice does not wait twice.
    pub(crate) acceptors: HashMap<AcceptorId, Waker>,
    pub(crate) next_acceptor: u64,

    pub(crate) rejected: Tally<Reason>,
    pub(crate) evicted: u64,
    pub(crate) departed: u64,
    pub(crate) turnover: Turnover,
}

/// Connections by a time that is a lower bound: what happened since is not told, and can only make it
/// later. So the first one is the longest idle of all, if what is known of it is still true.
pub(crate) type Roll = BTreeSet<(Instant, usize)>;

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) line: Arc<Line>,
    pub(crate) standing: Standing,
    pub(crate) accepted: Instant,
    pub(crate) client: Option<Client>,
    /// It counts as one of its client's.
    pub(crate) owned: bool,
    pub(crate) listed: Option<Listed>,
}

/// On which roll a connection is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listed {
    Idle(Instant),
    Busy(Instant),
}

#[derive(Debug)]
pub(crate) enum Standing {
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

/// What a newcomer is told.
#[derive(Debug)]
pub(crate) enum Verdict {
    Serve,
    /// Ask again then, or when told.
    Wait(Instant),
    /// Ask again at once: others wanted the lock meanwhile.
    Again,
    Reject(Reason),
    Reset(Reason),
    /// It was decided before; its seat tells.
    Decided,
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

impl Books {
    pub(crate) fn new(max: usize, reserve: usize) -> Self {
        Self {
            max,
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
            rejected: Tally::default(),
            evicted: 0,
            departed: 0,
            turnover: Turnover::default(),
        }
    }

    pub(crate) fn has_permit(&self) -> bool {
        self.taken < self.max
    }

    pub(crate) fn wait_no_more(&mut self, acceptor: AcceptorId) {
        // A map hashes also to find nothing.
        if !self.acceptors.is_empty() {
            self.acceptors.remove(&acceptor);
        }
    }

    /// Whether accepting has stopped and not enough connections have ended since.
    pub(crate) fn holds_back(&mut self) -> bool {
        self.stopped &= (self.low).is_some_and(|low| self.taken - self.ready > low);
        self.stopped
    }

    /// Gives back the places of rejections that ended long enough ago.
    pub(crate) fn warm_up(&mut self, now: Instant) {
        while self.cooling.peek().is_some_and(|Reverse(at)| *at <= now) {
            self.cooling.pop();
            self.aside -= 1;
        }
    }

    /// Whether a newcomer past the limit would be told something at once. If not, when to ask again.
    pub(crate) fn may_take_aside(
        &mut self,
        settings: &Settings,
        now: Instant,
    ) -> Result<(), Option<Instant>> {
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
    pub(crate) fn decide(&mut self, key: usize, settings: &Settings, now: Instant) -> Verdict {
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
                AtCapacity::Reject => return self.reject(key, settings, Reason::Full, now),
                AtCapacity::Close => return self.reset(key, settings, Reason::Full),
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
        // Who is more patient than that looks at everybody again and again.
        let fresh = match self.patience(newcomer, settings) {
            patience if patience < now => now,
            _ => self.members[newcomer].accepted,
        };
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
    /// of its own. A busy one is looked at if that was before `fresh`, and not before it could be idle for
    /// long enough: once for each newcomer.
    fn oldest(&mut self, min_idle: Duration, now: Instant, fresh: Instant) -> Oldest {
        let rest = min_idle.max(LOOK * u32::try_from(self.busy.len()).unwrap_or(u32::MAX));
        for _ in 0..LOOKS {
            let idle = self.idle.first().copied();
            let due = idle.filter(|(since, _)| *since + min_idle <= now);
            let stale = self.busy.first().filter(|(at, _)| *at < fresh).copied();
            let busy = stale.filter(|(at, _)| *at + rest <= now);
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
                    let idle = idle.map(|(since, _)| since + min_idle);
                    let stale = stale.map(|(at, _)| at + rest);
                    let first = idle.into_iter().chain(stale).min();
                    return first.map_or(Oldest::Nobody, Oldest::NotBefore);
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
        self.leave_line(key);
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
        self.stand_in_line(key);
        Verdict::Wait(until)
    }

    fn again(&mut self, key: usize) -> Verdict {
        self.stand_in_line(key);
        Verdict::Again
    }

    /// Who asks again keeps its place.
    fn stand_in_line(&mut self, key: usize) {
        if !self.anteroom.contains(&key) {
            self.anteroom.push_back(key);
        }
    }

    fn leave_line(&mut self, key: usize) {
        self.anteroom.retain(|waiting| *waiting != key);
    }

    /// Rejects or resets, whichever the settings name. Nobody else must wait for what one client does, so
    /// without a place in the reserve it is a reset.
    fn turn_away(&mut self, key: usize, settings: &Settings, now: Instant) -> Verdict {
        if self.aside > self.reserve || settings.turns_away() == Some(AtCapacity::Close) {
            self.reset(key, settings, Reason::PerClient)
        } else {
            self.reject(key, settings, Reason::PerClient, now)
        }
    }

    fn reject(&mut self, key: usize, settings: &Settings, reason: Reason, now: Instant) -> Verdict {
        let answer = self.rejection(settings, now);
        let answer = match self.members[key].line.seat.handle() {
            Some(handle) => {
                handle.refuse(answer);
                None
            }
            None => Some(answer),
        };
        self.put_out(key, settings, answer, Phase::Rejected);
        self.rejected.count(reason);
        Verdict::Reject(reason)
    }

    fn reset(&mut self, key: usize, settings: &Settings, reason: Reason) -> Verdict {
        self.put_out(key, settings, None, Phase::Reset);
        self.rejected.count(reason);
        Verdict::Reset(reason)
    }

    fn put_out(
        &mut self,
        key: usize,
        settings: &Settings,
        answer: Option<Rejection>,
        phase: Phase,
    ) {
        self.leave_line(key);
        self.disown(key);
        // Past the reserve only one client's own connections are: nobody else waits for them.
        let keeps_its_place = self.aside <= self.reserve;
        let member = &mut self.members[key];
        let until = if keeps_its_place {
            member.accepted + settings.rejection_pause
        } else {
            member.accepted
        };
        member.standing = Standing::TurnedAway { answer, until };
        member.line.seat.tell(phase);
        if phase == Phase::Rejected {
            self.leaving.insert(key);
        }
    }

    pub(crate) fn rejection(&mut self, settings: &Settings, now: Instant) -> Rejection {
        let retry_after = match &settings.retry_after {
            RetryAfter::Fixed(fixed) => *fixed,
            RetryAfter::Turnover(bounds) => {
                let estimate = self
                    .turnover
                    .wait(now, self.departed, self.rejected.total());
                estimate.clamp(*bounds.start(), *bounds.end())
            }
        };
        Rejection::new(retry_after).close()
    }

    /// How many there are of how many that may be, of what a client was turned away for.
    pub(crate) fn reached(&self, reason: Reason, client: Option<&Client>) -> (usize, usize) {
        match reason {
            Reason::Full => (self.taken - self.ready, self.max),
            Reason::PerClient => {
                let own = client.and_then(|client| self.clients.get(client));
                (own.map_or(0, BTreeSet::len), self.max_per_client)
            }
            Reason::Upgraded => (self.upgraded, self.max_upgraded.unwrap_or(usize::MAX)),
        }
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

    pub(crate) fn disown(&mut self, key: usize) {
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

    pub(crate) fn unlist(&mut self, key: usize) {
        match self.members[key].listed.take() {
            Some(Listed::Idle(at)) => self.idle.remove(&(at, key)),
            Some(Listed::Busy(at)) => self.busy.remove(&(at, key)),
            None => false,
        };
    }

    /// Gives free permits to the newcomers that wait, and returns the acceptors to be woken.
    pub(crate) fn settle(&mut self) -> Vec<Waker> {
        while self.taken < self.max {
            // Who waits for one of its client's own connections does not wait for a permit.
            let waits =
                |key: &usize| self.members[*key].owned || self.members[*key].client.is_none();
            let Some(first) = self.anteroom.iter().copied().find(waits) else {
                break;
            };
            self.serve(first);
        }
        self.acceptors.drain().map(|(_, waker)| waker).collect()
    }
}

impl Member {
    /// Since when nothing is under way; `None` while something is. A connection that closes may never get
    /// there (an HTTP/2 client that does not answer a PING), so it makes room like any other.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        match self.line.seat.handle() {
            None => Some(self.accepted),
            Some(handle) if handle.is_aborted() => None,
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

    pub(crate) fn is_upgraded(&self) -> bool {
        self.line
            .seat
            .handle()
            .is_some_and(ConnectionHandle::is_upgraded)
    }
}

//! What all clones of a layer share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;
use tower_connection::{AcceptGate, ConnectionHandle, FOREVER, Throttle};
use tracing::info;

use crate::{
    AdaptiveLifo, Admission, Criticality, Limit, Pressure, Reason, Sample, Shed, Ticket,
    calendar::{Calendar, Promise},
    course::{Course, Step},
    permit::{Permit, Slot, Streams},
    pressure::Gauge,
    probe::{Probe, Probes},
    room::{Entry, Verdict, WaitingRoom},
    shares::Shares,
    shed::Tally,
    slots::{Counts, MOST, Offer, Slots, asked},
};

/// After so many times as long as a request takes, what was full tells little of what is.
const FORGOTTEN: u32 = 4;

/// A run queue that is felt, in nanoseconds: as long as `CoDel`'s target.
const CROWDED: u64 = 5_000_000;

/// After so many seconds in which all were refused, a class is starved, and not unlucky.
const STARVED: u32 = 10;

/// The state of a layer: it belongs to its constructor, as axum calls `layer` for each connection and each route.
pub(crate) struct Core {
    slots: Slots,
    shares: Arc<Shares>,
    streams: Streams,
    calendar: Calendar,
    shed: Tally,
    /// Of who is shed.
    events: Throttle,
    pressure: Gauge,
    law: Option<Box<dyn Limit>>,
    probes: Probes,
    /// How long the run queue was when last looked at, in nanoseconds.
    delay: AtomicU64,
    /// Responses of which the client has not asked for more yet.
    readers: AtomicUsize,
    course: Course,
    made: Instant,
    /// Nanoseconds.
    max_wait: AtomicU64,
    /// Zero is as many as may be in flight.
    max_waiting: AtomicUsize,
    /// How long a slot is held, and how long it takes to the head of a response.
    held: Average,
    served: Average,
    /// Since when a class is refused and nothing else.
    starved: [Starved; 4],
    chance: AtomicU64,
    off: bool,
}

impl Core {
    /// A limit of zero is none.
    pub(crate) fn new(limit: usize, law: Option<Box<dyn Limit>>) -> Self {
        let shares = Arc::new(Shares::new());
        let room = WaitingRoom::new(shares.clone());
        Self {
            slots: Slots::new(limit, room, Box::new(AdaptiveLifo)),
            shares,
            streams: Streams::new(),
            calendar: Calendar::new(),
            shed: Tally::default(),
            events: Throttle::new(10),
            pressure: Gauge::default(),
            law,
            probes: Probes::default(),
            delay: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
            course: Course::new(limit),
            made: Instant::now(),
            max_wait: AtomicU64::new(0),
            max_waiting: AtomicUsize::new(0),
            held: Average::default(),
            served: Average::default(),
            starved: Default::default(),
            chance: AtomicU64::new(seed()),
            off: false,
        }
    }

    /// Of a layer that does nothing.
    pub(crate) fn off() -> Self {
        Self {
            off: true,
            ..Self::new(MOST, None)
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off
    }

    /// Whether there is a limit, and not the number that stands for none.
    pub(crate) fn has_limit(&self) -> bool {
        !self.off && self.counts().limit < MOST
    }

    pub(crate) fn counts(&self) -> Counts {
        self.slots.counts()
    }

    pub(crate) fn shares(&self) -> &Shares {
        &self.shares
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(crate) fn shed_by(&self, reason: Reason, class: Criticality) -> u64 {
        self.shed.of(reason, class)
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        if self.off {
            return;
        }
        self.course.note(limit, || "by hand");
        self.slots.resize(limit);
        self.ease();
    }

    pub(crate) fn set_admission(&self, admission: impl Admission) {
        self.slots.set_admission(Box::new(admission));
    }

    pub(crate) fn set_seed(&self, seed: u64) {
        self.chance.store(seed, Ordering::Relaxed);
    }

    pub(crate) fn max_wait(&self) -> Duration {
        Duration::from_nanos(self.max_wait.load(Ordering::Relaxed))
    }

    pub(crate) fn set_max_wait(&self, max: Duration) {
        let nanoseconds = u64::try_from(max.min(FOREVER).as_nanos()).unwrap_or(u64::MAX);
        self.max_wait.store(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn set_max_waiting(&self, max: usize) {
        self.max_waiting.store(max, Ordering::Relaxed);
    }

    pub(crate) fn pause_accepting(&self, gate: AcceptGate) {
        self.pressure.drive(gate);
    }

    // ## In

    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let taken = self.slots.try_take()
            || self.has_readers() && {
                self.ask_law();
                self.slots.try_take()
            };
        taken.then(|| Slot::new(self.clone()))
    }

    /// A slot that is counted and was not asked for.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        self.slots.take().then(|| Slot::new(self.clone()))
    }

    /// A slot for a request, if one is free for it. Only without a room must slots be kept: who waits goes in order.
    pub(crate) fn take_for(
        self: &Arc<Self>,
        ticket: &Ticket,
        waits: bool,
        now: Instant,
    ) -> Result<Slot, Reason> {
        if waits || !self.shares.keeps() {
            return self.try_take().ok_or(Reason::Full);
        }
        let (limit, second) = (self.counts().limit, self.second(now));
        let enough = |free| self.shares.may_enter(ticket, free, limit, second);
        if self.slots.try_take_if(enough) {
            self.shares.note_admitted(ticket, limit, second);
            Ok(Slot::new(self.clone()))
        } else if self.counts().is_full() {
            Err(Reason::Full)
        } else {
            Err(Reason::Kept)
        }
    }

    pub(crate) fn note_admitted(&self, class: Criticality) {
        self.starved[class.index()].end();
    }

    /// A place in the waiting room until when it may be waited in, or why there is none.
    pub(crate) fn wait(
        self: &Arc<Self>,
        ticket: &Ticket,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<Wait, Reason> {
        let max_wait = self.max_wait();
        if max_wait.is_zero() {
            return Err(Reason::Full);
        }
        let served = self.served.get().unwrap_or_default();
        let mut until = now + max_wait;
        if let Some(deadline) = deadline {
            until = until.min(deadline.checked_sub(served).unwrap_or(now));
        }
        self.press(self.millisecond(now));
        let max = match self.max_waiting.load(Ordering::Relaxed) {
            0 if self.has_law() => self.served_within(max_wait),
            0 => self.counts().limit,
            max => max,
        };
        let in_time = deadline
            .map(|deadline| move |ahead| now + self.wait_behind(ahead) + served <= deadline);
        match self.slots.offer(ticket, max, now, in_time) {
            Offer::Taken => Ok(Wait::Over(Slot::new(self.clone()).permit(ticket, now))),
            Offer::Waits(entry) => Ok(Wait::Waits(Waits {
                core: self.clone(),
                entry,
                ticket: ticket.clone(),
                until,
                ended: false,
            })),
            Offer::Refused => Err(Reason::Full),
            Offer::TooLate => Err(Reason::TooLate),
        }
    }

    // ## Out

    /// A request got its response head after so long.
    pub(crate) fn note_served(&self, took: Duration) {
        self.served.note(took);
    }

    /// A response ended that had its slot for so long.
    pub(crate) fn note_held(&self, held: Duration) {
        self.held.note(held);
    }

    pub(crate) fn give_back(&self) {
        self.slots.give_back();
        if self.pressure.is_pressing() {
            self.ease();
        }
    }

    fn press(&self, millisecond: u64) {
        self.pressure.press(millisecond);
        self.ease(); // the last slot may have come back meanwhile
    }

    fn ease(&self) {
        let counts = self.counts();
        if counts.in_flight * 4 <= counts.limit * 3 && counts.waiting == 0 {
            self.pressure.ease();
        }
    }

    // ## What the law is told

    pub(crate) fn has_law(&self) -> bool {
        self.law.is_some()
    }

    /// A response head, or none.
    pub(crate) fn sample(&self, sample: impl FnOnce(usize) -> Sample) {
        let working = || self.counts().in_flight.saturating_sub(self.readers());
        self.tell_law(|law| law.on_sample(&sample(working().max(1))));
    }

    /// A request found no slot. With a limit of zero there are no responses, and nothing else that a law is told.
    pub(crate) fn note_full(&self, now: Instant) {
        self.tell_law(|law| law.on_full(now));
    }

    /// Looks how long the run queue is, unless nobody asks or somebody has just looked.
    pub(crate) fn probe(self: &Arc<Self>, now: Instant) {
        if self.has_law() && self.probes.begin(self.age(now)) {
            Probe::spawn(self.clone(), now);
        }
    }

    /// A task was not polled for so long.
    pub(crate) fn note_delay(&self, now: Instant, delay: Duration) {
        let nanoseconds = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.delay.store(nanoseconds, Ordering::Relaxed);
        self.tell_law(|law| law.on_delay(now, delay));
    }

    /// Tasks wait for their turn. A handler that does not come back to an `await` is then done before the next request is
    /// even read, and never is there more than one in flight for each worker.
    pub(crate) fn is_crowded(&self) -> bool {
        self.has_law() && self.delay.load(Ordering::Relaxed) >= CROWDED
    }

    /// A client takes its time to read a response.
    pub(crate) fn note_reader(&self) {
        // Relaxed: it is one number, and says nothing of others.
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_reader(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    fn has_readers(&self) -> bool {
        self.has_law() && self.readers() > 0
    }

    pub(crate) fn course(&self) -> Vec<Step> {
        self.course.steps()
    }

    fn ask_law(&self) {
        self.tell_law(|_| ());
    }

    pub(crate) fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Tells it, if there is one, and does what it says. Perhaps in a destructor; see `asked`.
    fn tell_law(&self, tell: impl FnOnce(&dyn Limit)) {
        if let Some(law) = &self.law {
            let limit = asked(|| {
                tell(&**law);
                let limit = law.limit();
                self.course.note(limit, || law.reason());
                Some(limit)
            });
            if let Some(limit) = limit {
                // Who only has to read is let be: others may work meanwhile.
                self.slots.resize(limit.saturating_add(self.readers()));
            }
        }
    }

    // ## What is known

    /// How long a slot is held, on average.
    pub(crate) fn held(&self) -> Option<Duration> {
        self.held.get()
    }

    /// How many slots become free in a second while all are taken (Little's law).
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn rate(&self, counts: Counts) -> Option<f64> {
        let slots = match counts.limit {
            0 => return None,                // nobody knows until when
            MOST => counts.in_flight.max(1), // without a limit, what is in flight is what can be
            limit => limit,
        };
        Some(slots as f64 / self.held()?.as_secs_f64())
    }

    /// How many have their slot within `time`, and never fewer than there are slots: a limit that is found may be small and
    /// quick.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates"
    )]
    fn served_within(&self, time: Duration) -> usize {
        let counts = self.counts();
        let rate = self.rate(counts).unwrap_or_default();
        let served = (rate * time.as_secs_f64()).ceil() as usize;
        served.clamp(counts.limit, MOST)
    }

    /// How long the next one who waits will, if all who wait are served in order.
    pub(crate) fn wait_of(&self, counts: Counts) -> Duration {
        if !counts.is_full() && counts.waiting == 0 {
            return Duration::ZERO;
        }
        self.wait_behind(counts.waiting)
    }

    /// How long it is until so many have had their slot, and one more.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn wait_behind(&self, ahead: usize) -> Duration {
        let Some(rate) = self.rate(self.counts()) else {
            return Duration::ZERO;
        };
        let seconds = (ahead + 1) as f64 / rate;
        Duration::try_from_secs_f64(seconds).map_or(FOREVER, |wait| wait.min(FOREVER))
    }

    pub(crate) fn pressure(&self) -> Pressure {
        let counts = self.counts();
        #[expect(clippy::cast_precision_loss, reason = "a part")]
        Pressure {
            used: counts.in_flight as f64 / counts.limit.max(1) as f64,
            full_for: self.pressure.full_for(self.millisecond(Instant::now())),
        }
    }

    /// Counts a request that is shed, and says when to come back.
    pub(crate) fn shed(&self, reason: Reason, ticket: &Ticket, now: Instant) -> Shed {
        let counts = self.counts();
        let millisecond = self.millisecond(now);
        let second = u32::try_from(millisecond / 1_000).unwrap_or(u32::MAX - 1);
        self.shed.count(reason, ticket.class);
        let starved = self.starved[ticket.class.index()].note(second);
        if matches!(reason, Reason::Full | Reason::Waited | Reason::Displaced) {
            self.press(millisecond);
            self.shares.note_refused(ticket, counts.limit, second);
        }
        let chance = self.roll();
        let (retry_after, give_up) = if reason == Reason::TooLate {
            (None, false)
        } else {
            let Promise { after, give_up } = self.promise(starved, counts, second, chance);
            (Some(Duration::from_secs(after)), give_up)
        };
        Shed {
            reason,
            class: ticket.class,
            retry_after,
            spread: Duration::from_millis(chance >> 32 & 0x3ff).min(Duration::from_millis(999)),
            give_up,
        }
    }

    /// Says that it was.
    pub(crate) fn tell(&self, shed: &Shed, connection: Option<&ConnectionHandle>) {
        let Some(suppressed) = self.events.pass() else {
            return;
        };
        let counts = self.counts();
        let peer = connection.map(|connection| tracing::field::display(connection.peer()));
        let retry_after = shed.retry_after.map(tracing::field::debug);
        info!(
            peer,
            reason = shed.reason.as_str(),
            class = shed.class.as_str(),
            in_flight = counts.in_flight,
            limit = counts.limit,
            retry_after,
            suppressed,
            "shed a request"
        );
    }

    fn promise(&self, starved: u32, counts: Counts, second: u32, chance: u64) -> Promise {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let unknown = counts.limit.clamp(10, 1_000) as f64;
        let rate = self.rate(counts).unwrap_or(unknown);
        let served = self.served.get().unwrap_or_default();
        let mut earliest = whole_seconds(self.wait_of(counts) + FORGOTTEN * served);
        // A class that is starved is told twice as long as it has been so, up to a minute.
        if starved >= STARVED {
            earliest = earliest.max(u64::from(starved).saturating_mul(2).min(60));
        }
        self.calendar
            .promise(u64::from(second), earliest, rate, chance & 0xffff_ffff)
    }

    /// A number that differs each time (Steele's splitmix).
    fn roll(&self) -> u64 {
        let gamma = 0x9E37_79B9_7F4A_7C15_u64;
        let z = self
            .chance
            .fetch_add(gamma, Ordering::Relaxed)
            .wrapping_add(gamma);
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.made)
    }

    fn second(&self, now: Instant) -> u32 {
        u32::try_from(self.age(now).as_secs()).unwrap_or(u32::MAX - 1)
    }

    fn millisecond(&self, now: Instant) -> u64 {
        u64::try_from(self.age(now).as_millis()).unwrap_or(u64::MAX - 1)
    }
}

/// From which second on a class was refused, until which, both and one; 0 while it was not.
#[derive(Debug, Default)]
struct Starved(AtomicU64);

impl Starved {
    /// One more was refused. For how many seconds now that is all that happened; silence is no refusal.
    #[expect(clippy::cast_possible_truncation, reason = "half of a word")]
    fn note(&self, second: u32) -> u32 {
        let word = self.0.load(Ordering::Relaxed);
        let (mut since, last) = ((word >> 32) as u32, word as u32);
        if word == 0 || second > last.saturating_add(STARVED) {
            since = second + 1;
        }
        self.0.store(
            u64::from(since) << 32 | u64::from(second + 1),
            Ordering::Relaxed,
        );
        (second + 1).saturating_sub(since)
    }

    fn end(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

/// A moving average of times, over about sixteen; nanoseconds, and 0 before the first.
#[derive(Debug, Default)]
struct Average(AtomicU64);

impl Average {
    fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanoseconds => Some(Duration::from_nanos(nanoseconds)),
        }
    }

    /// One that took very long counts for eight times the average: a single client that reads slowly tells little.
    fn note(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let before = self.0.load(Ordering::Relaxed);
        // Of two at once, one counts.
        let average = match before {
            0 => time,
            _ => before - before / 16 + time.min(before.saturating_mul(8)) / 16,
        };
        self.0.store(average.max(1), Ordering::Relaxed);
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        f.debug_struct("Core")
            .field("limit", &counts.limit)
            .field("in_flight", &counts.in_flight)
            .field("waiting", &counts.waiting)
            .field("streams", &self.streams.open())
            .finish_non_exhaustive()
    }
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

/// What a limit of zero means.
pub(crate) fn or_none(limit: usize) -> usize {
    if limit == 0 { MOST } else { limit }
}

/// How a request waits.
#[derive(Debug)]
pub(crate) enum Wait {
    /// It need not.
    Over(Permit),
    Waits(Waits),
}

/// A place in the waiting room. Dropping it leaves the room, and gives back the slot that was handed over meanwhile.
#[derive(Debug)]
pub(crate) struct Waits {
    core: Arc<Core>,
    entry: Entry,
    ticket: Ticket,
    until: Instant,
    ended: bool,
}

impl Waits {
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Whether something was decided; if not, whom to wake then.
    pub(crate) fn is_decided(&self, waker: &Waker) -> bool {
        if self.entry.verdict() == Verdict::None {
            self.core.slots.register(&self.entry, waker);
        }
        self.entry.verdict() != Verdict::None
    }

    /// Waits no longer: what it got, if something was handed over.
    pub(crate) fn end(mut self, now: Instant) -> Result<Permit, Reason> {
        match self.leave() {
            Verdict::Granted => Ok(Slot::new(self.core.clone()).granted(&self.ticket, now)),
            Verdict::Displaced => Err(Reason::Displaced),
            Verdict::None | Verdict::Left => Err(Reason::Waited),
        }
    }

    fn leave(&mut self) -> Verdict {
        self.ended = true;
        let verdict = self.core.slots.leave(&self.entry);
        if self.core.pressure.is_pressing() {
            self.core.ease();
        }
        verdict
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if !self.ended && self.leave() == Verdict::Granted {
            self.core.shares.leave(self.ticket.class, self.ticket.key);
            drop(Slot::new(self.core.clone()));
        }
    }
}

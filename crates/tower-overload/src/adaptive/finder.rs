//! Finds the limit: what was seen in a while in, a limit out. No clock, no lock, no request.

use super::tally::Window;

/// What holds until the next window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) limit: f64,
    pub(crate) reason: &'static str,
    /// What ends within this time of the limit's being kept began under another one, and tells nothing; seconds.
    pub(crate) settle: f64,
    /// Nothing counts that began before the limit was kept. (Only short ones do at first, so it is no fair measure.)
    pub(crate) strict: bool,
    /// How many answers make a window.
    pub(crate) answers: f64,
    /// A mean latency that ends a window early, in seconds.
    pub(crate) alarm: f64,
    /// A latency counts for no more than this, in seconds.
    pub(crate) cap: f64,
    /// Each request that takes less than half the alarm's latency makes the limit one more, while slots are wanted.
    pub(crate) grows: bool,
    /// A window ends after so many seconds though nobody was answered.
    pub(crate) patience: f64,
}

/// Between which the limit is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) floor: f64,
    pub(crate) ceiling: f64,
}

/// How much longer than alone a request may take, in units of the work that a newcomer finds unfinished (1 for
/// exponential times). Less leaves processors idle; more is a queue, and makes nobody faster. In the simulator anything
/// from 0.65 to 1 is about as good.
const TOLERANCE: f64 = 0.85;

/// A probe lowers the limit to this part of what the tolerance makes of the answer: if all of that was queue too, the
/// limit comes out lower than it was. Higher than 1, and it would rise from probe to probe.
const DEPTH: f64 = 0.7;

/// How far apart two limits must be for their latencies to be compared.
const APART: f64 = 1.8;

/// Of a difference in limits, the part that must show in the latency for it to be a queue's.
const QUEUE: f64 = 0.3;

/// A run queue shorter than this is none, in seconds: the target of `DAGOR` (Zhou et al., `SoCC` 2018).
const DELAY: f64 = 0.02;

/// Which part of the responses may say that something is overloaded.
const OVERLOADED: f64 = 0.1;

/// Which part of the clients may leave before they are answered for latency to tell a queue from none.
const IMPATIENT: f64 = 0.1;

/// For how long a sign is not heeded after a lower limit did nothing about it, in seconds.
const IN_VAIN: f64 = 30.0;

/// Which part of the requests must find no slot for it to be more than a burst.
const PRESS: f64 = 0.05;

/// # How it works
///
/// A request takes so long *alone* (what is meant is: with few others), and longer in a queue. The limit is moved so that it
/// takes a little longer than alone: then there is a queue, so that nothing is idle, and it is short. That is Vegas, and
/// TCP's; what goes wrong with it is that nobody knows how long a request takes alone, under load least of all.
///
/// So that is found by experiment. Now and then, and only while requests are turned away, a *probe* lowers the limit for
/// a window: what a request takes then is what it takes alone. If latency fell as much as the limit did, all of it was
/// queue, and nothing was lost. And whenever answers take too long and the limit is lowered for it, it is compared: if
/// they take as long as before, there was no queue; the service has become slower, and the limit goes back.
///
/// Nothing that could drift is remembered: no minimum of a long time (which forgets too early, and is lucky), no
/// average (which follows a queue that grows slowly).
#[derive(Debug)]
pub(crate) struct Finder {
    bounds: Bounds,
    chance: u64,
    limit: f64,
    reason: &'static str,
    phase: Phase,
    /// How long a request takes alone, in seconds, and the square of its coefficient of variation then. Zero is unknown.
    alone: f64,
    varies: f64,
    /// The same square lately, under whatever load.
    variation: f64,
    /// The first answers are of requests that took less than the others: they only tell how long to wait for more.
    first: bool,
    /// The most that were in flight lately.
    most: f64,
    /// Which part of the requests found no slot lately, and for how many windows it was more than a few.
    press: f64,
    pressed: u32,
    /// When to probe next, and how long it was since the last.
    probe: f64,
    gap: f64,
    /// Until when overload within, and the run queue, are not heeded.
    in_vain: [f64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The limit doubles.
    Start,
    Steady,
    /// Answers took too long: the limit is lower, and this was seen at the first lower one.
    Lowering(Option<Seen>),
    /// They took as long at a lower limit, of which this was seen. It is the higher one again, to compare.
    Check(Seen),
    /// The limit is much lower for once; this was seen before.
    Probe(Seen),
    /// There was a sign of overload other than latency, when the limit was this.
    Sparing(Sign, f64),
}

/// At a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    limit: f64,
    latency: f64,
}

impl Seen {
    /// Which part of the difference to a lower limit shows in the latency: one if all of it was queue, zero if none was.
    fn queue(self, lower: Self) -> f64 {
        (self.latency / lower.latency).ln() / (self.limit / lower.limit).ln()
    }
}

/// Overload that need not show in the latency, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sign {
    /// Which part of the responses said so.
    Within(f64),
    /// How long the run queue was, in seconds.
    RunQueue(f64),
}

impl Sign {
    fn much(self) -> f64 {
        match self {
            Self::Within(much) | Self::RunQueue(much) => much,
        }
    }

    fn kind(self) -> usize {
        usize::from(matches!(self, Self::RunQueue(_)))
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Within(_) => "overload within",
            Self::RunQueue(_) => "run queue",
        }
    }
}

impl Finder {
    pub(crate) fn new(bounds: Bounds, start: f64, seed: u64) -> Self {
        Self {
            bounds,
            chance: seed,
            limit: start.clamp(bounds.floor, bounds.ceiling),
            reason: "start",
            phase: Phase::Start,
            alone: 0.0,
            varies: 1.0,
            variation: 1.0,
            first: true,
            most: 0.0,
            press: 0.0,
            pressed: 0,
            probe: 0.0,
            gap: 1.0,
            in_vain: [0.0; 2],
        }
    }

    /// The limit may be more than was decided, if it was to grow.
    pub(crate) fn on(&mut self, window: &Window, limit: f64) -> Decision {
        if self.grows() {
            self.limit = self.limit.max(limit);
        }
        let before = self.limit;
        self.note(window);
        if window.latency == 0.0 {
            self.starve();
        } else if self.alone == 0.0 && self.first {
            self.first = false;
            return self.decision(window.latency);
        } else {
            let seen = Seen {
                limit: self.limit,
                latency: window.latency,
            };
            self.learn(seen, window);
        }
        self.limit = self.limit.clamp(self.bounds.floor, self.bounds.ceiling);
        let by = self.limit / before;
        if by.ln().abs() <= 0.1 {
            self.decision(0.0)
        } else if self.phase == Phase::Start {
            self.decision(window.latency)
        } else {
            // As long as a queue takes that is longer or shorter by as much.
            self.decision(window.latency * by.max(0.5))
        }
    }

    fn note(&mut self, window: &Window) {
        self.most = window.most.max(0.9 * self.most);
        let press = window.full / (window.full + window.answers).max(1.0);
        self.press += 0.2 * (press - self.press);
        self.pressed = if press > PRESS { self.pressed + 1 } else { 0 };
        if window.latency > 0.0 {
            self.variation += 0.2 * (window.variation.clamp(0.05, 20.0) - self.variation);
        }
    }

    fn learn(&mut self, seen: Seen, window: &Window) {
        if self.alone == 0.0 {
            self.alone = seen.latency;
            self.varies = window.variation.min(10.0);
        }
        match self.phase {
            Phase::Start | Phase::Steady => match self.sign(window) {
                Some(sign) => {
                    self.phase = Phase::Sparing(sign, self.limit);
                    self.spare(sign);
                }
                None => self.steady(seen, window),
            },
            Phase::Lowering(first) => self.lower(first, seen, window),
            Phase::Check(low) => self.check(low, seen, window),
            Phase::Probe(before) => self.end_probe(before, seen, window),
            Phase::Sparing(sign, at) => self.look_again(sign, at, seen, window),
        }
    }

    /// Nobody was answered. If that is because of a limit that was to be tried, it is tried no more: slots may be held
    /// by responses that are read slowly.
    fn starve(&mut self) {
        if let Phase::Probe(before) | Phase::Lowering(Some(before)) = self.phase {
            self.gap = (self.gap * 2.0).min(16.0);
            self.set(before.limit, "nobody answered");
        }
        if !matches!(self.phase, Phase::Start) {
            self.phase = Phase::Steady;
        }
    }

    // ## Steady => (Steady | Lowering | Probe)

    fn steady(&mut self, seen: Seen, window: &Window) {
        let target = self.target();
        if window.full == 0.0 {
            return self.idle(seen);
        }
        if seen.latency > target {
            if self.press < PRESS && seen.latency < 2.0 * target {
                let burst = (1.1 * self.limit).min(self.enough());
                return self.set(burst.max(self.limit), "burst");
            }
            self.phase = Phase::Lowering(None);
            return self.cut(seen);
        }
        if seen.latency < 0.75 * self.alone {
            self.alone += 0.5 * (seen.latency - self.alone);
        }
        let room = (target / seen.latency).min(2.0);
        if self.phase == Phase::Start && room > 1.2 {
            return self.set(self.limit, "slow start"); // it doubles by itself
        }
        self.phase = Phase::Steady;
        if self.pressed >= 2 && window.now >= self.probe && self.limit > 1.3 * self.bounds.floor {
            self.phase = Phase::Probe(seen);
            return self.set(self.limit * DEPTH / self.tolerance(), "probe");
        }
        if window.delay > self.delay() / 2.0 && window.now >= self.in_vain[1] {
            return; // there is no room in the run queue
        }
        let room = if room < 1.5 { room.sqrt() } else { room };
        self.set(self.limit * room, "room");
    }

    /// The limit bound nobody.
    fn idle(&mut self, seen: Seen) {
        if seen.latency < self.alone {
            self.alone += 0.2 * (seen.latency - self.alone);
        }
        let enough = self.enough();
        if self.limit > enough {
            self.set((0.9 * self.limit).max(enough), "idle");
        }
    }

    /// More than this would be a guess.
    fn enough(&self) -> f64 {
        (2.0 * self.most).max(4.0 * self.bounds.floor)
    }

    // ## Lowering => (Lowering | Check | Steady)

    fn cut(&mut self, seen: Seen) {
        let by = self.target() / seen.latency;
        let by = if by < 0.67 {
            by.max(0.5)
        } else {
            by.min(1.0).sqrt()
        };
        self.set(self.limit * by, "latency");
        if seen.limit <= self.bounds.floor {
            // With as few as may be, so long is how long a request takes.
            self.alone = seen.latency;
            self.phase = Phase::Steady;
        }
    }

    fn lower(&mut self, first: Option<Seen>, seen: Seen, window: &Window) {
        if seen.latency <= 1.1 * self.target() || window.full == 0.0 {
            self.phase = Phase::Steady;
            return self.steady(seen, window);
        }
        match first {
            None => self.phase = Phase::Lowering(Some(seen)),
            Some(first) if first.limit > APART * seen.limit => {
                if first.queue(seen) < QUEUE {
                    self.phase = Phase::Check(seen);
                    return self.set(first.limit, "check");
                }
                self.phase = Phase::Lowering(Some(seen));
            }
            Some(_) => {}
        }
        self.cut(seen);
    }

    // ## Check => (Steady | Lowering)

    fn check(&mut self, low: Seen, seen: Seen, window: &Window) {
        // Where clients do not wait any longer, latency does not grow any more.
        let leave = window.cancelled > IMPATIENT * (window.cancelled + window.answers);
        if seen.queue(low) < QUEUE && !leave {
            self.phase = Phase::Steady;
            self.alone = low.latency.min(seen.latency);
            self.gap = 1.0;
            self.probe = window.now + self.gap;
            self.set(seen.limit, "slower service");
        } else {
            self.phase = Phase::Lowering(Some(seen));
            self.set(low.limit, "latency");
        }
    }

    // ## Probe => Steady

    fn end_probe(&mut self, before: Seen, seen: Seen, window: &Window) {
        self.phase = Phase::Steady;
        self.varies += 0.5 * (window.variation.min(10.0) - self.varies);
        if (0.67..=1.5).contains(&(seen.latency / self.alone)) {
            self.alone += 0.5 * (seen.latency - self.alone);
            self.gap = (self.gap * 2.0).min(16.0);
        } else {
            self.alone = seen.latency;
            self.gap = 1.0;
        }
        if before.queue(seen) > 0.9 {
            // All was queue, so some of what is left is, too.
            self.alone = seen.latency / self.tolerance().sqrt();
            self.probe = window.now + 4.0 * window.seconds;
            self.set((before.limit * seen.limit).sqrt(), "probe kept");
        } else {
            // By chance, so that a fleet that was started at once does not probe at once.
            let chance = 0.75 + 0.5 * self.part();
            self.probe = window.now + (self.gap + 20.0 * window.seconds) * chance;
            let by = (self.target() / before.latency).clamp(0.5, 1.0);
            self.set(by * before.limit, "probe ended");
        }
    }

    // ## Sparing => (Sparing | Steady)

    fn sign(&self, window: &Window) -> Option<Sign> {
        if 2.0 * window.most < self.limit {
            return None; // a lower limit would bind nobody
        }
        let within = window.overloaded / (window.overloaded + window.answers).max(1.0);
        let within = (within > OVERLOADED).then_some(Sign::Within(within));
        let queue = (window.delay > self.delay()).then_some(Sign::RunQueue(window.delay));
        let heeded = |sign: &Sign| window.now >= self.in_vain[sign.kind()];
        within.filter(heeded).or(queue.filter(heeded))
    }

    /// How long the run queue may be, in seconds: as long as the rest of what a request may take.
    fn delay(&self) -> f64 {
        DELAY.max(self.target() - self.alone)
    }

    fn spare(&mut self, sign: Sign) {
        let by = match sign {
            Sign::Within(_) => 0.75,
            Sign::RunQueue(delay) => (self.delay() / delay).clamp(0.5, 0.9),
        };
        self.set(self.limit * by, sign.reason());
    }

    fn look_again(&mut self, sign: Sign, at: f64, seen: Seen, window: &Window) {
        let now = self.sign(window);
        let now = now.filter(|now| now.kind() == sign.kind());
        match now {
            None => {
                self.phase = Phase::Steady;
                self.steady(seen, window);
            }
            Some(now) if at > APART * self.limit && now.much() > 0.75 * sign.much() => {
                self.phase = Phase::Steady;
                self.in_vain[sign.kind()] = window.now + IN_VAIN;
                self.set(at, "in vain");
            }
            Some(now) => {
                if at > APART * self.limit {
                    self.phase = Phase::Sparing(now, self.limit);
                }
                self.spare(now);
            }
        }
    }

    // ## What is known

    /// The work that a newcomer finds unfinished grows with the square of the variation (Pollaczek and Khinchine).
    fn tolerance(&self) -> f64 {
        1.0 + TOLERANCE * (1.0 + self.varies) / 2.0
    }

    fn target(&self) -> f64 {
        self.tolerance() * self.alone
    }

    fn set(&mut self, limit: f64, reason: &'static str) {
        self.limit = limit;
        self.reason = reason;
    }

    fn grows(&self) -> bool {
        self.phase == Phase::Start && self.alone > 0.0
    }

    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    pub(crate) fn decision(&self, settle: f64) -> Decision {
        let unknown = self.alone == 0.0;
        let compares = matches!(self.phase, Phase::Check(_) | Phase::Probe(_));
        // So many that their mean is off by an eighth, and no more.
        let answers = (64.0 * self.variation).clamp(24.0, 512.0);
        Decision {
            limit: self.limit,
            reason: self.reason,
            settle,
            strict: matches!(self.phase, Phase::Lowering(_)),
            answers: match self.phase {
                Phase::Start if self.first => 8.0,
                Phase::Start => 16.0,
                Phase::Probe(_) => 2.0 * answers,
                _ => answers,
            },
            alarm: if unknown || compares {
                f64::INFINITY
            } else {
                2.0 * self.target()
            },
            grows: self.grows(),
            cap: if unknown {
                f64::INFINITY
            } else {
                20.0 * self.alone
            },
            patience: 1.0 + 10.0 * self.target(),
        }
    }

    /// By chance, from zero to one (Steele's splitmix).
    #[expect(clippy::cast_precision_loss, reason = "52 bits")]
    fn part(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.chance;
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 12) as f64 / (1u64 << 52) as f64
    }
}

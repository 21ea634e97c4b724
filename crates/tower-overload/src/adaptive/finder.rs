//! Finds the limit: a window of what was seen in, a limit out. No clock, no lock.

/// What was seen in a while.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    /// When it ended, and how long it was, in seconds.
    pub(crate) now: f64,
    pub(crate) seconds: f64,
    /// Responses that tell how long one takes, their mean in seconds, and the square of its coefficient of variation.
    pub(crate) answers: f64,
    pub(crate) latency: f64,
    pub(crate) variation: f64,
    /// Clients that left before, and responses that said that something is overloaded.
    pub(crate) cancelled: f64,
    pub(crate) overloaded: f64,
    /// Requests that found no slot.
    pub(crate) full: f64,
    /// The most that were in flight.
    pub(crate) most: f64,
    /// How long a task that could run was not polled, on average, in seconds.
    pub(crate) delay: f64,
}

/// What to look for next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) limit: f64,
    pub(crate) reason: &'static str,
    /// Nothing is counted for so long, in seconds: what ends by then began before the limit was what it is.
    pub(crate) settle: f64,
    /// How many answers make a window.
    pub(crate) answers: f64,
    /// A latency that ends a window early, in seconds.
    pub(crate) alarm: f64,
    /// Counts for no more than this, in seconds.
    pub(crate) cap: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) floor: f64,
    pub(crate) ceiling: f64,
}

/// How much longer than alone a request may take, in terms of the work that a newcomer finds unfinished: less leaves
/// processors idle, more is a queue and nothing else.
const TOLERANCE: f64 = 0.85;
/// By how much a probe lowers the limit.
const DEPTH: f64 = 0.4;
/// A queue shorter than this is none, in seconds.
const DELAY: f64 = 0.02;

#[derive(Debug)]
pub(crate) struct Finder {
    bounds: Bounds,
    chance: u64,
    limit: f64,
    reason: &'static str,
    /// How long a request takes when few are in flight, in seconds; 0 before the first window.
    alone: f64,
    /// Then, and lately: the square of its coefficient of variation.
    varies: f64,
    variation: f64,
    /// The most that were in flight lately.
    most: f64,
    phase: Phase,
    /// When to probe next, and how long after that again.
    probe: f64,
    gap: f64,
    pressed: u32,
    begun: bool,
    /// Which part of the requests found no slot lately.
    press: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Start,
    Steady,
    /// The limit was lowered as answers took too long; what was seen at the first lower one.
    Lowering(Option<Seen>),
    /// A lower limit, of which this was seen, did not seem to help: it is as before for once, to compare.
    Check(Seen),
    Probe(Seen),
}

/// At a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    limit: f64,
    latency: f64,
    rate: f64,
}

impl Seen {
    /// Which part of a lower limit shows in the latency: all of it if there is a queue, nothing if there is none.
    fn queue(self, lower: Self) -> f64 {
        (self.latency / lower.latency).ln() / (self.limit / lower.limit).ln()
    }
}

impl Finder {
    pub(crate) fn new(bounds: Bounds, start: f64, seed: u64) -> Self {
        Self {
            bounds,
            chance: seed,
            limit: start.clamp(bounds.floor, bounds.ceiling),
            reason: "start",
            alone: 0.0,
            varies: 1.0,
            variation: 1.0,
            most: 0.0,
            phase: Phase::Start,
            probe: 0.0,
            gap: 1.0,
            pressed: 0,
            begun: false,
            press: 0.0,
        }
    }

    pub(crate) fn first(&self) -> Decision {
        self.decision(0.0)
    }

    pub(crate) fn on(&mut self, window: &Window) -> Decision {
        let before = self.limit;
        self.variation += 0.2 * (window.variation.clamp(0.05, 20.0) - self.variation);
        self.pressed = if window.full > 0.05 * window.answers {
            self.pressed + 1
        } else {
            0
        };
        let press = window.full / (window.full + window.answers).max(1.0);
        self.press += 0.2 * (press - self.press);
        let seen = Seen {
            limit: self.limit,
            latency: window.latency,
            rate: window.answers / window.seconds.max(1e-9),
        };
        if self.alone == 0.0 {
            if !self.begun {
                // The first answers are of requests that took less than the others.
                self.begun = true;
                return self.decision(window.latency);
            }
            self.alone = window.latency;
            self.varies = window.variation.clamp(0.0, 10.0);
        }
        self.most = window.most.max(0.9 * self.most);
        match self.phase {
            Phase::Probe(before) => self.after_probe(before, seen, window),
            Phase::Check(low) => self.check(low, seen, window),
            Phase::Lowering(clean) => self.lower(clean, seen, window),
            Phase::Start | Phase::Steady => self.steady(seen, window),
        }
        self.limit = self.limit.clamp(self.bounds.floor, self.bounds.ceiling);
        let moved = (self.limit / before).ln().abs() > 0.1;
        let more = if self.phase == Phase::Start { 1.0 } else { self.limit / before };
        self.decision(if moved { window.latency * more.max(0.5) } else { 0.0 })
    }

    fn steady(&mut self, seen: Seen, window: &Window) {
        let target = self.target();
        let limited = window.full > 0.0;
        if !limited {
            if seen.latency < self.alone {
                self.alone += 0.2 * (seen.latency - self.alone);
            }
            let most = (2.0 * self.most).max(2.0 * self.bounds.floor);
            if self.limit > most {
                self.set((self.limit * 0.9).max(most), "idle");
            }
            return;
        }
        if seen.latency > target {
            if self.press < 0.05 && seen.latency < 2.0 * target {
                let most = (2.0 * self.most).max(2.0 * self.bounds.floor);
                return self.set((1.1 * self.limit).min(most).max(self.limit), "burst");
            }
            self.phase = Phase::Lowering(None);
            return self.cut(seen);
        }
        if seen.latency < 0.75 * self.alone {
            self.alone += 0.5 * (seen.latency - self.alone);
        }
        let room = (target / seen.latency).min(2.0);
        if self.phase == Phase::Start && room > 1.2 {
            return self.set(self.limit * 2.0, "slow start");
        }
        self.phase = Phase::Steady;
        if self.pressed >= 2 && window.now >= self.probe && self.limit > 1.3 * self.bounds.floor {
            self.phase = Phase::Probe(seen);
            return self.set(self.limit * DEPTH, "probe");
        }
        let room = if room < 1.5 { room.sqrt() } else { room };
        self.set(self.limit * room, "room");
    }

    fn cut(&mut self, seen: Seen) {
        let factor = self.target() / seen.latency;
        let factor = if factor < 0.67 { factor.max(0.5) } else { factor.min(1.0).sqrt() };
        self.set(self.limit * factor, "latency");
        // As few as may be: so long is how long a request takes.
        if seen.limit <= self.bounds.floor {
            self.alone = seen.latency;
            self.phase = Phase::Steady;
        }
    }

    fn lower(&mut self, clean: Option<Seen>, seen: Seen, window: &Window) {
        if seen.latency <= 1.1 * self.target() || window.full == 0.0 {
            self.phase = Phase::Steady;
            return self.steady(seen, window);
        }
        match clean {
            Some(before) if before.limit > 1.8 * seen.limit => {
                if before.queue(seen) < 0.4 {
                    self.phase = Phase::Check(seen);
                    return self.set(before.limit, "check");
                }
                self.phase = Phase::Lowering(Some(seen));
            }
            Some(_) => {}
            None => self.phase = Phase::Lowering(Some(seen)),
        }
        self.cut(seen);
    }

    fn check(&mut self, low: Seen, seen: Seen, window: &Window) {
        if seen.queue(low) < 0.4 {
            self.alone = low.latency.min(seen.latency);
            self.phase = Phase::Steady;
            self.probe = window.now + 1.0;
            self.gap = 1.0;
            return self.set(seen.limit, "slower service");
        }
        self.phase = Phase::Lowering(Some(seen));
        self.set(low.limit, "latency");
    }

    fn after_probe(&mut self, before: Seen, seen: Seen, window: &Window) {
        self.phase = Phase::Steady;
        let alone = seen.latency;
        self.varies += 0.5 * (window.variation.clamp(0.0, 10.0) - self.varies);
        if alone < 0.67 * self.alone || alone > 1.5 * self.alone {
            self.alone = alone;
            self.gap = 1.0;
        } else {
            self.alone += 0.5 * (alone - self.alone);
            self.gap = (self.gap * 2.0).min(16.0);
        }
        let jitter = 0.75 + 0.5 * self.part();
        self.probe = window.now + (self.gap + 20.0 * window.seconds) * jitter;
        let queue = before.queue(seen);
        if queue > 0.9 {
            // Nothing was lost by it, and perhaps nothing would be by another.
            self.alone = seen.latency / self.tolerance().sqrt();
            self.probe = window.now + 4.0 * window.seconds;
            self.set((before.limit * seen.limit).sqrt(), "probe kept");
        } else {
            self.set(
                (self.target() / before.latency).clamp(0.5, 1.0) * before.limit,
                "probe ended",
            );
        }
    }

    /// As Pollaczek and Khinchine have it: what a newcomer waits for grows with the square of the variation.
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

    fn decision(&self, settle: f64) -> Decision {
        let answers = if self.phase == Phase::Start {
            16.0
        } else {
            let probe = if matches!(self.phase, Phase::Probe(_)) { 2.0 } else { 1.0 };
            probe * (64.0 * self.variation).clamp(24.0, 512.0)
        };
        let alone = if self.alone == 0.0 {
            f64::INFINITY
        } else {
            self.alone
        };
        Decision {
            limit: self.limit,
            reason: self.reason,
            settle,
            answers,
            alarm: if matches!(self.phase, Phase::Check(_) | Phase::Probe(_)) {
                f64::INFINITY
            } else {
                2.0 * self.tolerance() * alone
            },
            cap: 20.0 * alone,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "52 bits")]
    fn part(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.chance;
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 12) as f64 / (1u64 << 52) as f64
    }
}

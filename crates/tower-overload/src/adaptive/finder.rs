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

/// By how much the target must be missed for it to be missed.
const ABOVE: f64 = 1.1;

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
            match self.sign(window) {
                // Nobody was served, and all were answered.
                Some(sign) => {
                    if !matches!(self.phase, Phase::Sparing(..)) {
                        self.phase = Phase::Sparing(sign, self.limit);
                    }
                    self.spare(sign);
                }
                None => self.starve(),
            }
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
        if seen.latency > ABOVE * target {
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
        if seen.latency <= ABOVE * self.target() || window.full == 0.0 {
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
        // From near the floor no limit is so much lower.
        let compares = at > APART * self.limit || self.limit <= self.bounds.floor;
        match now {
            None => {
                self.phase = Phase::Steady;
                self.steady(seen, window);
            }
            Some(now) if compares && now.much() > 0.75 * sign.much() => {
                self.phase = Phase::Steady;
                self.in_vain[sign.kind()] = window.now + IN_VAIN;
                self.set(at, "in vain");
            }
            Some(now) => {
                if compares {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that does so many requests at once, each in so long; more than that queue.
    #[derive(Clone, Debug)]
    struct Service {
        /// In seconds.
        alone: f64,
        at_once: f64,
        /// How much is asked for, of what it can do.
        load: f64,
        /// By which part of itself a mean deviates by chance.
        noise: f64,
        variation: f64,
        /// A run queue, in seconds, for each request in flight.
        delay: f64,
        /// Which part of the responses says that something is overloaded, with so many in flight.
        overloaded: fn(f64) -> f64,
        now: f64,
        chance: u64,
    }

    fn service() -> Service {
        Service {
            alone: 0.05,
            at_once: 64.0,
            load: 2.0,
            noise: 0.0,
            variation: 1.0,
            delay: 0.0,
            overloaded: |_| 0.0,
            now: 0.0,
            chance: 7,
        }
    }

    /// As many in flight as it should be led to: as long as that part more is what a request finds before it.
    fn right(service: &Service) -> f64 {
        service.at_once * (1.0 + TOLERANCE * (1.0 + service.variation) / 2.0)
    }

    impl Service {
        /// Any number (Marsaglia's xorshift).
        fn roll(&mut self) -> u32 {
            self.chance ^= self.chance << 13;
            self.chance ^= self.chance >> 7;
            self.chance ^= self.chance << 17;
            u32::try_from(self.chance >> 32).expect("a half")
        }

        /// From zero to one.
        fn part(&mut self) -> f64 {
            f64::from(self.roll()) / f64::from(u32::MAX)
        }

        /// What is seen until there are enough answers.
        fn window(&mut self, decision: &Decision) -> Window {
            self.now += decision.settle;
            let asked = self.load * self.at_once / self.alone;
            let most = decision.limit.min(self.at_once) / self.alone;
            let (rate, in_flight) = if asked <= most {
                (asked, asked * self.alone)
            } else {
                (most, decision.limit)
            };
            let normal = 2.0 * (self.part() + self.part() + self.part() - 1.5);
            let latency = self.alone * (in_flight / self.at_once).max(1.0);
            let least = if decision.answers > 16.0 { 0.1 } else { 0.02 };
            let seconds = (decision.answers / rate).max(least);
            self.now += seconds;
            let overloaded = rate * seconds * (self.overloaded)(in_flight);
            Window {
                now: self.now,
                seconds,
                answers: rate * seconds - overloaded,
                latency: latency * (self.noise * normal).exp(),
                variation: self.variation,
                cancelled: 0.0,
                overloaded,
                full: (asked - rate) * seconds,
                most: in_flight,
                delay: self.delay * in_flight,
            }
        }

        fn lead(&mut self, finder: &mut Finder, windows: usize) -> Vec<Decision> {
            let mut decision = finder.decision(0.0);
            let mut lead = || {
                let window = self.window(&decision);
                // Each that was quick has made it one more.
                let grows =
                    decision.grows && window.full > 0.0 && window.latency < decision.alarm / 2.0;
                let more = if grows { window.answers } else { 0.0 };
                let limit = (decision.limit + more).min(finder.bounds.ceiling);
                decision = finder.on(&window, limit);
                decision
            };
            (0..windows).map(|_| lead()).collect()
        }
    }

    const BOUNDS: Bounds = Bounds {
        floor: 4.0,
        ceiling: 10_000.0,
    };

    fn finder(start: f64) -> Finder {
        Finder::new(BOUNDS, start, 3)
    }

    fn mean(course: &[Decision]) -> f64 {
        let limits: f64 = course.iter().map(|decision| decision.limit).sum();
        limits / f64::from(u32::try_from(course.len()).expect("a few"))
    }

    fn count(course: &[Decision], reason: &str) -> usize {
        course.iter().filter(|said| said.reason == reason).count()
    }

    /// One that has found its limit.
    fn found(service: &mut Service) -> Finder {
        let mut finder = finder(16.0);
        service.lead(&mut finder, 200);
        finder
    }

    fn tell(finder: &mut Finder, window: &Window) -> Decision {
        finder.on(window, 0.0)
    }

    #[track_caller]
    fn assert_near(is: f64, should: f64, part: f64) {
        assert!((is / should - 1.0).abs() <= part, "{is} is not {should}");
    }

    #[track_caller]
    fn assert_same(is: f64, should: f64) {
        assert_near(is, should, 1e-9);
    }

    // ## Start

    #[test]
    fn at_first_the_limit_grows_until_answers_take_longer() {
        let mut service = service();
        let mut finder = finder(4.0);
        let course = service.lead(&mut finder, 100);
        let grew: Vec<_> = course[1..].iter().take_while(|said| said.grows).collect();
        for two in grew.windows(2) {
            assert!(two[1].limit > two[0].limit, "{grew:?}");
        }
        let last = grew.last().expect("it grew").limit;
        assert!((64.0..2.0 * right(&service)).contains(&last), "{last}");
        assert!(
            course[1 + grew.len()..].iter().all(|said| !said.grows),
            "never again"
        );
    }

    #[test]
    fn a_limit_that_grew_counts_only_while_it_may_grow() {
        let mut service = service();
        let mut finder = finder(4.0);
        let decision = service.lead(&mut finder, 2)[1];
        assert!(decision.grows);
        let window = service.window(&decision);
        assert_same(finder.on(&window, 20.0).limit, 20.0);
        let mut finder = found(&mut service);
        let window = service.window(&finder.decision(0.0));
        assert!(finder.on(&window, 9_000.0).limit < 200.0);
    }

    #[test]
    fn the_first_answers_only_tell_how_long_to_wait_for_more() {
        let mut service = service();
        let mut finder = finder(4.0);
        let course = service.lead(&mut finder, 2);
        assert_same(course[0].limit, 4.0);
        assert_same(course[0].settle, 0.05);
        assert!(course[0].cap.is_infinite() && course[0].alarm.is_infinite());
        assert!(!course[0].grows && course[1].grows);
        assert!(course[1].cap.is_finite() && course[1].alarm.is_finite());
    }

    #[test]
    fn without_load_it_does_not_double() {
        let mut service = service();
        service.load = 0.03;
        let mut finder = finder(8.0);
        let course = service.lead(&mut finder, 50);
        assert!(course.iter().all(|decision| decision.limit <= 8.0));
        service.load = 2.0;
        service.lead(&mut finder, 20);
        assert!(finder.limit > 64.0, "then it does: {}", finder.limit);
    }

    // ## The limit that it finds

    #[test]
    fn it_is_the_same_whatever_it_starts_from() {
        for start in [4.0, 40.0, 400.0, 4_000.0] {
            for load in [1.2, 2.0, 10.0] {
                let mut service = service();
                service.noise = 0.1;
                service.load = load;
                let mut finder = finder(start);
                service.lead(&mut finder, 1_000);
                let limit = mean(&service.lead(&mut finder, 1_000));
                assert_near(limit, right(&service), 0.2);
            }
        }
    }

    // Pollaczek and Khinchine: what a newcomer finds before it grows with the square of the variation.
    #[test]
    fn it_is_higher_if_requests_vary_more() {
        let mut last = 0.0;
        for variation in [0.0, 1.0, 3.0] {
            let mut service = service();
            service.variation = variation;
            let mut finder = found(&mut service);
            let limit = mean(&service.lead(&mut finder, 200));
            assert_near(limit, right(&service), 0.15);
            assert!(limit > 1.2 * last, "{limit} is not above {last}");
            last = limit;
        }
    }

    #[test]
    fn what_varies_without_end_is_let_in_with_an_end() {
        let mut service = service();
        service.variation = 1e9;
        let mut finder = found(&mut service);
        assert!(finder.tolerance() < 6.0, "{}", finder.tolerance());
        let last = service.lead(&mut finder, 1)[0];
        assert!(last.answers <= 1_024.0, "{}", last.answers);
    }

    #[test]
    fn it_does_not_drift_in_ten_thousand_windows() {
        for noise in [0.0, 0.1, 0.2] {
            let mut service = service();
            service.noise = noise;
            let mut finder = found(&mut service);
            let course = service.lead(&mut finder, 10_000);
            let tenths: Vec<_> = course.chunks(1_000).map(mean).collect();
            let all = mean(&course);
            assert_near(all, right(&service), 0.15);
            for tenth in &tenths {
                assert_near(*tenth, all, 0.3);
            }
        }
    }

    // ## What changes

    #[test]
    fn a_queue_is_not_taken_for_a_slower_service() {
        for noise in [0.0, 0.1] {
            let mut service = service();
            service.noise = noise;
            let mut finder = found(&mut service);
            service.at_once /= 3.0;
            let course = service.lead(&mut finder, 20);
            assert_eq!(count(&course, "slower service"), 0);
            let limit = mean(&service.lead(&mut finder, 200));
            assert_near(limit, right(&service), 0.25);
        }
    }

    // As when what it calls takes thrice as long: as many more may be in flight.
    #[test]
    fn a_slower_service_is_not_taken_for_a_queue() {
        for noise in [0.0, 0.1] {
            let mut service = service();
            service.noise = noise;
            let mut finder = found(&mut service);
            service.alone *= 3.0;
            service.at_once *= 3.0;
            let course = service.lead(&mut finder, 12);
            let told = course
                .iter()
                .position(|said| said.reason == "slower service");
            let told = told.expect("it is told");
            assert!(course[told].limit > 64.0, "it goes back: {course:?}");
            service.lead(&mut finder, 100);
            let limit = mean(&service.lead(&mut finder, 200));
            assert_near(limit, right(&service), 0.25);
        }
    }

    #[test]
    fn what_looks_like_a_slower_service_is_compared_at_the_limit_that_was() {
        let low = Seen {
            limit: 50.0,
            latency: 0.3,
        };
        for (latency, reason, limit) in [(0.33, "slower service", 100.0), (0.6, "latency", 50.0)] {
            let mut service = service();
            let mut finder = found(&mut service);
            (finder.phase, finder.limit) = (Phase::Check(low), 100.0);
            let mut window = service.window(&finder.decision(0.0));
            window.latency = latency;
            let decision = tell(&mut finder, &window);
            assert_eq!(decision.reason, reason);
            assert_same(decision.limit, limit);
        }
    }

    #[test]
    fn more_capacity_is_found_and_less_too() {
        let mut service = service();
        service.noise = 0.1;
        let mut finder = found(&mut service);
        for at_once in [256.0, 32.0, 128.0] {
            service.at_once = at_once;
            service.lead(&mut finder, 60);
            let limit = mean(&service.lead(&mut finder, 100));
            assert_near(limit, right(&service), 0.25);
        }
    }

    // ## Probes

    #[test]
    fn a_probe_lowers_the_limit_for_one_window_and_ends_where_it_was() {
        let mut service = service();
        let mut finder = found(&mut service);
        let course = service.lead(&mut finder, 200);
        assert!(count(&course, "probe") > 0);
        for three in course.windows(3).filter(|three| three[1].reason == "probe") {
            let part = three[1].limit / three[0].limit;
            assert!((0.2..0.6).contains(&part), "{part}");
            assert_eq!(three[2].reason, "probe ended");
            assert_near(three[2].limit, three[0].limit, 0.02);
        }
    }

    #[test]
    fn who_is_not_limited_is_not_probed() {
        let mut service = service();
        let mut finder = found(&mut service);
        service.load = 0.9;
        service.lead(&mut finder, 1);
        let course = service.lead(&mut finder, 1_000);
        assert_eq!(count(&course, "probe"), 0);
        service.load = 1.0 / 0.9;
        let course = service.lead(&mut finder, 400);
        assert!(count(&course, "probe") > 0);
    }

    #[test]
    fn a_probe_is_due_once_twice_more_than_a_few_found_no_slot() {
        for (full, reasons) in [(0.049, ["room", "room"]), (0.051, ["room", "probe"])] {
            let mut service = service();
            let mut finder = found(&mut service);
            (finder.phase, finder.pressed, finder.probe) = (Phase::Steady, 0, 0.0);
            for reason in reasons {
                let mut window = service.window(&finder.decision(0.0));
                window.latency = 0.9 * finder.target();
                window.full = full / (1.0 - full) * window.answers;
                assert_eq!(tell(&mut finder, &window).reason, reason, "{full}");
            }
        }
    }

    #[test]
    fn what_a_request_takes_alone_follows_the_probes_up_and_down() {
        for part in [0.5, 0.8, 1.25, 2.0] {
            let mut service = service();
            let mut finder = found(&mut service);
            let (alone, latency) = (finder.alone, part * finder.alone);
            let before = Seen {
                limit: finder.limit,
                latency: 1.2 * latency,
            };
            (finder.phase, finder.limit) = (Phase::Probe(before), DEPTH * finder.limit);
            let mut window = service.window(&finder.decision(0.0));
            window.latency = latency;
            tell(&mut finder, &window);
            let moved = (finder.alone - alone) / (latency - alone);
            assert!((0.3..=1.0).contains(&moved), "{part}: {moved}");
        }
    }

    #[test]
    fn near_the_floor_there_is_no_probe() {
        for (ceiling, probes) in [(52.0, false), (53.0, true)] {
            let bounds = Bounds {
                floor: 40.0,
                ceiling,
            };
            let mut service = service();
            service.at_once = 40.0;
            service.variation = 0.0;
            let mut finder = Finder::new(bounds, 40.0, 3);
            let course = service.lead(&mut finder, 100);
            assert!(course.iter().any(|said| said.limit >= ceiling));
            assert_eq!(count(&course, "probe") > 0, probes, "{ceiling}");
        }
    }

    /// When each probe began, in seconds.
    fn probes(seed: u64) -> Vec<f64> {
        let mut service = service();
        let mut finder = Finder::new(BOUNDS, 16.0, seed);
        let mut times = Vec::new();
        for _ in 0..3_000 {
            if service.lead(&mut finder, 1)[0].reason == "probe" {
                times.push(service.now);
            }
        }
        times
    }

    #[test]
    fn probes_come_ever_less_often_up_to_twenty_seconds_and_more_apart() {
        let times = probes(3);
        let gaps: Vec<_> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(gaps.len() > 8, "{gaps:?}");
        assert!(gaps[0] < 0.5 * gaps[4], "{gaps:?}");
        let often: f64 = gaps[4..].iter().sum();
        let often = often / f64::from(u32::try_from(gaps.len() - 4).expect("a few"));
        assert!((16.0..25.0).contains(&often), "{often}: {gaps:?}");
    }

    #[test]
    fn the_servers_of_a_fleet_do_not_probe_at_once() {
        let (one, other) = (probes(3), probes(4));
        assert_eq!(one, probes(3));
        // The first are: nothing has come by chance yet.
        let apart = one.iter().zip(&other).skip(1);
        let apart = apart.filter(|(one, other)| (*one - *other).abs() > 0.1);
        assert!(apart.count() > 5, "{one:?} {other:?}");
    }

    #[test]
    fn a_probe_is_kept_where_all_was_queue() {
        let mut service = service();
        let mut finder = finder(1_000.0);
        service.noise = 0.05;
        let course = service.lead(&mut finder, 200);
        let kept = course.iter().position(|said| said.reason == "probe kept");
        let kept = kept.expect("it is");
        assert!(course[kept].limit < 0.7 * course[kept - 2].limit);
        assert!(finder.limit < 300.0, "{}", finder.limit);
    }

    #[test]
    fn nobody_answered_ends_a_probe() {
        let mut service = service();
        let mut finder = found(&mut service);
        let before = loop {
            let before = finder.limit;
            if service.lead(&mut finder, 1)[0].reason == "probe" {
                break before;
            }
        };
        let gap = finder.gap;
        let silence = Window {
            now: service.now + 3.0,
            seconds: 3.0,
            full: 100.0,
            ..Window::default()
        };
        let decision = tell(&mut finder, &silence);
        assert_eq!(decision.reason, "nobody answered");
        assert_same(decision.limit, before);
        assert!(finder.gap >= (2.0 * gap).min(16.0), "not again so soon");
        assert_same(tell(&mut finder, &silence).limit, before);
    }

    // ## Bursts, and none

    /// A few find no slot, and answers take this part of what they may.
    fn tell_slow(service: &Service, finder: &mut Finder, part: f64) -> Decision {
        let slow = Window {
            now: service.now,
            answers: 100.0,
            latency: part * finder.target(),
            variation: 1.0,
            full: 5.0,
            most: finder.limit,
            ..Window::default()
        };
        tell(finder, &slow)
    }

    #[test]
    fn a_burst_is_not_cut() {
        let mut service = service();
        service.load = 0.5;
        let mut finder = finder(64.0);
        service.lead(&mut finder, 50);
        let before = finder.limit;
        for _ in 0..20 {
            let calm = service.lead(&mut finder, 20);
            assert_eq!(count(&calm, "latency"), 0);
            let decision = tell_slow(&service, &mut finder, 1.5);
            assert_eq!(decision.reason, "burst");
            assert!(decision.limit >= before, "{decision:?}");
        }
        // What is slow as a pile-up is none.
        service.lead(&mut finder, 20);
        let decision = tell_slow(&service, &mut finder, 4.0);
        assert_eq!(decision.reason, "latency");
        service.lead(&mut finder, 20);
        // What goes on is none.
        service.load = 2.0;
        service.at_once /= 8.0;
        let overload = service.lead(&mut finder, 30);
        assert!(count(&overload, "latency") > 0, "{overload:?}");
    }

    #[test]
    fn without_load_it_falls_to_twice_the_most_that_were_in_flight() {
        let mut service = service();
        let mut finder = found(&mut service);
        assert!(finder.limit > 100.0);
        service.load = 0.25; // 16 at once
        service.lead(&mut finder, 100);
        assert_same(finder.limit, 32.0);
        service.load = 0.0156; // one
        service.lead(&mut finder, 100);
        assert_same(finder.limit, 4.0 * BOUNDS.floor);
    }

    #[test]
    fn it_does_not_fall_at_once() {
        let mut service = service();
        let mut finder = found(&mut service);
        let before = finder.limit;
        (finder.phase, finder.most, service.load) = (Phase::Steady, 0.0, 0.1);
        let limit = service.lead(&mut finder, 1)[0].limit;
        assert!(limit < before && limit > 0.8 * before, "{limit} {before}");
    }

    // ## Overload that does not show in the latency

    #[test]
    fn overload_within_lowers_it_as_long_as_that_helps() {
        let mut service = service();
        let mut finder = found(&mut service);
        service.overloaded = |in_flight| ((in_flight - 40.0) / 40.0).clamp(0.0, 0.9);
        let course = service.lead(&mut finder, 100);
        assert!(count(&course, "overload within") > 2);
        assert_eq!(count(&course, "in vain"), 0);
        let limit = mean(&course[50..]);
        assert!((30.0..60.0).contains(&limit), "{limit}");
    }

    #[test]
    fn one_in_ten_is_not_overload_within() {
        for (part, reason) in [(0.099, "room"), (0.101, "overload within")] {
            let mut service = service();
            let mut finder = found(&mut service);
            let window = service.window(&finder.decision(0.0));
            let all = window.answers;
            let window = Window {
                answers: all * (1.0 - part),
                overloaded: all * part,
                latency: 0.9 * finder.target(),
                ..window
            };
            finder.probe = f64::INFINITY;
            assert_eq!(tell(&mut finder, &window).reason, reason, "{part}");
        }
    }

    #[test]
    fn a_lower_limit_in_vain_is_not_tried_again_for_thirty_seconds() {
        let mut service = service();
        let mut finder = found(&mut service);
        let before = finder.limit;
        service.overloaded = |_| 0.3;
        while service.lead(&mut finder, 1)[0].reason != "in vain" {
            assert!(finder.limit > 0.3 * before, "{}", finder.limit);
        }
        assert_same(finder.limit, before);
        let heeded = service.now + 30.0;
        let mut window = service.window(&finder.decision(0.0));
        window.latency = 0.9 * finder.target();
        finder.probe = f64::INFINITY;
        window.now = heeded - 0.001;
        assert_ne!(tell(&mut finder, &window).reason, "overload within");
        window.now = heeded;
        assert_eq!(tell(&mut finder, &window).reason, "overload within");
    }

    // It stayed at the floor for as long as there was a sign: from there no limit is so much lower that it was in vain.
    #[test]
    fn at_the_floor_a_sign_is_in_vain_too() {
        let mut service = service();
        service.at_once = 4.0;
        let mut finder = found(&mut service);
        (finder.limit, finder.phase, finder.probe) = (7.0, Phase::Steady, f64::INFINITY);
        assert!(finder.limit < APART * BOUNDS.floor);
        service.overloaded = |_| 0.3;
        let course = service.lead(&mut finder, 10);
        assert_eq!(course[0].reason, "overload within");
        let vain = course.iter().find(|said| said.reason == "in vain");
        assert_same(vain.expect("it is").limit, 7.0);
    }

    #[test]
    fn a_limit_that_binds_nobody_is_not_lowered_for_a_sign() {
        let mut service = service();
        let finder = found(&mut service);
        let limit = finder.limit;
        for (most, sign) in [(limit / 2.0 - 1.0, false), (limit / 2.0 + 1.0, true)] {
            let mut window = service.window(&finder.decision(0.0));
            window.most = most;
            window.overloaded = window.answers;
            assert_eq!(finder.sign(&window).is_some(), sign);
        }
    }

    #[test]
    fn a_run_queue_is_one_from_twenty_milliseconds_on() {
        // Of 5 ms each; what else a request may take is less than 20 ms.
        for (delay, reason) in [(0.0199, "room"), (0.0201, "run queue")] {
            let mut service = service();
            service.alone = 0.005;
            let mut finder = found(&mut service);
            assert!(finder.target() - finder.alone < 0.02);
            assert_eq!(reason_of(&mut service, &mut finder, delay), reason);
        }
    }

    #[test]
    fn it_may_be_as_long_as_the_rest_of_what_a_request_may_take() {
        for (part, reason) in [(0.99, "room"), (1.01, "run queue")] {
            let mut service = service();
            service.alone = 0.5;
            let mut finder = found(&mut service);
            let rest = finder.target() - finder.alone;
            assert!(rest > 0.2, "{rest}");
            assert_eq!(reason_of(&mut service, &mut finder, part * rest), reason);
        }
    }

    fn reason_of(service: &mut Service, finder: &mut Finder, delay: f64) -> &'static str {
        let mut window = service.window(&finder.decision(0.0));
        window.delay = delay;
        window.latency = 0.9 * finder.target();
        finder.probe = f64::INFINITY;
        finder.reason = "room";
        tell(finder, &window).reason
    }

    #[test]
    fn from_half_of_that_on_there_is_no_room() {
        for (part, grows) in [(0.49, true), (0.51, false)] {
            let mut service = service();
            let mut finder = found(&mut service);
            let (before, delay) = (finder.limit, part * finder.delay());
            reason_of(&mut service, &mut finder, delay);
            assert_eq!(finder.limit > before, grows, "{part}");
        }
    }

    #[test]
    fn a_run_queue_lowers_it_as_long_as_that_helps() {
        let mut service = service();
        let mut finder = found(&mut service);
        service.delay = 0.002;
        let limit = mean(&service.lead(&mut finder, 200)[100..]);
        let allowed = finder.delay() / service.delay;
        assert!(
            (0.4 * allowed..1.1 * allowed).contains(&limit),
            "{limit} {allowed}"
        );
    }

    // ## Whatever is seen

    #[test]
    fn it_is_between_its_bounds_whatever_is_seen() {
        let odd = [0.0, 1e-300, 1e-9, 0.05, 1.0, 60.0, 1e9, 1.8e10, 1e300];
        for seed in 1..200 {
            let mut chance = Service {
                chance: seed,
                ..service()
            };
            let bounds = Bounds {
                floor: [1.0, 4.0, 50.0][(seed % 3) as usize],
                ceiling: [50.0, 1_000.0, 2_097_151.0][(seed / 3 % 3) as usize],
            };
            let mut finder = Finder::new(bounds, chance.part() * 1e4, seed);
            let mut now = 0.0;
            for _ in 0..500 {
                let mut any = |most: f64| match chance.roll() as usize % 30 {
                    n if n < odd.len() => odd[n],
                    _ => chance.part() * most,
                };
                let seconds = any(3.0).min(1e6);
                now += seconds;
                let window = Window {
                    now,
                    seconds,
                    answers: any(500.0),
                    latency: any(0.5),
                    variation: any(20.0),
                    cancelled: any(100.0),
                    overloaded: any(100.0),
                    full: any(500.0),
                    most: any(1e4),
                    delay: any(0.1),
                };
                let told = tell(&mut finder, &window);
                let is = told.limit;
                assert!(
                    (bounds.floor..=bounds.ceiling).contains(&is),
                    "{seed}: {window:?} {told:?}"
                );
                assert!((8.0..=1_024.0).contains(&told.answers), "{told:?}");
                assert!(
                    told.settle >= 0.0 && told.patience >= 1.0,
                    "{seed}: {window:?} {told:?}"
                );
                assert!(
                    told.alarm >= 0.0 && told.cap > 0.0,
                    "{seed}: {window:?} {told:?}"
                );
            }
        }
    }
}

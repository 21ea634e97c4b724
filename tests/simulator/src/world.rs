//! Servers, clients, and what happens between them, one event after the other.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use tower_overload::{Criticality, Limit, Outcome, Sample};

use crate::{
    calendar::Calendar,
    chance::Chance,
    room::{CLASSES, Order, Room},
    run::Run,
    work::Work,
};

/// What stands before the work of each server.
#[expect(missing_debug_implementations, reason = "functions")]
pub struct Policy<'a> {
    /// Makes a server's law, from a seed.
    pub law: &'a dyn Fn(u64) -> Box<dyn Limit>,
    /// In seconds; zero refuses at once.
    pub max_wait: f64,
    /// In which order it is waited.
    pub order: Order,
    /// Whether everybody may wait, and for ever.
    pub endless: bool,
}

/// Which server a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// Any.
    Random,
    /// Of two by chance, the one with fewer requests.
    TwoChoices,
    /// One after the other.
    RoundRobin,
}

/// What a client does that was refused, or has waited in vain: up to four times more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing.
    Never,
    /// Comes back within 100 ms.
    Fast,
    /// Comes back a second after it was refused, and within 100 ms when it left.
    Constant,
    /// Comes back after a second and more each time, by chance.
    Jitter,
    /// Comes back when it was told to.
    Told,
}

/// A course of events.
#[expect(missing_debug_implementations, reason = "functions")]
pub struct Scenario<'a> {
    /// What is asked for, and of what.
    pub work: Work,
    /// How many servers there are.
    pub servers: usize,
    /// How they share what comes.
    pub balancer: Balancer,
    /// Requests that come in a second, at a time; of all servers.
    pub rate: &'a dyn Fn(f64) -> f64,
    /// By how much a server is slower, at a time. Zero is a server that is gone.
    pub slow: &'a dyn Fn(f64, usize) -> f64,
    /// Whether that concerns its input and output too.
    pub slow_io: bool,
    /// What who was refused does.
    pub retry: Retry,
    /// Which part of the requests is critical; the others are sheddable.
    pub critical: f64,
    /// In seconds.
    pub duration: f64,
    /// From when on what happens is counted in the sums, in seconds.
    pub from: f64,
    /// Of all chance.
    pub seed: u64,
}

impl<'a> Scenario<'a> {
    /// One server, and always as much load.
    #[must_use]
    pub fn steady(work: Work, rate: &'a dyn Fn(f64) -> f64, duration: f64, seed: u64) -> Self {
        Self {
            work,
            servers: 1,
            balancer: Balancer::Random,
            rate,
            slow: &|_, _| 1.0,
            slow_io: false,
            retry: Retry::Never,
            critical: 1.0,
            duration,
            from: duration / 4.0,
            seed,
        }
    }

    /// What happens.
    #[must_use]
    pub fn run(&self, policy: &Policy<'_>) -> Run {
        World::new(self, policy).run()
    }
}

const NOBODY: u32 = u32::MAX;

/// How often a law is told of the run queue.
const PROBE: u64 = 10_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    /// A processor is done.
    Done {
        server: u32,
        core: u16,
    },
    /// Input and output are.
    Io {
        id: u32,
        life: u32,
    },
    /// The client has read its response.
    Read {
        id: u32,
        life: u32,
    },
    Retry {
        attempt: u8,
        class: u8,
    },
    /// A server may be gone, or back.
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Gone,
    Waiting,
    InFlight,
    Reading,
}

#[derive(Clone, Debug)]
struct Request {
    life: u32,
    state: State,
    class: u8,
    attempt: u8,
    second_half: bool,
    server: u32,
    came: u64,
    granted: u64,
    processor: f64,
}

/// What a processor does: a request's half, or a refusal.
#[derive(Clone, Copy, Debug)]
struct Job {
    id: u32,
    life: u32,
    seconds: f64,
    since: u64,
}

struct Server {
    law: Box<dyn Limit>,
    limit: usize,
    in_flight: usize,
    readers: usize,
    room: Room,
    free: Vec<u16>,
    running: Vec<Job>,
    queue: VecDeque<Job>,
    /// How long a slot is held, on average; seconds.
    held: f64,
    probed: u64,
    alive: bool,
    calendar: Calendar,
}

impl Server {
    /// As many as can be served in a second.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn rate(&self) -> f64 {
        if self.held == 0.0 {
            self.limit as f64
        } else {
            self.limit as f64 / self.held
        }
    }

    /// What a balancer sees.
    fn load(&self) -> usize {
        self.in_flight + self.room.len()
    }
}

struct World<'a> {
    scenario: &'a Scenario<'a>,
    policy: &'a Policy<'a>,
    /// Who comes, and what for: the same whatever the policy.
    arrivals: Chance,
    chance: Chance,
    base: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    requests: Vec<Request>,
    unused: Vec<u32>,
    /// Clients leave in the order in which they came.
    leaving: VecDeque<(u64, u32, u32)>,
    /// They have waited for a slot for long enough, in the order in which they began to: not events, of which there would
    /// be so many that the others would take long to find.
    expiring: VecDeque<(u64, u32, u32)>,
    servers: Vec<Server>,
    turn: usize,
    max_wait: u64,
    timeout: u64,
    run: Run,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario<'a>, policy: &'a Policy<'a>) -> Self {
        let mut chance = Chance::new(scenario.seed.wrapping_mul(7919) + 12345);
        let work = &scenario.work;
        let servers = (0..scenario.servers).map(|_| {
            let law = (policy.law)(chance.roll());
            let idle = Job {
                id: NOBODY,
                life: 0,
                seconds: 0.0,
                since: 0,
            };
            Server {
                limit: law.limit(),
                law,
                in_flight: 0,
                readers: 0,
                room: Room::new(policy.order),
                free: (0..u16::try_from(work.cores).expect("a few")).collect(),
                running: vec![idle; work.cores],
                queue: VecDeque::new(),
                held: 0.0,
                probed: 0,
                alive: true,
                calendar: Calendar::new(),
            }
        });
        let servers = servers.collect();
        Self {
            base: Instant::now(),
            now: 0,
            events: BinaryHeap::new(),
            number: 0,
            requests: Vec::new(),
            unused: Vec::new(),
            leaving: VecDeque::new(),
            expiring: VecDeque::new(),
            servers,
            turn: 0,
            max_wait: nanoseconds(policy.max_wait),
            timeout: nanoseconds(work.timeout),
            run: Run::new(scenario),
            scenario,
            policy,
            arrivals: Chance::new(scenario.seed),
            chance,
        }
    }

    fn run(mut self) -> Run {
        self.after(0.0, Event::Arrive);
        self.after(0.0, Event::Look);
        let end = nanoseconds(self.scenario.duration);
        loop {
            let next = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let leaves = self.leaving.front().map_or(u64::MAX, |(at, ..)| *at);
            let expires = self.expiring.front().map_or(u64::MAX, |(at, ..)| *at);
            if next.min(leaves).min(expires) > end {
                break;
            }
            if expires < next && expires <= leaves {
                let (at, id, life) = self.expiring.pop_front().expect("somebody");
                self.now = at;
                self.expire(id, life);
            } else if leaves < next {
                let (at, id, life) = self.leaving.pop_front().expect("somebody");
                self.now = at;
                self.give_up(id, life);
            } else {
                let Reverse((at, _, event)) = self.events.pop().expect("one");
                self.now = at;
                self.happen(event);
            }
        }
        self.run.end(end);
        self.run
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let rate = (self.scenario.rate)(seconds(self.now));
                if rate <= 0.0 {
                    return self.after(0.01, Event::Arrive);
                }
                let next = self.arrivals.exponential(1.0 / rate);
                self.after(next, Event::Arrive);
                let critical =
                    self.scenario.critical >= 1.0 || self.arrivals.part() < self.scenario.critical;
                let processor = self.scenario.work.processor.draw(&mut self.arrivals);
                self.arrive(0, u8::from(!critical), processor);
            }
            Event::Retry { attempt, class } => {
                let processor = self.scenario.work.processor.draw(&mut self.chance);
                self.arrive(attempt, class, processor);
            }
            Event::Done { server, core } => self.done(server as usize, core),
            Event::Io { id, life } => {
                if self.lives(id, life) {
                    let request = &self.requests[id as usize];
                    let (server, work) = (request.server as usize, request.processor * 0.4);
                    self.requests[id as usize].second_half = true;
                    self.work(server, id, work);
                }
            }
            Event::Read { id, life } => {
                if self.lives(id, life) {
                    let server = self.requests[id as usize].server as usize;
                    self.servers[server].readers -= 1;
                    self.release(id);
                }
            }
            Event::Look => self.look(),
        }
    }

    // ## In

    fn arrive(&mut self, attempt: u8, class: u8, processor: f64) {
        let Some(server) = self.choose() else {
            return;
        };
        let id = self.unused.pop().unwrap_or_else(|| {
            self.requests.push(Request {
                life: 0,
                state: State::Gone,
                class: 0,
                attempt: 0,
                second_half: false,
                server: 0,
                came: 0,
                granted: 0,
                processor: 0.0,
            });
            u32::try_from(self.requests.len() - 1).expect("fewer")
        });
        let request = &mut self.requests[id as usize];
        *request = Request {
            life: request.life + 1,
            state: State::Waiting,
            class,
            attempt,
            second_half: false,
            server: u32::try_from(server).expect("fewer"),
            came: self.now,
            granted: 0,
            processor,
        };
        let life = request.life;
        self.leaving.push_back((self.now + self.timeout, id, life));
        self.run.arrived(self.now, server, class);
        let house = &mut self.servers[server];
        if house.in_flight < house.limit && house.room.is_empty() {
            return self.admit(id);
        }
        house
            .law
            .on_full(self.base + Duration::from_nanos(self.now));
        if self.max_wait == 0 && !self.policy.endless {
            self.refuse(id);
        } else {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a few"
            )]
            let most = house
                .limit
                .max((house.rate() * self.policy.max_wait).ceil() as usize);
            if !self.policy.endless {
                if house.room.len() >= most {
                    match house.room.displace(usize::from(class), self.now) {
                        Some(gone) => self.refuse(gone),
                        None => return self.refuse(id),
                    }
                }
                self.expiring
                    .push_back((self.now + self.max_wait, id, life));
            }
            let house = &mut self.servers[server];
            house.room.enter(id, usize::from(class), self.now);
        }
        self.adapt(server);
    }

    fn choose(&mut self) -> Option<usize> {
        let servers = self.servers.len();
        if servers == 1 {
            return Some(0);
        }
        let any = |world: &mut Self| {
            let mut tries = 0;
            loop {
                let server = match world.scenario.balancer {
                    Balancer::RoundRobin => {
                        world.turn = (world.turn + 1) % servers;
                        world.turn
                    }
                    _ => world.chance.below(servers),
                };
                tries += 1;
                if world.servers[server].alive {
                    return Some(server);
                } else if tries > 100 * servers {
                    return None;
                }
            }
        };
        let one = any(self)?;
        if self.scenario.balancer != Balancer::TwoChoices {
            return Some(one);
        }
        let other = any(self)?;
        let fewer = self.servers[other].load() < self.servers[one].load();
        Some(if fewer { other } else { one })
    }

    fn admit(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        request.state = State::InFlight;
        request.granted = self.now;
        let (server, work) = (request.server as usize, request.processor * 0.6);
        self.servers[server].in_flight += 1;
        self.work(server, id, work);
    }

    // ## The processors

    fn work(&mut self, server: usize, id: u32, seconds: f64) {
        let life = self.requests[id as usize].life;
        let job = Job {
            id,
            life,
            seconds,
            since: self.now,
        };
        self.servers[server].queue.push_back(job);
        self.dispatch(server);
    }

    fn dispatch(&mut self, server: usize) {
        while !self.servers[server].free.is_empty() {
            let Some(job) = self.servers[server].queue.pop_front() else {
                return;
            };
            if job.id != NOBODY && !self.lives(job.id, job.life) {
                continue;
            }
            let now = self.now;
            let house = &mut self.servers[server];
            if self.scenario.work.visible && job.id != NOBODY && now >= house.probed + PROBE {
                house.probed = now;
                let delay = Duration::from_nanos(now - job.since);
                house
                    .law
                    .on_delay(self.base + Duration::from_nanos(now), delay);
            }
            let core = house.free.pop().expect("one");
            house.running[usize::from(core)] = job;
            let slow = (self.scenario.slow)(seconds(now), server);
            let server = u32::try_from(server).expect("fewer");
            self.after(job.seconds * slow, Event::Done { server, core });
        }
    }

    fn done(&mut self, server: usize, core: u16) {
        let house = &mut self.servers[server];
        if !house.alive {
            return;
        }
        house.free.push(core);
        let job = house.running[usize::from(core)];
        if job.id != NOBODY && self.lives(job.id, job.life) {
            if self.requests[job.id as usize].second_half {
                self.answer(job.id);
            } else {
                let mut io = self.scenario.work.io.draw(&mut self.chance);
                if self.scenario.slow_io {
                    io *= (self.scenario.slow)(seconds(self.now), server);
                }
                let (id, life) = (job.id, job.life);
                self.after(io, Event::Io { id, life });
            }
        }
        self.dispatch(server);
    }

    // ## Out

    fn answer(&mut self, id: u32) {
        let request = &self.requests[id as usize];
        let server = request.server as usize;
        let took = self.now - request.came;
        self.run.served(self.now, server, request.class, took);
        self.sample(id, Outcome::Ok);
        let (part, reads) = self.scenario.work.slow_readers;
        if part > 0.0 && self.chance.part() < part {
            let request = &mut self.requests[id as usize];
            request.state = State::Reading;
            let life = request.life;
            self.servers[server].readers += 1;
            self.after(reads, Event::Read { id, life });
            self.adapt(server);
        } else {
            self.release(id);
        }
    }

    fn sample(&mut self, id: u32, outcome: Outcome) {
        let request = &self.requests[id as usize];
        let server = &mut self.servers[request.server as usize];
        let mut sample = Sample::new(Duration::from_nanos(self.now - request.granted), outcome);
        sample.now = self.base + Duration::from_nanos(self.now);
        sample.began = self.base + Duration::from_nanos(request.granted);
        sample.in_flight = server.in_flight - server.readers;
        sample.class = if request.class == 0 {
            Criticality::Critical
        } else {
            Criticality::Sheddable
        };
        server.law.on_sample(&sample);
    }

    /// The slot is free again.
    fn release(&mut self, id: u32) {
        let request = &self.requests[id as usize];
        let (server, held) = (request.server as usize, seconds(self.now - request.granted));
        let house = &mut self.servers[server];
        house.in_flight -= 1;
        house.held = if house.held == 0.0 {
            held
        } else {
            house.held + (held.min(8.0 * house.held) - house.held) / 16.0
        };
        self.forget(id);
        self.adapt(server);
    }

    /// The limit may be another, or a slot free.
    fn adapt(&mut self, server: usize) {
        let house = &mut self.servers[server];
        let limit = house.law.limit();
        // As the layer does: who only reads is let be.
        house.limit = limit.saturating_add(house.readers);
        if server == 0 {
            self.run.limit(self.now, limit, house.law.reason());
        }
        loop {
            let house = &mut self.servers[server];
            if house.in_flight >= house.limit || house.room.is_empty() {
                return;
            }
            let next = house.room.next(self.now).expect("somebody");
            self.admit(next);
        }
    }

    fn refuse(&mut self, id: u32) {
        let request = &self.requests[id as usize];
        let (server, class, attempt) = (request.server as usize, request.class, request.attempt);
        self.run.refused(self.now, server, class);
        self.forget(id);
        let after = self.told(server);
        self.again(attempt, class, Some(after));
        let refusal = self.scenario.work.refusal;
        if refusal > 0.0 {
            let job = Job {
                id: NOBODY,
                life: 0,
                seconds: refusal,
                since: self.now,
            };
            self.servers[server].queue.push_front(job);
            self.dispatch(server);
        }
    }

    /// It waits no longer for a slot, if it does.
    fn expire(&mut self, id: u32, life: u32) {
        if self.lives(id, life) && self.requests[id as usize].state == State::Waiting {
            let request = &self.requests[id as usize];
            let (server, class) = (request.server as usize, usize::from(request.class));
            self.servers[server].room.leave(id, class, self.now);
            self.refuse(id);
        }
    }

    /// The client leaves, if it has not been answered.
    fn give_up(&mut self, id: u32, life: u32) {
        if !self.lives(id, life) {
            return;
        }
        let request = &self.requests[id as usize];
        let (server, class, attempt) = (request.server as usize, request.class, request.attempt);
        match request.state {
            State::Reading | State::Gone => return,
            State::Waiting => {
                let room = &mut self.servers[server].room;
                room.leave(id, usize::from(class), self.now);
                self.forget(id);
            }
            State::InFlight => {
                self.sample(id, Outcome::Cancelled);
                self.servers[server].in_flight -= 1;
                self.forget(id);
                self.adapt(server);
            }
        }
        self.run.left(self.now, server, class);
        self.again(attempt, class, None);
    }

    fn forget(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        request.state = State::Gone;
        request.life += 1;
        self.unused.push(id);
    }

    fn lives(&self, id: u32, life: u32) -> bool {
        self.requests[id as usize].life == life
    }

    // ## Clients

    /// In how many seconds a client is told to come back.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "seconds"
    )]
    fn told(&mut self, server: usize) -> f64 {
        if self.scenario.retry != Retry::Told {
            return 0.0;
        }
        let house = &mut self.servers[server];
        let rate = house.rate();
        let wait = (house.room.len() + 1) as f64 / rate;
        let earliest = (wait + 4.0 * house.held).ceil() as u64;
        let chance = self.chance.roll() >> 32;
        let now = self.now / 1_000_000_000;
        house.calendar.promise(now, earliest, rate, chance).after as f64
    }

    fn again(&mut self, attempt: u8, class: u8, refused: Option<f64>) {
        if attempt >= 4 {
            return;
        }
        let part = self.chance.part();
        let after = match (self.scenario.retry, refused) {
            (Retry::Never, _) => return,
            (Retry::Constant, Some(_)) => 1.0,
            (Retry::Fast | Retry::Constant | Retry::Told, None) | (Retry::Fast, _) => 0.1 * part,
            (Retry::Jitter, Some(_)) => {
                1.0 + part * f64::from(4u32.pow(u32::from(attempt))).min(32.0)
            }
            (Retry::Jitter, None) => 0.1 * f64::from(1u32 << attempt) * part,
            (Retry::Told, Some(told)) => told,
        };
        let attempt = attempt + 1;
        self.run
            .returns(self.now + nanoseconds(after), refused.is_some());
        self.after(after, Event::Retry { attempt, class });
    }

    // ## Servers that are gone

    fn look(&mut self) {
        if self.servers.len() == 1 {
            return;
        }
        let now = seconds(self.now);
        for server in 0..self.servers.len() {
            let alive = (self.scenario.slow)(now, server) > 0.0;
            if self.servers[server].alive && !alive {
                self.die(server);
            } else if alive && !self.servers[server].alive {
                let seed = self.chance.roll();
                let house = &mut self.servers[server];
                house.alive = true;
                house.law = (self.policy.law)(seed); // it is another process
                house.limit = house.law.limit();
            }
        }
        self.after(0.1, Event::Look);
    }

    fn die(&mut self, server: usize) {
        self.servers[server].alive = false;
        for id in 0..self.requests.len() {
            let request = &self.requests[id];
            if request.server as usize == server && request.state != State::Gone {
                let (class, attempt) = (request.class, request.attempt);
                self.forget(u32::try_from(id).expect("fewer"));
                self.run.left(self.now, server, class);
                self.again(attempt, class, None);
            }
        }
        let cores = self.scenario.work.cores;
        let house = &mut self.servers[server];
        house.in_flight = 0;
        house.readers = 0;
        house.room = Room::new(self.policy.order);
        house.queue.clear();
        house.free = (0..u16::try_from(cores).expect("a few")).collect();
    }

    fn after(&mut self, after: f64, event: Event) {
        self.number += 1;
        let at = self.now + nanoseconds(after);
        self.events.push(Reverse((at, self.number, event)));
    }
}

const _: () = assert!(CLASSES == 2, "critical, and sheddable");

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[expect(clippy::cast_precision_loss, reason = "a time")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

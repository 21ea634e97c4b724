//! Seeded random lives of many connections. After each step the books are checked against a count by hand,
//! and each decision against what an observer with perfect knowledge would have decided.

use std::{ops::Range, sync::Arc, task::Waker, time::Duration};

use http::Version;
use tokio::time::{Instant, advance};
use tower_connection::{ConnectionHandle, InFlight};

use super::*;
use crate::{AtCapacity, books::Listed};

const RESERVE: usize = 5;
const MIN_IDLE: Duration = Duration::from_millis(20);

/// What can be replayed from its seed (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: Range<usize>) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let width = u64::try_from(sides.len()).unwrap();
        sides.start + usize::try_from(self.0 % width).unwrap()
    }
}

struct Life {
    entry: Entry,
    handle: Option<ConnectionHandle>,
    requests: Vec<InFlight>,
}

impl Life {
    fn key(&self) -> usize {
        self.entry.0.key
    }

    fn phase(&self) -> Phase {
        self.entry.seat().phase()
    }
}

struct World {
    ledger: Ledger,
    acceptor: AcceptorId,
    settings: Arc<Settings>,
    reserved: Option<Reservation>,
    lives: Vec<Life>,
    max_per_client: usize,
    dice: Dice,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let policies: &[&[AtCapacity]] = &[
            &[AtCapacity::MakeRoom, AtCapacity::Reject],
            &[AtCapacity::MakeRoom, AtCapacity::Wait],
            &[AtCapacity::MakeRoom, AtCapacity::Close],
            &[AtCapacity::Reject],
            &[AtCapacity::Wait],
        ];
        let ledger = Ledger::new(dice.roll(1..8), RESERVE);
        let max_per_client = dice.roll(1..6);
        ledger.set_max_per_client(max_per_client);
        if dice.roll(0..2) == 0 {
            ledger.set_max_upgraded(2);
        }
        if dice.roll(0..3) == 0 {
            ledger.set_low_watermark(1);
        }
        Self {
            acceptor: ledger.acceptor(),
            ledger,
            settings: Arc::new(Settings {
                at_capacity: policies[dice.roll(0..policies.len())].to_vec(),
                min_idle: MIN_IDLE,
                ..Settings::default()
            }),
            reserved: None,
            lives: Vec::new(),
            max_per_client,
            dice,
        }
    }

    async fn step(&mut self) {
        match self.dice.roll(0..10) {
            0..=3 => self.connect(),
            4 => self.make(),
            5 => self.begin(),
            6 => self.end(),
            7 => self.upgrade_or_leave(),
            8 => advance(Duration::from_millis(self.dice.roll(0..40) as u64)).await,
            _ => self.ask_again(),
        }
        // Who was told to leave does, mostly.
        if self.dice.roll(0..3) > 0 {
            self.lives.retain(|life| {
                !matches!(life.phase(), Phase::Evicted | Phase::Spent | Phase::Reset)
            });
        }
        self.check();
    }

    fn pick(&mut self) -> Option<&mut Life> {
        let lives = self.lives.len();
        (lives > 0).then(|| &mut self.lives[self.dice.roll(0..lives)])
    }

    fn connect(&mut self) {
        if self.reserved.is_none() {
            let reserved = self
                .ledger
                .reserve(self.acceptor, &self.settings, Waker::noop());
            self.reserved = reserved.ok();
        }
        let Some(reserved) = self.reserved.take() else {
            return;
        };
        let client = match self.dice.roll(0..5) {
            0 => None,
            n => Some(Client::named(n.to_string())),
        };
        let full = {
            let books = self.ledger.lock();
            let own = client.as_ref().and_then(|client| books.clients.get(client));
            (
                books.taken - usize::from(reserved == Reservation::Permit) >= books.max,
                own.is_some_and(|own| own.len() >= self.max_per_client),
            )
        };
        let before = self.idle();
        let (entry, verdict) = self.ledger.admit(reserved, &self.settings, client);
        self.lives.push(Life {
            entry,
            handle: None,
            requests: Vec::new(),
        });
        if full.1 {
            return; // decided among its client's own; `check` sees the count
        }
        self.judge(&verdict, full.0, &before);
    }

    /// The connections that could make room, the longest idle first.
    fn idle(&self) -> Vec<(Instant, usize)> {
        let books = self.ledger.lock();
        let mut idle: Vec<_> = self
            .lives
            .iter()
            .filter(|life| matches!(books.members[life.key()].standing, Standing::Served))
            .filter_map(|life| Some((books.members[life.key()].idle_since()?, life.key())))
            .collect();
        idle.sort_unstable();
        idle
    }

    /// Whether that is what somebody would have decided who knows since when everybody is idle.
    fn judge(&self, verdict: &Verdict, full: bool, idle: &[(Instant, usize)]) {
        let now = Instant::now();
        let evicted: Vec<_> = idle
            .iter()
            .filter(|(_, key)| self.standing(*key, |s| matches!(s, Standing::Evicted(_))))
            .collect();
        if !full {
            assert!(matches!(verdict, Verdict::Serve), "there was a permit");
            assert!(evicted.is_empty());
            return;
        }
        let due = idle.first().filter(|(since, _)| *since + MIN_IDLE <= now);
        let due = due.filter(|_| self.settings.makes_room());
        assert_eq!(
            matches!(verdict, Verdict::Serve),
            due.is_some(),
            "served if somebody could make room"
        );
        let evicted: Vec<_> = evicted.iter().map(|(since, _)| since).collect();
        let longest: Vec<_> = due.iter().map(|(since, _)| since).collect();
        assert_eq!(evicted, longest, "the longest idle, and nobody else");
    }

    fn standing(&self, key: usize, is: impl FnOnce(&Standing) -> bool) -> bool {
        let books = self.ledger.lock();
        books
            .members
            .get(key)
            .is_some_and(|member| is(&member.standing))
    }

    /// The acceptor inside has done its part.
    fn make(&mut self) {
        if let Some(life) = self.pick().filter(|life| life.handle.is_none()) {
            let handle = ConnectionHandle::detached();
            life.entry.ticket().adopt(&handle);
            life.handle = Some(handle);
        }
    }

    fn begin(&mut self) {
        let life = self.pick();
        let served = life.filter(|life| life.phase() == Phase::Served);
        if let Some(life) = served {
            let handle = life.handle.as_ref().expect("it is served");
            assert!(!handle.is_closing(), "who is served goes on");
            if !handle.is_upgraded() {
                life.requests.push(handle.begin(Version::HTTP_2));
            }
        }
    }

    fn end(&mut self) {
        if let Some(life) = self.pick() {
            life.requests.pop();
        }
    }

    fn upgrade_or_leave(&mut self) {
        let upgrade = self.dice.roll(0..3) == 0;
        let Some(life) = self.pick() else {
            return;
        };
        match &life.handle {
            Some(handle)
                if upgrade && life.phase() == Phase::Served && life.requests.is_empty() =>
            {
                let in_flight = handle.begin(Version::HTTP_11);
                let _ = life.entry.ticket().upgrade();
                drop(in_flight);
            }
            _ => {
                let key = life.key();
                self.lives.retain(|life| life.key() != key);
            }
        }
    }

    fn ask_again(&mut self) {
        if let Some(life) = self.pick().filter(|life| life.phase() == Phase::Waiting) {
            let _ = life.entry.ask_again();
        }
    }

    /// The books, against a count by hand.
    fn check(&self) {
        let books = self.ledger.lock();
        let count = |is: fn(&Standing) -> bool| {
            let members = books.members.iter();
            members.filter(|(_, member)| is(&member.standing)).count()
        };
        assert_eq!(books.members.len(), self.lives.len());
        let served = count(|s| matches!(s, Standing::Served));
        assert_eq!(books.taken, served + books.ready);
        assert!(books.taken <= books.max, "never one more than the limit");
        assert_eq!(books.upgraded, count(|s| matches!(s, Standing::Upgraded)));
        assert!(books.upgraded <= books.max_upgraded.unwrap_or(0));

        let leaving = count(|s| matches!(s, Standing::TurnedAway { .. } | Standing::Evicted(_)));
        let waiting = count(|s| matches!(s, Standing::Waiting));
        assert_eq!(
            books.aside,
            leaving + waiting + books.promised + books.cooling.len()
        );
        let resets = self
            .lives
            .iter()
            .filter(|life| life.phase() == Phase::Reset);
        // Who came by a permit and is over its client's limit is reset if the reserve is full.
        assert!(books.aside - books.cooling.len() <= RESERVE + resets.count() + 1);
        assert_eq!(books.anteroom.len(), waiting);
        let owned_wait = books.anteroom.iter().any(|key| {
            let member = &books.members[*key];
            member.owned || member.client.is_none()
        });
        assert!(
            !owned_wait || books.taken == books.max,
            "nobody waits for nothing"
        );

        for own in books.clients.values() {
            assert!((1..=self.max_per_client).contains(&own.len()));
            assert!(own.iter().all(|key| books.members[*key].owned));
        }
        assert_eq!(books.idle.len() + books.busy.len(), {
            let members = books.members.iter();
            members
                .filter(|(_, member)| member.listed.is_some())
                .count()
        });
        for (_, member) in &books.members {
            match (&member.standing, member.listed) {
                (Standing::Served, Some(Listed::Idle(since) | Listed::Busy(since))) => {
                    let idle = member.idle_since();
                    assert!(idle.is_none_or(|idle| since <= idle), "a lower bound");
                }
                (Standing::Served, None) => assert!(member.is_upgraded()),
                (_, listed) => assert!(listed.is_none()),
            }
        }
        drop(books);
        for life in &self.lives {
            if !life.requests.is_empty() {
                assert_eq!(life.phase(), Phase::Served, "work is never cut");
            }
        }
    }

    /// Everybody leaves.
    async fn end_of_days(mut self) {
        if let Some(reserved) = self.reserved.take() {
            self.ledger.give_back(reserved);
        }
        self.lives.clear();
        advance(Duration::from_secs(1)).await;
        let mut books = self.ledger.lock();
        books.warm_up(Instant::now());
        assert_eq!((books.taken, books.aside, books.upgraded), (0, 0, 0));
        assert_eq!((books.ready, books.promised), (0, 0));
        assert!(books.members.is_empty() && books.clients.is_empty() && books.leaving.is_empty());
        assert!(books.idle.is_empty() && books.busy.is_empty() && books.anteroom.is_empty());
    }
}

/// Says, if it comes to the worst, which seed it was.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_books_are_right() {
    let (mut rejected, mut evicted) = (0, 0);
    for seed in 0..400 {
        let _seed = Seed(seed);
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step().await;
        }
        rejected += world.ledger.counts().rejected;
        evicted += world.ledger.counts().evicted;
        world.end_of_days().await;
    }
    // It did get to the interesting places.
    assert!(rejected > 1_000 && evicted > 1_000, "{rejected}, {evicted}");
}

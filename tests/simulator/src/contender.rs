//! Who is compared.

use std::time::Duration;

use tower_overload::{Adaptive, Limit};

use crate::{
    laws::{
        Aimd, Clock, Envoy, Fixed, Gradient2, ResilienceAimd, ResilienceVegas, RunQueue, Told,
        Vegas, Windowed,
    },
    room::Order,
    run::Run,
    work::Work,
    world::{Policy, Scenario},
};

/// A law and a waiting room.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// What it is called in tables.
    pub name: &'static str,
    law: Law,
    max_wait: f64,
    /// Whether everybody may wait, and for ever.
    pub endless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Law {
    /// With a seed of its own for each server, or with this one.
    Adaptive(Option<u64>),
    Fixed(usize),
    Aimd,
    Vegas,
    VegasWindowed,
    Gradient2(usize),
    Envoy,
    ResilienceAimd,
    ResilienceVegas,
    RunQueue,
    Clock,
}

impl Contender {
    fn refuses(name: &'static str, law: Law) -> Self {
        Self {
            name,
            law,
            max_wait: 0.0,
            endless: false,
        }
    }

    /// `Adaptive`, whose clients wait for up to 200 ms.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            max_wait: 0.2,
            ..Self::refuses("Adaptive", Law::Adaptive(None))
        }
    }

    /// Whether it is that.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name == Self::ours().name
    }

    /// The same without a waiting room.
    #[must_use]
    pub fn refusing() -> Self {
        Self::refuses("Adaptive, no wait", Law::Adaptive(None))
    }

    /// As ours, but chance is the same for each server.
    #[must_use]
    pub fn alike() -> Self {
        Self {
            name: "Adaptive, one seed",
            law: Law::Adaptive(Some(1)),
            ..Self::ours()
        }
    }

    /// A law that tries a lower limit by the clock: all servers at once.
    #[must_use]
    pub fn clock() -> Self {
        Self {
            name: "by the clock",
            law: Law::Clock,
            ..Self::ours()
        }
    }

    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::refuses("no limit", Law::Fixed(1_000_000))
    }

    /// `ConcurrencyLimit` of tower: 64, and all others wait.
    #[must_use]
    pub fn tower() -> Self {
        Self {
            endless: true,
            ..Self::refuses("tower ConcurrencyLimit(64)", Law::Fixed(64))
        }
    }

    /// 64 at a time, and all others are refused: right for A.
    #[must_use]
    pub fn fixed() -> Self {
        Self::refuses("64, refusing", Law::Fixed(64))
    }

    /// So many at a time; others wait for so long, in seconds.
    #[must_use]
    pub fn of(limit: usize, max_wait: f64) -> Self {
        Self {
            max_wait,
            ..Self::refuses("fixed", Law::Fixed(limit))
        }
    }

    /// Netflix's AIMD, windowed.
    #[must_use]
    pub fn aimd() -> Self {
        Self::refuses("Netflix AIMD, windowed", Law::Aimd)
    }

    /// Netflix's default.
    #[must_use]
    pub fn vegas_per_sample() -> Self {
        Self::refuses("Netflix Vegas", Law::Vegas)
    }

    /// The same, windowed.
    #[must_use]
    pub fn vegas() -> Self {
        Self::refuses("Netflix Vegas, windowed", Law::VegasWindowed)
    }

    /// Netflix's, as it is recommended for servers.
    #[must_use]
    pub fn gradient2() -> Self {
        Self::refuses("Gradient2, windowed", Law::Gradient2(200))
    }

    /// The same, with more room to drift.
    #[must_use]
    pub fn gradient2_free() -> Self {
        Self::refuses("Gradient2, up to 2,000", Law::Gradient2(2_000))
    }

    /// Envoy's adaptive concurrency.
    #[must_use]
    pub fn envoy() -> Self {
        Self::refuses("Envoy", Law::Envoy)
    }

    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::ours(),
            Self::refusing(),
            Self::none(),
            Self::tower(),
            Self::fixed(),
            Self::aimd(),
            Self::vegas_per_sample(),
            Self::vegas(),
            Self::gradient2(),
            Self::envoy(),
            Self::refuses("tower-resilience AIMD", Law::ResilienceAimd),
            Self::refuses("tower-resilience Vegas", Law::ResilienceVegas),
            Self::refuses("run queue of 20 ms", Law::RunQueue),
        ]
    }

    /// What it makes of a scenario.
    #[must_use]
    pub fn run(&self, scenario: &Scenario<'_>) -> Run {
        let work = &scenario.work;
        let law = |seed| self.law.of(work, seed);
        scenario.run(&Policy {
            law: &law,
            max_wait: self.max_wait,
            order: if self.endless {
                Order::Fifo
            } else {
                Order::AdaptiveLifo
            },
            endless: self.endless,
        })
    }
}

impl Law {
    fn of(self, work: &Work, seed: u64) -> Box<dyn Limit> {
        match self {
            Self::Adaptive(one) => {
                let floor = work.cores.max(4);
                let start = (2 * work.cores).max(4);
                let law = Adaptive::new().floor(floor).start(start);
                Box::new(law.seed(one.unwrap_or(seed)))
            }
            Self::Fixed(limit) => Box::new(Fixed(limit)),
            Self::Aimd => Box::new(Told::new(Windowed::new(Aimd::default()))),
            Self::Vegas => Box::new(Told::new(Vegas::new(seed))),
            Self::VegasWindowed => Box::new(Told::new(Windowed::new(Vegas::new(seed)))),
            Self::Gradient2(most) => Box::new(Told::new(Windowed::new(Gradient2::up_to(most)))),
            Self::Envoy => Box::new(Told::new(Envoy::new(0.5, seed))),
            Self::ResilienceAimd => Box::new(Told::new(ResilienceAimd::default())),
            Self::ResilienceVegas => Box::new(Told::new(ResilienceVegas::default())),
            Self::Clock => Box::new(Clock::default()),
            Self::RunQueue => {
                let target = Duration::from_millis(20);
                Box::new(Told::new(RunQueue::new(target, work.cores)))
            }
        }
    }
}

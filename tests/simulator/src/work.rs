//! What the requests ask for, and of how many processors.

use crate::chance::Chance;

/// How long something takes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Time {
    /// Always as long.
    Constant(f64),
    /// This mean, and any.
    Exponential(f64),
    /// Short, and in this part of the cases long.
    Bimodal {
        /// Most of the time.
        short: f64,
        /// Seldom.
        long: f64,
        /// How seldom.
        part: f64,
    },
    /// With this mean and coefficient of variation.
    Lognormal {
        /// The mean.
        mean: f64,
        /// Standard deviation by mean.
        variation: f64,
    },
    /// With this mean and a tail of exponent 1.5, whose variance is infinite; cut at a thousand times the mean.
    Pareto(f64),
}

impl Time {
    /// The expected time.
    #[must_use]
    pub fn mean(self) -> f64 {
        match self {
            Self::Constant(mean)
            | Self::Exponential(mean)
            | Self::Pareto(mean)
            | Self::Lognormal { mean, .. } => mean,
            Self::Bimodal { short, long, part } => short + part * (long - short),
        }
    }

    /// One of them.
    pub fn draw(self, chance: &mut Chance) -> f64 {
        match self {
            Self::Constant(time) => time,
            Self::Exponential(mean) => chance.exponential(mean),
            Self::Bimodal { short, long, part } => {
                if chance.part() < part {
                    long
                } else {
                    short
                }
            }
            Self::Lognormal { mean, variation } => {
                let variance = (1.0 + variation * variation).ln();
                let radius = (-2.0 * chance.part().ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * chance.part()).cos();
                (mean.ln() - variance / 2.0 + variance.sqrt() * normal).exp()
            }
            // The mean is thrice the least.
            Self::Pareto(mean) => (mean / 3.0 * chance.part().powf(-1.0 / 1.5)).min(1_000.0 * mean),
        }
    }
}

/// A kind of requests, and the server they are for.
#[derive(Clone, Debug)]
pub struct Work {
    /// What it is called in tables.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Of a processor: three fifths before the input and output, two after.
    pub processor: Time,
    /// Of something that all can have at once.
    pub io: Time,
    /// Processors, or the places of a pool.
    pub cores: usize,
    /// A response later than this is worth nothing, in seconds.
    pub objective: f64,
    /// The client leaves then, in seconds.
    pub timeout: f64,
    /// Of a processor, for a request that is refused, in seconds.
    pub refusal: f64,
    /// Whether the law is told how long the run queue is. A pool's is hidden.
    pub visible: bool,
    /// Which part of the clients read slowly, and for how long their response then holds its slot, in seconds.
    pub slow_readers: (f64, f64),
}

impl Work {
    /// What can be served in a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    pub fn capacity(&self) -> f64 {
        self.cores as f64 / self.processor.mean()
    }

    /// Which part of that is left at `load` times as much as can be served, when each refusal costs what it costs.
    #[must_use]
    pub fn ceiling(&self, load: f64) -> f64 {
        let cost = self.refusal / self.processor.mean();
        if load <= 1.0 {
            1.0
        } else {
            (1.0 - load * cost) / (1.0 - cost)
        }
    }

    fn new(name: &'static str, about: &'static str, processor: Time, cores: usize) -> Self {
        Self {
            name,
            about,
            processor,
            io: Time::Constant(0.0),
            cores,
            objective: 0.25,
            timeout: 1.0,
            refusal: 20e-6,
            visible: false,
            slow_readers: (0.0, 0.0),
        }
    }

    /// A: 5 ms of four processors and 45 ms of something else, both exponential.
    #[must_use]
    pub fn mixed() -> Self {
        Self {
            io: Time::Exponential(0.045),
            ..Self::new(
                "A",
                "5 ms of 4 processors and 45 ms of I/O, both exponential; within 250 ms",
                Time::Exponential(0.005),
                4,
            )
        }
    }

    /// B: most take 2 ms of four processors, one in twenty 62 ms.
    #[must_use]
    pub fn bimodal() -> Self {
        let time = Time::Bimodal {
            short: 0.002,
            long: 0.062,
            part: 0.05,
        };
        Self::new(
            "B",
            "2 ms of 4 processors, one in twenty 62 ms; within 250 ms",
            time,
            4,
        )
    }

    /// C: 5 ms of four processors, always, and a tight objective.
    #[must_use]
    pub fn constant() -> Self {
        Self {
            objective: 0.05,
            ..Self::new(
                "C",
                "5 ms of 4 processors, always; within 50 ms",
                Time::Constant(0.005),
                4,
            )
        }
    }

    /// D: ten in a second, of one processor.
    #[must_use]
    pub fn slow() -> Self {
        Self {
            io: Time::Exponential(0.2),
            objective: 1.5,
            timeout: 5.0,
            ..Self::new(
                "D",
                "100 ms of 1 processor and 200 ms of I/O, both exponential; within 1.5 s",
                Time::Exponential(0.1),
                1,
            )
        }
    }

    /// E: as A, but processor times vary twice as much as they last.
    #[must_use]
    pub fn lognormal() -> Self {
        Self {
            processor: Time::Lognormal {
                mean: 0.005,
                variation: 2.0,
            },
            name: "E",
            about: "as A, but lognormal with a coefficient of variation of 2",
            ..Self::mixed()
        }
    }

    /// F: a pool of fifty places, with times whose variance is infinite.
    #[must_use]
    pub fn heavy() -> Self {
        Self {
            objective: 0.5,
            ..Self::new(
                "F",
                "20 ms of a pool of 50, Pareto with exponent 1.5; within 500 ms",
                Time::Pareto(0.02),
                50,
            )
        }
    }

    /// A to D: those that must be met.
    #[must_use]
    pub fn all() -> [Self; 4] {
        [
            Self::mixed(),
            Self::bimodal(),
            Self::constant(),
            Self::slow(),
        ]
    }

    /// The same, with a run queue that can be seen.
    #[must_use]
    pub fn visible(self) -> Self {
        Self {
            visible: true,
            ..self
        }
    }
}

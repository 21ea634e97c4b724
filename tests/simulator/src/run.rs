//! What came of it.

use crate::{room::CLASSES, world::Scenario};

/// In nanoseconds.
const BIN: u64 = 100_000_000;

/// A tenth of a second, all servers together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bin {
    /// Requests that came, those that came again among them.
    pub came: u32,
    /// Answered within the objective.
    pub good: u32,
    /// Answered too late.
    pub late: u32,
    /// Refused.
    pub refused: u32,
    /// Whose client left.
    pub left: u32,
    /// Who comes back in this tenth because it was told to.
    pub returns: u32,
    /// The limit of the first server, at the end.
    pub limit: u32,
}

/// The same, of one class, from when on it is counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Requests that came.
    pub came: f64,
    /// Answered within the objective.
    pub good: f64,
    /// Answered.
    pub served: f64,
    /// Refused.
    pub refused: f64,
    /// Whose client left.
    pub left: f64,
}

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Run {
    /// Each tenth of a second.
    pub bins: Vec<Bin>,
    /// By class.
    pub sums: [Sum; CLASSES],
    /// By server.
    pub servers: Vec<Sum>,
    /// For how many seconds that was counted.
    pub seconds: f64,
    /// When the limit of the first server moved, in seconds; to what, and why. The first thousands.
    pub course: Vec<(f64, usize, &'static str)>,
    latencies: Vec<u64>,
    objective: u64,
    from: u64,
    last: usize,
}

impl Run {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times"
    )]
    pub(crate) fn new(scenario: &Scenario<'_>) -> Self {
        let bins = (scenario.duration * 10.0).ceil() as usize + 1;
        Self {
            bins: vec![Bin::default(); bins],
            sums: [Sum::default(); CLASSES],
            servers: vec![Sum::default(); scenario.servers],
            seconds: scenario.duration - scenario.from,
            course: Vec::new(),
            latencies: vec![0; 1024],
            objective: (scenario.work.objective * 1e9) as u64,
            from: (scenario.from * 1e9) as u64,
            last: usize::MAX,
        }
    }

    fn bin(&mut self, now: u64) -> Option<&mut Bin> {
        let bin = usize::try_from(now / BIN).unwrap_or(usize::MAX);
        self.bins.get_mut(bin)
    }

    /// Those that it belongs to.
    fn sums(&mut self, now: u64, server: usize, class: u8) -> impl Iterator<Item = &mut Sum> {
        let sums = [
            &mut self.sums[usize::from(class)],
            &mut self.servers[server],
        ];
        let counts = now >= self.from;
        sums.into_iter().filter(move |_| counts)
    }

    pub(crate) fn arrived(&mut self, now: u64, server: usize, class: u8) {
        if let Some(bin) = self.bin(now) {
            bin.came += 1;
        }
        for sum in self.sums(now, server, class) {
            sum.came += 1.0;
        }
    }

    pub(crate) fn served(&mut self, now: u64, server: usize, class: u8, took: u64) {
        let good = took <= self.objective;
        if let Some(bin) = self.bin(now) {
            bin.good += u32::from(good);
            bin.late += u32::from(!good);
        }
        for sum in self.sums(now, server, class) {
            sum.served += 1.0;
            sum.good += f64::from(u8::from(good));
        }
        if now >= self.from {
            self.latencies[bucket(took)] += 1;
        }
    }

    pub(crate) fn refused(&mut self, now: u64, server: usize, class: u8) {
        if let Some(bin) = self.bin(now) {
            bin.refused += 1;
        }
        for sum in self.sums(now, server, class) {
            sum.refused += 1.0;
        }
    }

    pub(crate) fn left(&mut self, now: u64, server: usize, class: u8) {
        if let Some(bin) = self.bin(now) {
            bin.left += 1;
        }
        for sum in self.sums(now, server, class) {
            sum.left += 1.0;
        }
    }

    pub(crate) fn returns(&mut self, at: u64, told: bool) {
        if let Some(bin) = self.bin(at) {
            bin.returns += u32::from(told);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a time")]
    pub(crate) fn limit(&mut self, now: u64, limit: usize, why: &'static str) {
        if limit == self.last {
            return;
        }
        self.last = limit;
        let low = u32::try_from(limit).unwrap_or(u32::MAX);
        if let Some(bin) = self.bin(now) {
            bin.limit = low;
        }
        if self.course.len() < 100_000 {
            self.course.push((now as f64 / 1e9, limit, why));
        }
    }

    pub(crate) fn end(&mut self, end: u64) {
        let bins = usize::try_from(end.div_ceil(BIN)).unwrap_or(usize::MAX);
        self.bins.truncate(bins);
        let mut limit = 0;
        for bin in &mut self.bins {
            if bin.limit == 0 {
                bin.limit = limit;
            }
            limit = bin.limit;
        }
    }

    /// All classes together.
    #[must_use]
    pub fn sum_of_all(&self) -> Sum {
        self.sums.iter().fold(Sum::default(), |all, one| Sum {
            came: all.came + one.came,
            good: all.good + one.good,
            served: all.served + one.served,
            refused: all.refused + one.refused,
            left: all.left + one.left,
        })
    }

    /// Good answers in a second.
    #[must_use]
    pub fn goodput(&self) -> f64 {
        self.sum_of_all().good / self.seconds
    }

    /// Which part was refused.
    #[must_use]
    pub fn refused_part(&self) -> f64 {
        let sum = self.sum_of_all();
        sum.refused / sum.came.max(1.0)
    }

    /// Good answers in a second, between two times.
    #[must_use]
    pub fn goodput_between(&self, from: f64, to: f64) -> f64 {
        let good: u32 = self.between(from, to).iter().map(|bin| bin.good).sum();
        f64::from(good) / (to - from)
    }

    /// The tenths of a second between two times.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time"
    )]
    pub fn between(&self, from: f64, to: f64) -> &[Bin] {
        let bin = |time: f64| ((time * 10.0).round() as usize).min(self.bins.len());
        &self.bins[bin(from)..bin(to)]
    }

    /// The mean limit of the first server between two times.
    #[must_use]
    pub fn limit_between(&self, from: f64, to: f64) -> f64 {
        let bins = self.between(from, to);
        let sum: f64 = bins.iter().map(|bin| f64::from(bin.limit)).sum();
        sum / real(bins.len().max(1))
    }

    /// How long an answer took that is later than this part of them, in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a part")]
    pub fn latency(&self, part: f64) -> f64 {
        let all: u64 = self.latencies.iter().sum();
        let mut left = all as f64 * part;
        for (bucket, &count) in self.latencies.iter().enumerate() {
            left -= count as f64;
            if left <= 0.0 {
                return time_of(bucket);
            }
        }
        f64::NAN
    }
}

#[expect(clippy::cast_precision_loss, reason = "few")]
pub(crate) fn real(number: usize) -> f64 {
    number as f64
}

/// Two in a hundred are one.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a logarithm"
)]
fn bucket(nanoseconds: u64) -> usize {
    let microseconds = (nanoseconds as f64 / 1e3).max(1.0);
    ((microseconds.ln() / 0.02) as usize).min(1023)
}

#[expect(clippy::cast_precision_loss, reason = "a bucket")]
fn time_of(bucket: usize) -> f64 {
    ((bucket as f64 + 0.5) * 0.02).exp() / 1e6
}

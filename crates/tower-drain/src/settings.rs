use std::time::Duration;

use tokio::time::Instant;
use tower_connection::FOREVER;

/// What a [`Drain`](crate::Drain) was told before it began.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) lame_duck: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) last_chance: Duration,
    pub(crate) arriving: Duration,
    pub(crate) spread: Duration,
}

impl Settings {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            lame_duck: Duration::ZERO,
            timeout: (!timeout.is_zero()).then(|| timeout.min(FOREVER)),
            last_chance: Duration::from_millis(120),
            arriving: Duration::from_millis(500),
            spread: Duration::ZERO,
        }
    }

    /// How long after the listener closes an idle connection of this number is closed, at the earliest.
    pub(crate) fn idle_until(&self, number: u64) -> Duration {
        self.last_chance + self.offset(number)
    }

    pub(crate) fn deadline(&self, stopped_at: Instant) -> Option<Instant> {
        Some(stopped_at + self.timeout?)
    }

    /// When, within the window, the connection of this number is closed. Neighbours are far from each other, and
    /// any few are spread evenly: multiples of the golden ratio are (Knuth, volume 3, section 6.4).
    ///
    /// The window is within the timeout, as who is closed later would be reset.
    pub(crate) fn offset(&self, number: u64) -> Duration {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 / phi
        #[expect(clippy::cast_precision_loss, reason = "a fraction, roughly")]
        let fraction = number.wrapping_mul(GOLDEN) as f64 / u64::MAX as f64;
        let window = self.timeout.map_or(self.spread, |timeout| {
            let longest = timeout.saturating_sub(self.last_chance);
            self.spread.min(longest.mul_f64(0.9))
        });
        window.mul_f64(fraction.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_are_spread_evenly_over_the_window() {
        let mut settings = Settings::new(Duration::ZERO);
        settings.spread = Duration::from_secs(10);
        let offsets: Vec<_> = (1_000..3_000).map(|n| settings.offset(n)).collect();
        for second in 0..10 {
            let bin = Duration::from_secs(second)..Duration::from_secs(second + 1);
            let ends = offsets.iter().filter(|offset| bin.contains(offset)).count();
            assert!((190..=210).contains(&ends), "{bin:?}: {ends}");
        }
    }

    #[test]
    fn the_window_ends_before_the_timeout() {
        let mut settings = Settings::new(Duration::from_secs(1));
        settings.spread = Duration::from_secs(10);
        let last = (0..1_000).map(|n| settings.idle_until(n)).max();
        assert!(
            last.is_some_and(|last| last < Duration::from_secs(1)),
            "{last:?}"
        );
    }

    #[test]
    fn without_a_window_nobody_waits() {
        assert_eq!(Settings::new(Duration::ZERO).offset(7), Duration::ZERO);
    }
}

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

/// Lets through so many events in a second, and counts the others: for a log that a client could flood.
///
/// A second begins with the first event that finds the one before over. What was suppressed is told with the next event that
/// passes, so that nothing is lost but the details; of a flood that is the last thing that happens, nothing tells the end.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_connection::Throttle;
///
/// static REFUSALS: Throttle = Throttle::new(2);
///
/// fn log() -> Option<String> {
///     let suppressed = REFUSALS.pass()?;
///     Some(format!("refused a client, and {suppressed} before it"))
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let logged = (0..10).filter_map(|_| log()).count();
/// assert_eq!(logged, 2);
/// tokio::time::advance(Duration::from_secs(1)).await;
/// assert_eq!(log().as_deref(), Some("refused a client, and 8 before it"));
/// # }
/// ```
#[derive(Debug)]
pub struct Throttle {
    per_second: u64,
    /// Of its first event.
    start: OnceLock<Instant>,
    /// When this second began, in milliseconds since the start; and in the lower bits, how many have passed in it. One
    /// word: with two, who begins a second could pass with who counts in the one before.
    second: AtomicU64,
    suppressed: AtomicU64,
}

/// How many may pass in a second: the rest of the word is enough for 34 years.
const ROOM: u64 = 1 << 24;

impl Throttle {
    /// Lets through `per_second` events; zero is none. More than 16,777,215 are as many.
    #[must_use]
    pub const fn new(per_second: u32) -> Self {
        let per_second = per_second as u64;
        Self {
            per_second: if per_second < ROOM {
                per_second
            } else {
                ROOM - 1
            },
            start: OnceLock::new(),
            second: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether this event passes: if so, how many were suppressed since the last that did.
    ///
    /// ```
    /// # use tower_connection::Throttle;
    /// let throttle = Throttle::new(1);
    /// assert_eq!(throttle.pass(), Some(0));
    /// assert_eq!(throttle.pass(), None);
    /// ```
    pub fn pass(&self) -> Option<u64> {
        let now = self.millisecond();
        // Relaxed, as all here: which of two events at once is the last to pass matters to nobody.
        let passes = |second: u64| {
            let over = now.saturating_sub(second / ROOM) >= 1_000;
            let second = if over { now * ROOM } else { second };
            (second % ROOM < self.per_second).then_some(second + 1)
        };
        let passed = self
            .second
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, passes);
        if passed.is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }

    fn millisecond(&self) -> u64 {
        let now = Instant::now();
        let start = *self.start.get_or_init(|| now);
        // Rounded down, so a second may be up to a millisecond short.
        u64::try_from(now.duration_since(start).as_millis()).unwrap_or(0)
    }
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use std::{sync::Barrier, thread, time::Duration};

    use tokio::{runtime::Handle, time::advance};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn so_many_pass_in_a_second_and_then_it_begins_anew() {
        // OBS-2
        let throttle = Throttle::new(3);
        let pass = || [(); 5].map(|()| throttle.pass());
        assert_eq!(pass(), [Some(0), Some(0), Some(0), None, None]);
        advance(999 * MS).await;
        assert_eq!(throttle.pass(), None);
        advance(MS).await;
        assert_eq!(pass(), [Some(3), Some(0), Some(0), None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_begins_with_its_first_event() {
        let throttle = Throttle::new(1);
        assert_eq!(throttle.pass(), Some(0));
        advance(1_900 * MS).await;
        assert_eq!(throttle.pass(), Some(0));
        advance(999 * MS).await;
        assert_eq!(throttle.pass(), None);
        advance(MS).await;
        assert_eq!(throttle.pass(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_suppressed_is_told_however_long_it_was_quiet() {
        let throttle = Throttle::new(1);
        assert_eq!([(); 3].map(|()| throttle.pass()), [Some(0), None, None]);
        advance(3_600_000 * MS).await;
        assert_eq!(throttle.pass(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_lets_nothing_through() {
        let throttle = Throttle::new(0);
        assert_eq!(throttle.pass(), None);
        advance(1_000 * MS).await;
        assert_eq!(throttle.pass(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_crowd_no_more_pass_and_nobody_is_forgotten() {
        let throttle = Throttle::new(100);
        let (clock, all) = (Handle::current(), Barrier::new(4));
        let crowd = || {
            let _paused = clock.enter();
            all.wait();
            let passed = (0..1_000).filter_map(|_| throttle.pass());
            passed.collect::<Vec<_>>()
        };
        let passed = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(crowd));
            threads.map(|thread| thread.join().expect("nobody panicked"))
        });
        let told = passed.concat();
        assert_eq!(told.len(), 100);
        let untold = throttle.suppressed.load(Ordering::Relaxed);
        assert_eq!(told.iter().sum::<u64>() + untold, 3_900);
    }
}

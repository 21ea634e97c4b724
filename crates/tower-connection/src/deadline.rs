use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// A deadline that can be moved for nothing.
///
/// Setting it stores an instant. A timer is registered when somebody first waits for it, and one
/// that fires before the deadline (it was moved later meanwhile) is re-armed then: a deadline that
/// each request pushes forward costs one timer per period, not one per request. It is [`Unpin`].
///
/// A deadline that is noticed 50 ms late, because the process was stopped or starved, is put off once, by 20
/// ms: what has arrived in the meantime waits in the kernel, and is seen before somebody is blamed for silence.
///
/// # Examples
///
/// ```
/// use std::{future::poll_fn, time::Duration};
/// use tokio::time::Instant;
/// use tower_connection::Deadline;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let start = Instant::now();
/// let mut idle = Deadline::default();
/// idle.set(start + Duration::from_secs(5));
/// idle.set(start + Duration::from_secs(7)); // a request came
/// poll_fn(|cx| idle.poll(cx)).await;
/// assert_eq!(start.elapsed(), Duration::from_secs(7));
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    /// The deadline that was noticed late, and until when it is put off.
    put_off: Option<(Instant, Instant)>,
    // Boxed, because a socket must be `Unpin`; lazy, because most deadlines are never waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whom the timer wakes: it is asked no more than needed, as that is most of what a deadline costs.
    waker: Option<Waker>,
}

/// A process that gets its time notices a deadline earlier than so long after it.
///
/// ```
/// # use std::time::Duration;
/// # use tower_connection::LATE;
/// assert_eq!(LATE, Duration::from_millis(50));
/// ```
pub const LATE: Duration = Duration::from_millis(50);

/// Time for the runtime to look at its sockets. (After SIGSTOP, tokio 1.54 may turn its timers first.)
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// The longest time that a setting means: longer than any process runs, and short enough to be added to any
/// instant.
///
/// ```
/// # use std::time::Duration;
/// # use tokio::time::Instant;
/// # use tower_connection::FOREVER;
/// let timeout = Duration::MAX.min(FOREVER);
/// let _deadline = Instant::now() + timeout; // does not overflow
/// ```
pub const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

impl Deadline {
    /// Ends at `at`, earlier or later than before. Does not touch the timer.
    pub fn set(&mut self, at: Instant) {
        self.at = Some(at);
    }

    /// Never ends. Keeps the timer's allocation for the next [`set`](Deadline::set).
    pub fn clear(&mut self) {
        self.at = None;
    }

    /// When it ends.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it passed so long before `now` that the process was stopped or starved meanwhile.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tokio::time::Instant;
    /// # use tower_connection::Deadline;
    /// let mut deadline = Deadline::default();
    /// let at = Instant::now();
    /// deadline.set(at);
    /// assert!(!deadline.was_missed(at + Duration::from_millis(49)));
    /// assert!(deadline.was_missed(at + Duration::from_millis(50)));
    /// ```
    #[must_use]
    pub fn was_missed(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at + LATE <= now)
    }

    /// Ready once the deadline has passed; pending while there is none.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(asked) = self.at else {
            return Poll::Pending;
        };
        let mut at = match self.put_off {
            Some((late, until)) if late == asked => until,
            _ => asked,
        };
        let timer = match &mut self.timer {
            Some(timer) => timer,
            timer => timer.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        // An armed timer that ends earlier wakes us once for nothing, which is cheaper than moving
        // it every time. One that ends later, or has ended, would not wake us at all.
        if timer.deadline() > at || timer.is_elapsed() {
            timer.as_mut().reset(at);
        } else if (self.waker.as_ref()).is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let mut looked;
        loop {
            looked = tokio::task::coop::has_budget_remaining();
            let fired = timer.as_mut().poll(cx).is_ready();
            // With the task's budget spent, tokio may not have looked at the timer (1.54, `time/sleep.rs`). Who is asked
            // with nothing left each time, as something always comes, would never end.
            if !fired && (looked || Instant::now() < at) {
                break;
            }
            if !fired || timer.deadline() >= at {
                let now = Instant::now();
                if at != asked || now < asked + LATE {
                    return Poll::Ready(());
                }
                at = now + SECOND_LOOK;
                self.put_off = Some((asked, at));
            }
            timer.as_mut().reset(at);
        }
        self.waker = looked.then(|| cx.waker().clone());
        Poll::Pending
    }
}

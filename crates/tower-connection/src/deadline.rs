use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

/// A deadline that can be moved for nothing.
///
/// Setting it stores an instant. A timer is registered when somebody first waits for it, and one
/// that fires before the deadline (it was moved later meanwhile) is re-armed then: a deadline that
/// each request pushes forward costs one timer per period, not one per request. It is [`Unpin`].
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
    // Boxed, because a socket must be `Unpin`; lazy, because most deadlines are never waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

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

    /// Ready once the deadline has passed; pending while there is none.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let timer = match &mut self.timer {
            Some(timer) => timer,
            timer => timer.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        // An armed timer that ends earlier wakes us once for nothing, which is cheaper than moving
        // it every time. One that ends later, or has ended, would not wake us at all.
        if timer.deadline() > at || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
        Poll::Pending
    }
}

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_connection::Deadline;

/// What to do when `accept(2)` fails: nothing, or wait a little longer each time.
///
/// Out of descriptors or memory, the next `accept(2)` fails at once, and a loop without a pause burns a
/// core while it could be closing connections. Five milliseconds doubling to a second are the numbers
/// of Go's `net/http`.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    pause: Duration,
    until: Deadline,
}

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

impl Backoff {
    /// `accept(2)` worked.
    pub(crate) fn reset(&mut self) {
        self.pause = Duration::ZERO;
    }

    /// `accept(2)` failed. Returns the pause, if the error is worth one.
    pub(crate) fn on(&mut self, error: &io::Error, now: Instant) -> Option<Duration> {
        if concerns_one_client(error) {
            return None;
        }
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        self.until.set(now + self.pause);
        Some(self.pause)
    }

    /// Ready when there is no pause (any more).
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.until.at().is_some() {
            std::task::ready!(self.until.poll(cx));
            self.until.clear();
        }
        Poll::Ready(())
    }
}

/// Whether the error is about a client that is already gone: Linux reports on `accept(2)` what went
/// wrong with the connection before.
pub(crate) fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_start_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let full = io::Error::from_raw_os_error(24); // EMFILE
        let now = Instant::now();
        let pauses: Vec<_> = (0..10)
            .filter_map(|_| backoff.on(&full, now))
            .map(|pause| pause.as_millis())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);

        backoff.reset();
        assert_eq!(backoff.on(&full, now), Some(FIRST));
    }

    #[test]
    fn a_client_that_left_costs_no_pause() {
        let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(Backoff::default().on(&gone, Instant::now()), None);
    }
}

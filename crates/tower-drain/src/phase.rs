use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering},
};

use tokio::time::Instant;

/// How far a drain has come. It only ever grows.
///
/// ```
/// # use tower_drain::Phase;
/// assert!(Phase::Serving < Phase::LameDuck);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nobody has asked for an end.
    #[default]
    Serving,
    /// Everybody is still served, and answers say that their connections end.
    LameDuck,
    /// The backlog is accepted, the listener closed, and what runs may finish.
    Draining,
    /// What is left is reset.
    Cutting,
    /// It is over.
    Finished,
}

const PHASES: [Phase; 5] = [
    Phase::Serving,
    Phase::LameDuck,
    Phase::Draining,
    Phase::Cutting,
    Phase::Finished,
];

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serving => "serving",
            Self::LameDuck => "lame duck",
            Self::Draining => "draining",
            Self::Cutting => "cutting",
            Self::Finished => "finished",
        })
    }
}

/// The phase, for who asks at each request. Whoever must not miss a change is told of it otherwise, or asks under
/// the lock under which it is made.
#[derive(Debug, Default)]
pub(crate) struct Current(AtomicU8);

impl Current {
    pub(crate) fn get(&self) -> Phase {
        // Relaxed: see above.
        PHASES[usize::from(self.0.load(Ordering::Relaxed))]
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }
}

/// What a server that ends still waits for.
///
/// ```
/// # use std::time::Duration;
/// # use tower_drain::{Drain, Phase};
/// let watch = Drain::new(Duration::from_secs(30)).watch();
/// assert_eq!(watch.progress().phase, Phase::Serving);
/// assert_eq!(watch.progress().connections, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How far it has come.
    pub phase: Phase,
    /// How many connections are open: sockets, from accept to close.
    pub connections: usize,
    /// How many requests are in flight on them, each until the end of its response body.
    pub requests: usize,
    /// How many of the connections are no longer HTTP (a WebSocket over HTTP/1).
    pub upgraded: usize,
    /// When what is left will be reset, once that is known.
    pub deadline: Option<Instant>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            phase,
            connections,
            requests,
            upgraded,
            deadline,
        } = self;
        write!(
            f,
            "{phase}: {connections} connections ({upgraded} upgraded), {requests} requests"
        )?;
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            write!(f, ", {:.1} s left", left.as_secs_f64())?;
        }
        Ok(())
    }
}

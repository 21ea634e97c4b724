use tower_connection::{ConnectionHandle, Label, Tally, Throttle};
use tracing::debug;

/// Why a connection was ended.
///
/// ```
/// # use tower_keep_alive::{KeepAliveLayer, Reason};
/// let ends = KeepAliveLayer::default().ends();
/// for &reason in Reason::ALL {
///     println!("connections_ended_total{{reason=\"{}\"}} {}", reason.as_str(), ends.of(reason));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody was using it.
    Idle,
    /// It was [old](crate::KeepAliveLayer::max_age).
    Age,
    /// It had served [as many requests](crate::KeepAliveLayer::max_requests) as it may.
    Requests,
}

impl Reason {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Idle, Self::Age, Self::Requests];

    /// In lower case, for a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Age => "age",
            Self::Requests => "requests",
        }
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

/// What a layer tells of the connections that it ended.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) tally: Tally<Reason>,
    events: Throttle,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            tally: Tally::default(),
            events: Throttle::new(100),
        }
    }
}

impl Ends {
    pub(crate) fn note(&self, handle: &ConnectionHandle, reason: Reason) {
        self.tally.count(reason);
        let Some(suppressed) = self.events.pass() else {
            return;
        };
        let idle_for = handle.idle_since().map(|since| since.elapsed());
        debug!(
            peer = %handle.peer(), connection = %handle.id(), reason = reason.as_str(),
            idle_for = idle_for.map(tracing::field::debug), age = ?handle.age(),
            requests = handle.requests(), suppressed,
            "ended a connection"
        );
    }
}

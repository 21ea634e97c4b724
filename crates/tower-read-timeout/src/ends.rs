use std::time::Duration;

use tower_connection::{Address, ConnectionId, Label, Tally, Throttle};
use tracing::info;

/// What did not arrive in time.
///
/// ```
/// # use tower_read_timeout::{ReadTimeoutLayer, Reason};
/// let ends = ReadTimeoutLayer::default().ends();
/// for &reason in Reason::ALL {
///     println!("read_timeouts_total{{reason=\"{}\"}} {}", reason.as_str(), ends.of(reason));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handshake (TLS): no connection was made.
    Handshake,
    /// The first byte on a new connection.
    FirstByte,
    /// The rest of a head, or of HTTP/2's opening.
    Head,
    /// The rest of a body. On HTTP/2 only the stream ends.
    Body,
}

impl Reason {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Handshake, Self::FirstByte, Self::Head, Self::Body];

    /// In lower case, for a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::FirstByte => "first_byte",
            Self::Head => "head",
            Self::Body => "body",
        }
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

/// What a layer tells of who was too slow.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) tally: Tally<Reason>,
    events: Throttle,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            tally: Tally::default(),
            events: Throttle::new(10),
        }
    }
}

impl Ends {
    /// The client was waited for so long, and had sent so many bytes of what did not arrive, as far as is known.
    pub(crate) fn note(
        &self,
        reason: Reason,
        (peer, connection): (&Address, Option<ConnectionId>),
        waited: Duration,
        bytes: Option<u64>,
    ) {
        self.tally.count(reason);
        let Some(suppressed) = self.events.pass() else {
            return;
        };
        let connection = connection.map(tracing::field::display);
        info!(
            %peer, connection, reason = reason.as_str(), ?waited, bytes, suppressed,
            "gave up a client that is too slow to send its request"
        );
    }
}

use tower_connection::{Label, Tally, Throttle};

/// Why a client was given up.
///
/// ```
/// # use tower_write_timeout::{Reason, WriteTimeoutLayer};
/// let ends = WriteTimeoutLayer::default().ends();
/// for &reason in Reason::ALL {
///     println!("write_timeouts_total{{reason=\"{}\"}} {}", reason.as_str(), ends.of(reason));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It took nothing for [so long](crate::WriteTimeoutLayer::new).
    Stopped,
    /// It took less than the [rate](crate::WriteTimeoutLayer::min_rate).
    TooSlow,
    /// It had not taken everything by the [ceiling](crate::WriteTimeoutLayer::ceiling).
    TooLong,
    /// Of HTTP/2: it stopped in the middle of a frame, and while it does so no stream of its connection can be ended.
    MidFrame,
}

impl Reason {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Stopped, Self::TooSlow, Self::TooLong, Self::MidFrame];

    /// In lower case, for a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::TooSlow => "too_slow",
            Self::TooLong => "too_long",
            Self::MidFrame => "mid_frame",
        }
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

/// What a layer tells of the clients that it gave up.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) tally: Tally<Reason>,
    pub(crate) events: Throttle,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            tally: Tally::default(),
            events: Throttle::new(10),
        }
    }
}

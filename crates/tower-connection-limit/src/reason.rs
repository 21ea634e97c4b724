use tower_connection::Label;

/// Why a client was turned away.
///
/// ```
/// # use tower_connection_limit::{ConnectionLimitLayer, Reason};
/// let limit = ConnectionLimitLayer::new(1024).limit();
/// for &reason in Reason::ALL {
///     println!("connections_rejected_total{{reason=\"{}\"}} {}", reason.as_str(), limit.rejected_for(reason));
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// All permits were taken.
    Full,
    /// The client had [as many connections](crate::ConnectionLimitLayer::max_per_client) as one may have.
    PerClient,
    /// It asked for an upgrade, and there were [as many](crate::ConnectionLimitLayer::max_upgraded) as may be.
    Upgraded,
}

impl Reason {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Full, Self::PerClient, Self::Upgraded];

    /// In lower case, for a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::PerClient => "per_client",
            Self::Upgraded => "upgraded",
        }
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

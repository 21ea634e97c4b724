use tower_connection::Label;

/// Why a connection was reset; what [`ends`](crate::ProxyProtocolLayer::ends) counts by.
///
/// ```
/// # use tower_connection_proxy_protocol::Reason;
/// assert_eq!(Reason::Header.as_str(), "header");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It did not begin with a header, or with a malformed one.
    Header,
    /// Its peer [may not](crate::ProxyProtocolLayer::only_from) send one.
    Untrusted,
}

impl Reason {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Header, Self::Untrusted];

    /// In lower case, for a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Untrusted => "untrusted",
        }
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

//! The values of settings as text.

use std::time::Duration;

use tower_connection_limit::AtCapacity;

use super::{MaxConnections, MaxInFlight, ProxyProtocol};

/// A value that is set, and told, as text.
pub(super) trait Value {
    /// Takes what `text` says, if it is what [`form`](Value::form) promises.
    #[must_use]
    fn set(&mut self, text: &str) -> bool;

    /// What it takes, after the words "expected".
    fn form(&self) -> &'static str;

    fn text(&self) -> String;
}

fn put<T>(field: &mut T, parsed: Option<T>) -> bool {
    parsed.map(|parsed| *field = parsed).is_some()
}

impl Value for usize {
    fn set(&mut self, text: &str) -> bool {
        put(self, text.parse().ok())
    }

    fn form(&self) -> &'static str {
        "a number, or 0 for no limit"
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for u64 {
    fn set(&mut self, text: &str) -> bool {
        put(self, text.parse().ok())
    }

    fn form(&self) -> &'static str {
        "a number, or 0 for no limit"
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    fn set(&mut self, text: &str) -> bool {
        let parsed = match text {
            "0" => Some(Duration::ZERO),
            text => humantime::parse_duration(text).ok(),
        };
        put(self, parsed)
    }

    fn form(&self) -> &'static str {
        "a duration such as 5s, 500ms or 1m 30s, or 0 for none"
    }

    fn text(&self) -> String {
        if self.is_zero() {
            return "0".into();
        }
        humantime::format_duration(*self).to_string()
    }
}

impl Value for MaxConnections {
    fn set(&mut self, text: &str) -> bool {
        let parsed = match text {
            "auto" => Some(Self::Auto),
            n => n.parse().ok().map(Self::Fixed),
        };
        put(self, parsed)
    }

    fn form(&self) -> &'static str {
        "a number, 0 for no limit, or auto"
    }

    fn text(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Fixed(n) => n.to_string(),
        }
    }
}

impl Value for MaxInFlight {
    fn set(&mut self, text: &str) -> bool {
        let parsed = match text {
            "0" => Some(Self::Off),
            "adaptive" => Some(Self::Adaptive),
            n => n.parse().ok().map(Self::Fixed),
        };
        put(self, parsed)
    }

    fn form(&self) -> &'static str {
        "a number, 0 for no limit, or adaptive"
    }

    fn text(&self) -> String {
        match self {
            Self::Off => "0".into(),
            Self::Fixed(n) => n.to_string(),
            Self::Adaptive => "adaptive".into(),
        }
    }
}

impl Value for ProxyProtocol {
    fn set(&mut self, text: &str) -> bool {
        let parsed = match text {
            "off" => Some(Self::Off),
            "required" => Some(Self::Required),
            _ => None,
        };
        put(self, parsed)
    }

    fn form(&self) -> &'static str {
        "off or required"
    }

    fn text(&self) -> String {
        match self {
            Self::Off => "off".into(),
            Self::Required => "required".into(),
        }
    }
}

const AT_CAPACITY: [(&str, AtCapacity); 4] = [
    ("make-room", AtCapacity::MakeRoom),
    ("reject", AtCapacity::Reject),
    ("close", AtCapacity::Close),
    ("wait", AtCapacity::Wait),
];

impl Value for Vec<AtCapacity> {
    fn set(&mut self, text: &str) -> bool {
        let named = |text: &str| AT_CAPACITY.iter().find(|(name, _)| *name == text);
        let policies: Option<Vec<_>> = list(text).map(|name| Some(named(name)?.1)).collect();
        put(self, policies.filter(|policies| is_course(policies)))
    }

    fn form(&self) -> &'static str {
        "one or more of make-room, reject, close and wait, in the order in which they are tried; none can follow wait, and only wait can follow reject or close"
    }

    fn text(&self) -> String {
        let name = |policy: &AtCapacity| AT_CAPACITY.iter().find(|(_, named)| named == policy);
        let names = self.iter().filter_map(|policy| Some(name(policy)?.0));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// Whether each policy can be reached; `ConnectionLimitLayer::at_capacity` takes no others.
fn is_course(policies: &[AtCapacity]) -> bool {
    let step = |policy| match policy {
        AtCapacity::MakeRoom => 0,
        AtCapacity::Reject | AtCapacity::Close => 1,
        _ => 2,
    };
    !policies.is_empty()
        && policies
            .windows(2)
            .all(|pair| step(pair[0]) < step(pair[1]))
}

impl Value for Vec<String> {
    fn set(&mut self, text: &str) -> bool {
        let paths: Vec<_> = list(text).map(String::from).collect();
        let all = paths.iter().all(|path| path.starts_with('/'));
        put(self, all.then_some(paths))
    }

    fn form(&self) -> &'static str {
        "paths that begin with / (and end with * for all that begin so), with commas between them"
    }

    fn text(&self) -> String {
        self.join(", ")
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

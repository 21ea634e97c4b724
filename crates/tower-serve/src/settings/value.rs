//! The values of settings as text.

use std::{str::FromStr, time::Duration};

use tower_connection_limit::AtCapacity;

use super::{MaxConnections, MaxInFlight, ProxyProtocol};

/// A value that is set, and told, as text.
pub(super) trait Value {
    /// Takes what `text` says, if it is what [`form`](Value::form) promises. No blanks are around it.
    #[must_use]
    fn set(&mut self, text: &str) -> bool;

    /// What it takes, after the words "expected".
    fn form(&self) -> &'static str;

    /// Whether it is several, so that a file may have a list for it.
    #[cfg(feature = "serde")]
    fn is_list(&self) -> bool {
        false
    }

    fn text(&self) -> String;
}

fn put<T>(field: &mut T, parsed: Option<T>) -> bool {
    parsed.map(|parsed| *field = parsed).is_some()
}

impl Value for usize {
    fn set(&mut self, text: &str) -> bool {
        put(self, number(text))
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
        put(self, number(text))
    }

    fn form(&self) -> &'static str {
        "a number, or 0 for no limit"
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Not quite a thousand years: as good as for ever, and written so that it can be read.
const LONGEST: Duration = Duration::from_secs(999 * 365 * 86_400);

impl Value for Duration {
    fn set(&mut self, text: &str) -> bool {
        put(self, duration(text))
    }

    fn form(&self) -> &'static str {
        "a duration such as 5s, 500ms or 1m 30s, or 0 for none"
    }

    fn text(&self) -> String {
        if self.is_zero() {
            return "0".into();
        }
        humantime::format_duration(LONGEST.min(*self)).to_string()
    }
}

impl Value for MaxConnections {
    fn set(&mut self, text: &str) -> bool {
        let parsed = match text {
            "auto" => Some(Self::Auto),
            n => number(n).map(Self::Fixed),
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
            "adaptive" => Some(Self::Adaptive),
            n => number(n).map(|n| if n == 0 { Self::Off } else { Self::Fixed(n) }),
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
        let policies: Option<Vec<_>> = elements(text).map(|name| Some(named(name)?.1)).collect();
        put(self, policies.filter(|policies| is_course(policies)))
    }

    fn form(&self) -> &'static str {
        "one or more of make-room, reject, close and wait, in the order in which they are tried; none can follow wait, and only wait can follow reject or close"
    }

    #[cfg(feature = "serde")]
    fn is_list(&self) -> bool {
        true
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
        let paths: Vec<_> = elements(text).map(String::from).collect();
        let all = paths.iter().all(|path| is_path(path));
        put(self, all.then_some(paths))
    }

    fn form(&self) -> &'static str {
        PATHS
    }

    #[cfg(feature = "serde")]
    fn is_list(&self) -> bool {
        true
    }

    fn text(&self) -> String {
        self.join(", ")
    }
}

/// What a list of paths takes.
pub(crate) const PATHS: &str = "paths as they are asked for, with commas between them: each begins with /, may end with * \
                                for all that begin so, and has no query, pattern, blank or letter outside of ASCII";

/// Whether it is the path of a request, or the beginning of one. What was meant otherwise (a pattern of a router, a path with
/// its query) would never be found, and one with a comma or another star could not be told as text.
pub(crate) fn is_path(path: &str) -> bool {
    let literal = path.strip_suffix('*').unwrap_or(path);
    let plain = |c: char| c.is_ascii_graphic() && !"*?#{},".contains(c);
    path.starts_with('/') && literal.chars().all(plain)
}

/// Whether what is an element of a list is the same one in a text with commas.
#[cfg(feature = "serde")]
pub(super) fn is_element(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains(',')
}

/// Of a text with commas. A text of nothing has none; an empty one between two commas is one, which nothing takes.
fn elements(text: &str) -> impl Iterator<Item = &str> {
    let some = Some(text).filter(|text| !text.is_empty());
    some.into_iter()
        .flat_map(|text| text.split(',').map(str::trim))
}

/// Digits, and nothing else: no sign.
fn number<N: FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// As people write it. Of what humantime (2.4.0) takes, `M` is months, which nobody means; `1 5s` is fifteen seconds;
/// and what is just above the largest of all durations panics: so no number has more than ten digits.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let words: Vec<_> = text.split_whitespace().collect();
    let whole = |pair: &[&str]| !(pair[0].ends_with(is_digit) && pair[1].starts_with(is_digit));
    let whole = words.windows(2).all(whole);
    let short = text.len() <= 80 && text.split(|c| !is_digit(c)).all(|run| run.len() <= 10);
    if !whole || !short || text.contains('M') {
        return None;
    }
    let parsed = humantime::parse_duration(text).ok();
    parsed.filter(|duration| *duration <= LONGEST)
}

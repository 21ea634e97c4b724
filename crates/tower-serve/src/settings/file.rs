//! Settings in a file: a map of names, whose values are text, numbers or lists.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use super::{Settings, value::is_element};

/// A map from names to values, of any format that tells what it holds (TOML, JSON, YAML; not bincode). A number can be
/// written as such, and what is a list as one; `preset` says what they begin with, as in [`Settings::from_env`].
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Names)
    }
}

/// Each value as text, so that what is written can be read.
impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Settings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings by their names")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Settings, M::Error> {
        let mut named = Vec::new();
        while let Some((name, given)) = map.next_entry::<String, Given>()? {
            if named.iter().any(|(other, _)| *other == name) {
                return Err(de::Error::custom(format_args!("{name} is there twice")));
            }
            let text = given.text(&name).map_err(de::Error::custom)?;
            named.push((name, text));
        }
        let text = |wanted: &str| {
            named
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, text)| &**text)
        };
        let says_proxy = text("proxy_protocol").is_some();
        let mut settings =
            Settings::preset("preset", text("preset"), says_proxy).map_err(de::Error::custom)?;
        for (name, text) in named.iter().filter(|(name, _)| name != "preset") {
            settings.set(name, text).map_err(de::Error::custom)?;
        }
        Ok(settings)
    }
}

/// A value as text, however it was written.
enum Given {
    One(String),
    Many(Vec<String>),
}

impl Given {
    /// As the setting of this name takes it.
    fn text(self, name: &str) -> Result<String, String> {
        let texts = match self {
            Self::One(text) => return Ok(text),
            Self::Many(texts) => texts,
        };
        let mut settings = Settings::direct();
        let mut lists = settings
            .fields()
            .into_iter()
            .filter(|(_, value)| value.is_list());
        if !lists.any(|(list, _)| list == name) {
            return Err(format!("{name} takes no list"));
        }
        if !texts.iter().all(|text| is_element(text)) {
            return Err(format!(
                "{name} = {texts:?}: one of them is empty, or has a comma"
            ));
        }
        Ok(texts.join(", "))
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsText)
    }
}

struct AsText;

impl<'de> Visitor<'de> for AsText {
    type Value = Given;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a whole number or a list of text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Given, E> {
        Ok(Given::One(text.into()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Given, E> {
        Ok(Given::One(n.to_string()))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Given, E> {
        Ok(Given::One(n.to_string()))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Given, S::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            texts.push(text);
        }
        Ok(Given::Many(texts))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{MaxConnections, ProxyProtocol, Settings};

    fn read(text: &str) -> Result<Settings, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_changes_what_it_names() {
        let settings = read(
            r#"{"write_timeout": "10s", "max_connections": 50, "never_shed": ["/up", "/ready"]}"#,
        );
        let settings = settings.expect("right values");
        assert_eq!(settings.write_timeout, Duration::from_secs(10));
        assert_eq!(settings.max_connections, MaxConnections::Fixed(50));
        assert_eq!(settings.never_shed, ["/up", "/ready"]);
        assert_eq!(
            settings.keep_alive_timeout,
            Settings::direct().keep_alive_timeout
        );
    }

    #[test]
    fn a_file_says_what_it_begins_with_wherever_it_does() {
        let settings =
            read(r#"{"lame_duck": "7s", "proxy_protocol": "off", "preset": "behind-balancer"}"#);
        let mut expected = Settings::behind_balancer(ProxyProtocol::Off);
        expected.lame_duck = Duration::from_secs(7);
        assert_eq!(settings, Ok(expected));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_refused() {
        for (text, told) in [
            (r#"{"write_timout": "10s"}"#, "no such setting"),
            (
                r#"{"write_timeout": 10}"#,
                "write_timeout = \"10\": expected a duration",
            ),
            (r#"{"max_connections": -1}"#, "expected a number"),
            (r#"{"max_connections": true}"#, "whole number"),
            (
                r#"{"max_wait": "1s", "max_wait": "2s"}"#,
                "max_wait is there twice",
            ),
            (r#"{"preset": "behind-balancer"}"#, "wants proxy_protocol"),
            (
                r#"{"write_timeout": ["10s"]}"#,
                "write_timeout takes no list",
            ),
            (r#"{"preset": ["direct"]}"#, "preset takes no list"),
            (r#"{"never_shed": ["/a,/b"]}"#, "has a comma"),
            (r#"{"never_shed": [""]}"#, "is empty"),
            (r#"{"never_shed": ["/a?b"]}"#, "expected paths"),
        ] {
            let wrong = read(text).expect_err(text);
            assert!(wrong.contains(told), "{text}: {wrong}");
        }
    }

    #[test]
    fn a_list_may_have_nothing_in_it() {
        let settings = read(r#"{"never_shed": []}"#).expect("a list");
        assert!(settings.never_shed.is_empty());
    }

    #[test]
    fn what_is_written_is_read() {
        let settings = Settings::behind_balancer(ProxyProtocol::Required);
        let written = serde_json::to_string(&settings).expect("text");
        assert_eq!(read(&written), Ok(settings));
    }
}

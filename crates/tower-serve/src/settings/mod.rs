//! What can be set, each with its name, its value as people write it, and its default.

mod value;

#[cfg(feature = "serde")]
mod file;

use std::{env, error::Error, fmt, time::Duration};

use tower_connection_limit::AtCapacity;

use self::value::Value;
pub(crate) use self::value::{PATHS, is_path};

/// What a [`Preset`](crate::Preset) is made of: numbers, and nothing that runs.
///
/// Begin with [`direct`](Settings::direct) or [`behind_balancer`](Settings::behind_balancer), and change what is to be
/// otherwise; or read them [from the environment](Settings::from_env), or, with the feature `serde`, from a file. A number or a duration of zero
/// turns off what it bounds. Where each default comes from is in `docs/defaults.md`.
///
/// As text, a duration is written `5s`, `500ms`, `1m 30s`, or `0`; numbers are plain; lists have commas.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_serve::{MaxInFlight, Settings};
///
/// let mut settings = Settings::direct();
/// settings.write_timeout = Duration::from_secs(10);
/// settings.max_in_flight = MaxInFlight::Adaptive;
/// ```
///
/// By name:
///
/// ```
/// # use tower_serve::{Settings, SettingsError};
/// # fn main() -> Result<(), SettingsError> {
/// let mut settings = Settings::direct();
/// settings.set("write_timeout", "10s")?;
/// settings.set("at_capacity", "make-room, wait")?;
///
/// let wrong = settings.set("write_timeout", "soon").expect_err("no duration");
/// assert_eq!(
///     wrong.to_string(),
///     "write_timeout = \"soon\": expected a duration such as 5s, 500ms or 1m 30s, or 0 for none",
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How many connections may be open. Default is `auto`. Zero is no limit.
    pub max_connections: MaxConnections,
    /// What a client meets past that: `make-room`, `reject`, `close`, `wait`, or several of these to be tried in turn.
    /// Default is `make-room, reject, wait`.
    pub at_capacity: Vec<AtCapacity>,
    /// How many connections one client may have: an IPv4 address, a /64 of IPv6. Default is 0, which is no limit:
    /// thousands may be behind one address. Behind a balancer that does not name them by the PROXY protocol, it is the
    /// balancer that this bounds.
    pub max_connections_per_client: usize,
    /// How many requests may be in flight: a number, `adaptive`, or 0. Default is 0, which is no limit; see
    /// [`MaxInFlight`].
    pub max_in_flight: MaxInFlight,
    /// How long a request may wait for that. Default is 0: it is refused at once.
    pub max_wait: Duration,
    /// The paths whose requests are never refused for load, as they are asked for; what ends with `*` names all that begin
    /// so. Default is `/healthz, /livez, /metrics, /readyz, /status`. Nothing bounds how many of these there are: name none
    /// that costs anything, and take out those that your app answers otherwise (by a fallback, say).
    pub never_shed: Vec<String>,
    /// How long a connection may be idle. Default is 5 s, and 75 s behind a balancer. Zero is for ever.
    pub keep_alive_timeout: Duration,
    /// How many requests a connection serves. Default is 0, which is no limit.
    pub max_requests_per_connection: u64,
    /// How old a connection gets, give or take a tenth. Default is 0, which is no limit.
    pub max_connection_age: Duration,
    /// How long a PROXY protocol header and a TLS handshake may take together, and then a first byte, and then a head (or
    /// HTTP/2's opening).
    /// Default is 10 s. Zero is for ever.
    pub header_read_timeout: Duration,
    /// How long a body may bring no byte, and in all if it is slower than its rate. Default is 30 s. Zero does not bound bodies.
    pub body_read_timeout: Duration,
    /// How many bytes a second a body must bring on average, after that time. Default is 240. Zero is none.
    pub min_body_rate: u64,
    /// The paths whose bodies have no time limit, written as those of `never_shed`: requests whose client may be silent for
    /// long, whatever the service sends meanwhile. A gRPC call whose response has begun has none in any case. Default is
    /// none.
    pub untimed_bodies: Vec<String>,
    /// How long a client may take nothing of its response. Default is 30 s. Zero is for as long as it keeps the rate, which
    /// one that takes nothing does not: for ever is both of them zero.
    pub write_timeout: Duration,
    /// How many bytes a second it must take on average. Default is 240. Zero is none.
    pub min_write_rate: u64,
    /// How long what is running may go on once the listener is closed. Default is 30 s, and 20 s behind a balancer, so
    /// that the lame duck and it fit into the 30 s of Kubernetes. Zero is for ever.
    pub drain_timeout: Duration,
    /// How long everything is still served when the drain has begun, while readiness says no. Default is 0, which skips it,
    /// and 5 s behind a balancer.
    pub lame_duck: Duration,
    /// Whether each connection begins with a header that names the client. Default is `off`; behind a balancer it must
    /// be said.
    pub proxy_protocol: ProxyProtocol,
}

/// How many connections may be open.
///
/// ```
/// use tower_serve::{MaxConnections, Settings};
///
/// let mut settings = Settings::direct();
/// assert_eq!(settings.max_connections, MaxConnections::Auto);
/// settings.max_connections = MaxConnections::Fixed(10_000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxConnections {
    /// 1024 for each worker of the runtime, and no more than the process has descriptors for (`RLIMIT_NOFILE`) when a
    /// quarter of them is left to the rest of it. Both are looked up once, when a preset is made of it; outside of a runtime,
    /// a worker is a processor. As text, `auto`.
    #[default]
    Auto,
    /// So many. Zero is no limit.
    Fixed(usize),
}

/// How many requests may be in flight.
///
/// It is off by default. A limit must be known, or found: [`Adaptive`](tower_overload::Adaptive) finds it, and errs on the way. At ten
/// requests a second it refused one in a hundred at half the load that the server could bear (`docs/overload.md`), and it
/// cannot know that a route which answers after 30 s does so on purpose. A default must not refuse a request that
/// would have been answered. Turn it on where overload is the greater danger: above some fifty requests a second, with
/// answers that take milliseconds.
///
/// ```
/// use tower_serve::{MaxInFlight, Settings};
///
/// let mut settings = Settings::direct();
/// assert_eq!(settings.max_in_flight, MaxInFlight::Off);
/// settings.max_in_flight = MaxInFlight::Adaptive;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxInFlight {
    /// Any number. As text, `0`.
    #[default]
    Off,
    /// So many. Zero is any number, and so is what is above 2,097,150.
    Fixed(usize),
    /// As many as can be served without getting slower. As text, `adaptive`.
    Adaptive,
}

/// Whether each connection begins with a header of the PROXY protocol.
///
/// It must be said, and is not found out: where both kinds of connections are taken, whoever sends the header is whom
/// it likes (section 2 of the specification forbids it).
///
/// ```
/// use tower_serve::{ProxyProtocol, Settings};
///
/// let settings = Settings::behind_balancer(ProxyProtocol::Required);
/// assert_eq!(settings.proxy_protocol, ProxyProtocol::Required);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None does. Balancers that speak HTTP tell of the client in a header instead (`X-Forwarded-For`).
    #[default]
    Off,
    /// Each does, or is reset. Then only the balancer must be able to reach the port.
    Required,
}

impl Settings {
    /// For a server that clients reach directly.
    ///
    /// ```
    /// # use tower_serve::Settings;
    /// print!("{}", Settings::direct());
    /// ```
    #[must_use]
    pub fn direct() -> Self {
        Self {
            max_connections: MaxConnections::Auto,
            at_capacity: vec![AtCapacity::MakeRoom, AtCapacity::Reject, AtCapacity::Wait],
            max_connections_per_client: 0,
            max_in_flight: MaxInFlight::Off,
            max_wait: Duration::ZERO,
            never_shed: ["/healthz", "/livez", "/metrics", "/readyz", "/status"]
                .map(Into::into)
                .into(),
            keep_alive_timeout: Duration::from_secs(5),
            max_requests_per_connection: 0,
            max_connection_age: Duration::ZERO,
            header_read_timeout: Duration::from_secs(10),
            body_read_timeout: Duration::from_secs(30),
            min_body_rate: 240,
            untimed_bodies: Vec::new(),
            write_timeout: Duration::from_secs(30),
            min_write_rate: 240,
            drain_timeout: Duration::from_secs(30),
            lame_duck: Duration::ZERO,
            proxy_protocol: ProxyProtocol::Off,
        }
    }

    /// For a server behind a balancer: what is otherwise keeps a connection that the balancer reuses from ending under its
    /// request, and gives it time to learn that this server goes.
    ///
    /// Its own keep-alive must be shorter than 75 s (nginx' and AWS' are 60 s; Google's is 600 s: set 620 s here).
    ///
    /// ```
    /// # use tower_serve::{ProxyProtocol, Settings};
    /// // Behind nginx, which tells of the client in `X-Forwarded-For`.
    /// let settings = Settings::behind_balancer(ProxyProtocol::Off);
    /// # drop(settings);
    /// ```
    #[must_use]
    pub fn behind_balancer(proxy_protocol: ProxyProtocol) -> Self {
        Self {
            keep_alive_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(20),
            lame_duck: Duration::from_secs(5),
            proxy_protocol,
            ..Self::direct()
        }
    }

    /// From environment variables: the name of each setting in upper case, behind `prefix` and an underscore, such as
    /// `APP_WRITE_TIMEOUT=10s`.
    ///
    /// `APP_PRESET` is `direct`, which is the default, or `behind-balancer`, which wants `APP_PROXY_PROTOCOL` as well.
    /// Variables with other names are not looked at.
    ///
    /// # Errors
    ///
    /// The first value that is not what its setting takes; another `APP_PRESET`, or `behind-balancer` without
    /// `APP_PROXY_PROTOCOL`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_serve::{Settings, SettingsError};
    /// # fn main() -> Result<(), SettingsError> {
    /// let settings = Settings::from_env("APP")?;
    /// # Ok(()) }
    /// ```
    pub fn from_env(prefix: &str) -> Result<Self, SettingsError> {
        Self::from_variables(prefix, |name| env::var_os(name))
    }

    /// Changes what the environment says, as [`from_env`](Settings::from_env) does, but for the preset: over a file, say.
    ///
    /// # Errors
    ///
    /// The first value that is not what its setting takes; and `APP_PRESET`, which comes too late here: what these settings
    /// begin with has been said by who made them.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_serve::{ProxyProtocol, Settings, SettingsError};
    /// # fn main() -> Result<(), SettingsError> {
    /// let settings = Settings::behind_balancer(ProxyProtocol::Off).with_env("APP")?;
    /// # Ok(()) }
    /// ```
    pub fn with_env(mut self, prefix: &str) -> Result<Self, SettingsError> {
        self.change_by(prefix, |name| env::var_os(name))?;
        Ok(self)
    }

    /// Changes the setting of this name; see [`names`](Settings::names).
    ///
    /// # Errors
    ///
    /// If there is none, or `text` is not what it takes.
    ///
    /// ```
    /// # use tower_serve::Settings;
    /// let mut settings = Settings::direct();
    /// assert!(settings.set("lame_duck", "5s").is_ok());
    /// ```
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SettingsError> {
        let mut fields = self.fields();
        let Some((_, value)) = fields.iter_mut().find(|(field, _)| *field == name) else {
            let names: Vec<_> = Self::names().collect();
            return Err(SettingsError::new(
                name,
                text,
                format!("no such setting; there are {}", names.join(", ")),
            ));
        };
        if value.set(text.trim()) {
            return Ok(());
        }
        Err(SettingsError::new(
            name,
            text,
            format!("expected {}", value.form()),
        ))
    }

    /// The names of all settings, in the order of the fields.
    ///
    /// ```
    /// # use tower_serve::Settings;
    /// assert!(Settings::names().any(|name| name == "keep_alive_timeout"));
    /// ```
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::direct().fields().map(|(name, _)| name).into_iter()
    }

    /// Each setting with its value, as [`set`](Settings::set) takes it.
    ///
    /// ```
    /// # use tower_serve::Settings;
    /// let settings = Settings::direct();
    /// assert!(settings.iter().any(|(name, value)| (name, &*value) == ("keep_alive_timeout", "5s")));
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.clone()
            .fields()
            .map(|(name, value)| (name, value.text()))
            .into_iter()
    }

    /// All fields by their names, which are those of the fields. What is not here cannot be set as text.
    fn fields(&mut self) -> [(&'static str, &mut dyn Value); 18] {
        [
            ("max_connections", &mut self.max_connections),
            ("at_capacity", &mut self.at_capacity),
            (
                "max_connections_per_client",
                &mut self.max_connections_per_client,
            ),
            ("max_in_flight", &mut self.max_in_flight),
            ("max_wait", &mut self.max_wait),
            ("never_shed", &mut self.never_shed),
            ("keep_alive_timeout", &mut self.keep_alive_timeout),
            (
                "max_requests_per_connection",
                &mut self.max_requests_per_connection,
            ),
            ("max_connection_age", &mut self.max_connection_age),
            ("header_read_timeout", &mut self.header_read_timeout),
            ("body_read_timeout", &mut self.body_read_timeout),
            ("min_body_rate", &mut self.min_body_rate),
            ("untimed_bodies", &mut self.untimed_bodies),
            ("write_timeout", &mut self.write_timeout),
            ("min_write_rate", &mut self.min_write_rate),
            ("drain_timeout", &mut self.drain_timeout),
            ("lame_duck", &mut self.lame_duck),
            ("proxy_protocol", &mut self.proxy_protocol),
        ]
    }

    fn from_variables(
        prefix: &str,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Self, SettingsError> {
        let name = format!("{prefix}_PRESET");
        let preset = variable(&name).map(|text| text.to_string_lossy().into_owned());
        let says_proxy = variable(&format!("{prefix}_PROXY_PROTOCOL")).is_some();
        let mut settings = Self::preset(&name, preset.as_deref(), says_proxy)?;
        settings.set_from(prefix, variable)?;
        Ok(settings)
    }

    /// As `set_from`, where it has been said what they begin with.
    fn change_by(
        &mut self,
        prefix: &str,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<(), SettingsError> {
        let name = format!("{prefix}_PRESET");
        if let Some(text) = variable(&name) {
            let problem = "comes too late: these settings have begun with one already (in a file, it is its `preset`)";
            return Err(SettingsError::new(
                &name,
                &text.to_string_lossy(),
                problem.into(),
            ));
        }
        self.set_from(prefix, variable)
    }

    fn set_from(
        &mut self,
        prefix: &str,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<(), SettingsError> {
        for name in Self::names() {
            let variable_name = format!("{prefix}_{}", name.to_uppercase());
            if let Some(text) = variable(&variable_name) {
                // What is not Unicode becomes a sign that nothing takes.
                let set = self.set(name, &text.to_string_lossy());
                set.map_err(|wrong| SettingsError {
                    name: variable_name,
                    ..wrong
                })?;
            }
        }
        Ok(())
    }

    /// What the settings begin with, where a source says which under `name`.
    fn preset(name: &str, preset: Option<&str>, says_proxy: bool) -> Result<Self, SettingsError> {
        match preset.map(str::trim) {
            None | Some("direct") => Ok(Self::direct()),
            // Whether it is required is set with the others.
            Some("behind-balancer") if says_proxy => Ok(Self::behind_balancer(ProxyProtocol::Off)),
            Some(text @ "behind-balancer") => Err(SettingsError::new(
                name,
                text,
                "wants proxy_protocol as well: off or required, as the balancer sends it".into(),
            )),
            Some(text) => Err(SettingsError::new(
                name,
                text,
                "expected direct or behind-balancer".into(),
            )),
        }
    }
}

/// One line for each setting, `name = value`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            writeln!(f, "{name} = {value}")?;
        }
        Ok(())
    }
}

/// A setting that does not exist, or a value that it does not take.
///
/// ```
/// # use tower_serve::Settings;
/// let wrong = Settings::direct().set("max_wait", "5").expect_err("five of what?");
/// assert_eq!(wrong.name(), "max_wait");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SettingsError {
    name: String,
    text: String,
    problem: String,
}

impl SettingsError {
    fn new(name: &str, text: &str, problem: String) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
            problem,
        }
    }

    /// Of the setting, or of the environment variable.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            text,
            problem,
        } = self;
        write!(f, "{name} = {text:?}: {problem}")
    }
}

// For a `main` that returns it: its `Debug` is what people read.
impl fmt::Debug for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for SettingsError {}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, ffi::OsString};

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
        let pairs = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), OsString::from(text)));
        let pairs: HashMap<_, _> = pairs.collect();
        move |name| pairs.get(name).cloned()
    }

    #[test]
    fn every_setting_reads_what_it_writes() {
        let mut other = Settings::direct();
        for (name, text) in [
            ("max_connections", "0"),
            ("at_capacity", "close, wait"),
            ("max_connections_per_client", "7"),
            ("max_in_flight", "adaptive"),
            ("max_wait", "1m 30s"),
            ("never_shed", "/up"),
            ("keep_alive_timeout", "500ms"),
            ("max_requests_per_connection", "1000"),
            ("max_connection_age", "1h"),
            ("header_read_timeout", "1s"),
            ("body_read_timeout", "0"),
            ("min_body_rate", "1"),
            ("untimed_bodies", "/grpc.*, /feed"),
            ("write_timeout", "2m"),
            ("min_write_rate", "0"),
            ("drain_timeout", "1s"),
            ("lame_duck", "3s"),
            ("proxy_protocol", "required"),
        ] {
            other.set(name, text).expect(name);
        }
        let mut copy = Settings::direct();
        let mut names = 0;
        for (name, text) in other.iter() {
            assert_ne!(
                copy.iter().find(|(n, _)| *n == name),
                Some((name, text.clone())),
                "{name} was not changed"
            );
            copy.set(name, &text).expect(name);
            names += 1;
        }
        assert_eq!(copy, other);
        assert_eq!(names, Settings::names().count());
    }

    // SERVE-2
    #[test]
    fn a_wrong_value_is_refused_with_its_name_and_what_is_right() {
        for name in Settings::names() {
            let before = Settings::direct();
            let mut settings = before.clone();
            let wrong = settings
                .set(name, "never ever")
                .expect_err(name)
                .to_string();
            assert!(
                wrong.starts_with(&format!("{name} = \"never ever\": expected ")),
                "{wrong}"
            );
            assert_eq!(settings, before);
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_those_that_are() {
        let wrong = Settings::direct()
            .set("write_timout", "1s")
            .expect_err("a typo");
        assert!(
            wrong
                .to_string()
                .contains("no such setting; there are max_connections, "),
            "{wrong}"
        );
    }

    #[test]
    fn a_duration_has_a_unit_or_is_zero() {
        let mut settings = Settings::direct();
        assert!(settings.set("write_timeout", "5").is_err());
        assert!(settings.set("write_timeout", "-5s").is_err());
        assert!(settings.set("write_timeout", "").is_err());
        settings.set("write_timeout", "0").expect("off");
        assert_eq!(settings.write_timeout, Duration::ZERO);
    }

    #[test]
    fn what_nobody_means_is_no_duration() {
        let mut settings = Settings::direct();
        for wrong in [
            "5M", // months, to humantime
            "1 5s",
            "10000000000000s",
            "1 .5s",
            "18446744073709551615s 1000ms", // a panic, in humantime 2.4.0
            "1000y",
        ] {
            assert!(settings.set("write_timeout", wrong).is_err(), "{wrong}");
        }
        for (right, seconds) in [
            (" 5s\n", 5),
            ("1m30s", 90),
            ("1 hour  5min", 3_900),
            ("2days", 172_800),
        ] {
            settings.set("write_timeout", right).expect(right);
            assert_eq!(settings.write_timeout, Duration::from_secs(seconds));
        }
    }

    #[test]
    fn a_duration_is_told_so_that_it_can_be_read() {
        for long in [
            Duration::new(20_000_000_000, 999_999_999),
            Duration::new(63_072_000, 1),
        ] {
            let mut read = Duration::ZERO;
            assert!(read.set(&long.text()), "{}", long.text());
            assert_eq!(read, long);
        }
        let mut read = Duration::ZERO;
        assert!(
            read.set(&Duration::MAX.text()) && read > Duration::from_secs(1 << 34),
            "for ever"
        );
    }

    #[test]
    fn a_number_is_digits() {
        let mut settings = Settings::direct();
        for name in [
            "max_connections",
            "max_in_flight",
            "max_connections_per_client",
            "min_body_rate",
        ] {
            for wrong in [
                "+5",
                "-5",
                "",
                "5 000",
                "5_000",
                "0x10",
                "99999999999999999999999",
            ] {
                assert!(settings.set(name, wrong).is_err(), "{name}: {wrong}");
            }
            settings.set(name, " 5 ").expect(name);
        }
        settings.set("max_in_flight", "00").expect("zero");
        assert_eq!(settings.max_in_flight, MaxInFlight::Off);
    }

    #[test]
    fn what_no_request_has_is_no_path() {
        let mut settings = Settings::direct();
        for wrong in [
            "healthz",
            "*",
            "/users/{id}",
            "/grpc/*/Watch",
            "/feed?x=1",
            "/feed#x",
            "/a b",
            "/a\nb",
            "/a,,/b",
            ",",
            "/\u{fffd}",
            "/ü",
        ] {
            assert!(settings.set("never_shed", wrong).is_err(), "{wrong:?}");
            let mut set = Settings::direct();
            set.untimed_bodies = vec![wrong.into()];
            let made = std::panic::catch_unwind(|| crate::Preset::new(&set));
            assert!(made.is_err(), "{wrong:?}, in code");
        }
        settings
            .set("never_shed", "/, /*, /%C3%BC, /a.b-c_d~")
            .expect("paths");
        assert_eq!(settings.never_shed, ["/", "/*", "/%C3%BC", "/a.b-c_d~"]);
        drop(crate::Preset::new(&settings));
        settings.set("never_shed", " ").expect("none");
        assert!(settings.never_shed.is_empty());
    }

    #[test]
    fn a_preset_that_comes_too_late_is_refused() {
        // `APP_PRESET=behind-balancer` over a file was passed over, and the balancer had connections of 5 s.
        let mut settings = Settings::direct();
        let late = settings.change_by("APP", variables(&[("APP_PRESET", "behind-balancer")]));
        assert_eq!(late.expect_err("too late").name(), "APP_PRESET");
        let more = variables(&[("APP_LAME_DUCK", "3s")]);
        settings.change_by("APP", more).expect("a setting");
        assert_eq!(settings.lame_duck, Duration::from_secs(3));
    }

    #[test]
    fn a_policy_that_is_never_reached_is_refused() {
        let mut settings = Settings::direct();
        for wrong in [
            "",
            ",",
            "wait, reject",
            "reject, make-room",
            "reject, close",
            "wait, wait",
        ] {
            assert!(settings.set("at_capacity", wrong).is_err(), "{wrong}");
        }
        for right in ["wait", "make-room", "make-room,close,wait", "reject"] {
            settings.set("at_capacity", right).expect(right);
            drop(crate::Preset::new(&settings)); // and the layer takes it
        }
    }

    #[test]
    fn the_environment_changes_what_it_names() {
        let environment = variables(&[
            ("APP_WRITE_TIMEOUT", "10s"),
            ("APP_OTHER", "x"),
            ("WRITE_TIMEOUT", "1s"),
        ]);
        let settings = Settings::from_variables("APP", environment).expect("right values");
        let mut expected = Settings::direct();
        expected.write_timeout = Duration::from_secs(10);
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_wrong_in_the_environment_is_called_by_its_name_there() {
        let wrong = Settings::from_variables("APP", variables(&[("APP_MAX_WAIT", "long")]));
        let wrong = wrong.expect_err("no duration");
        assert_eq!(wrong.name(), "APP_MAX_WAIT");
        assert!(
            wrong.to_string().contains("a duration such as 5s"),
            "{wrong}"
        );
    }

    #[test]
    fn behind_a_balancer_it_must_be_said_whether_it_names_the_client() {
        let silent =
            Settings::from_variables("APP", variables(&[("APP_PRESET", "behind-balancer")]));
        assert!(
            silent
                .expect_err("not said")
                .to_string()
                .contains("proxy_protocol")
        );
        for (said, proxy_protocol) in [
            ("off", ProxyProtocol::Off),
            ("required", ProxyProtocol::Required),
        ] {
            let said = [
                ("APP_PRESET", "behind-balancer"),
                ("APP_PROXY_PROTOCOL", said),
            ];
            let settings = Settings::from_variables("APP", variables(&said)).expect("said");
            assert_eq!(settings, Settings::behind_balancer(proxy_protocol));
        }
        let unknown = Settings::from_variables("APP", variables(&[("APP_PRESET", "fast")]));
        assert!(
            unknown
                .expect_err("no such preset")
                .to_string()
                .contains("direct or behind-balancer")
        );
    }

    #[test]
    fn they_are_told_one_in_a_line() {
        let told = Settings::direct().to_string();
        assert_eq!(told.lines().count(), Settings::names().count());
        assert!(
            told.contains("\nat_capacity = make-room, reject, wait\n"),
            "{told}"
        );
        assert!(told.contains("\nmax_wait = 0\n"), "{told}");
    }
}

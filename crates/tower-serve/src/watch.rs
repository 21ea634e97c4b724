use std::{fmt, time::Duration};

use tower_connection::{Label, Tally};
use tower_connection_limit::Limit;
use tower_drain::{DrainWatch, Phase};
use tower_overload::{Criticality, Overload, Step};

use crate::Preset;

/// A server while it runs: what is open, in flight, waiting, refused, ended, and how far its end has come.
///
/// It costs a server nothing until it is asked.
///
/// # Examples
///
/// ```
/// use tower_serve::Preset;
///
/// let preset = Preset::direct();
/// let watch = preset.watch();
/// let now = watch.look();
/// assert_eq!((now.connections, now.requests), (0, 0));
/// ```
#[derive(Clone, Debug)]
pub struct Watch {
    drain: DrainWatch,
    connections: Limit,
    clients: Limit,
    overload: Overload,
    idle: Tally<tower_keep_alive::Reason>,
    slow_to_send: Tally<tower_read_timeout::Reason>,
    slow_to_take: Tally<tower_write_timeout::Reason>,
    unnamed: Tally<tower_connection_proxy_protocol::Reason>,
}

/// What a [`Watch`] saw.
///
/// ```
/// # use tower_serve::Preset;
/// let now = Preset::direct().watch().look();
/// println!("{now}");
/// for count in &now.counts {
///     println!("{} {:?} {}", count.name, count.labels, count.value);
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Look {
    /// How far the drain has come.
    pub phase: Phase,
    /// How long what is left may still go on, while it drains.
    pub time_left: Option<Duration>,
    /// How many connections hold a place of the limit: all that are open, but for those that are being turned away or
    /// made room, newcomers who wait for that, and upgraded ones, if these have a limit of their own.
    pub connections: usize,
    /// How many may be. `None` is any number.
    pub max_connections: Option<usize>,
    /// How many are no longer HTTP: WebSockets over HTTP/1.
    pub upgraded: usize,
    /// How many are open past the limit, all on their way out or in: who is being turned away, who made room, newcomers for whom that
    /// happens. One of whom the PROXY protocol has told that it has too many is among the
    /// [`connections`](Look::connections) as well.
    pub being_rejected: usize,
    /// Whether clients wait in the kernel's backlog as there is no place for them: how many acceptors do.
    pub acceptors_waiting: usize,
    /// How many requests are in flight: from the head to the last byte of the response.
    pub requests: usize,
    /// How many of them hold one of the slots that a limit has: not those that wait for one, that are exempt, or that have
    /// become streams. Nobody counts while the limit is off.
    pub requests_admitted: usize,
    /// How many such slots there are. `None` is any number.
    pub max_requests: Option<usize>,
    /// How many requests wait for that.
    pub requests_waiting: usize,
    /// How long one that comes now would wait.
    pub estimated_wait: Duration,
    /// How many upgrades and endless responses there are. Nobody counts while the limit of requests is off.
    pub streams: usize,
    /// How the limit of requests moved of late, and why: the last move last.
    pub course: Vec<Step>,
    /// What has happened so often since the server began; the same names and labels in each look.
    pub counts: Vec<Count>,
}

/// How often something has happened.
///
/// ```
/// # use tower_serve::{Count, Preset};
/// let now = Preset::direct().watch().look();
/// let idle = |count: &&Count| count.labels.contains(&("reason", "idle"));
/// assert_eq!(now.counts.iter().find(idle).map(|count| count.value), Some(0));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Count {
    /// The name, as that of a metric.
    pub name: &'static str,
    /// What it is counted by.
    pub labels: Vec<(&'static str, &'static str)>,
    /// So often.
    pub value: u64,
}

impl Watch {
    pub(crate) fn new<Inside>(preset: &Preset<Inside>) -> Self {
        Self {
            drain: preset.drain.watch(),
            connections: preset.connection_limit.limit(),
            clients: preset.client_limit.limit(),
            overload: preset.overload.handle(),
            idle: preset.keep_alive.ends(),
            slow_to_send: preset.read_timeout.ends(),
            slow_to_take: preset.write_timeout.ends(),
            unnamed: preset.proxy_protocol.ends(),
        }
    }

    /// Looks. It takes a time that grows with the number of connections: about a millisecond for ten thousand of them.
    ///
    /// ```
    /// # use tower_serve::Preset;
    /// assert_eq!(Preset::direct().watch().look().connections, 0);
    /// ```
    #[must_use]
    pub fn look(&self) -> Look {
        let progress = self.drain.progress();
        let now = tokio::time::Instant::now();
        Look {
            phase: progress.phase,
            time_left: progress
                .deadline
                .map(|deadline| deadline.saturating_duration_since(now)),
            connections: self.connections.open(),
            max_connections: Some(self.connections.max()).filter(|max| *max < usize::MAX),
            upgraded: progress.upgraded,
            being_rejected: self.connections.in_reserve() + self.clients.in_reserve(),
            acceptors_waiting: self.connections.waiting(),
            requests: progress.requests,
            requests_admitted: self.overload.in_flight(),
            max_requests: self.overload.is_limited().then(|| self.overload.limit()),
            requests_waiting: self.overload.waiting(),
            estimated_wait: self.overload.estimated_wait(),
            streams: self.overload.streams(),
            course: self.overload.course(),
            counts: self.counts(),
        }
    }

    fn counts(&self) -> Vec<Count> {
        let mut counts = Vec::new();
        for &reason in tower_connection_limit::Reason::ALL {
            let rejected =
                self.connections.rejected_for(reason) + self.clients.rejected_for(reason);
            counts.push(count(
                "server_connections_rejected_total",
                &[("reason", reason.as_str())],
                rejected,
            ));
        }
        let evicted = self.connections.evicted() + self.clients.evicted();
        counts.push(count("server_connections_evicted_total", &[], evicted));
        ends("keep_alive", &self.idle, &mut counts);
        ends("read_timeout", &self.slow_to_send, &mut counts);
        ends("write_timeout", &self.slow_to_take, &mut counts);
        ends("proxy_protocol", &self.unnamed, &mut counts);
        for &reason in tower_overload::Reason::ALL {
            for class in Criticality::ALL {
                let labels = [("reason", reason.as_str()), ("class", class.as_str())];
                counts.push(count(
                    "server_requests_shed_total",
                    &labels,
                    self.overload.shed_by(reason, class),
                ));
            }
        }
        counts
    }
}

fn ends<L: Label>(layer: &'static str, tally: &Tally<L>, counts: &mut Vec<Count>) {
    for &reason in L::ALL {
        let labels = [("layer", layer), ("reason", reason.as_str())];
        counts.push(count(
            "server_connections_ended_total",
            &labels,
            tally.of(reason),
        ));
    }
}

fn count(name: &'static str, labels: &[(&'static str, &'static str)], value: u64) -> Count {
    Count {
        name,
        labels: labels.into(),
        value,
    }
}

impl Look {
    /// What there is now, by the names of metrics. Without a limit, that is not there.
    pub(crate) fn gauges(&self) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        #[expect(clippy::cast_precision_loss, reason = "numbers to look at")]
        let number = |n: usize| Some(n as f64);
        let limit = |n: Option<usize>| n.and_then(number);
        let gauges = [
            ("server_connections_open", number(self.connections)),
            ("server_connections_max", limit(self.max_connections)),
            ("server_connections_upgraded", number(self.upgraded)),
            (
                "server_connections_being_rejected",
                number(self.being_rejected),
            ),
            ("server_acceptors_waiting", number(self.acceptors_waiting)),
            ("server_requests_in_flight", number(self.requests)),
            ("server_requests_admitted", number(self.requests_admitted)),
            ("server_requests_limit", limit(self.max_requests)),
            ("server_requests_waiting", number(self.requests_waiting)),
            (
                "server_requests_estimated_wait_seconds",
                Some(self.estimated_wait.as_secs_f64()),
            ),
            ("server_streams_open", number(self.streams)),
            ("server_drain_phase", number(self.phase as usize)),
        ];
        gauges
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A few lines, for a person.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |max: Option<usize>| max.map_or_else(String::new, |max| format!(" of {max}"));
        write!(f, "{}", self.phase)?;
        if let Some(left) = self.time_left {
            write!(f, ", {:.1} s left", left.as_secs_f64())?;
        }
        write!(
            f,
            "\nconnections: {}{} open",
            self.connections,
            of(self.max_connections)
        )?;
        write!(
            f,
            ", {} upgraded, {} being rejected",
            self.upgraded, self.being_rejected
        )?;
        if self.acceptors_waiting > 0 {
            f.write_str(", and clients wait to be accepted")?;
        }
        write!(f, "\nrequests: {} in flight", self.requests)?;
        if let Some(max) = self.max_requests {
            write!(f, ", {} slots of {max} taken", self.requests_admitted)?;
        }
        write!(
            f,
            ", {} waiting, {} streams",
            self.requests_waiting, self.streams
        )?;
        for count in self.counts.iter().filter(|count| count.value > 0) {
            write!(f, "\n{}", count.name)?;
            for (label, value) in &count.labels {
                write!(f, " {label}={value}")?;
            }
            write!(f, ": {}", count.value)?;
        }
        Ok(())
    }
}

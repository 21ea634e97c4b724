//! The command line. It is a contract: people and tests outside of this project type it.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum};
use tower_serve::{MaxConnections, MaxInFlight, ProxyProtocol, Settings, connection_limit};

/// A server with every behaviour of this project as a flag.
///
/// Durations are written `5s`, `500ms`, or `0` for off.
#[derive(Debug, Parser)]
#[command(name = "playground")]
pub(crate) struct Flags {
    /// What serves.
    #[arg(long, value_enum, default_value_t = Stack::Axum)]
    pub(crate) stack: Stack,

    /// Where to listen; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,

    /// TLS with a certificate made at start.
    #[arg(long)]
    pub(crate) tls: bool,

    /// Each connection begins with a header of the PROXY protocol, which names the client, or is reset.
    #[arg(long)]
    pub(crate) proxy_protocol: bool,

    /// How many connections may be open; 0 is no limit.
    #[arg(long, default_value_t = 1024)]
    pub(crate) max_connections: usize,

    /// What a client sees past that.
    #[arg(long, value_enum, default_value_t = AtCapacity::Reject)]
    pub(crate) at_capacity: AtCapacity,

    /// How many of them one client may have (an IPv4 address, an IPv6 /64); 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_connections_per_ip: usize,

    /// How long a connection may be idle; 0 is for ever.
    #[arg(long, value_name = "D", default_value = "5s", value_parser = duration)]
    pub(crate) keep_alive_timeout: Duration,

    /// How many requests a connection serves; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_requests_per_connection: u64,

    /// How old a connection gets, give or take a tenth; 0 is no limit.
    #[arg(long, value_name = "D", default_value = "0", value_parser = duration)]
    pub(crate) max_connection_age: Duration,

    /// How long a PROXY header and a TLS handshake, a first byte, a head or HTTP/2's opening may take; 0 is for ever.
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration)]
    pub(crate) header_read_timeout: Duration,

    /// How long a body may bring no byte; 0 is for ever.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub(crate) body_read_timeout: Duration,

    /// How long a client may take nothing of its response; 0 leaves it to the rate.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub(crate) write_timeout: Duration,

    /// How many bytes a second it must take on average; 0 is none.
    #[arg(long, value_name = "BYTES_PER_SECOND", default_value_t = 240)]
    pub(crate) min_write_rate: u64,

    /// How long what is running may go on once the listener is closed; 0 is for ever.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub(crate) drain_timeout: Duration,

    /// How long everything is still served after SIGTERM, with readiness gone.
    #[arg(long, value_name = "D", default_value = "0", value_parser = duration)]
    pub(crate) lame_duck: Duration,

    /// How many requests may be in flight; 0 is no limit, and `adaptive` finds one.
    #[arg(long, value_name = "N|adaptive", default_value = "0", value_parser = max_in_flight)]
    pub(crate) max_in_flight: MaxInFlight,

    /// How long a request may wait for that; 0 sheds at once.
    #[arg(long, value_name = "D", default_value = "0", value_parser = duration)]
    pub(crate) max_wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stack {
    Axum,
    HyperHttp1,
    HyperHttp2,
    HyperAuto,
    Tonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AtCapacity {
    /// A 503 with Retry-After.
    Reject,
    /// It waits in the kernel's backlog.
    Wait,
    /// A reset.
    Close,
    /// The connection that is idle the longest is closed for it; if all are at work, a 503.
    MakeRoom,
}

impl Flags {
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::direct();
        settings.max_connections = MaxConnections::Fixed(self.max_connections);
        settings.at_capacity = self.at_capacity.policies().into();
        settings.max_connections_per_client = self.max_connections_per_ip;
        settings.max_in_flight = self.max_in_flight;
        settings.max_wait = self.max_wait;
        settings.keep_alive_timeout = self.keep_alive_timeout;
        settings.max_requests_per_connection = self.max_requests_per_connection;
        settings.max_connection_age = self.max_connection_age;
        settings.header_read_timeout = self.header_read_timeout;
        settings.body_read_timeout = self.body_read_timeout;
        settings.untimed_bodies = vec!["/grpc.*".into()];
        settings.write_timeout = self.write_timeout;
        settings.min_write_rate = self.min_write_rate;
        settings.drain_timeout = self.drain_timeout;
        settings.lame_duck = self.lame_duck;
        if self.proxy_protocol {
            settings.proxy_protocol = ProxyProtocol::Required;
        }
        settings
    }
}

impl AtCapacity {
    fn policies(self) -> &'static [connection_limit::AtCapacity] {
        use connection_limit::AtCapacity::{Close, MakeRoom, Reject, Wait};

        match self {
            Self::Reject => &[Reject, Wait],
            Self::Wait => &[Wait],
            Self::Close => &[Close, Wait],
            Self::MakeRoom => &[MakeRoom, Reject, Wait],
        }
    }
}

fn max_in_flight(text: &str) -> Result<MaxInFlight, String> {
    match text {
        "0" => Ok(MaxInFlight::Off),
        "adaptive" => Ok(MaxInFlight::Adaptive),
        n => n
            .parse()
            .map(MaxInFlight::Fixed)
            .map_err(|error| format!("{error}")),
    }
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    match text {
        "0" => Ok(Duration::ZERO),
        text => humantime::parse_duration(text),
    }
}

//! The command line. It is a contract: people and tests outside of this project type it.

use std::{net::SocketAddr, time::Duration};

use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};

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

    /// How long a TLS handshake, a first byte, a head or HTTP/2's opening may take; 0 is for ever.
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration)]
    pub(crate) header_read_timeout: Duration,

    /// How long a body may bring no byte; 0 is for ever.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub(crate) body_read_timeout: Duration,

    /// How long a client may take nothing of its response; 0 is for ever.
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

    #[command(flatten)]
    unbuilt: Unbuilt,
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

/// Flags whose layer does not exist yet: given, they stop the program, unless they are given as off.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Not built yet (accepted only as 0)")]
struct Unbuilt {
    /// A number, or `adaptive`.
    #[arg(long, value_name = "N|adaptive")]
    max_in_flight: Option<String>,
    #[arg(long, value_name = "D", value_parser = duration)]
    max_wait: Option<Duration>,
}

impl Flags {
    /// Reads the command line; stops the program at what it does not understand or cannot do yet.
    pub(crate) fn read() -> Self {
        let flags = Self::parse();
        if let Some(flag) = flags.asked_in_vain() {
            let message = format!("{flag} is not built yet: its layer does not exist\n");
            Self::command()
                .error(ErrorKind::InvalidValue, message)
                .exit();
        }
        flags
    }

    fn asked_in_vain(&self) -> Option<&'static str> {
        let unbuilt = &self.unbuilt;
        let time = |given: Option<Duration>| given.is_some_and(|given| !given.is_zero());
        [
            (
                "--max-in-flight",
                unbuilt.max_in_flight.as_deref().is_some_and(|n| n != "0"),
            ),
            ("--max-wait", time(unbuilt.max_wait)),
        ]
        .into_iter()
        .find_map(|(flag, asked)| asked.then_some(flag))
    }
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    match text {
        "0" => Ok(Duration::ZERO),
        text => humantime::parse_duration(text),
    }
}

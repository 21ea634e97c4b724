use std::{fmt, process::ExitCode, time::Duration};

use http::Version;
use tower_connection::Address;

/// How a drain has ended.
///
/// It displays as a line, and one more for each connection that was cut (32 at most).
///
/// ```
/// # use std::time::Duration;
/// # use tower_drain::Drain;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let drain = Drain::new(Duration::from_secs(30));
/// # let server = async { Ok(()) };
/// # async fn run(drain: &Drain, server: impl Future<Output = std::io::Result<()>>) -> std::io::Result<()> {
/// let report = drain.run(server).await?;
/// assert!(report.is_complete());
/// assert_eq!(report.to_string(), "drained in 0.0 s: 0 connections ended, none was cut");
/// # Ok(()) }
/// # run(&drain, server).await.expect("no error");
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// From the first moment to the last, the lame duck included.
    pub took: Duration,
    /// How many connections have ended since it began, but for those that were reset.
    pub ended: usize,
    /// The connections that were reset while something ran on them.
    pub cut: Vec<Cut>,
    /// How many clients were taken out of the backlog and then reset, as there was no time or no place to serve them. Of
    /// those who could not even be taken out, without descriptors, it counts one for each acceptor.
    pub unserved: usize,
}

impl Report {
    /// Whether nothing was cut, and nobody left unserved.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.cut.is_empty() && self.unserved == 0
    }

    /// 0 if it is complete, else 1.
    ///
    /// To return it from `main` drops the runtime, which waits for code that blocks a thread; if that may be what
    /// was stuck, [`exit`](Report::exit) does not.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(!self.is_complete()))
    }
}

impl Report {
    /// Ends the process, with that code: at once, whatever blocks its threads. Nothing is dropped; flush before what
    /// buffers its writes.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// # #[tokio::main] async fn main() -> std::io::Result<()> {
    /// # let drain = Drain::new(Duration::from_secs(30));
    /// # let server = std::future::pending::<std::io::Result<()>>();
    /// drain.run(server).await?.exit();
    /// # }
    /// ```
    pub fn exit(&self) -> ! {
        std::process::exit(i32::from(!self.is_complete()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 32;
        let took = self.took.as_secs_f64();
        write!(
            f,
            "drained in {took:.1} s: {} connections ended, ",
            self.ended
        )?;
        match self.cut.len() {
            0 => f.write_str("none was cut")?,
            cut => write!(f, "{cut} cut")?,
        }
        if self.unserved > 0 {
            write!(f, ", {} not served", self.unserved)?;
        }
        for cut in self.cut.iter().take(NAMED) {
            write!(f, "\n  {cut}")?;
        }
        match self.cut.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// A connection that was reset while something ran on it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cut {
    /// Who was at the other end.
    pub peer: Address,
    /// What it spoke.
    pub protocol: Option<Version>,
    /// Whether it was no longer HTTP (a WebSocket over HTTP/1).
    pub upgraded: bool,
    /// How long it had been open.
    pub age: Duration,
    /// What was in flight on it; after an upgrade, the request that asked for it. Without one, the client was still
    /// taking a response whose body had ended, had a WebSocket over HTTP/2, or waited until its service was ready.
    pub requests: Vec<CutRequest>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        if let Some(protocol) = self.protocol {
            write!(f, " {protocol:?}")?;
        }
        if self.upgraded {
            f.write_str(" upgraded")?;
        }
        for request in &self.requests {
            write!(f, " {request},")?;
        }
        write!(f, " open for {:.1} s", self.age.as_secs_f64())
    }
}

/// A request that was cut.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CutRequest {
    /// Its method and path, the first 120 bytes of them, without the query.
    pub line: String,
    /// How long it had been in flight.
    pub age: Duration,
}

impl fmt::Display for CutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1} s", self.line, self.age.as_secs_f64())
    }
}

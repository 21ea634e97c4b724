//! A bench that is its own server: the program runs itself on the first core, and as its clients on the second.

use std::{
    env,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    process::{self, Child, ChildStdout, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use conformance::{Outcome, Protocol};
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};
use tower::Service;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How late the generator may be, in 99 of 100, and how often a row is tried.
const IN_TIME: Duration = Duration::from_millis(1);
pub(crate) const TRIES: usize = 3;
pub(crate) const PROTOCOLS: [(&str, Protocol); 2] =
    [("http1", Protocol::Http1), ("http2", Protocol::Http2)];

/// What was asked for: a part of this program on its core, which is given the words, or the whole bench.
pub(crate) fn main(part: impl Fn(&[&str]) -> io::Result<bool>) -> io::Result<ExitCode> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let bench = arguments.iter().any(|a| a == "--bench");
    arguments.retain(|a| a != "--bench");
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if bench {
        let status = myself(1)?.arg("table").args(words).status()?;
        return Ok(ExitCode::from(u8::from(!status.success())));
    }
    if !part(&words)? {
        // `cargo test` asks every target for its tests.
        eprintln!("nothing to do for {words:?}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn named<T: Copy>(all: &[(&str, T)], name: &str) -> T {
    let found = all.iter().find(|(known, _)| *known == name);
    found.expect("one of the names").1
}

/// This program on that core, with as many descriptors as it may have: a queue is one connection for each who
/// waits in it.
pub(crate) fn myself(core: usize) -> io::Result<Command> {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n \"$(ulimit -H -n)\"; exec \"$@\"", "sh"]);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // Who is pinned already has one core, but was pinned by this.
    let pinned = env::var_os("PINNED").is_some();
    let taskset = Command::new("taskset").arg("--version").output().is_ok();
    if taskset && (pinned || cores > 1) {
        command.env("PINNED", "yes");
        command.args(["taskset", "-c", &core.to_string()]);
    }
    command.arg(env::current_exe()?);
    Ok(command)
}

/// What a part of this program says of itself: a number.
pub(crate) fn told(part: &[&str]) -> io::Result<f64> {
    let output = myself(0)?.args(part).output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    told.trim().parse().map_err(io::Error::other)
}

/// A runtime that can block so many threads.
pub(crate) fn runtime(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(workers)
        .build()
        .expect("a runtime")
}

// === The server ===

/// What a handler is here, and what is around it.
pub(crate) trait Handler<B>:
    Service<
        Request<Incoming>,
        Response = Response<B>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<S, B> Handler<B> for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
}

/// Answers the lines of who started it, until it is killed, or they were.
pub(crate) fn attend(mut answer: impl FnMut() -> String + Send + 'static) {
    thread::spawn(move || {
        for line in io::stdin().lines() {
            if line.is_err() {
                process::exit(1);
            }
            println!("{}", answer());
        }
        process::exit(0);
    });
}

/// Prints its address. The loop that everybody writes.
pub(crate) async fn serve<B>(protocol: Protocol, service: impl Handler<B>) -> io::Result<()>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, most likely, and they come back.
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        // A client that is gone already is no error of the server.
        let _ = socket.set_nodelay(true);
        let io = TokioIo::new(socket);
        let service = TowerToHyperService::new(service.clone());
        match protocol {
            Protocol::Http1 => {
                tokio::spawn(http1::Builder::new().serve_connection(io, service));
            }
            Protocol::Http2 => {
                let builder = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(io, service));
            }
        }
    }
}

/// This program as a server, until it is dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    answers: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn start(part: &[&str]) -> io::Result<Self> {
        let mut child = myself(0)?
            .args(part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut server = Self {
            answers: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
            address: ([127, 0, 0, 1], 0).into(),
        };
        server.address = server.answer()?.parse().map_err(io::Error::other)?;
        Ok(server)
    }

    /// The next line that it says.
    pub(crate) fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // There is nobody to tell that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === The table ===

pub(crate) fn is_in_time(outcome: &Outcome) -> bool {
    outcome.lag(99) <= Some(IN_TIME)
}

pub(crate) fn float(n: usize) -> f64 {
    f64::from(u32::try_from(n).expect("a few"))
}

pub(crate) fn millis(latency: Option<Duration>) -> String {
    latency.map_or("-".into(), |l| format!("{:.2}", l.as_secs_f64() * 1_000.0))
}

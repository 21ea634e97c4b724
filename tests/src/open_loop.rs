use std::{
    iter, mem,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{dice, stack::Protocol};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A load of independent clients over real sockets: they come when they come, however slow the answers are.
///
/// Who waits for an answer before the next question (a closed loop) slows down with the server, and measures
/// least when it is worst. Here the arrivals are drawn before the first of them (a Poisson process, the same
/// for the same seed), each has a task of its own, and a latency counts from the moment that was drawn.
///
/// It is made for a current-thread runtime with a core of its own: to be in time, it does not sleep through
/// the last two milliseconds before an arrival. [`Outcome::lag`] says how well that went.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the server listens.
    pub address: SocketAddr,
    /// What it is spoken to in.
    pub protocol: Protocol,
    /// The connections on HTTP/2. Default is 8. On HTTP/1 a request takes an idle one, or opens one.
    ///
    /// Where a server limits the streams of a connection (hyper's takes 200), clients wait for one in here.
    pub connections: usize,
    /// What is asked for. Default is `/`.
    pub path: String,
    /// Arrivals per second, in the mean.
    pub rate: f64,
    /// How long it is measured. Default is 10 seconds.
    pub duration: Duration,
    /// How long the same load is there before that. Default is 2 seconds.
    pub warm_up: Duration,
    /// How long after its arrival a client gives up. Default is 1 second.
    pub timeout: Duration,
    /// Which arrivals. Default is 1.
    pub seed: u64,
    /// Whether a client that is shed comes back, once, when `Retry-After` tells it to. Default is no.
    ///
    /// Who would come back after the end of the load does not: it would be alone there.
    pub retry_after: bool,
}

/// What the clients of a [`Load`] saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of those that arrived by the schedule.
    pub first: Answers,
    /// Of those that were told to come back, when they did. They come on top of [`Load::rate`]; some of the
    /// first of them had their first answer in the warm-up.
    pub returned: Answers,
    /// How many connections were begun, with the warm-up.
    pub opened: u32,
    /// How many questions were asked again on another connection, with the warm-up: theirs, which had served
    /// before, ended under them. They are not errors.
    pub retried: usize,
    /// The first of the errors.
    pub error: Option<BoxError>,
    lag: Vec<Duration>,
}

/// The answers, by kind. Each latency counts from the arrival to the end of the body; all are sorted.
#[derive(Debug, Default)]
pub struct Answers {
    /// The latencies of each 200.
    pub admitted: Vec<Duration>,
    /// The latencies of each 503.
    pub shed: Vec<Duration>,
    /// The `Retry-After` of each 503 that has one. A date is not read.
    pub retry_after: Vec<Duration>,
    /// Answers with another status.
    pub others: usize,
    /// Connections that could not be made, and those that ended before the answer did.
    pub errors: usize,
    /// Clients that gave up.
    pub timeouts: usize,
}

impl Load {
    /// So many arrivals per second at a server.
    pub fn new(address: SocketAddr, protocol: Protocol, rate: f64) -> Self {
        Self {
            address,
            protocol,
            connections: 8,
            path: "/".into(),
            rate,
            duration: Duration::from_secs(10),
            warm_up: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            seed: 1,
            retry_after: false,
        }
    }

    /// Waits until the last client has its answer, or gave up.
    ///
    /// # Panics
    ///
    /// If the rate is not positive, the path is not one, or there is no connection for HTTP/2.
    pub async fn run(self) -> Outcome {
        let length = self.warm_up + self.duration;
        let arrivals = schedule(self.seed, self.rate, length);
        let start = Instant::now();
        let running = Arc::new(Running {
            from: start + self.warm_up,
            end: start + length,
            timeout: self.timeout,
            retry_after: self.retry_after,
            pool: Pool::new(&self),
        });
        let (tell, mut told) = mpsc::unbounded_channel();
        for (turn, at) in arrivals.into_iter().enumerate() {
            let at = start + at;
            reach(at).await;
            tokio::spawn(Arc::clone(&running).client(turn, at, tell.clone()));
        }
        drop(tell);
        let mut outcome = Outcome::default();
        while let Some(asked) = told.recv().await {
            outcome.record(asked);
        }
        outcome.sort();
        let mut book = running.pool.book();
        outcome.opened = mem::take(&mut book.opened);
        outcome.retried = mem::take(&mut book.retried);
        drop(book);
        outcome
    }
}

/// When each arrives, from the start: a Poisson process, whose gaps are exponential.
fn schedule(seed: u64, rate: f64, length: Duration) -> Vec<Duration> {
    assert!(rate > 0.0, "a load needs a rate");
    let mut roll = dice(seed);
    // More than none and at most one, so that the logarithm is finite.
    let chances = iter::repeat_with(|| (f64::from(roll(u32::MAX)) + 1.0) / f64::from(u32::MAX));
    let arrivals = chances.scan(0.0, |at, chance| {
        *at -= chance.ln() / rate;
        Some(Duration::from_secs_f64(*at))
    });
    arrivals.take_while(|at| *at < length).collect()
}

/// Waits, and is not late: the clock of tokio counts milliseconds and rounds up, so the last of them are
/// spent on asking for the time, and on the sockets.
async fn reach(at: Instant) {
    const COARSE: Duration = Duration::from_millis(2);
    if at.saturating_duration_since(Instant::now()) > COARSE {
        sleep_until(at - COARSE).await;
    }
    while Instant::now() < at {
        yield_now().await;
    }
}

// === impl Running ===

/// What the clients share.
struct Running {
    from: Instant,
    end: Instant,
    timeout: Duration,
    retry_after: bool,
    pool: Pool,
}

/// One question and what came of it.
struct Asked {
    returned: bool,
    lag: Duration,
    latency: Duration,
    answer: Answer,
}

enum Answer {
    Admitted,
    Shed(Option<Duration>),
    Other,
    Error(BoxError),
    Timeout,
}

impl Running {
    async fn client(self: Arc<Self>, turn: usize, at: Instant, tell: mpsc::UnboundedSender<Asked>) {
        let Some(again) = self.ask(turn, at, false, &tell).await else {
            return;
        };
        if self.retry_after && again < self.end {
            sleep_until(again).await;
            self.ask(turn, again, true, &tell).await;
        }
    }

    /// When to ask again, if the answer says so.
    async fn ask(
        &self,
        turn: usize,
        at: Instant,
        returned: bool,
        tell: &mpsc::UnboundedSender<Asked>,
    ) -> Option<Instant> {
        let lag = at.elapsed();
        let asked = timeout_at(at + self.timeout, self.pool.ask(turn)).await;
        let now = Instant::now();
        let (answer, sender) = match asked {
            Ok(Ok((answer, sender))) => (answer, Some(sender)),
            Ok(Err(error)) => (Answer::Error(error), None),
            Err(_) => (Answer::Timeout, None),
        };
        let again = match answer {
            Answer::Shed(Some(after)) => now.checked_add(after),
            _ => None,
        };
        if at >= self.from {
            let asked = Asked {
                returned,
                lag,
                latency: now - at,
                answer,
            };
            drop(tell.send(asked));
        }
        if let Some(sender) = sender {
            self.pool.give_back(sender).await;
        }
        again
    }
}

// === impl Pool ===

struct Pool {
    address: SocketAddr,
    uri: Uri,
    host: Option<HeaderValue>,
    book: Mutex<Book>,
    /// The connections of HTTP/2, opened by the first that needs one. None of them on HTTP/1.
    shared: Vec<tokio::sync::Mutex<Option<http2::SendRequest<Empty<Bytes>>>>>,
}

#[derive(Default)]
struct Book {
    /// The last that became idle is the first to be taken, so there are no more than are needed.
    idle: Vec<http1::SendRequest<Empty<Bytes>>>,
    opened: u32,
    retried: usize,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Pool {
    fn new(load: &Load) -> Self {
        let (uri, host, connections) = match load.protocol {
            Protocol::Http1 => {
                let host = HeaderValue::try_from(load.address.to_string());
                (load.path.clone(), Some(host.expect("an address")), 0)
            }
            Protocol::Http2 => {
                assert!(load.connections > 0, "HTTP/2 needs a connection");
                let uri = format!("http://{}{}", load.address, load.path);
                (uri, None, load.connections)
            }
        };
        Self {
            address: load.address,
            uri: uri.parse().expect("a path"),
            host,
            book: Mutex::default(),
            shared: iter::repeat_with(Default::default)
                .take(connections)
                .collect(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, and what is to be given back.
    async fn ask(&self, turn: usize) -> Result<(Answer, Sender), BoxError> {
        let idle = self.book().take_idle();
        let (mut sender, fresh) = match idle {
            Some(sender) => (Sender::Http1(sender), false),
            None => self.open(turn).await?,
        };
        let response = match sender.send(self.question()).await {
            // RFC 9112, section 9.3.1: the server may end an idle connection while a request is on its way,
            // and a client that reuses connections asks again. A fresh one has no such excuse.
            Err(_) if !fresh && sender.has_ended() => {
                self.book().retried += 1;
                (sender, _) = self.open(turn).await?;
                sender.send(self.question()).await?
            }
            response => response?,
        };
        let answer = Answer::of(&response);
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok((answer, sender))
    }

    async fn give_back(&self, sender: Sender) {
        if let Sender::Http1(mut sender) = sender {
            // It fails if the server said, or showed, that this answer was the last.
            if sender.ready().await.is_ok() {
                self.book().idle.push(sender);
            }
        }
    }

    fn question(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        if let Some(host) = &self.host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        request
    }

    /// A connection, and whether nobody used it before.
    async fn open(&self, turn: usize) -> Result<(Sender, bool), BoxError> {
        if self.shared.is_empty() {
            let (sender, connection) = http1::handshake(self.connect().await?).await?;
            tokio::spawn(connection);
            return Ok((Sender::Http1(sender), true));
        }
        let mut shared = self.shared[turn % self.shared.len()].lock().await;
        if let Some(sender) = &*shared {
            if !sender.is_closed() {
                return Ok((Sender::Http2(sender.clone()), false));
            }
        }
        let io = self.connect().await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        *shared = Some(sender.clone());
        Ok((Sender::Http2(sender), true))
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, BoxError> {
        let nth = self.book().opened;
        self.book().opened += 1;
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if self.address.ip().is_loopback() && self.address.is_ipv4() {
            // With one address for ten thousand clients, the kernel looks for a free port longer than for
            // anything else. Where 127.0.0.0/8 is not this machine, let it.
            let own = Ipv4Addr::from_bits(0x7F01_0000 + nth % 0x00FE_0000);
            drop(socket.bind((own, 0).into()));
        }
        socket.set_nodelay(true)?;
        // Thousands of clients that give up would leave all ports of this machine in TIME_WAIT.
        socket.set_zero_linger()?;
        Ok(TokioIo::new(socket.connect(self.address).await?))
    }
}

impl Book {
    fn take_idle(&mut self) -> Option<http1::SendRequest<Empty<Bytes>>> {
        iter::from_fn(|| self.idle.pop()).find(|sender| !sender.is_closed())
    }
}

impl Sender {
    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }

    /// Whether an error was the end of the connection: on HTTP/2 it may be that of the stream.
    fn has_ended(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Answer {
    fn of(response: &Response<Incoming>) -> Self {
        match response.status() {
            StatusCode::OK => Self::Admitted,
            StatusCode::SERVICE_UNAVAILABLE => {
                let after = response.headers().get(header::RETRY_AFTER);
                let seconds = after.and_then(|after| after.to_str().ok()?.parse().ok());
                Self::Shed(seconds.map(Duration::from_secs))
            }
            _ => Self::Other,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// How late so many percent of the scheduled clients could ask, at most. Of a late generator the latencies
    /// are no news of the server.
    pub fn lag(&self, percent: usize) -> Option<Duration> {
        percentile(&self.lag, percent)
    }

    fn record(&mut self, asked: Asked) {
        let answers = if asked.returned {
            &mut self.returned
        } else {
            self.lag.push(asked.lag);
            &mut self.first
        };
        match asked.answer {
            Answer::Admitted => answers.admitted.push(asked.latency),
            Answer::Shed(after) => {
                answers.shed.push(asked.latency);
                answers.retry_after.extend(after);
            }
            Answer::Other => answers.others += 1,
            Answer::Error(error) => {
                answers.errors += 1;
                self.error.get_or_insert(error);
            }
            Answer::Timeout => answers.timeouts += 1,
        }
    }

    fn sort(&mut self) {
        self.lag.sort_unstable();
        for answers in [&mut self.first, &mut self.returned] {
            answers.admitted.sort_unstable();
            answers.shed.sort_unstable();
            answers.retry_after.sort_unstable();
        }
    }
}

// === impl Answers ===

impl Answers {
    /// How many clients asked.
    pub fn asked(&self) -> usize {
        let answered = self.admitted.len() + self.shed.len() + self.others;
        answered + self.errors + self.timeouts
    }

    /// How many had what they came for within the objective.
    pub fn good(&self, within: Duration) -> usize {
        self.admitted.partition_point(|&latency| latency <= within)
    }

    /// The latency that so many percent of the admitted had at most.
    pub fn admitted(&self, percent: usize) -> Option<Duration> {
        percentile(&self.admitted, percent)
    }

    /// The latency that so many percent of the shed had at most.
    pub fn shed(&self, percent: usize) -> Option<Duration> {
        percentile(&self.shed, percent)
    }
}

/// By nearest rank, so it is one of them.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const A_MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_has_one_schedule() {
        assert_eq!(
            schedule(7, 1_000.0, A_MINUTE),
            schedule(7, 1_000.0, A_MINUTE)
        );
        assert_ne!(
            schedule(7, 1_000.0, A_MINUTE),
            schedule(8, 1_000.0, A_MINUTE)
        );
    }

    #[test]
    fn arrivals_are_independent_of_each_other_and_come_at_the_rate() {
        let arrivals = schedule(7, 1_000.0, A_MINUTE);
        let mean = A_MINUTE / u32::try_from(arrivals.len()).expect("a few");
        assert!(mean > Duration::from_micros(970), "{mean:?}");
        assert!(mean < Duration::from_micros(1_030), "{mean:?}");
        // Of exponential gaps, one in e (36.8 %) is longer than the mean; of a metronome's, none or half.
        let long = arrivals
            .windows(2)
            .filter(|pair| pair[1] > pair[0] + mean)
            .count();
        assert!((35..39).contains(&(long * 100 / arrivals.len())), "{long}");
    }

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&sorted, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&sorted[..1], 99), Some(sorted[0]));
        assert_eq!(percentile(&[], 99), None);
    }

    /// Answers each first question on a connection with this, and hangs up without having said so.
    async fn hangs_up(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let head = socket.read(&mut [0; 1024]).await?;
                    assert_ne!(head, 0, "it asks at least once");
                    socket.write_all(answer).await
                });
            }
        });
        address
    }

    fn short(address: SocketAddr) -> Load {
        Load {
            duration: Duration::from_millis(100),
            warm_up: Duration::ZERO,
            timeout: A_MINUTE,
            ..Load::new(address, Protocol::Http1, 1_000.0)
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_server_ended_is_replaced() {
        let address = hangs_up(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let outcome = short(address).run().await;
        let asked = schedule(1, 1_000.0, Duration::from_millis(100)).len();
        assert_eq!(outcome.first.admitted.len(), asked, "{outcome:?}");
        assert_eq!(outcome.first.good(A_MINUTE), asked);
        let opened = usize::try_from(outcome.opened).expect("a few");
        assert!(opened >= asked, "each serves once: {outcome:?}");
    }

    #[tokio::test]
    async fn a_shed_client_comes_back_once() {
        let shed = b"HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
        let mut load = short(hangs_up(shed).await);
        let outcome = load.clone().run().await;
        assert_eq!(outcome.returned.asked(), 0, "nobody asked them to");
        load.retry_after = true;
        let outcome = load.run().await;
        let first = outcome.first.shed.len();
        assert_eq!(outcome.first.asked(), first);
        assert_eq!(outcome.first.retry_after, vec![Duration::ZERO; first]);
        let returned = outcome.returned.shed.len();
        assert_eq!(outcome.returned.asked(), returned);
        assert!((1..=first).contains(&returned), "{outcome:?}");
    }
}

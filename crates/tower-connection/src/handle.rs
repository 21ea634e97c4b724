use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Version;
use tokio::time::Instant;

use crate::{
    Address, Notice, Rejection, Socket,
    state::{Phase, State},
};

/// A connection, seen from anywhere: who it is, what it does, and a way to end it.
///
/// [`Accept`](crate::Accept) makes one for each connection, puts a clone into the extensions of each
/// request, and every layer finds it in [`Connection::handle`](crate::Connection::handle). It holds
/// neither the socket nor the service: keeping one keeps nothing open.
///
/// # Examples
///
/// A handler that lets its connection go after the answer:
///
/// ```
/// use http::{Request, Response};
/// use tower_connection::ConnectionHandle;
///
/// async fn log_out<B>(request: Request<B>) -> Response<String> {
///     if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
///         println!("{}: {} requests", connection.peer(), connection.requests());
///         connection.close();
///     }
///     Response::new("bye".into())
/// }
/// ```
#[derive(Clone)]
pub struct ConnectionHandle {
    shared: Arc<Shared>,
}

struct Shared {
    id: ConnectionId,
    peer: Address,
    local: Address,
    accepted_at: Instant,
    state: State,
    rules: Mutex<Rules>,
    notice: OnceLock<Notice>,
}

/// What is seldom asked: at a refusal, and at an upgrade.
#[derive(Default)]
struct Rules {
    refusal: Option<Rejection>,
    upgrades: Vec<UpgradeGate>,
    held: Guards,
}

/// What is kept until the socket is closed.
enum Guards {
    Open(Vec<Box<dyn Any + Send>>),
    Closed,
}

impl Default for Guards {
    fn default() -> Self {
        Self::Open(Vec::new())
    }
}

type UpgradeGate = Box<dyn FnOnce() -> Result<(), Rejection> + Send>;

/// Tells connections of one process apart. It grows, and is never used again.
///
/// ```
/// # use tower_connection::ConnectionHandle;
/// let (first, second) = (ConnectionHandle::detached(), ConnectionHandle::detached());
/// assert!(first.id() < second.id());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ConnectionHandle {
    /// A handle for `socket`, accepted now.
    pub fn new(socket: &impl Socket) -> Self {
        Self::with_addresses(socket.peer(), socket.local())
    }

    /// A handle that belongs to no socket, for tests of layers and for services called without one.
    #[must_use]
    pub fn detached() -> Self {
        Self::with_addresses(Address::Unknown, Address::Unknown)
    }

    fn with_addresses(peer: Address, local: Address) -> Self {
        // Relaxed: only that no two are equal matters.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            shared: Arc::new(Shared {
                id: ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed)),
                peer,
                local,
                accepted_at: Instant::now(),
                state: State::default(),
                rules: Mutex::default(),
                notice: OnceLock::new(),
            }),
        }
    }

    /// Which connection this is.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.shared.id
    }

    /// The address of the client. Behind a PROXY protocol layer, the address that it read.
    #[must_use]
    pub fn peer(&self) -> &Address {
        &self.shared.peer
    }

    /// The address that the client reached.
    #[must_use]
    pub fn local(&self) -> &Address {
        &self.shared.local
    }

    /// When the connection was accepted, or when its TLS handshake ended.
    #[must_use]
    pub fn accepted_at(&self) -> Instant {
        self.shared.accepted_at
    }

    /// How long it has been open.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.accepted_at.elapsed()
    }

    /// The protocol, once the client has told it: by its first request, or by HTTP/2's preface.
    #[must_use]
    pub fn protocol(&self) -> Option<Version> {
        self.shared.state.protocol()
    }

    /// How many requests have begun on it.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.state.requests()
    }

    /// How many requests are in flight: from their head to the end of the response body.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.state.in_flight()
    }

    /// Since when nothing has been under way: since the last response ended or, before the first request,
    /// since the connection was accepted. `None` while something is, and after an upgrade.
    ///
    /// Under way is more than in flight: a response that the client does not take is, until it was flushed;
    /// and each stream of HTTP/2 until its end was written (a WebSocket is such a stream). A request is
    /// under way from its whole head on: half a head is still idleness.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// assert_eq!(connection.idle_since(), Some(connection.accepted_at()));
    /// let request = connection.begin(http::Version::HTTP_11);
    /// assert_eq!(connection.idle_since(), None);
    /// # drop(request);
    /// ```
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        let nanoseconds = self.shared.state.idle_since()?;
        Some(self.shared.accepted_at + Duration::from_nanos(nanoseconds))
    }

    /// As [`idle_since`](Self::idle_since), for a socket half that waits for idleness: it is polled again when
    /// the last request ends, also where that ends in another task after its response was written.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// assert_eq!(connection.idle_since_or_wake(), connection.idle_since());
    /// ```
    #[must_use]
    pub fn idle_since_or_wake(&self) -> Option<Instant> {
        let nanoseconds = self.shared.state.idle_since_or_wake()?;
        Some(self.shared.accepted_at + Duration::from_nanos(nanoseconds))
    }

    /// Says that the body of a request of HTTP/1 is being received, until the guard is dropped at its end. What
    /// a service reads on after its response is under way, too; and only who wraps the body knows of it.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// let body = connection.begin_body();
    /// assert_eq!(connection.idle_since(), None);
    /// drop(body);
    /// assert!(connection.idle_since().is_some());
    /// ```
    pub fn begin_body(&self) -> Receiving {
        self.shared.state.begin_body();
        Receiving {
            connection: self.clone(),
        }
    }

    /// Whether the last request of HTTP/1 is known to be read to its end: it had no body, or one of a declared length, and
    /// who [wraps](Self::begin_body) that has [seen all](Receiving::complete) of it.
    ///
    /// Else the HTTP stack may close the connection after the response without announcing it. Of a body in chunks it is
    /// never known: hyper does not keep a connection whose request declares a length as well, and hides that length.
    /// It is known on [timed](Self::set_timed) connections only.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// assert!(!connection.has_whole_request(), "nobody knows");
    /// connection.set_timed();
    /// assert!(connection.has_whole_request());
    /// ```
    #[must_use]
    pub fn has_whole_request(&self) -> bool {
        self.is_timed() && self.shared.state.is_whole()
    }

    /// Since when the head of a request is being received: since its first byte was read, until all of it
    /// was. On a new HTTP/2 connection the preface and the first SETTINGS are such a head.
    ///
    /// Blank lines between requests of HTTP/1 are no byte of a head. A head that begins in the same segment
    /// as the request before it ends is not seen before that request has ended and another byte of it comes. The
    /// rest of a body that nobody has read is told from a head on [timed](Self::set_timed) connections only.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// assert_eq!(connection.head_since(), None);
    /// ```
    #[must_use]
    pub fn head_since(&self) -> Option<Instant> {
        let nanoseconds = self.shared.state.head_since()?;
        Some(self.shared.accepted_at + Duration::from_nanos(nanoseconds))
    }

    /// Says that a layer bounds how long this connection may wait for a request, so that the HTTP stack need
    /// not. The driver of `tower-connection-hyper` then turns off hyper's `header_read_timeout`, which bounds
    /// also how long a connection may be idle.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// connection.set_timed();
    /// assert!(connection.is_timed());
    /// ```
    pub fn set_timed(&self) {
        self.shared.state.set_timed();
    }

    /// Whether [`set_timed`](Self::set_timed) was called.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.shared.state.is_timed()
    }

    /// Whether it became something else than HTTP (a WebSocket over HTTP/1.1).
    #[must_use]
    pub fn is_upgraded(&self) -> bool {
        self.shared.state.is_upgraded()
    }

    /// Tells the client of HTTP/2 that the connection will end, with GOAWAY for any stream: it should ask on
    /// another. Whatever it still asks here is served, until [`close`](Self::close).
    ///
    /// Does nothing to HTTP/1, which has no such word; its next response has. If the protocol is not known yet,
    /// it is said as soon as that is HTTP/2. Source: RFC 9113, section 6.8.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// connection.announce();
    /// assert!(!connection.is_closing());
    /// ```
    pub fn announce(&self) {
        self.shared.state.announce();
    }

    /// Tells what goes on for ever on this connection that the server ends; see [`Notice`]. Unless a layer
    /// [gave](Self::set_notice) it one, it is never given.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// assert_eq!(connection.notice().deadline(), None);
    /// ```
    #[must_use]
    pub fn notice(&self) -> Notice {
        let notice = self.shared.notice.get().cloned();
        notice.unwrap_or_else(Notice::never)
    }

    /// For the layer that ends the server: what [`notice`](Self::notice) returns. The first one counts.
    ///
    /// ```
    /// # use tower_connection::{ConnectionHandle, NoticeBoard};
    /// # let board = NoticeBoard::default();
    /// # let connection = ConnectionHandle::detached();
    /// connection.set_notice(board.notice());
    /// board.give_without_deadline();
    /// assert!(connection.notice().deadline().is_some());
    /// ```
    pub fn set_notice(&self, notice: Notice) {
        let _ = self.shared.notice.set(notice);
    }

    /// Ends the connection after the current work.
    ///
    /// HTTP/1: the response in progress, or the next one, says `Connection: close`; an idle connection
    /// ends at once. HTTP/2: GOAWAY, and the open streams finish. An upgraded connection goes on: its
    /// end is its own protocol's. Calling it again does nothing.
    ///
    /// Half a request head is not work: the connection ends as an idle one does.
    pub fn close(&self) {
        self.shared.state.close();
    }

    /// Ends the connection as [`close`](Self::close) does, but only if nothing is
    /// [under way](Self::idle_since) on it.
    ///
    /// Returns whether it did, or somebody did before. It does nothing to a connection at work, or an
    /// upgraded one. A request that crosses with the end, so that it arrives when the connection is already
    /// given up, reads `refusal`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_connection::{ConnectionHandle, Rejection};
    /// let refusal = Rejection::new(Duration::from_secs(1)).close();
    /// let connection = ConnectionHandle::detached();
    ///
    /// let request = connection.begin(http::Version::HTTP_11);
    /// assert!(!connection.close_if_idle(refusal.clone()));
    /// drop(request);
    /// assert!(connection.close_if_idle(refusal));
    /// assert!(connection.is_closing());
    /// ```
    #[must_use = "it may be at work"]
    pub fn close_if_idle(&self, refusal: Rejection) -> bool {
        // Held, so that two callers do not mix their answers.
        let mut rules = self.rules();
        let closed = self.shared.state.close_if_idle();
        if closed {
            rules.refusal = Some(refusal);
        }
        closed
    }

    /// Answers every request that begins from now on with `refusal` and, with the first, closes the
    /// connection. Requests in flight go on.
    ///
    /// For a connection that must not be served but shall be told so: the answer is inside TLS, and valid
    /// HTTP/2. The service is not called, and is not asked whether it is ready.
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use http::{Request, Response};
    /// # use tower::{Service, service_fn};
    /// # use tower_connection::{Accept, AcceptExt, Rejection};
    /// # async fn hello(_: Request<()>) -> Result<Response<String>, Infallible> {
    /// #     Ok(Response::default())
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let (_client, socket) = tokio::io::duplex(64);
    /// # let mut acceptor = Accept::new(service_fn(hello));
    /// let Ok(connection) = acceptor.call(socket).await;
    /// connection.handle().refuse(Rejection::new(Duration::from_secs(5)).close());
    ///
    /// let (_io, mut service) = connection.into_parts();
    /// let Ok(answer) = service.call(Request::new(())).await;
    /// assert_eq!(answer.status(), 503);
    /// # }
    /// ```
    pub fn refuse(&self, refusal: Rejection) {
        self.rules().refusal = Some(refusal);
        self.shared.state.refuse();
    }

    /// Whether a request was refused whose body nobody has read.
    ///
    /// Closing the socket now would reset the connection, and the reset could overtake the answer.
    #[must_use]
    pub fn has_unread_body(&self) -> bool {
        self.shared.state.is_unread()
    }

    /// Makes the end of the connection a patient one: the server half-closes, and reads on for at most two seconds, so
    /// that a client that is still sending can read the answer. Closed at once, the kernel would reset the connection
    /// (RFC 9112, section 9.6).
    ///
    /// For whoever answers a request without reading its body; it is bounded by 16 MiB, too. The answer must say
    /// `Connection: close`, as this does not. For HTTP/1: HTTP/2 ends a stream instead.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// # let connection = ConnectionHandle::detached();
    /// connection.linger();
    /// ```
    pub fn linger(&self) {
        self.shared.state.set_lingering();
    }

    /// Lets the client end its half of the connection and wait for its answer. By default, who has ended it is taken to
    /// have left, by hyper and by the socket half (CONN-11).
    ///
    /// For HTTP/1, beside hyper's `half_close(true)`, which cannot be seen from here. Nobody notices a client that leaves
    /// then, before it is written to.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use hyper::server::conn::http1;
    /// use tower::{ServiceExt, service_fn};
    /// use tower_connection::{Accept, Connection};
    /// use tower_connection_hyper::serve;
    ///
    /// # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, Infallible> {
    /// #     Ok(http::Response::new("hello".into()))
    /// # }
    /// # async fn run(listener: tokio::net::TcpListener) -> std::io::Result<()> {
    /// let mut builder = http1::Builder::new();
    /// builder.half_close(true);
    ///
    /// let acceptor = Accept::new(service_fn(hello)).map_response(|connection: Connection<_, _>| {
    ///     connection.handle().allow_half_close();
    ///     connection
    /// });
    /// serve(listener, acceptor).with_builder(builder).await
    /// # }
    /// ```
    pub fn allow_half_close(&self) {
        self.shared.state.set_half_close();
    }

    /// Keeps `guard` until the socket is closed, which is later than the last response if the connection was upgraded.
    ///
    /// If it is closed already, or nothing tells of it (a [detached](Self::detached) handle keeps a guard as long as it
    /// lives), `guard` is dropped then.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use tower_connection::ConnectionHandle;
    /// let permit = Arc::new(());
    /// let connection = ConnectionHandle::detached();
    /// connection.hold(permit.clone());
    /// assert_eq!(Arc::strong_count(&permit), 2);
    /// drop(connection);
    /// assert_eq!(Arc::strong_count(&permit), 1);
    /// ```
    pub fn hold(&self, guard: impl Send + 'static) {
        if let Guards::Open(held) = &mut self.rules().held {
            held.push(Box::new(guard));
        }
    }

    /// The socket is closed.
    pub(crate) fn let_go(&self) {
        // Dropped when the lock is free: a guard may want it.
        let _held = std::mem::replace(&mut self.rules().held, Guards::Closed);
    }

    /// Says that a request was `now` answered in the place of its service because there is no room for it, and returns for
    /// how long now nothing but such answers was sent here, as far as [`note_served`](Self::note_served) tells.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_connection::ConnectionHandle;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let connection = ConnectionHandle::detached();
    /// let refused = || connection.note_refused(tokio::time::Instant::now());
    /// assert_eq!(refused(), Duration::ZERO);
    /// tokio::time::advance(Duration::from_secs(3)).await;
    /// assert_eq!(refused(), Duration::from_secs(3));
    /// connection.note_served();
    /// assert_eq!(refused(), Duration::ZERO);
    /// # }
    /// ```
    #[must_use = "a client should not stay for ever where it is not served"]
    pub fn note_refused(&self, now: Instant) -> Duration {
        let now = self.nanoseconds(now);
        Duration::from_nanos(now - self.shared.state.refused_since(now))
    }

    /// Says that a request is served, after others were not.
    pub fn note_served(&self) {
        self.shared.state.clear_refused();
    }

    /// Asks `gate` when a response is about to upgrade an HTTP/1 connection (a WebSocket).
    ///
    /// An error is answered in place of the upgrade, and the connection closes. With several gates the
    /// first error counts. WebSockets over HTTP/2 are streams, and no upgrade.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_connection::{ConnectionHandle, Rejection};
    /// # let connection = ConnectionHandle::detached();
    /// connection.gate_upgrades(|| Err(Rejection::new(Duration::from_secs(10)).close()));
    /// ```
    pub fn gate_upgrades(&self, gate: impl FnOnce() -> Result<(), Rejection> + Send + 'static) {
        self.rules().upgrades.push(Box::new(gate));
    }

    /// Ends the connection now, with a reset: handlers are dropped, and nothing stays in the kernel.
    ///
    /// Upgraded connections end too, unless the socket was taken out of its wrappers. Where the socket has
    /// no reset (pipes, Unix sockets), it is closed.
    pub fn abort(&self) {
        self.shared.state.abort();
    }

    /// Whether [`close`](Self::close) or [`abort`](Self::abort) was called.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.shared.state.phase() != Phase::Open
    }

    /// Whether [`abort`](Self::abort) was called.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.shared.state.phase() == Phase::Aborted
    }

    /// Counts a request in flight until the guard is dropped.
    ///
    /// [`Accept`](crate::Accept) does it for every request; a layer that answers in its place has
    /// nothing to count.
    ///
    /// ```
    /// # use tower_connection::ConnectionHandle;
    /// let connection = ConnectionHandle::detached();
    /// let request = connection.begin(http::Version::HTTP_2);
    /// assert_eq!(connection.in_flight(), 1);
    /// drop(request);
    /// assert_eq!(connection.in_flight(), 0);
    /// ```
    pub fn begin(&self, version: Version) -> InFlight {
        self.state().set_protocol(version);
        self.begin_or_refuse().0
    }

    /// As [`begin`](Self::begin), and whether the request is to be refused.
    pub(crate) fn begin_or_refuse(&self) -> (InFlight, bool) {
        let refused = self.shared.state.begin();
        let in_flight = InFlight {
            connection: self.clone(),
        };
        (in_flight, refused)
    }

    /// The answer to a request that is refused.
    pub(crate) fn refusal(&self) -> Rejection {
        // `close_if_idle` may have set the flag and not yet the answer: it holds the lock meanwhile.
        let refusal = self.rules().refusal.clone();
        refusal.expect("a connection that refuses has an answer")
    }

    /// The connection becomes something else than HTTP, unless a gate objects.
    pub(crate) fn upgrade(&self) -> Result<(), Rejection> {
        // Taken out: a gate may want a lock that is held by somebody who wants this one.
        let gates = std::mem::take(&mut self.rules().upgrades);
        gates.into_iter().try_for_each(|gate| gate())?;
        self.shared.state.set_upgraded();
        Ok(())
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        // Nothing panics while it is held.
        self.shared
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a driver will call the connection's own graceful shutdown, and waits for the moment.
    ///
    /// For the loop that polls hyper's connection: `Ready(End::Close)` asks for its
    /// `graceful_shutdown`, `Ready(End::Abort)` for dropping it. Without a driver, the socket half says
    /// GOAWAY by itself.
    ///
    /// HTTP/1 is never closed this way: hyper would end an idle connection without a look at what has
    /// arrived (1.12, `proto/h1/conn.rs`, `disable_keep_alive`). The socket half reads first, and then ends
    /// the stream.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<End> {
        let state = &self.shared.state;
        state.set_driven();
        state.register_driver(cx.waker());
        match state.phase() {
            Phase::Aborted => Poll::Ready(End::Abort),
            Phase::Closing if state.protocol() >= Some(Version::HTTP_2) => Poll::Ready(End::Close),
            Phase::Open | Phase::Closing => Poll::Pending,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.shared.state
    }

    /// Nanoseconds since it was accepted.
    pub(crate) fn now(&self) -> u64 {
        self.nanoseconds(Instant::now())
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        let since = at.duration_since(self.shared.accepted_at);
        // They fit for 584 years.
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("id", &self.id().0)
            .field("peer", self.peer())
            .field("protocol", &self.protocol())
            .field("requests", &self.requests())
            .field("in_flight", &self.in_flight())
            .field("phase", &self.shared.state.phase())
            .finish_non_exhaustive()
    }
}

/// How a connection is asked to end.
///
/// ```
/// # use tower_connection::{ConnectionHandle, End};
/// # use std::{future::poll_fn, task::Poll};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let connection = ConnectionHandle::detached();
/// let request = connection.begin(http::Version::HTTP_2);
/// connection.close();
/// assert_eq!(poll_fn(|cx| connection.poll_end(cx)).await, End::Close);
/// # drop(request);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After the current work: call `graceful_shutdown`, and go on polling.
    Close,
    /// Now: drop the connection.
    Abort,
}

/// A request in flight. Dropping it ends the request.
///
/// ```
/// # use tower_connection::{ConnectionHandle, InFlight};
/// let connection = ConnectionHandle::detached();
/// let request: InFlight = connection.begin(http::Version::HTTP_11);
/// assert_eq!(connection.requests(), 1);
/// # drop(request);
/// ```
#[derive(Debug)]
#[must_use = "the request ends when this is dropped"]
pub struct InFlight {
    connection: ConnectionHandle,
}

impl InFlight {
    /// The connection that the request came on.
    #[must_use]
    pub fn connection(&self) -> &ConnectionHandle {
        &self.connection
    }
}

/// A body that is being received. Dropping it says that all of it is there, or that nobody wants the rest.
///
/// ```
/// # use tower_connection::{ConnectionHandle, Receiving};
/// let connection = ConnectionHandle::detached();
/// let body: Receiving = connection.begin_body();
/// # drop(body);
/// ```
#[derive(Debug)]
#[must_use = "the body ends when this is dropped"]
pub struct Receiving {
    connection: ConnectionHandle,
}

impl Receiving {
    /// All of it is there: what comes next on the connection is another request. (After a mere drop, the HTTP
    /// stack may still read the rest.)
    pub fn complete(self) {
        self.connection.state().clear_rest();
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.connection.state().end_body(self.connection.now());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.state().end(self.connection.now());
    }
}

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Version;
use tokio::time::Instant;

use crate::{
    Address, Socket,
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
}

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

    /// The protocol, once the first request has told it.
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

    /// Whether it became something else than HTTP (a WebSocket over HTTP/1.1).
    #[must_use]
    pub fn is_upgraded(&self) -> bool {
        self.shared.state.is_upgraded()
    }

    /// Ends the connection after the current work.
    ///
    /// HTTP/1: the response in progress, or the next one, says `Connection: close`; an idle connection
    /// ends at once. HTTP/2: GOAWAY, and the open streams finish. An upgraded connection goes on: its
    /// end is its own protocol's. Calling it again does nothing.
    ///
    /// Under an unmodified `axum::serve` 0.8 nothing reaches hyper's HTTP/2 connection, so there an
    /// HTTP/2 connection stays open until the client leaves; `tower-connection-hyper` has no such hole.
    pub fn close(&self) {
        self.shared.state.close();
    }

    /// Ends the connection now, with a reset: handlers are dropped, and nothing stays in the kernel.
    ///
    /// Upgraded connections end too, unless the socket was taken out of its wrappers. Where the socket has no reset (pipes, Unix sockets), it is closed.
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
        self.shared.state.begin(version);
        InFlight {
            connection: self.clone(),
        }
    }

    /// Says that a driver will call the connection's own graceful shutdown, and waits for the moment.
    ///
    /// For the loop that polls hyper's connection: `Ready(End::Close)` asks for its
    /// `graceful_shutdown`, `Ready(End::Abort)` for dropping it. Without a driver, the socket half ends
    /// HTTP/1 connections by itself.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<End> {
        self.shared.state.set_driven();
        self.shared.state.register_driver(cx.waker());
        match self.shared.state.phase() {
            Phase::Open => Poll::Pending,
            Phase::Closing => Poll::Ready(End::Close),
            Phase::Aborted => Poll::Ready(End::Abort),
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.shared.state
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
/// connection.close();
/// assert_eq!(poll_fn(|cx| connection.poll_end(cx)).await, End::Close);
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

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.shared.state.end();
    }
}

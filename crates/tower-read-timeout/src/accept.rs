use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;
use tower_connection::{Address, Connection, Deadline, Hooked, Socket};
use tower_service::Service;

use crate::{ReadTimeoutIo, ReadTimeoutService, Reading, Reason, layer::Settings};

type BoxError = Box<dyn Error + Send + Sync>;

/// An acceptor whose clients must send their requests in time; see
/// [`ReadTimeoutLayer`](crate::ReadTimeoutLayer).
#[derive(Clone, Debug)]
pub struct ReadTimeout<A> {
    inner: A,
    settings: Arc<Settings>,
}

impl<A> ReadTimeout<A> {
    pub(crate) fn new(inner: A, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<A, Io, I, S> Service<Io> for ReadTimeout<A>
where
    A: Service<Io, Response = Connection<I, S>>,
    A::Error: Into<BoxError>,
    Io: Socket,
    I: Socket,
{
    type Response = Connection<ReadTimeoutIo<I>, ReadTimeoutService<S>>;
    type Error = BoxError;
    type Future = ReadTimeoutFuture<A::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, io: Io) -> Self::Future {
        let mut deadline = Deadline::default();
        let handshake = self.settings.handshake.map(|timeout| {
            let began = Instant::now();
            deadline.set(began + timeout);
            // A system call. But the acceptor inside takes the socket, and nobody else knows who does not go on.
            let peer = io.peer();
            Handshake { peer, began }
        });
        ReadTimeoutFuture {
            inner: self.inner.call(io),
            deadline,
            handshake,
            settings: self.settings.clone(),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`ReadTimeout`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ReadTimeoutFuture<F> {
        #[pin]
        inner: F,
        deadline: Deadline,
        handshake: Option<Handshake>,
        settings: Arc<Settings>,
    }
}

/// Whose it is, and since when, if that is bounded.
#[derive(Debug)]
struct Handshake {
    peer: Address,
    began: Instant,
}

impl<F, I, S, E> Future for ReadTimeoutFuture<F>
where
    F: Future<Output = Result<Connection<I, S>, E>>,
    E: Into<BoxError>,
    I: Socket,
{
    type Output = Result<Connection<ReadTimeoutIo<I>, ReadTimeoutService<S>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let connection = match me.inner.poll(cx) {
            Poll::Ready(made) => made.map_err(Into::into)?,
            Poll::Pending => {
                ready!(me.deadline.poll(cx));
                if let Some(Handshake { peer, began }) = me.handshake.take() {
                    let client = (&peer, None);
                    let ends = &me.settings.ends;
                    ends.note(Reason::Handshake, client, began.elapsed(), None);
                }
                return Poll::Ready(Err(HandshakeTimedOut.into()));
            }
        };
        let handle = connection.handle().clone();
        if me.settings.head(0).is_some() {
            handle.set_timed();
        }
        let reading = Reading::new(handle.clone(), me.settings.clone());
        let settings = me.settings.clone();
        Poll::Ready(Ok(connection
            .map_io(|io| Hooked::new(io, reading))
            .map_service(|service| {
                ReadTimeoutService::new(service, handle, settings)
            })))
    }
}

/// The acceptor inside had not made a connection in time: a TLS handshake that does not go on.
///
/// ```
/// # use tower_read_timeout::HandshakeTimedOut;
/// assert_eq!(HandshakeTimedOut.to_string(), "the handshake took too long");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeTimedOut;

impl fmt::Display for HandshakeTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handshake took too long")
    }
}

impl Error for HandshakeTimedOut {}

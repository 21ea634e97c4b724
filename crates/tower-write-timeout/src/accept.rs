use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use tower_connection::{Connection, ConnectionHandle, Hooked, Socket};
use tower_service::Service;
use tracing::info;

use crate::{
    Owing, Reason, Starving, WriteTimeoutIo, WriteTimeoutSocket, layer::Settings, pace::Terms,
};

/// An acceptor whose clients must keep taking their responses; see
/// [`WriteTimeoutLayer`](crate::WriteTimeoutLayer).
#[derive(Clone, Debug)]
pub struct WriteTimeout<A> {
    inner: A,
    settings: Arc<Settings>,
}

/// What the two hooks of a connection share: that below TLS, and that above.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Arc<Settings>,
    /// There is none before the handshake is over.
    pub(crate) handle: OnceLock<ConnectionHandle>,
}

impl Shared {
    pub(crate) fn terms(&self) -> &Terms {
        &self.settings.terms
    }

    /// Says whom was given up, and why: a stream, or the connection.
    pub(crate) fn tell(
        &self,
        io: &impl Socket,
        stream: Option<u32>,
        reason: Reason,
        (owed_for, nothing_for, taken): (Duration, Duration, u64),
    ) {
        let ends = &self.settings.ends;
        ends.tally.count(reason);
        let Some(suppressed) = ends.events.pass() else {
            return;
        };
        let handle = self.handle.get();
        let connection = handle.map(|handle| handle.id().to_string());
        // Of a connection behind a PROXY protocol, the handle knows the client.
        let peer = handle.map_or_else(|| io.peer(), |handle| handle.peer().clone());
        let held = io.unacked().ok();
        info!(
            %peer, connection, stream, reason = reason.as_str(), ?owed_for, ?nothing_for, taken, held, suppressed,
            "gave up a client that does not take its response"
        );
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.handle.get().is_some_and(ConnectionHandle::is_upgraded)
    }
}

impl<A> WriteTimeout<A> {
    pub(crate) fn new(inner: A, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<A, Io, I, S> Service<Io> for WriteTimeout<A>
where
    A: Service<WriteTimeoutSocket<Io>, Response = Connection<I, S>>,
    Io: Socket,
    I: Socket,
{
    type Response = Connection<WriteTimeoutIo<I>, S>;
    type Error = A::Error;
    type Future = WriteTimeoutFuture<A::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> Self::Future {
        if self.settings.unsent > 0 {
            // A socket that cannot takes what its kernel takes.
            let _ = io.set_unsent_limit(self.settings.unsent);
        }
        let shared = Arc::new(Shared {
            settings: self.settings.clone(),
            handle: OnceLock::new(),
        });
        let owing = Owing::new(shared.clone());
        WriteTimeoutFuture {
            inner: self.inner.call(Hooked::new(io, owing)),
            shared,
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`WriteTimeout`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct WriteTimeoutFuture<F> {
        #[pin]
        inner: F,
        shared: Arc<Shared>,
    }
}

impl<F, I, S, E> Future for WriteTimeoutFuture<F>
where
    F: Future<Output = Result<Connection<I, S>, E>>,
    I: Socket,
{
    type Output = Result<Connection<WriteTimeoutIo<I>, S>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let connection = ready!(me.inner.poll(cx))?;
        // It is polled to its end once, so there is none before.
        let _ = me.shared.handle.set(connection.handle().clone());
        let starving = Starving::new(me.shared.clone());
        Poll::Ready(Ok(connection.map_io(|io| Hooked::new(io, starving))))
    }
}

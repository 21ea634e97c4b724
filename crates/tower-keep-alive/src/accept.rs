use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::HeaderValue;
use tokio::time::Instant;
use tower_connection::{Connection, ConnectionHandle, Hooked, Socket};
use tower_service::Service;

use crate::{Idle, KeepAliveIo, KeepAliveService, Reason, layer::Settings};

/// An acceptor whose connections are closed when nobody is using them; see
/// [`KeepAliveLayer`](crate::KeepAliveLayer).
#[derive(Clone, Debug)]
pub struct KeepAlive<A> {
    inner: A,
    settings: Arc<Settings>,
}

/// What the two halves of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) handle: ConnectionHandle,
    pub(crate) settings: Arc<Settings>,
    pub(crate) old_at: Option<Instant>,
    /// What is told of the timeout.
    pub(crate) header: Option<HeaderValue>,
}

impl Shared {
    /// Ends the connection, unless somebody has. (Its two halves are called by its one task, so it is counted once.)
    pub(crate) fn end(&self, reason: Reason) {
        if !self.handle.is_closing() {
            self.settings.ends.note(&self.handle, reason);
            self.handle.close();
        }
    }
}

impl<A> KeepAlive<A> {
    pub(crate) fn new(inner: A, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<A, Io, I, S> Service<Io> for KeepAlive<A>
where
    A: Service<Io, Response = Connection<I, S>>,
    I: Socket,
{
    type Response = Connection<KeepAliveIo<I>, KeepAliveService<S>>;
    type Error = A::Error;
    type Future = KeepAliveFuture<A::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> Self::Future {
        KeepAliveFuture {
            inner: self.inner.call(io),
            settings: self.settings.clone(),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`KeepAlive`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct KeepAliveFuture<F> {
        #[pin]
        inner: F,
        settings: Arc<Settings>,
    }
}

impl<F, I, S, E> Future for KeepAliveFuture<F>
where
    F: Future<Output = Result<Connection<I, S>, E>>,
    I: Socket,
{
    type Output = Result<Connection<KeepAliveIo<I>, KeepAliveService<S>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let connection = ready!(me.inner.poll(cx))?;
        let handle = connection.handle().clone();
        handle.set_timed();
        let shared = Arc::new(Shared {
            old_at: me.settings.old_at(&handle),
            header: me.settings.header(),
            settings: me.settings.clone(),
            handle,
        });
        let idle = Idle::new(shared.clone());
        Poll::Ready(Ok(connection
            .map_io(|io| Hooked::new(io, idle))
            .map_service(|service| KeepAliveService::new(service, shared))))
    }
}

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;
use tower_connection::{Connection, Deadline, Hooked, Socket};
use tower_service::Service;

use crate::{
    LimitedIo,
    io::Place,
    ledger::{AcceptorId, Ledger, Reservation, Ticket},
    settings::Settings,
};

/// An acceptor that makes at most so many connections at once; see
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
#[derive(Debug)]
pub struct ConnectionLimit<A> {
    inner: A,
    ledger: Ledger,
    settings: Arc<Settings>,
    id: AcceptorId,
    reserved: Option<Reservation>,
    /// When to ask for a reservation again, whether woken or not.
    again: Deadline,
}

impl<A> ConnectionLimit<A> {
    pub(crate) fn new(inner: A, ledger: Ledger, settings: Arc<Settings>) -> Self {
        Self {
            inner,
            id: ledger.acceptor(),
            ledger,
            settings,
            reserved: None,
            again: Deadline::default(),
        }
    }

    fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Reservation> {
        loop {
            match self.ledger.reserve(self.id, &self.settings, cx.waker()) {
                Ok(reservation) => return Poll::Ready(reservation),
                Err(None) => return Poll::Pending,
                // A timer would take a millisecond.
                Err(Some(at)) if at <= Instant::now() => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(Some(at)) => self.again.set(at),
            }
            ready!(self.again.poll(cx));
        }
    }
}

// A clone starts without a place: the place belongs to the acceptor that took it. It counts in the same
// limit.
impl<A: Clone> Clone for ConnectionLimit<A> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.ledger.clone(),
            self.settings.clone(),
        )
    }
}

impl<A> Drop for ConnectionLimit<A> {
    fn drop(&mut self) {
        self.ledger.forget(self.id);
        if let Some(reserved) = self.reserved.take() {
            self.ledger.give_back(reserved);
        }
    }
}

impl<A, Io, I, S> Service<Io> for ConnectionLimit<A>
where
    A: Service<LimitedIo<Io>, Response = Connection<I, S>>,
    Io: Socket,
{
    type Response = Connection<I, S>;
    type Error = A::Error;
    type Future = ConnectionLimitFuture<A::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        if self.reserved.is_none() {
            self.reserved = Some(ready!(self.poll_reserve(cx)));
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> Self::Future {
        let reserved = self
            .reserved
            .take()
            .expect("poll_ready must be called first");
        // A system call, for which there must be a reason.
        let client = if self.ledger.tells_clients_apart() {
            (self.settings.client)(&io.peer())
        } else {
            None
        };
        let (entry, verdict) = self.ledger.admit(reserved, &self.settings, client);
        entry.tell(&verdict, &io);
        ConnectionLimitFuture {
            ticket: entry.ticket(),
            // Around the socket, not around the connection: so it covers the TLS handshake as well.
            inner: self
                .inner
                .call(Hooked::new(io, Place::new(entry, &verdict))),
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`ConnectionLimit`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ConnectionLimitFuture<F> {
        #[pin]
        inner: F,
        ticket: Ticket,
    }
}

impl<F, I, S, E> Future for ConnectionLimitFuture<F>
where
    F: Future<Output = Result<Connection<I, S>, E>>,
{
    type Output = Result<Connection<I, S>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let connection = ready!(me.inner.poll(cx))?;
        me.ticket.adopt(connection.handle());
        Poll::Ready(Ok(connection))
    }
}

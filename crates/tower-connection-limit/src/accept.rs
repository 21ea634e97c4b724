use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tower_connection::{Connection, Hooked, Rejection, Socket};
use tower_service::Service;

use crate::{
    AtCapacity, LimitedIo, LimitedService,
    io::{Answered, Place},
    permit::{AcceptorId, Admission, Counts},
    service::Rejecting,
};

/// An acceptor that makes at most so many connections at once; see
/// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
#[derive(Debug)]
pub struct ConnectionLimit<A> {
    inner: A,
    counts: Counts,
    at_capacity: AtCapacity,
    rejection: Rejection,
    id: AcceptorId,
    reserved: Option<Admission>,
}

impl<A> ConnectionLimit<A> {
    pub(crate) fn new(
        inner: A,
        counts: Counts,
        at_capacity: AtCapacity,
        rejection: Rejection,
    ) -> Self {
        Self {
            inner,
            id: counts.acceptor(),
            counts,
            at_capacity,
            rejection,
            reserved: None,
        }
    }
}

// A clone starts without a place: the place belongs to the acceptor that took it. It counts in the same
// limit.
impl<A: Clone> Clone for ConnectionLimit<A> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.counts.clone(),
            self.at_capacity,
            self.rejection.clone(),
        )
    }
}

impl<A> Drop for ConnectionLimit<A> {
    fn drop(&mut self) {
        self.counts.leave(self.id);
    }
}

impl<A, Io, I, S> Service<Io> for ConnectionLimit<A>
where
    A: Service<LimitedIo<Io>, Response = Connection<I, S>>,
    Io: Socket,
{
    type Response = Connection<I, LimitedService<S>>;
    type Error = A::Error;
    type Future = ConnectionLimitFuture<A::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        if self.reserved.is_none() {
            self.reserved = self.counts.reserve(self.id, self.at_capacity, cx.waker());
        }
        if self.reserved.is_none() {
            return Poll::Pending;
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> Self::Future {
        let reserved = self
            .reserved
            .take()
            .expect("poll_ready must be called first");
        let admission = self.counts.admit(reserved);
        let rejecting = match admission {
            Admission::Serve(_) => None,
            Admission::Reject(_) => Some((self.rejection.clone(), Answered::default())),
        };
        let answered = rejecting.as_ref().map(|(_, answered)| answered.clone());
        // Around the socket, not around the connection: so it covers the TLS handshake as well.
        let io = Hooked::new(io, Place::new(admission, answered));
        ConnectionLimitFuture {
            inner: self.inner.call(io),
            rejecting,
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
        rejecting: Option<(Rejection, Answered)>,
    }
}

impl<F, I, S, E> Future for ConnectionLimitFuture<F>
where
    F: Future<Output = Result<Connection<I, S>, E>>,
{
    type Output = Result<Connection<I, LimitedService<S>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let connection = ready!(me.inner.poll(cx))?;
        let rejecting = me.rejecting.take().map(|(rejection, answered)| Rejecting {
            handle: connection.handle().clone(),
            rejection,
            answered,
        });
        Poll::Ready(Ok(
            connection.map_service(|service| LimitedService::new(service, rejecting))
        ))
    }
}

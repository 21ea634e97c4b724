use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use tower_connection::{Closed, Connection, Hooked, Socket};
use tower_service::Service;

use crate::{
    DrainIo, DrainService, Phase,
    io::Enrolled,
    roll::{Entry, Shared},
    seat::Seat,
};

type BoxError = Box<dyn Error + Send + Sync>;

/// An acceptor that a [`Drain`](crate::Drain) ends; see [`DrainLayer`](crate::DrainLayer).
#[derive(Debug)]
pub struct DrainAcceptor<A> {
    inner: A,
    shared: Arc<Shared>,
    key: usize,
    /// Whom the drain wakes.
    waker: Option<Waker>,
    /// It was ready for the last of the backlog, and has not been called since.
    asked: bool,
    /// It was so more than once: whoever accepts cannot take out who waits (out of descriptors).
    lacks: bool,
    /// It has said that accepting is over.
    closed: bool,
}

impl<A> DrainAcceptor<A> {
    pub(crate) fn new(inner: A, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            key: shared.new_acceptor(),
            shared,
            waker: None,
            asked: false,
            lacks: false,
            closed: false,
        }
    }

    fn phase(&mut self, cx: &Context<'_>) -> Phase {
        if (self.waker.as_ref()).is_some_and(|waker| waker.will_wake(cx.waker())) {
            // A change that is not seen here wakes it once more.
            return self.shared.phase();
        }
        self.waker = Some(cx.waker().clone());
        self.shared.heed(self.key, cx)
    }
}

impl<A> DrainAcceptor<A> {
    fn lack(&mut self, lacks: bool) {
        if self.lacks != lacks {
            self.lacks = lacks;
            self.shared.acceptor_lacks(self.key, lacks);
        }
    }
}

// A clone accepts by itself, for the same server.
impl<A: Clone> Clone for DrainAcceptor<A> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.shared.clone())
    }
}

impl<A> Drop for DrainAcceptor<A> {
    fn drop(&mut self) {
        self.shared.drop_acceptor(self.key);
    }
}

impl<A, Io, I, S> Service<Io> for DrainAcceptor<A>
where
    A: Service<DrainIo<Io>, Response = Connection<I, S>>,
    A::Error: Into<BoxError>,
    Io: Socket,
{
    type Response = Connection<I, DrainService<S>>;
    type Error = BoxError;
    type Future = DrainFuture<A::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let phase = self.phase(cx);
        if phase < Phase::Draining {
            return self.inner.poll_ready(cx).map_err(Into::into);
        }
        let asked = std::mem::take(&mut self.asked);
        if asked && self.closed {
            self.lack(true);
        }
        if phase == Phase::Draining && (self.closed || !asked) {
            let ready = self.inner.poll_ready(cx).map_err(Into::into);
            if ready.is_ready() {
                self.shared.acceptor_spoke(self.key);
                self.asked = true;
                if !self.closed {
                    // To be asked again also if nobody comes.
                    cx.waker().wake_by_ref();
                }
                return ready;
            }
            if self.closed {
                // For those who were taken out of the backlog.
                self.shared.acceptor_waits(self.key);
                return Poll::Pending;
            }
        }
        // The listener had nobody for it; or it is full, and those who come now should go elsewhere.
        self.closed = true;
        self.shared.acceptor_spoke(self.key);
        Poll::Ready(Err(Closed::default().into()))
    }

    fn call(&mut self, io: Io) -> Self::Future {
        self.asked = false;
        self.lack(false);
        if self.shared.phase() > Phase::Draining {
            // Who said `Closed` may be called all the same, and the acceptor inside may not be ready for it.
            let _ = io.reset_on_close();
            self.shared.refuse();
            return DrainFuture { made: None };
        }
        let entry = self.shared.enter();
        let seat = entry.seat().clone();
        // Around the socket, not around the connection: so it covers the TLS handshake as well.
        let inner = self.inner.call(enrol(io, entry));
        DrainFuture {
            made: Some(Made { inner, seat }),
        }
    }
}

fn enrol<Io: Socket>(io: Io, entry: Entry) -> DrainIo<Io> {
    Hooked::new(io, Enrolled::new(entry))
}

pin_project_lite::pin_project! {
    /// The future of a [`DrainAcceptor`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DrainFuture<F> {
        // None for who came too late.
        #[pin]
        made: Option<Made<F>>,
    }
}

pin_project_lite::pin_project! {
    #[derive(Debug)]
    struct Made<F> {
        #[pin]
        inner: F,
        seat: Arc<Seat>,
    }
}

impl<F, I, S, E> Future for DrainFuture<F>
where
    F: Future<Output = Result<Connection<I, S>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Connection<I, DrainService<S>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(made) = self.project().made.as_pin_mut() else {
            return Poll::Ready(Err(Closed::default().into()));
        };
        let made = made.project();
        let connection = ready!(made.inner.poll(cx)).map_err(Into::into)?;
        made.seat.set_handle(connection.handle());
        let seat = made.seat.clone();
        Poll::Ready(Ok(
            connection.map_service(|service| DrainService::new(service, seat))
        ))
    }
}

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_connection::{ConnectionHandle, Deadline, Head};
use tower_service::Service;

use crate::{
    OverloadBody, Reason, Ticket, budget,
    core::{Wait, Waits},
    layer::Shared,
    permit::{Permit, Slot},
    serving::{Course, Serving},
    shedding::Shedding,
};

/// A service of which at most so many requests are in flight; see [`InFlightLimitLayer`](crate::InFlightLimitLayer).
///
/// It is always ready: a request that finds no slot is answered in its place. A slot that `poll_ready` took is kept until
/// `call`, or until this is dropped: who asks and does not call keeps others out. With a [`Classify`](crate::Classify) it
/// is `call` that takes the slot, in as few steps: not before the request is known.
#[derive(Debug)]
pub struct InFlightLimit<S> {
    inner: S,
    shared: Arc<Shared>,
    /// Taken by `poll_ready`, and whether the service inside was ready then, if it was asked.
    slot: Option<Slot>,
    ready: Option<bool>,
}

// A clone has no slot: that belongs to the request it was taken for.
impl<S: Clone> Clone for InFlightLimit<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.shared.clone())
    }
}

impl<S> InFlightLimit<S> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            shared,
            slot: None,
            ready: None,
        }
    }
}

impl<S, B, R> Service<Request<B>> for InFlightLimit<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    B: Body,
    R: Body,
    R::Data: From<bytes::Bytes>,
{
    type Response = Response<OverloadBody<R>>;
    type Error = S::Error;
    type Future = InFlightLimitFuture<S::Future, S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.shared.off {
            return self.inner.poll_ready(cx);
        }
        let core = &self.shared.core;
        let has_slot = if self.shared.classifies() {
            // Whether the request may have one is known in `call`: a health check must not take it, even for a moment.
            !core.counts().is_full()
        } else {
            if self.slot.is_none() {
                self.slot = core.try_take();
                self.ready = None;
            }
            self.slot.is_some()
        };
        if has_slot && self.ready != Some(true) {
            match poll_unbudgeted(cx, |cx| self.inner.poll_ready(cx)) {
                Poll::Ready(Ok(())) => self.ready = Some(true),
                Poll::Ready(Err(error)) => {
                    self.slot = None;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => self.ready = Some(false),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.shared.off {
            let inner = self.inner.call(request);
            return InFlightLimitFuture::serve(Serving::new(inner, None, Course::default()));
        }
        let (slot, ready) = (self.slot.take(), self.ready.take());
        let shared = &self.shared;
        let core = &shared.core;
        let now = Instant::now();
        let ticket = shared.ticket(&Head::of(&request));
        let shed = |reason, request| {
            InFlightLimitFuture::shed(Shedding::new(shared, &ticket, reason, request, now))
        };
        let max_wait = core.max_wait();
        // Looked up only for who must wait.
        let deadline = |request: &Request<B>| {
            let header = shared.deadline_header.as_ref();
            budget::deadline(&ticket, request.headers(), header, now)
        };
        let stage = if ticket.exempt {
            Stage::Inner(None)
        } else {
            let waits = !max_wait.is_zero();
            if !waits && ready == Some(false) {
                return shed(Reason::NotReady, request);
            }
            let slot = match slot {
                Some(slot) => Ok(slot),
                None if shared.classifies() => core.take_for(&ticket, waits, now),
                None => Err(Reason::Full),
            };
            let slot = match slot {
                Ok(slot) => Ok(Wait::Over(slot.permit(&ticket, now))),
                Err(reason) if !waits => Err(reason),
                Err(_) => core.wait(&ticket, deadline(&request), now),
            };
            if !matches!(slot, Ok(Wait::Over(_))) {
                core.note_full(now);
                core.probe(now);
            }
            match slot {
                Ok(Wait::Over(permit)) => Stage::Inner(Some(permit)),
                Ok(Wait::Waits(waits)) => Stage::Slot(waits),
                Err(reason) => return shed(reason, request),
            }
        };
        let course = Course::of(&request, &ticket);
        let stage = match stage {
            // ## Inner => Turn
            Stage::Inner(Some(permit)) if core.is_crowded() => Stage::Turn(permit),
            Stage::Inner(mut permit) if ready == Some(true) => {
                if let Some(permit) = &mut permit {
                    note_served(permit, &request);
                }
                let inner = self.inner.call(request);
                return InFlightLimitFuture::serve(Serving::new(inner, permit, course));
            }
            stage => stage,
        };
        let until = match &stage {
            Stage::Slot(waits) => waits.until(),
            Stage::Turn(_) | Stage::Inner(_) => {
                let until = now + max_wait;
                deadline(&request).map_or(until, |deadline| until.min(deadline))
            }
        };
        let mut deadline = Deadline::default();
        deadline.set(until);
        let clone = self.inner.clone();
        InFlightLimitFuture::wait(Waiting {
            service: std::mem::replace(&mut self.inner, clone),
            shared: shared.clone(),
            request: Some(request),
            ticket,
            stage: Some(stage),
            course,
            deadline,
        })
    }
}

/// The connection is one on which something is served.
pub(crate) fn note_served<B: Body>(permit: &mut Permit, request: &Request<B>) {
    permit.receives(request);
    if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
        connection.note_served();
    }
}

/// Asks outside of tokio's budget for a task.
///
/// A semaphore or a channel says that it is not ready once the budget is spent, although it is (1.54,
/// `sync/batch_semaphore.rs`): a task that has done much would have its requests refused for nothing.
pub(crate) fn poll_unbudgeted<T>(
    cx: &mut Context<'_>,
    poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    pin!(tokio::task::unconstrained(poll_fn(poll))).poll(cx)
}

pin_project_lite::pin_project! {
    /// The response future of an [`InFlightLimit`].
    #[must_use = "futures do nothing unless polled"]
    pub struct InFlightLimitFuture<F, S, B> {
        #[pin]
        state: State<F, S, B>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<F, S, B> {
        // Boxed: it is the larger part, and most requests need not wait.
        Waiting { waiting: Box<Waiting<S, B>> },
        Serving { #[pin] serving: Serving<F> },
        Shedding { #[pin] shedding: Shedding<B> },
    }
}

impl<F, S, B> InFlightLimitFuture<F, S, B> {
    fn wait(waiting: Waiting<S, B>) -> Self {
        let waiting = Box::new(waiting);
        Self {
            state: State::Waiting { waiting },
        }
    }

    fn serve(serving: Serving<F>) -> Self {
        Self {
            state: State::Serving { serving },
        }
    }

    fn shed(shedding: Shedding<B>) -> Self {
        Self {
            state: State::Shedding { shedding },
        }
    }
}

impl<F, S, B> fmt::Debug for InFlightLimitFuture<F, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Waiting { .. } => "Waiting",
            State::Serving { .. } => "Serving",
            State::Shedding { .. } => "Shedding",
        };
        f.debug_tuple("InFlightLimitFuture").field(&state).finish()
    }
}

impl<F, S, B, R, E> Future for InFlightLimitFuture<F, S, B>
where
    F: Future<Output = Result<Response<R>, E>>,
    S: Service<Request<B>, Response = Response<R>, Error = E, Future = F>,
    B: Body,
{
    type Output = Result<Response<OverloadBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project().state.project() {
                // ## Waiting => (Serving | Shedding)
                StateProj::Waiting { waiting } => ready!(waiting.poll(cx))?,
                StateProj::Serving { serving } => return serving.poll(cx),
                StateProj::Shedding { shedding } => return shedding.poll(cx).map(Ok),
            };
            self.as_mut().project().state.set(next);
        }
    }
}

/// A request that cannot be served yet, and the service that will.
struct Waiting<S, B> {
    service: S,
    shared: Arc<Shared>,
    request: Option<Request<B>>,
    ticket: Ticket,
    stage: Option<Stage>,
    course: Course,
    deadline: Deadline,
}

/// For what it waits.
#[derive(Debug)]
enum Stage {
    Slot(Waits),
    /// For other tasks to be polled first, so that their requests are read and counted.
    Turn(Permit),
    /// With its slot, unless it needs none.
    Inner(Option<Permit>),
}

impl<S, B> Waiting<S, B> {
    fn poll<F, R>(&mut self, cx: &mut Context<'_>) -> Poll<Result<State<F, S, B>, S::Error>>
    where
        S: Service<Request<B>, Response = Response<R>, Future = F>,
        B: Body,
    {
        let stage = self.stage.take().expect("polled after completion");
        let mut permit = match stage {
            Stage::Slot(waits) => {
                if !waits.is_decided(cx.waker()) && self.deadline.poll(cx).is_pending() {
                    self.stage = Some(Stage::Slot(waits));
                    return Poll::Pending;
                }
                // ## Slot => Inner
                match waits.end(Instant::now()) {
                    Ok(permit) => Some(permit),
                    Err(reason) => return Poll::Ready(Ok(self.shed(reason))),
                }
            }
            // ## Turn => Inner
            Stage::Turn(permit) => {
                self.stage = Some(Stage::Inner(Some(permit)));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Stage::Inner(permit) => permit,
        };
        match poll_unbudgeted(cx, |cx| self.service.poll_ready(cx)) {
            Poll::Ready(Ok(())) => {
                let request = self.request.take().expect("it waits");
                if let Some(permit) = &mut permit {
                    note_served(permit, &request);
                }
                let inner = self.service.call(request);
                let course = std::mem::take(&mut self.course);
                let serving = Serving::new(inner, permit, course);
                Poll::Ready(Ok(State::Serving { serving }))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if self.deadline.poll(cx).is_ready() => {
                drop(permit);
                Poll::Ready(Ok(self.shed(Reason::NotReady)))
            }
            Poll::Pending => {
                self.stage = Some(Stage::Inner(permit));
                Poll::Pending
            }
        }
    }

    fn shed<F>(&mut self, reason: Reason) -> State<F, S, B>
    where
        B: Body,
    {
        let request = self.request.take().expect("it waits");
        let now = Instant::now();
        State::Shedding {
            shedding: Shedding::new(&self.shared, &self.ticket, reason, request, now),
        }
    }
}

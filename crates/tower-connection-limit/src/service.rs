use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_connection::{ConnectionHandle, Rejectable, Rejection};
use tower_service::Service;

use crate::io::Answered;

/// The service of a limited connection: the inner one, or the rejection.
#[derive(Clone, Debug)]
pub struct LimitedService<S> {
    inner: S,
    // Shared, because hyper clones the service for each request and moves the clone about.
    rejecting: Option<Arc<Rejecting>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rejecting {
    pub(crate) handle: ConnectionHandle,
    pub(crate) rejection: Rejection,
    pub(crate) answered: Answered,
}

impl<S> LimitedService<S> {
    pub(crate) fn new(inner: S, rejecting: Option<Rejecting>) -> Self {
        Self {
            inner,
            rejecting: rejecting.map(Arc::new),
        }
    }
}

impl<S, B, R> Service<Request<B>> for LimitedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<Rejectable<R>>;
    type Error = S::Error;
    type Future = LimitedResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match self.rejecting {
            Some(_) => Poll::Ready(Ok(())),
            None => self.inner.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match &self.rejecting {
            Some(rejecting) => State::Rejected {
                response: Some(rejecting.answer(&request)),
            },
            None => State::Served {
                inner: self.inner.call(request),
            },
        };
        LimitedResponseFuture { state }
    }
}

impl Rejecting {
    fn answer<B, R>(&self, request: &Request<B>) -> Response<Rejectable<R>> {
        // The inner service, which would have told the handle the protocol, never sees the request.
        drop(self.handle.begin(request.version()));
        self.handle.close();
        self.answered.set();
        self.rejection.answer(request)
    }
}

pin_project_lite::pin_project! {
    /// The response future of a [`LimitedService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct LimitedResponseFuture<F, R> {
        #[pin]
        state: State<F, R>,
    }
}

pin_project_lite::pin_project! {
    #[derive(Debug)]
    #[project = StateProj]
    enum State<F, R> {
        Served { #[pin] inner: F },
        Rejected { response: Option<Response<Rejectable<R>>> },
    }
}

impl<F, R, E> Future for LimitedResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Rejectable<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Served { inner } => inner
                .poll(cx)
                .map_ok(|response| response.map(Rejectable::served)),
            StateProj::Rejected { response } => {
                Poll::Ready(Ok(response.take().expect("polled after completion")))
            }
        }
    }
}

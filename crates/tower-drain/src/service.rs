use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response, StatusCode, Version};
use tower_connection::Guarded;
use tower_service::Service;

use crate::{
    Phase,
    seat::{InFlight, Seat},
};

/// The service of a connection under a [`Drain`](crate::Drain): it knows what is in flight, and tells clients that
/// their connection ends.
#[derive(Clone, Debug)]
pub struct DrainService<S> {
    inner: S,
    seat: Arc<Seat>,
}

impl<S> DrainService<S> {
    pub(crate) fn new(inner: S, seat: Arc<Seat>) -> Self {
        Self { inner, seat }
    }
}

impl<S, B, R> Service<Request<B>> for DrainService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<Guarded<R, InFlight>>;
    type Error = S::Error;
    type Future = DrainResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let in_flight = self.seat.begin(&request);
        let http1 = request.version() < Version::HTTP_2;
        if !http1 && self.seat.shared.phase() > Phase::Serving {
            // Who came during the lame duck hears of it with the first request.
            if let Some(handle) = self.seat.handle() {
                handle.announce();
            }
        }
        DrainResponseFuture {
            connect: request.method() == Method::CONNECT,
            inner: self.inner.call(request),
            in_flight: Some(in_flight),
            http1,
        }
    }
}

pin_project_lite::pin_project! {
    /// The response future of a [`DrainService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DrainResponseFuture<F> {
        #[pin]
        inner: F,
        in_flight: Option<InFlight>,
        http1: bool,
        connect: bool,
    }
}

impl<F, R, E> Future for DrainResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Guarded<R, InFlight>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let seat = me.in_flight.as_ref().map(InFlight::seat);
        let seat = seat.expect("polled after completion");
        if *me.http1 && seat.shared.phase() > Phase::Serving {
            // Before the response is made: so it says that it is the last.
            if let Some(handle) = seat.handle() {
                handle.close();
            }
        }
        let response = ready!(me.inner.poll(cx))?;
        let mut in_flight = me.in_flight.take().expect("looked at above");
        let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || *me.connect && response.status().is_success();
        if *me.http1 && upgrades {
            in_flight.keep();
        }
        Poll::Ready(Ok(response.map(|body| Guarded::new(body, in_flight))))
    }
}

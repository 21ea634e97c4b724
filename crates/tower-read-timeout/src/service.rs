use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE},
};
use http_body::Body;
use tower_connection::{BodyClock, ConnectionHandle, Rejectable};
use tower_service::Service;

use crate::{
    ReadTimeoutBody,
    body::{Clock, Late},
    layer::Settings,
};

/// The service of a connection whose requests must arrive in time: it wraps the body of each request, and
/// answers `408` when that has not come.
#[derive(Clone, Debug)]
pub struct ReadTimeoutService<S> {
    inner: S,
    handle: ConnectionHandle,
    settings: Arc<Settings>,
}

impl<S> ReadTimeoutService<S> {
    pub(crate) fn new(inner: S, handle: ConnectionHandle, settings: Arc<Settings>) -> Self {
        Self {
            inner,
            handle,
            settings,
        }
    }
}

impl<S, B, R> Service<Request<B>> for ReadTimeoutService<S>
where
    B: Body,
    S: Service<Request<ReadTimeoutBody<B>>, Response = Response<R>>,
{
    type Response = Response<Rejectable<R>>;
    type Error = S::Error;
    type Future = ReadTimeoutResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let timed = self.settings.bounds_body(&request);
        let late = timed.then(|| Arc::new(Late::new(self.handle.clone(), request.version())));
        let clock = late.clone().map(|late| {
            let waits = BodyClock::start(&mut request);
            Clock::new(late, self.settings.clone(), waits)
        });
        let http1 = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
        let receiving = http1.then(|| self.handle.begin_body());
        ReadTimeoutResponseFuture {
            inner: self
                .inner
                .call(request.map(|body| ReadTimeoutBody::new(body, clock, receiving))),
            late,
        }
    }
}

pin_project_lite::pin_project! {
    /// The response future of a [`ReadTimeoutService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ReadTimeoutResponseFuture<F> {
        #[pin]
        inner: F,
        late: Option<Arc<Late>>,
    }
}

impl<F, R, E> Future for ReadTimeoutResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Rejectable<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let response = me.inner.poll(cx);
        // Whatever the service makes of the error that it read: the client shall know that it was too slow.
        if let Some(late) = me.late.take_if(|late| late.is_late()) {
            return Poll::Ready(Ok(request_timeout(late.version())));
        }
        let response = ready!(response)?;
        if let Some(late) = me.late.take_if(|_| is_grpc(&response)) {
            late.excuse();
        }
        Poll::Ready(Ok(response.map(Rejectable::served)))
    }
}

/// Whether the service takes messages as they come, like those of an upgraded connection. A call whose messages it waits
/// for is answered after the last of them.
fn is_grpc<R>(response: &Response<R>) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// RFC 9110, section 15.5.9.
fn request_timeout<R>(version: Version) -> Response<Rejectable<R>> {
    let mut response = Response::new(Rejectable::default());
    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    if version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        *response.version_mut() = version; // or hyper adds `keep-alive` for clients of HTTP/1.0
    }
    response
}

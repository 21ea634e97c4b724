use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION,
};
use tokio::time::Instant;
use tower_service::Service;

use crate::{Head, accept::Shared};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The service of a connection that is closed when nobody is using it: it tells HTTP/1 clients for how long
/// the connection is kept, and which response is the last.
#[derive(Clone, Debug)]
pub struct KeepAliveService<S> {
    inner: S,
    shared: Arc<Shared>,
    header: Option<HeaderValue>,
}

impl<S> KeepAliveService<S> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            header: shared.settings.header(),
            shared,
        }
    }
}

impl<S, B, R> Service<Request<B>> for KeepAliveService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = KeepAliveResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Shared {
            handle,
            settings,
            old_at,
        } = &*self.shared;
        let persists = persists(request.version(), request.headers());
        let forbidden = settings.forbids(&Head {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
        });
        let inner = self.inner.call(request);

        let left = settings
            .max_requests
            .map(|max| max.saturating_sub(handle.requests()));
        if forbidden || left == Some(0) || old_at.is_some_and(|old_at| old_at <= Instant::now()) {
            handle.close();
        }
        let header = match left {
            Some(left) if persists => settings.header_with_max(left),
            None if persists => self.header.clone(),
            _ => None,
        };
        KeepAliveResponseFuture {
            inner,
            told: header.map(|header| (header, self.shared.clone())),
        }
    }
}

/// Whether the client keeps the connection, and can be told for how long (RFC 9112, section 9.3).
fn persists(version: Version, headers: &HeaderMap) -> bool {
    let says = |option: &str| {
        headers.get_all(CONNECTION).iter().any(|value| {
            let mut options = value.as_bytes().split(|byte| *byte == b',');
            options.any(|word| word.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        })
    };
    match version {
        Version::HTTP_11 => !says("close"),
        Version::HTTP_10 => says("keep-alive"),
        _ => false,
    }
}

pin_project_lite::pin_project! {
    /// The response future of a [`KeepAliveService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct KeepAliveResponseFuture<F> {
        #[pin]
        inner: F,
        told: Option<(HeaderValue, Arc<Shared>)>,
    }
}

impl<F, R, E> Future for KeepAliveResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let mut response = ready!(me.inner.poll(cx))?;
        if let Some((header, shared)) = me.told.take() {
            let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let persists = persists(Version::HTTP_11, response.headers());
            if persists && !upgrades && !shared.handle.is_closing() {
                response.headers_mut().insert(KEEP_ALIVE, header);
            }
        }
        Poll::Ready(Ok(response))
    }
}

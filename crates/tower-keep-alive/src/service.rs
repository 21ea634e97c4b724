use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Version,
    header::{CONNECTION, CONTENT_LENGTH},
};
use http_body::Body;
use tokio::time::Instant;
use tower_connection::Head;
use tower_service::Service;

use crate::{Reason, accept::Shared};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The service of a connection that is closed when nobody is using it: it tells HTTP/1 clients for how long
/// the connection is kept, and which response is the last.
#[derive(Clone, Debug)]
pub struct KeepAliveService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> KeepAliveService<S> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S, B, R> Service<Request<B>> for KeepAliveService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
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
            ..
        } = &*self.shared;
        let version = request.version();
        let persists = persists(version, request.headers());
        let forbidden = settings.forbids(&Head::of(&request));
        let inner = self.inner.call(request);

        if forbidden {
            handle.close();
        } else if self.shared.left() == Some(0) {
            self.shared.end(Reason::Requests);
        } else if old_at.is_some_and(|old_at| old_at <= Instant::now()) {
            self.shared.end(Reason::Age);
        }
        KeepAliveResponseFuture {
            inner,
            told: persists.then(|| (version, self.shared.clone())),
        }
    }
}

impl Shared {
    /// How many more requests there may be.
    fn left(&self) -> Option<u64> {
        let max = self.settings.max_requests?;
        Some(max.saturating_sub(self.handle.requests()))
    }

    fn keep_alive(&self) -> Option<HeaderValue> {
        match self.left() {
            Some(left) => self.settings.header_with_max(left),
            None => self.header.clone(),
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
        Version::HTTP_10 => says("keep-alive") && !says("close"),
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
        told: Option<(Version, Arc<Shared>)>,
    }
}

impl<F, R, E> Future for KeepAliveResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let mut response = ready!(me.inner.poll(cx))?;
        let Some((version, shared)) = me.told.take() else {
            return Poll::Ready(Ok(response));
        };
        let handle = &shared.handle;
        let persists = persists(Version::HTTP_11, response.headers());
        if !persists || handle.is_upgraded() || handle.is_closing() {
            return Poll::Ready(Ok(response));
        }
        let has_length = response.body().size_hint().exact().is_some()
            || response.headers().contains_key(CONTENT_LENGTH);
        if version == Version::HTTP_10 && !has_length {
            // Only the end of the connection can tell the end of the body (RFC 9112, section 6.3). hyper adds `keep-alive`
            // to a response of 1.1 nevertheless (1.12, `proto/h1/conn.rs`, `fix_keep_alive`).
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            *response.version_mut() = version;
        } else if handle.has_whole_request() {
            // Else hyper may close, and says so to nobody (`poll_drain_or_close_read`).
            if let Some(header) = shared.keep_alive() {
                response.headers_mut().insert(KEEP_ALIVE, header);
            }
        }
        Poll::Ready(Ok(response))
    }
}

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;
use http_body::{Body, Frame, SizeHint};
use tower_connection::BodyClock;
use tower_layer::Layer;
use tower_service::Service;

/// Measures for how long services wait for the bodies of their requests, so that a client that sends slowly is not taken
/// for a server that answers slowly.
///
/// Put it around an [`InFlightLimitLayer`](crate::InFlightLimitLayer) that has a [`Limit`](crate::Limit) of its own. It
/// changes the type of the body, which is why it is a layer apart: axum's routes and tonic's take any. It is not needed
/// where `tower-read-timeout` has a timeout for bodies, which measures them anyway.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_overload::{InFlightLimitLayer, UploadLayer};
///
/// let app: Router = Router::new()
///     .route("/", post(|body: String| async move { body }))
///     .layer(InFlightLimitLayer::new(200)) // with a law
///     .layer(UploadLayer::new());
/// # drop(app);
/// ```
#[derive(Clone, Debug, Default)]
pub struct UploadLayer(());

impl UploadLayer {
    /// There is nothing to set.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for UploadLayer {
    type Service = UploadService<S>;

    fn layer(&self, inner: S) -> UploadService<S> {
        UploadService { inner }
    }
}

/// A service that is told for how long the bodies of its requests were waited for; see [`UploadLayer`].
#[derive(Clone, Debug)]
pub struct UploadService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for UploadService<S>
where
    S: Service<Request<UploadBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let clock = BodyClock::start(&mut request);
        self.inner
            .call(request.map(|body| UploadBody { body, clock }))
    }
}

pin_project_lite::pin_project! {
    /// The body of a request, and for how long it was waited for.
    #[derive(Debug)]
    pub struct UploadBody<B> {
        #[pin]
        body: B,
        clock: Option<BodyClock>,
    }
}

impl<B: Body> Body for UploadBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let me = self.project();
        let frame = me.body.poll_frame(cx);
        if let Some(clock) = me.clock {
            clock.polled(frame.is_pending());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_connection::Head;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Classify, Overload, OverloadBody, Reason, Respond,
    core::Core,
    layer::Shared,
    service::{note_served, poll_unbudgeted},
    serving::{Course, Serving},
    shedding::Shedding,
    slots::MOST,
};

/// Answers requests that the service inside is not ready for.
///
/// Readiness is admission: whatever makes `poll_ready` wait (tower's `ConcurrencyLimit`, `RateLimit` or `Buffer`, a pool
/// of connections, your own) refuses requests with a response instead. The error stays that of the service inside, so it
/// sits in an axum `Router` without `HandleErrorLayer`. A service that only *seems* busy because tokio's budget for the
/// task is spent is asked outside of it, and serves.
///
/// A router is always ready: put what can be busy between this and the router.
///
/// # Examples
///
/// ```
/// use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, service_fn};
/// use tower_overload::LoadShedLayer;
///
/// # async fn hello(_: http::Request<http_body_util::Empty<bytes::Bytes>>)
/// #     -> Result<http::Response<http_body_util::Full<bytes::Bytes>>, std::convert::Infallible> { Ok(Default::default()) }
/// let service = ServiceBuilder::new()
///     .layer(LoadShedLayer::new())
///     .layer(GlobalConcurrencyLimitLayer::new(50))
///     .service(service_fn(hello));
/// # drop(service);
/// ```
#[derive(Clone, Debug)]
pub struct LoadShedLayer {
    shared: Arc<Shared>,
}

impl Default for LoadShedLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl LoadShedLayer {
    /// Answers with [`Overloaded`](crate::Overloaded).
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared::new(Core::new(MOST, None))),
        }
    }

    /// What a refused request reads.
    #[must_use]
    pub fn respond(mut self, respond: impl Respond) -> Self {
        Arc::make_mut(&mut self.shared).respond = Arc::new(respond);
        self
    }

    /// Says how critical a request is, for the counts of the handle. Nobody is exempt: the service inside cannot be
    /// called before it is ready.
    #[must_use]
    pub fn classify(mut self, classify: impl Classify) -> Self {
        Arc::make_mut(&mut self.shared).classify = Some(Arc::new(classify));
        self
    }

    /// What it counts. There is no limit: [`set_limit`](Overload::set_limit) keeps nobody out, and there is no
    /// [`pressure`](Overload::pressure).
    ///
    /// ```
    /// # use tower_overload::LoadShedLayer;
    /// let shed = LoadShedLayer::new();
    /// assert_eq!(shed.handle().shed(), 0);
    /// ```
    #[must_use]
    pub fn handle(&self) -> Overload {
        Overload::new(self.shared.core.clone())
    }
}

impl<S> Layer<S> for LoadShedLayer {
    type Service = LoadShed<S>;

    fn layer(&self, inner: S) -> LoadShed<S> {
        LoadShed {
            inner,
            shared: self.shared.clone(),
            busy: false,
        }
    }
}

/// A service that answers what the one inside is not ready for; see [`LoadShedLayer`].
#[derive(Debug)]
pub struct LoadShed<S> {
    inner: S,
    shared: Arc<Shared>,
    /// What `poll_ready` saw last.
    busy: bool,
}

// A clone has not asked yet.
impl<S: Clone> Clone for LoadShed<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
            busy: false,
        }
    }
}

impl<S, B, R> Service<Request<B>> for LoadShed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body,
    R: Body,
    R::Data: From<bytes::Bytes>,
{
    type Response = Response<OverloadBody<R>>;
    type Error = S::Error;
    type Future = LoadShedFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = poll_unbudgeted(cx, |cx| self.inner.poll_ready(cx));
        self.busy = ready.is_pending();
        match ready {
            Poll::Ready(ready) => Poll::Ready(ready),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let now = Instant::now();
        let ticket = self.shared.ticket(&Head::of(&request));
        let state = if self.busy {
            let shedding = Shedding::new(&self.shared, &ticket, Reason::NotReady, request, now);
            State::Shedding { shedding }
        } else {
            let slot = self.shared.core.take();
            let mut permit = slot.map(|slot| slot.permit(&ticket, now));
            let course = Course::of(&request, &ticket);
            if let Some(permit) = &mut permit {
                note_served(permit, &request);
            }
            let inner = self.inner.call(request);
            let serving = Serving::new(inner, permit, course);
            State::Serving { serving }
        };
        LoadShedFuture { state }
    }
}

pin_project_lite::pin_project! {
    /// The response future of a [`LoadShed`].
    #[must_use = "futures do nothing unless polled"]
    pub struct LoadShedFuture<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        Serving { #[pin] serving: Serving<F> },
        Shedding { #[pin] shedding: Shedding<B> },
    }
}

impl<F, B> fmt::Debug for LoadShedFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Serving { .. } => "Serving",
            State::Shedding { .. } => "Shedding",
        };
        f.debug_tuple("LoadShedFuture").field(&state).finish()
    }
}

impl<F, B, R, E> Future for LoadShedFuture<F, B>
where
    F: Future<Output = Result<Response<R>, E>>,
    B: Body,
{
    type Output = Result<Response<OverloadBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Serving { serving } => serving.poll(cx),
            StateProj::Shedding { shedding } => shedding.poll(cx).map(Ok),
        }
    }
}

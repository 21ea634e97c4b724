use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, StatusCode, header::CACHE_CONTROL};
use tower_service::Service;

use crate::DrainWatch;

/// Answers whoever asks whether new requests should come here: `200`, and `503` from the first moment of a drain on.
///
/// It says nothing of whether the server lives; that is another path.
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_drain::Drain;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let drain = Drain::new(Duration::from_secs(30));
/// let Ok(answer) = drain.readiness().oneshot(Request::new(())).await;
/// assert_eq!(answer.status(), 200);
///
/// drain.begin();
/// drain.watch().begun().await;
/// let Ok(answer) = drain.readiness().oneshot(Request::new(())).await;
/// assert_eq!(answer.status(), 503);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Readiness {
    watch: DrainWatch,
}

impl Readiness {
    pub(crate) fn new(watch: DrainWatch) -> Self {
        Self { watch }
    }
}

impl<B> Service<Request<B>> for Readiness {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let (status, text) = if self.watch.has_begun() {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else {
            (StatusCode::OK, "ok\n")
        };
        let mut answer = Response::new(text.to_owned());
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        ready(Ok(answer))
    }
}

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};
use http_body::{Body, Frame, SizeHint};

use crate::Head;

/// The answer to a request that will not be served: `503` with `Retry-After`, or its gRPC form.
///
/// The answer has no body, so that it fits any service. A gRPC request (a `POST` with its `content-type`) gets a
/// trailers-only response: status `UNAVAILABLE`, which clients may retry, and the pushback in
/// milliseconds.
///
/// Sources: RFC 9110 sections 10.2.3 and 15.6.4; RFC 9112 section 9.6; gRPC over HTTP/2 and gRFC A6.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response};
/// use tower_connection::Rejection;
///
/// let rejection = Rejection::new(Duration::from_secs(2)).close();
///
/// let answer: Response<String> = rejection.answer(&Request::new(()));
/// assert_eq!(answer.status(), 503);
/// assert_eq!(answer.headers()["retry-after"], "2");
/// assert_eq!(answer.headers()["connection"], "close");
///
/// let call = Request::post("/").header("content-type", "application/grpc").body(()).unwrap();
/// let answer: Response<String> = rejection.answer(&call);
/// assert_eq!(answer.status(), 200);
/// assert_eq!(answer.headers()["grpc-status"], "14");
/// assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "2000");
/// ```
#[derive(Clone, Debug)]
pub struct Rejection {
    status: StatusCode,
    retry_after: Duration,
    close: bool,
}

impl Rejection {
    /// A `503 Service Unavailable` that asks the client to come back after `retry_after`.
    ///
    /// `Retry-After` counts whole seconds: a fraction is rounded up, and zero is sent as zero.
    #[must_use]
    pub fn new(retry_after: Duration) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after,
            close: false,
        }
    }

    /// Another status, `429 Too Many Requests` for example. gRPC is not affected.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Announces that the connection ends after the answer (HTTP/1 only: in HTTP/2 the header is
    /// forbidden, and hyper would strip it with a warning each time).
    #[must_use]
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// The answer to `request`.
    #[must_use]
    pub fn answer<B, R: Default>(&self, request: &Request<B>) -> Response<R> {
        self.answer_to(&Head::of(request))
    }

    /// The answer to the request with this head.
    #[must_use]
    pub fn answer_to<R: Default>(&self, request: &Head<'_>) -> Response<R> {
        self.respond(request.version, Self::is_grpc(request))
    }

    /// Whether it is answered in gRPC: by the request's `content-type`, if it is a `POST`.
    ///
    /// ```
    /// # use http::Request;
    /// # use tower_connection::{Head, Rejection};
    /// let call = Request::post("/").header("content-type", "application/grpc+proto").body(())?;
    /// assert!(Rejection::is_grpc(&Head::of(&call)));
    /// # Ok::<_, http::Error>(())
    /// ```
    #[must_use]
    pub fn is_grpc(request: &Head<'_>) -> bool {
        if request.method != Method::POST {
            return false;
        }
        let content_type = request.headers.get(CONTENT_TYPE);
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
    }

    pub(crate) fn respond<R: Default>(&self, version: Version, grpc: bool) -> Response<R> {
        let mut answer = Response::new(R::default());
        let headers = answer.headers_mut();
        if grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("14"));
            headers.insert("grpc-message", HeaderValue::from_static("overloaded"));
            let pushback = u64::try_from(self.retry_after.as_millis()).unwrap_or(u64::MAX);
            let mut pushback = HeaderValue::from(pushback);
            pushback.set_sensitive(true); // as below
            headers.insert("grpc-retry-pushback-ms", pushback);
        } else {
            let fraction = u64::from(self.retry_after.subsec_nanos() > 0);
            let seconds = self.retry_after.as_secs().saturating_add(fraction);
            let mut value = seconds_value(seconds);
            // HPACK would put each of these many values into its tables, in both ends, and the useful ones out of them.
            value.set_sensitive(version >= Version::HTTP_2);
            headers.insert(RETRY_AFTER, value);
            *answer.status_mut() = self.status;
        }
        if self.close && version < Version::HTTP_2 {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// A number for a header. The ones that are told are not written each time.
fn seconds_value(seconds: u64) -> HeaderValue {
    let written = usize::try_from(seconds).ok().and_then(|n| WRITTEN.get(n));
    written.map_or_else(|| seconds.into(), |text| HeaderValue::from_static(text))
}

/// Twenty minutes and a bit.
static WRITTEN: [&str; 1300] = {
    static DIGITS: [[u8; 4]; 1300] = digits();
    let mut written = [""; 1300];
    let mut n = 0;
    while n < written.len() {
        let zeros = if n < 10 {
            3
        } else if n < 100 {
            2
        } else if n < 1000 {
            1
        } else {
            0
        };
        let (_, digits) = DIGITS[n].split_at(zeros);
        written[n] = match std::str::from_utf8(digits) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        };
        n += 1;
    }
    written
};

const fn digits() -> [[u8; 4]; 1300] {
    let mut digits = [[b'0'; 4]; 1300];
    let mut n = 1;
    while n < digits.len() {
        digits[n] = digits[n - 1];
        let mut place = 3;
        while digits[n][place] == b'9' {
            digits[n][place] = b'0';
            place -= 1;
        }
        digits[n][place] += 1;
        n += 1;
    }
    digits
}

pin_project_lite::pin_project! {
    /// The body of a service that may be rejected: the service's own, or none.
    ///
    /// ```
    /// use http_body::Body;
    /// use http_body_util::Full;
    /// use tower_connection::Rejectable;
    ///
    /// let none: Rejectable<Full<&[u8]>> = Rejectable::default();
    /// assert!(none.is_end_stream());
    /// assert_eq!(none.size_hint().exact(), Some(0));
    /// ```
    #[derive(Debug)]
    pub struct Rejectable<B> {
        #[pin]
        body: Option<B>,
    }
}

impl<B> Rejectable<B> {
    /// The body of a request that was served. A rejected one is the default.
    pub fn served(body: B) -> Self {
        Self { body: Some(body) }
    }
}

impl<B> Default for Rejectable<B> {
    fn default() -> Self {
        Self { body: None }
    }
}

impl<B: Body> Body for Rejectable<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().body.as_pin_mut() {
            Some(body) => body.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_written_as_numbers() {
        for seconds in (0..2_000).chain([u64::MAX]) {
            assert_eq!(seconds_value(seconds), seconds.to_string());
        }
    }
}

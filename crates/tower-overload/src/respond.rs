use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use tower_connection::{Head, Rejection};

use crate::Shed;

/// What a request that is not served reads.
///
/// Any `Fn(&Head<'_>, &Shed) -> Response<Bytes>` is one; [`Overloaded`] is the default. The layer adds
/// `Connection: close` where it must.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use http::Response;
/// use tower_connection::Head;
/// use tower_overload::{InFlightLimitLayer, Overloaded, Respond, Shed};
///
/// /// A page for people, and for nobody else.
/// fn sorry(head: &Head<'_>, shed: &Shed) -> Response<Bytes> {
///     let mut answer = Overloaded::default().respond(head, shed);
///     if head.uri.path().starts_with("/shop") {
///         *answer.body_mut() = Bytes::from_static(b"<h1>Back in a moment</h1>");
///         answer.headers_mut().insert("content-type", "text/html".parse().expect("a value"));
///     }
///     answer
/// }
///
/// let layer = InFlightLimitLayer::new(100).respond(sorry);
/// # drop(layer);
/// ```
pub trait Respond: Send + Sync + 'static {
    /// The whole answer. It is made before the answer is sent, so it should be small and cheap.
    fn respond(&self, request: &Head<'_>, shed: &Shed) -> Response<Bytes>;
}

impl<F> Respond for F
where
    F: Fn(&Head<'_>, &Shed) -> Response<Bytes> + Send + Sync + 'static,
{
    fn respond(&self, request: &Head<'_>, shed: &Shed) -> Response<Bytes> {
        self(request, shed)
    }
}

/// `503 Service Unavailable` with `Retry-After`, without a body; its gRPC form for a gRPC call.
///
/// A gRPC call (a `POST` with its `content-type`) reads a trailers-only response: `UNAVAILABLE`, with
/// `grpc-retry-pushback-ms`, which is -1 for who should not try again by itself. Who would have been
/// [too late](crate::Reason::TooLate) is told no time: another server may be in time, this one would not.
///
/// Sources: RFC 9110 sections 10.2.3 and 15.6.4; gRPC over HTTP/2 and gRFC A6; RFC 9457.
///
/// ```
/// use tower_overload::{InFlightLimitLayer, Overloaded};
///
/// let layer = InFlightLimitLayer::new(100).respond(Overloaded::default().problem_json());
/// # drop(layer);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Overloaded {
    problem: bool,
}

impl Overloaded {
    /// With a problem document of type `temporary-reduced-capacity` (IETF draft "`RateLimit` header fields for HTTP")
    /// for its body.
    #[must_use]
    pub fn problem_json(mut self) -> Self {
        self.problem = true;
        self
    }
}

const PUSHBACK: &str = "grpc-retry-pushback-ms";

const PROBLEM: &str = r#"{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Temporarily overloaded","status":503}"#;

impl Respond for Overloaded {
    fn respond(&self, request: &Head<'_>, shed: &Shed) -> Response<Bytes> {
        let after = shed.retry_after.unwrap_or_default();
        let mut answer: Response<Bytes> = Rejection::new(after).answer_to(request);
        let grpc = answer.status() == StatusCode::OK;
        let headers = answer.headers_mut();
        if grpc {
            let pushback = match shed.retry_after {
                _ if shed.give_up => Some(HeaderValue::from_static("-1")),
                Some(after) => u64::try_from((after + shed.spread).as_millis())
                    .ok()
                    .map(HeaderValue::from),
                None => None,
            };
            match pushback {
                Some(pushback) => headers.insert(PUSHBACK, pushback),
                None => headers.remove(PUSHBACK),
            };
        } else {
            if shed.retry_after.is_none() {
                headers.remove(RETRY_AFTER);
            }
            let (mut length, mut body) = (HeaderValue::from_static("0"), Bytes::new());
            if self.problem {
                let json = HeaderValue::from_static("application/problem+json");
                headers.insert(CONTENT_TYPE, json);
                length = PROBLEM.len().into();
                body = Bytes::from_static(PROBLEM.as_bytes());
            }
            // Of an empty body on HTTP/2, axum's router says it and hyper does not.
            headers.insert(CONTENT_LENGTH, length);
            *answer.body_mut() = body;
        }
        answer
    }
}

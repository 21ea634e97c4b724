//! A request that is served.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{
    Method, Request, Response, StatusCode, Version,
    header::{CONTENT_TYPE, UPGRADE},
};
use tokio::time::Instant;
use tower_connection::{ConnectionHandle, Rejection};

use crate::{Criticality, Outcome, OverloadBody, Reason, Ticket, permit::Permit};

pin_project_lite::pin_project! {
    /// Holds the permit until there is a body to hold it.
    #[derive(Debug)]
    pub(crate) struct Serving<F> {
        #[pin]
        inner: F,
        permit: Option<Permit>,
        course: Course,
    }
}

/// What a response may become, as far as the request tells.
#[derive(Debug, Default)]
pub(crate) struct Course {
    stream: bool,
    connect: bool,
    class: Criticality,
    /// Whose socket it will be if it is upgraded.
    connection: Option<ConnectionHandle>,
}

impl Course {
    pub(crate) fn of<B>(request: &Request<B>, ticket: &Ticket) -> Self {
        let http1 = request.version() < Version::HTTP_2;
        let connect = request.method() == Method::CONNECT;
        // HTTP/2's tunnels end with a stream, of which nobody here is told.
        let upgrades = http1 && (connect || request.headers().contains_key(UPGRADE));
        Self {
            stream: ticket.stream,
            connect,
            class: ticket.class,
            connection: (upgrades.then(|| request.extensions().get().cloned())).flatten(),
        }
    }
}

impl<F> Serving<F> {
    pub(crate) fn new(inner: F, permit: Option<Permit>, course: Course) -> Self {
        Self {
            inner,
            permit,
            course,
        }
    }
}

impl<F, R, E> Future for Serving<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<OverloadBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let response = ready!(me.inner.poll(cx))?;
        let Some(mut permit) = me.permit.take() else {
            return Poll::Ready(Ok(response.map(|body| OverloadBody::served(body, None))));
        };
        let status = response.status();
        let connect = me.course.connect && status.is_success();
        if connect || status == StatusCode::SWITCHING_PROTOCOLS {
            permit.answered(|| Outcome::Ignore);
            if !permit.become_stream() {
                return Poll::Ready(Ok(refused(&permit, me.course)));
            }
            if let Some(connection) = me.course.connection.take() {
                connection.hold(permit);
                return Poll::Ready(Ok(response.map(|body| OverloadBody::served(body, None))));
            }
        } else {
            permit.answered(|| Outcome::of(status, response.headers()));
            if me.course.stream || is_event_stream(&response) {
                permit.become_stream();
            }
        }
        Poll::Ready(Ok(
            response.map(|body| OverloadBody::served(body, Some(permit)))
        ))
    }
}

/// What is read in the place of an upgrade for which there is no room. With the response of the service goes its
/// `OnUpgrade`, and with that what waited for the socket.
fn refused<R>(permit: &Permit, course: &mut Course) -> Response<OverloadBody<R>> {
    let ticket = Ticket::new(course.class);
    let shed = permit.core().map(|core| {
        let shed = core.shed(Reason::Streams, &ticket, Instant::now());
        core.tell(&shed, course.connection.as_ref());
        shed
    });
    let after = shed.and_then(|shed| shed.retry_after).unwrap_or_default();
    let mut answer: Response<OverloadBody<R>> =
        Rejection::new(after).close().answer(&Request::new(()));
    if course.connection.is_none() {
        answer.headers_mut().remove(http::header::CONNECTION); // it may be HTTP/2's
    }
    answer
}

fn is_event_stream<B>(response: &Response<B>) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

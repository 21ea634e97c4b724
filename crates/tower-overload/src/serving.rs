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
use tower_connection::ConnectionHandle;

use crate::{
    Outcome, OverloadBody, Sample, Ticket,
    permit::{Permit, StreamPlace},
};

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
    upgrade: Option<Upgrade>,
}

/// A request that asked for an upgrade has a place among the streams until it is known whether it needs it.
#[derive(Debug)]
struct Upgrade {
    place: StreamPlace,
    /// Whose socket it will be.
    connection: Option<ConnectionHandle>,
}

impl Course {
    /// `None` if it asks for an upgrade and there is no place for one.
    pub(crate) fn of<B>(
        request: &Request<B>,
        ticket: &Ticket,
        enter: impl FnOnce() -> Option<StreamPlace>,
    ) -> Option<Self> {
        let connect = request.method() == Method::CONNECT;
        let http1 = request.version() < Version::HTTP_2;
        let upgrade = if connect || http1 && request.headers().contains_key(UPGRADE) {
            // HTTP/2's own end with a stream, of which nobody here is told.
            let connection = request.extensions().get().filter(|_| http1).cloned();
            Some(Upgrade {
                place: enter()?,
                connection,
            })
        } else {
            None
        };
        Some(Self {
            stream: ticket.stream,
            connect,
            upgrade,
        })
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
        let response = ready!(me.inner.poll(cx));
        let Some(mut permit) = me.permit.take() else {
            return Poll::Ready(response.map(|response| {
                response.map(|body| OverloadBody::served(body, None))
            }));
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                sample(&permit, || Outcome::Ignore);
                return Poll::Ready(Err(error));
            }
        };
        let status = response.status();
        let upgraded =
            status == StatusCode::SWITCHING_PROTOCOLS || me.course.connect && status.is_success();
        if upgraded {
            sample(&permit, || Outcome::Ignore);
            if let Some(upgrade) = me.course.upgrade.take() {
                permit.become_stream(upgrade.place);
                if let Some(connection) = upgrade.connection {
                    connection.hold(permit);
                    return Poll::Ready(Ok(response.map(|body| OverloadBody::served(body, None))));
                }
            }
        } else {
            sample(&permit, || Outcome::of(status, response.headers()));
            me.course.upgrade = None;
            if me.course.stream || is_event_stream(&response) {
                if let Some(place) = permit.stream_place() {
                    permit.become_stream(place);
                }
            }
        }
        Poll::Ready(Ok(
            response.map(|body| OverloadBody::served(body, Some(permit)))
        ))
    }
}

fn is_event_stream<B>(response: &Response<B>) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

fn sample(permit: &Permit, outcome: impl FnOnce() -> Outcome) {
    permit.sample(|in_flight| {
        let now = Instant::now();
        Sample {
            now,
            latency: now.duration_since(permit.began()),
            in_flight,
            outcome: outcome(),
            class: permit.class(),
        }
    });
}

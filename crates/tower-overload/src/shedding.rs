//! A request that is not served.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, Version,
    header::{CONNECTION, EXPECT},
};
use http_body::Body;
use tokio::time::Instant;
use tower_connection::{ConnectionHandle, Head};

use crate::{OverloadBody, Reason, Ticket, layer::Shared};

pin_project_lite::pin_project! {
    /// Answers, once it is known whether the connection can be kept.
    ///
    /// hyper ends an HTTP/1 connection after an answer to a request whose body was not read, unless what it finds with
    /// one more read is the rest; and it announces neither (1.12, `proto/h1/conn.rs`, `poll_drain_or_close_read`). So a
    /// small body is taken if it is there, and the end announced if it is not.
    #[derive(Debug)]
    pub(crate) struct Shedding<B> {
        answer: Option<Response<Bytes>>,
        #[pin]
        rest: Option<B>,
        connection: Option<ConnectionHandle>,
        looked: u8,
    }
}

/// The largest body that is taken.
const SMALL: u64 = 64 * 1024;

/// How often it is looked for: hyper hands over what it has when its connection is polled next.
const LOOKS: u8 = 2;

/// A connection on which for so long nothing but refusals were sent ends, so that its client may find another server.
const TIRED: Duration = Duration::from_secs(5);

impl<B: Body> Shedding<B> {
    pub(crate) fn new(
        shared: &Shared,
        ticket: &Ticket,
        reason: Reason,
        request: Request<B>,
        now: Instant,
    ) -> Self {
        let shed = shared.core.shed(reason, ticket, now);
        let answer = shared.respond.respond(&Head::of(&request), &shed);
        let connection = request.extensions().get::<ConnectionHandle>();
        shared.core.tell(&shed, connection);
        if let Some(connection) = connection {
            if connection.note_refused(now) >= TIRED {
                connection.close();
            }
        }
        let http1 = request.version() < Version::HTTP_2;
        let mut me = Self {
            answer: Some(answer),
            rest: None,
            connection: None,
            looked: 0,
        };
        if http1 && !request.body().is_end_stream() {
            me.connection = connection.cloned();
            let size = request.body().size_hint().upper();
            let expects = request.headers().contains_key(EXPECT); // the client waits with its body
            if size.is_some_and(|size| size <= SMALL) && !expects {
                me.rest = Some(request.into_body());
            } else {
                close(&mut me.answer, me.connection.as_ref());
            }
        }
        me
    }

    pub(crate) fn poll<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Response<OverloadBody<R>>> {
        let mut me = self.project();
        if let Some(mut body) = me.rest.as_mut().as_pin_mut() {
            let all = loop {
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(_))) if !body.is_end_stream() => {}
                    Poll::Ready(Some(Ok(_)) | None) => break true,
                    Poll::Ready(Some(Err(_))) => break false,
                    Poll::Pending if *me.looked == LOOKS => break false,
                    Poll::Pending => {
                        *me.looked += 1;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
            };
            if !all {
                close(me.answer, me.connection.as_ref());
            }
        }
        me.rest.set(None);
        let answer = me.answer.take().expect("polled after completion");
        Poll::Ready(answer.map(OverloadBody::answer))
    }
}

/// The connection ends after the answer, which the client can read although it is still sending.
fn close(answer: &mut Option<Response<Bytes>>, connection: Option<&ConnectionHandle>) {
    if let Some(answer) = answer {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    if let Some(connection) = connection {
        connection.linger();
    }
}

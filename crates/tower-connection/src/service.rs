//! The service half that every connection has: it counts requests, and answers those that are refused.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use tower_service::Service;

use crate::{ConnectionHandle, Guarded, InFlight, Rejectable, state::Declared};

/// The service of an accepted connection: it counts requests from the head to the end of the response
/// body, hands the [`ConnectionHandle`] to each, says `Connection: close` when the connection ends, and
/// answers in place of the inner service once the handle [refuses](ConnectionHandle::refuse).
///
/// hyper's stacks ask whether it is ready with the request in hand. When it is not, the request is in
/// flight from then on.
#[derive(Debug)]
pub struct ConnectionService<S> {
    inner: S,
    handle: ConnectionHandle,
    handle_in_requests: bool,
    /// The request that waits until the service is ready, and whether it is to be refused.
    waiting: Option<(InFlight, bool)>,
}

// A clone starts without the request that waits here.
impl<S: Clone> Clone for ConnectionService<S> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.handle.clone(),
            self.handle_in_requests,
        )
    }
}

impl<S> ConnectionService<S> {
    pub(crate) fn new(inner: S, handle: ConnectionHandle, handle_in_requests: bool) -> Self {
        Self {
            inner,
            handle,
            handle_in_requests,
            waiting: None,
        }
    }
}

impl<S, B, R> Service<Request<B>> for ConnectionService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<Guarded<Rejectable<R>, InFlight>>;
    type Error = S::Error;
    type Future = ConnectionResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let refused = match &self.waiting {
            Some((_, refused)) => *refused,
            None => self.handle.state().is_refusing(),
        };
        if refused {
            return Poll::Ready(Ok(()));
        }
        let ready = self.inner.poll_ready(cx);
        if ready.is_pending() {
            let handle = &self.handle;
            let (_, refused) = self.waiting.get_or_insert_with(|| handle.begin_or_refuse());
            if *refused {
                return Poll::Ready(Ok(()));
            }
        }
        ready
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let version = request.version();
        self.handle.state().set_protocol(version);
        // Two look-ups, for which somebody must want to know what is a head.
        if version < Version::HTTP_2 && self.handle.is_timed() {
            self.handle.state().set_rest(declared(&request));
        }
        let waiting = self.waiting.take();
        let (in_flight, refused) = waiting.unwrap_or_else(|| self.handle.begin_or_refuse());
        if refused {
            return ConnectionResponseFuture::refused(&request, in_flight);
        }
        if self.handle_in_requests {
            request.extensions_mut().insert(self.handle.clone());
        }
        let connect = request.method() == Method::CONNECT;
        ConnectionResponseFuture {
            in_flight: Some(in_flight),
            version,
            connect,
            stage: Stage::Served {
                inner: self.inner.call(request),
            },
        }
    }
}

pin_project_lite::pin_project! {
    /// The response future of a [`ConnectionService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ConnectionResponseFuture<F> {
        #[pin]
        stage: Stage<F>,
        in_flight: Option<InFlight>,
        version: Version,
        connect: bool,
    }
}

pin_project_lite::pin_project! {
    #[derive(Debug)]
    #[project = StageProj]
    enum Stage<F> {
        Served { #[pin] inner: F },
        // Boxed: it is rare, and the future is moved about for every request.
        Refused { answer: Box<Response<()>> },
    }
}

impl<F> ConnectionResponseFuture<F> {
    fn refused<B>(request: &Request<B>, in_flight: InFlight) -> Self {
        let handle = in_flight.connection();
        if declared(request) != Declared::Nothing {
            handle.state().set_unread();
        }
        let answer = Box::new(handle.refusal().answer(request));
        handle.close();
        Self {
            stage: Stage::Refused { answer },
            in_flight: Some(in_flight),
            version: request.version(),
            connect: false,
        }
    }
}

fn declared<B>(request: &Request<B>) -> Declared {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) {
        return Declared::Chunks;
    }
    let length = headers.get(CONTENT_LENGTH);
    if length.is_some_and(|length| length != "0") {
        return Declared::Length;
    }
    Declared::Nothing
}

impl<F, R, E> Future for ConnectionResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Guarded<Rejectable<R>, InFlight>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let mut response = match me.stage.project() {
            StageProj::Served { inner } => ready!(inner.poll(cx))?.map(Rejectable::served),
            StageProj::Refused { answer } => {
                std::mem::take(&mut **answer).map(|()| Rejectable::default())
            }
        };
        let in_flight = me.in_flight.take().expect("polled after completion");
        if *me.version < Version::HTTP_2 {
            let handle = in_flight.connection();
            let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS
                || *me.connect && response.status().is_success();
            if !upgrades {
                if handle.is_closing() {
                    // In HTTP/2 the header is forbidden (RFC 9113, 8.2.2); there it is GOAWAY.
                    response
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if *me.version == Version::HTTP_10 && response.headers().contains_key(CONNECTION) {
                    // Else hyper adds `keep-alive` to it if the client had asked for that, and closes nevertheless (1.12,
                    // `proto/h1/conn.rs`, `fix_keep_alive`).
                    *response.version_mut() = Version::HTTP_10;
                }
            } else if let Err(rejection) = handle.upgrade() {
                // With the response goes its `OnUpgrade`, and with that what waited for the socket.
                handle.close();
                response = rejection.close().respond(Version::HTTP_11, false);
            }
        }
        Poll::Ready(Ok(response.map(|body| Guarded::new(body, in_flight))))
    }
}

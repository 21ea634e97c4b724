//! The two halves that every connection has: they keep the handle's counts and obey it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION};
use tokio::io::ReadBuf;
use tower_service::Service;

use crate::{ConnectionHandle, Guarded, Hook, Hooked, InFlight, Socket};

/// The socket of an accepted connection: it ends when its [`ConnectionHandle`] says so.
///
/// ```
/// # use tower_connection::{ConnectionHandle, ConnectionIo, Hooked, Obey};
/// let (_client, server) = tokio::io::duplex(64);
/// let handle = ConnectionHandle::new(&server);
/// let io: ConnectionIo<_> = Hooked::new(server, Obey::new(handle));
/// # let _ = io;
/// ```
pub type ConnectionIo<Io> = Hooked<Io, Obey>;

/// The hook of a [`ConnectionIo`].
#[derive(Debug)]
pub struct Obey {
    handle: ConnectionHandle,
    /// Something was written and not flushed since.
    unflushed: bool,
}

impl Obey {
    /// Ends the socket it is put on when `handle` says so.
    #[must_use]
    pub fn new(handle: ConnectionHandle) -> Self {
        Self {
            handle,
            unflushed: false,
        }
    }

    /// Fails once the connection is aborted, and makes sure that dropping the socket resets it.
    ///
    /// hyper polls the flush each time it is woken, even with nothing to write and even when it has
    /// stopped reading, so an error here reaches it in every state (1.12, `proto/h1/io.rs`).
    fn check(&self, io: &impl Socket) -> io::Result<()> {
        if self.handle.is_aborted() {
            // A socket without a reset is closed by the error below just the same.
            let _ = io.reset_on_close();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Whether this half must end the connection: it closes, nobody drives it, and nothing is left.
    fn ends_here(&self) -> bool {
        let state = self.handle.state();
        // An end of stream makes h2 drop what it has queued, and only a driver can send GOAWAY.
        let http1 = self
            .handle
            .protocol()
            .is_none_or(|version| version < Version::HTTP_2);
        state.has_ended() && http1 && !self.unflushed && !state.is_driven() && !state.is_upgraded()
    }
}

impl<Io: Socket> Hook<Io> for Obey {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(io)?;
        if let Poll::Ready(read) = Pin::new(&mut *io).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        self.handle.state().register_reader(cx.waker());
        self.check(io)?;
        if self.ends_here() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(io)?;
        self.unflushed = true;
        if let Poll::Ready(written) = crate::poll_write_slices(io, cx, bufs) {
            return Poll::Ready(written);
        }
        self.handle.state().register_writer(cx.waker());
        self.check(io)?;
        Poll::Pending
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(io)?;
        if let Poll::Ready(flushed) = Pin::new(&mut *io).poll_flush(cx) {
            self.unflushed = false;
            return Poll::Ready(flushed);
        }
        self.handle.state().register_writer(cx.waker());
        self.check(io)?;
        Poll::Pending
    }

    fn poll_shutdown(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(io)?;
        if let Poll::Ready(shut) = Pin::new(&mut *io).poll_shutdown(cx) {
            return Poll::Ready(shut);
        }
        self.handle.state().register_writer(cx.waker());
        self.check(io)?;
        Poll::Pending
    }
}

/// The service of an accepted connection: it counts requests from the head to the end of the response
/// body, hands the [`ConnectionHandle`] to each, and says `Connection: close` when the connection ends.
#[derive(Clone, Debug)]
pub struct ConnectionService<S> {
    inner: S,
    handle: ConnectionHandle,
    handle_in_requests: bool,
}

impl<S> ConnectionService<S> {
    pub(crate) fn new(inner: S, handle: ConnectionHandle, handle_in_requests: bool) -> Self {
        Self {
            inner,
            handle,
            handle_in_requests,
        }
    }
}

impl<S, B, R> Service<Request<B>> for ConnectionService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<Guarded<R, InFlight>>;
    type Error = S::Error;
    type Future = ConnectionResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let version = request.version();
        let in_flight = self.handle.begin(version);
        if self.handle_in_requests {
            request.extensions_mut().insert(self.handle.clone());
        }
        ConnectionResponseFuture {
            inner: self.inner.call(request),
            in_flight: Some(in_flight),
            http1: version < Version::HTTP_2,
        }
    }
}

pin_project_lite::pin_project! {
    /// The response future of a [`ConnectionService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ConnectionResponseFuture<F> {
        #[pin]
        inner: F,
        in_flight: Option<InFlight>,
        http1: bool,
    }
}

impl<F, R, E> Future for ConnectionResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Guarded<R, InFlight>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let mut response = ready!(me.inner.poll(cx))?;
        let in_flight = me.in_flight.take().expect("polled after completion");
        if *me.http1 {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                in_flight.connection().state().set_upgraded();
            } else if in_flight.connection().is_closing() {
                // In HTTP/2 the header is forbidden (RFC 9113, 8.2.2); a driver sends GOAWAY.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Poll::Ready(Ok(response.map(|body| Guarded::new(body, in_flight))))
    }
}

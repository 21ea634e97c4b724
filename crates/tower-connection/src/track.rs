//! The two halves that every connection has: they keep the handle's counts and obey it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use tokio::{io::ReadBuf, time::Instant};
use tower_service::Service;

use crate::{
    ConnectionHandle, Deadline, Guarded, Hook, Hooked, InFlight, Rejectable, Socket,
    frames::{ANY_STREAM, Spoken, Streams, goaway},
    state::Phase,
};

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
    written: Written,
    /// The flag that others see: a response is stalled, or a stream of HTTP/2 is open.
    busy: bool,
    /// Something was read, and perhaps not looked at yet. (Of HTTP/2, the streams tell.)
    heard: bool,
    /// An abort has somebody to wake.
    watched: bool,
    head: Head,
    spoken: Spoken,
    streams: Streams,
    farewell: Farewell,
    /// When a driven HTTP/2 connection with nothing left to do is ended without waiting for its client.
    patience: Deadline,
}

/// How long an HTTP/2 client may take to answer the PING of hyper's graceful shutdown, once everything else
/// is done. hyper would wait for ever (1.12 with h2 0.4, `proto/go_away.rs`).
///
/// Past it nothing is lost: what crosses has a higher number than the last GOAWAY names, and is safe to send
/// again.
const PATIENCE: Duration = Duration::from_millis(250);

/// The head of a request that is being received, and how many requests there were before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    None,
    Begun(u64),
    /// And not all of it came at once, so others were told.
    Told(u64),
}

/// What became of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Flushed,
    Unflushed,
    /// The client did not take all of it at once.
    Stalled,
}

/// How far an HTTP/2 connection that nobody drives has said goodbye.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Farewell {
    #[default]
    Unsaid,
    /// GOAWAY for any stream: the client opens no more.
    Announced,
    /// GOAWAY with the last stream: the end.
    Said,
}

impl Obey {
    /// Ends the socket it is put on when `handle` says so.
    #[must_use]
    pub fn new(handle: ConnectionHandle) -> Self {
        Self {
            handle,
            written: Written::Flushed,
            busy: false,
            heard: false,
            watched: false,
            head: Head::None,
            spoken: Spoken::Unknown(0),
            streams: Streams::default(),
            farewell: Farewell::default(),
            patience: Deadline::default(),
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

    /// The HTTP stack wrote the first `written` bytes of `bufs`.
    fn say(&mut self, bufs: &[io::IoSlice<'_>], mut written: usize) {
        if self.spoken == Spoken::Http1 {
            return;
        }
        for buf in bufs {
            let said = written.min(buf.len());
            self.streams.say(&buf[..said]);
            written -= said;
        }
        self.publish();
    }

    /// Says whether something is under way here that no request counts (any more).
    fn publish(&mut self) {
        let busy = self.written == Written::Stalled || !self.streams.is_empty();
        if busy == self.busy {
            return;
        }
        self.busy = busy;
        if busy {
            self.handle.state().set_busy();
        } else {
            self.handle.state().set_done(self.handle.now());
        }
    }

    fn set_written(&mut self, written: Written) {
        self.written = written;
        self.publish();
    }

    fn hear(&mut self, bytes: &[u8]) {
        let spoke = self.spoken;
        let frames = self.spoken.hear(bytes);
        if self.spoken != Spoken::Http2 {
            self.heard = !bytes.is_empty();
            self.end_head_of_request();
            let state = self.handle.state();
            let blank = |byte: &u8| matches!(byte, b'\r' | b'\n');
            if self.head == Head::None
                && state.awaits_head()
                && !bytes.ends_with(b"\r\n\r\n") // all of one
                && !bytes.iter().all(blank)
                && !state.take_unread_body()
            {
                self.head = Head::Begun(state.requests());
            }
            return;
        }
        if spoke != Spoken::Http2 {
            self.handle.state().set_http2();
            self.heard = false;
        }
        let (greeted, last) = (self.streams.has_greeted(), self.streams.last());
        self.streams.hear(frames);
        self.publish();
        if !greeted && self.streams.has_greeted() {
            self.handle.state().set_idle_since(self.handle.now());
        }
        if last != self.streams.last() {
            self.end_head(); // and perhaps another has begun
        }
        match self.head {
            Head::None if self.streams.hears_head() => self.head = Head::Begun(0),
            Head::Begun(_) | Head::Told(_) if !self.streams.hears_head() => self.end_head(),
            _ => {}
        }
    }

    /// Nothing more is there to read: so the head that has begun is not whole, or has become a request.
    fn note_head(&mut self) {
        self.end_head_of_request();
        if let Head::Begun(requests) = self.head {
            let state = self.handle.state();
            state.set_head_since(Some(self.handle.now()));
            self.head = Head::Told(requests);
        }
    }

    fn end_head_of_request(&mut self) {
        if let Head::Begun(requests) | Head::Told(requests) = self.head {
            if self.spoken != Spoken::Http2 && self.handle.state().requests() != requests {
                self.end_head();
            }
        }
    }

    fn end_head(&mut self) {
        if matches!(self.head, Head::Told(_)) {
            self.handle.state().set_head_since(None);
        }
        self.head = Head::None;
    }

    /// Nothing is there to read: ends the stream if this half must.
    ///
    /// It must unless a driver says GOAWAY. HTTP/1, and who has not said yet what it speaks, ends here in
    /// any case: hyper's `graceful_shutdown` ends an idle connection without a look at what has arrived, and
    /// ends neither one that was never asked for anything, nor one with half a head (1.12,
    /// `proto/h1/conn.rs`).
    fn poll_end<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = self.handle.state();
        if state.phase() == Phase::Open || self.written != Written::Flushed {
            return Poll::Pending;
        }
        let mut ended = state.has_ended();
        if self.spoken == Spoken::Http2 {
            // At an end of stream h2 drops what it has queued (0.4, `proto/connection.rs`).
            ended &= self.streams.is_empty() && self.streams.between();
            if state.is_driven() {
                if !ended {
                    self.patience.clear();
                    return Poll::Pending;
                }
                if self.patience.at().is_none() {
                    self.patience.set(Instant::now() + PATIENCE);
                }
                ready!(self.patience.poll(cx));
            }
            // Between two frames and with everything flushed, a frame of our own harms nobody.
            if self.streams.between() {
                match self.farewell {
                    Farewell::Unsaid | Farewell::Announced if ended => {
                        self.farewell = Farewell::Said;
                        self.say_goaway(io, cx, self.streams.last().min(self.streams.served()))?;
                    }
                    Farewell::Unsaid => {
                        self.farewell = Farewell::Announced;
                        // The HTTP stack may have said one that names less (RFC 9113, section 6.8).
                        if self.streams.served() == ANY_STREAM {
                            self.say_goaway(io, cx, ANY_STREAM)?;
                        }
                    }
                    Farewell::Announced | Farewell::Said => {}
                }
            }
        }
        if !ended {
            return Poll::Pending;
        }
        if self.heard {
            // Perhaps a request. hyper reads once more (for a hang-up) before it calls the service.
            self.heard = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether there can be something to do for [`poll_end`](Self::poll_end).
    fn may_end(&self) -> bool {
        self.spoken != Spoken::Http2
            || self.streams.is_empty()
            || self.farewell == Farewell::Unsaid && !self.handle.state().is_driven()
    }

    /// Writes a GOAWAY. All before it was flushed, so the socket takes 17 bytes; a client that has left it
    /// so full that it does not is not told.
    fn say_goaway<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        last_stream: u32,
    ) -> io::Result<()> {
        let frame = goaway(last_stream);
        let Poll::Ready(written) = Pin::new(&mut *io).poll_write(cx, &frame)? else {
            return Ok(());
        };
        if written < frame.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        // The HTTP stack flushes each time that it is polled, so it ends what this begins.
        if Pin::new(io).poll_flush(cx)?.is_pending() {
            self.written = Written::Unflushed;
        }
        Ok(())
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
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut *io).poll_read(cx, buf) {
            self.hear(&buf.filled()[before..]);
            return Poll::Ready(read);
        }
        self.note_head();
        self.handle.state().register_reader(cx.waker());
        self.check(io)?;
        self.poll_end(io, cx)
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(io)?;
        if self.written == Written::Flushed {
            self.written = Written::Unflushed;
        }
        if let Poll::Ready(written) = crate::poll_write_slices(io, cx, bufs) {
            self.say(bufs, *written.as_ref().unwrap_or(&0));
            return Poll::Ready(written);
        }
        self.set_written(Written::Stalled);
        self.handle.state().register_writer(cx.waker());
        self.check(io)?;
        Poll::Pending
    }

    fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closing = self.handle.is_closing();
        // The close has woken, and so taken, all wakers, and hyper need not wait for a read or a write when
        // the abort comes. It need not have done so before, either.
        if closing || !self.watched {
            self.watched = true;
            self.handle.state().register_writer(cx.waker());
        }
        self.check(io)?;
        if let Poll::Ready(flushed) = Pin::new(&mut *io).poll_flush(cx) {
            if closing && self.written != Written::Flushed && self.may_end() {
                // hyper and h2 read first and write second: without this they would not read again.
                cx.waker().wake_by_ref();
            }
            self.set_written(Written::Flushed);
            return Poll::Ready(flushed);
        }
        self.set_written(Written::Stalled);
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
        if version < Version::HTTP_2 && may_have_body(&request) {
            self.handle.state().set_unread_body();
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
            http1: version < Version::HTTP_2,
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
        http1: bool,
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
        if may_have_body(request) {
            handle.state().set_unread();
        }
        let answer = Box::new(handle.refusal().answer(request));
        handle.close();
        Self {
            stage: Stage::Refused { answer },
            in_flight: Some(in_flight),
            http1: request.version() < Version::HTTP_2,
            connect: false,
        }
    }
}

fn may_have_body<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH);
    headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
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
        if *me.http1 {
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
            } else if let Err(rejection) = handle.upgrade() {
                // With the response goes its `OnUpgrade`, and with that what waited for the socket.
                handle.close();
                response = rejection.close().respond(Version::HTTP_11, false);
            }
        }
        Poll::Ready(Ok(response.map(|body| Guarded::new(body, in_flight))))
    }
}

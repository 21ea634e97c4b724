use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tower_connection::{BodyClock, ConnectionHandle, Deadline, Receiving};

use crate::{Reason, layer::Settings};

type BoxError = Box<dyn Error + Send + Sync>;

/// What the body of a request has in common with its response.
#[derive(Debug)]
pub(crate) struct Late {
    over: AtomicBool,
    excused: AtomicBool,
    handle: ConnectionHandle,
    version: Version,
}

impl Late {
    pub(crate) fn new(handle: ConnectionHandle, version: Version) -> Self {
        Self {
            over: AtomicBool::new(false),
            excused: AtomicBool::new(false),
            handle,
            version,
        }
    }

    pub(crate) fn is_late(&self) -> bool {
        // Relaxed: who reads the body tells who answers, which orders the two.
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// From now on the client may be silent.
    pub(crate) fn excuse(&self) {
        self.excused.store(true, Ordering::Relaxed);
    }

    fn set(&self) {
        self.over.store(true, Ordering::Relaxed);
        if self.version < Version::HTTP_2 {
            // The rest of the body would be in the way of the next request.
            self.handle.close();
        }
    }
}

/// The time for which a service has waited for a body.
#[derive(Debug)]
pub(crate) struct Clock {
    late: Arc<Late>,
    settings: Arc<Settings>,
    bytes: u64,
    waited: Duration,
    waiting: Option<Instant>,
    deadline: Deadline,
    /// Tells the layers further in of it.
    waits: Option<BodyClock>,
}

impl Clock {
    pub(crate) fn new(late: Arc<Late>, settings: Arc<Settings>, waits: Option<BodyClock>) -> Self {
        Self {
            late,
            settings,
            bytes: 0,
            waited: Duration::ZERO,
            waiting: None,
            deadline: Deadline::default(),
            waits,
        }
    }

    /// So many bytes came.
    fn hear(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let Some(since) = self.waiting.take() else {
            return;
        };
        let now = Instant::now();
        // A wait that nobody ended in time is not the client's.
        if !self.deadline.was_missed(now) {
            self.waited += now - since;
        }
        self.deadline.clear();
    }

    /// Nothing has come. Ready when it is too late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.late.excused.load(Ordering::Relaxed) {
            self.waiting = None;
            self.deadline.clear();
            return Poll::Pending;
        }
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            if let Some(until) = self.until(now) {
                self.deadline.set(until);
            }
        }
        self.deadline.poll(cx)
    }

    fn note(&self) {
        let handle = &self.late.handle;
        let client = (handle.peer(), Some(handle.id()));
        let waiting = self.waiting.map_or(Duration::ZERO, |since| since.elapsed());
        let ends = &self.settings.ends;
        let waited = self.waited + waiting;
        ends.note(Reason::Body, client, waited, Some(self.bytes));
    }

    fn until(&self, now: Instant) -> Option<Instant> {
        let left = self.settings.body(self.bytes)?.saturating_sub(self.waited);
        Some(now + self.settings.body?.min(left))
    }
}

pin_project_lite::pin_project! {
    /// The body of a request that must arrive in time.
    ///
    /// When it does not, it ends with [`BodyTimedOut`].
    ///
    /// ```
    /// use http_body_util::{BodyExt, Full};
    /// use tower_read_timeout::ReadTimeoutBody;
    ///
    /// async fn length(body: ReadTimeoutBody<Full<&'static [u8]>>) -> Option<usize> {
    ///     let all = body.collect().await.ok()?; // the client is told what is wrong
    ///     Some(all.to_bytes().len())
    /// }
    /// # let _ = length;
    /// ```
    #[derive(Debug)]
    pub struct ReadTimeoutBody<B> {
        #[pin]
        body: B,
        // Boxed: most requests have no body, and each is moved about.
        clock: Option<Box<Clock>>,
        receiving: Option<Receiving>,
        over: bool,
    }
}

impl<B> ReadTimeoutBody<B> {
    pub(crate) fn new(body: B, clock: Option<Clock>, receiving: Option<Receiving>) -> Self {
        Self {
            body,
            clock: clock.map(Box::new),
            receiving,
            over: false,
        }
    }
}

impl<B> Body for ReadTimeoutBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let mut me = self.project();
        if *me.over {
            return Poll::Ready(None);
        }
        let frame = me.body.as_mut().poll_frame(cx);
        if let Some(waits) = me.clock.as_ref().and_then(|clock| clock.waits.as_ref()) {
            waits.polled(frame.is_pending());
        }
        if let (Poll::Pending, Some(clock)) = (&frame, me.clock.as_mut()) {
            ready!(clock.poll_late(cx));
            clock.note();
            clock.late.set();
            *me.over = true;
            *me.receiving = None;
            return Poll::Ready(Some(Err(BodyTimedOut.into())));
        }
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(clock) = me.clock {
                    clock.hear(frame.data_ref().map_or(0, Buf::remaining));
                }
            }
            // What comes after an error is an end, and not that of the body.
            Some(Err(_)) => *me.receiving = None,
            None => {}
        }
        // Not asked again: of a body that outlives its response, hyper tells the end only with the next request
        // (1.12, `proto/h1/dispatch.rs`, `poll_read_until_blocked`).
        *me.over = frame.is_none() || me.body.is_end_stream();
        if *me.over {
            if let Some(receiving) = me.receiving.take() {
                receiving.complete();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The client was too slow to send the body of its request. What a [`ReadTimeoutBody`] ends with, in a box.
///
/// ```
/// # use tower_read_timeout::BodyTimedOut;
/// # fn is_slow(error: &(dyn std::error::Error + 'static)) -> bool {
/// error.is::<BodyTimedOut>()
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyTimedOut;

impl fmt::Display for BodyTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client was too slow to send the body")
    }
}

impl Error for BodyTimedOut {}

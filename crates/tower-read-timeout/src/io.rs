use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Version;
use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{ConnectionHandle, Deadline, Hook, Hooked, Socket, poll_write_slices};

use crate::{Reason, layer::Settings};

/// The socket of a connection whose requests must arrive in time.
///
/// ```
/// use tower_read_timeout::ReadTimeoutIo;
///
/// fn socket<Io>(timed: &ReadTimeoutIo<Io>) -> &Io {
///     timed.io()
/// }
/// # let _ = socket::<()>;
/// ```
pub type ReadTimeoutIo<Io> = Hooked<Io, Reading>;

/// The hook of a [`ReadTimeoutIo`].
#[derive(Debug)]
pub struct Reading {
    handle: ConnectionHandle,
    settings: Arc<Settings>,
    /// The one timer, for whichever comes first.
    deadline: Deadline,
    /// How many bytes came since there was nothing under way.
    bytes: u64,
    wrote: bool,
    /// The client has had its time.
    over: bool,
}

impl Reading {
    pub(crate) fn new(handle: ConnectionHandle, settings: Arc<Settings>) -> Self {
        Self {
            handle,
            settings,
            deadline: Deadline::default(),
            bytes: 0,
            wrote: false,
            over: false,
        }
    }

    /// Nothing is there to read. Ready when the client has had its time.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.head_until() {
            Some(at) => self.deadline.set(at),
            None => self.deadline.clear(),
        }
        self.deadline.poll(cx)
    }

    fn head_until(&mut self) -> Option<Instant> {
        if let Some(since) = self.handle.head_since() {
            return Some(since + self.settings.head(self.bytes)?);
        }
        self.bytes = 0;
        // Before the first byte; between requests the client may be silent.
        let silent = self.handle.requests() == 0 && self.handle.protocol().is_none();
        if !silent {
            return None;
        }
        Some(self.handle.accepted_at() + self.settings.head(0)?)
    }

    fn note(&self) {
        let handle = &self.handle;
        let (reason, since) = match handle.head_since() {
            Some(since) => (Reason::Head, since),
            None => (Reason::FirstByte, handle.accepted_at()),
        };
        let client = (handle.peer(), Some(handle.id()));
        let ends = &self.settings.ends;
        ends.note(reason, client, since.elapsed(), Some(self.bytes));
    }

    /// Whether the client has sent a part of a request, and would read an answer to it.
    fn is_told(&self) -> bool {
        // An HTTP/2 server has spoken first; a server of both has said nothing before it knew which.
        let http1 = match self.handle.protocol() {
            Some(version) => version < Version::HTTP_2,
            None => !self.wrote,
        };
        http1 && self.handle.head_since().is_some()
    }

    /// Nothing of a response is on its way, so the socket has room; a client that left it none is not waited for.
    fn tell<Io: Socket>(io: &mut Io, cx: &mut Context<'_>) -> io::Result<()> {
        let date = date();
        let answer = format!(
            "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\ndate: {date}\r\n\r\n"
        );
        let mut rest = answer.as_bytes();
        while !rest.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, rest)? {
                Poll::Ready(written @ 1..) => rest = &rest[written..],
                Poll::Ready(0) | Poll::Pending => break,
            }
        }
        let _ = Pin::new(io).poll_flush(cx)?;
        Ok(())
    }
}

#[expect(clippy::disallowed_types, reason = "a date is the wall clock's")]
fn date() -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now())
}

impl<Io: Socket> Hook<Io> for Reading {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut *io).poll_read(cx, buf) {
            self.bytes += (buf.filled().len() - before) as u64;
            return Poll::Ready(read);
        }
        ready!(self.poll_over(cx));
        // ## (Silent | Head) => TimedOut
        self.over = true;
        self.note();
        if self.is_told() {
            Self::tell(io, cx)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wrote = true;
        poll_write_slices(io, cx, bufs)
    }
}

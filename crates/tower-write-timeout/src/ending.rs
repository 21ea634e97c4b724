//! Ends streams of HTTP/2 on the wire, whatever stack is above.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{Socket, Streams};

/// How long a client may keep the HTTP stack in the middle of a frame, where none can be slipped in.
const UNHEARD: Duration = Duration::from_secs(1);

const RST_STREAM: usize = 13;

/// The streams that have had their time.
///
/// The HTTP stack reads of each a `RST_STREAM` that its client has not sent, and lets go of the handler, the body and
/// what it had buffered. The client reads another, after the last bytes that the stack had written.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    streams: Vec<Ending>,
    /// By then the HTTP stack must have heard of all of them.
    heard_by: Option<Instant>,
}

#[derive(Debug)]
struct Ending {
    stream: u32,
    heard: bool,
    /// So many bytes of its frame; all of them is the end.
    said: usize,
}

impl Endings {
    pub(crate) fn begin(&mut self, stream: u32, now: Instant) {
        self.streams.push(Ending {
            stream,
            heard: false,
            said: 0,
        });
        self.heard_by.get_or_insert(now + UNHEARD);
    }

    pub(crate) fn contains(&self, stream: u32) -> bool {
        self.streams.iter().any(|ending| ending.stream == stream)
    }

    /// By when the HTTP stack must have heard, if it has not.
    pub(crate) fn heard_by(&self) -> Option<Instant> {
        self.heard_by
    }

    /// The HTTP stack hears of them, as soon as the client is between two frames. Returns whether it did.
    pub(crate) fn hear(&mut self, io: &impl Socket, buf: &mut ReadBuf<'_>) -> bool {
        if self.heard_by.is_none() || io.streams().and_then(Streams::rest_of_frame) != Some(0) {
            return false;
        }
        let before = buf.filled().len();
        for ending in self.streams.iter_mut().filter(|ending| !ending.heard) {
            if buf.remaining() < RST_STREAM {
                return buf.filled().len() > before;
            }
            buf.put_slice(&rst_stream(ending.stream));
            ending.heard = true;
        }
        self.heard_by = None;
        true
    }

    /// Reads no further than to the end of the client's frame, after which one can be slipped in.
    pub(crate) fn poll_read_frame<Io: Socket>(
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = io.streams().and_then(Streams::rest_of_frame);
        let most = rest.unwrap_or(usize::MAX).min(buf.remaining());
        if most == 0 {
            // There was no room for a frame of ours.
            return Pin::new(io).poll_read(cx, buf);
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(()))
    }

    /// The client hears of those that the HTTP stack has heard of; called where that has written all that it has.
    pub(crate) fn poll_say<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        for ending in self.streams.iter_mut().filter(|ending| ending.heard) {
            if ending.said == 0 {
                let mut open = io.streams().into_iter().flat_map(Streams::iter);
                if !open.any(|stream| stream.id == ending.stream) {
                    // The client has ended it meanwhile.
                    ending.said = RST_STREAM;
                } else if !io.streams().is_some_and(Streams::is_between_frames) {
                    break;
                }
            }
            while ending.said < RST_STREAM {
                let rest = &rst_stream(ending.stream)[ending.said..];
                let more = ready!(Pin::new(&mut *io).poll_write(cx, rest))?;
                if more == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                ending.said += more;
            }
        }
        self.streams.retain(|ending| ending.said < RST_STREAM);
        Poll::Ready(Ok(()))
    }

    /// The connection ends: as much as it takes at once, for a client that listens.
    pub(crate) fn say_at_last<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) {
        for ending in &mut self.streams {
            ending.heard = true;
        }
        if self.poll_say(io, cx).is_ready() {
            let _ = Pin::new(io).poll_flush(cx);
        }
    }
}

/// `RST_STREAM(CANCEL)` (RFC 9113, section 6.4).
fn rst_stream(stream: u32) -> [u8; RST_STREAM] {
    let mut frame = [0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 8];
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

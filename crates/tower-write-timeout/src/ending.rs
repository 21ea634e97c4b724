//! Ends streams of HTTP/2 on the wire, whatever stack is above.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time::Instant};
use tower_connection::{Socket, Streams};

/// How long a client may keep the HTTP stack in the middle of a frame, where none can be slipped in, without going on
/// with it.
const UNHEARD: Duration = Duration::from_secs(1);

/// The same, though it goes on with it.
const UNHEARD_AT_ALL: Duration = Duration::from_secs(30);

const RST_STREAM: usize = 13;

/// The streams that have had their time.
///
/// The HTTP stack reads of each a `RST_STREAM` that its client has not sent, and lets go of the handler, the body and
/// what it had buffered. The client reads another, after the last bytes that the stack had written.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    streams: Vec<Ending>,
    patience: Option<Patience>,
}

#[derive(Debug)]
struct Ending {
    stream: u32,
    /// So many bytes of its frame; all of them is the end.
    heard: usize,
    said: usize,
}

/// Until when the HTTP stack must have heard of all of them.
#[derive(Clone, Copy, Debug)]
struct Patience {
    until: Instant,
    at_most: Instant,
}

impl Endings {
    pub(crate) fn begin(&mut self, stream: u32, now: Instant) {
        self.streams.push(Ending {
            stream,
            heard: 0,
            said: 0,
        });
        self.patience.get_or_insert(Patience::begin(now));
    }

    pub(crate) fn contains(&self, stream: u32) -> bool {
        self.streams.iter().any(|ending| ending.stream == stream)
    }

    /// By when the HTTP stack must have heard, if it has not.
    pub(crate) fn heard_by(&self) -> Option<Instant> {
        self.patience.map(|patience| patience.until)
    }

    /// The HTTP stack does not read, which is not the client's fault.
    pub(crate) fn wait_for_stack(&mut self) {
        if let Some(patience) = &mut self.patience {
            *patience = Patience::begin(Instant::now());
        }
    }

    /// The client goes on with its frame, or nobody has looked whether it does.
    pub(crate) fn be_patient(&mut self, now: Instant) {
        if let Some(patience) = &mut self.patience {
            patience.until = (now + UNHEARD).min(patience.at_most);
        }
    }

    /// The HTTP stack hears of them, as soon as the client is between two frames. Returns whether it did.
    #[inline]
    pub(crate) fn hear(&mut self, io: &impl Socket, buf: &mut ReadBuf<'_>) -> bool {
        self.patience.is_some() && self.hear_all(io, buf)
    }

    fn hear_all(&mut self, io: &impl Socket, buf: &mut ReadBuf<'_>) -> bool {
        // In the middle of a frame of ours, nothing of the client's has been read.
        let begun = self
            .streams
            .iter()
            .any(|ending| (1..RST_STREAM).contains(&ending.heard));
        if !begun && io.streams().and_then(Streams::rest_of_frame) != Some(0) {
            return false;
        }
        let before = buf.filled().len();
        for ending in &mut self.streams {
            let rest = &rst_stream(ending.stream)[ending.heard..];
            let fits = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..fits]);
            ending.heard += fits;
        }
        if self.streams.iter().all(|ending| ending.heard == RST_STREAM) {
            self.patience = None;
        }
        buf.filled().len() > before
    }

    /// Reads no further than to the end of the client's frame, after which one can be slipped in.
    pub(crate) fn poll_read_frame<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = io.streams().and_then(Streams::rest_of_frame);
        let most = rest.unwrap_or(usize::MAX).min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        self.be_patient(Instant::now());
        Poll::Ready(Ok(()))
    }

    /// Ends a frame that the client has a part of.
    pub(crate) fn poll_finish<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self.streams.iter_mut().find(|ending| ending.said > 0) {
            Some(begun) => begun.poll_said(io, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The client hears of those that the HTTP stack has heard of; called where that has written all that it has.
    pub(crate) fn poll_say<Io: Socket>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(at) = (self.streams.iter()).position(|ending| ending.heard == RST_STREAM) {
            let ending = &mut self.streams[at];
            if ending.said == 0 {
                let mut open = io.streams().into_iter().flat_map(Streams::iter);
                if !open.any(|stream| stream.id == ending.stream) {
                    // The client has ended it meanwhile.
                    ending.said = RST_STREAM;
                } else if !io.streams().is_some_and(Streams::is_between_frames) {
                    break;
                }
            }
            ready!(ending.poll_said(io, cx))?;
            self.streams.remove(at);
        }
        Poll::Ready(Ok(()))
    }

    /// The connection ends: as much as it takes at once, for a client that listens.
    pub(crate) fn say_at_last<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) {
        for ending in &mut self.streams {
            ending.heard = RST_STREAM;
        }
        if self.poll_say(io, cx).is_ready() {
            let _ = Pin::new(io).poll_flush(cx);
        }
    }
}

impl Patience {
    fn begin(now: Instant) -> Self {
        Self {
            until: now + UNHEARD,
            at_most: now + UNHEARD_AT_ALL,
        }
    }
}

impl Ending {
    /// The client hears all of its frame.
    fn poll_said<Io: Socket>(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.said < RST_STREAM {
            let rest = &rst_stream(self.stream)[self.said..];
            let more = ready!(Pin::new(&mut *io).poll_write(cx, rest))?;
            if more == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.said += more;
        }
        Poll::Ready(Ok(()))
    }
}

/// `RST_STREAM(CANCEL)` (RFC 9113, section 6.4).
fn rst_stream(stream: u32) -> [u8; RST_STREAM] {
    let mut frame = [0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 8];
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_test::task;
    use tower_connection::{ConnectionHandle, ConnectionIo, Hooked, Obey};

    use super::*;

    /// The preface, SETTINGS, and two requests.
    const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
        \0\0\0\x04\0\0\0\0\0\
        \0\0\x01\x01\x05\0\0\0\x01\x82\
        \0\0\x01\x01\x05\0\0\0\x03\x82";

    /// A connection with two streams, both of which end.
    async fn ending(room: usize) -> (Endings, ConnectionIo<DuplexStream>, DuplexStream) {
        let (mut client, server) = tokio::io::duplex(room);
        let mut io = Hooked::new(server, Obey::new(ConnectionHandle::detached()));
        for piece in OPENING.chunks(room) {
            client.write_all(piece).await.unwrap();
            io.read_exact(&mut vec![0; piece.len()]).await.unwrap();
        }
        let mut endings = Endings::default();
        for stream in [1, 3] {
            endings.begin(stream, Instant::now());
        }
        (endings, io, client)
    }

    fn hear(endings: &mut Endings, io: &ConnectionIo<DuplexStream>, room: usize) -> Vec<u8> {
        let mut bytes = vec![0; room];
        let mut buf = ReadBuf::new(&mut bytes);
        let heard = endings.hear(io, &mut buf);
        assert_eq!(heard, !buf.filled().is_empty());
        buf.filled().to_vec()
    }

    #[tokio::test]
    async fn the_stack_hears_whole_frames_however_little_room_it_has() {
        // WRITE-6
        let both = [rst_stream(1), rst_stream(3)].concat();
        for room in 1..30 {
            let (mut endings, io, _client) = ending(1_000).await;
            let mut heard = Vec::new();
            while endings.heard_by().is_some() {
                heard.extend(hear(&mut endings, &io, room));
            }
            assert_eq!(heard, both, "{room}");
            assert!(hear(&mut endings, &io, room).is_empty());
        }
    }

    #[tokio::test]
    async fn nothing_is_slipped_into_a_frame_of_the_client() {
        let (mut endings, mut io, mut client) = ending(1_000).await;
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
        client.write_all(&ping[..4]).await.unwrap();
        io.read_exact(&mut [0; 4]).await.unwrap();
        assert!(hear(&mut endings, &io, 100).is_empty());
        // The rest, and no more than that.
        client.write_all(&ping[4..]).await.unwrap();
        client.write_all(&ping).await.unwrap();
        let mut read = 0;
        while hear(&mut endings, &io, 5).is_empty() {
            let mut bytes = [0; 100];
            let mut buf = ReadBuf::new(&mut bytes);
            let mut task = task::spawn(());
            let polled = task.enter(|cx, _| endings.poll_read_frame(&mut io, cx, &mut buf));
            assert!(matches!(polled, Poll::Ready(Ok(()))));
            read += buf.filled().len();
        }
        assert_eq!(read, ping.len() - 4);
    }

    #[tokio::test]
    async fn a_frame_that_was_begun_ends_before_another_begins() {
        // WRITE-6: the socket takes ten bytes at a time.
        let (mut endings, mut io, mut client) = ending(10).await;
        let _ = hear(&mut endings, &io, 100);
        let mut task = task::spawn(());
        task.enter(|cx, _| assert!(endings.poll_say(&mut io, cx).is_pending()));
        task.enter(|cx, _| assert!(endings.poll_finish(&mut io, cx).is_pending()));
        let mut said = vec![0; 10];
        client.read_exact(&mut said).await.unwrap();
        task.enter(|cx, _| assert!(endings.poll_finish(&mut io, cx).is_ready()));
        let mut rest = [0; 3];
        client.read_exact(&mut rest).await.unwrap();
        said.extend(rest);
        assert_eq!(said, rst_stream(1), "and not a byte of the other");
        task.enter(|cx, _| assert!(endings.poll_say(&mut io, cx).is_pending()));
        client.read_exact(&mut [0; 10]).await.unwrap();
        task.enter(|cx, _| assert!(endings.poll_say(&mut io, cx).is_ready()));
        assert!(!endings.contains(3));
    }
}

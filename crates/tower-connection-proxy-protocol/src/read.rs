use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use tower_connection::Socket;

use crate::{
    ProxyProtocolIo, Reason, Resets,
    header::{Addresses, Header, LONGEST_LOOK, parse},
};

/// A socket whose header is being read.
pub(crate) struct Reading<Io> {
    io: Option<Io>,
    resets: Arc<Resets>,
    bytes: [u8; LONGEST_LOOK],
    filled: usize,
    header: Header,
}

impl<Io: Socket> Reading<Io> {
    pub(crate) fn new(io: Io, resets: Arc<Resets>) -> Self {
        Self {
            io: Some(io),
            resets,
            bytes: [0; LONGEST_LOOK],
            filled: 0,
            header: Header::NOTHING,
        }
    }

    /// Reads the header and nothing of what follows it. A socket on which something else comes is reset.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<ProxyProtocolIo<Io>>> {
        let read = ready!(self.poll_header(cx));
        let io = self.io.take().expect("polled after completion");
        Poll::Ready(read.map(|addresses| ProxyProtocolIo::new(io, addresses)))
    }

    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Addresses>>> {
        let io = self.io.as_mut().expect("polled after completion");
        loop {
            match &mut self.header {
                Header::Begun { missing } => {
                    let room = &mut self.bytes[self.filled..][..*missing];
                    self.filled += ready!(poll_read(io, cx, room))?;
                    self.header = parse(&self.bytes[..self.filled]).map_err(|what| {
                        let error = io::Error::new(io::ErrorKind::InvalidData, what);
                        self.resets.note(&io.peer(), Reason::Header, Some(&error));
                        let _ = io.reset_on_close();
                        error
                    })?;
                }
                Header::Said { addresses, rest: 0 } => return Poll::Ready(Ok(addresses.take())),
                Header::Said { rest, .. } => {
                    // All that these bytes had to say was taken from them.
                    let room = (*rest).min(LONGEST_LOOK);
                    *rest -= ready!(poll_read(io, cx, &mut self.bytes[..room]))?;
                }
            }
        }
    }
}

fn poll_read(
    io: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(room);
    ready!(Pin::new(io).poll_read(cx, &mut buf))?;
    Poll::Ready(match buf.filled().len() {
        // Nothing to reset or count: the client has left, or a layer outside (a drain, a limit) ends the connection.
        0 => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the stream ended before the header did",
        )),
        read => Ok(read),
    })
}

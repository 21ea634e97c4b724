//! The frames of HTTP/2 that a socket half follows, on both of their ways.

use std::{
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_connection::{ConnectionHandle, ConnectionIo, Hooked, Obey, Socket, Stream, Streams};

use super::wire::Wire;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const LONGEST_PAYLOAD: usize = (1 << 24) - 1;

/// The first byte says whether a preface comes first. Then there are turns: a byte, whose lowest bit says that the
/// server speaks and the others how much, and that much.
pub fn run(bytes: &[u8]) {
    let Some((&first, turns)) = bytes.split_first() else {
        return;
    };
    let preface = first & 1 == 1;
    let whole = follow(preface, turns, usize::MAX);
    for piece in [1, 5] {
        assert_eq!(whole, follow(preface, turns, piece), "cut into {piece}");
    }
}

/// What is known after each turn, and in the end all of it.
fn follow(preface: bool, mut turns: &[u8], piece: usize) -> (Vec<Option<Known>>, String) {
    let wire = Wire::cut(piece);
    let mut io = Hooked::new(wire.clone(), Obey::new(ConnectionHandle::new(&wire)));
    let (mut heard, mut said) = (0, 0);
    if preface {
        hear(&mut io, &wire, PREFACE);
    }
    let mut known = Vec::new();
    while let Some((&turn, rest)) = turns.split_first() {
        let (bytes, rest) = rest.split_at(usize::from(turn >> 1).min(rest.len()));
        if turn & 1 == 1 {
            say(&mut io, bytes, piece);
            said += bytes.len();
        } else {
            hear(&mut io, &wire, bytes);
            heard += bytes.len();
        }
        turns = rest;
        known.push(io.streams().map(|streams| Known::of(streams, heard, said)));
    }
    (known, format!("{:?}", io.streams()))
}

fn hear(io: &mut ConnectionIo<Wire>, wire: &Wire, bytes: &[u8]) {
    wire.send(bytes);
    let mut cx = Context::from_waker(Waker::noop());
    let mut scratch = [0; 256];
    loop {
        let mut buf = ReadBuf::new(&mut scratch);
        match Pin::new(&mut *io).poll_read(&mut cx, &mut buf) {
            Poll::Ready(read) => {
                read.expect("nobody aborted it");
                assert!(!buf.filled().is_empty(), "nobody ended it");
            }
            Poll::Pending => return assert_eq!(wire.unread(), 0),
        }
    }
}

fn say(io: &mut ConnectionIo<Wire>, bytes: &[u8], piece: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    let all = bytes.len();
    let slices: Vec<_> = bytes.chunks(piece).map(IoSlice::new).collect();
    let written = Pin::new(&mut *io).poll_write_vectored(&mut cx, &slices);
    assert!(matches!(written, Poll::Ready(Ok(n)) if n == all));
    assert!(Pin::new(io).poll_flush(&mut cx).is_ready());
}

#[derive(Debug, PartialEq, Eq)]
struct Known {
    open: Vec<Stream>,
    sent: u64,
    has_shut: bool,
    is_between_frames: bool,
    rest_of_frame: Option<usize>,
}

impl Known {
    /// After so many bytes on each way.
    fn of(streams: &Streams, heard: usize, said: usize) -> Self {
        let open: Vec<_> = streams.iter().collect();
        assert!(open.len() <= heard / FRAME_HEAD, "a stream has a head");
        assert!(open.is_sorted_by(|one, next| one.id < next.id));
        assert!(streams.sent() <= said as u64, "more than all");
        let each: u64 = open.iter().map(|stream| stream.sent).sum();
        assert!(each <= streams.sent());
        let rest_of_frame = streams.rest_of_frame();
        assert!(rest_of_frame.is_none_or(|rest| rest <= LONGEST_PAYLOAD));
        Self {
            has_shut: streams.has_shut(),
            open,
            sent: streams.sent(),
            is_between_frames: streams.is_between_frames(),
            rest_of_frame,
        }
    }
}

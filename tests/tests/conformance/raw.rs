//! HTTP by hand, for clients that a library would not be.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, DuplexStream},
    time::timeout,
};

pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Requests with a body that is there, and that no handler reads.
pub(crate) const UNREAD: [&[u8]; 3] = [
    b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nabcde",
    b"POST /slow-ignore HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
];

/// The preface and an empty SETTINGS (RFC 9113, section 3.4).
pub(crate) const PREFACE: [u8; 33] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const GOAWAY: u8 = 7;

/// What comes next, or nothing at the end.
pub(crate) async fn read(socket: &mut DuplexStream) -> String {
    let mut bytes = vec![0; 10_000];
    let n = socket.read(&mut bytes).await.unwrap_or(0);
    bytes.truncate(n);
    String::from_utf8(bytes).expect("text")
}

/// All that the server has said by now.
pub(crate) async fn said(socket: &mut DuplexStream) -> Vec<u8> {
    let mut said = Vec::new();
    let mut bytes = vec![0; 10_000];
    while let Ok(Ok(n @ 1..)) = timeout(Duration::from_millis(2), socket.read(&mut bytes)).await {
        said.extend_from_slice(&bytes[..n]);
    }
    said
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a small frame");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

pub(crate) fn ping(payload: [u8; 8]) -> Vec<u8> {
    frame(6, 0, 0, &payload)
}

/// The fields of a request (RFC 7541: two indexed, two literal).
pub(crate) fn head(method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    let path = path.as_bytes();
    [&[method, 0x86, 4, length], path, &[1, 9], b"localhost"].concat()
}

/// A whole request.
pub(crate) fn get(stream: u8, path: &str) -> Vec<u8> {
    frame(HEADERS, 5, stream, &head(0x82, path))
}

/// The head of a request whose body is still to come.
pub(crate) fn post(stream: u8, path: &str) -> Vec<u8> {
    frame(HEADERS, 4, stream, &head(0x83, path))
}

/// The client takes so many bytes more, of a stream or (zero) of all.
pub(crate) fn window(stream: u8, more: u32) -> Vec<u8> {
    frame(8, 0, stream, &more.to_be_bytes())
}

/// Kind, flags and stream of each frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u8)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, _, _, _, stream, rest @ ..] = bytes {
        frames.push((*kind, *flags, *stream));
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        bytes = rest.get(length..).unwrap_or(&[]);
    }
    frames
}

pub(crate) fn has(bytes: &[u8], kind: u8) -> bool {
    frames(bytes).iter().any(|frame| frame.0 == kind)
}

/// Whether there is the head of a response on that stream.
pub(crate) fn answered(bytes: &[u8], stream: u8) -> bool {
    let mut frames = frames(bytes).into_iter();
    frames.any(|(kind, _, on)| (kind, on) == (HEADERS, stream))
}

/// Whether a response ends on that stream.
pub(crate) fn ended(bytes: &[u8], stream: u8) -> bool {
    let mut frames = frames(bytes).into_iter();
    frames.any(|(kind, flags, on)| kind <= HEADERS && flags & 1 != 0 && on == stream)
}

/// The streams that were reset.
pub(crate) fn resets(bytes: &[u8]) -> Vec<u8> {
    let frames = frames(bytes).into_iter();
    let resets = frames.filter(|(kind, ..)| *kind == RST_STREAM);
    resets.map(|(_, _, stream)| stream).collect()
}

/// The last stream of each GOAWAY.
pub(crate) fn goaways(mut bytes: &[u8]) -> Vec<u32> {
    let mut last = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        if let (GOAWAY, [d, e, f, g, ..]) = (*kind, rest) {
            last.push(u32::from_be_bytes([*d, *e, *f, *g]));
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        bytes = rest.get(length..).unwrap_or(&[]);
    }
    last
}

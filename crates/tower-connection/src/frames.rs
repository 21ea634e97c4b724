//! As much of HTTP/2's framing (RFC 9113, section 4.1) as a socket half needs to know what is under way, and to say
//! GOAWAY by itself.

/// What a client's HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `SETTINGS_INITIAL_WINDOW_SIZE`, and the windows that there are without it (RFC 9113, sections 6.5.2 and 6.9.2).
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
const INITIAL_WINDOW: i64 = 65_535;

/// "Every stream so far, and those that cross with this": a warning, after which the last word follows.
pub(crate) const ANY_STREAM: u32 = u32::MAX >> 1;

/// Which protocol the client speaks, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// So many bytes came, and all of them could begin the preface.
    Unknown(u8),
    Http1,
    Http2,
}

impl Spoken {
    /// Hears `bytes`, and returns those that come after the preface.
    pub(crate) fn hear<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Self::Unknown(heard) = *self else {
            return bytes;
        };
        let expected = &PREFACE[usize::from(heard)..];
        let known = expected.len().min(bytes.len());
        if bytes[..known] != expected[..known] {
            *self = Self::Http1;
            return bytes;
        }
        // The preface has 24 bytes.
        #[expect(clippy::cast_possible_truncation, reason = "at most 24")]
        let heard = heard + known as u8;
        *self = if usize::from(heard) == PREFACE.len() {
            Self::Http2
        } else {
            Self::Unknown(heard)
        };
        &bytes[known..]
    }
}

/// The streams of a connection, by what goes over the wire.
///
/// A response is over for its handler when HTTP/2 has taken the last frame of its body; that frame may
/// still wait for the client's window. Here a stream is open from its whole head until both sides have said
/// its end, or one of them has reset it: longer than its request is in flight.
///
/// A layer finds them in [`Socket::streams`](crate::Socket::streams).
///
/// ```
/// use tower_connection::{Socket, Stream};
///
/// /// How many streams wait for their client.
/// fn waiting(io: &impl Socket) -> usize {
///     let streams = io.streams().into_iter().flat_map(|streams| streams.iter());
///     streams.filter(|stream: &Stream| stream.shut.is_some()).count()
/// }
/// # assert_eq!(waiting(&tokio::io::duplex(1).0), 0);
/// ```
#[derive(Debug)]
pub struct Streams {
    heard: Frames,
    said: Frames,
    // Sorted, and bounded by what the HTTP stack lets the client open: it resets the others, and what it ignores
    // after a GOAWAY is not counted. A vector, because a set would allocate for each first stream.
    open: Vec<Open>,
    /// Its head is not whole yet.
    opening: Option<Open>,
    last: u32,
    /// The highest that the server still serves.
    served: u32,
    /// The client has said its first frame.
    greeted: bool,
    /// The client is between the parts of a head or of trailers, where no other frame may come.
    in_head: bool,
    /// How many bytes of bodies the client takes, on all streams and, at first, on each.
    window: i64,
    initial_window: i64,
    /// How many bytes of bodies went over the wire for which the client has not made room again: it has not read them.
    unread: u64,
    sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    stream: u32,
    /// The client has said its end, and the server.
    ended: (bool, bool),
    /// The server has said the head of its response.
    begun: bool,
    window: i64,
    sent: u64,
}

/// A stream that is open.
///
/// ```
/// # use tower_connection::{Stream, Window};
/// fn is_stalled(stream: &Stream) -> bool {
///     stream.shut == Some(Window::Stream)
/// }
/// # let _ = is_stalled;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// How many bytes of the response's body went over the wire.
    pub sent: u64,
    /// Its response has begun and has not ended, and flow control lets nothing more of it through.
    pub shut: Option<Window>,
}

/// Which window of the client's flow control is shut (RFC 9113, section 5.2).
///
/// ```
/// # use tower_connection::Window;
/// assert_ne!(Window::Stream, Window::Connection);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// That of the stream, and perhaps that of the connection as well.
    Stream,
    /// That of the connection alone: what it does not take of another stream may be in the way.
    Connection,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            heard: Frames::default(),
            said: Frames::default(),
            open: Vec::new(),
            opening: None,
            last: 0,
            served: ANY_STREAM,
            greeted: false,
            in_head: false,
            window: INITIAL_WINDOW,
            initial_window: INITIAL_WINDOW,
            unread: 0,
            sent: 0,
        }
    }
}

impl Streams {
    /// The client said `bytes`.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        let Self {
            heard,
            open,
            opening,
            last,
            served,
            greeted,
            in_head,
            window,
            initial_window,
            unread,
            ..
        } = self;
        heard.follow(bytes, |frame| {
            *greeted = true;
            let stream = frame.stream;
            let ends = frame.flags & END_STREAM != 0;
            match frame.kind {
                WINDOW_UPDATE => {
                    let more = i64::from(frame.begins_with & ANY_STREAM);
                    if stream == 0 {
                        *window = window.saturating_add(more);
                        *unread = unread.saturating_sub(more.unsigned_abs());
                    } else if let Some(open) = find(open, stream) {
                        open.window = open.window.saturating_add(more);
                    }
                }
                SETTINGS => {
                    if let Some(initial) = frame.initial_window {
                        let initial = i64::from(initial);
                        for open in open.iter_mut() {
                            open.window = open.window.saturating_add(initial - *initial_window);
                        }
                        *initial_window = initial;
                    }
                }
                // The server ignores them.
                _ if stream > *served => {}
                HEADERS if stream > *last => {
                    *opening = Some(Open {
                        stream,
                        ended: (ends, false),
                        begun: false,
                        window: *initial_window,
                        sent: 0,
                    });
                }
                // With HEADERS, trailers.
                HEADERS | DATA if ends => end(open, stream, (true, false)),
                RST_STREAM => end(open, stream, (true, true)),
                _ => {}
            }
            let head = is_part_of_a_head(frame.kind);
            *in_head = head && frame.flags & END_HEADERS == 0;
            if head && frame.flags & END_HEADERS != 0 {
                if let Some(opened) = opening.take_if(|opening| opening.stream == stream) {
                    *last = stream;
                    open.push(opened);
                }
            }
        });
    }

    /// The server said `bytes`.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        let Self {
            said,
            open,
            opening,
            last,
            served,
            window,
            unread,
            sent,
            ..
        } = self;
        said.follow(bytes, |frame| match frame.kind {
            DATA | HEADERS => {
                if let Some(open) = find(open, frame.stream) {
                    open.begun = true;
                    if frame.kind == DATA {
                        open.window -= i64::from(frame.length);
                        open.sent += u64::from(frame.length);
                    }
                }
                if frame.kind == DATA {
                    *window -= i64::from(frame.length);
                    *unread += u64::from(frame.length);
                    *sent += u64::from(frame.length);
                }
                if frame.flags & END_STREAM != 0 {
                    end(open, frame.stream, (false, true));
                }
            }
            RST_STREAM => {
                // Also one that was never opened (a PRIORITY that depends on itself): its head is ignored.
                *last = (*last).max(frame.stream);
                opening.take_if(|opening| opening.stream == frame.stream);
                end(open, frame.stream, (true, true));
            }
            GOAWAY => {
                *served = (*served).min(frame.begins_with & ANY_STREAM);
                // What crossed with it is ignored, and has no end.
                open.retain(|open| open.stream <= *served);
            }
            _ => {}
        });
    }

    /// The highest stream that the server has not yet said it would not serve.
    pub(crate) fn served(&self) -> u32 {
        self.served
    }

    /// Those that are open, by their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Stream> + '_ {
        self.open.iter().map(|open| Stream {
            id: open.stream,
            sent: open.sent,
            shut: self.shut(open),
        })
    }

    fn shut(&self, open: &Open) -> Option<Window> {
        if !open.begun || open.ended.1 {
            None
        } else if open.window <= 0 {
            Some(Window::Stream)
        } else {
            (self.window <= 0).then_some(Window::Connection)
        }
    }

    /// How many bytes of bodies went over the wire, on all streams.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether flow control is all that one of them waits for.
    #[must_use]
    pub fn has_shut(&self) -> bool {
        self.open.iter().any(|open| self.shut(open).is_some())
    }

    /// How many bytes of bodies the client has been sent and has not read, by what it says.
    pub(crate) fn unread(&self) -> u64 {
        self.unread
    }

    /// Whether the server's next byte begins a frame: only there a layer may write one of its own.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.said.between()
    }

    /// How many more bytes are to be read from the client before a frame can be read that it did not send: zero
    /// is at once, `None` that nobody knows.
    #[must_use]
    pub fn rest_of_frame(&self) -> Option<usize> {
        (self.greeted && !self.in_head).then(|| self.heard.rest())
    }

    /// Whether the client is in the middle of what opens the connection, of a head, or of trailers.
    pub(crate) fn hears_head(&self) -> bool {
        !self.greeted || self.in_head || self.heard.kind().is_some_and(is_part_of_a_head)
    }

    /// Whether the client has said its first frame.
    pub(crate) fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether every stream has ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The highest stream that the client has opened.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }
}

/// Whether it has a field section, or a part of one. (No client may promise, but h2 waits for the rest of a promise
/// too before it says so: 0.4, `codec/framed_read.rs`.)
fn is_part_of_a_head(kind: u8) -> bool {
    matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION)
}

fn find(open: &mut [Open], stream: u32) -> Option<&mut Open> {
    let at = open.binary_search_by_key(&stream, |open| open.stream);
    at.ok().map(|at| &mut open[at])
}

/// One side has ended a stream, or both.
fn end(open: &mut Vec<Open>, stream: u32, ended: (bool, bool)) {
    if let Ok(at) = open.binary_search_by_key(&stream, |open| open.stream) {
        let (heard, said) = &mut open[at].ended;
        *heard |= ended.0;
        *said |= ended.1;
        if *heard && *said {
            open.remove(at);
        }
    }
}

/// The frames of one direction.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; FRAME_HEAD],
    /// How much of the head is there. It is all there while the payload comes.
    heard: usize,
    /// How much of the payload is still to come.
    payload: usize,
    /// The first four bytes of the payload.
    begin: [u8; 4],
    /// As much as there is of one of SETTINGS.
    setting: [u8; 6],
    initial_window: Option<u32>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: u32,
    begins_with: u32,
    /// The last one in SETTINGS.
    initial_window: Option<u32>,
}

impl Frames {
    /// Calls `found` for each frame that ends in `bytes`, however they are cut.
    fn follow(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.heard < FRAME_HEAD {
                let taken = (FRAME_HEAD - self.heard).min(bytes.len());
                self.head[self.heard..][..taken].copy_from_slice(&bytes[..taken]);
                self.heard += taken;
                bytes = &bytes[taken..];
                if self.heard < FRAME_HEAD {
                    return;
                }
                self.payload = self.length();
            }
            let skipped = self.payload.min(bytes.len());
            let at = self.length() - self.payload;
            for (place, byte) in self.begin.iter_mut().skip(at).zip(&bytes[..skipped]) {
                *place = *byte;
            }
            if self.head[3] == SETTINGS {
                self.set(at, &bytes[..skipped]);
            }
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            if self.payload == 0 {
                self.heard = 0;
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                found(Frame {
                    kind,
                    flags,
                    stream: u32::from_be_bytes(stream) & ANY_STREAM,
                    length: u32::from_be_bytes([0, a, b, c]),
                    begins_with: u32::from_be_bytes(self.begin),
                    initial_window: self.initial_window.take(),
                });
            }
        }
    }

    /// Reads settings, of six bytes each, from the middle of their frame.
    fn set(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in (at..).zip(bytes) {
            self.setting[place % 6] = *byte;
            let [a, b, value @ ..] = self.setting;
            if place % 6 == 5 && [a, b] == INITIAL_WINDOW_SIZE {
                self.initial_window = Some(u32::from_be_bytes(value));
            }
        }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    /// How many bytes are known to be missing of the frame that comes at present.
    fn rest(&self) -> usize {
        match self.heard {
            0 => 0,
            FRAME_HEAD => self.payload,
            heard => FRAME_HEAD - heard,
        }
    }

    /// What comes at present, if it is known.
    fn kind(&self) -> Option<u8> {
        (self.heard == FRAME_HEAD).then_some(self.head[3])
    }

    /// Whether the next byte begins a frame.
    fn between(&self) -> bool {
        self.heard == 0
    }
}

/// A GOAWAY frame without an error (RFC 9113, section 6.8).
pub(crate) fn goaway(last_stream: u32) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[2] = 8; // the length of the payload
    frame[3] = GOAWAY;
    frame[9..13].copy_from_slice(&last_stream.to_be_bytes());
    frame
}

#[cfg(all(test, not(tower_loom)))]
mod tests {
    use super::*;

    impl Streams {
        fn ids(&self) -> Vec<u32> {
            self.open.iter().map(|open| open.stream).collect()
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(vec![END_STREAM; payload]); // looks like a head where it is none
        frame
    }

    #[test]
    fn the_preface_tells_the_protocol_however_it_is_cut() {
        for cut in 0..PREFACE.len() {
            let mut spoken = Spoken::Unknown(0);
            assert!(spoken.hear(&PREFACE[..cut]).is_empty());
            assert_eq!(spoken, Spoken::Unknown(u8::try_from(cut).unwrap()));
            let rest = [&PREFACE[cut..], b"frames"].concat();
            assert_eq!(spoken.hear(&rest), b"frames");
            assert_eq!(spoken, Spoken::Http2);
        }
    }

    #[test]
    fn anything_else_is_http1() {
        for request in ["GET / HTTP/1.1", "PRI * HTTP/1.1", "\r\n", "POST", "PUT"] {
            let mut spoken = Spoken::Unknown(0);
            for byte in request.as_bytes() {
                spoken.hear(&[*byte]);
            }
            assert_eq!(spoken, Spoken::Http1, "{request}");
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [
            frame(4, 0, 0, 18),
            frame(HEADERS, END_HEADERS, 1, 30),
            frame(DATA, 0, 1, 3_000),
            frame(HEADERS, 0, 5, 0),
            frame(CONTINUATION, END_HEADERS, 5, 2),
            frame(HEADERS, 0, 1, 1), // trailers
            frame(CONTINUATION, END_HEADERS, 1, 1),
            frame(HEADERS, 0, 9, 1), // and half a head
            frame(8, 0, 7, 4),
        ]
        .concat();
        for step in 1..40 {
            let mut streams = Streams::default();
            for piece in bytes.chunks(step) {
                streams.hear(piece);
            }
            assert!(streams.heard.between());
            assert_eq!(streams.last(), 5);
            assert_eq!(streams.ids(), [1, 5]);
        }
    }

    #[test]
    fn half_a_head_opens_no_stream() {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, 30);
        let mut streams = Streams::default();
        for (n, byte) in head.iter().enumerate() {
            assert!(streams.is_empty() && streams.hears_head(), "{n}");
            streams.hear(&[*byte]);
        }
        assert!(!streams.is_empty() && !streams.hears_head());
        streams.hear(&frame(HEADERS, 0, 3, 0));
        assert!(streams.hears_head());
        streams.hear(&frame(CONTINUATION, END_HEADERS, 3, 0));
        assert!(!streams.hears_head());
        streams.hear(&frame(DATA, 0, 3, 5)[..10]);
        assert!(!streams.hears_head(), "half a body is no head");
    }

    #[test]
    fn the_end_of_a_frame_is_known_to_the_byte() {
        let bytes = [frame(4, 0, 0, 18), frame(DATA, 0, 1, 5)].concat();
        let mut streams = Streams::default();
        for (n, byte) in bytes.iter().enumerate() {
            assert_eq!(streams.is_between_frames(), [0, 27].contains(&n), "{n}");
            streams.say(&[*byte]);
        }
        assert!(streams.is_between_frames());
    }

    #[test]
    fn a_stream_whose_body_is_still_received_is_open() {
        let mut streams = Streams::default();
        for stream in [1, 3, 5] {
            streams.hear(&frame(HEADERS, END_HEADERS, stream, 9));
            streams.say(&frame(HEADERS, END_STREAM | END_HEADERS, stream, 9));
        }
        streams.hear(&frame(DATA, 0, 1, 9));
        assert_eq!(streams.ids(), [1, 3, 5]);
        streams.hear(&frame(DATA, END_STREAM, 1, 0));
        streams.hear(&frame(HEADERS, END_STREAM | END_HEADERS, 3, 3)); // trailers
        streams.say(&frame(RST_STREAM, 0, 5, 4)); // nobody wants the rest
        assert!(streams.is_empty());
    }

    #[test]
    fn a_stream_that_was_reset_before_it_opened_never_opens() {
        let mut streams = Streams::default();
        streams.say(&frame(RST_STREAM, 0, 7, 4));
        streams.hear(&frame(HEADERS, END_STREAM | END_HEADERS, 7, 9));
        assert!(streams.is_empty() && !streams.hears_head());
        streams.hear(&frame(HEADERS, END_STREAM | END_HEADERS, 9, 9));
        assert_eq!(streams.ids(), [9]);
    }

    #[test]
    fn a_stream_that_was_reset_in_the_middle_of_its_head_never_opens() {
        // h2 resets a stream as soon as a part of its head is malformed, expects no CONTINUATION, and ignores another
        // head of the same stream (0.4, `codec/framed_read.rs`). That head opened the stream here, so nobody ever
        // ended it: its connection was busy for ever, and no timeout of any layer was for it. A fuzzer found it.
        let mut streams = Streams::default();
        streams.hear(&frame(SETTINGS, 0, 0, 0));
        streams.hear(&frame(HEADERS, 0, 1, 6));
        assert!(streams.hears_head());
        streams.say(&frame(RST_STREAM, 0, 1, 4));
        assert!(streams.hears_head(), "the client owes the rest of it");
        streams.hear(&frame(HEADERS, END_HEADERS, 1, 6));
        assert!(streams.is_empty() && !streams.hears_head());
        streams.hear(&frame(HEADERS, END_HEADERS, 3, 6));
        assert_eq!(streams.ids(), [3]);
    }

    #[test]
    fn half_of_any_field_section_is_half_a_head() {
        // Between HEADERS and CONTINUATION of trailers nothing was heard, as they open no stream: so no time was
        // counted, and a client that sent no more stayed for ever, on a connection on which nothing else can come.
        for part in [HEADERS, PUSH_PROMISE] {
            for reset in [false, true] {
                let mut streams = Streams::default();
                streams.hear(&frame(HEADERS, END_HEADERS, 1, 6));
                for byte in frame(part, END_STREAM, 1, 6) {
                    streams.hear(&[byte]);
                }
                assert!(streams.hears_head() && streams.rest_of_frame().is_none());
                if reset {
                    // The response has ended; h2 waits for the rest all the same.
                    streams.say(&frame(RST_STREAM, 0, 1, 4));
                }
                assert!(streams.hears_head());
                streams.hear(&frame(CONTINUATION, 0, 1, 6));
                assert!(streams.hears_head());
                streams.hear(&frame(CONTINUATION, END_HEADERS, 1, 6)[..14]);
                assert!(streams.hears_head());
                streams.hear(&frame(CONTINUATION, END_HEADERS, 1, 6)[14..]);
                assert!(!streams.hears_head());
            }
        }
    }

    #[test]
    fn half_a_head_past_the_last_goaway_is_heard() {
        let mut streams = Streams::default();
        streams.hear(&frame(SETTINGS, 0, 0, 0));
        streams.say(&goaway(0));
        streams.hear(&frame(HEADERS, 0, 1, 6));
        assert!(streams.hears_head() && streams.is_empty());
    }

    #[test]
    fn what_a_client_opens_past_the_last_goaway_is_nothing() {
        let mut streams = Streams::default();
        streams.hear(&frame(HEADERS, END_STREAM | END_HEADERS, 1, 9));
        streams.say(&goaway(ANY_STREAM));
        assert_eq!(streams.served(), ANY_STREAM);
        streams.hear(&frame(HEADERS, END_STREAM | END_HEADERS, 3, 9));
        streams.say(&goaway(3));
        for stream in (5..201).step_by(2) {
            streams.hear(&frame(HEADERS, END_STREAM | END_HEADERS, stream, 9));
        }
        assert_eq!((streams.ids(), streams.last()), (vec![1, 3], 3));
        streams.say(&goaway(1));
        assert_eq!(streams.served(), 1);
    }

    #[test]
    fn a_stream_ends_with_its_response_or_a_reset_of_either_side() {
        let mut streams = Streams::default();
        for stream in [1, 3, 5, 7] {
            streams.hear(&frame(HEADERS, END_STREAM | END_HEADERS, stream, 9));
        }
        streams.say(&frame(HEADERS, END_HEADERS, 1, 9));
        streams.say(&frame(DATA, 0, 1, 9));
        assert_eq!(streams.ids(), [1, 3, 5, 7]);
        streams.say(&frame(DATA, END_STREAM, 1, 9)[..17]);
        assert_eq!(streams.ids(), [1, 3, 5, 7]);
        streams.say(&frame(DATA, END_STREAM, 1, 9)[17..]);
        streams.say(&frame(HEADERS, END_STREAM | END_HEADERS, 3, 9));
        streams.say(&frame(RST_STREAM, 0, 5, 4));
        assert!(!streams.is_empty());
        streams.hear(&frame(RST_STREAM, 0, 7, 4));
        assert!(streams.is_empty());
        streams.hear(&frame(RST_STREAM, 0, 7, 4)); // once more does no harm
        assert_eq!(streams.last(), 7);
    }

    fn with(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = frame(kind, flags, stream, payload.len());
        frame[FRAME_HEAD..].copy_from_slice(payload);
        frame
    }

    fn shut(streams: &Streams) -> Vec<(u32, u64, Option<Window>)> {
        let all = streams.iter();
        all.map(|stream| (stream.id, stream.sent, stream.shut))
            .collect()
    }

    #[test]
    fn a_stream_is_shut_when_its_client_takes_no_more() {
        let mut streams = Streams::default();
        let settings = [0, 3, 0, 0, 0, 9, 0, 4, 0, 0, 0, 100, 0, 5, 0, 0, 64, 0];
        for byte in with(SETTINGS, 0, 0, &settings) {
            streams.hear(&[byte]);
        }
        for stream in [1, 3] {
            streams.hear(&frame(HEADERS, END_HEADERS | END_STREAM, stream, 9));
        }
        streams.say(&frame(HEADERS, END_HEADERS, 1, 9));
        streams.say(&frame(DATA, 0, 1, 99));
        assert_eq!(shut(&streams), [(1, 99, None), (3, 0, None)]);
        assert!(!streams.has_shut());
        streams.say(&frame(DATA, 0, 1, 1));
        assert_eq!(
            shut(&streams),
            [(1, 100, Some(Window::Stream)), (3, 0, None)],
            "the other has not begun"
        );
        streams.hear(&with(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
        assert!(!streams.has_shut());
        streams.hear(&with(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 99]));
        assert!(streams.has_shut(), "every window shrinks with the setting");
        streams.hear(&with(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
        assert!(!streams.has_shut());
        streams.say(&frame(HEADERS, END_HEADERS, 3, 9));
        streams.say(&frame(DATA, 0, 3, 65_435 - 1));
        assert!(!streams.has_shut());
        streams.say(&frame(DATA, 0, 3, 1));
        assert_eq!(
            shut(&streams),
            [
                (1, 100, Some(Window::Connection)),
                (3, 65_435, Some(Window::Connection))
            ]
        );
        streams.say(&frame(DATA, END_STREAM, 3, 0));
        streams.hear(&with(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
        assert_eq!(shut(&streams), [(1, 100, None)]);
    }

    #[test]
    fn where_a_frame_can_be_slipped_in_is_known_to_the_byte() {
        let mut streams = Streams::default();
        assert_eq!(
            streams.rest_of_frame(),
            None,
            "nothing comes before SETTINGS"
        );
        streams.hear(&frame(SETTINGS, 0, 0, 6));
        let upload = [
            frame(HEADERS, 0, 1, 3),
            frame(CONTINUATION, END_HEADERS, 1, 3),
            frame(DATA, 0, 1, 5),
        ]
        .concat();
        let mut rests = Vec::new();
        for byte in upload {
            rests.push(streams.rest_of_frame());
            streams.hear(&[byte]);
        }
        let of = |payload: usize| {
            let head = (1..FRAME_HEAD).rev().map(Some);
            let payload = (1..=payload).rev().map(Some);
            head.chain(payload).collect::<Vec<_>>()
        };
        let in_head = vec![None; FRAME_HEAD + 3];
        let expected = [vec![Some(0)], of(3), in_head, vec![Some(0)], of(5)].concat();
        assert_eq!(rests, expected);
        assert_eq!(streams.rest_of_frame(), Some(0));
    }

    #[test]
    fn any_bytes_are_heard_without_a_panic_and_the_same_however_they_are_cut() {
        // A seeded stream of noise: what a peer sends need not be HTTP/2.
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..200 {
            let noise: Vec<u8> = (0..500)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed.to_le_bytes()[0] & 0x0F
                })
                .collect();
            let (mut whole, mut cut) = (Streams::default(), Streams::default());
            whole.hear(&noise);
            whole.say(&noise);
            for byte in &noise {
                cut.hear(&[*byte]);
            }
            for byte in &noise {
                cut.say(&[*byte]);
            }
            assert_eq!(whole.is_between_frames(), cut.is_between_frames());
            assert_eq!(whole.last(), cut.last());
            assert_eq!(whole.open, cut.open);
        }
    }

    #[test]
    fn a_goaway_is_one_frame() {
        let mut streams = Streams::default();
        streams.say(&goaway(ANY_STREAM));
        assert!(streams.is_between_frames());
    }
}

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

use crate::Protocol;

pub(crate) type Pipe = Box<dyn Socket>;

pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// One connection, as its client sees it.
pub struct Wire {
    sender: Sender,
    ending: watch::Receiver<Ending>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("ending", &self.ending())
            .finish_non_exhaustive()
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// How far the server has ended a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// A GOAWAY came (HTTP/2).
    pub goaway: bool,
    /// The stream of bytes ended, or failed.
    pub ended: bool,
}

/// A whole response.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header that is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Wire {
    pub(crate) async fn new(tap: Tap, protocol: Protocol) -> Result<Self, hyper::Error> {
        let ending = tap.ending.subscribe();
        let io = TokioIo::new(tap);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection.with_upgrades());
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .handshake(io)
                    .await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, ending })
    }

    /// Another hand on the same connection, for a second stream of HTTP/2.
    ///
    /// # Panics
    ///
    /// On HTTP/1, which has one request at a time.
    #[must_use]
    pub fn second_hand(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else {
            panic!("HTTP/1 has no streams");
        };
        Self {
            sender: Sender::Http2(sender.clone()),
            ending: self.ending.clone(),
        }
    }

    /// Sends a request; `Err` if the connection ended before the whole response was there.
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Answer, hyper::Error> {
        let response = self.begin(request).await?;
        let (head, body) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// Sends a request and waits for the head of its response.
    pub async fn begin(
        &mut self,
        request: Request<Bytes>,
    ) -> Result<http::Response<Incoming>, hyper::Error> {
        let request = request.map(Full::new);
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// `GET`.
    pub async fn get(&mut self, path: &str) -> Result<Answer, hyper::Error> {
        self.send(request("GET", path, Bytes::new())).await
    }

    /// `POST`.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<Answer, hyper::Error> {
        self.send(request("POST", path, body)).await
    }

    /// Asks for a WebSocket, and is answered otherwise.
    pub async fn get_upgrade(&mut self, path: &str) -> Result<Answer, hyper::Error> {
        self.send(upgrade(path)).await
    }

    /// Upgrades an HTTP/1 connection to a WebSocket, or makes a stream of HTTP/2 one.
    pub async fn web_socket(self) -> Upgraded {
        self.web_socket_at("/ws").await
    }

    /// The same, on a path.
    pub async fn web_socket_at(mut self, path: &str) -> Upgraded {
        let mut request = upgrade(path);
        let mut status = StatusCode::SWITCHING_PROTOCOLS;
        if matches!(self.sender, Sender::Http2(_)) {
            // RFC 8441: only once the server has said that it may.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            *request.method_mut() = http::Method::CONNECT;
            for header in ["connection", "upgrade", "host", "sec-websocket-key"] {
                request.headers_mut().remove(header);
            }
            request
                .extensions_mut()
                .insert(hyper::ext::Protocol::from_static("websocket"));
            status = StatusCode::OK;
        }
        let response = self.begin(request).await.expect("an answer");
        assert_eq!(response.status(), status);
        hyper::upgrade::on(response).await.expect("an upgrade")
    }

    /// How far the server has ended the connection by now.
    pub fn ending(&self) -> Ending {
        *self.ending.borrow()
    }

    /// Waits until the server has ended the connection.
    pub async fn ended(&mut self) -> Ending {
        *self
            .ending
            .wait_for(|ending| ending.ended)
            .await
            .expect("the end is told before the socket is dropped")
    }
}

/// A request; the host is the same for all.
pub(crate) fn request(method: &str, path: &str, body: Bytes) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"))
        .header("host", "localhost")
        .body(body)
        .expect("a request")
}

fn upgrade(path: &str) -> Request<Bytes> {
    let mut request = request("GET", path, Bytes::new());
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        let value = value.parse().expect("a header");
        request.headers_mut().insert(name, value);
    }
    request
}

/// The client's end of a socket. It sees every byte of the server, whatever the client makes of it.
pub(crate) struct Tap {
    pipe: Pipe,
    ending: Arc<watch::Sender<Ending>>,
    frames: Frames,
}

impl Tap {
    pub(crate) fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            ending: Arc::new(watch::Sender::new(Ending::default())),
            frames: Frames::default(),
        }
    }

    fn end(&self) {
        self.ending.send_modify(|ending| ending.ended = true);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The client had enough, which only happens after an error or an end.
        self.end();
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.pipe).poll_read(cx, buf));
        let bytes = &buf.filled()[before..];
        if bytes.is_empty() {
            self.end();
        } else if self.frames.saw_goaway(bytes) {
            self.ending.send_modify(|ending| ending.goaway = true);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// Finds the frames of an HTTP/2 server in its bytes (RFC 9113, 4.1). On HTTP/1 it finds nothing, as
/// the text of a head never has a GOAWAY's type where it looks.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    payload: usize,
}

const FRAME_HEAD: usize = 9;
const GOAWAY: u8 = 7;

impl Frames {
    fn saw_goaway(&mut self, mut bytes: &[u8]) -> bool {
        let mut saw = false;
        while !bytes.is_empty() {
            let skip = self.payload.min(bytes.len());
            self.payload -= skip;
            bytes = &bytes[skip..];

            let take = (FRAME_HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.head.len() == FRAME_HEAD {
                let length = [0, self.head[0], self.head[1], self.head[2]];
                self.payload = u32::from_be_bytes(length) as usize;
                saw |= self.head[3] == GOAWAY;
                self.head.clear();
            }
        }
        saw
    }
}

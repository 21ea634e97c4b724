//! The routes, and what they count.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt::Write,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{
        ConnectInfo, Path, Request, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{self, Instant};
use tower_serve::{
    Watch,
    axum::Noticed,
    connection::{ConnectionHandle, Guarded, Notice},
    connection_limit::Limit,
    drain::Drain,
    overload::{Overload, Reason},
};

/// What the routes know of the server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) watch: Watch,
    pub(crate) connections: Limit,
    pub(crate) drain: Drain,
    pub(crate) overload: Overload,
    pub(crate) requests: Requests,
}

pub(crate) fn router(server: Server) -> Router {
    Router::new()
        .route("/", get(|| async { "ok\n" }))
        .route("/sleep/{ms}", get(sleep))
        .route("/bytes/{n}", get(bytes))
        .route("/stream/{n}/{interval_ms}", get(stream))
        .route("/echo", post(echo))
        .route("/cpu/{us}", get(cpu))
        .route("/panic", get(panic))
        .route("/ws", any(ws)) // HTTP/1 asks with GET, HTTP/2 with CONNECT
        .route("/peer", get(peer))
        .route("/healthz", get(|| async { "ok\n" }))
        .route_service("/readyz", server.drain.readiness())
        .route_service("/status", server.watch.status_page())
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(server.clone(), count))
        .with_state(server)
}

async fn sleep(Path(ms): Path<u64>) -> &'static str {
    time::sleep(Duration::from_millis(ms)).await;
    "ok\n"
}

async fn bytes(Path(left): Path<u64>) -> Body {
    Body::new(Zeros { left })
}

async fn stream(Path((n, interval_ms)): Path<(u64, u64)>) -> Response {
    let interval = Duration::from_millis(interval_ms);
    let body = Body::new(Ticks {
        n,
        next: 0,
        interval,
        pause: None,
    });
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

/// A client that is too slow can read a 408 for as long as nothing was answered: so small bodies are read to their
/// end first.
async fn echo(request: Request) -> Result<Body, StatusCode> {
    let mut rest = request.into_body();
    let (mut begun, mut bytes) = (VecDeque::new(), 0);
    while bytes < 1 << 20 {
        match rest.frame().await {
            Some(Ok(frame)) => {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                begun.push_back(frame);
            }
            Some(Err(_)) => return Err(StatusCode::BAD_REQUEST),
            None => break,
        }
    }
    Ok(Body::new(Echo { begun, rest }))
}

async fn cpu(Path(us): Path<u64>) -> &'static str {
    let until = Instant::now() + Duration::from_micros(us);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    "ok\n"
}

async fn panic() {
    panic!("as asked");
}

async fn ws(Noticed(notice): Noticed, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| echo_messages(socket, notice))
}

async fn echo_messages(mut socket: WebSocket, notice: Notice) {
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {} // axum answers pings and closes itself
                Some(Err(_)) | None => return,
            },
            _deadline = notice.given() => {
                let close = CloseFrame { code: close_code::AWAY, reason: "draining".into() };
                let _ = socket.send(Message::Close(Some(close))).await;
                // It answers with a Close of its own (RFC 6455, section 5.5.1), if it is there.
                let answer = async { while let Some(Ok(_)) = socket.recv().await {} };
                let _ = time::timeout(Duration::from_secs(1), answer).await;
                return;
            }
        }
    }
}

/// Who the client is: as the connection's handle says and, under axum, as `ConnectInfo` does.
async fn peer(
    Extension(connection): Extension<ConnectionHandle>,
    info: Option<Extension<ConnectInfo<SocketAddr>>>,
) -> String {
    let mut text = format!("{}\n", connection.peer());
    if let Some(Extension(ConnectInfo(client))) = info {
        writeln!(text, "{client}").expect("a string takes it");
    }
    text
}

async fn metrics(State(server): State<Server>) -> Response {
    let Server {
        connections,
        overload,
        requests,
        ..
    } = &server;
    let gauges = [
        ("connections_open", connections.open()),
        ("connections_in_reserve", connections.in_reserve()),
        ("acceptors_waiting", connections.waiting()),
        ("requests_in_flight", requests.in_flight()),
        ("requests_waiting", overload.waiting()),
        ("requests_limit", overload.limit()),
        ("streams_open", overload.streams()),
    ];
    let counters = [
        ("requests_total", requests.total()),
        ("connections_rejected_total", connections.rejected()),
        ("connections_evicted_total", connections.evicted()),
    ];
    let mut text = String::new();
    for (name, value) in gauges {
        writeln!(text, "# TYPE {name} gauge\n{name} {value}").expect("a string takes it");
    }
    for (name, value) in counters {
        writeln!(text, "# TYPE {name} counter\n{name} {value}").expect("a string takes it");
    }
    writeln!(text, "# TYPE requests_shed_total counter").expect("a string takes it");
    for &reason in Reason::ALL {
        let (label, n) = (reason.as_str(), overload.shed_for(reason));
        writeln!(text, "requests_shed_total{{reason=\"{label}\"}} {n}").expect("a string takes it");
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Counts each request until the end of its response body.
async fn count(State(server): State<Server>, request: Request, next: Next) -> Response {
    let counted = server.requests.count();
    let response = next.run(request).await;
    response.map(|body| Body::new(Guarded::new(body, counted)))
}

/// How many requests there are and were; guards keep it up to date.
#[derive(Clone, Default)]
pub(crate) struct Requests(Arc<Counts>);

#[derive(Default)]
struct Counts {
    in_flight: AtomicUsize,
    total: AtomicU64,
}

struct Counted(Requests);

impl Requests {
    // Relaxed: numbers to look at.
    fn count(&self) -> Counted {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        self.0.total.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body of which the first frames were read already.
struct Echo {
    begun: VecDeque<Frame<Bytes>>,
    rest: Body,
}

impl http_body::Body for Echo {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.begun.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let begun = self.begun.iter().filter_map(Frame::data_ref);
        let begun: u64 = begun.map(|data| data.len() as u64).sum();
        let rest = http_body::Body::size_hint(&self.rest);
        let mut size = SizeHint::new();
        size.set_lower(begun + rest.lower());
        if let Some(upper) = rest.upper() {
            size.set_upper(begun + upper);
        }
        size
    }
}

/// A body of known length, in chunks of 64 KiB.
struct Zeros {
    left: u64,
}

const CHUNK: &[u8] = &[b'0'; 64 * 1024];

impl http_body::Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let n = usize::try_from(self.left).map_or(CHUNK.len(), |left| left.min(CHUNK.len()));
        self.left -= n as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK[..n])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that says `tick` now and then.
struct Ticks {
    n: u64,
    next: u64,
    interval: Duration,
    pause: Option<Pin<Box<time::Sleep>>>,
}

impl http_body::Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.next == self.n {
            return Poll::Ready(None);
        }
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
        }
        let tick = format!("tick {}\n", self.next);
        self.next += 1;
        self.pause = Some(Box::pin(time::sleep(self.interval)));
        Poll::Ready(Some(Ok(Frame::data(tick.into()))))
    }
}

use std::{
    fmt, future, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{
        Path, Request, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, close_code},
    },
    response::Response,
    routing::{any, get, post},
};
use futures_util::StreamExt;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tower::{ServiceBuilder, timeout::TimeoutLayer};
use tower_connection::{AcceptGate, ConnectionHandle, Guarded};
use tower_connection_axum::{Noticed, accept};
use tower_connection_limit::{ConnectionLimitLayer, Limit};
use tower_connection_rustls::TlsLayer;
use tower_drain::Drain;
use tower_keep_alive::KeepAliveLayer;
use tower_overload::{InFlightLimitLayer, Overload};
use tower_read_timeout::ReadTimeoutLayer;
use tower_write_timeout::WriteTimeoutLayer;

use crate::{
    Protocol, Stack, Wire,
    stack::Tls,
    wire::{Pipe, Tap},
};

/// How much a pipe holds: less than a large upload, so that a client can be stuck in one.
const PIPE: usize = 64 * 1024;

/// A server on one stack, with the routes that scenarios need.
pub struct Server {
    stack: Stack,
    pipes: mpsc::UnboundedSender<DuplexStream>,
    drain: Drain,
    limit: Limit,
    overload: Overload,
    gate: AcceptGate,
    handlers: Handlers,
    tls: Option<Tls>,
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<io::Result<()>>,
}

/// The layers that scenarios are about.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Layers {
    pub drain: Drain,
    pub limit: ConnectionLimitLayer,
    pub overload: InFlightLimitLayer,
    pub keep_alive: KeepAliveLayer,
    pub read_timeout: ReadTimeoutLayer,
    pub write_timeout: WriteTimeoutLayer,
}

/// They are there, and off.
impl Default for Layers {
    fn default() -> Self {
        Self {
            drain: Drain::new(Duration::ZERO),
            limit: ConnectionLimitLayer::new(0),
            overload: InFlightLimitLayer::new(0),
            keep_alive: KeepAliveLayer::new(Duration::ZERO),
            read_timeout: ReadTimeoutLayer::new(Duration::ZERO).body(Duration::ZERO),
            write_timeout: WriteTimeoutLayer::new(Duration::ZERO).min_rate(0),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("stack", &self.stack)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Starts it behind `limit`, and nothing else.
    pub async fn start(stack: Stack, limit: ConnectionLimitLayer) -> Self {
        let layers = Layers {
            limit,
            ..Layers::default()
        };
        layers.start(stack).await
    }
}

impl Layers {
    /// Starts a server behind them.
    pub async fn start(self, stack: Stack) -> Server {
        let (sender, receiver) = mpsc::unbounded_channel();
        let pipes = Pipes(receiver);
        let (shutdown, told) = oneshot::channel();
        let watch = self.drain.watch();
        let told = async {
            // A server that is dropped is not told, and ends with its runtime.
            tokio::select! {
                Ok(()) = told => {}
                () = watch.ended() => {}
            }
        };
        let handlers = Handlers::default();
        let app = match stack {
            Stack::TonicHttp1 | Stack::TonicHttp2 => {
                let (_, health) = tonic_health::server::health_reporter();
                let grpc = tonic::service::Routes::new(health).into_axum_router();
                router(handlers.clone()).merge(grpc)
            }
            _ => router(handlers.clone()),
        };
        let Self {
            drain,
            limit,
            overload,
            keep_alive,
            read_timeout,
            write_timeout,
        } = self;
        let counts = limit.limit();
        let app = app.layer(overload.clone());
        let gate = AcceptGate::default();
        let tls = stack.is_tls().then(|| Tls::new(stack.protocol()));
        let running = if let Some(tls) = &tls {
            let acceptor = ServiceBuilder::new()
                .layer(drain.layer())
                .layer(gate.clone())
                .layer(limit)
                .layer(keep_alive)
                .layer(read_timeout)
                .layer(write_timeout)
                .layer(TimeoutLayer::new(Duration::from_secs(10)))
                .layer(TlsLayer::new(tls.server.clone()))
                .service(accept(app));
            tokio::spawn(stack.serve(pipes, acceptor, told))
        } else {
            let acceptor = ServiceBuilder::new()
                .layer(drain.layer())
                .layer(gate.clone())
                .layer(limit)
                .layer(keep_alive)
                .layer(read_timeout)
                .layer(write_timeout)
                .service(accept(app));
            tokio::spawn(stack.serve(pipes, acceptor, told))
        };
        tokio::task::yield_now().await;
        Server {
            stack,
            pipes: sender,
            drain,
            limit: counts,
            overload: overload.handle(),
            gate,
            handlers,
            tls,
            shutdown: Some(shutdown),
            running,
        }
    }
}

impl Server {
    /// The limit that it runs behind.
    pub fn limit(&self) -> &Limit {
        &self.limit
    }

    /// What its service says of the load.
    pub fn overload(&self) -> &Overload {
        &self.overload
    }

    /// What ends it.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// The gate in front of it.
    pub fn gate(&self) -> &AcceptGate {
        &self.gate
    }

    /// How many handlers run or response bodies stream, on all connections.
    pub fn handlers(&self) -> usize {
        self.handlers.0.load(Ordering::SeqCst)
    }

    /// A socket that says nothing, not even a TLS hello.
    pub fn connect_silently(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(PIPE);
        self.pipes.send(server).expect("the server runs");
        client
    }

    /// A client of the stack's protocol. It waits for the TLS handshake, and for nothing else.
    pub async fn connect(&self) -> Wire {
        self.try_connect().await.expect("a connection")
    }

    /// The same, if the server still listens and does not end the connection meanwhile.
    pub async fn try_connect(&self) -> Option<Wire> {
        let (client, server) = tokio::io::duplex(PIPE);
        self.pipes.send(server).ok()?;
        self.speak(client).await
    }

    /// Makes a client of a socket that has said nothing yet.
    pub async fn speak(&self, socket: DuplexStream) -> Option<Wire> {
        let pipe: Pipe = match &self.tls {
            None => Box::new(socket),
            Some(tls) => {
                let name = "localhost".try_into().expect("a name");
                let connector = tokio_rustls::TlsConnector::from(tls.client.clone());
                Box::new(connector.connect(name, socket).await.ok()?)
            }
        };
        Wire::new(Tap::new(pipe), self.stack.protocol()).await.ok()
    }

    /// Whether its listener is open.
    pub fn is_listening(&self) -> bool {
        !self.pipes.is_closed()
    }

    /// What its clients speak.
    pub fn protocol(&self) -> Protocol {
        self.stack.protocol()
    }

    /// Begins a graceful shutdown.
    pub fn shut_down(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }

    /// Waits until the server has ended.
    pub async fn ended(self) {
        self.running
            .await
            .expect("it did not panic")
            .expect("it did not fail");
    }
}

/// A listener whose sockets are pipes.
pub(crate) struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

impl axum::serve::Listener for Pipes {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(socket) => (socket, ()),
            None => future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl tower_connection_hyper::Listener for Pipes {
    type Io = DuplexStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<DuplexStream>> {
        match ready!(self.0.poll_recv(cx)) {
            Some(socket) => Poll::Ready(Ok(socket)),
            None => Poll::Pending,
        }
    }
}

// === the routes ===

#[derive(Clone, Default)]
struct Handlers(Arc<AtomicUsize>, Arc<tokio::sync::Mutex<()>>);

struct Running(Arc<AtomicUsize>);

impl Handlers {
    fn enter(&self) -> Running {
        self.0.fetch_add(1, Ordering::SeqCst);
        Running(self.0.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn router(handlers: Handlers) -> Router {
    Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/sleep/{ms}", get(sleep))
        .route("/turn/{ms}", get(turn))
        .route("/endless", get(endless))
        .route("/echo", post(echo))
        .route("/late-echo/{ms}", post(late_echo))
        .route("/grpc-echo", post(grpc_echo))
        .route("/slow-ignore", post(slow_ignore))
        .route("/swallow", post(swallow))
        .route("/ignore", post(|| async { "ignored" }))
        .route("/panic", get(panic))
        .route("/close", get(close))
        .route("/close/{n}", get(close_after))
        .route("/close-amid/{n}", get(close_amid))
        .route("/close-abort", get(close_abort))
        .route(
            "/bytes/{n}",
            get(async |Path(n): Path<usize>| vec![b'.'; n]),
        )
        .route("/chunks/{n}", get(chunks))
        .route("/file/{n}", get(file))
        .route("/abort", get(abort))
        .route("/connection", get(connection))
        .route("/ticks/{ms}", get(ticks))
        .route("/told", get(told))
        .route("/ws-told", any(ws_told))
        .route("/ws", any(ws))
        .route("/ws-flood", any(ws_flood))
        .with_state(handlers)
}

async fn sleep(State(handlers): State<Handlers>, Path(ms): Path<u64>) -> &'static str {
    let _running = handlers.enter();
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "slept"
}

/// One at a time, each for so long.
async fn turn(State(handlers): State<Handlers>, Path(ms): Path<u64>) {
    let _turn = handlers.1.lock().await;
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// A head and one byte, then nothing, for ever.
async fn endless(State(handlers): State<Handlers>) -> Body {
    Body::new(Guarded::new(Endless { begun: false }, handlers.enter()))
}

/// A byte now and then, for ever.
async fn ticks(State(handlers): State<Handlers>, Path(ms): Path<u64>) -> Body {
    let bytes = futures_util::stream::unfold((), move |()| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Some((Ok::<_, io::Error>(Bytes::from_static(b".")), ()))
    });
    Body::new(Guarded::new(Body::from_stream(bytes), handlers.enter()))
}

async fn echo(body: Bytes) -> Bytes {
    body
}

async fn late_echo(Path(ms): Path<u64>, request: Request) -> Body {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    request.into_body()
}

/// Answers with the first piece of the body, as a gRPC call of both sides, and goes on with the others.
async fn grpc_echo(request: Request) -> impl axum::response::IntoResponse {
    let mut body = request.into_body().into_data_stream();
    let first = body.next().await;
    let grpc = [("content-type", "application/grpc")];
    (
        grpc,
        Body::from_stream(futures_util::stream::iter(first).chain(body)),
    )
}

async fn slow_ignore(request: Request) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(request);
}

/// Answers, and then reads the body to its end, on a connection that closes meanwhile if the query says so.
async fn swallow(
    State(handlers): State<Handlers>,
    Extension(connection): Extension<ConnectionHandle>,
    request: Request,
) {
    let running = handlers.enter();
    if request.uri().query() == Some("close") {
        connection.close();
    }
    tokio::spawn(async move {
        let _all = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        drop(running);
    });
}

async fn panic() {
    panic!("as asked");
}

async fn close(Extension(connection): Extension<ConnectionHandle>) -> &'static str {
    connection.close();
    "closing"
}

/// So many bytes, on a connection that closes meanwhile.
async fn close_after(
    Extension(connection): Extension<ConnectionHandle>,
    Path(n): Path<usize>,
) -> Vec<u8> {
    connection.close();
    vec![b'.'; n]
}

/// The connection closes when the head and a byte are out, and so many bytes are still to come.
async fn close_amid(
    Extension(connection): Extension<ConnectionHandle>,
    Path(n): Path<usize>,
) -> Body {
    Body::from_stream(futures_util::stream::unfold(0, move |frame| {
        let connection = connection.clone();
        async move {
            let bytes = match frame {
                0 => vec![b'.'],
                1 => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    connection.close();
                    vec![b'.'; n]
                }
                _ => return None,
            };
            Some((Ok::<_, io::Error>(bytes), frame + 1))
        }
    }))
}

/// So many bytes, of which the HTTP stack takes a part at a time.
async fn chunks(State(handlers): State<Handlers>, Path(n): Path<usize>) -> Body {
    const CHUNK: &[u8] = &[b'.'; 16 * 1024];
    let chunks = futures_util::stream::unfold(n, |left| async move {
        let chunk = &CHUNK[..left.min(CHUNK.len())];
        let next = Ok::<_, io::Error>(Bytes::from_static(chunk));
        (left > 0).then(|| (next, left - chunk.len()))
    });
    Body::new(Guarded::new(Body::from_stream(chunks), handlers.enter()))
}

/// The same, as files are served: the head tells how many, and the body does not.
async fn file(
    handlers: State<Handlers>,
    Path(n): Path<usize>,
) -> impl axum::response::IntoResponse {
    (
        [(http::header::CONTENT_LENGTH, n)],
        chunks(handlers, Path(n)).await,
    )
}

async fn close_abort(Extension(connection): Extension<ConnectionHandle>) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    connection.close();
    // By somebody else: its own task would see it anyway.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        connection.abort();
    });
    future::pending::<()>().await;
}

async fn abort(Extension(connection): Extension<ConnectionHandle>) {
    connection.abort();
    future::pending::<()>().await;
}

/// `requests in_flight protocol`
async fn connection(
    Extension(connection): Extension<ConnectionHandle>,
    request: Request,
) -> String {
    assert_eq!(connection.protocol(), Some(request.version()));
    format!("{} {}", connection.requests(), connection.in_flight())
}

async fn ws(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket| async move { while let Some(Ok(_)) = socket.recv().await {} })
}

/// A byte, and when the server is about to end, how many milliseconds are left.
async fn told(State(handlers): State<Handlers>, Noticed(notice): Noticed) -> Body {
    let left = futures_util::stream::once(async move {
        let deadline = notice.given().await;
        let left = deadline.saturating_duration_since(Instant::now());
        Ok::<_, io::Error>(Bytes::from(left.as_millis().to_string()))
    });
    let begun = futures_util::stream::once(future::ready(Ok(Bytes::from_static(b"."))));
    let body = Body::from_stream(begun.chain(left));
    Body::new(Guarded::new(body, handlers.enter()))
}

/// A WebSocket that is closed when the server is about to end.
async fn ws_told(Noticed(notice): Noticed, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        notice.given().await;
        let away = CloseFrame {
            code: close_code::AWAY,
            reason: "".into(),
        };
        let _ = socket.send(Message::Close(Some(away))).await;
    })
}

/// A WebSocket that says more than anybody wants to hear.
async fn ws_flood(State(handlers): State<Handlers>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        let _running = handlers.enter();
        let message = Message::Binary(vec![b'.'; 10_000].into());
        while socket.send(message.clone()).await.is_ok() {}
    })
}

struct Endless {
    begun: bool,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if self.begun {
            return Poll::Pending;
        }
        self.begun = true;
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(b".")))))
    }
}

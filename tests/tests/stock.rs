//! What the bare stacks do, without a line of ours.
//!
//! Our layers lean on these facts. An upgrade of axum, hyper or tower that changes one fails here, and
//! the comment on the test says what to look at then.

use std::{
    convert::Infallible,
    future::{self, pending},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Bytes, routing::get, serve::Listener};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
    time::{sleep, timeout},
};
use tower::{Service, ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn as tower_fn};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hi")))
}

/// A listener of pipes for `axum::serve`.
struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Pipes {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(pipe) => (pipe, ()),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to a fresh `axum::serve` of `app`, sends `bytes`, and shuts it down when `shutdown` ends.
async fn axum_client(
    app: Router,
    bytes: &[u8],
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
    let (sender, pipes) = mpsc::unbounded_channel();
    let (mut client, server) = duplex(4096);
    sender.send(server).expect("a reader");
    client.write_all(bytes).await.expect("room");
    let serve = axum::serve(Pipes(pipes), app).with_graceful_shutdown(shutdown);
    (client, tokio::spawn(serve.into_future()))
}

fn app() -> Router {
    Router::new().route("/", get(|| async { "hi" }))
}

async fn ends_within(client: &mut DuplexStream, time: Duration) -> bool {
    timeout(time, client.read_to_end(&mut Vec::new()))
        .await
        .is_ok()
}

// The driver's default and the read timeout: one hyper setting does two jobs.
#[tokio::test(start_paused = true)]
async fn hyper_header_timeout_is_also_its_keep_alive_timeout() {
    let (mut client, server) = duplex(4096);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5));
    tokio::spawn(builder.serve_connection(TokioIo::new(server), service_fn(hello)));
    client.write_all(GET).await.expect("room");
    assert!(!ends_within(&mut client, Duration::from_millis(4_990)).await);
    assert!(ends_within(&mut client, Duration::from_millis(20)).await);
}

// A first-byte timeout belongs to the socket half.
#[tokio::test(start_paused = true)]
async fn hyper_auto_has_no_timeout_while_it_detects_the_protocol() {
    for bytes in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (mut client, server) = duplex(4096);
        client.write_all(bytes).await.expect("room");
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(5));
        builder.http2().timer(TokioTimer::new());
        tokio::spawn(async move {
            builder
                .serve_connection(TokioIo::new(server), service_fn(hello))
                .await
        });
        assert!(!ends_within(&mut client, DAY).await, "{bytes:?}");
    }
}

// Whoever adds a timeout on axum 0.8 adds it alone.
#[tokio::test(start_paused = true)]
async fn axum_never_ends_a_connection_by_itself() {
    for bytes in [&b""[..], b"GET / HT", GET] {
        let (mut client, _) = axum_client(app(), bytes, pending()).await;
        assert!(!ends_within(&mut client, DAY).await, "{bytes:?}");
    }
}

// The drain: what it must bound by itself.
#[tokio::test(start_paused = true)]
async fn axum_shutdown_is_held_by_a_half_sent_request() {
    let half_body = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc";
    for (bytes, finishes) in [
        (&b""[..], true),
        (GET, true),
        (b"GET / HT", false),
        (half_body, false),
    ] {
        let app = app().route("/", axum::routing::post(|body: Bytes| async { body }));
        let (_client, server) = axum_client(app, bytes, sleep(Duration::from_secs(1))).await;
        assert_eq!(timeout(DAY, server).await.is_ok(), finishes, "{bytes:?}");
    }
}

// `Accepting` waits inside `accept` for this reason.
#[tokio::test(start_paused = true)]
async fn axum_shutdown_is_held_by_a_make_service_that_is_not_ready() {
    #[derive(Clone)]
    struct Never;
    impl<L: Listener> Service<axum::serve::IncomingStream<'_, L>> for Never {
        type Response = Router;
        type Error = Infallible;
        type Future = future::Ready<Result<Router, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }
        fn call(&mut self, _: axum::serve::IncomingStream<'_, L>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let (sender, pipes) = mpsc::unbounded_channel();
    let (_client, server) = duplex(64);
    sender.send(server).expect("a reader");
    let serve =
        axum::serve(Pipes(pipes), Never).with_graceful_shutdown(sleep(Duration::from_secs(1)));
    assert!(timeout(DAY, serve.into_future()).await.is_err());
}

// `accept(router)` exists for this reason.
#[tokio::test(start_paused = true)]
async fn axum_applies_the_layers_of_a_router_again_for_each_connection() {
    let applied = Arc::new(AtomicUsize::new(0));
    let count = {
        let applied = Arc::clone(&applied);
        move |inner: axum::routing::Route| {
            applied.fetch_add(1, Ordering::SeqCst);
            inner
        }
    };
    let (sender, pipes) = mpsc::unbounded_channel();
    let app = app().layer(tower::layer::layer_fn(count));
    tokio::spawn(axum::serve(Pipes(pipes), app).into_future());
    let mut counts = Vec::new();
    for _ in 0..3 {
        let (mut client, server) = duplex(4096);
        sender.send(server).expect("a reader");
        client.write_all(GET).await.expect("room");
        client.read_exact(&mut [0; 10]).await.expect("an answer");
        counts.push(applied.load(Ordering::SeqCst));
    }
    assert!(counts[0] < counts[1] && counts[1] < counts[2], "{counts:?}");
}

// A load-shedding layer must turn "not ready" into an answer inside `call`.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_hangs_its_request_on_hyper() {
    #[derive(Clone)]
    struct NotReady;
    impl Service<Request<Incoming>> for NotReady {
        type Response = Response<Empty<Bytes>>;
        type Error = Infallible;
        type Future = future::Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }
        fn call(&mut self, _: Request<Incoming>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let (mut client, server) = duplex(4096);
    let service = TowerToHyperService::new(NotReady);
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
    client.write_all(GET).await.expect("room");
    assert!(timeout(DAY, client.read_u8()).await.is_err());
}

// A permit belongs into the body.
#[tokio::test(start_paused = true)]
async fn tower_concurrency_limit_ends_at_the_response_head() {
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let mut service = tower::ServiceBuilder::new()
        .layer(limit)
        .service(tower_fn(|()| async {
            Ok::<_, Infallible>(Full::new(Bytes::from("hi")))
        }));
    let body = service
        .ready()
        .await
        .expect("ready")
        .call(())
        .await
        .expect("a body");
    assert!(
        timeout(DAY, service.ready()).await.is_ok(),
        "a body is still there"
    );
    drop(body);
}

// Reads that are pending are not idleness; the hook of a connection learns of an abort through them.
#[tokio::test(start_paused = true)]
async fn hyper_reads_while_a_handler_runs() {
    struct CountReads(DuplexStream, Arc<AtomicUsize>);
    impl AsyncRead for CountReads {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }
    impl AsyncWrite for CountReads {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
    let reads = Arc::new(AtomicUsize::new(0));
    let (mut client, server) = duplex(4096);
    let io = TokioIo::new(CountReads(server, Arc::clone(&reads)));
    let stuck =
        service_fn(|_: Request<Incoming>| pending::<Result<Response<Full<Bytes>>, Infallible>>());
    tokio::spawn(http1::Builder::new().serve_connection(io, stuck));
    client.write_all(GET).await.expect("room");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        reads.load(Ordering::SeqCst),
        2,
        "the request, and a read that is pending"
    );
}

// A rejection of an upload must say it itself.
#[tokio::test(start_paused = true)]
async fn hyper_ends_a_connection_with_an_unread_upload_and_does_not_announce_it() {
    let (mut client, server) = duplex(64 * 1024);
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service_fn(hello)));
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("room");
    let mut answer = String::new();
    timeout(DAY, client.read_to_string(&mut answer))
        .await
        .expect("an end")
        .expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
}

// The service half marks HTTP/1 only.
#[tokio::test(start_paused = true)]
async fn connection_close_ends_http1_and_is_stripped_from_http2() {
    async fn close(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let response = Response::builder().header("connection", "close");
        Ok(response.body(Full::from("hi")).expect("a response"))
    }
    let (mut client, server) = duplex(4096);
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service_fn(close)));
    client.write_all(GET).await.expect("room");
    assert!(ends_within(&mut client, Duration::from_secs(1)).await);

    let (client, server) = duplex(4096);
    let connection = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(server), service_fn(close));
    let served = tokio::spawn(connection);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
            .await
            .expect("a fresh pipe");
    tokio::spawn(connection);
    let response = sender
        .send_request(Request::new(Empty::<Bytes>::new()))
        .await;
    let response = response.expect("an answer");
    assert_eq!(response.headers().get("connection"), None);
    response.into_body().collect().await.expect("a body");
    assert!(timeout(DAY, served).await.is_err(), "it goes on");
}

// `Guarded` forwards the hints for this reason.
#[tokio::test(start_paused = true)]
async fn tower_http_body_timeout_loses_the_content_length() {
    let layer = tower_http::timeout::ResponseBodyTimeoutLayer::new(DAY);
    let timed = tower::ServiceBuilder::new()
        .layer(layer)
        .service(tower_fn(hello));
    let (mut client, server) = duplex(4096);
    let service = TowerToHyperService::new(timed);
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
    let get = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    client.write_all(get).await.expect("room");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("text");
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
}

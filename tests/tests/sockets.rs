//! What only real sockets can show: resets, options, several listeners, the way back after an upgrade.
//!
//! The clock runs here but where it is paused, and no test looks at it then: each waits for what must happen.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::{pending, ready},
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Extension, Router, extract::ConnectInfo, routing::get};
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http1, upgrade};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer, service_fn};
use tower_connection::{
    Accept, AcceptExt, Backlog, BoxIo, Connection, ConnectionHandle, Held, Socket,
};
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_connection_hyper::{BoxListener, Listener, drive, serve};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer, Limit};
use tower_drain::Drain;
use tower_overload::InFlightLimitLayer;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

async fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(address).await.expect("a connection");
    client.write_all(bytes).await.expect("room in the buffer");
    client
}

/// Everything until the server ends the connection.
async fn read(mut client: TcpStream) -> io::Result<String> {
    let mut text = String::new();
    client.read_to_string(&mut text).await?;
    Ok(text)
}

/// Everything until `last` came.
async fn read_until(client: &mut (impl AsyncReadExt + Unpin), last: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(last) {
        let mut byte = [0];
        client.read_exact(&mut byte).await.expect("more");
        text.push(char::from(byte[0]));
    }
    text
}

/// Waits until `limit` counts no connection; the sockets are dropped after the client has seen the end.
async fn until_none_is_open(limit: &Limit) {
    let none = async {
        while limit.open() != 0 {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(10), none).await;
    waited.expect("a connection leaked");
}

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello".into()))
}

/// A handler that aborts its connection, in the middle of the answer or of the upload.
async fn abort(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let connection = request.extensions().get::<ConnectionHandle>();
    connection.expect("a handle").abort();
    pending().await
}

#[tokio::test]
async fn abort_resets_a_tcp_connection_on_hyper() {
    // CONN-4
    let (listener, address) = bind().await;
    let limit = ConnectionLimitLayer::new(0);
    let counts = limit.limit();
    let acceptor = ServiceBuilder::new()
        .layer(limit)
        .service(Accept::new(service_fn(abort)));
    tokio::spawn(
        serve(listener, acceptor)
            .with_builder(http1::Builder::new())
            .into_future(),
    );

    let error = read(connect(address, GET).await)
        .await
        .expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    until_none_is_open(&counts).await;
}

#[tokio::test]
async fn abort_resets_a_tcp_connection_with_an_unread_upload_on_axum() {
    // CONN-4: hyper does not read while a body is unread, so no read tells it of the abort.
    let (listener, address) = bind().await;
    let limit = ConnectionLimitLayer::new(0);
    let counts = limit.limit();
    let app = Router::new().fallback(
        |Extension(connection): Extension<ConnectionHandle>| async move {
            connection.abort();
            pending::<()>().await;
        },
    );
    let acceptor = ServiceBuilder::new().layer(limit).service(accept(app));
    tokio::spawn(axum::serve(Accepting::new(listener, acceptor), FromAcceptor).into_future());

    let upload = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc";
    let error = read(connect(address, upload).await)
        .await
        .expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    until_none_is_open(&counts).await;
}

#[tokio::test]
async fn connect_info_is_the_address_of_the_client() {
    // CONN-5
    let (listener, address) = bind().await;
    let app = Router::new().route(
        "/",
        get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| ready(peer.to_string())),
    );
    let server = axum::serve(Accepting::new(listener, accept(app)), FromAcceptor);
    tokio::spawn(server.into_future());

    let mut client = connect(address, GET).await;
    let local = client.local_addr().expect("an address").to_string();
    read_until(&mut client, &local).await;
}

#[tokio::test]
async fn the_layers_of_a_router_are_applied_once() {
    // The story: `axum::serve` applies a router's layers for each connection, so a limit on it limits
    // one connection. Through `accept` it limits the server.
    let (listener, address) = bind().await;
    let (entered, mut entries) = mpsc::unbounded_channel();
    let leave = Arc::new(Notify::new());
    let handler = {
        let leave = Arc::clone(&leave);
        move || {
            let (entered, leave) = (entered.clone(), Arc::clone(&leave));
            async move {
                entered.send(()).expect("a reader");
                leave.notified().await;
                "done"
            }
        }
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(ConcurrencyLimitLayer::new(1));
    let server = axum::serve(Accepting::new(listener, accept(app)), FromAcceptor);
    tokio::spawn(server.into_future());

    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connect(address, GET).await);
    }
    for left in (0..8).rev() {
        entries.recv().await.expect("one enters");
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(
            entries.try_recv().is_err(),
            "a second one entered, {left} were left"
        );
        leave.notify_one();
    }
}

#[derive(Clone)]
struct Inspect<A>(A, mpsc::UnboundedSender<bool>);

impl<A: Service<TcpStream>> Service<TcpStream> for Inspect<A> {
    type Response = A::Response;
    type Error = A::Error;
    type Future = A::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, io: TcpStream) -> A::Future {
        self.1
            .send(io.nodelay().expect("an option"))
            .expect("a reader");
        self.0.call(io)
    }
}

#[tokio::test]
async fn accepted_tcp_sockets_send_small_writes_at_once() {
    // ACCEPT-4
    let (sender, mut nodelay) = mpsc::unbounded_channel();

    let (listener, address) = bind().await;
    let acceptor = Inspect(Accept::new(service_fn(hello)), sender.clone());
    tokio::spawn(serve(listener, acceptor).into_future());
    let _client = connect(address, b"").await;
    assert_eq!(nodelay.recv().await, Some(true));

    let (listener, address) = bind().await;
    let acceptor = Inspect(accept(Router::new()), sender);
    let server = axum::serve(Accepting::new(listener, acceptor), FromAcceptor);
    tokio::spawn(server.into_future());
    let _client = connect(address, b"").await;
    assert_eq!(nodelay.recv().await, Some(true));
}

#[tokio::test]
async fn several_listeners_are_served_by_one_server() {
    // ACCEPT-5
    let (first, first_address) = bind().await;
    let (second, second_address) = bind().await;
    let path = std::env::temp_dir().join(format!("several-listeners-{}", std::process::id()));
    let unix = UnixListener::bind(&path).expect("a socket");
    let listeners = vec![
        BoxListener::new(first),
        BoxListener::new(second),
        BoxListener::new(unix),
    ];
    tokio::spawn(serve(listeners, Accept::new(service_fn(hello))).into_future());

    for address in [first_address, second_address, first_address] {
        read_until(&mut connect(address, GET).await, "hello").await;
    }
    let mut client = UnixStream::connect(&path).await.expect("a connection");
    std::fs::remove_file(&path).expect("it is there");
    client.write_all(GET).await.expect("room in the buffer");
    read_until(&mut client, "hello").await;
}

/// Fails as often as it was told to, then accepts.
struct Failing {
    errors: Vec<io::Error>,
    asked: mpsc::UnboundedSender<tokio::time::Instant>,
    listener: TcpListener,
}

impl Listener for Failing {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        match self.errors.pop() {
            Some(error) => {
                self.asked
                    .send(tokio::time::Instant::now())
                    .expect("a reader");
                Poll::Ready(Err(error))
            }
            None => Listener::poll_accept(&mut self.listener, cx),
        }
    }
}

#[tokio::test]
async fn accept_errors_do_not_end_the_server_and_do_not_spin() {
    // ACCEPT-3: EMFILE three times costs 5 + 10 ms before the third; a client that left costs none.
    let (listener, address) = bind().await;
    let (asked, mut times) = mpsc::unbounded_channel();
    let full = || io::Error::from_raw_os_error(24);
    let gone = || io::Error::from(ErrorKind::ConnectionAborted);
    let errors = vec![full(), full(), gone(), full()]; // from the end
    let listener = Failing {
        errors,
        asked,
        listener,
    };
    tokio::spawn(serve(listener, Accept::new(service_fn(hello))).into_future());

    read_until(&mut connect(address, GET).await, "hello").await;
    let mut at = Vec::new();
    while let Ok(time) = times.try_recv() {
        at.push(time);
    }
    assert_eq!(at.len(), 4);
    assert!(
        at[1] - at[0] >= std::time::Duration::from_millis(5),
        "no pause"
    );
    assert!(
        at[3] - at[2] >= std::time::Duration::from_millis(10),
        "no longer pause"
    );
}

#[tokio::test]
async fn an_upgrade_on_hyper_leads_back_to_the_accepted_socket() {
    // CONN-7, CONN-6
    let (listener, address) = bind().await;
    let (sender, mut upgraded) = mpsc::unbounded_channel();
    let handler = move |mut request: Request<Incoming>| {
        let sender = sender.clone();
        tokio::spawn(async move {
            let upgraded = upgrade::on(&mut request).await.expect("an upgrade");
            sender.send(upgraded).expect("a reader");
        });
        ready(Ok::<_, Infallible>(switching()))
    };
    let limit = ConnectionLimitLayer::new(1);
    let counts = limit.limit();
    let acceptor = ServiceBuilder::new()
        .layer(limit)
        .service(Accept::new(service_fn(handler)));
    tokio::spawn(
        serve(listener, acceptor)
            .with_builder(http1::Builder::new())
            .into_future(),
    );

    let mut client = connect(address, UPGRADE).await;
    read_until(&mut client, "\r\n\r\n").await;
    let upgraded = upgraded.recv().await.expect("an upgrade");
    let io = upgraded
        .downcast::<TokioIo<BoxIo>>()
        .expect("a known type")
        .io;
    let (socket, held) = io.into_inner().into_innermost::<TcpStream>().expect("tcp");
    assert_back_to_the_socket(socket, held, client, &counts).await;
}

#[tokio::test]
async fn an_upgrade_on_axum_leads_back_to_the_accepted_socket() {
    // CONN-7, CONN-6
    let (listener, address) = bind().await;
    let (sender, mut upgraded) = mpsc::unbounded_channel();
    let app = Router::new().fallback(move |mut request: axum::extract::Request| {
        let sender = sender.clone();
        tokio::spawn(async move {
            let upgraded = upgrade::on(&mut request).await.expect("an upgrade");
            sender.send(upgraded).expect("a reader");
        });
        ready(switching().map(axum::body::Body::new))
    });
    let limit = ConnectionLimitLayer::new(1);
    let counts = limit.limit();
    let acceptor = ServiceBuilder::new().layer(limit).service(accept(app));
    tokio::spawn(axum::serve(Accepting::new(listener, acceptor), FromAcceptor).into_future());

    let mut client = connect(address, UPGRADE).await;
    read_until(&mut client, "\r\n\r\n").await;
    let upgraded = upgraded.recv().await.expect("an upgrade");
    let parts = auto::upgrade::downcast::<TokioIo<tower_connection_axum::Io>>(upgraded);
    let (io, _service) = parts.expect("a known type").io.into_inner().into_parts();
    let (socket, held) = io.into_innermost::<TcpStream>().expect("tcp");
    assert_back_to_the_socket(socket, held, client, &counts).await;
}

fn switching() -> Response<Empty<bytes::Bytes>> {
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "raw")
        .body(Empty::new())
        .expect("a response")
}

async fn assert_back_to_the_socket(
    mut socket: TcpStream,
    held: Held,
    mut client: TcpStream,
    limit: &Limit,
) {
    assert_eq!(socket.peer_addr().ok(), client.local_addr().ok());
    socket.write_all(b"raw").await.expect("room in the buffer");
    read_until(&mut client, "raw").await;

    assert_eq!(limit.open(), 1);
    drop(socket);
    assert_eq!(limit.open(), 1, "what the layers held goes on holding");
    drop(held);
    assert_eq!(limit.open(), 0);
}

#[tokio::test]
async fn close_leaves_an_upgraded_connection_open_and_abort_resets_it() {
    // CONN-3, CONN-4
    let (listener, address) = bind().await;
    let (sender, mut handles) = mpsc::unbounded_channel();
    let handler = move |mut request: Request<Incoming>| {
        let handle = request.extensions().get::<ConnectionHandle>().cloned();
        sender.send(handle.expect("a handle")).expect("a reader");
        tokio::spawn(async move {
            let upgraded = upgrade::on(&mut request).await.expect("an upgrade");
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        ready(Ok::<_, Infallible>(switching()))
    };
    let acceptor = Accept::new(service_fn(handler));
    tokio::spawn(
        serve(listener, acceptor)
            .with_builder(http1::Builder::new())
            .into_future(),
    );

    let mut client = connect(address, UPGRADE).await;
    read_until(&mut client, "\r\n\r\n").await;
    let handle = handles.recv().await.expect("a handle");
    assert!(handle.is_upgraded());

    handle.close();
    client.write_all(b"echo").await.expect("room in the buffer");
    read_until(&mut client, "echo").await;

    handle.abort();
    let error = read(client).await.expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_rejected_upload_is_read_so_that_no_reset_overtakes_the_answer() {
    // LIMIT-4: all is sent before the answer is read. Without the lingering close this is a reset.
    let (listener, address) = bind().await;
    let limit = ConnectionLimitLayer::new(1).at_capacity(AtCapacity::Reject);
    let acceptor = ServiceBuilder::new()
        .layer(limit)
        .service(Accept::new(service_fn(hello)));
    tokio::spawn(serve(listener, acceptor).into_future());
    let mut holder = connect(address, GET).await;
    read_until(&mut holder, "hello").await;

    for _ in 0..20 {
        let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000000\r\n\r\n";
        let mut upload = head.as_bytes().to_vec();
        upload.resize(head.len() + 5_000_000, b'.');
        let answer = read(connect(address, &upload).await)
            .await
            .expect("a clean end");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn handshakes_under_way_are_bounded_by_a_concurrency_limit() {
    // TLS-3: two silent clients take the two places; a third waits in the backlog, and gets a place when
    // one of them leaves.
    let own = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.into()], key.expect("a key"))
        .expect("a configuration");
    let (listener, address) = bind().await;
    let (accepting, mut accepted) = mpsc::unbounded_channel();
    let acceptor = ServiceBuilder::new()
        .layer_fn(|inner| Inspect(inner, accepting.clone()))
        .layer(ConcurrencyLimitLayer::new(2))
        .layer(tower_connection_rustls::TlsLayer::new(Arc::new(config)))
        .service(Accept::new(service_fn(hello)));
    tokio::spawn(serve(listener, acceptor).into_future());

    let first = connect(address, b"").await;
    let _others = [connect(address, b"").await, connect(address, b"").await];
    accepted.recv().await.expect("the first");
    accepted.recv().await.expect("the second");
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(accepted.try_recv().is_err(), "a third handshake");
    drop(first);
    accepted.recv().await.expect("the third");
}

/// More clients than a task may accept in one turn, and than a backlog of tokio's holds twice.
const CROWD: usize = 600;

/// The three ways to accept, each with the drain as a layer.
fn drained(way: usize, listener: TcpListener, drain: &Drain) -> JoinHandle<io::Result<()>> {
    let layer = drain.layer();
    match way {
        0 => {
            let app = Router::new()
                .route("/", get(|| async { "hello" }))
                .route("/stuck", get(pending::<()>));
            let acceptor = layer.layer(accept(app));
            let ended = drain.watch().ended();
            tokio::spawn(
                axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
                    .with_graceful_shutdown(ended)
                    .into_future(),
            )
        }
        1 => {
            let acceptor = layer.layer(Accept::new(service_fn(hello_or_stuck)));
            tokio::spawn(serve(listener, acceptor).into_future())
        }
        _ => {
            let mut acceptor = layer.layer(Accept::new(service_fn(hello_or_stuck)));
            tokio::spawn(async move {
                loop {
                    let connection = match acceptor.accept(listener.accept()).await {
                        Ok(connection) => connection,
                        Err(error) if error.is_closed() => break,
                        Err(error) => return Err(error.into()),
                    };
                    serve_one(connection);
                }
                let waiting: Vec<_> = Backlog::of(&listener).collect();
                drop(listener);
                for socket in waiting {
                    serve_one(acceptor.take_over(socket).await?);
                }
                Ok(())
            })
        }
    }
}

fn serve_one<E, I, S, B>(
    connection: impl Future<Output = Result<Connection<I, S>, E>> + Send + 'static,
) where
    E: fmt::Debug,
    I: Socket,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: http_body::Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    tokio::spawn(async {
        let connection = connection.await.expect("no handshake");
        let _ = drive(connection, &http1::Builder::new()).await;
    });
}

async fn hello_or_stuck(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/stuck" {
        pending::<()>().await;
    }
    hello(request).await
}

#[tokio::test]
async fn a_drain_serves_who_waits_in_the_backlog_of_the_kernel() {
    // DRAIN-2: more of them than a task may accept in one turn.
    for way in 0..3 {
        let drain = Drain::new(Duration::ZERO);
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let listener = socket.listen(2_000).expect("a backlog");
        let address = listener.local_addr().expect("an address");
        let mut clients = Vec::new();
        for _ in 0..CROWD {
            clients.push(connect(address, GET).await);
        }
        let server = drained(way, listener, &drain);
        drain.begin();
        for client in clients {
            let answer = read(client).await.expect("no reset");
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
        }
        let report = drain.finished().await;
        assert_eq!((report.ended, report.cut.len()), (CROWD, 0), "{report}");
        server.await.expect("no panic").expect("no error");
        let refused = TcpStream::connect(address).await.expect_err("closed");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

/// Fails as often as it was told to, then has one client.
struct Short {
    failures: u32,
    client: Option<DuplexStream>,
}

impl Listener for Short {
    type Io = DuplexStream;

    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<DuplexStream>> {
        if self.failures > 0 {
            self.failures -= 1;
            return Poll::Ready(Err(io::Error::from_raw_os_error(24))); // EMFILE
        }
        self.client
            .take()
            .map_or(Poll::Pending, |io| Poll::Ready(Ok(io)))
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_descriptor_is_looked_for_every_ten_milliseconds() {
    // DRAIN-2, DRAIN-8: until the drain has no more time.
    for (failures, served) in [(1, true), (300, true), (u32::MAX, false)] {
        let (mut client, io) = tokio::io::duplex(1_000);
        client.write_all(GET).await.expect("room");
        let listener = Short {
            failures,
            client: Some(io),
        };
        let drain = Drain::new(Duration::from_secs(5));
        let acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
        drain.begin();
        let start = tokio::time::Instant::now();
        let server = tokio::spawn(serve(listener, acceptor).into_future());
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an end");
        assert_eq!(answer.ends_with("hello"), served, "{failures}");
        let report = drain.finished().await;
        let took = start.elapsed().as_millis();
        if served {
            let pauses = 10 * u128::from(failures - 1);
            assert!((pauses..pauses + 500).contains(&took), "{took}");
        } else {
            assert!((5_000..5_201).contains(&took), "{took}");
        }
        assert_eq!(
            (report.unserved, report.is_complete()),
            (usize::from(!served), served)
        );
        server.await.expect("no panic").expect("no error");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_the_pause_after_an_accept_error() {
    // DRAIN-2, ACCEPT-3: the ninth error, at 1.275 s, is followed by a pause of a second.
    let (mut client, io) = tokio::io::duplex(1_000);
    client.write_all(GET).await.expect("room");
    let listener = Short {
        failures: 10,
        client: Some(io),
    };
    let drain = Drain::new(Duration::from_secs(5));
    let acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    tokio::spawn(serve(listener, acceptor).into_future());
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    drain.begin();
    let report = drain.finished().await;
    assert!(report.is_complete() && report.ended == 1, "{report}");
    assert!(report.took < Duration::from_millis(500), "{report}");
}

#[tokio::test]
async fn a_drain_serves_who_waits_at_a_unix_socket() {
    // DRAIN-2
    let path = std::env::temp_dir().join(format!("drain-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a path");
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        let mut client = UnixStream::connect(&path).await.expect("room");
        client.write_all(GET).await.expect("room");
        clients.push(client);
    }
    let drain = Drain::new(Duration::ZERO);
    let acceptor = drain.layer().layer(Accept::new(service_fn(hello)));
    drain.begin();
    let server = tokio::spawn(serve(listener, acceptor).into_future());
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("no reset");
        assert!(answer.ends_with("hello"), "{answer}");
    }
    assert_eq!(drain.finished().await.ended, CROWD);
    server.await.expect("no panic").expect("no error");
    std::fs::remove_file(path).expect("it is there");
}

#[tokio::test]
async fn what_a_drain_cuts_is_reset() {
    // DRAIN-7, DRAIN-8: a truncated answer must not look whole.
    for way in 0..3 {
        let drain = Drain::new(Duration::ZERO);
        let (listener, address) = bind().await;
        let server = drained(way, listener, &drain);
        let stuck = b"GET /stuck HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let client = connect(address, stuck).await;
        let mut idle = connect(address, GET).await;
        read_until(&mut idle, "hello").await;
        while drain.watch().progress().requests == 0 {
            tokio::task::yield_now().await;
        }
        drain.cut();
        let reset = read(client).await.expect_err("a reset");
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
        let report = drain.finished().await;
        assert_eq!(report.cut.len(), 1, "{report}");
        assert_eq!(report.cut[0].requests[0].line, "GET /stuck");
        assert!(report.cut[0].peer.ip().is_some());
        server.await.expect("no panic").expect("no error");
    }
}

// SHED-3: `axum::serve` applies the layers of a router again for each connection, and here is no acceptor of ours.
#[tokio::test]
async fn one_layer_is_one_limit_under_a_plain_axum_serve() {
    let go = Arc::new(Notify::new());
    let handler = {
        let go = go.clone();
        move || async move {
            go.notified().await;
            "served"
        }
    };
    let limit = InFlightLimitLayer::new(1);
    let overload = limit.handle();
    let app = Router::new().route("/", get(handler)).layer(limit);
    let (listener, address) = bind().await;
    tokio::spawn(axum::serve(listener, app).into_future());

    let (answers, mut answered) = mpsc::unbounded_channel();
    for _ in 0..8 {
        let last = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let client = connect(address, last).await;
        let answers = answers.clone();
        tokio::spawn(async move { answers.send(read(client).await.expect("an answer")) });
    }
    for _ in 0..7 {
        let answer = answered.recv().await.expect("seven are refused");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    assert_eq!((overload.in_flight(), overload.shed()), (1, 7));
    go.notify_one();
    let answer = answered.recv().await.expect("one is served");
    assert!(answer.ends_with("served"), "{answer}");
    assert_eq!(overload.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_may_end_his_half_reads_his_answer() {
    // CONN-11: hyper's `half_close(true)` alone is not known here, and half an end is one.
    for allowed in [false, true] {
        let (listener, address) = bind().await;
        let mut builder = http1::Builder::new();
        builder.half_close(true);
        let slow = |request| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            hello(request).await
        };
        let acceptor = Accept::new(service_fn(slow));
        let acceptor = acceptor.map_response(move |connection: Connection<_, _>| {
            if allowed {
                connection.handle().allow_half_close();
            }
            connection
        });
        let server = serve(listener, acceptor).with_builder(builder);
        let server = tokio::spawn(server.into_future());
        let last = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let mut client = connect(address, last).await;
        client.shutdown().await.expect("open");
        let answer = read(client).await.unwrap_or_default();
        assert_eq!(answer.ends_with("hello"), allowed, "{answer}");
        server.abort();
    }
}

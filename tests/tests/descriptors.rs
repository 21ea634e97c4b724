//! What only a process without descriptors can show. They are the process's: so there is one test, and no other.
#![cfg(unix)]

use std::{
    convert::Infallible, fs::File, future::pending, io, net::SocketAddr, os::fd::AsRawFd,
    path::PathBuf, time::Duration,
};

use axum::{Router, routing::get};
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower::{Layer, service_fn};
use tower_connection::Accept;
use tower_connection_axum::{Accepting, FromAcceptor, accept};
use tower_connection_hyper::serve;
use tower_drain::Drain;

/// How many of them there are descriptors for at a time.
const FREE: u64 = 4;

const CROWD: usize = 30;

/// Who is served: a crowd whose last client does not have the last descriptor, one whose last client has, and one that
/// keeps it for a while.
const SERVED: [(usize, &str); 3] = [(CROWD, "/"), (32, "/"), (8, "/slow")];

const STACKS: [&str; 4] = ["axum", "axum, unix", "hyper", "hyper, unix"];

/// Descriptors that are not there, until it is dropped.
struct Without(Rlimit);

impl Without {
    /// The kernel hands out the lowest that is free.
    fn more_than(left: u64) -> Self {
        let all = getrlimit(Resource::Nofile);
        let next = File::open("/dev/null").expect("one is left");
        let next = u64::try_from(next.as_raw_fd()).expect("it is open");
        let less = Rlimit {
            current: Some(next + left),
            ..all
        };
        setrlimit(Resource::Nofile, less).expect("less is allowed");
        Self(all)
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).expect("as much as before");
    }
}

enum Listening {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

impl Listening {
    async fn on(stack: &str) -> Self {
        if stack.ends_with("unix") {
            let path = std::env::temp_dir().join(format!("short-{}.sock", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self::Unix(UnixListener::bind(&path).expect("a path"), path)
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            Self::Tcp(listener, address)
        }
    }

    async fn ask(&self, path: &str) -> Client {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let mut client: Client = match self {
            Self::Tcp(_, address) => Box::new(TcpStream::connect(address).await.expect("room")),
            Self::Unix(_, path) => Box::new(UnixStream::connect(path).await.expect("room")),
        };
        client.write_all(request.as_bytes()).await.expect("room");
        client
    }

    fn serve(self, stack: &str, drain: &Drain) -> JoinHandle<io::Result<()>> {
        let layer = drain.layer();
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/slow", get(slow))
            .route("/stuck", get(pending::<()>));
        let ended = drain.watch().ended();
        match (self, stack.starts_with("axum")) {
            (Self::Tcp(listener, _), true) => {
                let listener = Accepting::new(listener, layer.layer(accept(router)));
                let server = axum::serve(listener, FromAcceptor);
                tokio::spawn(server.with_graceful_shutdown(ended).into_future())
            }
            (Self::Unix(listener, _), true) => {
                let listener = Accepting::new(listener, layer.layer(accept(router)));
                let server = axum::serve(listener, FromAcceptor);
                tokio::spawn(server.with_graceful_shutdown(ended).into_future())
            }
            (Self::Tcp(listener, _), false) => {
                let acceptor = layer.layer(Accept::new(service_fn(hello_or_stuck)));
                tokio::spawn(serve(listener, acceptor).into_future())
            }
            (Self::Unix(listener, _), false) => {
                let acceptor = layer.layer(Accept::new(service_fn(hello_or_stuck)));
                tokio::spawn(serve(listener, acceptor).into_future())
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}
type Client = Box<dyn Stream>;

async fn hello_or_stuck(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/stuck" {
        pending::<()>().await;
    }
    if request.uri().path() == "/slow" {
        return Ok(Response::new(slow().await.into()));
    }
    Ok(Response::new("hello".into()))
}

/// It has its descriptor for longer than a look at the backlog takes.
async fn slow() -> &'static str {
    sleep(Duration::from_millis(50)).await;
    "hello"
}

#[tokio::test]
async fn a_drain_serves_who_waits_for_a_descriptor_and_counts_whom_it_cannot() {
    // DRAIN-2, DRAIN-8: the first look at the backlog ended without descriptors, the listener was dropped, and whoever
    // waited was reset. The report knew of nobody, and the exit code was 0.
    for stack in STACKS {
        for (size, path) in SERVED {
            let drain = Drain::new(Duration::ZERO);
            let (mut clients, without, server) = crowd(stack, size, path, &drain).await;
            drain.begin();
            for client in &mut clients {
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.expect("no reset");
                assert!(answer.ends_with("hello"), "{stack}: {answer}");
            }
            let report = drain.finished().await;
            assert_eq!(report.ended, size, "{stack}: {report}");
            assert!(report.is_complete(), "{stack}: {report}");
            server.await.expect("no panic").expect("no error");
            drop(without);
        }

        let drain = Drain::new(Duration::ZERO);
        let (clients, without, server) = crowd(stack, CROWD, "/stuck", &drain).await;
        drain.begin();
        while drain.watch().progress().requests == 0 {
            tokio::task::yield_now().await;
        }
        drain.cut();
        let report = drain.finished().await;
        assert!(!report.cut.is_empty(), "{stack}: {report}");
        assert_eq!(
            report.cut.len() + report.unserved,
            CROWD,
            "{stack}: {report}"
        );
        server.await.expect("no panic").expect("no error");
        drop((clients, without));

        // Linux takes a descriptor before it looks whether anybody waits: nobody was taken for somebody, and waited for to
        // the deadline, which here there is not; then he was counted, and the exit code was 1.
        let drain = Drain::new(Duration::ZERO);
        let listening = Listening::on(stack).await;
        let without = Without::more_than(0);
        let server = listening.serve(stack, &drain);
        tokio::task::yield_now().await;
        drain.begin();
        let report = timeout(Duration::from_secs(10), drain.finished()).await;
        let report = report.expect("nobody is there");
        assert!(report.is_complete(), "{stack}: {report}");
        server.await.expect("no panic").expect("no error");
        drop(without);
    }
}

/// Clients that have asked, a server that has not seen them yet, and too few descriptors for them.
async fn crowd(
    stack: &str,
    size: usize,
    path: &str,
    drain: &Drain,
) -> (Vec<Client>, Without, JoinHandle<io::Result<()>>) {
    let listening = Listening::on(stack).await;
    let mut clients = Vec::new();
    for _ in 0..size {
        clients.push(listening.ask(path).await);
    }
    let without = Without::more_than(FREE);
    (clients, without, listening.serve(stack, drain))
}

//! Run with `cargo run --example listeners`: a TCP port and a Unix socket, one server.
//!
//! Then `curl http://127.0.0.1:3000/` and `curl --unix-socket /tmp/hello.sock http://hello/`. Under
//! `systemfd --no-pid -s http::3000 -- cargo run --example listeners`, or a systemd socket unit, the TCP
//! port is inherited.

use std::{convert::Infallible, io};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, UnixListener};
use tower::service_fn;
use tower_connection_hyper::{Accept, BoxListener, serve};

#[tokio::main]
async fn main() -> io::Result<()> {
    let path = std::env::temp_dir().join("hello.sock");
    let _ = std::fs::remove_file(&path);
    let listeners = vec![
        BoxListener::new(tcp().await?),
        BoxListener::new(UnixListener::bind(path)?),
    ];

    serve(listeners, Accept::new(service_fn(hello)))
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await
}

/// The listener that the process inherited, or a new one.
async fn tcp() -> io::Result<TcpListener> {
    match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        Some(inherited) => {
            inherited.set_nonblocking(true)?;
            TcpListener::from_std(inherited)
        }
        None => TcpListener::bind("127.0.0.1:3000").await,
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello\n".into()))
}

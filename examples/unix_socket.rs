//! Run with `cargo run --example unix_socket`: a TCP port and a Unix socket, one server, and one limit for both.
//!
//! Then `curl http://127.0.0.1:3000/` and `curl --unix-socket /tmp/hello.sock http://hello/`.

use std::{convert::Infallible, env, fs, io, process::ExitCode};

use http::{Request, Response};
use tokio::net::{TcpListener, UnixListener};
use tower::service_fn;
use tower_serve::{Incoming, Preset, connection::ConnectionHandle, hyper::BoxListener};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let path = env::temp_dir().join("hello.sock");
    let _ = fs::remove_file(&path); // of the one before: or the address is in use
    let listeners = vec![
        BoxListener::new(TcpListener::bind("127.0.0.1:3000").await?),
        BoxListener::new(UnixListener::bind(&path)?),
    ];

    let preset = Preset::direct();
    let report = preset.serve_hyper(listeners, service_fn(hello)).await?;
    println!("{report}");
    Ok(report.exit_code())
}

async fn hello(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let connection = request.extensions().get::<ConnectionHandle>();
    let local = connection.map(|connection| connection.local().to_string());
    let local = local.unwrap_or_default();
    Ok(Response::new(format!("hello, you came by {local}\n")))
}

//! Run with `cargo run --example hyper_http2`: hyper's HTTP/2 alone, with settings of one's own.
//!
//! `curl --http2-prior-knowledge http://127.0.0.1:3000/` is answered; without that flag curl speaks HTTP/1.1, and is
//! not. `h2load -n 1000 -m 100 http://127.0.0.1:3000/` asks a hundred times at once on one connection.

use std::{convert::Infallible, io, process::ExitCode, time::Duration};

use http::{Request, Response};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpListener;
use tower::service_fn;
use tower_connection::ConnectionHandle;
use tower_connection_hyper::serve;
use tower_serve::{Incoming, Preset};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let preset = Preset::direct();
    let acceptor = preset.acceptor(service_fn(hello));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new()) // or hyper's own timeouts do nothing
        .keep_alive_interval(Duration::from_secs(20)) // a PING to who says nothing
        .max_concurrent_streams(100);

    let server = serve(listener, acceptor).with_builder(builder);
    let report = preset.run(server).await?;
    println!("{report}");
    Ok(report.exit_code())
}

async fn hello(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let connection = request.extensions().get::<ConnectionHandle>();
    let in_flight = connection.map_or(0, ConnectionHandle::in_flight);
    Ok(Response::new(format!("hello, {in_flight} in flight\n")))
}

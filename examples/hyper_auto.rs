//! Run with `cargo run --example hyper_auto`: hyper, HTTP/1 and HTTP/2 on one port, with settings of one's own.
//!
//! Ask in both protocols: `curl http://127.0.0.1:3000/` and `curl --http2-prior-knowledge http://127.0.0.1:3000/`.
//! `Preset::serve_hyper` does the same with hyper's defaults, in one line.

use std::{convert::Infallible, io, process::ExitCode};

use http::{Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
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

    // A timer, or hyper's own timeouts do nothing.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).max_headers(50);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100);

    let server = serve(listener, acceptor).with_builder(builder);
    let report = preset.run(server).await?;
    println!("{report}");
    Ok(report.exit_code())
}

async fn hello(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let connection = request.extensions().get::<ConnectionHandle>();
    Ok(Response::new(match connection {
        Some(connection) => format!(
            "hello {}, this is request {} on connection {}, in {:?}\n",
            connection.peer(),
            connection.requests(),
            connection.id(),
            request.version(),
        ),
        None => "hello\n".into(),
    }))
}

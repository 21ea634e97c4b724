//! Run with `cargo run --example hyper_auto`.
//!
//! Then ask in both protocols: `curl http://127.0.0.1:3000/` and
//! `curl --http2-prior-knowledge http://127.0.0.1:3000/`.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use tower::{ServiceBuilder, service_fn};
use tower_connection::ConnectionHandle;
use tower_connection_hyper::{Accept, serve};
use tower_connection_limit::{AtCapacity, ConnectionLimitLayer};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let acceptor = ServiceBuilder::new()
        .layer(ConnectionLimitLayer::new(1024).at_capacity(AtCapacity::Wait))
        .service(Accept::new(service_fn(hello)));

    // Your own settings on hyper's builders; a timer, or hyper's timeouts do nothing.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).max_headers(50);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100);

    serve(listener, acceptor)
        .with_builder(builder)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
        .await
}

async fn hello(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let connection = request.extensions().get::<ConnectionHandle>();
    Ok(Response::new(match connection {
        Some(connection) => format!(
            "hello {}, this is request {} on connection {}\n",
            connection.peer(),
            connection.requests(),
            connection.id(),
        ),
        None => "hello\n".into(),
    }))
}

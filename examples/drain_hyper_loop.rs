//! Run with `cargo run --example drain_hyper_loop`.
//!
//! Then `curl http://127.0.0.1:3000/slow`, and Ctrl-C while it waits: the answer comes, and says that the connection
//! ends; then the program does. `tower_connection_hyper::serve` is this loop, and more: this is for who has his own.

use std::{convert::Infallible, error::Error, io, process::ExitCode, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1};
use tokio::{net::TcpListener, time::sleep};
use tower::{ServiceBuilder, service_fn};
use tower_connection::{AcceptError, Backlog, Connection, Socket};
use tower_connection_hyper::{Accept, AcceptExt, Builder, drive};
use tower_drain::Drain;

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let drain = Drain::new(Duration::from_secs(10));
    drain.begin_on_signals()?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let mut acceptor = ServiceBuilder::new()
        .layer(drain.layer())
        .service(Accept::new(service_fn(hello)));

    loop {
        match acceptor.accept(listener.accept()).await {
            Ok(connection) => spawn(connection),
            Err(error) if error.is_closed() => break,
            Err(AcceptError::Listener(error)) => {
                eprintln!("{error}");
                sleep(Duration::from_millis(50)).await; // out of descriptors, it would fail at once again
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Who has come since would be reset with the listener. No await until that is gone, or more would come.
    let waiting: Vec<_> = Backlog::of(&listener).collect();
    drop(listener);
    for socket in waiting {
        // A full limit makes them wait.
        spawn(acceptor.take_over(socket).await?);
    }
    drop(acceptor); // nobody comes any more: or the drain would wait a second for more

    let report = drain.finished().await;
    println!("{report}");
    Ok(report.exit_code())
}

/// Serves a connection in a task of its own, a TLS handshake included.
fn spawn<I, S>(
    connection: impl Future<Output = Result<Connection<I, S>, BoxError>> + Send + 'static,
) where
    I: Socket,
    S: Send + 'static,
    http1::Builder: Builder<S, Connection: Send>,
{
    tokio::spawn(async move {
        if let Ok(connection) = connection.await {
            let _ = drive(connection, &http1::Builder::new()).await;
        }
    });
}

async fn hello(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/slow" {
        sleep(Duration::from_secs(3)).await;
    }
    Ok(Response::new("hello\n".into()))
}

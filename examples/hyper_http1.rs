//! Run with `cargo run --example hyper_http1`: an accept loop of one's own, around one of hyper's builders.
//!
//! `curl -i http://127.0.0.1:3000/`, and Ctrl-C while it waits: the answer comes, and says that the connection ends; then
//! the program does. `tower_connection_hyper::serve` is this loop, and more: this is for who has his own.

use std::{convert::Infallible, io, process::ExitCode, time::Duration};

use http::{Request, Response};
use hyper::server::conn::http1;
use tokio::{net::TcpListener, spawn, time::sleep};
use tower::service_fn;
use tower_connection::{AcceptError, AcceptExt, Backlog, Connection, Socket};
use tower_connection_hyper::{Builder, drive};
use tower_serve::{Incoming, Preset};

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let preset = Preset::direct();
    preset.drain.begin_on_signals()?;
    let mut acceptor = preset.acceptor(service_fn(hello));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    loop {
        match acceptor.accept(listener.accept()).await {
            Ok(connection) => drop(spawn(serve(connection))),
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
        spawn(serve(acceptor.take_over(socket).await?)); // a full limit makes them wait
    }
    drop(acceptor); // nobody comes any more: or the drain would wait a second for more

    Ok(preset.drain.finished().await.exit_code())
}

/// Serves a connection in a task of its own, a TLS handshake included.
async fn serve<I: Socket, S, E>(connection: impl Future<Output = Result<Connection<I, S>, E>>)
where
    http1::Builder: Builder<S>,
{
    if let Ok(connection) = connection.await {
        let _ = drive(connection, &http1::Builder::new()).await;
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    sleep(Duration::from_secs(1)).await;
    Ok(Response::new("hello\n".into()))
}

//! Run with `cargo run --example own_layer`, then `curl http://127.0.0.1:3000/`: it prints how much who has sent.
//!
//! It wraps the socket, and is dropped with it. To wrap the service, `.map_service(..)` the connection that is returned.

use std::{io::Result, pin::Pin, process::ExitCode, task::Context, task::Poll};

use axum::{Router, routing::get};
use tokio::{io::ReadBuf, net::TcpListener};
use tower::{Service, layer::layer_fn};
use tower_connection::{Address, Hook, Hooked, Socket};
use tower_serve::Preset;

/// The acceptor: puts a hook on each socket, then does what the inner one does.
#[derive(Clone)]
struct CountBytes<A>(A);

impl<A: Service<Hooked<Io, Count>>, Io: Socket> Service<Io> for CountBytes<A> {
    type Response = A::Response;
    type Error = A::Error;
    type Future = A::Future;

    fn poll_ready(&mut self, cx: &mut Context) -> Poll<std::result::Result<(), A::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> A::Future {
        let peer = io.peer();
        self.0.call(Hooked::new(io, Count { peer, read: 0 }))
    }
}

/// The socket half. What it does not say, the socket does as before.
struct Count {
    peer: Address,
    read: usize,
}

impl<I: Socket> Hook<I> for Count {
    fn poll_read(&mut self, io: &mut I, cx: &mut Context, buf: &mut ReadBuf) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(io).poll_read(cx, buf);
        self.read += buf.filled().len() - before;
        poll
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        println!("{} has sent {} bytes", self.peer, self.read);
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let preset = Preset::direct().inside(layer_fn(CountBytes));
    Ok(preset.serve_axum(listener, app).await?.exit_code())
}

//! Run with `cargo run --example write_your_own_layer`, then `curl http://127.0.0.1:3000/`.
//!
//! A layer that counts the bytes of each connection and prints them when it ends: the socket half
//! counts, and being dropped with the socket is how it knows the end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{Router, routing::get};
use tokio::io::ReadBuf;
use tower::{Service, ServiceBuilder};
use tower_connection::{Address, Hook, Hooked, Socket, poll_write_slices};
use tower_connection_axum::{Accepting, FromAcceptor, accept};

/// The acceptor: puts a hook on each socket, then does what the inner one does.
#[derive(Clone)]
struct CountBytes<A>(A);

impl<A, Io> Service<Io> for CountBytes<A>
where
    A: Service<Hooked<Io, Count>>,
    Io: Socket,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = A::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> A::Future {
        let count = Count {
            peer: io.peer(),
            read: 0,
            written: 0,
        };
        self.0.call(Hooked::new(io, count))
    }
}

/// The socket half.
struct Count {
    peer: Address,
    read: usize,
    written: usize,
}

impl<Io: Socket> Hook<Io> for Count {
    fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(io).poll_read(cx, buf))?;
        self.read += buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(poll_write_slices(io, cx, bufs))?;
        self.written += written;
        Poll::Ready(Ok(written))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        println!(
            "{}: {} bytes in, {} out",
            self.peer, self.read, self.written
        );
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;

    let acceptor = ServiceBuilder::new()
        .layer_fn(CountBytes)
        .service(accept(app));

    axum::serve(Accepting::new(listener, acceptor), FromAcceptor).await
}

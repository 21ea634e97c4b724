//! Run with `cargo run --example reuse_port`, and once more in another terminal: both have port 3000.
//!
//! Now ask in a loop, `while curl -s http://127.0.0.1:3000/; do :; done`, and end the first one with Ctrl-C: the loop
//! goes on. So a restart is: start the new process, wait until it is ready, SIGTERM to the old one.
//!
//! A client belongs to one listener of the group from its first packet on, also if others could take it. When that
//! listener is closed, the kernel aborts the handshakes under way and who waits in its accept queue
//! (Documentation/networking/ip-sysctl.rst, `tcp_migrate_req`). The drain accepts the queue first. The handshakes are
//! lost, unless `sysctl net.ipv4.tcp_migrate_req=1` (Linux 5.14; it is off) has them taken over by the other listeners.
//!
//! Nobody is told that the address is in use, if a process was started twice by mistake.

use std::{convert::Infallible, io, net::SocketAddr, process::ExitCode, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpSocket};
use tower::{ServiceBuilder, service_fn};
use tower_connection_hyper::{Accept, serve};
use tower_drain::Drain;

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let drain = Drain::new(Duration::from_secs(30));
    drain.begin_on_signals()?;
    let acceptor = ServiceBuilder::new()
        .layer(drain.layer())
        .service(Accept::new(service_fn(hello)));

    // Each has a queue of its own; more of them also have a greater share of the clients while two processes run.
    let address = SocketAddr::from(([127, 0, 0, 1], 3000));
    let listeners = vec![listen(address)?, listen(address)?];

    let report = drain.run(serve(listeners, acceptor)).await?;
    println!("{report}");
    Ok(report.exit_code())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?; // as `TcpListener::bind` does
    socket.set_reuseport(true)?; // each of the group must, and belong to the same user
    socket.bind(address)?;
    socket.listen(1024)
}

async fn hello(_: Request<Incoming>) -> Result<Response<String>, Infallible> {
    Ok(Response::new(format!(
        "hello from {}\n",
        std::process::id()
    )))
}

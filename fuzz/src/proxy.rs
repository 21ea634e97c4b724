//! A header of the PROXY protocol, and what follows it.

use std::{
    convert::Infallible,
    future::ready,
    pin::pin,
    task::{Context, Poll, Waker},
};

use tower::{Layer, Service, service_fn};
use tower_connection::{Address, Socket};
use tower_connection_proxy_protocol::{ProxyProtocolIo, ProxyProtocolLayer};

use super::wire::Wire;

/// The longest header that is read, and what a byte more of it may hold.
const LONGEST: usize = 4_096;

pub fn run(bytes: &[u8]) {
    let whole = header(bytes, usize::MAX);
    for piece in [1, 7] {
        assert_eq!(whole, header(bytes, piece), "cut into {piece}");
    }
}

/// The addresses that the acceptor inside sees, and how many bytes are left for it.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Accepted(Address, Address, usize),
    Refused,
}

fn header(bytes: &[u8], piece: usize) -> Outcome {
    let wire = Wire::cut(piece);
    wire.send(bytes);
    wire.end();
    let mut acceptor =
        ProxyProtocolLayer::required().layer(service_fn(|io: ProxyProtocolIo<Wire>| {
            ready(Ok::<_, Infallible>((io.peer(), io.local())))
        }));
    let mut accepted = pin!(acceptor.call(wire.clone()));
    let mut cx = Context::from_waker(Waker::noop());
    // Each byte in a read of its own, each with a turn of its own.
    for _ in 0..=2 * bytes.len() + 16 {
        if let Poll::Ready(accepted) = accepted.as_mut().poll(&mut cx) {
            let read = bytes.len() - wire.unread();
            assert!(read <= LONGEST, "{read} bytes were read");
            return accepted.map_or(Outcome::Refused, |(peer, local)| {
                Outcome::Accepted(peer, local, wire.unread())
            });
        }
    }
    panic!("it reads on after the end");
}

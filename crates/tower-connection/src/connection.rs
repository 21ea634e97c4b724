use crate::ConnectionHandle;

/// A connection: a socket and the service that will answer on it.
///
/// It is what an acceptor makes. A layer wraps one half, or the other, or both; whoever serves it
/// takes it apart with [`into_parts`](Connection::into_parts).
///
/// # Examples
///
/// ```
/// use tower_connection::{Connection, ConnectionHandle};
///
/// let (_client, server) = tokio::io::duplex(64);
/// let handle = ConnectionHandle::new(&server);
/// let connection = Connection::new(server, "a service", handle);
///
/// let connection = connection.map_service(|service| [service; 2]);
/// let (_io, service) = connection.into_parts();
/// assert_eq!(service, ["a service", "a service"]);
/// ```
#[derive(Debug)]
#[must_use = "a connection does nothing until it is served"]
pub struct Connection<Io, S> {
    io: Io,
    service: S,
    handle: ConnectionHandle,
}

impl<Io, S> Connection<Io, S> {
    /// Makes a connection of a socket, the service on it, and the handle that both halves share.
    pub fn new(io: Io, service: S, handle: ConnectionHandle) -> Self {
        Self {
            io,
            service,
            handle,
        }
    }

    /// The handle, also found in the extensions of each request.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// Wraps the socket.
    pub fn map_io<Io2>(self, wrap: impl FnOnce(Io) -> Io2) -> Connection<Io2, S> {
        Connection {
            io: wrap(self.io),
            service: self.service,
            handle: self.handle,
        }
    }

    /// Wraps the service.
    pub fn map_service<S2>(self, wrap: impl FnOnce(S) -> S2) -> Connection<Io, S2> {
        Connection {
            io: self.io,
            service: wrap(self.service),
            handle: self.handle,
        }
    }

    /// The socket and the service.
    pub fn into_parts(self) -> (Io, S) {
        (self.io, self.service)
    }
}

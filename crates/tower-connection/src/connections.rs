use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{ConnectionHandle, ConnectionId};

/// The connections of a server: who is there, and a way to end them all.
///
/// It takes a lock when a connection comes and when it goes, never for a request.
///
/// # Examples
///
/// ```
/// use tower_connection::{ConnectionHandle, Connections};
///
/// let connections = Connections::default();
/// let early = connections.insert(ConnectionHandle::detached());
/// connections.close();
/// assert!(early.handle().is_closing());
///
/// let late = connections.insert(ConnectionHandle::detached());
/// assert!(late.handle().is_closing()); // nobody slips through
/// ```
#[derive(Clone, Debug, Default)]
pub struct Connections {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    handles: HashMap<ConnectionId, ConnectionHandle>,
    closing: bool,
}

impl Connections {
    /// Adds a connection until the guard is dropped.
    pub fn insert(&self, handle: ConnectionHandle) -> Registered {
        let mut shared = self.lock();
        shared.handles.insert(handle.id(), handle.clone());
        let closing = shared.closing;
        drop(shared);
        if closing {
            handle.close();
        }
        Registered {
            connections: self.clone(),
            handle,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().handles.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The handles of all that are there now, in no order.
    #[must_use]
    pub fn handles(&self) -> Vec<ConnectionHandle> {
        self.lock().handles.values().cloned().collect()
    }

    /// [Closes](ConnectionHandle::close) all that are there, and from now on each that is added.
    pub fn close(&self) {
        self.lock().closing = true;
        // Outside the lock: a woken task may want it.
        for handle in self.handles() {
            handle.close();
        }
    }

    /// [Aborts](ConnectionHandle::abort) all that are there now.
    pub fn abort(&self) {
        for handle in self.handles() {
            handle.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while it is held, and a map of handles is whole in any case.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in [`Connections`]. Dropping it takes the connection out.
///
/// ```
/// # use tower_connection::{ConnectionHandle, Connections};
/// let connections = Connections::default();
/// let registered = connections.insert(ConnectionHandle::detached());
/// assert_eq!(connections.len(), 1);
/// drop(registered);
/// assert!(connections.is_empty());
/// ```
#[derive(Debug)]
#[must_use = "dropping it takes the connection out"]
pub struct Registered {
    connections: Connections,
    handle: ConnectionHandle,
}

impl Registered {
    /// The connection.
    #[must_use]
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.lock().handles.remove(&self.handle.id());
    }
}

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{ConnectionHandle, ConnectionId};

/// The connections of a server: who is there, and when the last one has gone.
///
/// It takes a lock when a connection comes and when it goes, never for a request.
///
/// # Examples
///
/// ```
/// use std::future::poll_fn;
/// use tower_connection::{ConnectionHandle, Connections};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let connections = Connections::default();
/// let registered = connections.insert(ConnectionHandle::detached());
/// connections.close_all();
/// assert!(registered.handle().is_closing());
///
/// drop(registered);
/// poll_fn(|cx| connections.poll_empty(cx)).await;
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Connections {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    handles: HashMap<ConnectionId, ConnectionHandle>,
    // One server waits for its own end: the last to ask is the one to wake.
    waiting: Option<Waker>,
}

impl Connections {
    /// Adds a connection until the guard is dropped.
    pub fn insert(&self, handle: ConnectionHandle) -> Registered {
        self.lock().handles.insert(handle.id(), handle.clone());
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

    /// [Closes](ConnectionHandle::close) all that are there now.
    pub fn close_all(&self) {
        // Outside the lock: a woken task may want it.
        for handle in self.handles() {
            handle.close();
        }
    }

    /// [Aborts](ConnectionHandle::abort) all that are there now.
    pub fn abort_all(&self) {
        for handle in self.handles() {
            handle.abort();
        }
    }

    /// Ready once there is no connection. Only the last task to ask is woken.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.lock();
        if shared.handles.is_empty() {
            return Poll::Ready(());
        }
        shared.waiting = Some(cx.waker().clone());
        Poll::Pending
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
        let mut shared = self.connections.lock();
        shared.handles.remove(&self.handle.id());
        if shared.handles.is_empty() {
            if let Some(waiting) = shared.waiting.take() {
                drop(shared);
                waiting.wake();
            }
        }
    }
}

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tower_layer::Layer;
use tower_service::Service;

/// Pauses accepting while anybody holds it shut.
///
/// Put it into the stack as a layer and give clones to whatever knows better: an overloaded service, a
/// dependency that is away, an operator. While it is shut, the acceptor is not ready, and clients wait in
/// the kernel's backlog. Connections that are open go on.
///
/// # Examples
///
/// ```
/// use tower::{ServiceBuilder, service_fn};
/// use tower_connection::{Accept, AcceptGate};
///
/// # async fn hello(_: http::Request<()>) -> Result<http::Response<()>, std::convert::Infallible> {
/// #     Ok(http::Response::default())
/// # }
/// let gate = AcceptGate::default();
/// let acceptor = ServiceBuilder::new()
///     .layer(gate.clone())
///     .service(Accept::new(service_fn(hello)));
///
/// let overloaded = gate.shut();
/// assert!(gate.is_shut());
/// drop(overloaded);
/// assert!(!gate.is_shut());
/// # drop(acceptor);
/// ```
#[derive(Clone, Debug, Default)]
pub struct AcceptGate {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How many hold it shut.
    shut: usize,
    waiting: HashMap<u64, Waker>,
    next_acceptor: u64,
}

impl AcceptGate {
    /// Pauses accepting until the guard is dropped. Several can hold it: it opens after the last.
    pub fn shut(&self) -> Shut {
        self.lock().shut += 1;
        Shut { gate: self.clone() }
    }

    /// Whether anybody holds it shut.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.lock().shut > 0
    }

    /// How many acceptors wait for it to open.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn poll_open(&self, acceptor: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.lock();
        if shared.shut == 0 {
            return Poll::Ready(());
        }
        shared.waiting.insert(acceptor, cx.waker().clone());
        Poll::Pending
    }

    fn acceptor<A>(&self, inner: A) -> Gated<A> {
        let mut shared = self.lock();
        shared.next_acceptor += 1;
        Gated {
            inner,
            gate: self.clone(),
            id: shared.next_acceptor,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while it is held.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A> Layer<A> for AcceptGate {
    type Service = Gated<A>;

    fn layer(&self, inner: A) -> Gated<A> {
        self.acceptor(inner)
    }
}

/// Holds an [`AcceptGate`] shut. Dropping it lets go.
///
/// ```
/// # use tower_connection::AcceptGate;
/// let gate = AcceptGate::default();
/// let (one, two) = (gate.shut(), gate.shut());
/// drop(one);
/// assert!(gate.is_shut());
/// # drop(two);
/// ```
#[derive(Debug)]
#[must_use = "the gate opens when this is dropped"]
pub struct Shut {
    gate: AcceptGate,
}

impl Drop for Shut {
    fn drop(&mut self) {
        let mut shared = self.gate.lock();
        shared.shut -= 1;
        if shared.shut == 0 {
            let woken = std::mem::take(&mut shared.waiting);
            drop(shared);
            woken.into_values().for_each(Waker::wake);
        }
    }
}

/// An acceptor that is ready only while its [`AcceptGate`] is open.
#[derive(Debug)]
pub struct Gated<A> {
    inner: A,
    gate: AcceptGate,
    id: u64,
}

// A clone waits by itself, at the same gate.
impl<A: Clone> Clone for Gated<A> {
    fn clone(&self) -> Self {
        self.gate.acceptor(self.inner.clone())
    }
}

impl<A> Drop for Gated<A> {
    fn drop(&mut self) {
        self.gate.lock().waiting.remove(&self.id);
    }
}

impl<A: Service<Io>, Io> Service<Io> for Gated<A> {
    type Response = A::Response;
    type Error = A::Error;
    type Future = A::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        ready!(self.gate.poll_open(self.id, cx));
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> A::Future {
        self.inner.call(io)
    }
}

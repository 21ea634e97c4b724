//! A service whose requests end when the test says so.

#![allow(dead_code, reason = "each test uses a part")]

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{Empty, Full};
use tokio::sync::Semaphore;
use tokio_test::task::Spawn;
use tower::{Layer, Service};
use tower_overload::{InFlightLimit, InFlightLimitLayer, OverloadBody};

pub(crate) type Answer = Response<OverloadBody<Full<Bytes>>>;
pub(crate) type Running = Spawn<Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>>;

/// What the service inside does.
#[derive(Clone)]
pub(crate) struct Handler {
    ends: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
    pub(crate) begun: Arc<std::sync::Mutex<Vec<String>>>,
}

pub(crate) struct Runs(Arc<AtomicUsize>);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handler {
    pub(crate) fn new() -> Self {
        Self {
            ends: Arc::new(Semaphore::new(0)),
            running: Arc::default(),
            begun: Arc::default(),
        }
    }

    /// Lets so many requests end, the oldest first.
    pub(crate) fn end(&self, requests: usize) {
        self.ends.add_permits(requests);
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(crate) fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }
}

impl<B> Service<Request<B>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ends = self.ends.clone();
        self.running.fetch_add(1, Ordering::Relaxed);
        let runs = Runs(self.running.clone());
        self.begun.lock().unwrap().push(request.uri().path().into());
        let panics = request.uri().path() == "/panic";
        Box::pin(async move {
            let _runs = runs;
            assert!(!panics, "as asked");
            ends.acquire().await.expect("it is open").forget();
            Ok(Response::new(Full::from("ok")))
        })
    }
}

pub(crate) fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).expect("a request")
}

/// A request as hyper makes it: a clone, asked whether it is ready, called, polled once.
pub(crate) fn ask<S, B>(service: &InFlightLimit<S>, request: Request<B>) -> Running
where
    InFlightLimit<S>: Service<Request<B>, Response = Answer, Error = Infallible> + Clone,
    <InFlightLimit<S> as Service<Request<B>>>::Future: Send + 'static,
{
    let mut service = service.clone();
    let ready = tokio_test::task::spawn(()).enter(|cx, _| service.poll_ready(cx));
    assert!(matches!(ready, Poll::Ready(Ok(()))));
    let future: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(service.call(request));
    tokio_test::task::spawn(future)
}

/// As [`ask`], and it must be answered at once.
pub(crate) fn answer<S, B>(service: &InFlightLimit<S>, request: Request<B>) -> Answer
where
    InFlightLimit<S>: Service<Request<B>, Response = Answer, Error = Infallible> + Clone,
    <InFlightLimit<S> as Service<Request<B>>>::Future: Send + 'static,
{
    match ask(service, request).poll() {
        Poll::Ready(Ok(answer)) => answer,
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => panic!("it was not answered at once"),
    }
}

pub(crate) fn limited(layer: &InFlightLimitLayer) -> (InFlightLimit<Handler>, Handler) {
    let handler = Handler::new();
    (layer.layer(handler.clone()), handler)
}

/// Requests that were sent and have begun or wait.
pub(crate) fn asked<const N: usize>(service: &InFlightLimit<Handler>) -> [Running; N] {
    std::array::from_fn(|n| {
        let mut running = ask(service, get(&format!("/{n}")));
        assert!(running.poll().is_pending(), "request {n}");
        running
    })
}

/// A body that never ends, and never has anything.
pub(crate) struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Request;
use http_body::Body;
use tokio::time::Instant;

/// For how long a service has waited for the body of a request: time that is its client's, and not its own.
///
/// Found in the extensions of a request whose body somebody measures with a [`BodyClock`].
#[derive(Clone, Debug, Default)]
pub struct BodyWait {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    waited: Duration,
    since: Option<Instant>,
}

impl BodyWait {
    /// How long it is until `now`, with a wait that has not ended yet.
    #[must_use]
    pub fn until(&self, now: Instant) -> Duration {
        let shared = self.shared();
        let since = shared.since.unwrap_or(now);
        shared.waited + now.saturating_duration_since(since)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Of two numbers neither can be half written.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures a [`BodyWait`], for who wraps the body of a request.
///
/// A wait is from a poll that finds nothing to the next one, or until this is dropped with the body. What else the
/// service does meanwhile is not seen.
///
/// ```
/// # use std::time::Duration;
/// use http::Request;
/// use tokio::time::Instant;
/// use tower_connection::{BodyClock, BodyWait};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let mut request = Request::new("all of an upload".to_owned());
/// let clock = BodyClock::start(&mut request).expect("it has a body");
/// clock.polled(true);
/// tokio::time::advance(Duration::from_secs(1)).await;
/// clock.polled(false);
/// let wait = request.extensions().get::<BodyWait>().expect("it is measured");
/// assert_eq!(wait.until(Instant::now()), Duration::from_secs(1));
/// # }
/// ```
#[derive(Debug)]
pub struct BodyClock {
    wait: BodyWait,
}

impl BodyClock {
    /// None if there is no body.
    pub fn start<B: Body>(request: &mut Request<B>) -> Option<Self> {
        if request.body().is_end_stream() {
            return None;
        }
        let wait = BodyWait::default();
        request.extensions_mut().insert(wait.clone());
        Some(Self { wait })
    }

    /// The body was polled, and had something or not.
    pub fn polled(&self, is_pending: bool) {
        let mut shared = self.wait.shared();
        if is_pending {
            shared.since.get_or_insert_with(Instant::now);
        } else if let Some(since) = shared.since.take() {
            shared.waited += since.elapsed();
        }
    }
}

impl Drop for BodyClock {
    fn drop(&mut self) {
        self.polled(false);
    }
}

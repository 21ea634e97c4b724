use std::{fmt, sync::Arc, time::Duration};

use http::HeaderName;
use tower_connection::{AcceptGate, Head};
use tower_layer::Layer;

use crate::{
    Admission, Classify, Criticality, InFlightLimit, Limit, Overload, Overloaded, Respond, Ticket,
    core::{Core, or_none},
    slots::MOST,
};

/// At most so many requests are served at once; who comes past that waits for a bounded time, if it may, or is answered
/// at once.
///
/// A request is in flight from its head to the last byte of its response. Its slot is taken in `poll_ready`, in one
/// atomic step, and comes back however the request ends: with the body, with a client that leaves, with a panic.
///
/// **One layer is one limit**, however often it is applied: axum applies layers again for each route, and
/// `axum::serve(listener, router)` for each connection. A clone shares the limit with the original, and all that belongs to
/// it: waits, shares, streams, order. What a clone is told of [`classify`](Self::classify), [`respond`](Self::respond) and
/// [`deadline_header`](Self::deadline_header) is its own.
///
/// Put it outside of whatever a refused request should not cost (authentication, decompression, body limits) and inside
/// of what it should have (a request id, a panic handler). It needs the service inside to be `Clone`, as axum and hyper
/// do, and its bodies' data to be made from `Bytes`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, routing::get};
/// use tower_connection::Head;
/// use tower_overload::{InFlightLimitLayer, Ticket};
///
/// let limit = InFlightLimitLayer::new(200)
///     .max_wait(Duration::from_millis(100))
///     .classify(|head: &Head<'_>| match head.uri.path() {
///         "/healthz" => Ticket::exempt(),
///         _ => Ticket::default(),
///     });
/// let overload = limit.handle();
///
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(limit);
/// assert_eq!(overload.available(), 200);
/// # drop(app);
/// ```
#[derive(Clone, Debug)]
pub struct InFlightLimitLayer {
    shared: Arc<Shared>,
}

/// What a layer and its services share. The limit itself is in the core; a clone that is set otherwise shares that.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    pub(crate) classify: Option<Arc<dyn Classify>>,
    pub(crate) respond: Arc<dyn Respond>,
    pub(crate) deadline_header: Option<HeaderName>,
    /// It does nothing.
    pub(crate) off: bool,
}

impl Shared {
    pub(crate) fn new(core: Core) -> Self {
        Self {
            off: core.is_off(),
            core: Arc::new(core),
            classify: None,
            respond: Arc::new(Overloaded::default()),
            deadline_header: None,
        }
    }

    pub(crate) fn classifies(&self) -> bool {
        self.classify.is_some()
    }

    pub(crate) fn ticket(&self, head: &Head<'_>) -> Ticket {
        let classify = self.classify.as_ref();
        classify.map_or_else(Ticket::default, |classify| classify.classify(head))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl InFlightLimitLayer {
    /// At most `limit` requests at once. Zero is no limit: requests are counted, and nobody is refused for their number.
    ///
    /// More than 2,097,151 are as many.
    ///
    /// ```
    /// # use tower_overload::InFlightLimitLayer;
    /// let overload = InFlightLimitLayer::new(200).handle();
    /// assert_eq!(overload.limit(), 200);
    /// ```
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self::of(Core::new(or_none(limit), None))
    }

    /// As many requests at once as `law` says.
    #[must_use]
    pub fn with_limit(law: impl Limit) -> Self {
        Self::of(Core::new(law.limit(), Some(Box::new(law))))
    }

    /// No limit, and nothing counted: requests pass as if the layer were not there, and its [handle](Self::handle) sees and
    /// changes nothing. For a stack whose type must be the same with and without.
    ///
    /// ```
    /// # use tower_overload::InFlightLimitLayer;
    /// let configured: Option<usize> = None;
    /// let layer = configured.map_or_else(InFlightLimitLayer::off, InFlightLimitLayer::new);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn off() -> Self {
        Self::of(Core::off())
    }

    fn of(core: Core) -> Self {
        Self {
            shared: Arc::new(Shared::new(core)),
        }
    }

    /// How long a request may wait for a slot, and then for the service inside to be ready. Default is zero: it is
    /// refused at once.
    ///
    /// Who waits is served first come, first served, until a queue stands; see [`AdaptiveLifo`](crate::AdaptiveLifo).
    /// A wait saves the requests of a burst, and cannot help against more load than the server can do: a good value is a
    /// tenth of what clients take for slow.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_overload::InFlightLimitLayer;
    /// let layer = InFlightLimitLayer::new(200).max_wait(Duration::from_millis(100));
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn max_wait(self, max: Duration) -> Self {
        self.shared.core.set_max_wait(max);
        self
    }

    /// How many requests may wait. Default, and zero: as many as may be in flight; with a law, as many as have their turn
    /// within [`max_wait`](Self::max_wait), if that is more. Each holds the head of its request,
    /// and its task.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_overload::InFlightLimitLayer;
    /// let layer = InFlightLimitLayer::new(200)
    ///     .max_wait(Duration::from_millis(100))
    ///     .max_waiting(50);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn max_waiting(self, max: usize) -> Self {
        self.shared.core.set_max_waiting(max);
        self
    }

    /// How many responses may go on for ever at once: upgrades (WebSockets) and streams. Default, and zero: any number.
    ///
    /// From its response head on, such a request holds no slot but counts here. Streams are responses of type
    /// `text/event-stream`, and those whose [ticket](Ticket::stream) says so. In the place of an upgrade past the number
    /// the client reads a plain `503`; a stream past it holds its slot, as any response does.
    ///
    /// A WebSocket over HTTP/1.1 counts until its socket is closed if the connection came through an acceptor
    /// ([`ConnectionHandle`](tower_connection::ConnectionHandle)), and otherwise until it is upgraded; one over HTTP/2
    /// always only until it is: nothing tells a service of its end.
    ///
    /// ```
    /// # use tower_overload::InFlightLimitLayer;
    /// let layer = InFlightLimitLayer::new(200).max_streams(10_000);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn max_streams(self, max: usize) -> Self {
        let max = if max == 0 { usize::MAX } else { max };
        self.shared.core.streams().set_max(max);
        self
    }

    /// Says how critical a request is, whose, and whether it is exempt. Default: all are the same.
    #[must_use]
    pub fn classify(mut self, classify: impl Classify) -> Self {
        self.settings().classify = Some(Arc::new(classify));
        self
    }

    /// Which part of the slots `class` keeps when there are not enough, however many more critical requests there are.
    /// Default is none for each: who is more critical goes first.
    ///
    /// While nobody is refused, a share binds nobody: a class may have more, and what it does not use is there for all.
    /// Classes and shares work best with some [`max_wait`](Self::max_wait): who is more critical then goes first, and no
    /// slot is idle meanwhile. Without one, some must be kept free for who might come.
    ///
    /// # Panics
    ///
    /// If `share` is not between 0 and 1, or all shares together are more than 1.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_overload::{Criticality, InFlightLimitLayer};
    /// let layer = InFlightLimitLayer::new(200)
    ///     .max_wait(Duration::from_millis(100))
    ///     .share(Criticality::Sheddable, 0.05);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn share(self, class: Criticality, share: f64) -> Self {
        assert!((0.0..=1.0).contains(&share), "a share is between 0 and 1");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "up to 1,000"
        )]
        let thousandths = (share * 1000.0).round() as u32;
        let possible = self.shared.core.shares().guarantee(class, thousandths);
        assert!(possible, "all shares together are at most 1");
        self
    }

    /// Who waits goes in another order than that of [`AdaptiveLifo`](crate::AdaptiveLifo).
    #[must_use]
    pub fn admission(self, admission: impl Admission) -> Self {
        self.shared.core.set_admission(admission);
        self
    }

    /// A header in which clients say for how many milliseconds more they will wait. `grpc-timeout` is understood anyway.
    ///
    /// With a [`max_wait`](Self::max_wait), and while all slots are taken, a request that would not be served by then is
    /// refused at once. Anybody may send it: a client can only shorten its own wait.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use http::HeaderName;
    /// # use tower_overload::InFlightLimitLayer;
    /// let layer = InFlightLimitLayer::new(200)
    ///     .max_wait(Duration::from_millis(100))
    ///     .deadline_header(HeaderName::from_static("x-client-timeout-ms"));
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn deadline_header(mut self, name: HeaderName) -> Self {
        self.settings().deadline_header = Some(name);
        self
    }

    /// What a refused request reads. Default is [`Overloaded`].
    #[must_use]
    pub fn respond(mut self, respond: impl Respond) -> Self {
        self.settings().respond = Arc::new(respond);
        self
    }

    /// Holds `gate` shut while the load [presses](crate::Pressure::is_high): for 100 ms requests were refused for want of a
    /// slot or had to wait, until a quarter of the slots is free and nobody waits.
    ///
    /// New clients then wait in the kernel's backlog, where they cost nothing and are told nothing: latency for throughput.
    /// Connections that are open go on and can keep the server under pressure, so that nobody else gets in: it is for
    /// many clients with few requests each, and never for a gate through which health checks come.
    ///
    /// ```
    /// # use tower_connection::AcceptGate;
    /// # use tower_overload::InFlightLimitLayer;
    /// let gate = AcceptGate::default(); // a layer of the acceptor
    /// let layer = InFlightLimitLayer::new(200).pause_accepting(gate.clone());
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn pause_accepting(self, gate: AcceptGate) -> Self {
        self.shared.core.pause_accepting(gate);
        self
    }

    /// Chance decides which second after the first possible one a client is told to come back in. The same seed decides
    /// the same, for a simulation.
    ///
    /// ```
    /// # use tower_overload::InFlightLimitLayer;
    /// let layer = InFlightLimitLayer::new(200).seed(7);
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.shared.core.set_seed(seed);
        self
    }

    /// The limit while the server runs.
    #[must_use]
    pub fn handle(&self) -> Overload {
        Overload::new(self.shared.core.clone())
    }

    fn settings(&mut self) -> &mut Shared {
        Arc::make_mut(&mut self.shared)
    }
}

impl<S> Layer<S> for InFlightLimitLayer {
    type Service = InFlightLimit<S>;

    fn layer(&self, inner: S) -> InFlightLimit<S> {
        InFlightLimit::new(inner, self.shared.clone())
    }
}

const _: () = assert!(MOST == 2_097_151, "the documents say so");

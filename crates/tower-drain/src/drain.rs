use std::{
    future::{Future, IntoFuture},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::runtime;
use tower_connection::{Closed, FOREVER};
use tracing::warn;

use crate::{
    DrainLayer, DrainWatch, Phase, Readiness, Report, course, roll::Shared, settings::Settings,
};

/// Ends a server: who tells it when, waits for the end, and is told how it went.
///
/// Its [`layer`](Drain::layer) goes into the stack of an acceptor, outermost; it can go into several. Clones are the
/// same drain. Nothing happens until it [begins](Drain::begin).
///
/// # Examples
///
/// With axum:
///
/// ```no_run
/// use std::{process::ExitCode, time::Duration};
/// use axum::{Router, routing::get};
/// use tower::ServiceBuilder;
/// use tower_connection_axum::{Accepting, FromAcceptor, accept};
/// use tower_drain::Drain;
///
/// #[tokio::main]
/// async fn main() -> std::io::Result<ExitCode> {
///     let drain = Drain::new(Duration::from_secs(30));
///     drain.begin_on_signals()?;
///
///     let app = Router::new()
///         .route("/", get(|| async { "hello" }))
///         .route_service("/readyz", drain.readiness());
///     let acceptor = ServiceBuilder::new().layer(drain.layer()).service(accept(app));
///     let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
///
///     let report = drain.run(axum::serve(Accepting::new(listener, acceptor), FromAcceptor)).await?;
///     Ok(report.exit_code())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Drain {
    shared: Arc<Shared>,
    begun: Arc<AtomicBool>,
}

impl Drain {
    /// A drain that gives what is running so long to finish, from the moment at which the listener closes.
    ///
    /// What is left then is reset. Zero is no deadline: only [`cut`](Drain::cut) ends what does not end by itself.
    /// 30 seconds suit most: Kubernetes kills after 30 unless told otherwise, so there it must be a few less.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// let drain = Drain::new(Duration::from_secs(25)).lame_duck(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            shared: Arc::new(Shared::new(Settings::new(timeout))),
            begun: Arc::default(),
        }
    }

    /// How long everything is still served after the drain has begun, while readiness says no and answers ask
    /// clients to go elsewhere. Default is zero, which skips this phase.
    ///
    /// It is for balancers that learn of the end late: longer than their health check takes to fail, or, in
    /// Kubernetes, than endpoints take to be withdrawn (5 seconds or more). It comes on top of the timeout.
    ///
    /// # Panics
    ///
    /// If a layer, a watch or a clone of this drain was made before. So do all settings.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// let drain = Drain::new(Duration::from_secs(30)).lame_duck(Duration::from_secs(10));
    /// ```
    #[must_use]
    pub fn lame_duck(mut self, lame_duck: Duration) -> Self {
        self.settings().lame_duck = lame_duck.min(FOREVER);
        self
    }

    /// How long an idle connection of HTTP/1 is still listened to: a request that comes in this time is answered,
    /// with `Connection: close`. Default is 120 ms. Zero closes at once.
    ///
    /// A request that is on its way when a server closes is lost, and the client cannot know whether it was served.
    /// This should be longer than a round trip to the client.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// let drain = Drain::new(Duration::from_secs(30)).last_chance(Duration::from_millis(300));
    /// ```
    #[must_use]
    pub fn last_chance(mut self, last_chance: Duration) -> Self {
        self.settings().last_chance = last_chance.min(FOREVER);
        self
    }

    /// How long half a request head, a TLS handshake or an opening of HTTP/2 may take to be whole, from when the
    /// listener closes or from its first byte, whichever is later. Default is 500 ms. Zero closes at once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// let drain = Drain::new(Duration::from_secs(30)).arriving(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn arriving(mut self, arriving: Duration) -> Self {
        self.settings().arriving = arriving.min(FOREVER);
        self
    }

    /// Spreads the ends of idle connections (and of HTTP/2, the first word of it) evenly over a window, so that
    /// thousands of clients do not come back to the other servers in one instant. Default is zero: all at once.
    ///
    /// It is part of the timeout, and cut down to fit in.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// let drain = Drain::new(Duration::from_secs(30)).spread(Duration::from_secs(10));
    /// ```
    #[must_use]
    pub fn spread(mut self, window: Duration) -> Self {
        self.settings().spread = window.min(FOREVER);
        self
    }

    fn settings(&mut self) -> &mut Settings {
        let shared = Arc::get_mut(&mut self.shared);
        shared
            .expect("settings come before layers, watches and clones")
            .settings_mut()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The layer whose connections this ends; outermost in the stack, so that it knows of every socket.
    #[must_use]
    pub fn layer(&self) -> DrainLayer {
        DrainLayer::new(self)
    }

    /// Something to look at it with, and to wait for it.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch::new(self.shared.clone())
    }

    /// A service for the path that balancers ask: 200, and 503 from the first moment of the drain on.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness::new(self.watch())
    }

    /// Begins. Doing so again does nothing.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn begin(&self) {
        let runtime = runtime::Handle::current();
        // Relaxed: only one may begin it; what comes before is not passed on by this.
        if !self.begun.swap(true, Ordering::Relaxed) {
            // At once, as somebody may ask whether the server is ready before the course has its first turn.
            // ## Serving => LameDuck
            self.shared.advance(Phase::LameDuck, None);
            runtime.spawn(course::run(self.shared.clone()));
        }
    }

    /// Begins when `signal` ends. Several may: the first one counts.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let drain = Drain::new(Duration::from_secs(30));
    /// drain.begin_on(tokio::time::sleep(Duration::from_secs(60))); // a server that lives for a minute
    /// drain.finished().await;
    /// # }
    /// ```
    pub fn begin_on(&self, signal: impl Future<Output = ()> + Send + 'static) {
        let drain = self.clone();
        tokio::spawn(async move {
            signal.await;
            drain.begin();
        });
    }

    /// Begins on SIGTERM or SIGINT (elsewhere than on Unix: Ctrl-C). A second signal of either kind
    /// [cuts](Drain::cut) what is left. One that comes when the drain is over, to a process that is not, ends that with
    /// 1.
    ///
    /// From now on neither ends the process by itself. They are heard, and the drain runs, on a thread of its own, so
    /// that handlers that block every thread of the server's runtime keep it from nothing.
    ///
    /// # Errors
    ///
    /// If the signals cannot be listened to, or there can be no thread.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// # fn main() -> std::io::Result<()> {
    /// let drain = Drain::new(Duration::from_secs(30));
    /// drain.begin_on_signals()?;
    /// # Ok(()) }
    /// ```
    pub fn begin_on_signals(&self) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signals = {
            let _entered = runtime.enter();
            Signals::new()?
        };
        let drain = self.clone();
        let course = async move {
            signals.next().await;
            drain.begin();
            tokio::select! {
                () = signals.next() => {
                    warn!("a second signal: what is left is cut");
                    drain.cut();
                }
                _ = drain.finished() => {}
            }
            drain.finished().await;
            // Somebody waits for a thread that is blocked.
            signals.next().await;
            std::process::exit(1);
        };
        thread::Builder::new()
            .name("drain".into())
            .spawn(move || runtime.block_on(course))?;
        Ok(())
    }

    /// Goes to the end at once: what still runs is reset. Begins if it has not.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::Drain;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let drain = Drain::new(Duration::from_secs(30)).lame_duck(Duration::from_secs(10));
    /// drain.cut();
    /// drain.finished().await;
    /// # }
    /// ```
    pub fn cut(&self) {
        self.shared.urgent.send_replace(true);
        self.begin();
    }

    /// Waits until it is over.
    ///
    /// # Cancel safety
    ///
    /// It can be dropped and asked for again at any time; each gets the same report.
    pub async fn finished(&self) -> Report {
        self.watch().finished().await
    }

    /// Runs a server to the end of the drain: the last line of a `main`.
    ///
    /// It does not wait for the server longer than for the drain, so a handler that cannot be stopped does not keep
    /// it. A server that ends before it was asked to begins the drain, of what is still open. That it may accept no more
    /// ([`Closed`]) is no error: so a loop of your own may end with it, and what it has accepted is waited for.
    ///
    /// # Errors
    ///
    /// That of the server.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the server. The drain goes on.
    pub async fn run<S>(&self, server: S) -> io::Result<Report>
    where
        S: IntoFuture<Output = io::Result<()>>,
    {
        {
            let mut server = pin!(server.into_future());
            tokio::select! {
                biased;
                ended = &mut server => match ended {
                    Err(error) if !error.get_ref().is_some_and(Closed::caused) => return Err(error),
                    _ => {}
                },
                report = self.finished() => return Ok(report),
            }
        }
        self.shared.expect_nobody();
        self.begin();
        Ok(self.finished().await)
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

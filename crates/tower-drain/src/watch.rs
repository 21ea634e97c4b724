use std::{fmt, future::pending, sync::Arc};

use tokio::sync::watch;

use crate::{Phase, Progress, Report, roll::Shared};

/// Looks at a [`Drain`](crate::Drain), and waits for it.
///
/// ```
/// # use std::time::Duration;
/// # use tower_drain::{Drain, Phase};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let drain = Drain::new(Duration::from_secs(30));
/// let watch = drain.watch();
/// assert!(!watch.has_begun());
/// drain.begin();
/// watch.begun().await;
/// assert!(watch.phase() > Phase::Serving);
/// # }
/// ```
#[derive(Clone)]
pub struct DrainWatch {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

impl DrainWatch {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            progress: shared.progress.subscribe(),
            shared,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Whether it has begun, be it with a lame duck.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.phase() > Phase::Serving
    }

    /// Waits until it has begun.
    ///
    /// # Cancel safety
    ///
    /// It can be dropped and asked for again at any time. So can all of these.
    pub async fn begun(&self) {
        let mut progress = self.progress.clone();
        let begun = progress.wait_for(|progress| progress.phase > Phase::Serving);
        // The sender is in `shared`, so it is there.
        let _ = begun.await;
    }

    /// Looks at what is open now. It takes a time that grows with the number of connections, and is not for each
    /// request.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.look()
    }

    /// Waits for news: a phase, and four times a second, while a drain waits, what for.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_drain::{Drain, Phase};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let drain = Drain::new(Duration::from_secs(30));
    /// let mut watch = drain.watch();
    /// drain.begin();
    /// while watch.changed().await.phase < Phase::Finished {}
    /// # }
    /// ```
    pub async fn changed(&mut self) -> Progress {
        // The sender is in `shared`, so it is there.
        let _ = self.progress.changed().await;
        *self.progress.borrow_and_update()
    }

    /// Waits until it is over.
    pub async fn finished(&self) -> Report {
        let mut report = self.shared.report.subscribe();
        let finished = report.wait_for(Option::is_some).await;
        let finished = finished.ok().and_then(|report| report.as_deref().cloned());
        match finished {
            Some(report) => report,
            None => pending().await,
        }
    }

    /// The end, as a future for `axum::serve`'s `with_graceful_shutdown`.
    ///
    /// `axum::serve` must not hear of it earlier: it would close idle connections on top of the requests that are
    /// on their way to them.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use axum::Router;
    /// # use tower_connection_axum::{Accepting, FromAcceptor, accept};
    /// # use tower::Layer;
    /// # use tower_drain::Drain;
    /// # async fn run() -> std::io::Result<()> {
    /// # let listener = tokio::net::TcpListener::bind("0.0.0.0:3000").await?;
    /// # let app = Router::new();
    /// let drain = Drain::new(Duration::from_secs(30));
    /// let acceptor = drain.layer().layer(accept(app));
    /// axum::serve(Accepting::new(listener, acceptor), FromAcceptor)
    ///     .with_graceful_shutdown(drain.watch().ended())
    ///     .await
    /// # }
    /// ```
    pub async fn ended(self) {
        self.finished().await;
    }
}

impl fmt::Debug for DrainWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainWatch")
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

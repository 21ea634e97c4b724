use std::future::{Future, pending};

use tokio::{sync::watch, time::Instant};

use crate::FOREVER;

/// Tells what would go on for ever (a WebSocket, server-sent events) that its server ends, and until when it may
/// go on.
///
/// It comes from [`ConnectionHandle::notice`](crate::ConnectionHandle::notice), and so from the extensions of a
/// request; whoever ends the server holds the [`NoticeBoard`]. A request that ends by itself need not ask: it is
/// waited for in any case.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use tower_connection::NoticeBoard;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let board = NoticeBoard::default();
/// let notice = board.notice();
/// assert_eq!(notice.deadline(), None);
///
/// let deadline = Instant::now() + Duration::from_secs(30);
/// board.give(deadline);
/// assert_eq!(notice.given().await, deadline);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Notice(watch::Receiver<Option<Instant>>);

impl Notice {
    /// A notice that is never given.
    #[must_use]
    pub fn never() -> Self {
        Self(watch::Sender::default().subscribe())
    }

    /// Waits until it is given (the future borrows nothing), and returns until when work may go on: then connections are reset. Without a
    /// deadline that is 30 years ahead.
    ///
    /// # Cancel safety
    ///
    /// It can be dropped and asked for again at any time.
    pub fn given(&self) -> impl Future<Output = Instant> + Send + use<> {
        let mut board = self.0.clone();
        async move {
            let given = board.wait_for(Option::is_some).await;
            let deadline = given.ok().and_then(|deadline| *deadline);
            match deadline {
                Some(deadline) => deadline,
                // Nobody is left who could give it.
                None => pending().await,
            }
        }
    }

    /// Until when work may go on, once it was given.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        *self.0.borrow()
    }
}

/// Where a [`Notice`] is given.
///
/// ```
/// # use tower_connection::NoticeBoard;
/// let board = NoticeBoard::default();
/// let notice = board.notice();
/// board.give_without_deadline();
/// assert!(notice.deadline().is_some());
/// ```
#[derive(Debug, Default)]
pub struct NoticeBoard(watch::Sender<Option<Instant>>);

impl NoticeBoard {
    /// Something that waits for it.
    #[must_use]
    pub fn notice(&self) -> Notice {
        Notice(self.0.subscribe())
    }

    /// Gives it to all who wait, and at once to all who ask later.
    pub fn give(&self, deadline: Instant) {
        self.0.send_replace(Some(deadline));
    }

    /// Gives it, with all the time in the world.
    pub fn give_without_deadline(&self) {
        self.give(Instant::now() + FOREVER);
    }
}

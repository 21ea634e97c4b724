use std::{
    error::Error,
    fmt,
    task::{Context, Poll},
};

use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why an acceptor will take no more sockets, when nothing went wrong: its server ends.
///
/// An acceptor answers `poll_ready` with it. Whoever accepts then takes out who waits in the backlog (see
/// [`Backlog`](crate::Backlog)), closes the listener, and serves on what is open. Both adapters do; a loop of your own
/// asks [`AcceptError::is_closed`](crate::AcceptError::is_closed).
///
/// It is no end for who has come already: those from the backlog are handed over as ever, each after another
/// `poll_ready`, which may now make them wait. If that says so once more, they cannot be served: they are handed over
/// without it, so that the acceptor knows of them, and it resets them. Then the acceptor is dropped. (Whoever finds nobody to hand over, for want of descriptors, asks it all
/// the same, so that it knows that somebody waits.)
///
/// ```
/// use std::error::Error;
/// use tower_connection::Closed;
///
/// let error: Box<dyn Error + Send + Sync> = Closed::default().into();
/// assert!(Closed::caused(&*error));
/// assert_eq!(error.to_string(), "accepting has ended");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Closed {
    _private: (),
}

impl Closed {
    /// Whether `error`, or what caused it, is this.
    #[must_use]
    pub fn caused(error: &(dyn Error + Send + Sync + 'static)) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Asks `acceptor` whether it is ready (`false`) or closed (`true`): for whoever accepts.
    ///
    /// # Errors
    ///
    /// Those of the acceptor, but for this one.
    ///
    /// ```
    /// # use std::{convert::Infallible, future::poll_fn};
    /// # use tower_connection::{Accept, Closed};
    /// # async fn hello(_: http::Request<()>) -> Result<http::Response<()>, Infallible> {
    /// #     Ok(http::Response::default())
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let mut acceptor = Accept::new(tower::service_fn(hello));
    /// let closed = poll_fn(|cx| Closed::poll::<_, tokio::net::TcpStream>(&mut acceptor, cx)).await;
    /// assert!(matches!(closed, Ok(false)));
    /// # }
    /// ```
    pub fn poll<A, Io>(acceptor: &mut A, cx: &mut Context<'_>) -> Poll<Result<bool, BoxError>>
    where
        A: Service<Io>,
        A::Error: Into<BoxError>,
    {
        acceptor.poll_ready(cx).map(|ready| {
            let Err(error) = ready else {
                return Ok(false);
            };
            let error: BoxError = error.into();
            if Self::caused(&*error) {
                Ok(true)
            } else {
                Err(error)
            }
        })
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("accepting has ended")
    }
}

impl Error for Closed {}

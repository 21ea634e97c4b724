use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use tower_connection::{BoxIo, Connection, ConnectionHandle, End, Socket};

use crate::Builder;

/// Serves one connection to its end, and ends it when its handle says so.
///
/// It is what [`serve`](crate::serve) does with each, for a loop of your own: on HTTP/2 `handle.close()`
/// becomes hyper's graceful shutdown, and so GOAWAY; HTTP/1 ends by itself, after what has arrived was
/// answered; `handle.abort()` is a reset.
///
/// # Examples
///
/// ```no_run
/// use hyper::server::conn::http1;
/// use tower_connection_hyper::{Accept, AcceptExt, drive};
///
/// # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, std::convert::Infallible> {
/// #     Ok(http::Response::new("hello".into()))
/// # }
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let mut acceptor = Accept::new(tower::service_fn(hello));
/// loop {
///     let connection = acceptor.accept(listener.accept()).await?;
///     tokio::spawn(async {
///         let Ok(connection) = connection.await;
///         drive(connection, &http1::Builder::new()).await
///     });
/// }
/// # }
/// ```
///
/// # Errors
///
/// What hyper found wrong with the connection. An abort is an error too, unless hyper was already done.
///
/// # Cancel safety
///
/// Dropping the future closes the connection as dropping hyper's own would.
pub fn drive<Io, S, P>(connection: Connection<Io, S>, builder: &P) -> Drive<S, P>
where
    Io: Socket,
    P: Builder<S>,
{
    let handle = connection.handle().clone();
    Drive {
        connection: builder.serve_connection(connection.map_io(BoxIo::new)),
        handle,
        closing: false,
        builder: PhantomData,
    }
}

pin_project_lite::pin_project! {
    /// The future of [`drive`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Drive<S, P>
    where
        P: Builder<S>,
    {
        #[pin]
        connection: P::Connection,
        handle: ConnectionHandle,
        closing: bool,
        builder: PhantomData<fn() -> P>,
    }
}

impl<S, P: Builder<S>> Future for Drive<S, P> {
    type Output = Result<(), P::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut me = self.project();
        match me.handle.poll_end(cx) {
            // ## Open => Closing
            Poll::Ready(End::Close) if !*me.closing => {
                *me.closing = true;
                P::graceful_shutdown(me.connection.as_mut());
            }
            // ## (Open | Closing) => Aborted
            // The socket half fails the next read, write or flush, and hyper always polls one of them.
            Poll::Ready(_) | Poll::Pending => {}
        }
        me.connection.poll(cx)
    }
}

impl<S, P: Builder<S>> fmt::Debug for Drive<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive")
            .field("handle", &self.handle)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

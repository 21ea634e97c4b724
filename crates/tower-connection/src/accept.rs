use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::{self, Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tower_service::Service;

use crate::{
    Closed, Connection, ConnectionHandle, ConnectionIo, ConnectionService, Hooked, Obey, Socket,
};

type BoxError = Box<dyn Error + Send + Sync>;

/// The innermost acceptor: a clone of one service for each socket.
///
/// Layers go around it, in a `ServiceBuilder`. The connection it makes counts its requests, puts a
/// [`ConnectionHandle`] into each, and obeys that handle.
///
/// # Examples
///
/// ```
/// use tower::{ServiceBuilder, service_fn};
/// use tower_connection::{Accept, AcceptExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # async fn hello(_: http::Request<()>) -> Result<http::Response<String>, std::convert::Infallible> {
/// #     Ok(http::Response::new("hello".into()))
/// # }
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
/// let mut acceptor = ServiceBuilder::new().service(Accept::new(service_fn(hello)));
///
/// let connection = acceptor.accept(listener.accept()).await?.await?;
/// # drop((connection, client));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Accept<S> {
    service: S,
    handle_in_requests: bool,
}

impl<S> Accept<S> {
    /// Answers on every socket with a clone of `service`.
    pub fn new(service: S) -> Self {
        Self {
            service,
            handle_in_requests: true,
        }
    }

    /// Leaves the [`ConnectionHandle`] out of the requests' extensions.
    ///
    /// `http::Extensions` allocates three times for the first value put into a request and once for
    /// each further one. A service that never asks for the handle can save that; layers do not need it.
    #[must_use]
    pub fn without_handle_in_requests(mut self) -> Self {
        self.handle_in_requests = false;
        self
    }
}

/// What [`Accept`] makes of a socket and a service.
///
/// ```
/// # use tower_connection::{Accepted, ConnectionHandle};
/// fn peer<Io, S>(connection: &Accepted<Io, S>) -> &ConnectionHandle {
///     connection.handle()
/// }
/// # let _ = peer::<(), ()>;
/// ```
pub type Accepted<Io, S> = Connection<ConnectionIo<Io>, ConnectionService<S>>;

fn accepted<Io: Socket, S>(
    io: Io,
    service: S,
    handle: ConnectionHandle,
    handle_in_requests: bool,
) -> Accepted<Io, S> {
    let io = Hooked::new(io, Obey::new(handle.clone()));
    let service = ConnectionService::new(service, handle.clone(), handle_in_requests);
    Connection::new(io, service, handle)
}

impl<Io: Socket, S: Clone> Service<Io> for Accept<S> {
    type Response = Accepted<Io, S>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, io: Io) -> Self::Future {
        let handle = ConnectionHandle::new(&io);
        let service = self.service.clone();
        future::ready(Ok(accepted(io, service, handle, self.handle_in_requests)))
    }
}

/// The innermost acceptor over a make-service: a service of its own for each socket.
///
/// The make-service is given the [`ConnectionHandle`], so it knows the peer.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use tower::service_fn;
/// use tower_connection::{AcceptMake, ConnectionHandle};
///
/// let acceptor = AcceptMake::new(service_fn(|connection: ConnectionHandle| async move {
///     let greeting = format!("hello {}", connection.peer());
///     Ok::<_, Infallible>(service_fn(move |_: Request<()>| {
///         let greeting = greeting.clone();
///         async move { Ok::<_, Infallible>(Response::new(greeting)) }
///     }))
/// }));
/// # let _ = acceptor;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AcceptMake<M> {
    make_service: M,
    handle_in_requests: bool,
}

impl<M> AcceptMake<M> {
    /// Answers on every socket with a service made by `make_service`.
    pub fn new(make_service: M) -> Self {
        Self {
            make_service,
            handle_in_requests: true,
        }
    }

    /// Leaves the [`ConnectionHandle`] out of the requests' extensions; see
    /// [`Accept::without_handle_in_requests`].
    #[must_use]
    pub fn without_handle_in_requests(mut self) -> Self {
        self.handle_in_requests = false;
        self
    }
}

impl<Io: Socket, M: Service<ConnectionHandle>> Service<Io> for AcceptMake<M> {
    type Response = Accepted<Io, M::Response>;
    type Error = M::Error;
    type Future = AcceptMakeFuture<Io, M::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.make_service.poll_ready(cx)
    }

    fn call(&mut self, io: Io) -> Self::Future {
        let handle = ConnectionHandle::new(&io);
        AcceptMakeFuture {
            inner: self.make_service.call(handle.clone()),
            parts: Some((io, handle)),
            handle_in_requests: self.handle_in_requests,
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`AcceptMake`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct AcceptMakeFuture<Io, F> {
        #[pin]
        inner: F,
        parts: Option<(Io, ConnectionHandle)>,
        handle_in_requests: bool,
    }
}

impl<Io, F, S, E> Future for AcceptMakeFuture<Io, F>
where
    Io: Socket,
    F: Future<Output = Result<S, E>>,
{
    type Output = Result<Accepted<Io, S>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let service = ready!(me.inner.poll(cx))?;
        let (io, handle) = me.parts.take().expect("polled after completion");
        Poll::Ready(Ok(accepted(io, service, handle, *me.handle_in_requests)))
    }
}

/// Accepting in the right order, for a loop of your own.
///
/// # Examples
///
/// A hyper loop with a stack of layers:
///
/// ```no_run
/// # use std::{convert::Infallible, error::Error};
/// use hyper::server::conn::http1;
/// use hyper_util::{rt::TokioIo, service::TowerToHyperService};
/// use tower_connection::{Accept, AcceptExt};
///
/// # async fn hello(_: http::Request<hyper::body::Incoming>) -> Result<http::Response<String>, Infallible> {
/// #     Ok(http::Response::new("hello".into()))
/// # }
/// # async fn run() -> Result<(), Box<dyn Error>> {
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let mut acceptor = Accept::new(tower::service_fn(hello));
/// loop {
///     let connection = acceptor.accept(listener.accept()).await?;
///     tokio::spawn(async move {
///         let (io, service) = connection.await?.into_parts();
///         let service = TowerToHyperService::new(service);
///         let served = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
///         served.map_err(Box::<dyn Error + Send + Sync>::from)
///     });
/// }
/// # }
/// ```
pub trait AcceptExt {
    /// Waits until the acceptor is ready, then for a socket, and hands it over.
    ///
    /// The order is the point: a full server leaves newcomers in the kernel's backlog. What comes back
    /// is the connection in the making; await it in a task of its own, or a slow TLS handshake keeps
    /// everybody else waiting.
    ///
    /// `socket` is what a listener's `accept` returns; the address is dropped, as the socket knows it.
    ///
    /// The acceptor is asked again in each turn in which the listener is: whoever changes his mind meanwhile (a full
    /// limit, a server that [ends](Closed)) is heard.
    ///
    /// # Errors
    ///
    /// [`AcceptError::Acceptor`] if the acceptor failed while it became ready, which is its end;
    /// [`AcceptError::Listener`] if no socket could be accepted, which seldom is.
    ///
    /// # Cancel safety
    ///
    /// As safe as `socket` is: tokio's listeners lose no connection.
    #[expect(
        async_fn_in_trait,
        reason = "the future is as `Send` as the acceptor and the socket are"
    )]
    async fn accept<Io, Addr, F>(
        &mut self,
        socket: F,
    ) -> Result<<Self as Service<Io>>::Future, AcceptError<<Self as Service<Io>>::Error>>
    where
        Self: Service<Io>,
        F: Future<Output = io::Result<(Io, Addr)>>,
    {
        let mut socket = pin!(socket);
        let (io, _) = poll_fn(|cx| {
            ready!(self.poll_ready(cx)).map_err(AcceptError::Acceptor)?;
            socket.as_mut().poll(cx).map_err(AcceptError::Listener)
        })
        .await?;
        Ok(self.call(io))
    }

    /// Waits until the acceptor is ready, and hands over a socket that was found in the [`Backlog`](crate::Backlog)
    /// after the acceptor was [`Closed`]. If it is closed once more, there is no time left: it takes the socket all the
    /// same, to reset it and to know of it.
    ///
    /// The listener is to be dropped before, and the acceptor after the last of them.
    ///
    /// # Errors
    ///
    /// Those of the acceptor, but for [`Closed`].
    ///
    /// # Cancel safety
    ///
    /// The socket is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tokio::net::{TcpListener, TcpStream};
    /// # use tower_connection::{Accept, AcceptExt, Backlog};
    /// # async fn hello(_: http::Request<()>) -> Result<http::Response<()>, std::convert::Infallible> { unimplemented!() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut acceptor = Accept::new(tower::service_fn(hello));
    /// let waiting: Vec<TcpStream> = Backlog::of(&listener).collect();
    /// drop(listener);
    /// for socket in waiting {
    ///     let connection = acceptor.take_over(socket).await?;
    ///     tokio::spawn(async { connection.await.map(drop) });
    /// }
    /// drop(acceptor);
    /// # Ok(()) }
    /// ```
    #[expect(
        async_fn_in_trait,
        reason = "the future is as `Send` as the acceptor and the socket are"
    )]
    async fn take_over<Io>(
        &mut self,
        socket: Io,
    ) -> Result<<Self as Service<Io>>::Future, AcceptError<BoxError>>
    where
        Self: Service<Io> + Sized,
        <Self as Service<Io>>::Error: Into<BoxError>,
    {
        poll_fn(|cx| Closed::poll(self, cx))
            .await
            .map_err(AcceptError::Acceptor)?;
        Ok(self.call(socket))
    }
}

impl<A> AcceptExt for A {}

/// Why no connection was accepted.
///
/// ```
/// # use tower_connection::AcceptError;
/// let error: AcceptError<std::convert::Infallible> =
///     AcceptError::Listener(std::io::ErrorKind::OutOfMemory.into());
/// assert_eq!(error.to_string(), "no socket could be accepted");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum AcceptError<E> {
    /// `accept(2)` failed.
    Listener(io::Error),
    /// The acceptor will not become ready any more.
    Acceptor(E),
}

impl AcceptError<BoxError> {
    /// Whether the server ends: close the listener, and serve on what is open.
    ///
    /// ```
    /// # use tower_connection::{AcceptError, Closed};
    /// let error = AcceptError::Acceptor(Closed::default().into());
    /// assert!(error.is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Acceptor(error) if Closed::caused(&**error))
    }
}

impl<E: Into<BoxError>> From<AcceptError<E>> for io::Error {
    fn from(error: AcceptError<E>) -> Self {
        match error {
            AcceptError::Listener(error) => error,
            AcceptError::Acceptor(error) => io::Error::other(error),
        }
    }
}

impl<E> fmt::Display for AcceptError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener(_) => "no socket could be accepted",
            Self::Acceptor(_) => "the acceptor failed",
        })
    }
}

impl<E: Error + 'static> Error for AcceptError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Listener(error) => Some(error),
            Self::Acceptor(error) => Some(error),
        }
    }
}

use std::sync::Arc;

use tower_layer::Layer;

use crate::{Drain, DrainAcceptor, roll::Shared};

/// Puts the connections of an acceptor under a [`Drain`].
///
/// Outermost in the stack: it then knows of each socket from accept to close, and of each request.
///
/// Its acceptor is ready as the one inside is. Once the drain has begun and the lame duck is over, it fails with
/// [`Closed`](tower_connection::Closed) as soon as nobody waits in the backlog, or the acceptor inside is not ready; at
/// which whoever accepts takes out who is left there, and closes the listener. For those it is then ready as the one
/// inside is, until the deadline. Its error is therefore a boxed one.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, service_fn};
/// use tower_connection::Accept;
/// use tower_drain::{Drain, DrainLayer};
///
/// # async fn hello(_: http::Request<()>) -> Result<http::Response<()>, std::convert::Infallible> {
/// #     Ok(http::Response::default())
/// # }
/// let drain = Drain::new(Duration::from_secs(30));
/// let acceptor = ServiceBuilder::new()
///     .layer(DrainLayer::new(&drain)) // or drain.layer()
///     .service(Accept::new(service_fn(hello)));
/// # drop(acceptor);
/// ```
#[derive(Clone, Debug)]
pub struct DrainLayer {
    shared: Arc<Shared>,
}

impl DrainLayer {
    /// Puts connections under `drain`.
    #[must_use]
    pub fn new(drain: &Drain) -> Self {
        Self {
            shared: drain.shared().clone(),
        }
    }
}

impl<A> Layer<A> for DrainLayer {
    type Service = DrainAcceptor<A>;

    fn layer(&self, inner: A) -> DrainAcceptor<A> {
        DrainAcceptor::new(inner, self.shared.clone())
    }
}

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};

pin_project_lite::pin_project! {
    /// A body that keeps a guard until its end.
    ///
    /// What a request holds (a permit, a count) is given back when the last frame has been taken, when
    /// the body fails, or when it is dropped half way. Size, end and trailers are those of the inner
    /// body: a `content-length` stays a `content-length`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use bytes::Bytes;
    /// use http_body_util::{BodyExt, Full};
    /// use tower_connection::Guarded;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), std::convert::Infallible> {
    /// let permit = Arc::new(());
    /// let body = Guarded::new(Full::new(Bytes::from("hi")), permit.clone());
    /// assert_eq!(Arc::strong_count(&permit), 2);
    /// body.collect().await?;
    /// assert_eq!(Arc::strong_count(&permit), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug, Default)]
    pub struct Guarded<B, G> {
        #[pin]
        body: B,
        guard: Option<G>,
    }
}

impl<B, G> Guarded<B, G> {
    /// Keeps `guard` until the end of `body`.
    pub fn new(body: B, guard: G) -> Self {
        Self {
            body,
            guard: Some(guard),
        }
    }

    /// The guard, until the end of the body.
    ///
    /// ```
    /// use std::pin::pin;
    /// use tower_connection::Guarded;
    ///
    /// let mut body = pin!(Guarded::new("hi".to_string(), 1));
    /// *body.as_mut().guard_mut().expect("it has not ended") += 1;
    /// assert_eq!(body.as_mut().guard_mut(), Some(&mut 2));
    /// ```
    #[must_use]
    pub fn guard_mut(self: Pin<&mut Self>) -> Option<&mut G> {
        self.project().guard.as_mut()
    }
}

impl<B: Body, G> Body for Guarded<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let me = self.project();
        let frame = ready!(me.body.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *me.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_connection::Guarded;

use crate::permit::Permit;

pin_project_lite::pin_project! {
    /// The body of a response: the service's own, which holds its slot to the end, or the answer to a request that was
    /// not served.
    ///
    /// An answer is bytes, so the data of the service's bodies must be made from them: `Bytes` is.
    #[derive(Debug)]
    pub struct OverloadBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project_lite::pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<B> {
        Served { #[pin] body: Guarded<B, Option<Permit>> },
        Answer { bytes: Bytes },
    }
}

impl<B> OverloadBody<B> {
    pub(crate) fn served(body: B, permit: Option<Permit>) -> Self {
        Self {
            kind: Kind::Served {
                body: Guarded::new(body, permit),
            },
        }
    }

    pub(crate) fn answer(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Answer { bytes },
        }
    }
}

/// No body.
impl<B> Default for OverloadBody<B> {
    fn default() -> Self {
        Self::answer(Bytes::new())
    }
}

impl<B: Body> Body for OverloadBody<B>
where
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Served { mut body } => {
                if let Some(Some(permit)) = body.as_mut().guard_mut() {
                    permit.reads_on();
                }
                let frame = ready!(body.as_mut().poll_frame(cx));
                if let Some(Some(permit)) = body.as_mut().guard_mut() {
                    permit.waits_for_reader();
                }
                Poll::Ready(frame)
            }
            KindProj::Answer { bytes } if bytes.is_empty() => Poll::Ready(None),
            KindProj::Answer { bytes } => {
                let data = std::mem::take(bytes);
                Poll::Ready(Some(Ok(Frame::data(data.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Served { body } => body.is_end_stream(),
            Kind::Answer { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Served { body } => body.size_hint(),
            Kind::Answer { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

//! The vocabulary through its public API: what is forwarded, held and moved.

use std::{
    any::Any,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout},
};
use tower_connection::{BoxIo, Deadline, Guarded, Held, Hook, Hooked, Over, Socket};

/// Counts what reaches it: plain writes, vectored writes, flushes, shutdowns.
#[derive(Clone, Default)]
struct Counting(Arc<[AtomicUsize; 4]>);

impl Counting {
    fn count(&self, what: usize) {
        self.0[what].fetch_add(1, Ordering::SeqCst);
    }

    fn counts(&self) -> [usize; 4] {
        std::array::from_fn(|what| self.0[what].load(Ordering::SeqCst))
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.count(0);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count(2);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count(3);
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.count(1);
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Socket for Counting {
    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        self
    }
}

struct Nothing(#[expect(dead_code, reason = "a guard is only held")] Arc<()>);

impl<Io: Socket> Hook<Io> for Nothing {}

#[tokio::test]
async fn every_wrapper_forwards_every_write_method() {
    let socket = Counting::default();
    let io = Over::new(socket.clone(), |socket| socket);
    let io = BoxIo::new(Hooked::new(io, Nothing(Arc::new(()))));
    let mut io = Hooked::new(io, Nothing(Arc::new(())));
    assert!(io.is_write_vectored());

    let slices = [IoSlice::new(b"a"), IoSlice::new(b"bc")];
    let vectored = poll_fn(|cx| Pin::new(&mut io).poll_write_vectored(cx, &slices)).await;
    assert_eq!(vectored.expect("written"), 3);
    assert_eq!(socket.counts(), [0, 1, 0, 0]);
    let plain = poll_fn(|cx| Pin::new(&mut io).poll_write(cx, b"abcd")).await;
    assert_eq!(plain.expect("written"), 4);
    poll_fn(|cx| Pin::new(&mut io).poll_flush(cx))
        .await
        .expect("flushed");
    poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx))
        .await
        .expect("shut");
    assert_eq!(socket.counts(), [1, 1, 1, 1]);
}

#[test]
fn what_the_wrappers_held_lives_as_long_as_asked() {
    let permit = Arc::new(());
    let io = Hooked::new(Counting::default(), Nothing(Arc::clone(&permit)));
    let io = Hooked::new(io, Nothing(Arc::clone(&permit)));
    let Ok((socket, held)) = BoxIo::new(io).into_innermost::<Counting>() else {
        panic!("another socket came out");
    };
    drop(socket);
    assert_eq!(Arc::strong_count(&permit), 3);
    drop(held);
    assert_eq!(Arc::strong_count(&permit), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_when_it_was_last_set_to_end() {
    let start = Instant::now();
    let ms = Duration::from_millis;
    let mut deadline = Deadline::default();
    assert!(
        timeout(ms(50), poll_fn(|cx| deadline.poll(cx)))
            .await
            .is_err(),
        "it was never set"
    );

    deadline.set(start + ms(100));
    assert!(
        timeout(ms(49), poll_fn(|cx| deadline.poll(cx)))
            .await
            .is_err(),
        "1 ms before"
    );
    deadline.set(start + ms(200)); // later, with the timer armed
    poll_fn(|cx| deadline.poll(cx)).await;
    assert_eq!(start.elapsed(), ms(200));

    deadline.set(start + ms(1_000));
    assert!(
        timeout(ms(50), poll_fn(|cx| deadline.poll(cx)))
            .await
            .is_err()
    );
    deadline.set(start + ms(300)); // earlier, with the timer armed
    poll_fn(|cx| deadline.poll(cx)).await;
    assert_eq!(start.elapsed(), ms(300));

    deadline.clear();
    assert!(
        timeout(ms(2_000), poll_fn(|cx| deadline.poll(cx)))
            .await
            .is_err(),
        "cleared"
    );
}

#[tokio::test]
async fn trailers_and_errors_pass_and_give_the_guard_back() {
    // CONN-1, CONN-2
    let guard = Arc::new(());
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [
        Ok::<_, io::Error>(Frame::data(Bytes::from("x"))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(tokio_stream(frames));
    let whole = Guarded::new(body, Arc::clone(&guard))
        .collect()
        .await
        .expect("whole");
    assert!(
        whole
            .trailers()
            .is_some_and(|trailers| trailers["grpc-status"] == "0")
    );
    assert_eq!(Arc::strong_count(&guard), 1);

    let failing = StreamBody::new(tokio_stream([Err::<Frame<Bytes>, _>(io::Error::other(
        "cut",
    ))]));
    let mut failing = Box::pin(Guarded::new(failing, Arc::clone(&guard)));
    assert_eq!(Arc::strong_count(&guard), 2);
    let failed = poll_fn(|cx| failing.as_mut().poll_frame(cx)).await;
    assert!(failed.is_some_and(|frame| frame.is_err()));
    assert_eq!(Arc::strong_count(&guard), 1);

    let half = Guarded::new(
        http_body_util::Full::new(Bytes::from("x")),
        Arc::clone(&guard),
    );
    assert_eq!(half.size_hint().exact(), Some(1));
    drop(half);
    assert_eq!(Arc::strong_count(&guard), 1);
}

fn tokio_stream<T>(items: impl IntoIterator<Item = T>) -> impl futures_util::Stream<Item = T> {
    futures_util::stream::iter(items)
}

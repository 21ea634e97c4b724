//! The vocabulary through its public API: what is forwarded, held and moved.

use std::{
    any::Any,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::{Instant, timeout},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, service_fn};
use tower_connection::{
    Accept, AcceptGate, BoxIo, ConnectionHandle, Deadline, Guarded, Held, Hook, Hooked, Obey, Over,
    Rejection, Socket,
};

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

// --- the handle

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_since_its_last_request_ended() {
    let connection = ConnectionHandle::detached();
    assert_eq!(connection.idle_since(), Some(connection.accepted_at()));
    tokio::time::advance(Duration::from_secs(3)).await;
    let first = connection.begin(http::Version::HTTP_2);
    let second = connection.begin(http::Version::HTTP_2);
    drop(first);
    assert_eq!(connection.idle_since(), None, "one is left");
    tokio::time::advance(Duration::from_secs(4)).await;
    drop(second);
    tokio::time::advance(Duration::from_secs(5)).await;
    let idle = connection.accepted_at() + Duration::from_secs(7);
    assert_eq!(connection.idle_since(), Some(idle));
}

#[test]
fn only_an_idle_connection_is_closed_if_idle() {
    // CONN-8
    let refusal = || Rejection::new(Duration::ZERO);
    let connection = ConnectionHandle::detached();
    let request = connection.begin(http::Version::HTTP_11);
    assert!(!connection.close_if_idle(refusal()));
    assert!(!connection.is_closing());
    drop(request);
    assert!(connection.close_if_idle(refusal()));

    // A connection that closes may still have work, and may never get to its end without.
    let connection = ConnectionHandle::detached();
    let request = connection.begin(http::Version::HTTP_11);
    connection.close();
    assert!(!connection.close_if_idle(refusal()));
    drop(request);
    assert!(connection.close_if_idle(refusal()));

    let connection = ConnectionHandle::detached();
    connection.abort();
    assert!(!connection.close_if_idle(refusal()), "it ends anyway");
}

#[tokio::test]
async fn a_request_that_crosses_with_the_end_reads_the_refusal() {
    // CONN-8, LIMIT-10
    let hello = service_fn(|_: http::Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::<String>::default())
    });
    let Ok(connection) = Accept::new(hello).call(tokio::io::duplex(1).1).await;
    let handle = connection.handle().clone();
    let (_io, mut service) = connection.into_parts();
    let Ok(answer) = service.call(http::Request::default()).await;
    assert_eq!(answer.status(), 200);
    assert!(
        !handle.close_if_idle(Rejection::new(Duration::ZERO)),
        "its body is not taken"
    );
    drop(answer);
    assert!(handle.close_if_idle(Rejection::new(Duration::from_secs(3)).close()));
    let Ok(answer) = service.call(http::Request::default()).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "3");
    assert_eq!(answer.headers()["connection"], "close");
}

/// A service that is never ready.
#[derive(Clone)]
struct Never;

impl Service<http::Request<()>> for Never {
    type Response = http::Response<String>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Pending
    }

    fn call(&mut self, _: http::Request<()>) -> Self::Future {
        panic!("it was not ready")
    }
}

#[tokio::test]
async fn a_request_that_waits_for_its_service_is_in_flight() {
    // CONN-5, LIMIT-10. hyper-util asks a clone of the service, with the request in hand.
    let Ok(connection) = Accept::new(Never).call(tokio::io::duplex(1).1).await;
    let handle = connection.handle().clone();
    let (_io, service) = connection.into_parts();
    let mut asked = service.clone();
    let mut waiting = task::spawn(());
    for _ in 0..3 {
        assert_pending!(waiting.enter(|cx, _| asked.poll_ready(cx)));
        assert_eq!((handle.in_flight(), handle.requests()), (1, 1));
    }
    assert!(!handle.close_if_idle(Rejection::new(Duration::ZERO)));
    drop(asked.clone());
    assert_eq!(handle.in_flight(), 1);
    drop(asked);
    assert_eq!(handle.in_flight(), 0);
}

#[tokio::test]
async fn a_refused_request_is_answered_though_the_service_is_not_ready() {
    // CONN-9
    let Ok(connection) = Accept::new(Never).call(tokio::io::duplex(1).1).await;
    let handle = connection.handle().clone();
    let (_io, mut service) = connection.into_parts();
    let mut waiting = task::spawn(());
    handle.refuse(Rejection::new(Duration::from_secs(7)).close());
    assert!(!handle.is_closing(), "until it was told");
    assert_ready_ok!(waiting.enter(|cx, _| service.poll_ready(cx)));
    let upload = http::Request::post("/").header("content-length", "5");
    let Ok(answer) = service.call(upload.body(()).unwrap()).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "7");
    assert!(handle.is_closing());
    assert!(handle.has_unread_body());
    assert_eq!(handle.in_flight(), 1, "until the answer was taken");
    drop(answer);
    assert_eq!(handle.in_flight(), 0);
}

#[tokio::test]
async fn an_upgrade_that_a_gate_objects_to_is_answered_with_its_rejection() {
    // CONN-10
    for (status, method) in [(101, "GET"), (200, "CONNECT")] {
        let switch = service_fn(move |_: http::Request<()>| async move {
            let response = http::Response::builder().status(status);
            Ok::<_, std::convert::Infallible>(response.body(String::new()).unwrap())
        });
        for objects in [false, true] {
            let Ok(connection) = Accept::new(switch).call(tokio::io::duplex(1).1).await;
            let handle = connection.handle().clone();
            if objects {
                handle.gate_upgrades(|| Err(Rejection::new(Duration::from_secs(9))));
            }
            let (_io, mut service) = connection.into_parts();
            let request = http::Request::builder().method(method).body(()).unwrap();
            let Ok(answer) = service.call(request).await;
            assert_eq!(answer.status() == 503, objects);
            assert_eq!(handle.is_upgraded(), !objects);
            assert_eq!(handle.is_closing(), objects);
            assert_eq!(answer.headers().get("connection").is_some(), objects);
        }
    }
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

fn goaway(last: [u8; 4]) -> Vec<u8> {
    frame(7, 0, 0, &[last, [0; 4]].concat())
}

type Obeying = task::Spawn<Hooked<DuplexStream, Obey>>;

fn obeying() -> (DuplexStream, ConnectionHandle, Obeying) {
    let (client, server) = tokio::io::duplex(1_000);
    let handle = ConnectionHandle::new(&server);
    let io = Hooked::new(server, Obey::new(handle.clone()));
    (client, handle, task::spawn(io))
}

fn read(io: &mut Obeying) -> Poll<io::Result<Vec<u8>>> {
    let mut bytes = [0; 100];
    let mut buf = ReadBuf::new(&mut bytes);
    let read = io.enter(|cx, io| io.poll_read(cx, &mut buf));
    read.map_ok(|()| buf.filled().to_vec())
}

fn write(io: &mut Obeying, bytes: &[u8]) {
    assert_ready_ok!(io.enter(|cx, io| io.poll_write(cx, bytes)));
    assert_ready_ok!(io.enter(|cx, io| io.poll_flush(cx)));
}

fn send(client: &mut DuplexStream, bytes: &[u8]) {
    let sent = client.write_all(bytes).now_or_never();
    assert!(sent.is_some_and(|sent| sent.is_ok()));
}

fn heard(client: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = [0; 100];
    let read = client.read(&mut bytes).now_or_never();
    let n = read.map_or(0, |read| read.expect("not cut"));
    bytes[..n].to_vec()
}

/// The preface, SETTINGS, and the head of one request.
fn opening() -> Vec<u8> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    [&preface[..], &frame(4, 0, 0, b""), &frame(1, 5, 1, b"head")].concat()
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_that_nobody_drives_has_the_last_word_after_its_last_stream() {
    // CONN-3
    let (mut client, handle, mut io) = obeying();
    let sent = opening();
    send(&mut client, &sent);
    assert_eq!(assert_ready_ok!(read(&mut io)), sent);

    // The body is taken, and queued in HTTP/2: nothing is in flight, and the stream is open.
    let request = handle.begin(http::Version::HTTP_2);
    assert_pending!(read(&mut io));
    handle.close();
    assert!(io.is_woken());
    drop(request);
    assert_pending!(read(&mut io));
    assert_eq!(heard(&mut client), goaway([127, 255, 255, 255]));
    assert_pending!(read(&mut io));

    // A frame that is not whole is not interrupted.
    let end = frame(0, 1, 1, b"done");
    let (half, rest) = end.split_at(10);
    for part in [half, rest] {
        assert!(!io.is_woken());
        assert_pending!(read(&mut io));
        assert_ready_ok!(io.enter(|cx, io| io.poll_write(cx, part)));
        assert_pending!(read(&mut io), "not flushed yet");
        assert_ready_ok!(io.enter(|cx, io| io.poll_flush(cx)));
        assert_eq!(heard(&mut client), part);
        // HTTP/2 reads again only if it is woken.
        assert_eq!(io.is_woken(), part == rest, "at the end of the stream");
        if part == half {
            assert_pending!(read(&mut io));
        }
    }
    tokio::time::advance(Duration::from_millis(201)).await; // for what crosses with the first
    assert_eq!(assert_ready_ok!(read(&mut io)), b"");
    assert_eq!(heard(&mut client), goaway([0, 0, 0, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_goaway_never_names_more_than_the_one_before() {
    // CONN-3; RFC 9113, section 6.8. The HTTP stack has said its own: the server is shutting down.
    let (mut client, handle, mut io) = obeying();
    send(&mut client, &opening());
    assert_ready_ok!(read(&mut io));
    assert_pending!(read(&mut io));
    write(&mut io, &goaway([0, 0, 0, 1]));
    assert_eq!(heard(&mut client), goaway([0, 0, 0, 1]));
    handle.close();
    assert_pending!(read(&mut io));
    assert_eq!(heard(&mut client), b"", "there is nothing to announce");
    let end = frame(0, 1, 1, b"done");
    write(&mut io, &end);
    tokio::time::advance(Duration::from_millis(199)).await;
    assert_pending!(read(&mut io), "something may still cross");
    tokio::time::advance(Duration::from_millis(2)).await;
    assert_eq!(assert_ready_ok!(read(&mut io)), b"");
    assert_eq!(heard(&mut client), [end, goaway([0, 0, 0, 1])].concat());
}

#[tokio::test]
async fn the_rest_of_a_body_that_nobody_read_is_no_head() {
    // READ-3: hyper reads it after the response, so that the connection can be kept.
    let hello = service_fn(|_: http::Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::<String>::default())
    });
    let (mut client, server) = tokio::io::duplex(1_000);
    let Ok(connection) = Accept::new(hello).call(server).await;
    let handle = connection.handle().clone();
    let (io, mut service) = connection.into_parts();
    let mut io = task::spawn(io);
    let post = http::Request::post("/").header("content-length", "7");
    handle.set_timed();
    let body = handle.begin_body();
    let Ok(answer) = service.call(post.body(()).unwrap()).await;
    drop((answer, body));

    send(&mut client, b"{\"a\":1}");
    assert_ready_ok!(read(&mut io));
    assert_pending!(read(&mut io));
    assert_eq!(handle.head_since(), None);
    send(&mut client, b"GET");
    assert_ready_ok!(read(&mut io));
    assert_pending!(read(&mut io));
    assert!(handle.head_since().is_some());
}

#[tokio::test]
async fn half_a_head_after_a_body_that_nobody_read_is_one_once_nothing_was_there_to_read() {
    // READ-3: hyper had all of the body, and begun to read what comes next, before the service was called.
    let hello = service_fn(|_: http::Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::<String>::default())
    });
    let (mut client, server) = tokio::io::duplex(1_000);
    let Ok(connection) = Accept::new(hello).call(server).await;
    let handle = connection.handle().clone();
    let (io, mut service) = connection.into_parts();
    let mut io = task::spawn(io);
    let post = http::Request::post("/").header("content-length", "7");
    handle.set_timed();
    let body = handle.begin_body();
    assert_pending!(read(&mut io));
    let in_flight = service.call(post.body(()).unwrap());
    drop(body);
    assert!(io.is_woken(), "to look again");
    let Ok(answer) = in_flight.await;
    drop(answer);
    assert_pending!(read(&mut io));

    send(&mut client, b"GET");
    assert_ready_ok!(read(&mut io));
    assert_pending!(read(&mut io));
    assert!(handle.head_since().is_some());
}

#[tokio::test]
async fn a_request_is_whole_without_a_body_or_when_all_of_it_was_seen() {
    // KEEP-3
    let hello = service_fn(|_: http::Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::<String>::default())
    });
    let (_client, server) = tokio::io::duplex(1_000);
    let Ok(connection) = Accept::new(hello).call(server).await;
    let handle = connection.handle().clone();
    handle.set_timed();
    let (io, mut service) = connection.into_parts();
    let mut io = task::spawn(io);
    let mut begin = |name, value| {
        let request = http::Request::post("/").header(name, value).body(());
        let _response = service.call(request.unwrap());
        handle.begin_body()
    };

    drop(begin("content-length", "0"));
    assert!(handle.has_whole_request());
    let body = begin("content-length", "7");
    assert!(!handle.has_whole_request());
    body.complete();
    assert!(handle.has_whole_request());
    drop(begin("content-length", "7"));
    assert!(!handle.has_whole_request());
    assert_pending!(read(&mut io));
    assert!(!handle.has_whole_request(), "hyper may close");
    begin("transfer-encoding", "chunked").complete();
    assert!(!handle.has_whole_request(), "it may have a length, too");
}

// --- the gate

#[test]
fn a_gate_opens_after_the_last_has_let_go_and_wakes_who_waits() {
    // ACCEPT-7
    let gate = AcceptGate::default();
    let ready = service_fn(|(): ()| async { Ok::<_, std::convert::Infallible>(()) });
    let mut acceptor = gate.layer(ready);
    let mut waiting = task::spawn(());
    assert_ready_ok!(waiting.enter(|cx, _| acceptor.poll_ready(cx)));

    let (one, two) = (gate.shut(), gate.shut());
    assert_pending!(waiting.enter(|cx, _| acceptor.poll_ready(cx)));
    assert_eq!(gate.waiting(), 1);
    drop(one);
    assert!(!waiting.is_woken());
    drop(two);
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.enter(|cx, _| acceptor.poll_ready(cx)));

    let _shut = gate.shut();
    assert_pending!(waiting.enter(|cx, _| acceptor.poll_ready(cx)));
    drop(acceptor);
    assert_eq!(gate.waiting(), 0, "nobody is left");
}

// --- deadlines of a process that does not get its time

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_noticed_late_gets_a_second_look_and_no_third() {
    // READ-7
    let start = Instant::now();
    let mut deadline = Deadline::default();
    deadline.set(start + Duration::from_secs(1));
    let mut waiting = task::spawn(());
    assert_pending!(waiting.enter(|cx, _| deadline.poll(cx)));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(waiting.is_woken());
    deadline.set(start + Duration::from_secs(1)); // as a socket half does each time
    assert_pending!(waiting.enter(|cx, _| deadline.poll(cx)));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(waiting.is_woken());
    assert_ready!(waiting.enter(|cx, _| deadline.poll(cx)));

    // One that is noticed in time gets none.
    let at = Instant::now() + Duration::from_secs(1);
    deadline.set(at);
    assert_pending!(waiting.enter(|cx, _| deadline.poll(cx)));
    tokio::time::advance(Duration::from_millis(1_040)).await;
    assert_ready!(waiting.enter(|cx, _| deadline.poll(cx)));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_armed_when_the_budget_is_spent_still_ends() {
    // tokio 1.54 then does not look at the timer at all.
    let start = Instant::now();
    let mut deadline = Deadline::default();
    deadline.set(start + Duration::from_secs(1));
    let mut spend = true;
    poll_fn(|cx| {
        while std::mem::take(&mut spend) {
            while tokio::task::coop::has_budget_remaining() {
                let _ = std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx);
            }
        }
        deadline.poll(cx)
    })
    .await;
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

/// A socket whose peer may have left.
struct Left(DuplexStream, Arc<AtomicBool>);

impl Socket for Left {
    fn has_hung_up(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }

    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        self
    }
}

impl AsyncRead for Left {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Left {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// When the socket of one that has left fails, if it is only flushed from now on.
async fn fails_after<Io: AsyncWrite + Unpin>(io: &mut Io) -> Option<Duration> {
    let start = Instant::now();
    let failed = poll_fn(|cx| match Pin::new(&mut *io).poll_flush(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error.kind()),
        _ => Poll::Pending,
    });
    let kind = timeout(ms(60_000), failed).await.ok()?;
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
    Some(start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_found_within_a_second_if_nobody_reads() {
    // CONN-11
    let (mut client, server) = tokio::io::duplex(64);
    let left = Arc::new(AtomicBool::new(false));
    let server = Left(server, left.clone());
    let handle = ConnectionHandle::new(&server);
    let mut io = Hooked::new(server, Obey::new(handle.clone()));

    left.store(true, Ordering::SeqCst);
    assert_eq!(fails_after(&mut io).await, None, "nothing is in flight");

    let request = handle.begin(http::Version::HTTP_11);
    client.write_all(b"GET /").await.expect("open");
    assert_eq!(io.read(&mut [0; 64]).await.expect("bytes"), 5);
    assert_eq!(fails_after(&mut io).await, Some(ms(1_000)));

    left.store(false, Ordering::SeqCst);
    let leaves = async {
        tokio::time::sleep(ms(1_700)).await;
        left.store(true, Ordering::SeqCst);
    };
    let (found, ()) = tokio::join!(fails_after(&mut io), leaves);
    assert_eq!(found, Some(ms(2_000)));

    for _ in 0..10 {
        let read = timeout(ms(500), io.read(&mut [0; 64])).await;
        assert!(read.is_err(), "it waits, and would find the end");
        io.flush().await.expect("nobody has looked");
    }
    drop(request);
}

#[tokio::test(start_paused = true)]
async fn who_may_end_his_half_has_not_left() {
    // CONN-11: with hyper's `half_close(true)`, whoever ended his half was cut after a second, and read no answer.
    let (_client, server) = tokio::io::duplex(64);
    let server = Left(server, Arc::new(AtomicBool::new(true)));
    let handle = ConnectionHandle::new(&server);
    handle.allow_half_close();
    let mut io = Hooked::new(server, Obey::new(handle.clone()));
    let request = handle.begin(http::Version::HTTP_11);
    assert_eq!(fails_after(&mut io).await, None);
    drop(request);
}

#[tokio::test]
async fn what_is_said_last_needs_no_budget_and_a_long_response_has_one() {
    // Of HTTP/2 it is some frames; of HTTP/1 it would be all of a response whose client keeps up, in one turn of its task.
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (said, goes) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], false), (http2, true)] {
        let (mut client, server) = tokio::io::duplex(1024);
        let handle = ConnectionHandle::new(&server);
        let mut io = Hooked::new(server, Obey::new(handle.clone()));
        client.write_all(said).await.expect("open");
        io.read_exact(&mut vec![0; said.len()])
            .await
            .expect("bytes");
        handle.close();
        let poll = poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                assert_ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            }
            Poll::Ready(Pin::new(&mut io).poll_write(cx, b".").is_ready())
        });
        assert_eq!(poll.await, goes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_seen_without_a_budget() {
    // Who is sent something at all times is asked only when its task has used up tokio's budget.
    let mut deadline = Deadline::default();
    deadline.set(Instant::now() + ms(1_000));
    for (after, passed) in [(0, false), (999, false), (1, true)] {
        tokio::time::advance(ms(after)).await;
        let poll = poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                assert_ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            }
            Poll::Ready(deadline.poll(cx))
        });
        assert_eq!(poll.await.is_ready(), passed);
    }
}

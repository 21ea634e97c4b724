//! Against a kernel that holds what the test says.

use std::{
    any::Any,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::advance,
};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_connection::{Accept, BoxIo, ConnectionHandle, Held, Socket};
use tower_write_timeout::WriteTimeoutLayer;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A socket whose other side the test is.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<Inside>>);

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a test wants to know or to say"
)]
struct Inside {
    /// How much more it takes.
    room: usize,
    /// Nobody counts what it holds.
    uncounted: bool,
    /// A layer outside has no more time.
    spent: bool,
    held: usize,
    looks: usize,
    shut: bool,
    reset: bool,
}

impl Kernel {
    fn with<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        change(&mut self.0.lock().expect("nobody panicked"))
    }
}

impl AsyncRead for Kernel {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Kernel {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|inside| {
            let n = buf.len().min(inside.room);
            inside.room -= n;
            inside.held += n;
            if n == 0 {
                Poll::Pending
            } else {
                Poll::Ready(Ok(n))
            }
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.with(|inside| inside.spent) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|inside| inside.shut = true);
        Poll::Ready(Ok(()))
    }
}

impl Socket for Kernel {
    fn unacked(&self) -> io::Result<usize> {
        self.with(|inside| {
            inside.looks += 1;
            if inside.uncounted {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Ok(inside.held)
        })
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.with(|inside| inside.reset = true);
        Ok(())
    }

    fn into_innermost(self: Box<Self>, _: &mut Held) -> Box<dyn Any + Send> {
        self
    }
}

/// The connection becomes something else.
async fn upgrade(_: Request<()>) -> Result<Response<()>, Infallible> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(response)
}

/// A connection over a kernel with so much room.
async fn connect(layer: WriteTimeoutLayer, room: usize) -> (BoxIo, Kernel, ConnectionHandle) {
    let kernel = Kernel::default();
    kernel.with(|inside| inside.room = room);
    let acceptor = layer.layer(Accept::new(service_fn(upgrade)));
    let Ok(connection) = acceptor.oneshot(kernel.clone()).await;
    let handle = connection.handle().clone();
    let (io, _service) = connection.map_io(BoxIo::new).into_parts();
    (io, kernel, handle)
}

/// The same, after an upgrade.
async fn connect_upgraded(room: usize) -> (BoxIo, Kernel, ConnectionHandle) {
    let kernel = Kernel::default();
    kernel.with(|inside| inside.room = room);
    let acceptor = WriteTimeoutLayer::default().layer(Accept::new(service_fn(upgrade)));
    let Ok(connection) = acceptor.oneshot(kernel.clone()).await;
    let handle = connection.handle().clone();
    let (io, service) = connection.map_io(BoxIo::new).into_parts();
    let Ok(_response) = service.oneshot(Request::new(())).await;
    assert!(handle.is_upgraded());
    (io, kernel, handle)
}

fn flush(io: &mut BoxIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    Pin::new(io).poll_flush(cx)
}

fn shut_down(io: &mut BoxIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    Pin::new(io).poll_shutdown(cx)
}

fn read(io: &mut BoxIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut byte = [0];
    Pin::new(io).poll_read(cx, &mut ReadBuf::new(&mut byte))
}

fn write(io: &mut BoxIo, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
    Pin::new(io).poll_write(cx, &vec![b'.'; bytes])
}

fn assert_given_up<T>(polled: Poll<io::Result<T>>, kernel: &Kernel, handle: &ConnectionHandle) {
    let Poll::Ready(Err(error)) = polled else {
        panic!("it goes on");
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(kernel.with(|inside| inside.reset));
    assert!(handle.is_aborted());
}

#[tokio::test(start_paused = true)]
async fn small_responses_cost_neither_a_timer_nor_a_look() {
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    for _ in 0..100 {
        connection.enter(|cx, _| {
            assert!(write(&mut io, cx, 150).is_ready());
            assert!(flush(&mut io, cx).is_ready());
            assert_pending!(read(&mut io, cx));
        });
    }
    assert_eq!(kernel.with(|inside| inside.looks), 0);
    advance(3_600 * S).await;
    assert!(!connection.is_woken(), "there is no timer");
}

#[tokio::test(start_paused = true)]
async fn a_large_response_that_was_taken_costs_a_look_and_no_timer() {
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100_000).is_ready());
        kernel.with(|inside| inside.held = 10_000);
        assert_pending!(read(&mut io, cx));
        assert_pending!(read(&mut io, cx));
    });
    assert_eq!(kernel.with(|inside| inside.looks), 1);
    advance(3_600 * S).await;
    assert!(!connection.is_woken());
}

#[tokio::test(start_paused = true)]
async fn what_stays_in_the_kernel_after_the_response_is_timed() {
    // WRITE-2
    let (mut io, kernel, handle) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100_000).is_ready());
        assert_pending!(read(&mut io, cx));
    });
    // In steps, as time in which nobody looks is not the client's.
    for _ in 0..2_999 {
        advance(10 * MS).await;
        connection.enter(|cx, _| assert_pending!(read(&mut io, cx)));
    }
    advance(9 * MS).await;
    connection.enter(|cx, _| assert_pending!(read(&mut io, cx)));
    advance(MS).await;
    assert!(connection.is_woken());
    connection.enter(|cx, _| assert_given_up(read(&mut io, cx), &kernel, &handle));
    connection.enter(|cx, _| assert!(matches!(write(&mut io, cx, 1), Poll::Ready(Err(_)))));
}

#[tokio::test(start_paused = true)]
async fn who_takes_the_rest_is_looked_after_no_more() {
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100_000).is_ready());
        assert_pending!(read(&mut io, cx));
    });
    kernel.with(|inside| inside.held = 0);
    while !connection.is_woken() {
        advance(10 * MS).await;
    }
    connection.enter(|cx, _| assert_pending!(read(&mut io, cx)));
    let looks = kernel.with(|inside| inside.looks);
    advance(3_600 * S).await;
    assert!(!connection.is_woken());
    assert_eq!(looks, 2);
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_the_client_and_no_longer_than_its_time() {
    // WRITE-2
    for taken in [true, false] {
        let (mut io, kernel, handle) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
        let mut connection = task::spawn(());
        connection.enter(|cx, _| {
            assert!(write(&mut io, cx, 100).is_ready());
            assert_pending!(shut_down(&mut io, cx));
        });
        assert!(kernel.with(|inside| inside.shut), "it says its end first");
        for _ in 0..2_999 {
            advance(10 * MS).await;
            connection.enter(|cx, _| assert_pending!(shut_down(&mut io, cx)));
        }
        if taken {
            kernel.with(|inside| inside.held = 0);
        }
        advance(10 * MS).await;
        assert!(connection.is_woken());
        let shut = connection.enter(|cx, _| shut_down(&mut io, cx));
        if taken {
            assert!(matches!(shut, Poll::Ready(Ok(()))));
            assert!(!kernel.with(|inside| inside.reset));
        } else {
            assert_given_up(shut, &kernel, &handle);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_was_taken_waits_for_nothing() {
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100).is_ready());
        kernel.with(|inside| inside.held = 0);
        assert!(shut_down(&mut io, cx).is_ready());
    });
}

#[tokio::test(start_paused = true)]
async fn reads_and_writes_may_be_awaited_by_two_tasks() {
    // WRITE-1: of an upgraded connection
    let (mut io, kernel, handle) = connect(WriteTimeoutLayer::default(), 50_000).await;
    let (mut reader, mut writer) = (task::spawn(()), task::spawn(()));
    writer.enter(|cx, _| {
        assert!(write(&mut io, cx, 100_000).is_ready());
        assert_pending!(write(&mut io, cx, 50_000));
    });
    reader.enter(|cx, _| assert_pending!(read(&mut io, cx)));
    drop(reader); // it has had enough
    for _ in 0..3_000 {
        advance(10 * MS).await;
        if writer.is_woken() {
            if let polled @ Poll::Ready(_) = writer.enter(|cx, _| write(&mut io, cx, 50_000)) {
                return assert_given_up(polled, &kernel, &handle);
            }
        }
    }
    panic!("nobody woke the writer");
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_looked_is_not_charged() {
    // WRITE-5
    let (mut io, kernel, handle) = connect(WriteTimeoutLayer::default(), 50_000).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100_000).is_ready());
        assert_pending!(write(&mut io, cx, 50_000));
    });
    // Stopped. The time until the next look was planned is the client's.
    advance(600 * S).await;
    connection.enter(|cx, _| assert_pending!(write(&mut io, cx, 50_000)));
    for _ in 0..2_900 {
        advance(10 * MS).await;
        connection.enter(|cx, _| assert_pending!(write(&mut io, cx, 50_000)));
    }
    for _ in 0..110 {
        advance(10 * MS).await;
        if let polled @ Poll::Ready(_) = connection.enter(|cx, _| write(&mut io, cx, 50_000)) {
            return assert_given_up(polled, &kernel, &handle);
        }
    }
    panic!("it is never given up");
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_counts_is_progress_though_the_socket_stays_full() {
    // WRITE-1: Linux calls a full socket writable only when a third of it was taken.
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), 3_000_000).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 3_000_000).is_ready());
        assert_pending!(write(&mut io, cx, 50_000));
    });
    for _ in 0..25 {
        for _ in 0..20 {
            advance(S).await;
            connection.enter(|cx, _| assert_pending!(write(&mut io, cx, 50_000)));
        }
        kernel.with(|inside| inside.held -= 64 * 1024);
    }
}

#[tokio::test(start_paused = true)]
async fn who_only_reads_is_woken_by_what_another_task_writes() {
    // WRITE-1: of an upgraded connection; the writer does not touch the socket again.
    for flushes in [true, false] {
        let (mut io, kernel, handle) = connect_upgraded(usize::MAX).await;
        let (mut reader, mut writer) = (task::spawn(()), task::spawn(()));
        reader.enter(|cx, _| assert_pending!(read(&mut io, cx)));
        writer.enter(|cx, _| {
            assert!(write(&mut io, cx, 200_000).is_ready());
            if flushes {
                assert!(flush(&mut io, cx).is_ready());
            }
        });
        let mut given_up = None;
        for _ in 0..3_100 {
            advance(10 * MS).await;
            if reader.is_woken() {
                if let polled @ Poll::Ready(_) = reader.enter(|cx, _| read(&mut io, cx)) {
                    given_up = Some(polled);
                    break;
                }
            }
        }
        assert_given_up(given_up.expect("in time"), &kernel, &handle);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_seldom_written_to_is_given_up_all_the_same() {
    // WRITE-1: it is forgiven once that nobody looked.
    let (mut io, kernel, handle) = connect_upgraded(usize::MAX).await;
    let mut writer = task::spawn(());
    writer.enter(|cx, _| assert!(write(&mut io, cx, 200_000).is_ready()));
    for _ in 0..12 {
        let flushed = writer.enter(|cx, _| flush(&mut io, cx));
        if flushed.is_ready() && matches!(flushed, Poll::Ready(Err(_))) {
            return assert_given_up(flushed, &kernel, &handle);
        }
        advance(10 * S).await;
        writer.enter(|cx, _| drop(write(&mut io, cx, 10)));
        advance(30 * MS).await;
    }
    panic!("it is never given up");
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_end_is_not_charged() {
    // WRITE-5: all of it was taken while the process was stopped, and then the end is said in one turn.
    let layer = WriteTimeoutLayer::new(2 * S);
    let (mut io, kernel, _) = connect(layer, 500_000).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 500_000).is_ready());
        assert_pending!(write(&mut io, cx, 100_000));
    });
    advance(5 * S).await;
    kernel.with(|inside| (inside.room, inside.held) = (usize::MAX, 0));
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100_000).is_ready());
        assert!(flush(&mut io, cx).is_ready());
        assert_pending!(shut_down(&mut io, cx));
    });
    advance(30 * MS).await;
    connection.enter(|cx, _| assert_pending!(shut_down(&mut io, cx)));
    kernel.with(|inside| inside.held = 0);
    while !connection.is_woken() {
        advance(10 * MS).await;
    }
    connection.enter(|cx, _| assert!(matches!(shut_down(&mut io, cx), Poll::Ready(Ok(())))));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_all_that_is_left_is_not_waited_for() {
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100).is_ready());
        kernel.with(|inside| inside.held = 1); // the FIN, of a client that has vanished
        assert!(shut_down(&mut io, cx).is_ready());
        // A tunnel reads on.
        let looks = kernel.with(|inside| inside.looks);
        assert_pending!(read(&mut io, cx));
        assert_pending!(read(&mut io, cx));
        assert_eq!(kernel.with(|inside| inside.looks), looks);
    });
}

#[tokio::test(start_paused = true)]
async fn a_layer_outside_may_have_less_time_for_the_end() {
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100).is_ready());
        assert_pending!(shut_down(&mut io, cx));
        kernel.with(|inside| inside.spent = true);
        assert!(matches!(shut_down(&mut io, cx), Poll::Ready(Err(_))));
    });
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_cut_leaves_nothing_in_the_kernel() {
    // WRITE-2: the service failed, or the client has said its end; the HTTP stack drops the socket.
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| assert!(write(&mut io, cx, 100_000).is_ready()));
    drop(io);
    assert!(kernel.with(|inside| inside.reset));
}

#[tokio::test(start_paused = true)]
async fn what_is_whole_or_small_or_not_http_is_the_kernels() {
    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    let mut connection = task::spawn(());
    connection.enter(|cx, _| assert!(write(&mut io, cx, 10_000).is_ready()));
    drop(io); // perhaps the answer to a bad request
    assert!(!kernel.with(|inside| inside.reset));

    let (mut io, kernel, _) = connect(WriteTimeoutLayer::default(), usize::MAX).await;
    connection.enter(|cx, _| {
        assert!(write(&mut io, cx, 100_000).is_ready());
        assert_pending!(shut_down(&mut io, cx));
    });
    drop(io);
    assert!(!kernel.with(|inside| inside.reset));

    let (mut io, kernel, _) = connect_upgraded(usize::MAX).await;
    connection.enter(|cx, _| assert!(write(&mut io, cx, 100_000).is_ready()));
    drop(io);
    assert!(!kernel.with(|inside| inside.reset));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_counts_a_write_that_was_given_up_is_no_debt() {
    let (mut io, kernel, _) = connect_upgraded(100).await;
    kernel.with(|inside| inside.uncounted = true);
    let (mut reader, mut writer) = (task::spawn(()), task::spawn(()));
    writer.enter(|cx, _| {
        assert!(write(&mut io, cx, 200).is_ready());
        assert_pending!(write(&mut io, cx, 100));
    });
    drop(writer); // it was a write with a timeout
    for _ in 0..6_000 {
        reader.enter(|cx, _| assert_pending!(read(&mut io, cx)));
        advance(10 * MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_counts_a_write_that_waits_is_one() {
    // WRITE-1
    let (mut io, kernel, handle) = connect(WriteTimeoutLayer::default(), 100).await;
    kernel.with(|inside| inside.uncounted = true);
    let mut connection = task::spawn(());
    connection.enter(|cx, _| assert!(write(&mut io, cx, 200).is_ready()));
    for _ in 0..3_001 {
        let polled = connection.enter(|cx, _| match read(&mut io, cx) {
            Poll::Pending => write(&mut io, cx, 100).map_ok(|_| ()),
            read @ Poll::Ready(_) => read,
        });
        if polled.is_ready() {
            return assert_given_up(polled, &kernel, &handle);
        }
        advance(10 * MS).await;
    }
    panic!("it is never given up");
}

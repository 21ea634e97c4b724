use tokio::net::{TcpListener, TcpStream};

/// What waits in the backlog of a listener that is about to be closed.
///
/// Closing a listener resets the connections that nobody has accepted, with their requests already sent. So take
/// them first, here: each item is a socket, and after the last one the listener is to be dropped at once, without
/// an `await` in between.
///
/// The kernel itself is asked. (tokio's `poll_accept` looks at what epoll said, which may be out of date, and
/// pretends that there is nothing once a task has spent its budget: 1.54.) On Linux nobody comes in between the last
/// look and the end: from the first time that nobody waits, new clients get no answer from this listener. They ask
/// again after a second, and find who listens then.
///
/// A handshake that is under way at the end (a client whose last packet has not come) is reset by the kernel. Errors
/// end it: without descriptors nobody can be accepted. Where sockets are not files it is empty.
///
/// # Examples
///
/// ```
/// use tokio::net::{TcpListener, TcpStream};
/// use tower_connection::Backlog;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let _client = TcpStream::connect(listener.local_addr()?).await?;
///
/// assert_eq!(Backlog::of(&listener).count(), 1);
/// drop(listener);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Backlog<'a> {
    listener: &'a TcpListener,
    /// Nobody new can come.
    hushed: bool,
}

impl<'a> Backlog<'a> {
    /// What waits at `listener`.
    #[must_use]
    pub fn of(listener: &'a TcpListener) -> Self {
        Self {
            listener,
            hushed: false,
        }
    }
}

#[cfg(unix)]
impl Iterator for Backlog<'_> {
    type Item = TcpStream;

    fn next(&mut self) -> Option<TcpStream> {
        use std::io::ErrorKind;

        let listener = socket2::SockRef::from(self.listener);
        loop {
            match listener.accept() {
                Ok((socket, _)) => {
                    let made = socket
                        .set_nonblocking(true)
                        .and_then(|()| TcpStream::from_std(socket.into()));
                    // It is the kernel that would refuse one of the two, and it refuses one client only.
                    if let Ok(socket) = made {
                        return Some(socket);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.hushed => {
                    self.hushed = true;
                    hush(&listener);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(not(unix))]
impl Iterator for Backlog<'_> {
    type Item = TcpStream;

    fn next(&mut self) -> Option<TcpStream> {
        None
    }
}

/// From now on the kernel drops each SYN to this listener, and ends the handshakes that are under way.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn hush(listener: &socket2::Socket) {
    use socket2::SockFilter;

    // Classic BPF over the TCP header (linux/filter.h): byte 13 has the flags (RFC 9293, section 3.1).
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K: how many bytes are let through
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    // Accepted sockets inherit it, and never get a lone SYN.
    let no_new_clients = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    // Refused (by a sandbox), some microseconds are left in which somebody can come.
    let _ = listener.attach_filter(&no_new_clients);
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn hush(_: &socket2::Socket) {}

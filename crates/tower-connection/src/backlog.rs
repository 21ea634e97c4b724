use std::io;

use tokio::net::{TcpListener, TcpStream};

/// What waits in the backlog of a listener that is about to be closed.
///
/// Closing a listener resets the connections that nobody has accepted, with their requests already sent. So take
/// them first, here: each item is a socket, and after the last one the listener is to be dropped at once, without
/// an `await` in between.
///
/// The kernel itself is asked. (tokio's `poll_accept` looks at what epoll said, which may be out of date, and
/// pretends that there is nothing once a task has spent its budget: 1.54.) It ends after 65,535, which is more than
/// a backlog holds unless somebody has set `net.core.somaxconn` higher, and at the first error. Without descriptors
/// nobody can be accepted, but some will come free: [`try_next`](Backlog::try_next) tells that from the end. Where
/// sockets are not files it is empty.
///
/// Reset all the same are those who come between the last look and the close, which is some microseconds, and those
/// of whose handshake the last packet is under way. (A filter that drops each SYN meanwhile was tried, and closes
/// that gap; but on a socket that is shared with a parent or a successor it would outlive this process, and shut
/// everybody out.)
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
pub struct Backlog<'a, L = TcpListener> {
    #[cfg_attr(not(unix), expect(dead_code, reason = "nobody is asked"))]
    listener: &'a L,
    /// How many more are taken, so that a rush of newcomers cannot go on for ever.
    left: u16,
}

impl<'a, L> Backlog<'a, L> {
    /// What waits at `listener`, a [`TcpListener`] or a `UnixListener`.
    #[must_use]
    pub fn of(listener: &'a L) -> Self {
        Self {
            listener,
            left: u16::MAX,
        }
    }

    #[cfg(unix)]
    fn next_of<Io>(
        &mut self,
        accept: impl Fn(socket2::SockRef<'_>) -> io::Result<Io>,
    ) -> io::Result<Option<Io>>
    where
        L: std::os::fd::AsFd,
    {
        use io::ErrorKind::{ConnectionAborted, Interrupted};

        while self.left > 0 {
            self.left -= 1;
            match accept(socket2::SockRef::from(self.listener)) {
                Ok(socket) => return Ok(Some(socket)),
                // One client has left, or a signal has come.
                Err(error) if matches!(error.kind(), ConnectionAborted | Interrupted) => {}
                // Linux takes a descriptor first, and looks for a client second: nobody need be there.
                Err(error) if is_shortage(&error) && self.somebody_waits() => return Err(error),
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }
}

#[cfg(unix)]
impl<L: std::os::fd::AsFd> Backlog<'_, L> {
    /// Asks without a descriptor for it.
    fn somebody_waits(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let mut asked = [PollFd::new(self.listener, PollFlags::IN)];
        let at_once = Timespec::default();
        // If it cannot be told: to wait for nobody is less than to reset somebody.
        poll(&mut asked, Some(&at_once)).is_err() || !asked[0].revents().is_empty()
    }
}

/// Out of descriptors, of this process or of all (`EMFILE` and `ENFILE`, the same number on each Unix), or of memory.
#[cfg(unix)]
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24)) || error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(unix)]
impl Backlog<'_, TcpListener> {
    /// The next one, if somebody waits.
    ///
    /// # Errors
    ///
    /// Out of descriptors or memory, while somebody waits: keep the listener, and try again.
    ///
    /// ```
    /// # use tokio::net::TcpListener;
    /// # use tower_connection::Backlog;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// assert!(Backlog::of(&listener).try_next()?.is_none());
    /// # Ok(()) }
    /// ```
    pub fn try_next(&mut self) -> io::Result<Option<TcpStream>> {
        self.next_of(|listener| {
            let (socket, _) = listener.accept()?;
            socket.set_nonblocking(true)?;
            TcpStream::from_std(socket.into())
        })
    }
}

#[cfg(not(unix))]
impl Backlog<'_, TcpListener> {
    /// Nobody.
    ///
    /// # Errors
    ///
    /// None.
    pub fn try_next(&mut self) -> io::Result<Option<TcpStream>> {
        Ok(None)
    }
}

impl Iterator for Backlog<'_, TcpListener> {
    type Item = TcpStream;

    fn next(&mut self) -> Option<TcpStream> {
        self.try_next().ok().flatten()
    }
}

#[cfg(unix)]
impl Backlog<'_, tokio::net::UnixListener> {
    /// The next one, if somebody waits.
    ///
    /// # Errors
    ///
    /// Those of the other.
    pub fn try_next(&mut self) -> io::Result<Option<tokio::net::UnixStream>> {
        self.next_of(|listener| {
            let (socket, _) = listener.accept()?;
            socket.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(socket.into())
        })
    }
}

#[cfg(unix)]
impl Iterator for Backlog<'_, tokio::net::UnixListener> {
    type Item = tokio::net::UnixStream;

    fn next(&mut self) -> Option<tokio::net::UnixStream> {
        self.try_next().ok().flatten()
    }
}

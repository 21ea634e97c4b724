//! How many bytes of a socket its peer has not taken yet.
//!
//! Whether a socket can be written to says little of its peer: Linux reports a full send buffer writable again
//! only after a third of it was acknowledged, which a slow and honest reader may need minutes for. The length of
//! the kernel's queue moves with each byte that the peer takes. There is an `ioctl` for it, and neither the
//! standard library nor socket2, rustix or nix has a safe name for it; this crate is that name, and the one
//! place with unsafe code.
//!
//! # Examples
//!
//! ```
//! # #[cfg(target_os = "linux")]
//! # fn main() -> std::io::Result<()> {
//! use std::{io::Write, net::{TcpListener, TcpStream}};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let reader = TcpStream::connect(listener.local_addr()?)?;
//! let (mut writer, _) = listener.accept()?;
//! writer.set_nonblocking(true)?;
//!
//! while writer.write(&[0; 65_536]).is_ok() {} // nobody reads
//! assert!(unacked::bytes(&writer)? > 0);
//! # drop(reader);
//! # Ok(())
//! # }
//! # #[cfg(not(target_os = "linux"))]
//! # fn main() {}
//! ```

#[cfg(unix)]
use std::{io, os::fd::AsFd};

/// How many bytes were written to `socket` that its peer has not acknowledged, whether they were sent or not.
///
/// TCP counts a FIN as one byte. After the connection was reset, what was left in the queue stays in the count.
/// A Unix socket counts memory, a little more than its bytes, until they are read.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported) on anything but Linux and Android, and what `ioctl(2)` returned:
/// `EINVAL` for a socket that listens, `ENOTTY` for what is no socket.
///
/// ```
/// # #[cfg(target_os = "linux")]
/// # fn main() -> std::io::Result<()> {
/// let (writer, _reader) = std::os::unix::net::UnixStream::pair()?;
/// assert_eq!(unacked::bytes(&writer)?, 0);
/// # Ok(())
/// # }
/// # #[cfg(not(target_os = "linux"))]
/// # fn main() {}
/// ```
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn bytes(socket: impl AsFd) -> io::Result<usize> {
    use std::os::fd::AsRawFd;

    let socket = socket.as_fd();
    let mut queued: libc::c_int = 0;
    #[expect(
        unsafe_code,
        reason = "no library has a safe name for it; without it a slow reader cannot be told from a stalled one"
    )]
    // SAFETY: the descriptor is borrowed, and so open, for as long as the call takes. For this request (it is
    // SIOCOUTQ to a socket) the kernel writes one `int`, to a pointer that is valid for that, and keeps nothing.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(queued).unwrap_or(0))
}

/// How many bytes were written to `socket` that its peer has not acknowledged.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported): this system has no such count, or we do not know its name.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
pub fn bytes(_: impl AsFd) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn what_the_peer_reads_leaves_the_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut writer, _) = listener.accept().unwrap();
        assert_eq!(bytes(&writer).unwrap(), 0);
        writer.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = writer.write(&[0; 16_000]) {
            written += n;
        }
        let stuck = bytes(&writer).unwrap();
        assert!((1..=written).contains(&stuck), "{stuck} of {written}");
        reader.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(bytes(&writer).unwrap(), 0);
    }

    #[test]
    fn what_is_no_socket_has_no_queue() {
        assert!(bytes(File::open("/dev/null").unwrap()).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(bytes(&listener).is_err());
    }
}

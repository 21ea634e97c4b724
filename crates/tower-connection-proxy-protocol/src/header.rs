//! What the bytes of a header say. Nothing here reads or waits.
//!
//! The specification is <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>; sections are its.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use tower_connection::Address;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN";
const TCP4: &[u8] = b"PROXY TCP4 ";
const TCP6: &[u8] = b"PROXY TCP6 ";

/// `PROXY UNKNOWN\r\n`: no header is shorter.
const SHORTEST: usize = 15;
/// Of version 1, in section 2.1.
const LONGEST_LINE: usize = 107;

/// Signature, version and command, family and protocol, length.
const FIXED: usize = 16;
const UNIX_NAME: usize = 108;
/// The most that has to be looked at; what follows in a longer header is skipped.
pub(crate) const LONGEST_LOOK: usize = FIXED + 2 * UNIX_NAME;
/// Of version 2, with what is skipped. The specification allows 65,551; nginx, too, takes 4,096.
const LONGEST: usize = 4096;

/// Where the client is, and what it reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) client: Address,
    pub(crate) destination: Address,
}

/// How far a header has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// At least so many more bytes belong to it; who reads no more never reads what follows it.
    Begun { missing: usize },
    /// It says this, or nothing of where the client is; so many more bytes belong to it, and say nothing.
    Said {
        addresses: Option<Addresses>,
        rest: usize,
    },
}

impl Header {
    pub(crate) const NOTHING: Self = Self::Begun { missing: SHORTEST };
}

/// Looks at the first `bytes` of a connection, of which no more are given than [`Header::Begun`] asked for.
pub(crate) fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
    let may_be = |start: &&[u8]| bytes.iter().zip(*start).all(|(is, wanted)| is == wanted);
    if ![SIGNATURE, UNKNOWN, TCP4, TCP6].iter().any(may_be) {
        return Err("no header of the PROXY protocol");
    }
    if bytes.len() < SHORTEST {
        return Ok(Header::Begun {
            missing: SHORTEST - bytes.len(),
        });
    }
    if bytes.starts_with(SIGNATURE) {
        parse_binary(bytes)
    } else {
        parse_line(bytes)
    }
}

// === version 1 ===

fn parse_line(bytes: &[u8]) -> Result<Header, &'static str> {
    let missing = match bytes.iter().position(|byte| *byte == b'\r') {
        // The first CR ends the line, as it does in the receiver that section 9 shows.
        Some(end) => match bytes.get(end + 1) {
            Some(b'\n') => {
                let addresses = parse_fields(&bytes[..end])?;
                return Ok(Header::Said { addresses, rest: 0 });
            }
            Some(_) => return Err("CR without LF"),
            None => 1,
        },
        None => shortest_rest(bytes)?,
    };
    if bytes.len() + missing > LONGEST_LINE {
        return Err("line of more than 107 bytes");
    }
    Ok(Header::Begun { missing })
}

/// How much of the line must come at least: so it is read in a few steps, of which none passes its end.
fn shortest_rest(bytes: &[u8]) -> Result<usize, &'static str> {
    let (fields, shortest) = if let Some(fields) = bytes.strip_prefix(TCP4) {
        (fields, ["0.0.0.0".len(), "0.0.0.0".len(), 1, 1])
    } else if let Some(fields) = bytes.strip_prefix(TCP6) {
        (fields, ["::".len(), "::".len(), 1, 1])
    } else {
        return Ok("\r\n".len()); // anything may come before it
    };
    // Section 2.1: abort as soon as possible. A lone LF, say, would be waited for in vain.
    let may_be = |byte: &u8| byte.is_ascii_hexdigit() || b".: ".contains(byte);
    if !fields.iter().all(may_be) {
        return Err("a byte that no address has");
    }
    let mut given = fields.split(|byte| *byte == b' ').map(<[u8]>::len);
    let rest: usize = shortest
        .iter()
        .map(|shortest| match given.next() {
            Some(given) => shortest.saturating_sub(given),
            None => " ".len() + shortest,
        })
        .sum();
    if given.next().is_some() {
        return Err("more than two addresses and two ports");
    }
    Ok(rest + "\r\n".len())
}

fn parse_fields(line: &[u8]) -> Result<Option<Addresses>, &'static str> {
    if let Some(fields) = line.strip_prefix(TCP4) {
        tcp::<Ipv4Addr>(fields).map(Some)
    } else if let Some(fields) = line.strip_prefix(TCP6) {
        tcp::<Ipv6Addr>(fields).map(Some)
    } else if let Some([] | [b' ', ..]) = line.strip_prefix(UNKNOWN) {
        Ok(None)
    } else {
        Err("unknown protocol")
    }
}

fn tcp<A: FromStr + Into<IpAddr>>(fields: &[u8]) -> Result<Addresses, &'static str> {
    let fields = std::str::from_utf8(fields).map_err(|_| "not ASCII")?;
    let mut fields = fields.split(' ');
    let four: [_; 4] = std::array::from_fn(|_| fields.next());
    let [
        Some(client),
        Some(destination),
        Some(client_port),
        Some(destination_port),
    ] = four
    else {
        return Err("fewer than two addresses and two ports");
    };
    if fields.next().is_some() {
        return Err("more than two addresses and two ports");
    }
    Ok(Addresses {
        client: SocketAddr::new(ip::<A>(client)?, port(client_port)?).into(),
        destination: SocketAddr::new(ip::<A>(destination)?, port(destination_port)?).into(),
    })
}

fn ip<A: FromStr + Into<IpAddr>>(field: &str) -> Result<IpAddr, &'static str> {
    let ip = field.parse::<A>().map_err(|_| "no address of its family")?;
    Ok(ip.into())
}

fn port(field: &str) -> Result<u16, &'static str> {
    // `parse` alone takes a sign, and zeros before a number.
    if field != "0" && !field.starts_with(|first| matches!(first, '1'..='9')) {
        return Err("no port");
    }
    field.parse().map_err(|_| "no port")
}

// === version 2 ===

fn parse_binary(bytes: &[u8]) -> Result<Header, &'static str> {
    let Some((fixed, given)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Header::Begun {
            missing: FIXED - bytes.len(),
        });
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > LONGEST {
        return Err("more than 4096 bytes");
    }
    let family = match command {
        0x20 => 0, // LOCAL: "discard the protocol block including the family"
        0x21 => family,
        _ => return Err("unknown version or command"),
    };
    let look = match family {
        0x11 => 2 * (4 + 2),
        0x21 => 2 * (16 + 2),
        0x31 => 2 * UNIX_NAME,
        // Unspecified, or datagrams, which do not come over a connection: its own addresses stay.
        _ if family >> 4 <= 3 && family & 0xf <= 2 => 0,
        _ => return Err("unknown family or protocol"),
    };
    if length < look {
        return Err("shorter than its addresses");
    }
    let Some(block) = given.get(..look) else {
        return Ok(Header::Begun {
            missing: look - given.len(),
        });
    };
    let addresses = match family {
        0x11 => Some(inet::<4>(block)),
        0x21 => Some(inet::<16>(block)),
        0x31 => Some(unix(block)),
        _ => None,
    };
    let rest = length - look;
    Ok(Header::Said { addresses, rest })
}

fn inet<const N: usize>(mut block: &[u8]) -> Addresses
where
    IpAddr: From<[u8; N]>,
{
    let [client, destination] = [(); 2].map(|()| IpAddr::from(take::<N>(&mut block)));
    let [client_port, destination_port] = [(); 2].map(|()| u16::from_be_bytes(take(&mut block)));
    Addresses {
        client: SocketAddr::new(client, client_port).into(),
        destination: SocketAddr::new(destination, destination_port).into(),
    }
}

fn take<const N: usize>(block: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = block
        .split_first_chunk()
        .expect("the block is as long as its family says");
    *block = rest;
    *taken
}

fn unix(block: &[u8]) -> Addresses {
    let (client, destination) = block.split_at(UNIX_NAME);
    Addresses {
        client: unix_address(client),
        destination: unix_address(destination),
    }
}

/// An unnamed socket has no path, and neither has an abstract one, whose name begins with a zero.
fn unix_address(name: &[u8]) -> Address {
    let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Address::Unix((!path.is_empty()).then(|| to_path(path)))
}

#[cfg(unix)]
fn to_path(path: &[u8]) -> PathBuf {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    OsStr::from_bytes(path).into()
}

#[cfg(not(unix))]
fn to_path(path: &[u8]) -> PathBuf {
    String::from_utf8_lossy(path).into_owned().into()
}

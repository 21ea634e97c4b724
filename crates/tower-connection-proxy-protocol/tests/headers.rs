//! What is read of a connection, and what becomes of it.

use std::{
    any::Any,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use ppp::{HeaderResult, v1, v2};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    net::{TcpListener, TcpStream},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Service, ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer, service_fn};
use tower_connection::{Accept, Address, BoxIo, Held, Socket, Streams};
use tower_connection_proxy_protocol::{
    ProxyProtocolError, ProxyProtocolIo, ProxyProtocolLayer, Reason,
};

/// The client's address and the destination; none where the connection's own stay.
type Said = Option<(Address, Address)>;

type Read<Io> = Result<ProxyProtocolIo<Io>, ProxyProtocolError>;

// Section 2.1, but for the IPv6 one.
const TCP4: &[u8] = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
const TCP4_LONGEST: &[u8] = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
const TCP4_SHORTEST: &[u8] = b"PROXY TCP4 0.0.0.0 1.1.1.1 0 1\r\n";
const TCP6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:DB8:0:0:0:0:0:1 56324 443\r\n";
const TCP6_LONGEST: &[u8] = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
const TCP6_SHORTEST: &[u8] = b"PROXY TCP6 :: :: 0 0\r\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
const UNKNOWN_LONGEST: &[u8] = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
const UNKNOWN_ANYTHING: &[u8] = b"PROXY UNKNOWN \xff a b c d e\nf\r\n";

/// A header of version 2: `block` is its addresses and extensions.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    let signature = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ];
    [&signature, &[command, family][..], &length, block].concat()
}

#[rustfmt::skip]
const IPV4: [u8; 12] = [
    203, 0, 113, 7, // source
    192, 0, 2, 1, // destination
    0xdc, 0x04, // 56324
    0x01, 0xbb, // 443
];

#[rustfmt::skip]
const IPV6: [u8; 36] = [
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    0xdc, 0x04,
    0x01, 0xbb,
];

/// `PP2_TYPE_NOOP` of four bytes, and the endpoint that AWS adds (`PP2_TYPE_AWS`, `PP2_SUBTYPE_AWS_VPCE_ID`).
const EXTENSIONS: &[u8] = b"\x04\x00\x04\0\0\0\0\xea\x00\x0d\x01vpce-08d2bf15";

fn unix(client: &[u8], destination: &[u8]) -> [u8; 216] {
    let mut block = [0; 216];
    block[..client.len()].copy_from_slice(client);
    block[108..][..destination.len()].copy_from_slice(destination);
    block
}

fn ip(address: &str) -> Address {
    address.parse::<SocketAddr>().unwrap().into()
}

fn path(path: &str) -> Address {
    Address::Unix(Some(path.into()))
}

/// The layer around an acceptor that gives back the socket that came to it.
fn acceptor<Io: Socket>(
    layer: ProxyProtocolLayer,
) -> impl Service<Io, Response = ProxyProtocolIo<Io>, Error = ProxyProtocolError, Future: Send> + Clone
{
    let inner = service_fn(|io: ProxyProtocolIo<Io>| async { Ok::<_, Infallible>(io) });
    ServiceBuilder::new().layer(layer).service(inner)
}

/// What comes of a connection on which `bytes` come and then its end.
async fn read(bytes: &[u8]) -> Read<DuplexStream> {
    let (mut client, server) = duplex(bytes.len().max(1));
    client.write_all(bytes).await.unwrap();
    drop(client);
    acceptor(ProxyProtocolLayer::required())
        .oneshot(server)
        .await
}

async fn addresses(bytes: &[u8]) -> (Address, Address) {
    let io = read(bytes).await.unwrap();
    (io.peer(), io.local())
}

async fn refusal(bytes: &[u8]) -> (io::ErrorKind, String) {
    match read(bytes).await {
        Err(ProxyProtocolError::Header(error)) => (error.kind(), error.to_string()),
        other => panic!("{other:?} of {:?}", bytes.escape_ascii().to_string()),
    }
}

/// Each kind of header that is taken, and the addresses that it says.
fn good() -> Vec<(Vec<u8>, Said)> {
    let mapped = b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n";
    let lines: [(&[u8], _); 10] = [
        (TCP4, Some(("192.168.0.1:56324", "192.168.0.11:443"))),
        (
            TCP4_LONGEST,
            Some(("255.255.255.255:65535", "255.255.255.255:65535")),
        ),
        (TCP4_SHORTEST, Some(("0.0.0.0:0", "1.1.1.1:1"))),
        (TCP6, Some(("[2001:db8::7]:56324", "[2001:db8::1]:443"))),
        (
            TCP6_LONGEST,
            Some((
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            )),
        ),
        (TCP6_SHORTEST, Some(("[::]:0", "[::]:0"))),
        (mapped, Some(("[::ffff:1.2.3.4]:1", "[::1]:2"))),
        (UNKNOWN, None),
        (UNKNOWN_LONGEST, None),
        (UNKNOWN_ANYTHING, None),
    ];
    let mut good: Vec<_> = lines
        .into_iter()
        .map(|(line, said)| {
            let said = said.map(|(client, destination)| (ip(client), ip(destination)));
            (line.to_vec(), said)
        })
        .collect();

    let v4 = || Some((ip("203.0.113.7:56324"), ip("192.0.2.1:443")));
    let v6 = || Some((ip("[2001:db8::7]:56324"), ip("[2001:db8::1]:443")));
    let named = unix(b"/run/client", b"/run/app.sock");
    let unnamed = unix(b"", b"\0abstract");
    good.extend([
        (binary(0x21, 0x11, &IPV4), v4()),
        (binary(0x21, 0x11, &[&IPV4, EXTENSIONS].concat()), v4()),
        (binary(0x21, 0x11, &[&IPV4[..], &[0; 4068]].concat()), v4()), // 4096 bytes in all
        (binary(0x21, 0x21, &IPV6), v6()),
        (binary(0x21, 0x21, &[&IPV6, EXTENSIONS].concat()), v6()),
        (
            binary(0x21, 0x31, &named),
            Some((path("/run/client"), path("/run/app.sock"))),
        ),
        (
            binary(0x21, 0x31, &[&unnamed, EXTENSIONS].concat()),
            Some((Address::Unix(None), Address::Unix(None))),
        ),
        (
            binary(0x21, 0x31, &[b'x'; 216]), // no zero ends it
            Some((path(&"x".repeat(108)), path(&"x".repeat(108)))),
        ),
        // The connection's own.
        (binary(0x20, 0x00, &[]), None),
        (binary(0x20, 0x00, EXTENSIONS), None),
        (binary(0x20, 0x11, &IPV4), None),
        (binary(0x20, 0x11, &[]), None), // "must not assume" that addresses are there, or not
        (binary(0x20, 0xff, &[]), None), // "the family which is ignored"
        (binary(0x21, 0x00, &[]), None),
        (binary(0x21, 0x00, &IPV4), None),
        (binary(0x21, 0x10, &IPV4), None),
        (binary(0x21, 0x12, &IPV4), None),
        (binary(0x21, 0x22, &IPV6), None),
        (binary(0x21, 0x32, &unix(b"", b"")), None),
    ]);
    good
}

#[tokio::test]
async fn a_header_says_where_the_client_is() {
    for (header, said) in good() {
        let own = || (Address::Unknown, Address::Unknown);
        assert_eq!(addresses(&header).await, said.unwrap_or_else(own));
    }
}

#[tokio::test]
async fn what_says_nothing_leaves_the_connections_own_addresses() -> io::Result<()> {
    for header in [UNKNOWN, UNKNOWN_LONGEST, &binary(0x20, 0x11, &IPV4)] {
        let (mut client, server) = tcp().await?;
        client.write_all(header).await?;
        let read = acceptor(ProxyProtocolLayer::required())
            .oneshot(server)
            .await;
        let io = read.unwrap();
        assert_eq!(io.peer(), client.local_addr()?.into());
        assert_eq!(io.local(), client.peer_addr()?.into());
    }
    Ok(())
}

#[tokio::test]
async fn a_header_may_come_in_two_pieces() {
    for (header, _) in good() {
        for split in 0..header.len() {
            tokio::task::yield_now().await; // a new budget: a pipe is pending where it is spent
            let (mut client, server) = duplex(header.len());
            let mut acceptor = acceptor(ProxyProtocolLayer::required());
            assert_ready!(task::spawn(poll_ready(&mut acceptor)).poll()).unwrap();
            let mut read = task::spawn(acceptor.call(server));

            client.write_all(&header[..split]).await.unwrap();
            assert_pending!(read.poll());
            client.write_all(&header[split..]).await.unwrap();
            assert!(read.is_woken());
            assert!(assert_ready!(read.poll()).is_ok());
        }
    }
}

#[tokio::test]
async fn what_follows_in_the_same_segment_is_left_to_read() {
    for (header, _) in good() {
        let mut io = read(&[&header, &b"GET / HTTP/1.1\r\n\r\n"[..]].concat())
            .await
            .unwrap();
        let mut rest = String::new();
        io.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "GET / HTTP/1.1\r\n\r\n");
    }
}

// So `has_unread` is true to the kernel, and the accepted socket misses nothing after an upgrade.
#[tokio::test]
async fn nothing_is_read_ahead() -> io::Result<()> {
    let (mut client, server) = tcp().await?;
    client.write_all(&[TCP4, b"x"].concat()).await?;
    let read = acceptor(ProxyProtocolLayer::required())
        .oneshot(server)
        .await;
    let io = read.unwrap();
    assert!(io.has_unread());

    let (mut accepted, _held) = BoxIo::new(io).into_innermost::<TcpStream>().unwrap();
    assert_eq!(accepted.read_u8().await?, b'x');
    assert!(!accepted.has_unread());
    Ok(())
}

#[tokio::test]
async fn a_usual_header_takes_few_reads() {
    for (header, most) in [
        (TCP4.to_vec(), 7),
        (TCP6.to_vec(), 10),
        (TCP6_LONGEST.to_vec(), 16),
        (binary(0x21, 0x11, &IPV4), 3),
        (binary(0x21, 0x21, &[&IPV6, EXTENSIONS].concat()), 4),
        (binary(0x20, 0x00, &[]), 2),
    ] {
        let told = Told::saying(&header);
        let calls = told.calls.clone();
        let read = acceptor(ProxyProtocolLayer::required()).oneshot(told).await;
        assert!(read.is_ok());
        let calls = calls.lock().unwrap();
        let reads = calls.iter().filter(|call| **call == "read");
        assert!(reads.count() <= most, "of {}", header.escape_ascii());
    }
}

#[tokio::test]
async fn what_is_no_header_is_refused() {
    let lines: [&[u8]; 32] = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0\0\0\0\0", // a TLS hello
        b"\r\n\r\n\0\r\nQUIT\r\n",
        b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN\rx\r\n",
        b"PROXY TCP4 \r\n",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n\r\n",
        b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 1::2::3 ::1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP6 [::1] [::1] 1 2\r\n",
    ];
    let binaries = [
        binary(0x11, 0x11, &IPV4),       // version 1
        binary(0x31, 0x11, &IPV4),       // version 3
        binary(0x22, 0x11, &IPV4),       // no command
        binary(0x21, 0x41, &IPV4),       // no family
        binary(0x21, 0x13, &IPV4),       // no protocol
        binary(0x21, 0x11, &IPV4[..11]), // shorter than its addresses
        binary(0x21, 0x21, &IPV6[..35]),
        binary(0x21, 0x31, &[0; 215]),
    ];
    let binaries = binaries.iter().map(Vec::as_slice);
    for bytes in lines.into_iter().chain(binaries) {
        // What follows must not make one of it.
        let (kind, _) = refusal(&[bytes, TCP4, UNKNOWN].concat()).await;
        let what = bytes.escape_ascii();
        assert_eq!(kind, io::ErrorKind::InvalidData, "of {what}");
    }
}

#[tokio::test]
async fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    let cases: [(&[u8], &[u8]); 5] = [
        (b"", b"G"),
        (b"PROXY U", b"D"),
        (b"PROXY TCP", b"5"),
        (b"\r\n\r\n", b"X"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2", b"\n"),
    ];
    for (good, wrong) in cases {
        let (mut client, server) = duplex(64);
        let mut read = task::spawn(acceptor(ProxyProtocolLayer::required()).oneshot(server));
        client.write_all(good).await.unwrap();
        assert_pending!(read.poll());
        client.write_all(wrong).await.unwrap();
        assert!(assert_ready!(read.poll()).is_err());
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let line = |length: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(length - 2, b'x');
        line.extend(b"\r\n");
        line
    };
    assert!(read(&line(107)).await.is_ok());
    let (kind, what) = refusal(&line(108)).await;
    assert_eq!(kind, io::ErrorKind::InvalidData);
    assert_eq!(what, "line of more than 107 bytes");

    assert!(read(&binary(0x20, 0x00, &[0; 4080])).await.is_ok());
    for length in [4081, usize::from(u16::MAX)] {
        let mut header = binary(0x20, 0x00, &vec![0; length]);
        header.truncate(16); // before any of it is waited for
        let (kind, what) = refusal(&header).await;
        assert_eq!(kind, io::ErrorKind::InvalidData);
        assert_eq!(what, "more than 4096 bytes");
    }
}

#[tokio::test]
async fn an_end_within_the_header_is_refused() {
    for (header, _) in good() {
        for end in 0..header.len() {
            let (kind, what) = refusal(&header[..end]).await;
            assert_eq!(kind, io::ErrorKind::UnexpectedEof);
            assert_eq!(what, "the stream ended before the header did");
        }
    }
}

// PROXY-1
#[tokio::test]
async fn a_bad_header_resets_the_connection() -> io::Result<()> {
    // All of it is read, or the kernel would reset the connection by itself.
    let layer = ProxyProtocolLayer::required();
    for bytes in [
        b"G".as_slice(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 443 \r\n",
    ] {
        let (mut client, server) = tcp().await?;
        client.write_all(bytes).await?;
        let read = acceptor(layer.clone()).oneshot(server).await;
        assert!(matches!(read, Err(ProxyProtocolError::Header(_))));
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(
        (layer.ends().of(Reason::Header), layer.ends().total()),
        (2, 2)
    );
    Ok(())
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_reset_and_not_read() -> io::Result<()> {
    let (mut client, server) = tcp().await?;
    client.write_all(TCP4).await?;
    let peer = client.local_addr()?;

    let layer = ProxyProtocolLayer::required().only_from(|peer| !peer.is_loopback());
    let ends = layer.ends();
    let Err(ProxyProtocolError::Untrusted(untrusted)) = acceptor(layer).oneshot(server).await
    else {
        panic!("it is let in");
    };
    assert_eq!(untrusted, peer.into());
    assert_eq!((ends.of(Reason::Untrusted), ends.total()), (1, 1));
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    Ok(())
}

// A drain, and a limit that makes room, end a connection in the making by an end of what it reads. That was taken for a
// client's fault: reset, counted, and told at each restart. Now an end is closed, whoever it comes from.
#[tokio::test]
async fn who_ends_before_the_header_does_is_closed_and_in_no_count() -> io::Result<()> {
    let layer = ProxyProtocolLayer::required();
    // With no byte, it is a balancer that looks whether the port is open.
    for bytes in [
        b"".as_slice(),
        b"P",
        &TCP4[..20],
        &binary(0x21, 0x11, &IPV4)[..20],
    ] {
        let (mut client, server) = tcp().await?;
        client.write_all(bytes).await?;
        client.shutdown().await?;
        let read = acceptor(layer.clone()).oneshot(server).await;
        assert!(matches!(read, Err(ProxyProtocolError::Header(_))));
        assert_eq!(client.read(&mut [0]).await?, 0);
    }
    assert_eq!(layer.ends().total(), 0);
    Ok(())
}

#[tokio::test]
async fn peers_are_told_by_their_own_address() {
    let balancer = |peer| peer == IpAddr::from([10, 0, 0, 2]);
    for (peer, trusted) in [
        (ip("10.0.0.2:1"), true),
        (ip("[::ffff:10.0.0.2]:1"), true), // a listener for both families
        (ip("10.0.0.3:1"), false),
        (ip("[::10.0.0.2]:1"), false),
        (Address::Unix(None), true),
        (Address::Unknown, false),
    ] {
        let mut told = Told::saying(TCP4);
        told.peer = peer;
        let calls = told.calls.clone();
        let read = acceptor(ProxyProtocolLayer::required().only_from(balancer))
            .oneshot(told)
            .await;
        assert_eq!(read.is_ok(), trusted);
        let was_reset = calls.lock().unwrap().contains(&"reset_on_close");
        assert_eq!(was_reset, !trusted);
    }
}

#[tokio::test]
async fn off_passes_everything() -> io::Result<()> {
    let (mut client, server) = tcp().await?;
    client.write_all(TCP4).await?;
    client.shutdown().await?;

    let layer = ProxyProtocolLayer::off().only_from(|_| false);
    let mut io = acceptor(layer).oneshot(server).await.unwrap();
    assert_eq!(io.peer(), client.local_addr()?.into());
    assert_eq!(io.local(), client.peer_addr()?.into());
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await?;
    assert_eq!(bytes, TCP4);
    Ok(())
}

#[tokio::test]
async fn the_handle_knows_the_client() {
    let hello = service_fn(|(): ()| async { Ok::<_, Infallible>(()) });
    let acceptor = ServiceBuilder::new()
        .layer(ProxyProtocolLayer::required())
        .service(Accept::new(hello));
    let (mut client, server) = duplex(64);
    client.write_all(TCP4).await.unwrap();
    let connection = acceptor.oneshot(server).await.unwrap();
    assert_eq!(connection.handle().peer(), &ip("192.168.0.1:56324"));
    assert_eq!(connection.handle().local(), &ip("192.168.0.11:443"));
}

#[tokio::test]
async fn the_acceptor_that_was_ready_waits_for_the_header() {
    let inner = service_fn(|io: ProxyProtocolIo<DuplexStream>| async { Ok::<_, Infallible>(io) });
    let mut acceptor = ServiceBuilder::new()
        .layer(ProxyProtocolLayer::required())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(inner);
    for header in [TCP4, b"GET / HTTP/1.1\r\n"] {
        let (mut client, server) = duplex(64);
        assert_ready!(task::spawn(poll_ready(&mut acceptor)).poll()).unwrap();
        let mut read = task::spawn(acceptor.call(server));
        assert_pending!(read.poll());

        let mut other = acceptor.clone();
        let mut next = task::spawn(poll_ready(&mut other));
        assert_pending!(next.poll());
        client.write_all(header).await.unwrap();
        assert_eq!(assert_ready!(read.poll()).is_ok(), header == TCP4);
        drop(read);
        assert!(next.is_woken()); // the place came back, with a header or without
    }
}

#[tokio::test]
async fn who_is_not_trusted_takes_no_place() {
    let inner = service_fn(|io: ProxyProtocolIo<DuplexStream>| async { Ok::<_, Infallible>(io) });
    let mut acceptor = ServiceBuilder::new()
        .layer(ProxyProtocolLayer::required().only_from(|_| false))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(inner);
    for _ in 0..2 {
        assert_ready!(task::spawn(poll_ready(&mut acceptor)).poll()).unwrap();
        let refused = acceptor.call(duplex(1).0).await;
        assert!(matches!(refused, Err(ProxyProtocolError::Untrusted(_))));
    }
}

#[test]
fn the_future_can_be_sent() {
    fn is_send<T: Send>(_: T) {}
    is_send(acceptor(ProxyProtocolLayer::required()).oneshot(duplex(1).0));
}

#[tokio::test]
async fn everything_else_is_that_of_the_socket_below() {
    for layer in [ProxyProtocolLayer::required(), ProxyProtocolLayer::off()] {
        let told = Told::saying(TCP4);
        let calls = told.calls.clone();
        let mut io = acceptor(layer).oneshot(told).await.unwrap();
        calls.lock().unwrap().clear();

        let mut cx = Context::from_waker(std::task::Waker::noop());
        let slices = [io::IoSlice::new(b"one"), io::IoSlice::new(b"two")];
        let mut pinned = Pin::new(&mut io);
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        let _ = pinned.as_mut().poll_read(&mut cx, &mut buf);
        let _ = pinned.as_mut().poll_write(&mut cx, b"one");
        let _ = pinned.as_mut().poll_write_vectored(&mut cx, &slices);
        let _ = pinned.as_mut().poll_flush(&mut cx);
        let _ = pinned.as_mut().poll_shutdown(&mut cx);
        assert!(io.is_write_vectored());
        assert!(io.reset_on_close().is_ok());
        assert!(io.set_nodelay().is_err());
        assert_eq!(io.unacked().unwrap(), 7);
        assert!(io.has_unread());
        assert!(io.set_unsent_limit(9).is_err());
        assert!(io.streams().is_some());
        assert_eq!(io.io().peer(), ip("10.0.0.2:1"));
        let mut held = Held::default();
        assert!(Box::new(io).into_innermost(&mut held).is::<u8>());
        assert_eq!(format!("{held:?}"), "Held(1)");

        assert_eq!(
            *calls.lock().unwrap(),
            [
                "read",
                "write",
                "write_vectored",
                "flush",
                "shutdown",
                "is_write_vectored",
                "reset_on_close",
                "set_nodelay",
                "unacked",
                "has_unread",
                "set_unsent_limit",
                "streams",
                "into_innermost",
            ]
        );
    }
}

// Beside `ppp`, which is much used: what both take says the same in both, and where only one takes it, the
// specification says who is right.
#[tokio::test]
async fn no_mutation_is_misread() {
    let good = good();
    let mut roll = dice(1);
    let (mut taken, mut refused, mut compared) = (0, 0, 0);
    for _ in 0..20_000 {
        let mut bytes = good[roll(good.len())].0.clone();
        for _ in 0..roll(4) {
            mutate(&mut bytes, &mut roll);
        }
        bytes.extend(&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..roll(28)]);

        let (mut client, server) = duplex(1 + roll(64));
        let accept = acceptor(ProxyProtocolLayer::required()).oneshot(server);
        let write = async {
            let _ = client.write_all(&bytes).await; // fails where it is refused
            drop(client);
        };
        let read = async {
            let mut io = accept.await.ok()?;
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.unwrap();
            Some((io.peer(), io.local(), rest))
        };
        let ((), read) = tokio::join!(write, read);
        let theirs = HeaderResult::parse(&bytes);
        let what = bytes.escape_ascii();

        if let Some((peer, local, rest)) = read {
            taken += 1;
            assert_eq!(rest, bytes[length(&bytes)..], "of {what}");
            if let Some(theirs) = said(&theirs) {
                compared += 1;
                assert_eq!((peer, local), theirs, "of {what}");
            } else {
                // Of a LOCAL header the family is ignored, of others than streams the addresses, of an UNKNOWN
                // line the rest.
                let unknown = bytes.starts_with(b"PROXY UNKNOWN");
                let ignored = unknown || bytes[12] == 0x20 || bytes[13] & 0xf != 1;
                assert!(ignored, "of {what}");
            }
        } else {
            refused += 1;
            let signed = || bytes.windows(2).any(|pair| pair == b" +");
            let long = || bytes[0] == b'\r' && length(&bytes) > 4096;
            assert!(said(&theirs).is_none() || signed() || long(), "of {what}");
        }
    }
    assert!(taken > 1_000 && refused > 1_000 && compared > 1_000);
}

fn mutate(bytes: &mut Vec<u8>, roll: &mut impl FnMut(usize) -> usize) {
    let near = bytes.len().min(if roll(2) == 0 { 20 } else { 120 });
    let at = roll(near.max(1));
    let favourites = b"\r\n 0:.+P\x00\x11\x20\x21\xff";
    let byte = favourites[roll(favourites.len())];
    match roll(5) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at.min(bytes.len()), byte),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        3 if at < bytes.len() => bytes[at] ^= 1 << roll(8),
        _ if at < bytes.len() => bytes[at] = byte,
        _ => {}
    }
}

/// How long a header is, if it is one.
fn length(bytes: &[u8]) -> usize {
    if bytes[0] == b'P' {
        2 + bytes.windows(2).position(|end| end == b"\r\n").unwrap()
    } else {
        16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))
    }
}

/// What `ppp` reads, where it takes the header.
fn said(theirs: &HeaderResult<'_>) -> Option<(Address, Address)> {
    let own = (Address::Unknown, Address::Unknown);
    let inet = |client: IpAddr, client_port, destination: IpAddr, destination_port| {
        (
            SocketAddr::new(client, client_port).into(),
            SocketAddr::new(destination, destination_port).into(),
        )
    };
    Some(match theirs {
        HeaderResult::V1(header) => match &header.as_ref().ok()?.addresses {
            v1::Addresses::Unknown => own,
            v1::Addresses::Tcp4(is) => inet(
                is.source_address.into(),
                is.source_port,
                is.destination_address.into(),
                is.destination_port,
            ),
            v1::Addresses::Tcp6(is) => inet(
                is.source_address.into(),
                is.source_port,
                is.destination_address.into(),
                is.destination_port,
            ),
        },
        HeaderResult::V2(header) => {
            let header = header.as_ref().ok()?;
            if header.command == v2::Command::Local || header.protocol != v2::Protocol::Stream {
                return Some(own);
            }
            match &header.addresses {
                v2::Addresses::Unspecified => own,
                v2::Addresses::IPv4(is) => inet(
                    is.source_address.into(),
                    is.source_port,
                    is.destination_address.into(),
                    is.destination_port,
                ),
                v2::Addresses::IPv6(is) => inet(
                    is.source_address.into(),
                    is.source_port,
                    is.destination_address.into(),
                    is.destination_port,
                ),
                v2::Addresses::Unix(is) => (unix_path(&is.source), unix_path(&is.destination)),
            }
        }
    })
}

fn unix_path(name: &[u8]) -> Address {
    let end = name.iter().position(|byte| *byte == 0);
    let name = &name[..end.unwrap_or(name.len())];
    Address::Unix((!name.is_empty()).then(|| {
        use std::os::unix::ffi::OsStrExt;
        std::ffi::OsStr::from_bytes(name).into()
    }))
}

/// Chance that can be repeated (Marsaglia's xorshift).
fn dice(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % sides as u64).expect("below its sides")
    }
}

async fn poll_ready<Io, A: Service<Io>>(acceptor: &mut A) -> Result<(), A::Error> {
    std::future::poll_fn(|cx| acceptor.poll_ready(cx)).await
}

async fn tcp() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    Ok((client, listener.accept().await?.0))
}

/// A socket that says what it was told to do, and answers as no default does.
struct Told {
    bytes: io::Cursor<Vec<u8>>,
    calls: Arc<Mutex<Vec<&'static str>>>,
    peer: Address,
    streams: Streams,
}

impl Told {
    fn saying(bytes: &[u8]) -> Self {
        Self {
            bytes: io::Cursor::new(bytes.to_vec()),
            calls: Arc::default(),
            peer: ip("10.0.0.2:1"),
            streams: Streams::default(),
        }
    }

    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Socket for Told {
    fn peer(&self) -> Address {
        self.peer.clone()
    }

    fn reset_on_close(&self) -> io::Result<()> {
        self.note("reset_on_close");
        Ok(())
    }

    fn set_nodelay(&self) -> io::Result<()> {
        self.note("set_nodelay");
        Err(io::ErrorKind::Other.into())
    }

    fn unacked(&self) -> io::Result<usize> {
        self.note("unacked");
        Ok(7)
    }

    fn has_unread(&self) -> bool {
        self.note("has_unread");
        true
    }

    fn set_unsent_limit(&self, bytes: u32) -> io::Result<()> {
        assert_eq!(bytes, 9);
        self.note("set_unsent_limit");
        Err(io::ErrorKind::Other.into())
    }

    fn streams(&self) -> Option<&Streams> {
        self.note("streams");
        Some(&self.streams)
    }

    fn into_innermost(self: Box<Self>, held: &mut Held) -> Box<dyn Any + Send> {
        self.note("into_innermost");
        held.push("a permit");
        Box::new(0_u8)
    }
}

impl AsyncRead for Told {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.note("read");
        Pin::new(&mut self.bytes).poll_read(cx, buf)
    }
}

impl AsyncWrite for Told {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.note("write");
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.note("flush");
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.note("shutdown");
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note("write_vectored");
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.note("is_write_vectored");
        true
    }
}

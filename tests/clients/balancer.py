"""Behind a balancer that says who the client is: the PROXY protocol."""
import contextlib
import csv
import json
import re
import socket
import struct
import subprocess
import tempfile
import time
from http.client import HTTPResponse

from drain import ARRIVING, HELLO, SLACK, UNANSWERED, Http2, at_once, ended, get, over, plain_and_tls, spoken
from harness import GET, PREFACE, STACKS, Ending, Playground, free_ports, run, until, versions
from rolling import ask as ask_haproxy
from rolling import ended_with
from timeouts import after, in_time

# In TCP, so that TLS and HTTP/2 pass. Its checks ask in HTTP, inside TLS where the server has it.
HAPROXY = """
global
    stats socket {directory}/stats
defaults
    mode tcp
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 2s
"""
FRONT = """
frontend of-{name}
    bind 127.0.0.1:{front}
    default_backend {name}
backend {name}
    option httpchk GET /
    server {name} 127.0.0.1:{port} {sends}
"""
SENDS = ["send-proxy", "send-proxy-v2"]


@contextlib.contextmanager
def named(stack, *flags, tls):
    """A server whose clients are named, and that has no connection and no descriptor more at the end than before."""
    with Playground(stack, "--proxy-protocol", *flags, tls=tls, logged=True) as server:
        server.curl("/")
        before = server.descriptors()
        yield server
        if server.process.poll() is None:
            until("descriptors are left", lambda: server.descriptors() <= before)
            until("connections are left", lambda: server.counts()["connections_open"] == 1)


def ends(server):
    """How many connections each layer has ended, for each reason for which any was."""
    counts = json.loads(server.curl("/status", "-H", "accept: application/json"))["since_start"]
    return {(count["layer"], count["reason"]): count["value"] for count in counts if "layer" in count and count["value"]}


@contextlib.contextmanager
def behind_haproxy(stack, *flags, checked=False):
    """A plain server and one with TLS, and HAProxy with a port for each way to name clients: the server, the port and the
    way of each."""
    with contextlib.ExitStack() as stacked:
        servers = [stacked.enter_context(named(stack, *flags, tls=tls)) for tls in (False, True)]
        directory = stacked.enter_context(tempfile.TemporaryDirectory())
        ways = [(server, sends) for server in servers for sends in [*SENDS, ""]]
        fronts = [(server, port, sends) for (server, sends), port in zip(ways, free_ports(len(ways)))]
        with open(directory + "/configuration", "w") as file:
            file.write(HAPROXY.format(directory=directory))
            for server, front, sends in fronts:
                check = " check inter 100ms" + " check-proto h2" * (stack == "hyper-http2" and not server.tls)
                check += f" check-ssl verify none check-alpn {spoken(stack)[0]}" * server.tls
                name = f"{sends or 'passes-on'}-{'tls' if server.tls else 'plain'}"
                file.write(FRONT.format(name=name, front=front, port=server.port, sends=sends + check * checked * bool(sends)))
        stacked.enter_context(ended_with(
            ["haproxy", "-db", "-f", directory + "/configuration"], stderr=subprocess.DEVNULL))

        def checks():
            with contextlib.suppress(OSError):
                rows = csv.DictReader(ask_haproxy(directory + "/stats", "show stat").removeprefix("# ").splitlines())
                # While a check is under way, a star is before the outcome of the last one.
                return [(row["check_status"].removeprefix("* "), row["chkfail"]) for row in rows if row["check_status"]]
        all_well = [("L7OK", "0")] * 2 * len(SENDS) * checked
        until("HAProxy is not there, or its checks are not answered", lambda: checks() == all_well, 10)
        yield fronts
        assert (said := checks()) == all_well, said


def comes(server, port, source, protocol, header=b"", slowly=False):
    """A connection to that port, whose first bytes go into the segment of the header unless that is sent slowly."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
    if slowly:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header:
            sock.send(bytes([byte]))
            time.sleep(0.001)
    elif header:
        sock.send(header, socket.MSG_MORE)
    address = "{}:{}".format(*sock.getsockname())
    if server.tls:
        sock = server.secure(sock, protocol)
    return sock, address


def asks(server, sock, protocol, path=b"/peer"):
    """The status of the answer, and its lines."""
    if protocol == "h2":
        status, body = Http2(server, sock=sock).get(path)
    else:
        sock.sendall(get(path))
        with HTTPResponse(sock) as response:
            response.begin()
            status, body = str(response.status), response.read()
    return status, body.decode().split()


def peers(stack, address):
    """What `/peer` answers: what the handle says and, on axum, `ConnectInfo`."""
    return [address] * (2 if stack == "axum" else 1)


def the_client_is_known_behind_haproxy(stack):
    """Behind HAProxy (`send-proxy`, `send-proxy-v2`, or passing on what `curl --haproxy-protocol` has sent) the server knows
    the client's address and port, in each protocol, plain and in TLS; HAProxy's own checks are served. PROXY-1"""
    with behind_haproxy(stack, checked=True) as fronts:
        for server, port, sends in fronts:
            for version in versions(server):
                for source in ("127.0.0.2", "127.0.0.3"):
                    url = server.url.replace(str(server.port), str(port)) + "/peer"
                    *told, address = run(
                        "curl", "-sSk", *version, *["--haproxy-protocol"] * (not sends), "--interface", source,
                        "-w", "%{local_ip}:%{local_port}", url).split()
                    assert address.startswith(source) and told == peers(stack, address), (sends, told, address)
        assert not any(ends(server) for server, _, _ in fronts)


def haproxy_is_not_the_client(stack):
    """The limit per client counts those behind HAProxy: the third connection of one is refused, and another is served.
    PROXY-1, LIMIT-15"""
    # Without checks, which would be a client too: HAProxy itself, and the third of them at once refused.
    with behind_haproxy(stack, "--max-connections-per-ip", "2") as fronts:
        for server, port, sends in fronts:
            for protocol in spoken(stack) if sends else []:
                def one(source):
                    sock, _ = comes(server, port, source, protocol)
                    opened.append(sock)
                    return asks(server, sock, protocol)[0]

                opened = []
                assert [one("127.0.0.2") for _ in range(3)] == ["200", "200", "503"]
                assert [one("127.0.0.3") for _ in range(3)] == ["200", "200", "503"]
                opened[0].close()
                until("its place does not come back", lambda: one("127.0.0.2") == "200")
                for sock in opened:
                    sock.close()
                until("its connections are left", lambda: server.counts()["connections_open"] == 1)


def binary(command, family, block, length=None):
    """A header of version 2."""
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", command, family, length or len(block)) + block


LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"
V4 = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + struct.pack(">HH", 56324, 443)
V6 = b"".join(socket.inet_pton(socket.AF_INET6, ip) for ip in ("2001:db8::7", "2001:db8::1")) + V4[-4:]
ALL_F = b":".join([b"ffff"] * 8)
AS_V4, AS_V6 = "203.0.113.7:56324", "[2001:db8::7]:56324"
# Whom they name; none is the connection's own peer.
HEADERS = [
    (LINE, AS_V4), (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", AS_V6), (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (ALL_F, ALL_F), None),  # 107 bytes
    (binary(0x21, 0x11, V4), AS_V4), (binary(0x21, 0x21, V6), AS_V6), (binary(0x20, 0x11, V4), None),
    (binary(0x21, 0x11, V4 + b"\x04\0\x10" + bytes(16)), AS_V4), (binary(0x21, 0x11, V4 + bytes(4068)), AS_V4),
]


def a_header_in_any_pieces(stack):
    """A header of each kind is read byte by byte, and with what follows it (a head, a preface, a TLS hello) in its
    segment. PROXY-1"""
    ways = [(header, name, protocol, slowly) for header, name in HEADERS for protocol in spoken(stack)
            for slowly in (False, True) if not slowly or len(header) < 300]
    assert {len(header) for header, _ in HEADERS} >= {15, 107, 4096}

    def all_ways(tls):
        with named(stack, tls=tls) as server:
            def one(way):
                header, name, protocol, slowly = way
                sock, address = comes(server, server.port, "127.0.0.2", protocol, header, slowly)
                with sock:
                    assert asks(server, sock, protocol) == ("200", peers(stack, name or address)), way
            at_once(one, ways)
            assert ends(server) == {}
    plain_and_tls(all_ways)


# Each is read to its end, but for the first ones: the kernel itself resets who has sent more.
WRONG = [
    GET, PREFACE, HELLO, LINE[1:], LINE.lower(), b"G", b"\0", b"PROXY TCP5", b"PROXY UNKNOWNS\r\n", LINE[:-2] + b"\n",
    LINE.replace(b" 443", b""), LINE.replace(b"443", b"+443"), LINE.replace(b"443", b"65536"),
    LINE.replace(b".7 ", b".256 "), LINE.replace(b"TCP4", b"TCP6"), LINE[:-2] + b" 1\r\n", LINE[:-1] + b"\r",
    b"PROXY UNKNOWN ".ljust(108, b"."), b"PROXY TCP6 ".ljust(108, b"f"),
    binary(0x11, 0x11, b"", 12), binary(0x22, 0x11, b"", 12), binary(0x21, 0x41, b"", 12), binary(0x21, 0x13, b"", 12),
    binary(0x21, 0x11, b"", 11), binary(0x21, 0x11, b"", 4081), binary(0x20, 0, b"", 65535),
]
BEGUN = [b"", LINE[:5], LINE[:-1], binary(0x21, 0x11, V4)[:-1], binary(0x21, 0x11, V4, 500)]


def answer_to(sock):
    """What comes: "RST", or the first bytes, of which an end has none."""
    with sock:
        try:
            return sock.recv(100)
        except ConnectionResetError:
            return "RST"


def without_a_header_it_is_reset(stack):
    """A connection without a header, with a malformed one, with 108 bytes of a line or 4,097 in all is reset without a
    byte, and counted; one that ends before its header is whole is closed. PROXY-1"""
    def resets(tls):
        with named(stack, tls=tls) as server:
            for wrong in WRONG:
                sock = server.silent()
                sock.sendall(wrong)
                assert (said := answer_to(sock)) == "RST", (wrong, said)
            for begun in BEGUN:
                sock = server.silent()
                sock.sendall(begun)
                sock.shutdown(socket.SHUT_WR)
                assert (said := answer_to(sock)) == b"", (begun, said)
            assert ends(server) == {("proxy_protocol", "header"): len(WRONG)}, ends(server)
            assert re.search(r"no header of the PROXY protocol peer=127\.0\.0\.1:\d+ reason=\"header\" ", server.log())
    plain_and_tls(resets)


def a_header_must_come_in_time(stack):
    """Who sends no header, half of one, or one byte of it now and then, is ended by the header read timeout, which a
    TLS handshake shares with it. PROXY-1, READ-1"""
    def withhold(tls):
        with named(stack, "--header-read-timeout", "600ms", tls=tls) as server:
            def one(pieces):
                """The first at once, and one more each 100 ms."""
                began, sock = time.monotonic(), server.silent()
                with sock, contextlib.suppress(ConnectionError):
                    for number, piece in enumerate(pieces):
                        time.sleep(0.1 * (number > 0))
                        sock.sendall(piece)
                    assert ended(sock, 2) == "FIN"
                in_time(after(began), 0.6, pieces)

            header = binary(0x21, 0x11, V4, 500)
            drips = [[bytes([byte]) for byte in header[:8]], [LINE[at:at + 1] for at in range(8)]]
            halves = [[b""], [LINE[:1]], [LINE[:-1]], [header[:11]], [header[:20]], [header], *drips]
            if tls:
                halves += [[b"", b"", LINE], [b"", b"", LINE + HELLO]]
            at_once(one, halves)
            assert ends(server) == {("read_timeout", "handshake"): len(halves)}, ends(server)
    plain_and_tls(withhold)


def who_is_in_its_header_makes_room(stack):
    """A connection in the middle of its header makes room for the next one: it reads FIN, and is not counted as one
    without a header. PROXY-1, LIMIT-9"""
    def make_room(tls):
        with named(stack, "--max-connections", "2", "--at-capacity", "make-room", tls=tls) as server:
            for header in (b"", LINE[:20], HEADERS[5][0][:20]):
                first, second = server.silent(), server.silent()
                first.sendall(header)
                second.sendall(header)
                time.sleep(0.05)  # who has just come does not make room
                sock, _ = comes(server, server.port, "127.0.0.2", spoken(stack)[-1], LINE)
                assert asks(server, sock, spoken(stack)[-1]) == ("200", peers(stack, AS_V4))
                assert ended(first, 1) == "FIN" and ended(second, 0.05) is None, header
                second.close()
                sock.close()
            assert ends(server) == {}, ends(server)
    plain_and_tls(make_room)


def a_drain_in_the_middle_of_a_header(stack):
    """A header of which the rest does not come has 500 ms in a drain, and one that is whole after 300 ms is served; the
    exit code is 0. PROXY-1, DRAIN-5"""
    def drain(tls):
        with named(stack, tls=tls) as server:
            halves = [(server.silent(), header, protocol) for header in (LINE, HEADERS[5][0])
                      for protocol in spoken(stack) for _ in range(2)]
            for sock, header, _ in halves:
                sock.sendall(header[:20])
            stay = [server.silent(), *(sock for sock, _, _ in halves[::2])]
            time.sleep(0.1)
            ending = Ending(server)

            def end(sock):
                return ended(sock, 2), after(ending.told_at) > ARRIVING - 0.005

            def go_on(half):
                sock, header, protocol = half
                time.sleep(0.3)
                sock.sendall(header[20:])
                return asks(server, server.secure(sock, protocol) if tls else sock, protocol, b"/")

            works = [(end, sock) for sock in stay] + [(go_on, half) for half in halves[1::2]]
            said = at_once(lambda work: work[0](work[1]), works)
            assert said == [("FIN", True)] * len(stay) + [("200", ["ok"])] * len(halves[1::2]), said
            over(ending, ARRIVING + UNANSWERED + SLACK)
            assert "none was cut" in server.log() and "no header" not in server.log(), server.log()
    plain_and_tls(drain)


def it_is_told_who_the_client_is(stack):
    """Events name the client and not the balancer: half a request head, a refusal, and what a drain has cut. PROXY-1,
    OBS-2, DRAIN-8"""
    def tell(tls):
        flags = ["--header-read-timeout", "1s", "--max-connections-per-ip", "1", "--drain-timeout", "500ms"]
        with named(stack, *flags, tls=tls) as server:
            protocol = spoken(stack)[0]
            first, second = (LINE.replace(b".7 ", b".%d " % last) for last in (8, 9))
            clients = [comes(server, server.port, "127.0.0.1", protocol, header)[0] for header in (first, second)]
            if protocol == "h2":
                Http2(server, sock=clients[1]).ask(b"/sleep/60000")
            else:
                clients[1].sendall(get(b"/sleep/60000"))
            clients[0].sendall((GET if protocol != "h2" else PREFACE)[:10])
            until("it is not in", lambda: server.counts()["requests_in_flight"] == 2)
            refused, _ = comes(server, server.port, "127.0.0.1", protocol, second)
            assert asks(server, refused, protocol)[0] == "503"
            until("half a head stays", lambda: ends(server) == {("read_timeout", "head"): 1})
            over(Ending(server), 0.5 + SLACK, code=1)
            log = server.log()
            for told in ("8:56324.* reason=\"head\"", "9:56324.* reason=\"per_client\"", "9:56324 .*/sleep/60000"):
                assert re.search(r"203\.0\.113\." + told, log), (told, log)
            assert "127.0.0.1:" not in log.replace("listening on", ""), log
    plain_and_tls(tell)


CASES = [
    (the_client_is_known_behind_haproxy, STACKS), (haproxy_is_not_the_client, STACKS), (a_header_in_any_pieces, STACKS),
    (without_a_header_it_is_reset, STACKS), (a_header_must_come_in_time, STACKS),
    (who_is_in_its_header_makes_room, STACKS), (a_drain_in_the_middle_of_a_header, STACKS),
    (it_is_told_who_the_client_is, STACKS),
]

if __name__ == "__main__":
    import run as suite
    suite.main(CASES)

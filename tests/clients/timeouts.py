"""How long, how often and how old a connection gets, and how slowly its client may speak."""
import contextlib
import select
import signal
import socket
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from harness import (
    GET, H2, PREFACE, SPEAK_H1, SPEAK_H2, STACKS, WS, Playground, bytes_of, frame, read_all, served, until)

LATE = 0.3  # seconds: how much later than its deadline a connection may be closed


def after(start):
    return time.monotonic() - start


def in_time(took, deadline, what):
    assert deadline - 0.005 <= took < deadline + max(LATE, deadline * 0.15), f"{what}: {took:.3f} s of {deadline} s"


def nobody(server):
    """The kernel has no connection of the server's, as whichever side."""
    lines = subprocess.run(["ss", "-tanH", f"sport = :{server.port}"], capture_output=True, check=True).stdout
    return all(line.split()[0] in (b"LISTEN", b"TIME-WAIT") for line in lines.splitlines())


def an_idle_connection_is_closed_in_time(stack):
    """An idle connection ends by FIN (HTTP/2: GOAWAY first) at its timeout. KEEP-1"""
    for tls in (False, True):
        with Playground(stack, "--keep-alive-timeout", "1s", tls=tls) as server:
            before = server.descriptors()
            if stack in SPEAK_H1:
                sock = server.connect()
                for _ in range(3):
                    answer, start = served(sock), time.monotonic()
                    assert b"\r\nkeep-alive:" not in answer  # of one second there is nothing true to tell
                    time.sleep(0.8)
                assert sock.recv(100) == b""
                in_time(after(start), 1, "HTTP/1")
                sock.close()
            if stack in SPEAK_H2:
                client = H2(server)
                for _ in range(3):
                    assert client.request("/")[1] == b"ok\n"
                    start = time.monotonic()
                    time.sleep(0.8)
                client.read_to_end()
                assert client.goaway
                in_time(after(start), 1, "HTTP/2")
                mute = server.connect("h2")
                mute.sendall(PREFACE + frame(4, 0, 0, b""))
                start = time.monotonic()
                said = read_all(mute)  # it does not answer the PING of a graceful shutdown
                in_time(after(start), 1, "mute HTTP/2")
                assert any(said[at + 3] == 7 for at in frames(said)), "no GOAWAY"
                mute.close()
            until("descriptors are left", lambda: server.descriptors() <= before)


def frames(said):
    at = 0
    while at + 9 <= len(said):
        yield at
        at += 9 + int.from_bytes(said[at:at + 3], "big")


def reuse_below_the_timeout(stack):
    """Fifty reuses at four fifths of the timeout never meet a closed connection. KEEP-1"""
    with Playground(stack, "--keep-alive-timeout", "500ms") as server:
        def reuses(connect, ask, number):
            client, asked, late = connect(), time.monotonic(), 0
            for _ in range(number):
                if after(asked) > 0.45:  # this machine stood still: it would be late itself
                    client, late = connect(), late + 1
                ask(client)
                asked = time.monotonic()
                time.sleep(0.4)
            assert late <= number / 10, f"late {late} times"

        def ask_http1(sock):
            assert served(sock).startswith(b"HTTP/1.1 200 ")

        def ask_http2(client):
            assert client.request("/")[1] == b"ok\n"

        def reuse(_):
            if stack in SPEAK_H1:
                reuses(server.connect, ask_http1, 50)
            if stack in SPEAK_H2:
                reuses(lambda: H2(server), ask_http2, 50 if stack == "hyper-http2" else 10)
        with ThreadPoolExecutor(20) as clients:
            list(clients.map(reuse, range(20)))


def who_obeys_loses_nothing(stack):
    """A client that sends at the last millisecond of what it was told loses nothing, 1000 times. KEEP-3"""
    with Playground(stack, "--keep-alive-timeout", "2s") as server:
        def obey(_):
            sock = server.connect()
            for _ in range(5):
                answer, start = served(sock), time.monotonic()
                assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nkeep-alive: timeout=1\r\n" in answer, answer
                time.sleep(max(0, start + 0.999 - time.monotonic()))
        with ThreadPoolExecutor(200) as clients:
            list(clients.map(obey, range(200)))


def work_is_not_idleness(stack):
    """A slow handler, a slow stream, a slow upload and a WebSocket outlive the timeout. KEEP-2"""
    with Playground(stack, "--keep-alive-timeout", "300ms") as server:
        assert server.curl("/sleep/1500") == b"ok\n"
        assert server.curl("/stream/3/700").count(b"tick") == 3
        upload = subprocess.run(
            ["curl", "-sSk", *(["--http2-prior-knowledge"] if stack == "hyper-http2" else []), "--limit-rate", "20k",
             "-H", "expect:", "--data-binary", "@-", server.url + "/echo"],
            input=b"." * 40_000, capture_output=True, check=True).stdout
        assert len(upload) == 40_000
        if stack in SPEAK_H1:
            sock = server.connect()
            assert served(sock, WS).startswith(b"HTTP/1.1 101 ")
            sock.settimeout(1.5)
            try:
                assert not sock.recv(1), "the WebSocket said something"
                raise AssertionError("the WebSocket was closed")
            except TimeoutError:
                pass


def the_last_request_is_told(stack):
    """The last request of a connection is answered with `Connection: close` or GOAWAY. KEEP-5"""
    with Playground(stack, "--max-requests-per-connection", "3") as server:
        if stack in SPEAK_H1:
            sock = server.connect()
            for told in (b"keep-alive: timeout=4, max=2", b"keep-alive: timeout=4, max=1", b"connection: close"):
                assert b"\r\n" + told + b"\r\n" in served(sock)
            assert sock.recv(1) == b""
        if stack in SPEAK_H2:
            client = H2(server)
            assert [client.request("/")[1] for _ in range(3)] == [b"ok\n"] * 3
            client.read_to_end()
            assert client.goaway


def ages_are_spread(stack):
    """200 busy connections of one age end over a fifth of it, and lose no request. KEEP-6"""
    age = 3
    with Playground(stack, "--max-connection-age", f"{age}s") as server:
        lives = []

        def live(n):
            began = time.monotonic()
            if stack in SPEAK_H1 and (n % 2 or stack not in SPEAK_H2):
                sock = server.connect()
                while b"\r\nconnection: close\r\n" not in (answer := served(sock)):
                    assert answer.startswith(b"HTTP/1.1 200 "), answer
                    time.sleep(0.1)
                assert sock.recv(1) == b""
            else:
                client = H2(server)
                while not client.goaway:
                    assert client.request("/")[1] == b"ok\n"
                    if not client.goaway and select.select([client.socket], [], [], 0.1)[0]:
                        client.events()
                        client.flush()  # the answer to the PING, without which a GOAWAY is not waited for
            lives.append(after(began))

        with ThreadPoolExecutor(200) as clients:
            list(clients.map(live, range(200)))
        assert len(lives) == 200
        assert age * 0.9 <= min(lives) < age * 0.95 and age * 1.05 < max(lives) < age * 1.1 + 0.3, sorted(lives)


def a_small_post_is_not_delayed(stack):
    """500 POSTs in two segments on one connection: no slower than a new connection each. KEEP-8"""
    with Playground(stack) as server:
        def post(sock):
            start = time.monotonic()
            sock.sendall(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 210\r\n\r\n")
            sock.sendall(b"." * 210)
            answer = b""
            while not answer.endswith(b"." * 210):
                answer += sock.recv(4096)
            return after(start)

        def fresh():
            start = time.monotonic()
            with server.connect() as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                post(sock)
            return after(start)

        fresh_ones = sorted(fresh() for _ in range(500))
        with server.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kept = sorted(post(sock) for _ in range(500))
        assert statistics.median(kept) <= statistics.median(fresh_ones), (kept[250], fresh_ones[250])
        assert kept[494] < 0.02, kept[494]
        print(f"   kept {kept[250] * 1e6:.0f} us, 99 % {kept[494] * 1e6:.0f} us; new {fresh_ones[250] * 1e6:.0f} us")


def slow_clients_are_gone_at_their_deadlines(stack):
    """Who is silent, or speaks a byte at a time, is gone at the deadline. READ-1 to READ-6"""
    for tls in (False, True):
        with Playground(stack, "--header-read-timeout", "1s", "--body-read-timeout", "1s", tls=tls) as server:
            before = server.descriptors()
            http2 = stack == "hyper-http2"
            whole = PREFACE + frame(4, 0, 0, b"")
            clients = [
                # what it says at once, what it says every half second, what it reads
                ("silence", b"", b"", b""),
                ("a byte", b"P", b"", None if http2 else b"HTTP/1.1 408 "),
            ]
            if stack != "hyper-http1":  # to that one it is a bad request
                clients.append(("half a preface", PREFACE[:12], b"", None if http2 else b"HTTP/1.1 408 "))
            if stack in SPEAK_H2:
                clients += [("a preface", PREFACE, b"", None), ("half a SETTINGS", whole[:30], b"", None),
                            ("half a head", whole + bytes_of("hyper-http2", b"/")[33:45], b"", None)]
            if stack in SPEAK_H1:
                post = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
                clients += [("half a head", GET[:-2], b"", b"HTTP/1.1 408 "),
                            ("a slow head", GET[:10], b".", b"HTTP/1.1 408 "),
                            ("no body", post, b"", b"HTTP/1.1 408 "),
                            ("a slow body", post, b".", b"HTTP/1.1 408 ")]
            if tls:
                clients += [("no hello", None, b"", b""), ("half a hello", None, b"\x16", b"")]

            def slow(client):
                name, first, more, expected = client
                began = start = time.monotonic()
                sock = server.connect("h2" if http2 else "http/1.1") if first is not None else server.silent()
                if first is not None:
                    start = time.monotonic()
                    sock.sendall(first)
                sock.settimeout(0.5)
                said = b""
                while True:
                    try:
                        received = sock.recv(4096)
                    except TimeoutError:
                        if more and after(start) < 5:
                            sock.sendall(more)
                        assert after(start) < 5, f"{name}: still there"
                        continue
                    except ConnectionError:
                        break
                    said += received
                    if not received:
                        break
                took = after(start)
                in_time(took if took > 1 else after(began), 1, name)  # the server may know of it before this process
                if expected is not None:
                    # An HTTP/2 server says its SETTINGS before it is asked.
                    assert said.startswith(expected) if expected else http2 or not said, (name, said)
                sock.close()

            with ThreadPoolExecutor(20) as pool:
                list(pool.map(slow, clients))
            until("descriptors are left", lambda: server.descriptors() <= before)
            assert server.counts()["connections_open"] == 1


def a_slow_stream_ends_alone(stack):
    """On HTTP/2 a body that stops ends its stream, and no other. READ-6"""
    with Playground(stack, "--body-read-timeout", "1s") as server:
        client = H2(server)
        stream = client.state.get_next_available_stream_id()
        client.state.send_headers(stream, [(":method", "POST"), (":path", "/echo"), (":scheme", "http"),
                                           (":authority", "localhost")])
        client.flush()
        start, ended = time.monotonic(), []
        while not ended:
            ended = [event for event in client.events() if getattr(event, "stream_id", None) == stream]
            client.flush()
        in_time(after(start), 1, "the stream")
        assert client.request("/")[1] == b"ok\n" and not client.goaway


def a_stopped_process_blames_nobody(stack):
    """What comes while the process is stopped comes in time, however long that is. READ-7"""
    flags = ["--header-read-timeout", "1s", "--body-read-timeout", "1s", "--keep-alive-timeout", "1s"]
    for _ in range(5):
        with Playground(stack, *flags) as server:
            head, body, idle, silent = (server.connect() for _ in range(4))
            post = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n"
            head.sendall(GET[:10])
            body.sendall(post + b"12345")
            assert served(idle).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.2)
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            head.sendall(GET[10:])
            body.sendall(b"67890")
            idle.sendall(GET)
            silent.sendall(GET)
            time.sleep(1.6)
            server.process.send_signal(signal.SIGCONT)
            for name, sock in (("head", head), ("body", body), ("idle", idle), ("silent", silent)):
                assert sock.recv(4096).startswith(b"HTTP/1.1 200 "), name


def slowhttptest_holds_nothing(stack):
    """slowhttptest, slow heads and slow bodies, plain and in TLS: no connection is left. READ-3, READ-5"""
    def attack(kind, path, method, tls):
        with Playground(stack, "--header-read-timeout", "2s", "--body-read-timeout", "2s", tls=tls) as server:
            test = subprocess.Popen(
                ["slowhttptest", kind, "-c", "200", "-r", "200", "-i", "1", "-l", "8", "-u", server.url + path, "-t",
                 method],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until("nobody came", lambda: not nobody(server))
            start = time.monotonic()
            until(f"{kind}: connections are left", lambda: nobody(server) and after(start) > 2, 6)
            assert served(server.connect()).startswith(b"HTTP/1.1 200 ")
            test.kill()
            test.wait()

    kinds = [("-H", "/", "GET"), ("-B", "/echo", "POST")]
    with ThreadPoolExecutor(4) as attacks:
        list(attacks.map(lambda kind: attack(*kind), [(*kind, tls) for kind in kinds for tls in (False, True)]))


def who_sends_without_a_pause_is_idle_all_the_same(stack):
    """A client of HTTP/2 that asks for nothing and sends frames as fast as it can is told of its end at the idle
    timeout. KEEP-1, KEEP-2"""
    with Playground(stack, "--keep-alive-timeout", "1s") as server:
        for flood in (frame(8, 0, 1, b"\0\0\0\1") * 5000, frame(77, 0, 0, bytes(100)) * 1000):
            with server.connect("h2") as sock:
                sock.sendall(bytes_of("hyper-http2", b"/"))
                until("it is not served", lambda: b"ok\n" in sock.recv(4096))
                start = time.monotonic()
                with contextlib.suppress(ConnectionError):
                    while after(start) < 6:
                        sock.sendall(flood)
                assert 0.9 < after(start) < 3, f"{after(start):.1f} s"
        until("a connection is left", lambda: server.counts()["connections_open"] == 1)


CASES = [
    (an_idle_connection_is_closed_in_time, STACKS), (reuse_below_the_timeout, STACKS),
    (who_obeys_loses_nothing, SPEAK_H1), (work_is_not_idleness, STACKS), (the_last_request_is_told, STACKS),
    (ages_are_spread, STACKS), (who_sends_without_a_pause_is_idle_all_the_same, SPEAK_H2),
    (a_small_post_is_not_delayed, SPEAK_H1),
    (slow_clients_are_gone_at_their_deadlines, STACKS), (a_slow_stream_ends_alone, SPEAK_H2),
    (a_stopped_process_blames_nobody, SPEAK_H1), (slowhttptest_holds_nothing, SPEAK_H1),
]

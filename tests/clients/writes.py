"""How slowly a client may take its response, and what is left of one that does not."""
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import h2.connection
import h2.errors
import h2.events
import h2.settings

from harness import (
    GET, H2, PREFACE, SPEAK_H1, SPEAK_H2, STACKS, WS, Playground, bytes_of, frame, served, until)
from timeouts import after, nobody

STALLED = int(os.environ.get("CLIENTS_STALLED", 200))
LATE = 0.15  # of a deadline: how much later than that a client may be given up


def in_time(took, deadline, what):
    assert deadline - 0.01 <= took <= deadline * (1 + LATE), f"{what}: {took:.3f} s of {deadline} s"


def narrow(server, size=1024):
    """A connection whose client has room for next to nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", server.port))
    if not server.tls:
        return sock
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2" if server.stack == "hyper-http2" else "http/1.1"])
    return context.wrap_socket(sock)


def gone(server, descriptors, start, within=10):
    """When the kernel had no socket of the server's any more, and the server no descriptor."""
    while not (nobody(server) and server.descriptors() <= descriptors):
        assert after(start) < within, subprocess.run(
            ["ss", "-tanH", f"sport = :{server.port}"], capture_output=True).stdout.decode()
        time.sleep(0.005)
    return after(start)


def open_windows(server, window=2**31 - 1):
    """HTTP/2, on a connection and with streams whose windows the client opens so far."""
    client = H2.__new__(H2)
    client.socket, client.state = server.connect("h2"), h2.connection.H2Connection()
    client.state.local_settings = h2.settings.Settings(client=True, initial_values={2: 0, 4: window})
    client.goaway, client.received = False, b""
    client.state.initiate_connection()
    if window > 65_535:
        client.state.increment_flow_control_window(2**31 - 1 - 65_535)
    client.flush()
    return client


def ask(client, path):
    stream = client.state.get_next_available_stream_id()
    head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "localhost")]
    client.state.send_headers(stream, head, end_stream=True)
    client.flush()
    return stream


def who_takes_nothing_is_given_up(stack):
    """Who reads nothing is gone from the kernel's table at the deadline, with all that it held. WRITE-1, WRITE-2"""
    for tls in (False, True):
        with Playground(stack, "--write-timeout", "2s", tls=tls) as server:
            server.curl("/")
            until("the client before is gone", lambda: nobody(server))
            before = server.descriptors()
            for path in (b"/bytes/200000000", b"/bytes/150000"):
                sock, start = narrow(server), time.monotonic()
                sock.sendall(bytes_of(stack, path))
                in_time(gone(server, before, start), 2, path)
                sock.close()
            if stack in SPEAK_H2:
                for window in (0, 65_535, 2**31 - 1):
                    client, start = open_windows(server, window), time.monotonic()
                    ask(client, "/bytes/200000000")
                    in_time(gone(server, before, start), 2, f"HTTP/2, {window}")
                    client.socket.close()
            counts = server.counts()
            assert counts["connections_open"] == 1 and counts["requests_in_flight"] == 1, counts


def the_tail_is_waited_for_and_no_longer(stack):
    """What is left in the kernel after the end of a connection is taken, or reset at the deadline. WRITE-2"""
    with Playground(stack, "--write-timeout", "2s") as server:
        before = server.descriptors()
        for size in (1_000, 5_000, 100_000):
            sock, start = narrow(server), time.monotonic()
            sock.sendall(b"GET /bytes/%d HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n" % size)
            if size == 1_000:
                assert gone_to_fin_wait_2(server, start) < 1, "all of it is the client's"
            else:
                in_time(gone(server, before, start), 2, f"a tail of {size}")
            sock.close()
            until("nothing is left", lambda: nobody(server))
        sock = narrow(server, 20_000)
        sock.sendall(b"GET /bytes/100000 HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n")
        received = b""
        while some := sock.recv(4_000):
            received += some
            time.sleep(0.1)  # it is honest, and slow
        assert received.endswith(b"\r\n\r\n" + b"0" * 100_000), len(received)


def a_response_that_is_cut_leaves_nothing(stack):
    """A client that says its end and reads nothing, or a service that fails, leaves nothing in the kernel. WRITE-2"""
    for tls in (False, True):
        with Playground(stack, "--write-timeout", "2s", tls=tls) as server:
            before = server.descriptors()
            sock, start = narrow(server), time.monotonic()
            sock.sendall(bytes_of(stack, b"/bytes/200000000"))
            time.sleep(0.3)
            sock.shutdown(socket.SHUT_WR)
            assert gone(server, before, start) < 2.3
            sock.close()
            if stack in SPEAK_H1:
                sock, start = narrow(server), time.monotonic()
                sock.sendall(b"".join(bytes_of(stack, path) for path in (b"/bytes/100000", b"/panic")))
                assert gone(server, before, start) < 2.3
                sock.close()


def gone_to_fin_wait_2(server, start):
    """When the client had taken all, the end included, and the server's descriptor was closed."""
    while True:
        lines = subprocess.run(["ss", "-tanH", f"sport = :{server.port}"], capture_output=True).stdout.decode()
        states = [line.split()[0] for line in lines.splitlines() if not line.startswith("LISTEN")]
        if states in ([], ["FIN-WAIT-2"]):
            return after(start)
        assert after(start) < 5, states
        time.sleep(0.005)


def slowhttptest_leaves_nothing(stack):
    """slowhttptest's slow readers, by the kernel's table: its own counters do not tell. WRITE-1"""
    with Playground(stack, "--write-timeout", "2s") as server:
        before = server.descriptors()
        attack = subprocess.Popen(
            ["slowhttptest", "-X", "-c", "100", "-r", "100", "-w", "512", "-y", "1024", "-n", "60", "-z", "1", "-k", "3",
             "-l", "20", "-p", "3", "-u", server.url + "/bytes/20000000"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("it has come", lambda: server.descriptors() > before + 90)
        start = time.monotonic()
        gone(server, before, start, 6)
        attack.kill()
        attack.wait()
        assert server.curl("/") == b"ok\n"


def read_at(rate, seconds, server, http2=False, size=None):
    """Reads at so many bytes a second. Returns how many, and after how long the server had given it up if it had."""
    start, received = time.monotonic(), 0
    if http2:
        client = H2(server)
        sock, stream = client.socket, ask(client, "/bytes/200000000")
    else:
        sock = narrow(server, size) if size else server.connect()
        sock.sendall(b"GET /bytes/200000000 HTTP/1.1\r\nhost: l\r\n\r\n")
    port = sock.getsockname()[1]
    with sock:
        while after(start) < seconds:
            time.sleep(max(0, start + received / rate - time.monotonic()))
            # A client goes on reading what its kernel had before the reset came.
            if not subprocess.run(["ss", "-tanH", f"sport = :{server.port} and dport = :{port}"],
                                  capture_output=True).stdout:
                return received, after(start)
            some = sock.recv(max(1, rate // 4))
            received += len(some)
            if http2:
                for event in client.digest(some):
                    if isinstance(event, h2.events.DataReceived):
                        client.state.acknowledge_received_data(event.flow_controlled_length, stream)
                try:
                    client.flush()
                except ConnectionError:
                    return received, after(start)
    return received, None


def who_reads_steadily_is_never_cut(stack):
    """A steady reader is not cut, however large the kernel's buffers; one below the rate is. WRITE-3"""
    with Playground(stack, "--write-timeout", "5s", "--min-write-rate", "240") as server, ThreadPoolExecutor() as clients:
        kept, cut = [], []
        if stack in SPEAK_H1:
            kept += [clients.submit(read_at, 47 * 1024, 12, server), clients.submit(read_at, 6_000, 12, server, False, 9_000),
                     clients.submit(read_at, 500, 12, server, False, 1024)]
            cut += [clients.submit(read_at, 60, 25, server, False, 1024), clients.submit(read_at, 100, 25, server)]
        if stack in SPEAK_H2:
            kept += [clients.submit(read_at, 47 * 1024, 12, server, True), clients.submit(read_at, 20_000, 12, server, True)]
            cut += [clients.submit(read_at, 100, 25, server, True)]
        for reader in kept:
            received, ended = reader.result()
            assert ended is None and received > 240 * 12, (received, ended)
        for reader in cut:
            received, ended = reader.result()
            assert ended is not None and ended >= 4.9, (received, ended)


def a_slow_handler_is_not_the_clients_fault(stack):
    """A byte a second, and an answer after seconds, to clients that read. WRITE-4"""
    for tls in (False, True):
        with Playground(stack, "--write-timeout", "500ms", tls=tls) as server:
            for version in ([], ["--http1.1"] if stack in SPEAK_H1 else []):
                assert server.curl("/stream/4/1000", *version).count(b"tick") == 4
                assert server.curl("/sleep/1500", *version) == b"ok\n"


def a_stalled_stream_ends_alone(stack):
    """A stream whose window stays shut is cancelled, also if it is opened byte by byte, and no other. WRITE-6"""
    for tls in (False, True):
        with Playground(stack, "--write-timeout", "1500ms", tls=tls) as server:
            client = open_windows(server, 0)
            client.state.increment_flow_control_window(1_000_000)
            start = opened = time.monotonic()
            stalled, trickling, healthy = (ask(client, path) for path in ("/bytes/1000000",) * 2 + ("/stream/8/1000",))
            client.state.increment_flow_control_window(100_000, healthy)
            client.flush()
            client.socket.settimeout(0.1)
            ends = {}
            while healthy not in ends:
                assert after(start) < 12, ends
                try:
                    for event in client.events():
                        if isinstance(event, h2.events.StreamReset):
                            assert event.error_code == h2.errors.ErrorCodes.CANCEL
                            ends[event.stream_id] = after(start)
                        elif isinstance(event, h2.events.StreamEnded):
                            ends[event.stream_id] = after(start)
                except TimeoutError:
                    pass
                if trickling not in ends and after(opened) > 0.1:
                    client.state.increment_flow_control_window(1, trickling)
                    opened = time.monotonic()
                client.flush()
            in_time(ends[stalled], 1.5, "the stalled stream")
            assert 4.9 < ends[trickling] < 9 and ends[healthy] > 6.9, ends
            assert not client.goaway
            last = ask(client, "/")
            client.state.increment_flow_control_window(100, last)
            client.flush()
            until("it goes on", lambda: b"ok\n" in b"".join(
                event.data for event in client.events() if isinstance(event, h2.events.DataReceived)))
            client.socket.close()


def a_web_socket_must_be_read(stack):
    """Who does not read its WebSocket is given up like any other. WRITE-1"""
    with Playground(stack, "--write-timeout", "2s") as server:
        before = server.descriptors()
        sock = server.silent()
        assert served(sock, WS).startswith(b"HTTP/1.1 101 ")
        sock.settimeout(0.5)
        message = b"\x82\xfe\xff\xff" + bytes(4) + bytes(65_535)
        try:
            while True:
                sock.sendall(message)  # and every byte comes back
        except OSError:
            start = time.monotonic()
        took = gone(server, before, start)
        assert took < 2.5, took


def a_stopped_server_blames_no_reader(stack):
    """Time in which the server was stopped is nobody's. WRITE-5"""
    with Playground(stack, "--write-timeout", "2s") as server:
        sock = server.connect()
        sock.sendall(b"GET /bytes/20000000 HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n")
        time.sleep(1)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        server.process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        received = 0
        while some := sock.recv(1 << 20):
            received += len(some)
        assert received > 20_000_000, received


def what_the_kernel_holds_is_bounded(stack):
    """Of a client that reads nothing, the kernel holds little more than it could not send. WRITE-7"""
    for tls in (False, True):
        with Playground(stack, "--write-timeout", "30s", tls=tls) as server:
            if stack in SPEAK_H1:
                with server.connect() as sock:
                    sock.sendall(b"GET /bytes/200000000 HTTP/1.1\r\nhost: l\r\n\r\n")
                    assert 64 * 1024 < held_at_last(server) < 256 * 1024
                until("the client before is gone", lambda: nobody(server))
            if stack in SPEAK_H2:
                client = open_windows(server)
                ask(client, "/bytes/200000000")
                assert 64 * 1024 < held_at_last(server) < 256 * 1024
                client.socket.close()


def held_at_last(server):
    """What the kernel holds for the only client, when it grows no more."""
    held = []
    while len(held) < 5 or held[-5] < held[-1]:
        time.sleep(0.2)
        lines = subprocess.run(["ss", "-tanH", f"sport = :{server.port}"], capture_output=True).stdout.decode()
        held.append(max(int(line.split()[2]) for line in lines.splitlines() if line.startswith("ESTAB")))
        assert len(held) < 100, held
    return held[-1]


def many_who_take_nothing(stack):
    """Many who read nothing are all given up in time; others are served meanwhile, as many and for about the same
    processor time as by a server without them; and memory comes back. WRITE-1"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flags = ["--write-timeout", "6s", "--max-connections", "0"]
    with Playground(stack, *flags) as server, Playground(stack, *flags) as twin:
        def resident():
            return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.process.pid}/status").read())[1])

        beside(server, twin)
        until("the client before is gone", lambda: nobody(server), 10)
        before, memory = server.descriptors(), resident()
        start, stalled = time.monotonic(), []
        for _ in range(STALLED):
            sock = server.silent()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(bytes_of(stack, b"/bytes/20000000"))
            stalled.append(sock)
        last = after(start)
        turns = [beside(server, twin), beside(server, twin)]  # in the first the kernel probes a thousand windows
        served, price = max(turn[0] for turn in turns), min(turn[1] for turn in turns)
        took = gone(server, before, start, 15)
        assert 6 <= took < last + 6 + 1, (took, last)
        until("memory comes back", lambda: resident() < memory * 1.1 + 500, 5)
        print(f"   {STALLED}: gone {took - last:.2f} s after the last came; {served:.2f} of the responses of its twin, "
              f"each for {price:.2f} of the processor time; memory {memory} -> {resident()} KiB", flush=True)
        assert served > 0.7 and price < 1 / 0.7


def beside(server, twin):
    """How many more responses a server gives than its twin in the same two seconds, on the same core, and how much more of
    it each takes. (From one second to the next, and from one core to the other, it is this machine's mood: 0.6 to 2.5 of
    what it was a moment before.)"""
    both, cores = [server, twin], sorted(os.sched_getaffinity(0))
    for each in both:
        for thread in os.listdir(f"/proc/{each.process.pid}/task"):
            os.sched_setaffinity(int(thread), cores[:1])
    spent = [each.cpu_seconds() for each in both]
    loads = [subprocess.Popen(load_of(each), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              preexec_fn=lambda: os.sched_setaffinity(0, cores[-1:])) for each in both]
    answered = [responses(load.communicate(timeout=30)[0]) for load in loads]
    spent = [each.cpu_seconds() - before for each, before in zip(both, spent)]
    return answered[0] / answered[1], spent[0] / spent[1] * answered[1] / answered[0]


def load_of(server):
    kind = ["wrk", "-t1", "-c8", "-d2s"] if server.stack in SPEAK_H1 else ["h2load", "-c8", "-m8", "-D2"]
    return kind + [server.url + "/bytes/10000"]


def responses(told):
    """How many there were, of which none was bad."""
    assert b"Non-2xx" not in told and b"Socket errors" not in told, told
    good = re.search(rb"(\d+) (?:requests in|succeeded, 0 failed, 0 errored, 0 timeout)", told)
    assert good, told
    return int(good[1])


CASES = [
    (who_takes_nothing_is_given_up, STACKS), (the_tail_is_waited_for_and_no_longer, SPEAK_H1),
    (a_response_that_is_cut_leaves_nothing, STACKS), (slowhttptest_leaves_nothing, SPEAK_H1), (who_reads_steadily_is_never_cut, STACKS),
    (a_slow_handler_is_not_the_clients_fault, STACKS), (a_stalled_stream_ends_alone, SPEAK_H2),
    (a_web_socket_must_be_read, SPEAK_H1), (a_stopped_server_blames_no_reader, SPEAK_H1), (many_who_take_nothing, STACKS),
    (what_the_kernel_holds_is_bounded, STACKS),
]

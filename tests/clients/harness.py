"""The playground as a process, and clients that are not libraries."""
import glob
import os
import random
import resource
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

import h2.connection
import h2.events

STACKS = ["axum", "hyper-http1", "hyper-http2", "hyper-auto", "tonic"]
SPEAK_H1 = [s for s in STACKS if s != "hyper-http2"]
SPEAK_H2 = [s for s in STACKS if s != "hyper-http1"]
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
WS = (b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
      b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BINARY = "target/release/examples/playground"
CONNECTIONS = int(os.environ.get("CLIENTS_CONNECTIONS", 2000))
ROUNDS = int(os.environ.get("CLIENTS_ROUNDS", 3))
RESERVE = 128  # sockets past the limit, at most


class Playground:
    """The server, from its first line on stdout to its exit code."""

    def __init__(self, stack, *flags, tls=False, nofile=None, logged=False):
        self.tls, self.stack = tls, stack
        self.stderr = tempfile.TemporaryFile() if logged else subprocess.DEVNULL
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))) if nofile else None
        self.header = ["--haproxy-protocol"] if "--proxy-protocol" in flags else []
        command = [BINARY, "--stack", stack, *flags] + (["--tls"] if tls else [])
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr, preexec_fn=limit,
                                        env={**os.environ, "NO_COLOR": "1", "RUST_BACKTRACE": "0"})
        line = self.process.stdout.readline().decode()
        assert line.startswith("listening on http"), f"first line: {line!r}"
        self.url = line.split()[2]
        self.port = int(self.url.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        if self.stderr != subprocess.DEVNULL:
            self.stderr.close()

    def log(self):
        """What it has said on stderr so far, if it was started `logged`."""
        return os.pread(self.stderr.fileno(), 1 << 24, 0).decode()

    def silent(self, source=""):
        """A connection that says nothing, not even a TLS hello."""
        source = (source, 0) if source else None  # bound without need, a port is taken for every server at once
        return socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=source)

    def connect(self, protocol="http/1.1", source=""):
        plain = self.silent(source)
        return self.secure(plain, protocol) if self.tls else plain

    def secure(self, plain, protocol="http/1.1"):
        """The TLS handshake of a connection that was silent."""
        context = ssl._create_unverified_context()
        context.set_alpn_protocols([protocol])
        return context.wrap_socket(plain)

    def curl(self, path, *flags):
        prior = "--http2" if self.tls else "--http2-prior-knowledge"
        version = [prior] if self.stack == "hyper-http2" and "--http1.1" not in flags else []
        command = ["curl", "-sSk", "-m", "10", *self.header, *version, *flags, self.url + path]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def counts(self):
        lines = self.curl("/metrics").decode().splitlines()
        return {name: int(n) for name, n in (line.split() for line in lines if line[0] != "#")}

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Ending:
    """A server that was sent a signal: when it has ended, with which code, and what processor time it had used."""

    def __init__(self, server, number=signal.SIGTERM):
        self.process, self.log, self.logged = server.process, server.log, server.stderr != subprocess.DEVNULL
        self.code = self.ended_at = self.usage = None
        self.told_at = time.monotonic()
        os.kill(self.process.pid, number)
        self.waiter = threading.Thread(target=self.wait, daemon=True)
        self.waiter.start()

    def wait(self):
        try:
            _, status, self.usage = os.wait4(self.process.pid, 0)
        except ChildProcessError:
            return  # it had to be killed
        self.ended_at = time.monotonic()
        self.code = self.process.returncode = os.waitstatus_to_exitcode(status)

    def over(self, within=10):
        """The exit code, and how long it took."""
        self.waiter.join(within)
        assert self.ended_at, f"it has not ended within {within} s"
        return self.code, self.ended_at - self.told_at


class H2:
    """One HTTP/2 connection."""

    def __init__(self, playground):
        self.socket = playground.connect("h2")
        self.state = h2.connection.H2Connection()
        self.state.initiate_connection()
        self.goaway, self.received = False, b""
        self.flush()

    def flush(self):
        self.socket.sendall(self.state.data_to_send())

    def request(self, path, method="GET", headers=(), body=b""):
        """Sends a request; returns its headers (trailers included) and its body."""
        stream = self.state.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        self.state.send_headers(stream, head + list(headers), end_stream=not body)
        if body:
            self.state.send_data(stream, body, end_stream=True)
        self.flush()
        answer, data = {}, b""
        while True:
            for event in self.events():
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    answer.update((k.decode(), v.decode()) for k, v in event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    data += event.data
                    self.state.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamEnded):
                    self.flush()
                    return answer, data
            self.flush()

    def events(self):
        received = self.socket.recv(65536)
        assert received, "the connection ended in the middle of a response"
        return self.digest(received)

    def digest(self, received):
        """Feeds whole frames. GOAWAY is kept from python's h2, which refuses whatever follows it."""
        self.received += received
        events = []
        while len(self.received) >= 9:
            size = 9 + int.from_bytes(self.received[:3], "big")
            if len(self.received) < size:
                break
            frame, self.received = self.received[:size], self.received[size:]
            if frame[3] == 7:
                self.goaway = True
            else:
                events += self.state.receive_data(frame)
        return events

    def read_to_end(self):
        while received := self.socket.recv(65536):
            self.digest(received)
            self.flush()  # the answer to a PING, without which a GOAWAY is not the last word
        self.socket.close()


def free_ports(count):
    """Not from those that the kernel gives to clients: one of them could take it while no server has it, and connect to
    itself."""
    found, sockets = [], []
    for port in random.sample(range(16_384, 32_768), 16_384):
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            continue
        sockets.append(sock)
        found.append(port)
        if len(found) == count:
            break
    for sock in sockets:
        sock.close()
    return found


def read_all(sock):
    """Everything until the server ends the connection; a reset raises."""
    data = b""
    while received := sock.recv(65536):
        data += received
    return data


def served(sock, request=GET):
    sock.sendall(request)
    return sock.recv(65536)


class Pauses:
    """For how long this machine stood still meanwhile: what no server is to blame for. Shorter pauses than 10 ms are
    none."""

    def __enter__(self):
        self.seconds, self.over = 0, False
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        return self

    def watch(self):
        while not self.over:
            start = time.monotonic()
            time.sleep(0.001)
            pause = time.monotonic() - start - 0.001
            self.seconds += pause if pause > 0.01 else 0

    def __exit__(self, *_):
        self.over = True
        self.watcher.join()


def until(what, check, seconds=5):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def bytes_of(stack, path, method=b"GET", length=0):
    """A request, head only, as the stack's clients write it."""
    if stack != "hyper-http2":
        more = b"content-length: %d\r\n" % length if length else b""
        return method + b" " + path + b" HTTP/1.1\r\nhost: localhost\r\n" + more + b"\r\n"
    block = (b"\x83" if method == b"POST" else b"\x82") + b"\x86\x41\x01x\x04" + bytes([len(path)]) + path
    return PREFACE + frame(4, 0, 0, b"") + frame(1, 4 | (not length), 1, block)


def status_in(stack, received):
    """The status in what a server has said so far, or None."""
    if stack != "hyper-http2":
        return received[9:12].decode() if len(received) >= 12 else None
    while len(received) >= 9:
        size = 9 + int.from_bytes(received[:3], "big")
        if received[3] == 1 and len(received) > 9:
            return "200" if received[9] == 0x88 else "503"  # the one is in HPACK's static table
        received = received[size:]
    return None


def rush(server, clients, request):
    """So many clients connect at once, ask, and stay. Returns their sockets and what each was answered."""
    selector = selectors.DefaultSelector()
    said, sockets = {}, []
    for _ in range(clients):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", server.port))
        selector.register(sock, selectors.EVENT_WRITE)
        said[sock] = b""
        sockets.append(sock)
    end = time.monotonic() + 60
    while selector.get_map():
        assert time.monotonic() < end, f"{len(selector.get_map())} of {clients} were not answered"
        for key, event in selector.select(1):
            sock = key.fileobj
            if event & selectors.EVENT_WRITE:
                sock.send(request)
                selector.modify(sock, selectors.EVENT_READ)
                continue
            try:
                received = sock.recv(65536)
            except ConnectionError:
                received = b""
            said[sock] += received
            if not received or status_in(server.stack, said[sock]):
                selector.unregister(sock)
    return sockets, [status_in(server.stack, said[sock]) for sock in sockets]


def ended(sock, within):
    """How the server has ended a connection within so many seconds: "FIN", "RST", or None if it has not."""
    sock.settimeout(within)
    try:
        while sock.recv(65536):
            pass
        return "FIN"
    except ConnectionError:
        return "RST"
    except TimeoutError:
        return None


def versions(playground):
    first = [["--http1.1"]] if playground.stack != "hyper-http2" else []
    second = ["--http2" if playground.tls else "--http2-prior-knowledge"]
    return first + ([second] if playground.stack != "hyper-http1" else [])


def run(*command):
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()


def packages():
    """What pip has installed (requirements.txt), after Debian's own: `.ci/run` puts it there."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    found = glob.glob(cache + "/tower-connection-clients/lib/python3*/site-packages")
    assert found, "requirements.txt is not installed; see the install step of .ci/run"
    sys.path.extend(path for path in found if path not in sys.path)

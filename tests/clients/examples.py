"""Asks an example what curl cannot: python3 tests/clients/examples.py WHAT ARGUMENT, of examples.sh."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from harness import GET, H2, WS, served, until

GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
EMPTY = b"\0" * 5


class Example:
    """What listens on port 3000."""

    @staticmethod
    def connect(_protocol=""):
        return socket.create_connection(("127.0.0.1", 3000), timeout=10)


def websocket(process):
    """A WebSocket reads a Close with 1001."""
    sock = Example.connect()
    assert served(sock, WS).startswith(b"HTTP/1.1 101 ")
    assert served(sock, b"\x81\x82\0\0\0\0hi") == b"\x81\x02hi"
    os.kill(int(process), signal.SIGINT)
    frame = sock.recv(100)
    assert frame[0] == 0x88 and frame[2:4] == (1001).to_bytes(2, "big"), frame
    sock.sendall(b"\x88\x82\0\0\0\0" + frame[2:4])
    assert sock.recv(1) == b""


def grpc(process):
    """A hundred calls are served at once; one more is refused in gRPC, and a plain request in HTTP. Who watches the
    health is told of the end."""
    client = H2(Example)

    def call(path, body=b""):
        stream = client.state.get_next_available_stream_id()
        head = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        client.state.send_headers(stream, head + GRPC)
        if body:
            client.state.send_data(stream, body, end_stream=True)
        client.flush()
        return stream

    calls = [call(CHECK) for _ in range(100)]  # each message is still to come
    time.sleep(0.2)
    other = H2(Example)
    answer, _ = other.request(CHECK, "POST", GRPC, EMPTY)
    assert answer[":status"] == "200" and answer["grpc-status"] == "14", answer
    assert int(answer["grpc-retry-pushback-ms"]) > 0, answer
    answer, _ = other.request("/")
    assert answer[":status"] == "503" and "retry-after" in answer, answer

    for stream in calls:
        client.state.send_data(stream, EMPTY, end_stream=True)
    client.flush()
    statuses = {}
    while len(statuses) < len(calls):
        for event in client.events():
            if type(event).__name__ == "TrailersReceived":
                statuses[event.stream_id] = dict(event.headers)[b"grpc-status"]
        client.flush()
    assert set(statuses.values()) == {b"0"}, statuses

    call(WATCH, EMPTY)
    told, ended = b"", False
    while not ended:
        for event in client.events():
            kind = type(event).__name__
            told += event.data if kind == "DataReceived" else b""
            ended = ended or kind == "StreamEnded"
            if kind == "DataReceived" and len(told) == 7:
                assert told[5:] == b"\x08\x01", told  # SERVING
                os.kill(int(process), signal.SIGINT)
        client.flush()
    assert told[12:] == b"\x08\x02", told  # NOT_SERVING
    other.read_to_end()
    client.read_to_end()


def dashboard(path):
    """What the dashboard asks for is there, with the labels that it wants; and it shows all that is there."""
    with urllib.request.urlopen("http://127.0.0.1:3000/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("server_")]
    labels = {}
    for line in lines:
        name, inside = re.match(r"(\w+)(?:\{(.*)\})? ", line).groups()
        labels.setdefault(name, set()).update(re.findall(r"(\w+)=", inside or ""))
    with open(path) as file:
        board = json.load(file)

    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = board["templating"]["list"]
    assert [v["name"] for v in variables if v["type"] == "datasource"] == ["datasource"]
    queries = [(v["definition"], v["name"]) for v in variables if v["type"] == "query"]
    cells = set()
    for panel in board["panels"]:
        assert panel["datasource"] == source, panel["title"]
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells and at["x"] + at["w"] <= 24, f"{panel['title']} is on another, or sticks out"
        cells |= mine
        for target in panel["targets"]:
            assert target["datasource"] == source, panel["title"]
            queries.append((target["expr"], panel["title"]))
            [name] = re.findall(r"server_\w+", target["expr"])
            used = re.findall(r"by \(([^)]*)\)", target["expr"]) + re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            for label in re.findall(r"\w+", " ".join(used)):
                assert label in labels.get(name, ()) or label == "instance", f"{panel['title']}: {name} has no {label}"
            assert ("rate(" in target["expr"]) == name.endswith("_total"), f"{panel['title']}: {target['expr']}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids), ids
    asked = {name for query, _ in queries for name in re.findall(r"server_\w+", query)}
    assert asked == set(labels), f"not there: {asked - set(labels)}, not shown: {set(labels) - asked}"


def systemd(binary):
    """The port is systemd's: it is told how far the program is, and who comes meanwhile is served by the next one."""
    os.dup2(socket.create_server(("127.0.0.1", 3000)).detach(), 3)  # the first one that is handed over
    path = os.path.join(tempfile.mkdtemp(), "notify")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(path)
    told = []

    def listen():
        while True:
            told.append(notify.recv(1000).decode().strip())

    threading.Thread(target=listen, daemon=True).start()

    def start():
        told.clear()
        environment = {**os.environ, "NOTIFY_SOCKET": path, "LISTEN_FDS": "1"}
        process = subprocess.Popen([binary], pass_fds=[3], env=environment)
        until(f"READY=1, but {told}", lambda: told == ["READY=1"])
        return process

    first = start()
    assert b"hello from %d" % first.pid in served(Example.connect(), GET)
    slow = Example.connect()
    slow.sendall(GET.replace(b"/ ", b"/slow "))
    time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    until(f"STOPPING=1 and STATUS, but {told}", lambda: told[1:2] == ["STOPPING=1"] and "STATUS=" in told[-1])
    time.sleep(0.5)
    early = Example.connect()  # nobody accepts now, and nobody is refused
    early.sendall(GET)
    assert b"hello at last" in slow.recv(1000)
    assert first.wait(10) == 0
    second = start()
    assert b"hello from %d" % second.pid in early.recv(1000)
    second.send_signal(signal.SIGTERM)
    assert second.wait(10) == 0
    shutil.rmtree(os.path.dirname(path))


{ask.__name__: ask for ask in (websocket, grpc, dashboard, systemd)}[sys.argv[1]](sys.argv[2])

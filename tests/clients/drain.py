"""How a server ends: who is still served after SIGTERM, who is told, and how long it takes."""
import asyncio
import http.client
import os
import random
import re
import resource
import signal
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import hpack

from harness import (
    CONNECTIONS, GET, PREFACE, SPEAK_H1, SPEAK_H2, STACKS, WS, Ending, Playground, bytes_of, frame, free_ports, served,
    until)
from timeouts import after

DRAINS = int(os.environ.get("CLIENTS_DRAINS", 5))
LAST_CHANCE, ARRIVING, UNANSWERED = 0.12, 0.5, 0.2  # the promised seconds
SLACK = 0.5  # of them, for a machine that is busy
ANY_STREAM = 2**31 - 1
SIZE = 200_000_000
TICKS = b"".join(b"tick %d\n" % n for n in range(20))
UPLOAD = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000000\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"


def at_once(work, many):
    """The work for each, all at the same time."""
    many = list(many)
    with ThreadPoolExecutor(len(many)) as pool:
        return list(pool.map(work, many))


def plain_and_tls(work):
    at_once(work, (False, True))


def get(path):
    return GET.replace(b"/ ", path + b" ")


def answer(sock):
    """A whole response of HTTP/1. One that is cut short raises, and so does none."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    body = response.read()
    response.close()
    return response, body


def begin(server, path):
    """A response of HTTP/1, of which the head was read."""
    sock = connect(server)
    sock.sendall(get(path))
    response = http.client.HTTPResponse(sock)
    response.begin()
    response.sock = sock
    return response


def says_close(response):
    return (response.getheader("connection") or "").lower() == "close"


def connect(server, protocol="http/1.1"):
    """A connection of which an end without TLS's own word of it does not pass for an end."""
    sock = server.connect(protocol)
    if server.tls:
        sock.suppress_ragged_eofs = False
    return sock


def ended(sock, within):
    """How the server has ended a connection: "FIN" (and TLS's own word before it), "RST", or None if it has not."""
    sock.settimeout(within)
    try:
        while sock.recv(1 << 20):
            pass
        return "FIN"
    except TimeoutError:
        return None
    except OSError:
        return "RST"


def cut(client):
    """How the server has ended a connection, seen below TLS: python takes a reset for an end there."""
    sock = client.socket if isinstance(client, Http2) else client
    return ended(socket.socket(fileno=os.dup(sock.fileno())), 10)


def resets(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Http2:
    """A client of HTTP/2 that notes all it reads, opens its connection's window when it likes, and may be mute."""

    def __init__(self, server, mute=False, sock=None):
        self.mute, self.socket = mute, sock or connect(server, "h2")
        self.received, self.hpack, self.next = b"", hpack.Decoder(), 1
        self.goaways, self.heads, self.bodies, self.whole, self.end = [], {}, {}, {}, None
        self.socket.sendall(PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 2**31 - 1)))

    def ask(self, path, method=b"GET", length=0):
        """Sends a request, of whose body something is to come if it has a length. Returns its stream."""
        block = (b"\x83" if method == b"POST" else b"\x82") + b"\x86\x41\x01x\x04" + bytes([len(path)]) + path
        return self.open(block, not length)

    def open(self, block, end):
        stream, self.next = self.next, self.next + 2
        self.bodies[stream] = bytearray()
        self.socket.sendall(frame(1, 4 | end, stream, block))
        return stream

    def make_room(self):
        self.socket.sendall(frame(8, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535)))

    def read(self, until, within=10):
        """Reads on until that is so, or the connection ends."""
        limit = time.monotonic() + within
        while not until() and not self.end:
            self.socket.settimeout(max(0.001, limit - time.monotonic()))
            try:
                some = self.socket.recv(1 << 20)
            except TimeoutError:
                raise
            except OSError:
                self.end = "RST"
                return
            if not some:
                self.end = "FIN"
            self.digest(some)

    def digest(self, some):
        self.received += some
        at, answers = 0, b""
        while len(self.received) - at >= 9:
            size, kind, flags, stream = int.from_bytes(self.received[at:at + 3], "big"), *struct.unpack_from(
                ">BBI", self.received, at + 3)
            if len(self.received) < at + 9 + size:
                break
            payload = self.received[at + 9:at + 9 + size]
            at += 9 + size
            if kind == 0:
                self.bodies[stream] += payload
            elif kind == 1:
                self.heads.setdefault(stream, dict(self.hpack.decode(payload)))
            elif kind == 3:
                self.whole[stream] = False
            elif kind == 4 and not flags & 1:
                answers += frame(4, 1, 0, b"")
            elif kind == 6 and not flags & 1:
                answers += frame(6, 1, 0, payload)
            elif kind == 7:
                self.goaways.append(struct.unpack_from(">I", payload)[0])
            if kind in (0, 1) and flags & 1:
                self.whole[stream] = True
        self.received = self.received[at:]
        if answers and not self.mute:
            try:
                self.socket.sendall(answers)
            except OSError:
                pass  # the next read will tell

    def get(self, path):
        """The status of a response, and its body."""
        stream = self.ask(path)
        self.read(lambda: stream in self.whole)
        assert self.whole.get(stream), f"{path}: cut ({self.end}, {self.goaways})"
        return self.heads[stream][":status"], self.bodies[stream]

    def read_to_end(self):
        self.read(lambda: False)
        return self.end


def idle(server, protocol):
    """A connection that was used."""
    if protocol == "h2":
        client = Http2(server)
        assert client.get(b"/") == ("200", b"ok\n")
        return client.socket
    sock = connect(server)
    assert served(sock).endswith(b"\r\n\r\nok\n")
    return sock


def spoken(stack):
    return ["http/1.1"] * (stack in SPEAK_H1) + ["h2"] * (stack in SPEAK_H2)


def over(ending, within, code=0):
    """It ends in that time, counted from the signal."""
    told, took = ending.over(within + 10)
    assert told == code, (told, ending.log() if ending.logged else "")
    assert took < within, f"{took:.3f} s of {within} s"
    return took


# --- DRAIN-3 and DRAIN-5: who has nothing under way

def idle_and_silent_connections_end_soon(stack):
    """20 idle and 20 silent connections end by FIN after 120 ms, and the process with them. DRAIN-3, DRAIN-8"""
    def drain(tls):
        with Playground(stack, tls=tls, logged=True) as server:
            protocols = (spoken(stack) * 20)[:20]
            connections = [idle(server, protocol) for protocol in protocols]
            connections += [connect(server, protocol) for protocol in protocols]
            time.sleep(0.1)
            ending = Ending(server)
            ends = at_once(lambda sock: (ended(sock, 2), after(ending.told_at)), connections)
            over(ending, LAST_CHANCE + SLACK)
            assert {end for end, _ in ends} == {"FIN"}, ends
            for (_, took), protocol in zip(ends, protocols + ["silent"] * 20):
                assert took > LAST_CHANCE - 0.005 or protocol == "h2", (protocol, took)
            assert "40 connections ended, none was cut" in server.log(), server.log()
    plain_and_tls(drain)


def http2_reads_two_goaways_and_the_end(stack):
    """An idle client of HTTP/2 reads GOAWAY for any stream, the last one and FIN, also if it never answers. DRAIN-3"""
    def drain(tls):
        with Playground(stack, tls=tls) as server:
            clients = [Http2(server, mute=n % 2 == 1) for n in range(20)]
            for client in clients:
                assert client.get(b"/") == ("200", b"ok\n")
            time.sleep(LAST_CHANCE + 0.03)  # who has just come is told when it could have asked
            ending = Ending(server)

            def listen(client):
                client.read(lambda: client.goaways, 2)
                told = after(ending.told_at)
                client.read_to_end()
                return told, after(ending.told_at)

            for client, (told, end) in zip(clients, at_once(listen, clients)):
                assert client.goaways == [ANY_STREAM, 1] and client.end == "FIN", (client.goaways, client.end)
                assert told < 0.1 and end < UNANSWERED + SLACK, (told, end)
                assert not client.mute or end > UNANSWERED - 0.005, end
            over(ending, UNANSWERED + SLACK)
    plain_and_tls(drain)


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # of 512 bytes


def halves(stack, server, tls):
    """What clients may have begun: a name, the connection, and the rest, or None if it is a TLS hello."""
    def begun(name, sock, first, rest):
        sock.sendall(first)
        return name, sock, rest

    if stack in SPEAK_H1:
        yield begun("a head", connect(server), GET[:10], GET[10:])
        yield begun("a second head", idle(server, "http/1.1"), GET[:-4], GET[-4:])
    if stack in SPEAK_H2:
        opening = bytes_of("hyper-http2", b"/")
        yield begun("half a preface", connect(server, "h2"), opening[:12], opening[12:])
        yield begun("a preface", connect(server, "h2"), opening[:24], opening[24:])
        yield begun("half a SETTINGS", connect(server, "h2"), opening[:27], opening[27:])
    if tls:
        yield "no hello", server.silent(), None
        yield begun("half a hello", server.silent(), HELLO, None)


def who_has_begun_has_half_a_second(stack):
    """Half a head, a TLS handshake, an opening of HTTP/2 has 500 ms, and is then closed. DRAIN-5"""
    def drain(tls):
        with Playground(stack, tls=tls, logged=True) as server:
            begun = list(halves(stack, server, tls))
            time.sleep(0.05)
            ending = Ending(server)
            ends = at_once(lambda half: (half[0], ended(half[1], 2), after(ending.told_at)), begun)
            assert all(end == "FIN" and ARRIVING - 0.005 < took < ARRIVING + SLACK for _, end, took in ends), ends
            over(ending, ARRIVING + 0.7)
            assert "none was cut" in server.log(), server.log()
    plain_and_tls(drain)


def who_goes_on_within_half_a_second_is_served(stack):
    """Half a head, a TLS handshake, an opening of HTTP/2 that is whole after 300 ms is served. DRAIN-5, DRAIN-3"""
    def drain(tls):
        with Playground(stack, tls=tls, logged=True) as server:
            begun = [half for half in halves(stack, server, tls) if half[0] != "half a hello"]  # of a made up client
            time.sleep(0.05)
            ending = Ending(server)
            time.sleep(0.3)

            def go_on(half):
                name, sock, rest = half
                try:
                    if rest is None:
                        sock, rest = server.secure(sock, spoken(stack)[0]), bytes_of(stack, b"/")
                    sock.sendall(rest)
                    if name.endswith("head") or rest.startswith(b"GET"):
                        return name, answer(sock)[1]
                    return name, b"".join(iter(lambda: sock.recv(65536), b""))
                except OSError as error:
                    return name, repr(error).encode()

            answers = at_once(go_on, begun)
            assert all(b"ok\n" in answered for _, answered in answers), answers
            over(ending, 0.3 + UNANSWERED + SLACK)
            assert "none was cut" in server.log(), server.log()
    plain_and_tls(drain)


def a_request_that_crosses_is_answered(stack):
    """A request that comes 60 ms after SIGTERM is answered with `Connection: close`. DRAIN-3"""
    plain_and_tls(lambda tls: ask_after_the_signal(stack, tls, stopped=0))


def what_came_to_a_stopped_process_is_answered(stack):
    """A request that came in the last chance, while the process was stopped beyond it, is answered. DRAIN-3"""
    plain_and_tls(lambda tls: ask_after_the_signal(stack, tls, stopped=0.5))


def ask_after_the_signal(stack, tls, stopped):
    with Playground(stack, tls=tls) as server:
        connections = [idle(server, "http/1.1") for _ in range(10)] + [connect(server) for _ in range(10)]
        time.sleep(0.05)
        ending = Ending(server)
        time.sleep(LAST_CHANCE / 2)
        if stopped:
            os.kill(server.process.pid, signal.SIGSTOP)
        for sock in connections:
            sock.sendall(GET)
        asked = after(ending.told_at)
        if stopped:
            time.sleep(stopped)
            os.kill(server.process.pid, signal.SIGCONT)
        lost = 0
        for sock in connections:
            try:
                response, body = answer(sock)
            except ConnectionError:
                lost += 1
            else:
                assert body == b"ok\n" and says_close(response), response.headers
                assert ended(sock, 1) == "FIN"
        # On a busy machine it may be this process that is late.
        assert not lost or asked > LAST_CHANCE, f"{lost} of {len(connections)} requests were not answered"
        over(ending, LAST_CHANCE + SLACK + stopped)


# --- DRAIN-4: what is in flight

def what_is_in_flight_finishes(stack):
    """A slow handler is answered with `Connection: close`, and the process ends right after. Bodies begun before arrive
    byte for byte, and their connection is listened to once more. DRAIN-4, DRAIN-3, DRAIN-8"""
    at_once(lambda drain: plain_and_tls(lambda tls: drain(stack, tls)), [finish_handlers, finish_bodies])


def finish_handlers(stack, tls):
    with Playground(stack, tls=tls) as server:
        h1 = [connect(server) for _ in range(5 * (stack in SPEAK_H1))]
        h2 = [Http2(server) for _ in range(2 * (stack in SPEAK_H2))]
        for sock in h1:
            sock.sendall(get(b"/sleep/2000"))
        asked = [(client, client.ask(b"/sleep/2000")) for client in h2 for _ in range(5)]
        time.sleep(0.3)
        ending = Ending(server)
        for sock in h1:
            response, body = answer(sock)
            assert (response.status, body) == (200, b"ok\n") and says_close(response), response.headers
        for client, stream in asked:
            client.read(lambda: stream in client.whole)
            assert client.whole.get(stream) and client.bodies[stream] == b"ok\n", (client.end, client.whole)
        answered = after(ending.told_at)
        assert answered > 1.5, answered
        ends = [ended(sock, 1) for sock in h1] + [client.read_to_end() for client in h2]
        assert set(ends) == {"FIN"}, ends
        assert all(client.goaways == [ANY_STREAM, 9] for client in h2), [client.goaways for client in h2]
        took = over(ending, answered + 0.3)
        assert took > 1.5


def finish_bodies(stack, tls):
    def tick(server, begun):
        response = begin(server, b"/stream/20/100")
        begun.release()
        assert response.read() == TICKS and not says_close(response)
        return response.sock

    def tick_and_ask(server, begun):
        sock = tick(server, begun)
        sock.sendall(GET)
        response, body = answer(sock)
        assert body == b"ok\n" and says_close(response), response.headers
        return sock

    def download(server, begun):
        response = begin(server, b"/bytes/%d" % SIZE)
        begun.release()
        time.sleep(0.5)  # in which the server cannot get rid of more than the kernel holds
        zeros = 0
        while some := response.read(1 << 20):
            zeros += some.count(b"0")
        assert zeros == SIZE, zeros
        return response.sock

    def upload(server, begun):
        sock = connect(server)
        sock.sendall(UPLOAD + b"." * 1_000_000)
        begun.release()
        for _ in range(20):
            time.sleep(0.05)
            sock.sendall(b"." * 100_000)
        response, body = answer(sock)
        assert body == b"." * 3_000_000 and says_close(response), (len(body), response.headers)
        return sock

    def http2(server, begun, path, at_first):
        client = Http2(server)
        stream = client.ask(path)
        client.read(lambda: len(client.bodies[stream]) >= at_first)
        begun.release()
        time.sleep(0.5)
        client.make_room()
        assert client.read_to_end() == "FIN" and client.whole == {stream: True}, (client.whole, client.goaways)
        return client.bodies[stream]

    def http2_tick(server, begun):
        assert http2(server, begun, b"/stream/20/100", 1) == TICKS

    def http2_download(server, begun):
        size = SIZE // 10  # in frames of 16 KiB, it is python that is slow
        assert http2(server, begun, b"/bytes/%d" % size, 65_535).count(b"0") == size

    kinds = [tick, tick_and_ask, download, upload] * (stack in SPEAK_H1)
    kinds += [http2_tick, http2_download] * (stack in SPEAK_H2)

    begun = threading.Semaphore(0)

    def client(kind):
        if sock := kind(server, begun):
            assert ended(sock, 1) == "FIN"

    with Playground(stack, tls=tls) as server, ThreadPoolExecutor(len(kinds)) as pool:
        clients = [pool.submit(client, kind) for kind in kinds]
        assert all(begun.acquire(timeout=5) for _ in kinds)
        ending = Ending(server)
        for one in clients:
            one.result()
        over(ending, after(ending.told_at) + 0.3)


# --- DRAIN-7 and DRAIN-8: the deadline, and a second signal

def stuck(stack, server):
    """Clients with something in flight that does not end, and what the report says of each."""
    clients, aged = [], r" for \d\.\d s, "

    def add(client, protocol, requests):
        port = (client.socket if protocol == "HTTP/2.0" else client).getsockname()[1]
        clients.append((client, rf"127\.0\.0\.1:{port} {re.escape(protocol)} {requests}{aged}open for \d\.\d s"))

    if stack in SPEAK_H1:
        for path in ("/sleep/600000", "/stream/1000/50", "/bytes/%d" % 10**12):
            sock = connect(server)
            sock.sendall(get(path.encode() + b"?secret"))
            add(sock, "HTTP/1.1", f"GET {path}")
        sock = connect(server)
        sock.sendall(POST + b"half")
        add(sock, "HTTP/1.1", "POST /echo")
        sock = connect(server)
        assert served(sock, WS).startswith(b"HTTP/1.1 101 ")
        add(sock, "HTTP/1.1", "upgraded GET /ws")
    if stack in SPEAK_H2:
        for path in ("/sleep/600000", "/stream/1000/50", "/bytes/200000000"):
            client = Http2(server)
            client.ask(path.encode())
            add(client, "HTTP/2.0", f"GET {path}")
        client = Http2(server)
        client.ask(b"/sleep/600000")
        client.ask(b"/echo", b"POST", 1000)
        add(client, "HTTP/2.0", rf"(?:GET /sleep/600000{aged}POST /echo|POST /echo{aged}GET /sleep/600000)")
    return clients


def what_is_left_at_the_deadline_is_reset_and_named(stack):
    """What is left at the deadline reads a reset, and the report and the exit code tell. DRAIN-7, DRAIN-8"""
    def drain(tls):
        with Playground(stack, "--drain-timeout", "600ms", tls=tls, logged=True) as server:
            clients = stuck(stack, server)
            time.sleep(0.2)
            ending = Ending(server)
            ends = at_once(cut, [client for client, _ in clients])
            took = over(ending, 0.6 + 0.3, code=1)
            assert took > 0.6 and set(ends) == {"RST"}, (took, ends)
            first, report = server.log().splitlines()[0], server.log()
            upgraded = int(stack in SPEAK_H1)
            assert f"draining: {len(clients)} connections ({upgraded} upgraded), " in first, first
            assert f" {len(clients)} cut" in report, report
            for _, named in clients:
                assert len(re.findall(named, report)) == 1, (named, report)
            assert "secret" not in report, report
    plain_and_tls(drain)


def at_the_deadline_who_does_nothing_is_not_cut(stack):
    """At a deadline that comes before they would end, idle clients and half a head end too, and are not cut. DRAIN-8"""
    def drain(tls):
        with Playground(stack, "--drain-timeout", "60ms", tls=tls, logged=True) as server:
            clients = [idle(server, protocol) for protocol in spoken(stack)]
            clients += [connect(server, spoken(stack)[-1])] + [sock for _, sock, _ in halves(stack, server, tls)]
            time.sleep(0.05)
            ending = Ending(server)
            assert None not in at_once(cut, clients)
            over(ending, 0.06 + 0.3)
            assert "none was cut" in server.log(), server.log()
    plain_and_tls(drain)


def a_handler_that_blocks_its_thread_does_not_keep_it(stack):
    """A handler that blocks its thread is left behind at the deadline, named and not answered. DRAIN-7, DRAIN-8"""
    with Playground(stack, "--drain-timeout", "300ms", logged=True) as server:
        sock = connect(server)
        sock.sendall(bytes_of(stack, b"/cpu/3000000"))
        time.sleep(0.2)
        took = over(Ending(server), 0.3 + 0.1 + 0.2, code=1)
        assert took > 0.3 and "GET /cpu/3000000" in server.log(), (took, server.log())
        assert cut(sock) in ("RST", "FIN")  # it is the kernel that closes the socket, with the process


def a_second_signal_ends_it_at_once(stack):
    """A second signal resets what runs, in the lame duck too, and closes the rest; the code tells it. DRAIN-7"""
    def drain(case):
        lame_duck, works, second = case
        with Playground(stack, "--lame-duck", lame_duck, logged=True) as server:
            clients = [client for client, _ in stuck(stack, server)] if works else [
                idle(server, spoken(stack)[0])] + [sock for _, sock, _ in halves(stack, server, False)]
            time.sleep(0.2)
            ending = Ending(server)
            time.sleep(0.05)
            again = time.monotonic()
            os.kill(server.process.pid, second)
            ends = at_once(cut, clients)
            code, _ = ending.over()
            assert code == works and ending.ended_at - again < 0.3, (code, ending.ended_at - again, server.log())
            assert set(ends) == {"RST"} or not works and None not in ends, ends
    at_once(drain, [("0", True, signal.SIGTERM), ("0", False, signal.SIGINT),
                    ("10s", True, signal.SIGINT), ("10s", False, signal.SIGTERM)])


# --- DRAIN-1: the lame duck

def a_lame_duck_serves_everybody(stack):
    """For 2 s readiness is gone, everybody is served and told to go; then connects are refused. DRAIN-1"""
    def drain(tls):
        with Playground(stack, "--lame-duck", "2s", tls=tls, logged=True) as server:
            h1 = [idle(server, "http/1.1") for _ in range(3 * (stack in SPEAK_H1))]
            silent = [connect(server) for _ in range(2 * (stack in SPEAK_H1))]
            h2 = [Http2(server) for _ in range(3 * (stack in SPEAK_H2))]
            assert all(client.get(b"/") == ("200", b"ok\n") for client in h2)
            running = [Http2(server) for _ in range(stack in SPEAK_H2)]
            for client in running:
                client.ask(b"/stream/25/100")
            time.sleep(LAST_CHANCE + 0.03)
            assert ask_anew(server, b"/readyz") == (200, False)
            ending = Ending(server)
            until("it is not ready", lambda: ask_anew(server, b"/readyz")[0] == 503, 0.1)
            for client in h2:
                client.read(lambda: client.goaways, 0.3)
                assert client.goaways == [ANY_STREAM], "no GOAWAY"
            times = 0
            while after(ending.told_at) < 1.7:
                assert ask_anew(server, b"/") == ask_anew(server, b"/healthz") == (200, True)
                assert ask_anew(server, b"/readyz") == (503, True)
                for client in h2:
                    assert client.get(b"/") == ("200", b"ok\n")
                    assert client.goaways == [ANY_STREAM] and not client.end
                for connections in (h1, silent):
                    if times % 8 == 4 and connections:
                        sock = connections.pop()
                        sock.sendall(GET)
                        response, body = answer(sock)
                        assert body == b"ok\n" and says_close(response) and ended(sock, 1) == "FIN"
                times += 1
                time.sleep(0.05)
            holder = connect(server, spoken(stack)[0])
            holder.sendall(bytes_of(stack, b"/sleep/700"))  # or there is nobody left to refuse
            refused = first_refused(server, ending)
            assert 2 - 0.005 < refused < 2.2, refused
            for client in running:
                client.read(lambda: client.whole, 3)
                assert client.whole == {1: True} and client.bodies[1].count(b"tick") == 25
            over(ending, after(ending.told_at) + 1)
            assert b"ok\n" in b"".join(iter(lambda: holder.recv(65536), b""))
            assert "none was cut" in server.log(), server.log()
    plain_and_tls(drain)


def ask_anew(server, path):
    """The status a new client is answered with, and whether it is told to leave."""
    if server.stack in SPEAK_H1:
        with connect(server) as sock:
            sock.sendall(get(path))
            response, _ = answer(sock)
            return response.status, says_close(response)
    client = Http2(server)
    status, _ = client.get(path)
    told = client.goaways == [ANY_STREAM]
    client.socket.close()
    return int(status), told


def first_refused(server, ending):
    """When a connect was refused for the first time, until which everybody is served."""
    while True:
        took = after(ending.told_at)
        try:
            assert ask_anew(server, b"/")[0] == 200
        except ConnectionRefusedError:
            return took
        except ConnectionResetError:
            assert took > 2 - 0.005, took  # in the moment of the close, it may be that


# --- DRAIN-2: who waits in the backlog

def whole(server, sock, http2, path=b"/bytes/50000", size=50_000):
    """Asks, and reads the answer, all of it, and the end."""
    expected = b"0" * size if size else b"ok\n"
    if http2:
        client = Http2(server, sock=sock)
        assert client.get(path) == ("200", expected) and client.read_to_end() == "FIN" and client.goaways
        return
    sock.sendall(get(path))
    response, body = answer(sock)
    assert (response.status, body) == (200, expected), (response.status, len(body))
    assert ended(sock, 5) == "FIN"


def who_waits_in_the_backlog_is_served(stack):
    """Requests that the process has not seen at the moment of the signal are answered, each and whole. DRAIN-2"""
    for n in range(DRAINS):
        wait_in_the_backlog(stack, tls=n % 3 == 2, at_the_start=False, signalled_first=n % 2 == 0)


def who_waits_when_a_server_has_just_begun_is_served(stack):
    """Also if the signal comes right after the first line on stdout. DRAIN-2"""
    for n in range(DRAINS):
        wait_in_the_backlog(stack, tls=n % 3 == 2, at_the_start=True, signalled_first=True)


def wait_in_the_backlog(stack, tls, at_the_start, signalled_first):
    with Playground(stack, tls=tls) as server, ThreadPoolExecutor(30) as pool:
        if not at_the_start:
            assert ask_anew(server, b"/")[0] == 200
            time.sleep(0.02)
        os.kill(server.process.pid, signal.SIGSTOP)
        waiting = [server.silent() for _ in range(10 if tls else 30)]

        def ask(client):
            number, sock = client
            http2 = spoken(stack)[number % len(spoken(stack))] == "h2"
            if tls:
                sock = server.secure(sock, "h2" if http2 else "http/1.1")
            whole(server, sock, http2)

        clients = [pool.submit(ask, client) for client in enumerate(waiting)]
        time.sleep(0.05)
        signals = (signal.SIGTERM, signal.SIGCONT) if signalled_first else (signal.SIGCONT, signal.SIGTERM)
        os.kill(server.process.pid, signals[0])
        time.sleep(0.002 * random.random())
        ending = Ending(server, signals[1])
        for client in clients:
            client.result()  # some are answered in the instant before the signal is noticed, and not told
        over(ending, (ARRIVING if tls else UNANSWERED) + SLACK)


def who_comes_around_the_signal_is_served_or_refused(stack):
    """Who has connected and asked before the signal is answered, and whoever comes later is, or is refused. DRAIN-2"""
    def come_and_come(server):
        """How a row of new clients fared, until one was refused: when each had asked, and if it was answered."""
        fates = []
        while True:
            try:
                sock = server.silent()
            except (ConnectionError, TimeoutError):
                return fates
            asked, read = None, b""
            try:
                sock = server.secure(sock, spoken(stack)[0]) if server.tls else sock
                sock.sendall(bytes_of(stack, b"/bytes/50000"))
                asked = time.monotonic()
                while read.count(b"0") < 50_000 and (some := sock.recv(65536)):
                    read += some
                resets(sock)  # or thousands of ports are in TIME-WAIT
            except OSError:
                pass
            fates.append((asked, read.count(b"0") >= 50_000))

    answered = reset = 0
    for n in range(DRAINS):
        listen = ["--listen", f"127.0.0.1:{free_ports(1)[0]}"]
        with Playground(stack, *listen, tls=n % 3 == 2) as server, ThreadPoolExecutor(30) as pool:
            clients = [pool.submit(come_and_come, server) for number in range(30)]
            time.sleep(0.05 + 0.05 * random.random())
            ending = Ending(server)
            fates = [fate for client in clients for fate in client.result()]
            over(ending, (ARRIVING if server.tls else UNANSWERED) + SLACK)
            lost = [asked and asked - ending.told_at for asked, fine in fates if not fine]
            assert not any(asked and asked < 0 for asked in lost), lost
            answered, reset = answered + len(fates) - len(lost), reset + len(lost)
    print(f"   {answered} answered, {30 * DRAINS} refused, {reset} reset", flush=True)


def who_waits_for_a_place_is_served(stack):
    """Of 30 clients of a server for 10, the 20 that wait at the moment of the signal are served as well. DRAIN-2"""
    def drain(tls):
        with Playground(stack, "--max-connections", "10", "--at-capacity", "wait", tls=tls) as server:
            def ask(client):
                number, sock = client
                http2 = spoken(stack)[number % len(spoken(stack))] == "h2"
                sock = server.secure(sock, "h2" if http2 else "http/1.1") if tls else sock
                whole(server, sock, http2, b"/sleep/200", 0)

            with ThreadPoolExecutor(30) as pool:
                waiting = [server.silent() for _ in range(30)]
                clients = [pool.submit(ask, client) for client in enumerate(waiting)]
                time.sleep(0.1)
                ending = Ending(server)
                for client in clients:
                    client.result()
            over(ending, 3 * (0.2 + UNANSWERED) + SLACK)
    plain_and_tls(drain)


def who_waits_for_a_descriptor_is_served(stack):
    """Of 120 clients of a server with 64 descriptors, each that has asked before the signal is answered; or the report
    counts it, if those who have the descriptors keep them. DRAIN-2, DRAIN-8"""
    def drain(path, flags, within, code):
        with Playground(stack, "--max-connections", "0", *flags, nofile=64, logged=True) as server:
            clients = [server.silent() for _ in range(120)]
            for client in clients:
                client.sendall(bytes_of(stack, path))
            until("there are descriptors", lambda: server.descriptors() >= 63)
            ending, answered = Ending(server), 0
            for client in clients:
                read = b""
                try:
                    while some := client.recv(65536):
                        read += some
                except ConnectionError:
                    pass
                answered += b"ok\n" in read
            over(ending, within, code)
            return answered, server.log()

    answered, log = drain(b"/", [], 4 * UNANSWERED + SLACK, 0)
    assert answered == 120 and "120 connections ended, none was cut\n" in log, (answered, log)
    answered, log = drain(b"/sleep/60000", ["--drain-timeout", "1s"], 1.2 + SLACK, 1)
    cut, unserved = map(int, re.search(r"ended, (\d+) cut, (\d+) not served", log).groups())
    assert answered == 0 and cut and cut + unserved == 120, log


def who_has_the_last_descriptor_is_not_waited_for(stack):
    """A server whose clients have all its descriptors, and at which nobody waits, ends as any other. DRAIN-8"""
    for path, within in ((b"/", 4 * UNANSWERED + SLACK), (b"/sleep/3000", 3 + 4 * UNANSWERED + SLACK)):
        with Playground(stack, "--max-connections", "0", nofile=64, logged=True) as server:
            clients = []
            while (taken := server.descriptors()) < 64:
                clients.append(server.silent())
                clients[-1].sendall(bytes_of(stack, path))
                until("it is accepted", lambda: server.descriptors() > taken)
            ending = Ending(server)
            over(ending, within, 0)
            assert f"{len(clients)} connections ended, none was cut\n" in server.log(), server.log()


# --- DRAIN-3: no answer is lost

async def ask_on_and_on(server, pause, fates):
    """A client that asks until it is told to leave, and notes what became of each request."""
    context = None
    if server.tls:
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    told = False
    while not told:
        await asyncio.sleep(pause * random.random())
        try:
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(3) == b"ok\n", head
        except asyncio.IncompleteReadError as error:
            fates.append("ended" if not error.partial else error.partial)
            break
        except ConnectionError:
            fates.append("reset")
            break
        fates.append("answered")
        told = b"\r\nconnection: close\r\n" in head.lower()
    if told:
        assert await reader.read() == b""
    writer.close()


def every_request_that_was_served_is_answered(stack):
    """200 clients that ask on and on read as many answers as requests were begun, and no other end. DRAIN-3"""
    lost = total = 0
    for n in range(DRAINS):
        with Playground(stack, tls=n % 3 == 2, logged=True) as server:
            async def clients():
                fates = []
                asking = [asyncio.create_task(ask_on_and_on(server, 0.2 * (m % 2), fates)) for m in range(200)]
                await asyncio.sleep(0.2 + 0.1 * random.random())
                ending = Ending(server)
                await asyncio.wait_for(asyncio.gather(*asking), 5)
                return fates, ending

            fates, ending = asyncio.run(clients())
            over(ending, LAST_CHANCE * 2 + SLACK)
            begun = int(re.search(r"answered requests=(\d+)", server.log())[1])
            assert fates.count("answered") == begun, (begun, set(fates), len(fates))
            assert set(fates) <= {"answered", "ended", "reset"}, set(fates)
            lost, total = lost + len(fates) - begun, total + begun
    print(f"   {total} answered, as many as were begun; {lost} ended without a byte", flush=True)


def every_stream_that_was_served_is_answered(stack):
    """Streams are answered up to the one that the last GOAWAY names, also of clients that go on. DRAIN-3, DRAIN-4"""
    above = total = 0
    for n in range(DRAINS):
        with Playground(stack, tls=n % 3 == 2, logged=True) as server:
            def ask_on(number):
                client, left = Http2(server), 10**9
                for _ in range(10):
                    client.ask(b"/")
                while not client.end:
                    heard, done = len(client.goaways), len(client.whole)
                    client.read(lambda: len(client.goaways) > heard or len(client.whole) > done)
                    if client.goaways and left == 10**9:
                        left = 100 * (number % 2)  # the odd ones are not polite, for a while
                    asked = min(left, 10 + len(client.whole) - len(client.bodies))
                    try:
                        for _ in range(asked if client.goaways[-1:] in ([], [ANY_STREAM]) else 0):
                            client.ask(b"/")
                            left -= 1
                    except OSError:
                        pass  # the next read will tell
                return client

            with ThreadPoolExecutor(6) as pool:
                clients = [pool.submit(ask_on, number) for number in range(6)]
                time.sleep(0.1 + 0.1 * random.random())
                ending = Ending(server)
                clients = [client.result() for client in clients]
            over(ending, UNANSWERED + SLACK)
            answered = 0
            for client in clients:
                last = client.goaways[-1]
                assert client.goaways[0] == ANY_STREAM and last != ANY_STREAM, client.goaways
                assert all(client.whole.get(stream) for stream in client.bodies if stream <= last), client.whole
                answered += sum(client.whole.values())
                above += sum(stream > last for stream in client.bodies)
            begun = int(re.search(r"answered requests=(\d+)", server.log())[1])
            assert answered == begun, (answered, begun)
            total += begun
    print(f"   {total} answered, as many as were begun; {above} above the last GOAWAY", flush=True)


# --- DRAIN-9: who is gone is not waited for

def who_is_gone_is_not_waited_for(stack):
    """Clients that left in the middle of anything, before the signal or after, do not keep it. DRAIN-9"""
    def request(path, method=b"GET", length=0):
        return bytes_of(stack, path, method, length)

    begun = [request(b"/sleep/60000"), request(b"/stream/1000/20"), request(b"/bytes/%d" % SIZE),
             request(b"/echo", b"POST", 100_000), request(b"/")[:-3], request(b"/panic"), os.urandom(200)]
    begun += [WS, POST + b"." * 500, get(b"/bytes/%d" % SIZE) + GET] * (stack in SPEAK_H1)
    begun += [PREFACE, PREFACE + frame(4, 0, 0, b"")] * (stack in SPEAK_H2)

    def drain(case):
        tls, later = case
        with Playground(stack, tls=tls, logged=True) as server:
            clients = [connect(server, spoken(stack)[0] if data[:3] != b"PRI" else "h2") for data in begun * 4]
            clients += [server.silent() for _ in range(4)]
            for sock, data in zip(clients, begun * 4):
                sock.sendall(data)
            time.sleep(0.2)
            ending = Ending(server) if later else None
            time.sleep(0.05)
            for n, sock in enumerate(clients):
                if n % 3:
                    resets(sock)
                else:
                    sock.close()
            gone_at = time.monotonic()
            if not later:
                time.sleep(0.2)
                gone_at = time.monotonic()
                ending = Ending(server)
            code, _ = ending.over(5)
            assert code == 0 and ending.ended_at - gone_at < 0.3, (code, ending.ended_at - gone_at, server.log())
    at_once(drain, [(tls, later) for tls in (False, True) for later in (False, True)])


# --- DRAIN-6: WebSockets

def masked(opcode, payload):
    mask = os.urandom(4)
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def a_web_socket_is_told_and_waited_for(stack):
    """A WebSocket reads Close 1001 when the lame duck ends, and its answer is waited for, no longer. DRAIN-6"""
    def drain(case):
        tls, http2 = case
        with Playground(stack, "--lame-duck", "300ms", tls=tls, logged=True) as server:
            if http2:
                client = Http2(server)
                head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/ws"),
                        (":authority", "localhost"), ("sec-websocket-version", "13")]
                stream = client.open(hpack.Encoder().encode(head), False)
                client.read(lambda: stream in client.heads)
                assert client.heads[stream][":status"] == "200", client.heads

                def say(data):
                    client.socket.sendall(frame(0, 0, stream, data))

                def hear():
                    before = len(client.bodies[stream])
                    client.read(lambda: len(client.bodies[stream]) > before)
                    return bytes(client.bodies[stream][before:])
            else:
                sock = connect(server)
                assert served(sock, WS).startswith(b"HTTP/1.1 101 ")
                say, hear = sock.sendall, lambda: sock.recv(65536)
            say(masked(1, b"before"))
            assert hear() == b"\x81\x06before"
            ending = Ending(server)
            time.sleep(0.1)
            say(masked(1, b"lame duck"))
            assert hear() == b"\x81\x09lame duck"
            closed = hear()
            told = after(ending.told_at)
            assert closed[0] == 0x88 and closed[2:4] == struct.pack(">H", 1001), closed
            assert 0.3 - 0.005 < told < 0.3 + 0.2, told
            time.sleep(0.3)
            assert ending.ended_at is None, "it was not waited for"
            say(masked(8, closed[2:4]))
            answered = time.monotonic()
            assert (client.read_to_end() if http2 else ended(sock, 1)) == "FIN"
            code, _ = ending.over()
            assert code == 0 and ending.ended_at - answered < 0.3, (code, ending.ended_at - answered, server.log())
            if not http2:
                assert "draining: 1 connections (1 upgraded), 0 requests" in server.log(), server.log()
    at_once(drain, [(tls, protocol == "h2") for tls in (False, True) for protocol in spoken(stack)])


# --- many, and what is told

def thousands_of_idle_connections_end_at_once(stack):
    """Thousands of idle connections end in time, for little processor time. DRAIN-3"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Playground(stack, "--max-connections", "15000", "--keep-alive-timeout", "0", "--header-read-timeout", "0",
                    logged=True) as server:
        kinds = [lambda protocol=protocol: idle(server, protocol) for protocol in spoken(stack)]
        kinds.append(lambda: connect(server, spoken(stack)[-1]))
        connections = [kinds[n % len(kinds)]() for n in range(CONNECTIONS)]
        time.sleep(0.2)
        before, ending = server.cpu_seconds(), Ending(server)
        took = over(ending, UNANSWERED + SLACK + CONNECTIONS / 10_000)
        used = ending.usage.ru_utime + ending.usage.ru_stime - before
        print(f"   {CONNECTIONS} ended in {took:.3f} s, for {used:.2f} s of processor time", flush=True)
        assert used < 1, used
        assert {ended(sock, 1) for sock in connections} == {"FIN"}
        assert f"{CONNECTIONS} connections ended, none was cut" in server.log(), server.log()


def it_tells_what_it_waits_for(stack):
    """While it waits, a line every 5 s tells for what. DRAIN-10"""
    with Playground(stack, logged=True) as server:
        client = connect(server)
        client.sendall(bytes_of(stack, b"/sleep/5300"))
        time.sleep(0.1)
        ending = Ending(server)
        over(ending, 5.3 + SLACK)
        told = re.findall(r"draining: 1 connections \(0 upgraded\), 1 requests, (\S+) s left", server.log())
        assert told[0] == "30.0" and told[1] in ("25.0", "24.9", "24.8") and len(told) == 2, server.log()


CASES = [
    (idle_and_silent_connections_end_soon, STACKS), (http2_reads_two_goaways_and_the_end, SPEAK_H2),
    (who_has_begun_has_half_a_second, STACKS), (who_goes_on_within_half_a_second_is_served, STACKS),
    (a_request_that_crosses_is_answered, SPEAK_H1), (what_came_to_a_stopped_process_is_answered, SPEAK_H1),
    (what_is_in_flight_finishes, STACKS), (what_is_left_at_the_deadline_is_reset_and_named, STACKS),
    (at_the_deadline_who_does_nothing_is_not_cut, STACKS),
    (a_handler_that_blocks_its_thread_does_not_keep_it, STACKS), (a_second_signal_ends_it_at_once, STACKS),
    (a_lame_duck_serves_everybody, STACKS), (who_waits_in_the_backlog_is_served, STACKS),
    (who_waits_when_a_server_has_just_begun_is_served, STACKS),
    (who_comes_around_the_signal_is_served_or_refused, STACKS), (who_waits_for_a_place_is_served, STACKS),
    (who_waits_for_a_descriptor_is_served, STACKS), (who_has_the_last_descriptor_is_not_waited_for, STACKS),
    (every_request_that_was_served_is_answered, SPEAK_H1), (every_stream_that_was_served_is_answered, SPEAK_H2),
    (who_is_gone_is_not_waited_for, STACKS), (a_web_socket_is_told_and_waited_for, STACKS),
    (thousands_of_idle_connections_end_at_once, STACKS), (it_tells_what_it_waits_for, ["axum"]),
]

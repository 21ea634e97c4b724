#!/usr/bin/python3
"""Real clients against the playground, on every stack: run.py [PLAYGROUND] [--stack S] [--case NAME]

Each case is a function whose docstring is the promise. It asserts on bytes, exit codes, descriptors
(/proc/PID/fd) and the server's own counts. Needs what the install step of `.ci/run` installs. With --table FILE, what
was shown on which stack is written into FILE, between two marks (table.py). The environment variable
CLIENTS_CONNECTIONS sets how many clients come where many do (default 2000), and CLIENTS_ROUNDS how often a rush is
repeated (default 3), CLIENTS_DRAINS how often a drain is (default 5).
"""
import argparse
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import balancer
import browser
import drain
import harness
import overload
import pools
import proxies
import rolling
import table
import timeouts
import varnish
import writes
from harness import (
    CONNECTIONS, GET, H2, PREFACE, RESERVE, ROUNDS, SPEAK_H1, SPEAK_H2, STACKS, WS, Pauses, Playground, bytes_of, ended,
    frame, read_all, run, rush, served, status_in, until, versions)

# --- the cases

def curl_on_every_route(stack):
    """curl is answered on every route, in each protocol, also inside TLS."""
    upload = os.urandom(1 << 20)
    for tls in (False, True):
        with Playground(stack, tls=tls) as server:
            for version in versions(server):
                told = server.curl("/", *version, "-o", "/dev/null", "-w", "%{http_version}").decode()
                assert told == ("1.1" if version == ["--http1.1"] else "2"), told
                assert server.curl("/", *version) == b"ok\n"
                assert len(server.curl("/bytes/10000000", *version)) == 10_000_000
                assert server.curl("/stream/5/50", *version).count(b"tick") == 5
                assert server.curl("/sleep/10", *version) == b"ok\n"
                assert server.curl("/cpu/100", *version) == b"ok\n"
                assert server.curl("/healthz", *version) == server.curl("/readyz", *version) == b"ok\n"
                echoed = subprocess.run(
                    ["curl", "-sSk", *version, "--data-binary", "@-", server.url + "/echo"],
                    input=upload, capture_output=True, check=True).stdout
                assert echoed == upload


def load_is_served(stack):
    """wrk and h2load are served without an error."""
    with Playground(stack) as server:
        if stack in SPEAK_H1:
            told = run("wrk", "-c64", "-t2", "-d2s", server.url + "/")
            assert "Non-2xx" not in told and "Socket errors" not in told, told
        if stack in SPEAK_H2:
            told = run("h2load", "-c8", "-m32", "-n20000", server.url + "/")
            assert "20000 succeeded, 0 failed, 0 errored" in told, told


def a_web_socket_echoes(stack):
    """A WebSocket echoes, and is told of a drain with code 1001."""
    with Playground(stack) as server:
        sock = server.connect()
        assert served(sock, WS).startswith(b"HTTP/1.1 101 ")
        mask = b"\1\2\3\4"
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(b"hello"))
        assert served(sock, b"\x81\x85" + mask + masked) == b"\x81\x05hello"
        holder = server.connect()
        holder.sendall(GET.replace(b"/ ", b"/sleep/500 "))  # or the process is gone before it can tell
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        frame = sock.recv(100)
        assert frame[0] == 0x88 and frame[2:4] == struct.pack(">H", 1001), frame


def grpc_beside_plain_routes(stack):
    """A gRPC service answers beside the plain routes."""
    with Playground(stack) as server:
        grpc = [("content-type", "application/grpc"), ("te", "trailers")]
        answer, _ = H2(server).request("/grpc.health.v1.Health/Check", "POST", grpc, b"\0" * 5)
        assert answer.get("grpc-status") == "0", answer


def nothing_leaks(stack):
    """After thousands of clients that ended in every ugly way nothing is left. CONN-1, LIMIT-7"""
    http2 = stack == "hyper-http2"

    def request(path, method=b"GET", length=0):
        return bytes_of(stack, path, method, length)

    def reset(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def after(data, then=lambda sock: None, read=0):
        def client():
            with server.connect() as sock:
                sock.sendall(data)
                if read:
                    sock.recv(read)
                then(sock)
        return client

    half_close = lambda sock: sock.shutdown(socket.SHUT_WR)
    clients = [
        after(b"", reset), after(b""), after(os.urandom(300)), after(b"GET / HT", half_close),
        after(request(b"/sleep/60000"), reset), after(request(b"/"), half_close, 100),
        after(request(b"/echo", b"POST", 100_000) + b"." * (0 if http2 else 5_000)),
        after(request(b"/bytes/50000000"), reset, 1_000), after(request(b"/panic")),
        after(request(b"/stream/1000/1000"), half_close, 10),
        after(PREFACE), after(PREFACE + frame(4, 0, 0, b"") + b"\0\0", reset),
    ] + ([] if http2 else [after(WS, reset, 100), after(WS, read=100)])
    with Playground(stack, "--max-connections", "0") as server:
        server.counts()
        before = server.descriptors()
        for n in range(CONNECTIONS):
            try:
                clients[n % len(clients)]()
            except (ConnectionError, TimeoutError):
                pass  # the server ended it first
        until("a descriptor leaked", lambda: server.descriptors() <= before)
        until("a connection leaked", lambda: server.counts()["connections_open"] == 1)
        until("a request leaked", lambda: server.counts()["requests_in_flight"] == 1)
        assert server.curl("/") == b"ok\n"


def waiting_at_the_limit(stack):
    """At the limit the next client waits, and is served when one of ten ends. LIMIT-2"""
    for tls in (False, True):
        with Playground(stack, "--max-connections", "10", "--at-capacity", "wait", tls=tls) as server:
            if stack in SPEAK_H1:
                holders = [server.connect() for _ in range(10)]
                for n, holder in enumerate(holders):
                    assert served(holder, WS if n % 2 else GET)
            else:
                connections = [H2(server) for _ in range(10)]
                assert all(c.request("/")[1] == b"ok\n" for c in connections)
                holders = [c.socket for c in connections]
            eleventh = subprocess.Popen(
                ["curl", "-sSk", "-m", "10", *versions(server)[0], server.url + "/"], stdout=subprocess.PIPE)
            try:
                eleventh.wait(0.3)
                raise AssertionError("the eleventh was served")
            except subprocess.TimeoutExpired:
                pass
            holders[1].close()
            assert eleventh.communicate(timeout=1)[0] == b"ok\n"


def rejecting_at_the_limit(stack):
    """At the limit the next client reads a whole 503, whatever it has sent. LIMIT-3, LIMIT-4, LIMIT-6"""
    for tls in (False, True):
        with Playground(stack, "--max-connections", "10", "--keep-alive-timeout", "0", tls=tls) as server:
            holders = [server.connect() for _ in range(10)]
            for n, holder in enumerate(holders):
                assert served(holder, WS if n % 2 else GET)
            for size, times in ((0, 20), (16 * 1024, 20), (5_000_000, 200)):
                for _ in range(times):
                    sock = server.connect()
                    head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % size
                    try:
                        sock.sendall(head + b"." * size)
                    except OSError:
                        pass  # the answer is what matters
                    head, _, body = read_all(sock).partition(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 503 "), (size, head)
                    for line in (b"retry-after: 1", b"connection: close", b"content-length: 0"):
                        assert line in head.split(b"\r\n"), (size, head)
                    assert body == b"", body
            silent, start = server.connect(), time.monotonic()
            assert silent.recv(100) == b"" and 4 < time.monotonic() - start < 7
            assert served(holders[0]).startswith(b"HTTP/1.1 200 ")
            holders[1].close()
            until("the permit did not come back", lambda: served(server.connect()).startswith(b"HTTP/1.1 200 "))


def rejecting_http2_at_the_limit(stack):
    """At the limit an HTTP/2 client reads a 503, then GOAWAY (axum 0.8: the end). LIMIT-3, LIMIT-5"""
    for tls in (False, True):
        with Playground(stack, "--max-connections", "2", tls=tls) as server:
            holders = [H2(server), H2(server)]
            assert all(holder.request("/")[1] == b"ok\n" for holder in holders)
            start, rejected = time.monotonic(), H2(server)
            answer, _ = rejected.request("/")
            assert answer[":status"] == "503" and answer["retry-after"] == "1", answer
            rejected.read_to_end()
            assert rejected.goaway or stack == "axum", "no GOAWAY"
            assert time.monotonic() - start < 2
            assert holders[0].request("/")[1] == b"ok\n"


def exactly_so_many_are_served(stack):
    """Of 1000 clients at once, exactly the limit's 50 are served, and all others rejected. LIMIT-1"""
    for _ in range(ROUNDS):
        with Playground(stack, "--max-connections", "50") as server:
            sockets, answers = rush(server, 1000, bytes_of(stack, b"/sleep/3000"))
            assert (answers.count("200"), answers.count("503")) == (50, 950), (set(answers), len(sockets))


def making_room(stack):
    """At the limit the client that is idle the longest makes room, within 50 ms. LIMIT-9, LIMIT-11"""
    for tls in (False, True):
        with Playground(stack, "--max-connections", "2", "--at-capacity", "make-room", tls=tls) as server:
            first, second = server.silent(), server.silent()
            start = time.monotonic()
            with Pauses() as pauses:
                if stack in SPEAK_H1:
                    assert served(server.connect()).startswith(b"HTTP/1.1 200 ")
                else:
                    assert H2(server).request("/")[1] == b"ok\n"
                took = time.monotonic() - start
            took -= pauses.seconds
            assert took < 0.05, f"{took * 1000:.0f} ms"
            assert ended(first, 0.1) == "FIN" and ended(second, 0.05) is None
        if stack not in SPEAK_H2:
            continue
        with Playground(stack, "--max-connections", "2", "--at-capacity", "make-room", tls=tls) as server:
            first, second = H2(server), H2(server)
            assert all(c.request("/")[1] == b"ok\n" for c in (first, second, first))
            time.sleep(0.05)
            assert H2(server).request("/")[1] == b"ok\n"
            second.read_to_end()
            assert second.goaway, "no GOAWAY"
            assert first.request("/")[1] == b"ok\n"


def who_is_at_work_stays(stack):
    """At the limit, with all at work, the next client reads its 503 and the others finish. LIMIT-10"""
    with Playground(stack, "--max-connections", "2", "--at-capacity", "make-room") as server:
        first, _ = rush_later(server, 2, bytes_of(stack, b"/sleep/600"))
        time.sleep(0.2)
        _, answers = rush(server, 1, bytes_of(stack, b"/"))
        assert answers == ["503"], answers
        assert first() == ["200", "200"]


def rush_later(server, clients, request):
    """A rush in a thread; call the first of what it returns for the answers."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(rush, server, clients, request)
    return lambda: future.result()[1], pool


def closing_at_the_limit(stack):
    """With `close` the next client is reset without a word. LIMIT-12"""
    with Playground(stack, "--max-connections", "1", "--at-capacity", "close") as server:
        holder = server.silent()
        time.sleep(0.05)
        try:
            assert ended(server.silent(), 1) == "RST"
        except ConnectionResetError:
            pass  # before this process knew that it was connected
        holder.close()
        until("the permit did not come back", lambda: server.curl("/") == b"ok\n")


def one_client_does_not_take_all(stack):
    """An address has its own limit, and the others do not feel it. LIMIT-15"""
    with Playground(stack, "--max-connections-per-ip", "3") as server:
        holders = [server.silent("127.0.0.2") for _ in range(3)]
        time.sleep(0.05)
        greedy = server.silent("127.0.0.2")
        greedy.sendall(bytes_of(stack, b"/"))
        received = b""
        while status_in(stack, received) is None:
            received += greedy.recv(65536)
        assert status_in(stack, received) == "503"
        assert server.curl("/") == b"ok\n"
        holders[0].close()
        time.sleep(0.05)
        _, answers = rush(server, 3, bytes_of(stack, b"/"))
        assert answers == ["200"] * 3


def rejected_clients_that_stay(stack):
    """Thousands of rejected clients that never close take no more than the reserve, and nobody's time.
    LIMIT-6, LIMIT-14"""
    with Playground(stack, "--max-connections", "10") as server:
        one = server.connect() if stack in SPEAK_H1 else H2(server)

        def ask():
            start = time.monotonic()
            if stack in SPEAK_H1:
                assert served(one).startswith(b"HTTP/1.1 200 ")
            else:
                assert one.request("/")[1] == b"ok\n"
            return (time.monotonic() - start) * 1000

        ask()
        holders = [server.silent() for _ in range(9)]
        time.sleep(0.1)
        before = server.descriptors()
        alone = sorted(ask() for _ in range(300))
        most, latencies, done = [], [], threading.Event()

        def watch():
            while not done.is_set():
                most.append(server.descriptors())
                latencies.append(ask())
                time.sleep(0.002)

        watcher = threading.Thread(target=watch)
        watcher.start()
        cpu, start = server.cpu_seconds(), time.monotonic()
        rushed = []
        for _ in range(0, CONNECTIONS, 1000):
            sockets, answers = rush(server, 1000, bytes_of(stack, b"/"))
            assert answers == ["503"] * 1000, set(answers)
            rushed += sockets
        took, cpu = time.monotonic() - start, server.cpu_seconds() - cpu
        done.set()
        watcher.join()
        assert max(most) <= before + RESERVE, f"{max(most)} descriptors, {before} before"
        latencies.sort()
        middle, last = len(latencies) // 2, len(latencies) * 99 // 100
        print(f"   {len(rushed)} rejected in {took:.1f} s, CPU {cpu:.2f} s, at most {max(most) - before} past the limit; "
              f"holder: median {latencies[middle]:.2f} ms, 99 % {latencies[last]:.2f} ms "
              f"(alone {alone[150]:.2f}, {alone[297]:.2f})", flush=True)
        until("descriptors did not come back", lambda: server.descriptors() <= before, 10)
        assert len(holders) == 9


def a_tight_reconnect_loop(stack):
    """A client that reconnects as fast as it can is rejected no faster than the reserve allows. LIMIT-14"""
    with Playground(stack, "--max-connections", "1") as server:
        holder = server.silent()
        time.sleep(0.05)
        request, rejected = bytes_of(stack, b"/"), 0
        start, cpu = time.monotonic(), server.cpu_seconds()
        while time.monotonic() < start + 2:
            with server.silent() as sock:
                sock.sendall(request)
                assert sock.recv(65536)
                rejected += 1
        assert rejected <= RESERVE * 22, rejected
        cpu = server.cpu_seconds() - cpu
        assert cpu < 1.2, cpu  # of two seconds, in which an unbounded loop would take all
        holder.close()


def signals_end_it(stack):
    """SIGTERM lets what is in flight finish and exits with 0; a second one exits at once with 1. ACCEPT-6"""
    with Playground(stack) as server:
        asked = subprocess.Popen(["curl", "-sS", *versions(server)[0], server.url + "/sleep/700"],
                                 stdout=subprocess.PIPE)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert asked.communicate(timeout=3)[0] == b"ok\n"
        assert server.process.wait(3) == 0
    with Playground(stack) as server:
        asked = subprocess.Popen(["curl", "-sS", *versions(server)[0], server.url + "/sleep/60000"],
                                 stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(3) == 1 and time.monotonic() - start < 0.3
        asked.wait(3)


def a_wrong_value_is_refused(stack):
    """A value that a flag does not take stops the program with a message that names it."""
    for flags in ["--max-in-flight many", "--keep-alive-timeout soon", "--stack nginx"]:
        told = subprocess.run([harness.BINARY, *flags.split()], capture_output=True, timeout=5)
        assert told.returncode == 2 and flags.split()[0] in told.stderr.decode(), told
    assert subprocess.run([harness.BINARY, "--help"], capture_output=True).returncode == 0


def who_leaves_is_noticed_whatever_is_unread(stack):
    """Who leaves with FIN or RST while the request is under way gives back its place within two seconds, also if a part
    of its body or of a next request was never read. CONN-11, LIMIT-7, SHED-2"""
    ask = b"GET /sleep/600000 HTTP/1.1\r\nhost: localhost\r\n"
    unread = [(ask + b"\r\n", more) for more in (b"", b"\r\n", GET[:10], GET)]
    unread += [(ask + b"content-length: 10\r\n\r\n", more) for more in (b"", b"12345", b"1234567890")]
    for tls in (False, True):
        with Playground(stack, tls=tls) as server:
            before = server.descriptors()
            clients = []
            for head, more in unread:
                for at_once in (False, True):
                    for number in range(2):
                        sock = server.connect()
                        sock.sendall(head + more * at_once)
                        clients.append((sock, more * (not at_once), number))
            until("they are not in", lambda: server.counts()["requests_in_flight"] == len(clients) + 1)
            for sock, more, _ in clients:
                sock.sendall(more)
            time.sleep(0.1)
            for sock, _, resets in clients:
                if resets:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            until("they are not missed", lambda: server.counts()["requests_in_flight"] == 1, 2)
            until("descriptors are left", lambda: server.descriptors() <= before + 1)


def out_of_descriptors(stack):
    """With 64 descriptors and 200 clients it neither dies nor spins, and serves again after. ACCEPT-3"""
    with Playground(stack, "--max-connections", "10000", nofile=64) as server:
        clients = [socket.socket() for _ in range(200)]
        for client in clients:
            client.setblocking(False)  # the backlog may be smaller than that
            client.connect_ex(("127.0.0.1", server.port))
        time.sleep(0.3)
        before = server.cpu_seconds()
        time.sleep(2)
        assert server.cpu_seconds() - before < 0.4 and server.process.poll() is None
        for client in clients:
            client.close()
        assert server.curl("/") == b"ok\n"


CASES = [
    (curl_on_every_route, STACKS), (load_is_served, STACKS), (a_web_socket_echoes, SPEAK_H1),
    (grpc_beside_plain_routes, ["tonic"]), (nothing_leaks, STACKS), (waiting_at_the_limit, STACKS),
    (rejecting_at_the_limit, SPEAK_H1), (rejecting_http2_at_the_limit, SPEAK_H2),
    (exactly_so_many_are_served, STACKS), (making_room, STACKS), (who_is_at_work_stays, STACKS),
    (closing_at_the_limit, STACKS), (one_client_does_not_take_all, STACKS),
    (rejected_clients_that_stay, STACKS), (a_tight_reconnect_loop, STACKS),
    *timeouts.CASES, *writes.CASES, *drain.CASES, *overload.CASES, (signals_end_it, STACKS),
    (a_wrong_value_is_refused, ["axum"]), (who_leaves_is_noticed_whatever_is_unread, SPEAK_H1), (out_of_descriptors, STACKS),
    *varnish.CASES, *pools.CASES, *browser.CASES, *proxies.CASES, *rolling.CASES,
    *balancer.CASES,
]

# They wait for most of their time, and measure nothing that a busy machine would spoil.
PATIENT = {
    "a_slow_handler_is_not_the_clients_fault", "a_stalled_stream_ends_alone", "a_stopped_process_blames_nobody",
    "a_stopped_server_blames_no_reader", "a_web_socket_must_be_read",
    "an_idle_connection_is_closed_in_time", "rejecting_at_the_limit", "reuse_below_the_timeout",
    "the_tail_is_waited_for_and_no_longer", "who_is_refused_for_long_is_told_to_go",
    "who_obeys_loses_nothing", "who_reads_steadily_is_never_cut", "who_takes_nothing_is_given_up",
    "work_is_not_idleness",
}

# What does not hold yet, and why. Such a case must fail: one that holds is to be taken out of here.
KNOWN = {}


def main(cases):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("playground", nargs="?", default=harness.BINARY)
    parser.add_argument("--stack", choices=STACKS)
    parser.add_argument("--case")
    parser.add_argument("--table", metavar="FILE")
    asked = parser.parse_args()
    if asked.table and (asked.stack or asked.case):
        parser.error("a table is of everything")
    harness.BINARY = asked.playground
    results, began = {}, time.monotonic()
    for case, stacks in cases:
        chosen = [stack for stack in stacks if asked.stack in (None, stack)]
        if asked.case not in (None, case.__name__):
            continue
        if case.__name__ in PATIENT and len(chosen) > 1:
            results.update(((case.__name__, stack), result) for stack, result in side_by_side(case, chosen))
            continue
        for stack in chosen:
            start = time.monotonic()
            result, told = outcome(case, stack)
            results[case.__name__, stack] = result
            print(f"{result} {case.__name__} {stack} ({time.monotonic() - start:.1f}s)\n{told}".rstrip(), flush=True)
    counted = [list(results.values()).count(result) for result in ("ok", "FAILED", "known")]
    print("{} passed, {} failed, {} known to fail, in {:.0f} s".format(*counted, time.monotonic() - began))
    if asked.table:
        table.write(asked.table, cases, results, KNOWN)
    sys.exit("FAILED" in results.values())


def side_by_side(case, stacks):
    """A case on all its stacks at the same time, each in a process of its own."""
    command = [sys.executable, __file__, harness.BINARY, "--case", case.__name__, "--stack"]
    running = {stack: subprocess.Popen([*command, stack], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
               for stack in stacks}
    for stack, process in running.items():
        told, _ = process.communicate()
        print(told[:told.rstrip().rfind("\n") + 1], end="", flush=True)  # without its sum
        result = re.search(rf"^(ok|known|FAILED) {case.__name__} ", told, re.MULTILINE)
        yield stack, result[1] if result else "FAILED"


def outcome(case, stack):
    """What became of it, and what there is to say of that."""
    known = KNOWN.get(case.__name__)
    try:
        case(stack)
    except Exception:
        return ("known", f"   {known}") if known else ("FAILED", traceback.format_exc())
    return ("FAILED", "   it holds: take it out of KNOWN") if known else ("ok", "")


if __name__ == "__main__":
    main(CASES)

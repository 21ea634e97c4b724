"""Who is served when there are more requests than slots, and what the others read."""
import random
import re
import selectors
import socket
import statistics
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import h2.events
import hpack

from drain import Http2, at_once, connect, ended, get, masked, over, resets
from harness import GET, H2, SPEAK_H1, SPEAK_H2, STACKS, WS, Ending, Playground, frame, read_all, run, served, until
from timeouts import after

ENDLESS = [b"/stream/100000/20", b"/bytes/200000000"]  # a body that goes on, and one that nobody reads
POST = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
UPLOAD = 5_000_000
CHECK, MESSAGE = "/grpc.health.v1.Health/Check", b"\0" * 5
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


class Http1(Http2):
    """A client of HTTP/1 that looks the same: its streams are its requests, and `Connection: close` is its GOAWAY."""

    def __init__(self, server):
        self.socket, self.received, self.next, self.end = connect(server), b"", 1, None
        self.goaways, self.heads, self.bodies, self.whole = [], {}, {}, {}

    def ask(self, path):
        return self.say(get(path))

    def say(self, request):
        number, self.next = self.next, self.next + 1
        self.socket.sendall(request)
        return number

    def digest(self, some):
        self.received += some
        while b"\r\n\r\n" in self.received:
            head, _, rest = self.received.partition(b"\r\n\r\n")
            first, *lines = head.decode().lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines)
            assert len(fields) == len(lines), f"a field comes twice: {head}"
            number = len(self.whole) + 1
            if number not in self.heads and fields.get("connection") == "close":
                self.goaways.append(number)
            self.heads[number] = {":status": first[9:12], **fields}
            size = int(fields["content-length"]) if "content-length" in fields else rest.find(b"0\r\n\r\n") + 5
            self.bodies[number] = rest[:size]
            if size == 4 or len(rest) < size:
                return
            self.whole[number], self.received = True, rest[size:]


def speakers(stack):
    return [Http1] * (stack in SPEAK_H1) + [Http2] * (stack in SPEAK_H2)


def each_way(stack, work):
    """The work for each protocol, plain and in TLS, all at the same time."""
    at_once(lambda way: work(*way), [(Client, tls) for Client in speakers(stack) for tls in (False, True)])


def all_at_once(clients, path):
    """Each asks, without a pause; one that is there more than once asks on as many streams. Returns the heads of the
    answers, and how long each took."""
    asked, done = [], {}
    for client in clients:
        start = time.monotonic()
        asked.append((client, client.ask(path), start))
    with selectors.DefaultSelector() as selector:
        for client in set(clients):
            selector.register(client.socket, selectors.EVENT_READ, client)
        while any((client, number) not in done for client, number, _ in asked):
            ready = selector.select(10)
            assert ready, f"{len(asked) - len(done)} are not answered"
            for key, _ in ready:
                some = key.fileobj.recv(65536)
                assert some, "the connection ended"
                key.data.digest(some)
                now = time.monotonic()
                for number, is_whole in key.data.whole.items():
                    assert is_whole, "a stream was reset"
                    done.setdefault((key.data, number), now)
    return [(client.heads[number], done[client, number] - start) for client, number, start in asked]


def used(server, Client):
    """A connection on which something was read: so that nothing but answers comes, no TLS tickets and no SETTINGS."""
    client = Client(server)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or streams wait for each other's ACK
    assert client.get(b"/healthz") == ("200", b"ok\n")
    return client


def is_refusal(head):
    """Whether it is the answer to who is not served, and says all that it should and no more."""
    if head[":status"] != "503":
        return False
    assert int(head["retry-after"]) >= 1 and head["content-length"] == "0" and "connection" not in head, head
    return True


def in_flight(server):
    return server.counts()["requests_in_flight"] - 1  # but for the one that asks


def shed(server):
    """How many were refused for each reason for which any was."""
    return {name.split('"')[1]: n for name, n in server.counts().items() if n and name.startswith("requests_shed")}


def so_many_slots_are_free(server, Client, limit):
    """All of them, and no more."""
    until("a request is left", lambda: in_flight(server) == 0)
    answers = all_at_once([used(server, Client) for _ in range(limit + 1)], b"/sleep/300")
    assert [is_refusal(head) for head, _ in answers].count(False) == limit, answers


def hold(server, Client, path, times=1):
    """So many slots are taken. Returns who holds them: each has read the head of its answer if there is one yet."""
    holders = [Client(server) for _ in range(times)]
    server.held = [*getattr(server, "held", []), *holders]  # or the garbage collector would close them
    for holder in holders:
        holder.ask(path)
    if path.startswith(b"/sleep"):
        until("they are not in", lambda: in_flight(server) == times)
    for holder in holders:
        holder.read(lambda: path.startswith(b"/sleep") or 1 in holder.heads)
    return holders


def ways(Client):
    return ["reset", "half close", "close"] + ["stream reset"] * (Client is Http2)


def leave(client, way):
    """Ends it before its first answer has."""
    if way == "stream reset":
        client.socket.sendall(frame(3, 0, 1, struct.pack(">I", 8)))
    elif way == "reset":
        resets(client.socket)
    else:
        if way == "half close":
            client.socket.shutdown(socket.SHUT_WR)
            time.sleep(0.02)
        client.socket.close()


# --- SHED-1: exactly so many

def of_fifty_at_once_ten_are_served(stack):
    """Of 50 requests at once ten are served and 40 read a 503 at once, on 50 connections and on one. SHED-1"""
    for tls, path in ((False, b"/sleep/1000"), (True, b"/sleep/300")):
        with Playground(stack, "--max-in-flight", "10", tls=tls) as server:
            crowds = [[used(server, speakers(stack)[0]) for _ in range(50)]]
            if stack in SPEAK_H2:
                crowds.append([used(server, Http2)] * 50)
            for crowd in crowds:
                assert any(refused_in(crowd, path) < 0.005 for _ in range(3)), "all the time it took longer than 5 ms"
            so_many_slots_are_free(server, speakers(stack)[-1], 10)


def refused_in(crowd, path):
    """The median of how long it took."""
    answers = all_at_once(crowd, path)
    refused = [took for head, took in answers if is_refusal(head)]
    assert len(refused) == 40 and len(answers) == 50, len(refused)
    assert all(is_refusal(head) or head[":status"] == "200" for head, _ in answers), answers
    return statistics.median(refused)


# --- SHED-2: a slot is held to the end of the response, and comes back however that comes

def a_body_holds_its_slot_until_it_ends(stack):
    """Ten bodies on their way are ten slots taken, until the first has ended. SHED-2"""
    def bodies(Client, tls):
        with Playground(stack, "--max-in-flight", "10", tls=tls) as server:
            start, client = time.monotonic(), Client(server)
            ticks = [b"/stream/20/50"] * 5
            holders = [hold(server, Client, path)[0] for path in ticks + [ENDLESS[1]] * 5]
            while (status := client.get(b"/")[0]) == "503":
                assert after(start) < 5, "the slot did not come back"
                time.sleep(0.01)
            assert status == "200" and after(start) > 0.95, after(start)
            holders[0].read(lambda: holders[0].whole, 1)
            assert holders[0].bodies[1].count(b"tick") == 20
    each_way(stack, bodies)


def who_leaves_gives_its_slot_back(stack):
    """Whoever leaves in the middle of a body, in any way, makes room for one other, at once. SHED-2"""
    def leavings(Client, tls):
        with Playground(stack, "--max-in-flight", "10", tls=tls) as server:
            holders = [hold(server, Client, ENDLESS[n % 2])[0] for n in range(10)]
            for holder, way in zip(list(holders), [way for way in ways(Client) for _ in ENDLESS]):
                client = Client(server)
                assert client.get(b"/")[0] == "503"
                leave(holder, way)
                until(f"{way}: the slot did not come back", lambda: client.get(b"/")[0] == "200", 1)
                holders += hold(server, Client, ENDLESS[0])
                assert client.get(b"/")[0] == "503", f"{way}: more than one slot came back"
    each_way(stack, leavings)


def a_head_without_a_body_holds_nothing(stack):
    """Who asks for the head only gives its slot back with it. SHED-2"""
    with Playground(stack, "--max-in-flight", "1") as server:
        for path in (b"/bytes/200000000", b"/stream/20/100"):
            sock = connect(server)
            assert served(sock, get(path).replace(b"GET", b"HEAD")).startswith(b"HTTP/1.1 200 ")
            assert served(sock).startswith(b"HTTP/1.1 200 ")


def who_has_read_its_answer_finds_the_slot_free(stack):
    """Whoever has read an answer to its end finds its slot free, on any connection, a thousand times. SHED-2"""
    def in_turns(Client, tls):
        with Playground(stack, "--max-in-flight", "1", tls=tls) as server:
            clients = [Client(server), Client(server)]
            for n in range(1000):
                assert clients[n % 2].get(b"/") == ("200", b"ok\n")
    each_way(stack, in_turns)


def ugly_aborts_leave_every_slot_free(stack):
    """100 clients that end in every ugly way, at random moments, in their slot or waiting, leave no trace. SHED-2"""
    def aborts(tls, max_wait):
        with Playground(stack, "--max-in-flight", "10", "--max-wait", max_wait, tls=tls) as server:
            def client(n):
                Client = random.choice(speakers(stack))
                try:
                    client = Client(server)
                    if Client is Http1 and n % 4 == 0:
                        client.socket.sendall(random.choice((WS, POST % 100_000 + b"." * 5_000, GET[:-3], GET * 3)))
                    elif Client is Http2 and n % 4 == 0:
                        client.ask(b"/echo", b"POST", 100_000)
                    else:
                        client.ask(random.choice((b"/sleep/60000", b"/panic", b"/", *ENDLESS)))
                    time.sleep(random.choice((0, 0.001, 0.01, 0.1)) * random.random())
                    leave(client, random.choice(ways(Client)))
                except OSError:
                    pass  # the server ended it first
            with ThreadPoolExecutor(25) as pool:
                list(pool.map(client, range(100)))
            until("somebody waits", lambda: server.counts()["requests_waiting"] == 0)
            until("a stream is left", lambda: server.counts()["streams_open"] == 0)
            if max_wait == "0":
                so_many_slots_are_free(server, speakers(stack)[0], 10)
            else:
                until("a request is left", lambda: in_flight(server) == 0)
                answers = all_at_once([used(server, speakers(stack)[0]) for _ in range(20)], b"/sleep/300")
                assert [took < 0.45 for _, took in answers].count(True) == 10, answers
    at_once(lambda way: aborts(*way), [(tls, max_wait) for tls in (False, True) for max_wait in ("0", "2s")])


def a_panic_gives_its_slot_back(stack):
    """After 30 panics of its handler, a server for two serves two. SHED-2"""
    def panics(Client, tls):
        with Playground(stack, "--max-in-flight", "2", tls=tls) as server:
            for _ in range(30):
                client = Client(server)
                number = client.ask(b"/panic")
                client.read(lambda: number in client.whole)
                assert client.end or client.whole == {number: False}, (client.heads, client.whole)
            so_many_slots_are_free(server, Client, 2)
    each_way(stack, panics)


def a_drain_answers_who_waits(stack):
    """Who is in flight when the server is told to end is answered, and so is who waits: served or refused. SHED-2"""
    def ending(Client, tls, max_wait):
        flags = ["--max-in-flight", "2", "--max-wait", max_wait, "--drain-timeout", "3s"]
        with Playground(stack, *flags, tls=tls, logged=True) as server:
            clients = [Client(server) for _ in range(4)]
            asked = [(client, client.ask(b"/sleep/500")) for client in clients]
            until("they do not wait", lambda: server.counts()["requests_waiting"] == 2)
            ending = Ending(server)
            for client, number in asked:
                client.read(lambda: number in client.whole)
            statuses = [client.heads[number][":status"] for client, number in asked]
            assert sorted(statuses) == ["200"] * 2 + ["200" if max_wait == "5s" else "503"] * 2, statuses
            assert all(client.read_to_end() == "FIN" for client in clients)
            over(ending, 2)
            assert "none was cut" in server.log(), server.log()
    at_once(lambda way: ending(*way), [
        (Client, tls, max_wait) for Client in speakers(stack) for tls in (False, True) for max_wait in ("5s", "300ms")])


# --- SHED-3: one limit for all connections

def one_at_a_time_on_eight_connections(stack):
    """With a limit of one, eight connections that ask all the time are never two at once in the handler. SHED-3"""
    with Playground(stack, "--max-in-flight", "1") as server:
        kinds, start, peak = speakers(stack), time.monotonic(), 0

        def ask_on(n):
            client, times = kinds[n % len(kinds)](server), 0
            while after(start) < 1.2:
                times += client.get(b"/sleep/50")[0] == "200"
                time.sleep(0.005)
            return times

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(ask_on, n) for n in range(8)]
            while not all(client.done() for client in clients):
                peak = max(peak, in_flight(server))
        times = sum(client.result() for client in clients)
        assert peak == 1 and 3 < times <= after(start) / 0.05, (peak, times)


# --- SHED-4: health checks

def health_is_told_while_all_slots_are_taken(stack):
    """Health checks and the metrics are answered while all slots are taken, and take none. SHED-4"""
    def ask(Client, tls):
        with Playground(stack, "--max-in-flight", "3", "--max-wait", "100ms", tls=tls) as server:
            holders, client = hold(server, Client, b"/sleep/800", 3), Client(server)
            for n in range(20):
                for path in (b"/healthz", b"/readyz", b"/metrics"):
                    assert client.get(path)[0] == "200", path
            assert client.get(b"/healthz/")[0] == client.get(b"/")[0] == "503"
            assert shed(server) == {"waited": 2}, shed(server)
            for holder in holders:
                holder.read(lambda: holder.whole)
                assert holder.heads[1][":status"] == "200"
            so_many_slots_are_free(server, Client, 3)
    each_way(stack, ask)


def health_checks_keep_nobody_out(stack):
    """Beside any number of health checks, a client that is alone with its requests is never refused. SHED-4"""
    http1 = stack in SPEAK_H1
    load = ["wrk", "-t1", "-c1", "-d1s"] if http1 else ["h2load", "-c1", "-D2"]
    with Playground(stack, "--max-in-flight", "1") as server, ThreadPoolExecutor(2) as pool:
        alone = pool.submit(run, *load, server.url + "/")
        if http1:
            sock = connect(server)
            reader = pool.submit(ended, sock, 10)
            while not alone.done():
                sock.sendall(get(b"/healthz") * 1000)
            sock.shutdown(socket.SHUT_RDWR)
            reader.result()
        else:
            run("h2load", "-c1", "-m100", "-D2", server.url + "/healthz")
        alone.result()
        assert not shed(server), shed(server)


# --- SHED-5: the waiting room

def who_waits_is_served_in_time(stack):
    """Past five at once the next five wait for their turn, and whoever comes then is refused at once. SHED-5"""
    def wait(case):
        Client, tls, times = case
        with Playground(stack, "--max-in-flight", "5", "--max-wait", "3s", tls=tls) as server:
            answers = all_at_once([used(server, Client) for _ in range(times)], b"/sleep/500")
            refused = [took for head, took in answers if is_refusal(head)]
            took = sorted(took for head, took in answers if head[":status"] == "200")
            assert len(took) == 10 and len(refused) == times - 10, answers
            assert 0.495 <= took[0] <= took[4] < 0.9 < took[5] <= took[9] < 1.5, took
            assert times == 10 or statistics.median(refused) < 0.1 and max(refused) < 0.45, refused
            assert shed(server) == ({"full": 10} if times == 20 else {}), shed(server)
    at_once(wait, [(Client, tls, n) for Client in speakers(stack) for tls in (False, True) for n in (10, 20)])


def a_wait_ends_in_time(stack):
    """Who has waited for 200 ms in vain reads its 503 then. SHED-5"""
    def wait(Client, tls):
        with Playground(stack, "--max-in-flight", "5", "--max-wait", "200ms", tls=tls) as server:
            answers = all_at_once([used(server, Client) for _ in range(10)], b"/sleep/700")
            refused = [took for head, took in answers if is_refusal(head)]
            assert len(refused) == 5 and 0.195 <= min(refused) <= max(refused) < 0.5, answers
            assert shed(server) == {"waited": 5}, shed(server)
    each_way(stack, wait)


def who_stops_waiting_makes_room(stack):
    """A client that leaves while it waits, in any way, gives its place to another. SHED-5"""
    def wait(Client, tls):
        with Playground(stack, "--max-in-flight", "4", "--max-wait", "3s", tls=tls) as server:
            hold(server, Client, b"/sleep/1000", 4)
            waiting = wait_for_it(server, [Client(server) for _ in range(4)])
            gone, left = waiting[:len(ways(Client))], waiting[len(ways(Client)):]
            for client, way in zip(gone, ways(Client)):
                leave(client, way)
            until("a place is kept", lambda: server.counts()["requests_waiting"] == len(left))
            for client in left + wait_for_it(server, [Client(server) for _ in gone]):
                client.read(lambda: client.whole)
                assert client.heads[1][":status"] == "200", client.heads
            assert not shed(server), shed(server)
    each_way(stack, wait)


def wait_for_it(server, clients):
    """They ask, and are the last of four who wait."""
    for client in clients:
        client.ask(b"/")
    until("they do not wait", lambda: server.counts()["requests_waiting"] == 4)
    return clients


def a_queue_that_stands_makes_way(stack):
    """Who comes to a full queue that stands takes the place of who came first, and that one is refused. SHED-6"""
    def wait(Client, tls):
        with Playground(stack, "--max-in-flight", "1", "--max-wait", "3s", tls=tls) as server:
            hold(server, Client, b"/sleep/1200")
            first, last = used(server, Client), used(server, Client)
            waiting = first.ask(b"/")
            time.sleep(0.6)
            assert server.counts()["requests_waiting"] == 1
            newcomer = last.ask(b"/")
            first.read(lambda: waiting in first.whole)
            assert is_refusal(first.heads[waiting]) and shed(server) == {"displaced": 1}, first.heads
            last.read(lambda: newcomer in last.whole)
            assert last.heads[newcomer][":status"] == "200"
    each_way(stack, wait)


# --- SHED-12: what becomes of the connection

def a_small_body_is_taken_and_the_connection_kept(stack):
    """A refused POST whose small body is there already keeps its connection, whatever comes next on it. SHED-12"""
    def post(tls):
        with Playground(stack, "--max-in-flight", "1", tls=tls) as server:
            hold(server, Http1, b"/sleep/60000")
            client = Http1(server)
            for size in (1, 100, 4_000) * 10:
                refused, checked = client.say(POST % size + b"." * size), client.ask(b"/healthz")
                client.read(lambda: checked in client.whole)
                assert is_refusal(client.heads[refused]) and client.heads[checked][":status"] == "200", client.heads
                assert client.get(b"/healthz") == ("200", b"ok\n")
    at_once(post, (False, True))


def a_thousand_refusals_on_one_connection(stack):
    """A connection is kept through a thousand refusals; on HTTP/2 the bodies of them do not close its window. SHED-12"""
    def refuse(Client):
        with Playground(stack, "--max-in-flight", "1") as server:
            holder, client = hold(server, Client, b"/sleep/60000")[0], used(server, Client)
            for _ in range(1000):
                number = client.ask(b"/")
                client.read(lambda: number in client.whole)
                assert is_refusal(client.heads[number]), client.heads[number]
            if Client is Http2:
                for _ in range(100):
                    stream = client.ask(b"/echo", b"POST", 16_000)
                    client.socket.sendall(frame(0, 1, stream, b"." * 16_000))
                    client.read(lambda: stream in client.whole)
                    assert is_refusal(client.heads[stream]), client.heads[stream]
                leave(holder, "reset")
                until("it is served", lambda: client.get(b"/")[0] == "200")
                client.make_room()
                stream = client.ask(b"/echo", b"POST", 60_000)
                for end in (0, 0, 0, 1):
                    client.socket.sendall(frame(0, end, stream, b"." * 15_000))
                client.read(lambda: stream in client.whole)
                assert client.bodies[stream] == b"." * 60_000
            assert not client.goaways and not client.end
    at_once(refuse, speakers(stack))


def who_is_still_sending_can_read_its_refusal(stack):
    """Who sends a body, be it 5 MB, before or while it is refused, reads a whole 503 with `Connection: close`, no 100
    Continue, and the end; and is gone within 3 s, even if it sends on and never closes. SHED-12"""
    expecting = (POST % 5).replace(b"content", b"expect: 100-continue\r\ncontent")
    chunked = (POST % 5).replace(b"content-length: 5", b"transfer-encoding: chunked")
    kinds = [POST % 5, POST % 100_000 + b"." * 1_000, expecting, expecting + b"12345", chunked,
             chunked + b"5\r\n12345\r\n", chunked + b"5\r\n12345\r\n0\r\n\r\n"]
    upload = b"." * UPLOAD

    def send(case):
        tls, max_wait = case
        with Playground(stack, "--max-in-flight", "1", "--max-wait", max_wait, tls=tls) as server:
            hold(server, Http1, b"/sleep/60000")
            before, clients = server.descriptors(), [connect(server) for _ in kinds]
            for sock, request in zip(clients, kinds):
                sock.sendall(request)
            at_once(read_refusal, clients)
            for _ in range(50 if max_wait == "0" else 5):
                clients.append(connect(server))
                clients[-1].sendall(POST % UPLOAD + upload)  # all of it, before it reads
                read_refusal(clients[-1])
            clients.append(connect(server))
            clients[-1].sendall(POST % 10**9 + b"." * 50_000)
            read_refusal(clients[-1])
            start = time.monotonic()
            assert speak_on(clients[-1]) < 3, "it could speak on"
            until("a socket is left", lambda: server.descriptors() <= before, 3 - after(start))
            assert not in_use(server, clients)
    at_once(send, [(False, "0"), (True, "0"), (False, "100ms")])


def read_refusal(sock):
    """All that is said, until the end, which is no reset."""
    said = read_all(sock)
    first, *fields = said.lower().removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first.startswith(b"http/1.1 503 ") and fields.count(b"connection: close") == 1, said[:1000]
    assert b"content-length: 0" in fields and not any(field.startswith(b"keep-alive") for field in fields), said[:1000]


def speak_on(sock):
    """For how long that is possible."""
    start = time.monotonic()
    try:
        while after(start) < 5:
            sock.sendall(b"." * 10_000)
            time.sleep(0.02)
    except OSError:
        pass
    return after(start)


def in_use(server, clients):
    """Of these clients' connections, what the kernel holds for the server, but for what waits for the client."""
    addresses = {"127.0.0.1:%d" % sock.getsockname()[1] for sock in clients}
    lines = subprocess.run(["ss", "-tanH", f"sport = :{server.port}"], capture_output=True, check=True).stdout.decode()
    left = [line.split() for line in lines.splitlines()]
    return [fields for fields in left if fields[4] in addresses and fields[0] not in ("FIN-WAIT-2", "TIME-WAIT")]


# --- SHED-11: gRPC

def a_grpc_call_is_refused_in_grpc(stack):
    """A gRPC call that is refused reads UNAVAILABLE and when to try again, as trailers and nothing else. SHED-11"""
    def call(tls):
        with Playground(stack, "--max-in-flight", "2", tls=tls) as server:
            holders = hold(server, Http2, b"/sleep/60000", 2)
            refused = [check(server) for _ in range(5)]
            assert len({fields["grpc-retry-pushback-ms"] for fields in refused}) > 1, "they come back all at once"
            assert all(int(fields["grpc-retry-pushback-ms"]) >= 1000 for fields in refused), refused
            for holder in holders:
                leave(holder, "stream reset")
            until("a request is left", lambda: in_flight(server) == 0)
            answer, _ = H2(server).request(CHECK, "POST", GRPC, MESSAGE)
            assert answer.get("grpc-status") == "0" or stack != "tonic" and answer[":status"] == "404", answer
    at_once(call, (False, True))


def check(server, *fields):
    """A call that is refused: what it reads."""
    client = H2(server)
    head = [(":method", "POST"), (":path", CHECK), (":scheme", "http"), (":authority", "localhost")]
    client.state.send_headers(1, head + GRPC + list(fields))
    client.state.send_data(1, MESSAGE, end_stream=True)
    client.flush()
    while True:
        for event in client.events():
            if isinstance(event, h2.events.ResponseReceived):
                told = {name.decode(): value.decode() for name, value in event.headers}
                assert (told[":status"], told["content-type"], told["grpc-status"]) == ("200", "application/grpc", "14")
                assert event.stream_ended and "retry-after" not in told, told
                client.socket.close()
                return told


def a_grpc_call_that_would_be_too_late_is_refused_at_once(stack):
    """A gRPC call whose deadline is sooner than a slot is refused at once and told no time; others wait. SHED-7"""
    def call(tls):
        with Playground(stack, "--max-in-flight", "2", "--max-wait", "5s", tls=tls) as server:
            all_at_once([used(server, Http2) for _ in range(2)], b"/sleep/500")  # that it knows how long it takes
            hold(server, Http2, b"/sleep/1000", 2)
            start = time.monotonic()
            told = check(server, ("grpc-timeout", "100m"))
            assert after(start) < 0.5 and "grpc-retry-pushback-ms" not in told, (after(start), told)
            assert shed(server) == {"too_late": 1}, shed(server)
            answer, _ = H2(server).request(CHECK, "POST", GRPC + [("grpc-timeout", "10S")], MESSAGE)
            assert answer.get("grpc-status") == "0" or stack != "tonic" and answer[":status"] == "404", answer
            assert after(start) > 0.6, "it has not waited"
    at_once(call, (False, True))


# --- SHED-13: a client should not stay where it is never served

def who_is_refused_for_long_is_told_to_go(stack):
    """Who has read nothing but 503s on a connection for 5 s reads `Connection: close`, or GOAWAY, and not before; who
    was served meanwhile does not. SHED-13"""
    def ask_on(case):
        Client, tls, max_wait, is_served = case
        with Playground(stack, "--max-in-flight", "1", "--max-wait", max_wait, tls=tls) as server:
            hold(server, Client, b"/sleep/2000" if is_served else b"/sleep/60000")
            client, start = Client(server), time.monotonic()
            while not client.goaways and after(start) < 6:
                number = client.ask(b"/")
                client.read(lambda: number in client.whole)
                told = after(start)
                if client.heads[number][":status"] == "200":
                    assert is_served and told > 1
                    hold(server, Client, b"/sleep/60000")
                time.sleep(0.05)
            if is_served:
                assert not client.goaways, f"{case}: told after {told:.3f} s"
                return
            assert client.goaways, f"{case}: never told"
            assert 5 <= told < 5.8, f"{case}: told after {told:.3f} s"
            assert {head[":status"] for head in client.heads.values()} == {"503"} and client.read_to_end() == "FIN"
    cases = [(tls, max_wait, False) for tls in (False, True) for max_wait in ("0", "200ms")] + [(False, "0", True)]
    at_once(ask_on, [(Client, *case) for Client in speakers(stack) for case in cases])


# --- SHED-15: what goes on for ever

def web_sockets_hold_no_slot(stack):
    """WebSockets hold no slots; on HTTP/1 they are counted for themselves until their sockets are closed. SHED-15"""
    def open_five(Client, tls):
        with Playground(stack, "--max-in-flight", "2", tls=tls) as server:
            if Client is Http2:
                client = Http2(server)
                head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/ws"),
                        (":authority", "localhost"), ("sec-websocket-version", "13")]
                streams = [client.open(hpack.Encoder().encode(head), False) for _ in range(2)]
                client.read(lambda: all(stream in client.heads for stream in streams))
                assert [client.heads[stream][":status"] for stream in streams] == ["200"] * 2, client.heads
                so_many_slots_are_free(server, Http2, 2)
                return
            sockets = [connect(server) for _ in range(5)]
            for sock in sockets:
                assert served(sock, WS).startswith(b"HTTP/1.1 101 ")
            assert server.counts()["streams_open"] == 5
            so_many_slots_are_free(server, Http1, 2)
            for n, sock in enumerate(sockets):
                assert served(sock, masked(1, b"hello")) == b"\x81\x05hello"
                if n == 0:
                    resets(sock)
                elif n < 3:
                    sock.close()
                else:
                    assert served(sock, masked(8, struct.pack(">H", 1000))) == b"\x88\x02\x03\xe8"
                until("it is still counted", lambda: server.counts()["streams_open"] == 4 - n)
            so_many_slots_are_free(server, Http1, 2)
    each_way(stack, open_five)


# --- SHED-1: load

def load_past_the_limit_reads_nothing_but_200_and_503(stack):
    """Under any load there is no other answer than 200 and 503, no error, and memory stays. SHED-1"""
    for Client in speakers(stack):
        with Playground(stack, "--max-in-flight", "4") as server:
            told, refused, memory = [], 0, resident(server)
            for path, total in (("/cpu/200", 5_000), ("/sleep/5", 20_000)):
                many = ["--h1"] if Client is Http1 else ["-m10"]
                told = run("h2load", *many, "-c50", f"-n{total}", server.url + path)
                fine, failed = (int(n) for n in re.search(r"codes: (\d+) 2xx, 0 3xx, 0 4xx, (\d+) 5xx", told).groups())
                assert fine + failed == total and " 0 errored, 0 timeout" in told, told
                refused += failed
                assert shed(server) == ({"full": refused} if refused else {}), (refused, shed(server))
            assert refused > 10_000, refused
            assert resident(server) < memory + 30_000, (memory, resident(server))
            so_many_slots_are_free(server, Client, 4)


# --- SHED-21: a limit that finds itself

def limit_of(server):
    return int(re.search(r"^requests_limit (\d+)$", server.curl("/metrics").decode(), re.M)[1])


def h2load(server, stack, *more):
    """What was answered with which class of status."""
    told = run("h2load", *["--h1"] * (stack in SPEAK_H1), *more)
    return dict((f"{kind}xx", int(count)) for count, kind in re.findall(r"(\d+) ([2345])xx", told))


def a_limit_that_finds_itself_refuses_nobody_for_long(stack):
    """Thirty clients of what takes as long whatever else runs: after some seconds none of them is refused. SHED-21"""
    with Playground(stack, "--max-in-flight", "adaptive", "--max-wait", "100ms") as server:
        load = ["-c30", "-n900", server.url + "/sleep/50"]
        refused = [h2load(server, stack, *load)["5xx"] for _ in range(6)]
        assert refused[0] > 0 and refused[-1] == 0, refused
        assert limit_of(server) >= 20


def a_limit_that_finds_itself_holds_off_what_would_only_queue(stack):
    """Two hundred clients of 5 ms of processor each, in handlers without an `await`: most that are served are served in
    time, and health checks all along. SHED-21, SHED-23"""
    with Playground(stack, "--max-in-flight", "adaptive") as server, ThreadPoolExecutor(1) as pool:
        load = ["-c200", "-D6", "--warm-up-time=1", server.url + "/cpu/5000"]
        loaded = pool.submit(h2load, server, stack, *load)
        checks = []
        while not loaded.done():
            begin = time.monotonic()
            assert server.curl("/healthz")
            checks.append(time.monotonic() - begin)
        answers = loaded.result()
        # Two processors serve 400 in a second.
        assert answers["2xx"] > 800 and answers["5xx"] > answers["2xx"], answers
        assert limit_of(server) < 100 and server.counts()["requests_in_flight"] == 1
        assert statistics.median(checks) < 0.5, checks


def resident(server):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.process.pid}/status").read())[1])


CASES = [
    (of_fifty_at_once_ten_are_served, STACKS), (a_body_holds_its_slot_until_it_ends, STACKS),
    (who_leaves_gives_its_slot_back, STACKS), (a_head_without_a_body_holds_nothing, SPEAK_H1),
    (who_has_read_its_answer_finds_the_slot_free, STACKS), (ugly_aborts_leave_every_slot_free, STACKS),
    (a_panic_gives_its_slot_back, STACKS), (a_drain_answers_who_waits, STACKS),
    (one_at_a_time_on_eight_connections, STACKS), (health_is_told_while_all_slots_are_taken, STACKS),
    (health_checks_keep_nobody_out, STACKS), (who_waits_is_served_in_time, STACKS), (a_wait_ends_in_time, STACKS),
    (who_stops_waiting_makes_room, STACKS), (a_queue_that_stands_makes_way, STACKS),
    (a_small_body_is_taken_and_the_connection_kept, SPEAK_H1), (a_thousand_refusals_on_one_connection, STACKS),
    (who_is_still_sending_can_read_its_refusal, SPEAK_H1),
    (a_grpc_call_is_refused_in_grpc, SPEAK_H2), (a_grpc_call_that_would_be_too_late_is_refused_at_once, SPEAK_H2),
    (who_is_refused_for_long_is_told_to_go, STACKS), (web_sockets_hold_no_slot, STACKS),
    (load_past_the_limit_reads_nothing_but_200_and_503, STACKS),
    (a_limit_that_finds_itself_refuses_nobody_for_long, STACKS),
    (a_limit_that_finds_itself_holds_off_what_would_only_queue, STACKS),
]

"""What clients with a pool of connections make of a server: httpx, aiohttp and urllib3, and ab."""
import asyncio
import collections
import contextlib
import itertools
import random
import re
import subprocess
import time

from drain import at_once
from harness import SPEAK_H1, SPEAK_H2, STACKS, Ending, Playground, packages

packages()

import aiohttp
import httpx
import urllib3

ORDER = b"an order"
PATIENCE = 5  # seconds that httpx waits for an answer, as it does by default


# --- the same three calls of each

@contextlib.asynccontextmanager
async def httpx_http1(server, size=100, expiry=None):
    async with httpx_client(server, False, size, expiry) as ask:
        yield ask


@contextlib.asynccontextmanager
async def httpx_http2(server, size=100, expiry=None):
    async with httpx_client(server, True, size, expiry) as ask:
        yield ask


@contextlib.asynccontextmanager
async def httpx_client(server, http2, size, expiry):
    """Its HTTP/2 knows without TLS as well: that is what `http1=False` says."""
    timeout = httpx.Timeout(20, read=PATIENCE)
    limits = httpx.Limits(max_connections=size, max_keepalive_connections=size, keepalive_expiry=expiry)
    async with httpx.AsyncClient(
            verify=False, http1=not http2, http2=http2, limits=limits, timeout=timeout, trust_env=False) as client:
        async def ask(path, order=None):
            async with client.stream("POST" if order else "GET", server.url + path, content=order) as answer:
                assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1"), answer.http_version
                address = answer.extensions["network_stream"].get_extra_info("client_addr")
                return answer.status_code, await answer.aread(), answer.headers, address
        yield ask


@contextlib.asynccontextmanager
async def aiohttp_http1(server, size=100, expiry=60):
    made = itertools.count()

    async def connected(*_):
        next(made)
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(connected)
    connector = aiohttp.TCPConnector(limit=size, ssl=False, keepalive_timeout=expiry)
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trace_configs=[tracing]) as client:
        async def ask(path, order=None):
            async with client.request("POST" if order else "GET", server.url + path, data=order) as answer:
                return answer.status, await answer.read(), answer.headers, None
        ask.made = made
        yield ask


def pools(stack):
    return [httpx_http1, aiohttp_http1] * (stack in SPEAK_H1) + [httpx_http2] * (stack in SPEAK_H2)


def each_pool(stack, work, but=()):
    """The work with each of them, in a thread and with a server of its own. Returns what each returned, by name."""
    clients = [client for client in pools(stack) if client not in but]
    return dict(zip((client.__name__ for client in clients), at_once(work, clients)))


# What an application sees of a connection that ended before a byte of the answer, or could not be made.
LOST = (httpx.RemoteProtocolError, httpx.LocalProtocolError, httpx.ReadError, httpx.WriteError,
        aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
REFUSED = (httpx.ConnectError, aiohttp.ClientConnectorError)


async def fate(ask, path="/", order=None):
    try:
        status, body, _, _ = await ask(path, order)
    except REFUSED:
        return "refused"
    except LOST as error:
        return f"lost: {error!r}"
    assert body == (order or b"ok\n"), (status, body)
    return status


# --- KEEP

def who_obeys_sees_no_error(stack):
    """httpx and aiohttp that keep connections for as long as they were told ask and order at any time around that, and
    no request fails. KEEP-1, KEEP-3"""
    around_the_timeout(stack, expiry=1, pauses=[0.9, 0.99, 0.995, 1, 1.005, 1.01, 1.05, 1.5], orders=True, bound=0)


def who_asks_around_the_timeout_loses_nothing_that_was_begun(stack):
    """Those that keep connections for longer ask at the very moment at which the server closes them. aiohttp asks again
    by itself, and httpx looks whether a connection has ended before it takes it, if it is one of HTTP/1: a tenth may be
    lost at most, mostly nothing is, and nothing that the server has begun. KEEP-1"""
    around_the_timeout(
        stack, expiry=60, pauses=[1.9, 1.95, 1.98, 1.99, 1.995, 2, 2.005, 2.01, 2.05, 2.1], orders=False, bound=0.1,
        but=[httpx_http2])


def around_the_timeout(stack, expiry, pauses, orders, bound, but=()):
    def work(pool):
        async def rounds(server, pause):
            async with pool(server, 20, expiry) as ask:
                fates = []
                for again in range(3):
                    await asyncio.sleep(pause if again else 0)
                    fates += await asyncio.gather(*(
                        fate(ask, *("/echo", ORDER) if orders and n % 2 else "/") for n in range(20)))
                return fates

        async def clients(server):
            return await asyncio.gather(*(rounds(server, pause) for pause in pauses))

        with Playground(stack, "--keep-alive-timeout", "2s") as server:
            fates = sum(asyncio.run(clients(server)), [])
            begun = server.counts()["requests_total"] - 1  # but for the one that asks
        assert fates.count(200) == begun, (pool.__name__, fates.count(200), begun)
        lost = [fate for fate in fates if fate != 200]
        assert len(lost) <= len(fates) * bound, (pool.__name__, len(lost), lost[:5])
        return f"{len(fates) - len(lost)} answered, {len(lost)} lost" if lost else f"{len(fates)} answered"
    told(each_pool(stack, work, but))


def told(results):
    print("   " + "; ".join(f"{name}: {result}" for name, result in results.items()), flush=True)


def a_pool_goes_on_after_each_last_request(stack):
    """With ten requests to a connection, pools ask 600 times without an error, and never more than ten times on one.
    httpx over HTTP/2 takes GOAWAY for the end of what it has asked, and is answered when it asks again. KEEP-5"""
    def work(pool):
        async def client(server):
            async with pool(server, 4) as ask:
                async def patient():
                    for _ in range(5):
                        try:
                            return await ask("/")
                        except LOST:
                            assert pool is httpx_http2
                    raise AssertionError("asked five times")

                async def worker():
                    return [await patient() for _ in range(150)]
                answers = sum(await asyncio.gather(*(worker() for _ in range(4))), [])
                # aiohttp's answers have let go of their connection by the time anybody could look at it.
                return answers, next(ask.made) if pool is aiohttp_http1 else len({answer[3] for answer in answers})

        with Playground(stack, "--max-requests-per-connection", "10") as server:
            answers, connections = asyncio.run(client(server))
        assert {answer[:2] for answer in answers} == {(200, b"ok\n")}
        uses = collections.Counter(answer[3] for answer in answers if answer[3])
        assert max(uses.values(), default=0) <= 10 or pool is httpx_http2, uses.most_common(3)
        assert len(answers) / 10 <= connections <= len(answers) / 10 + 10 or pool is httpx_http2, connections
        return f"{len(answers)} answered on {connections} connections"
    told(each_pool(stack, work))


# --- DRAIN

WORKERS = 40
# httpx knows of no GOAWAY that it reads together with the PING behind it (h2 4.4.1 raises at the PING, and httpcore
# 1.0.9 loses both): it neither sends the rest of its orders nor resets them, and waits.
DEAF = "lost: it has not heard the end"


def a_drain_in_the_middle_of_load(stack):
    """A server is told to end under load: each request that was begun is answered, and others are refused, or end
    without a byte: those that cross with the end of their connection, a quarter of the connections at most, and mostly
    none. httpx over HTTP/2 takes GOAWAY for the end of what it has asked, and no more than that. DRAIN-2, DRAIN-3,
    DRAIN-4"""
    def work(pool):
        async def client(server):
            async with pool(server, WORKERS) as ask:
                fates = [200] * WORKERS  # of those that warm it up

                async def worker(number):
                    how = None
                    while how != "refused":
                        try:
                            how = await fate(ask, *random.choice([("/",), ("/echo", ORDER), ("/sleep/50",)]))
                        except httpx.ReadTimeout:
                            assert pool is httpx_http2
                            how = DEAF
                        fates.append(how)
                        await asyncio.sleep(0.05 * random.random() * (number % 2))
                workers = [asyncio.create_task(worker(number)) for number in range(WORKERS)]
                await asyncio.gather(*(ask("/") for _ in range(WORKERS)))
                await asyncio.sleep(0.7)
                ending = Ending(server)
                await asyncio.gather(*workers)
                return fates, ending

        with Playground(stack, tls=pool is httpx_http2, logged=True) as server:
            fates, ending = asyncio.run(client(server))
            code, took = ending.over()
            bound = 3 + PATIENCE * (DEAF in fates)
            assert code == 0 and took < bound, (code, took, server.log())
            begun = int(re.search(r"answered requests=(\d+)", server.log())[1])
        answered = fates.count(200)
        lost = [fate for fate in fates if fate not in (200, "refused")]
        if pool is httpx_http2:
            assert answered <= begun <= answered + len(lost), (answered, begun, lost[:5])
            assert len(lost) <= 2 * WORKERS, (len(lost), lost[:5])
        else:
            assert answered == begun, (pool.__name__, answered, begun, lost[:5])
            assert len(lost) <= WORKERS / 4, (pool.__name__, len(lost), len(fates), lost[:5])
        return f"{answered} of {begun} that were begun answered, {len(lost)} without a byte"
    told(each_pool(stack, work))


# --- SHED

def who_waits_as_it_was_told_is_served(stack):
    """Clients that read 503 and come again after `Retry-After`, urllib3 by itself, are all served in the end. SHED-11,
    SHED-14"""
    def by_urllib3(server):
        retry = urllib3.Retry(total=10, status_forcelist=[503], respect_retry_after_header=True, backoff_factor=0)
        with urllib3.PoolManager(maxsize=1, retries=retry) as pool:
            answer = pool.request("GET", server.url + "/sleep/200")
            return answer.status, answer.data, len(answer.retries.history)

    def by_httpx(server):
        with httpx.Client(http1=False, http2=True, trust_env=False) as client:
            for times in range(11):
                answer = client.get(server.url + "/sleep/200")
                if answer.status_code != 503:
                    break
                time.sleep(int(answer.headers["retry-after"]))
            return answer.status_code, answer.content, times

    def work(client):
        with Playground(stack, "--max-in-flight", "2") as server:
            start = time.monotonic()
            answers = at_once(lambda _: client(server), range(5))
            took = time.monotonic() - start
            assert {answer[:2] for answer in answers} == {(200, b"ok\n")}, answers
            again = sum(answer[2] for answer in answers)
            shed = sum(n for name, n in server.counts().items() if name.startswith("requests_shed"))
            assert again == shed >= 1, (again, shed)
            assert took > 0.9, took
            return f"5 served in {took:.1f} s, {again} came again"
    clients = [by_urllib3] * (stack in SPEAK_H1) + [by_httpx] * (stack in SPEAK_H2)
    told(dict(zip((client.__name__ for client in clients), at_once(work, clients))))


# --- ab

def ab_counts_no_failure(stack):
    """ab, a client of HTTP/1.0, sees no failure, and with -k all of its requests are on kept connections. KEEP-4"""
    with Playground(stack) as server:
        for flags in ([], ["-k"]):
            said = ab(*flags, "-n", "5000", "-c", "20", server.url + "/bytes/1000")
            assert said["Complete requests"] == "5000" and said["Failed requests"] == "0", said
            assert "Non-2xx responses" not in said and "Write errors" not in said, said
            assert said.get("Keep-Alive requests") == ("5000" if flags else None), said


def ab_reads_its_last_answer(stack):
    """ab -k sees no failure when connections end after a hundred requests: the last answer says so. KEEP-4, KEEP-5"""
    with Playground(stack, "--max-requests-per-connection", "100") as server:
        said = ab("-k", "-n", "2000", "-c", "5", server.url + "/")
        assert said["Complete requests"] == "2000" and said["Failed requests"] == "0", said
        assert 1980 <= int(said["Keep-Alive requests"]) <= 1985, said  # five may be young when it ends


def ab(*arguments):
    """Its numbers, by name."""
    done = subprocess.run(["ab", "-q", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert done.returncode == 0, done.stdout.decode()
    return dict(re.findall(r"^([A-Z][^:\n]+):\s+(\S+)", done.stdout.decode(), re.MULTILINE))


CASES = [
    (who_obeys_sees_no_error, STACKS), (who_asks_around_the_timeout_loses_nothing_that_was_begun, SPEAK_H1),
    (a_pool_goes_on_after_each_last_request, STACKS), (a_drain_in_the_middle_of_load, STACKS),
    (who_waits_as_it_was_told_is_served, STACKS), (ab_counts_no_failure, SPEAK_H1),
    (ab_reads_its_last_answer, SPEAK_H1),
]

if __name__ == "__main__":
    import run
    run.main(CASES)

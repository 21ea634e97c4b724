"""HAProxy and nginx in front of one server: connections that they keep, and their own reloads."""
import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import time

from drain import at_once
from harness import SPEAK_H1, STACKS, Playground, free_ports, until
from rolling import ended_with

# What is idle in the pool is purged after `pool-purge-delay`, by halves. `retry-on empty-response` sends again what was
# sent on a connection that had ended: here only what may be sent twice. Each retry may take another connection that has
# ended: with `retries 3` (the default), 4 of 8,000 GETs read a 502 in bursts at the very timeout of 40 connections.
HAPROXY = """
global
    stats socket {directory}/stats expose-fd listeners level admin
    tune.idle-pool.shared on
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    retries 50
frontend front
    bind 127.0.0.1:{front}
    default_backend servers
backend servers
    http-reuse always
    retry-on conn-failure empty-response
    http-request disable-l7-retry if METH_POST
    server a 127.0.0.1:{port} pool-purge-delay {expiry}{protocol}
"""

NGINX = """
daemon off;
pid {directory}/pid;
error_log {directory}/errors;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/client;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream servers {{
        server 127.0.0.1:{port} max_fails=0;
        keepalive 64;
        keepalive_timeout {expiry};
    }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""

GET = b"GET / HTTP/1.1\r\nhost: l\r\nconnection: close\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nhost: l\r\nconnection: close\r\ncontent-length: 3\r\n\r\nok\n"


class Haproxy:
    """Takes over the listener from the one before, which then ends."""

    def __init__(self, stack, port, expiry, stacked):
        self.directory = stacked.enter_context(tempfile.TemporaryDirectory())
        (self.port,), self.stacked = free_ports(1), stacked
        protocol = " proto h2" if stack == "hyper-http2" else ""
        with open(self.directory + "/configuration", "w") as file:
            file.write(HAPROXY.format(
                directory=self.directory, front=self.port, port=port, expiry=expiry, protocol=protocol))
        self.process = self.start()

    def start(self, *more):
        return self.stacked.enter_context(ended_with(
            ["haproxy", "-db", "-f", self.directory + "/configuration", *more], stderr=subprocess.DEVNULL))

    def pids(self):
        return [self.process.pid]

    def reload(self):
        old = self.process
        self.process = self.start("-x", self.directory + "/stats", "-sf", str(old.pid))
        return old


class Nginx:
    def __init__(self, stack, port, expiry, stacked):
        self.directory = stacked.enter_context(tempfile.TemporaryDirectory())
        os.chmod(self.directory, 0o755)  # its workers are not root
        self.port, = free_ports(1)
        with open(self.directory + "/configuration", "w") as file:
            file.write(NGINX.format(directory=self.directory, front=self.port, port=port, expiry=expiry))
        self.command = ["nginx", "-p", self.directory, "-c", self.directory + "/configuration"]
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        stacked.callback(self.end)

    def end(self):
        """The master ends its workers; killed, it would leave them."""
        self.process.terminate()
        self.process.wait()

    def pids(self):
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(pid) for pid in open(children).read().split()]

    def reload(self):
        subprocess.run([*self.command, "-s", "reload"], check=True, stderr=subprocess.DEVNULL)

    def errors(self):
        return open(self.directory + "/errors").read()


@contextlib.contextmanager
def behind(proxy, stack, timeout, expiry):
    """A server that keeps idle connections for so long, and a proxy in front of it that does for so long."""
    with contextlib.ExitStack() as stacked:
        server = stacked.enter_context(Playground(stack, "--keep-alive-timeout", timeout, logged=True))
        front = proxy(stack, server.port, expiry, stacked)

        def serves():
            try:
                return asyncio.run(ask(front, GET)) == "200"
            except OSError:
                return False
        until("the proxy serves", serves, 10)
        yield server, front


async def ask(front, request):
    """The status of the answer on a connection of its own, and "ended" if there is none."""
    return await ask_on(*await asyncio.open_connection("127.0.0.1", front.port), request)


async def ask_on(reader, writer, request):
    try:
        writer.write(request)
        said = await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return "ended"
    finally:
        writer.close()
    assert said.endswith(b"ok\n") or not said.startswith(b"HTTP/1.1 200 "), said
    return said[9:12].decode() or "ended"


async def bursts(front, request, pauses):
    answers = []
    for pause in [0, *pauses]:
        await asyncio.sleep(pause)
        answers += await asyncio.gather(*(ask(front, request) for _ in range(20)))
    return answers


AROUND = [0.98, 0.995, 1, 1.005, 1.01]  # of a second, which is the shorter of the two timeouts


def kept_longer_by_the_server(stack, proxy):
    """Whatever is asked and whenever, nothing fails: it is the proxy that ends connections."""
    with behind(proxy, stack, "75s", "1s") as (_, front):
        async def both():
            return await asyncio.gather(*(bursts(front, request, AROUND) for request in (GET, POST)))
        gets, posts = asyncio.run(both())
    assert set(gets + posts) == {"200"}, (set(gets), set(posts))
    return f"the server keeps longer: {len(gets + posts)} of {len(gets + posts)}"


def kept_longer_by_the_proxy(stack, proxy):
    """What crosses with the end of its connection is asked again, if it is a GET."""
    with behind(proxy, stack, "1s", "60s") as (_, front):
        async def both():
            return await asyncio.gather(*(bursts(front, request, AROUND) for request in (GET, POST)))
        gets, posts = asyncio.run(both())
        lost = len(posts) - posts.count("200")
        assert set(gets) == {"200"} and set(posts) <= {"200", "502", "ended"}, (set(gets), set(posts))
        assert lost < len(posts) / 2, (lost, len(posts))  # each burst may meet it, none must
    return f"the proxy keeps longer: {len(gets)} of {len(gets)} GETs, {len(posts) - lost} of {len(posts)} POSTs"


def asked_while_the_proxy_is_stopped(stack, proxy):
    """The proxy finds a request and, behind it, the end of each of its connections, and so takes one that has ended."""
    with behind(proxy, stack, "1s", "60s") as (server, front):
        assert set(asyncio.run(bursts(front, GET, []))) == {"200"}

        async def crossing(request):
            clients = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(10)]
            await asyncio.sleep(0.2)  # they are accepted: a new client would come behind the ends
            pids = front.pids()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            asked = asyncio.gather(*(ask_on(*client, request) for client in clients))
            await asyncio.sleep(2)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            return await asked
        gets = asyncio.run(crossing(GET))
        assert set(gets) == {"200"}, gets
        assert set(asyncio.run(bursts(front, GET, []))) == {"200"}
        posts = asyncio.run(crossing(POST))
        assert set(posts) <= {"200", "502", "ended"}, posts
        if proxy is Nginx:  # or nothing has crossed
            assert "502" in posts and "while reading response header from upstream" in front.errors(), front.errors()
    return f"the proxy is late: 10 of 10 GETs, {posts.count('200')} of 10 POSTs"


def reuse(stack, proxy):
    works = [kept_longer_by_the_server, kept_longer_by_the_proxy, asked_while_the_proxy_is_stopped]
    print("   " + "; ".join(at_once(lambda work: work(stack, proxy), works)), flush=True)


def reuse_behind_haproxy(stack):
    """HAProxy never answers 502 while the server keeps idle connections for longer than its pool; if it is the pool, a
    GET that crosses with the end of its connection is asked again (`retry-on empty-response`). KEEP-1"""
    reuse(stack, Haproxy)


def reuse_behind_nginx(stack):
    """nginx never answers 502 while the server keeps idle connections for longer than its cache; if it is the cache, a GET
    that crosses with the end of its connection is asked again, and a POST is not. KEEP-1"""
    reuse(stack, Nginx)


def reload(stack, proxy):
    """Clients with a connection for each request ask on while the proxy reloads three times."""
    with behind(proxy, stack, "75s", "60s") as (server, front):
        answers, old = [], []

        async def load():
            end = time.monotonic() + 2.5

            async def client(number):
                while time.monotonic() < end:
                    answers.append(await ask(front, [GET, POST, GET.replace(b"/ ", b"/sleep/300 ")][number % 3]))
            clients = [asyncio.create_task(client(number)) for number in range(12)]
            for _ in range(3):
                await asyncio.sleep(0.6)
                old.append(await asyncio.get_running_loop().run_in_executor(None, front.reload))
            await asyncio.gather(*clients)
        asyncio.run(load())
        assert set(answers) == {"200"} and len(answers) > 100, (len(answers), set(answers))
        # Old workers close what they kept: nothing is left of theirs.
        until("an old proxy is left", lambda: all(not one or one.poll() is not None for one in old), 10)
        until("connections are left", lambda: server.counts()["connections_open"] <= 40, 10)
        assert server.counts()["requests_in_flight"] == 1
    print(f"   3 reloads, {len(answers)} of {len(answers)} requests", flush=True)


def a_reload_of_haproxy(stack):
    """`haproxy -sf` under load fails no request, and nothing is left of the old one. CONN-1, LIMIT-7"""
    reload(stack, Haproxy)


def a_reload_of_nginx(stack):
    """`nginx -s reload` under load fails no request, and nothing is left of the old workers. CONN-1, LIMIT-7"""
    reload(stack, Nginx)


CASES = [
    (reuse_behind_haproxy, STACKS), (reuse_behind_nginx, SPEAK_H1), (a_reload_of_haproxy, STACKS),
    (a_reload_of_nginx, SPEAK_H1),
]

if __name__ == "__main__":
    import run
    run.main(CASES)

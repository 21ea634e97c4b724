#!/usr/bin/python3
"""Rolling restarts behind a proxy: rolling.py [PLAYGROUND] [--stack S] [--case NAME]

Two servers are ended and begun again in turns, under load, and no request fails. Needs haproxy and nginx beside what
run.py needs. The environment variable CLIENTS_ROLLING sets for how many seconds each case goes on (default 12).
"""
import contextlib
import csv
import os
import re
import socket
import subprocess
import tempfile
import time

from harness import SPEAK_H1, STACKS, Ending, Playground, free_ports, until

SECONDS = int(os.environ.get("CLIENTS_ROLLING", 12))

# What an operator sets. Longer than the proxies keep idle connections (nginx for 60 s, below as in HAProxy), so that it
# is they who close them. The lame duck is longer than a health check takes to fail, where there is one.
FLAGS = ["--keep-alive-timeout", "75s", "--lame-duck", "1s"]

# `http-reuse always` has every request take an idle connection, so that each end of one is met. HAProxy repeats what
# it could not connect for (`retry-on conn-failure`, the default), and nothing that it has sent: so what a drain loses
# is seen. Who is marked down keeps its sessions (no `on-marked-down`). Without `timeout check` a check has 100 ms, and
# on a busy machine the other server seems to be down as well.
HAPROXY = """
global
    stats socket {directory}/stats
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 2s
    timeout http-keep-alive 60s
frontend front
    bind 127.0.0.1:{front}
    default_backend servers
backend servers
    balance roundrobin
    http-reuse always
    option httpchk GET /readyz
    default-server check inter 100ms fall 2 rise 1{protocol}
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""

# nginx of Debian has passive checks only: it does not see the lame duck, goes on until a connect is refused, and then
# asks the other one, for a second (`fail_timeout`). `proxy_next_upstream` is the default. It repeats a POST only if
# nothing of it was sent; `non_idempotent` would hide what a drain loses, and run an order twice where one is lost. The
# pause between two restarts must be longer than `fail_timeout`, or nginx counts both servers as dead.
NGINX = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/errors;
events {{ worker_connections 1024; }}
http {{
    log_format statuses "$status $upstream_status";
    access_log {directory}/statuses statuses;
    client_body_temp_path {directory}/client;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    upstream servers {{
        server 127.0.0.1:{a} max_fails=1 fail_timeout=1s;
        server 127.0.0.1:{b} max_fails=1 fail_timeout=1s;
        keepalive 32;
        keepalive_requests 1000000000;
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

# A POST, which no proxy sends twice.
SCRIPT = 'wrk.method = "POST"\nwrk.path = "/echo"\nwrk.body = "an order"\n'


def rolling_behind_haproxy(stack):
    """Behind HAProxy, with health checks and keep-alive, a rolling restart fails no request. DRAIN-1 to DRAIN-4"""
    with rolling(stack, HAPROXY, ["haproxy", "-f"], pause=0.5) as directory:
        said = ask(directory + "/stats", "show stat")
    rows = list(csv.DictReader(said.removeprefix("# ").splitlines()))
    assert [row["svname"] for row in rows] == ["FRONTEND", "a", "b", "BACKEND"], said
    assert rows[0]["hrsp_5xx"] == "0", rows[0]  # a 400 is who was cut off at the end of the load
    for row in rows[1:]:
        for count in ("hrsp_4xx", "hrsp_5xx", "econ", "eresp", "wretr", "wredis", "srv_abrt"):
            assert row[count] in ("", "0"), (row["svname"], count, row[count])
        assert int(row["hrsp_2xx"]) > 100, row


def ask(path, question):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(question.encode() + b"\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def rolling_behind_nginx(stack):
    """Behind nginx, with passive checks and keep-alive, a rolling restart fails no request. DRAIN-1 to DRAIN-4"""
    with rolling(stack, NGINX, ["nginx", "-p", "{directory}", "-c"], pause=1.5) as directory:
        errors, statuses = open(directory + "/errors").read(), open(directory + "/statuses").read()
    # Refused, or reset in the moment of the close: nothing was sent to that server yet.
    unexpected = [line for line in errors.splitlines() if ") while connecting to upstream" not in line]
    assert not unexpected, unexpected[:5]
    failed = re.findall(r"^(?!200 |499 ).+$", statuses, re.MULTILINE)  # a 499 was cut off at the end of the load
    assert not failed and statuses.count("\n") > 100, failed[:5]


@contextlib.contextmanager
def rolling(stack, configuration, command, pause):
    """Restarts in turns, behind a proxy and under load, of which nothing may fail. Gives the proxy's directory."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stacked:
        front, *ports = free_ports(3)
        protocol = " proto h2 check-proto h2" if stack == "hyper-http2" else ""
        named = dict(directory=directory, front=front, a=ports[0], b=ports[1], protocol=protocol)
        for name, text in (("configuration", configuration.format(**named)), ("post.lua", SCRIPT)):
            with open(f"{directory}/{name}", "w") as file:
                file.write(text)

        def start(port):
            return stacked.enter_context(Playground(stack, "--listen", f"127.0.0.1:{port}", *FLAGS, logged=True))

        servers = [start(port) for port in ports]
        proxy = stacked.enter_context(ended_with(
            [part.format(**named) for part in command] + [directory + "/configuration"], stderr=subprocess.DEVNULL))
        url = f"http://127.0.0.1:{front}"
        until("the proxy serves", lambda: subprocess.run(["curl", "-sf", url], capture_output=True).returncode == 0)
        time.sleep(0.3)  # both are checked
        wrk = ["wrk", "-t1", "-c16", f"-d{SECONDS}s", url]
        # From HTTP/2 comes no reason phrase, without which h2load finds no status.
        get = ["h2load", "--h1", "-c16", "-t1", f"-D{SECONDS}", url] if stack in SPEAK_H1 else wrk
        loads = [subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for load in (
            wrk + ["-s", directory + "/post.lua"], get)]
        start_at, restarts = time.monotonic(), 0
        while time.monotonic() - start_at < SECONDS - 3:
            time.sleep(pause)
            turn = restarts % 2
            code, took = Ending(servers[turn]).over()
            assert code == 0 and 1 <= took < 1.7, (code, took, servers[turn].log())
            servers[turn] = start(ports[turn])
            restarts += 1
        posts, gets = (answered(load.communicate(timeout=SECONDS + 10)[0].decode()) for load in loads)
        assert proxy.poll() is None
        print(f"   {restarts} restarts, {posts} POSTs, {gets} GETs, none has failed", flush=True)
        yield directory


def answered(told):
    """How many requests wrk or h2load has sent, none of which may have failed."""
    assert "Non-2xx" not in told and "Socket errors" not in told, told
    assert "req/s" not in told or " 0 failed, 0 errored, 0 timeout" in told and " 0 3xx, 0 4xx, 0 5xx" in told, told
    return re.search(r"(\d+) (?:requests in|succeeded)", told)[1]


@contextlib.contextmanager
def ended_with(command, **options):
    """A process that does not outlive the case."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


CASES = [(rolling_behind_haproxy, STACKS), (rolling_behind_nginx, SPEAK_H1)]

if __name__ == "__main__":
    import run
    run.main(CASES)

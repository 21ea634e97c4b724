"""varnishtest's scripts (varnish/*.vtc): a client that takes nothing for granted, in each protocol."""
import os
import re
import subprocess

from drain import at_once
from harness import SPEAK_H1, SPEAK_H2, Playground

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "varnish")


def scripts_speak_http1(stack):
    """varnishtest on keep-alive, the limit, slow heads and bodies, pipelining, uploads, 100 Continue, and a drain.
    KEEP-1, KEEP-3, KEEP-5, LIMIT-3, LIMIT-5, LIMIT-7, READ-2, READ-3, READ-5, CONN-2, DRAIN-3, DRAIN-4"""
    every_script(stack, "http1")


def scripts_speak_http2(stack):
    """varnishtest on GOAWAY, PING, uploads, a window that stays shut, the limit, slow bodies, and a drain. KEEP-1,
    KEEP-5, CONN-2, WRITE-6, LIMIT-3, READ-5, READ-6, DRAIN-3, DRAIN-4"""
    every_script(stack, "http2")


def a_client_of_http_1_0_is_told_one_thing(stack):
    """varnishtest as a client of HTTP/1.0 that asks for keep-alive: it gets it, and its last answer says `Connection:
    close` and nothing else. KEEP-4, KEEP-5"""
    every_script(stack, "old_client")


def every_script(stack, protocol):
    """All at the same time, each with a server of its own, whose flags are on the script's second line."""
    names = sorted(name for name in os.listdir(SCRIPTS) if name.startswith(protocol) and name.endswith(".vtc"))
    assert names

    def run(name):
        path = os.path.join(SCRIPTS, name)
        title, flags, *_ = open(path)
        assert title.startswith("varnishtest "), title
        flags = re.fullmatch(r"# playground:(.*)\n", flags)[1].split()
        with Playground(stack, *flags) as server:
            told = subprocess.run(
                ["varnishtest", "-t", "30", "-D", f"addr=127.0.0.1:{server.port}", "-D", f"pid={server.process.pid}",
                 # hyper's graceful shutdown says a PING between two GOAWAYs, which the scripts leave unanswered.
                 "-D", f"pings={int(stack != 'axum')}", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return name, told.returncode, told.stdout.decode(errors="replace")

    failed = [f"{name}:\n{told[-4000:]}" for name, code, told in at_once(run, names) if code]
    assert not failed, "\n".join(failed)


CASES = [
    (scripts_speak_http1, SPEAK_H1), (scripts_speak_http2, SPEAK_H2), (a_client_of_http_1_0_is_told_one_thing, SPEAK_H1),
]

if __name__ == "__main__":
    import run as suite
    suite.main(CASES)

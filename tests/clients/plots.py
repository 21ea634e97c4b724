#!/usr/bin/python3
"""Draws what a reader would rather look at: plots.py PLAYGROUND, into docs/plots.

Each line is what was seen from outside: the kernel's socket table and the clients' own ends, ten times a second.
"""
import pathlib
import signal
import sys
import time

import harness
from harness import GET, WS, Playground, served

INTO = pathlib.Path(__file__).parent.parent.parent / "docs" / "plots"
COLOURS = ["#0969da", "#cf222e", "#1a7f37", "#8250df", "#bc4c00"]
STYLE = (
    ".g{fill:#fff}.t{fill:#1f2328}.m{fill:#59636e}.a{stroke:#d1d9e0;fill:none}.d{stroke:#818b98;stroke-dasharray:4 3}"
    ".l{fill:none;stroke-width:1.6;stroke-linejoin:round}@media(prefers-color-scheme:dark){.g{fill:#151b23}"
    ".t{fill:#f0f6fc}.m{fill:#9198a1}.a{stroke:#3d444d}.l{filter:brightness(1.35)}}")


def draw(name, title, unit, lines, marks, most, length):
    """Lines are a name and its points, (seconds, value); marks are a moment and its name."""
    width, height, left, right, top, bottom = 760, 380, 64, 740, 88, 332
    x = lambda at: left + (right - left) * at / length
    y = lambda value: bottom - (bottom - top) * value / most
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           f'role="img" font-family="system-ui,sans-serif" font-size="12">', f"<title>{title}</title>",
           f"<style>{STYLE}</style>", f'<rect class="g" width="{width}" height="{height}" rx="6"/>',
           f'<text class="t" x="16" y="25" font-size="15" font-weight="600">{title}</text>']
    for n in range(6):
        value = most * n / 5
        svg += [f'<path class="a" d="M{left} {y(value):.1f}H{right}"/>',
                f'<text class="m" x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>']
    for at in range(0, length + 1, max(1, length // 12)):
        svg.append(f'<text class="m" x="{x(at):.1f}" y="350" text-anchor="middle">{at}</text>')
    svg += [f'<text class="m" x="402" y="369" text-anchor="middle">seconds</text>',
            f'<text class="m" transform="translate(16 210)rotate(-90)" text-anchor="middle">{unit}</text>']
    for at, said in marks:
        svg += [f'<path class="d" d="M{x(at):.1f} {top}V{bottom}"/>',
                f'<text class="m" x="{x(at) + 4:.1f}" y="{top + 11}">{said}</text>']
    for (said, points), colour, n in zip(lines, COLOURS, range(9)):
        path = "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in points)
        svg += [f'<path class="l" stroke="{colour}" d="M{path}"/>',
                f'<rect x="{left + 225 * (n % 3)}" y="{38 + 18 * (n // 3)}" width="12" height="12" rx="2" fill="{colour}"/>',
                f'<text class="t" x="{left + 17 + 225 * (n % 3)}" y="{48 + 18 * (n // 3)}">{said}</text>']
    INTO.mkdir(exist_ok=True)
    (INTO / f"{name}.svg").write_text("\n".join(svg) + "\n</svg>\n")
    print(INTO / f"{name}.svg")


def queued(port):
    """Bytes that the kernel holds for the clients of a port, whoever owned the sockets (proc(5), tcp: tx_queue)."""
    total = 0
    for line in open("/proc/net/tcp").readlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] != "0A":
            total += int(fields[4].split(":")[0], 16)
    return total


def stalled():
    """Fifty clients ask for 10 MB each and read nothing of it, with and without a write timeout."""
    lines, length = [], 24
    for said, flags in [("10 s", ["--write-timeout", "10s"]), ("none", ["--write-timeout", "0", "--min-write-rate", "0"])]:
        with Playground("axum", *flags) as server:
            clients = [server.connect() for _ in range(50)]
            for client in clients:
                client.sendall(GET.replace(b"/ ", b"/bytes/10000000 "))
            begun, points = time.monotonic(), []
            while (at := time.monotonic() - begun) < length:
                points.append((at, queued(server.port) / 1e6))
                time.sleep(0.1)
            lines.append((f"write timeout: {said}", points))
    draw("stalled", "Fifty clients that take nothing of their responses", "MB that the kernel holds for them", lines,
         [(10, "their time is over")], 15, length)


def drain():
    """Three hundred connections of five kinds meet a SIGTERM: who is still connected?"""
    kinds, length = {}, 16
    with Playground("axum", "--lame-duck", "2s", "--drain-timeout", "8s", "--keep-alive-timeout", "60s") as server:
        def connect(kind, n, request):
            for i in range(n):
                client = server.connect()
                said = request(i)
                if said in (GET, WS):
                    assert served(client, said)
                else:
                    client.sendall(said)
                client.setblocking(False)
                kinds.setdefault(kind, set()).add(client)
        slow = lambda path: GET.replace(b"/ ", path + b" ")
        connect("idle", 100, lambda i: GET)
        connect("half a head", 40, lambda i: b"GET / HT")
        connect("a response of 2 to 9 s", 80, lambda i: slow(b"/sleep/%d" % (2000 + 7000 * i // 80)))
        connect("a WebSocket", 60, lambda i: WS)
        connect("a response that does not end", 20, lambda i: slow(b"/sleep/60000"))
        begun, points, told = time.monotonic(), {kind: [] for kind in kinds}, False
        while (at := time.monotonic() - begun) < length:
            if at >= 2 and not told:
                server.process.send_signal(signal.SIGTERM)
                told = True
            for kind, clients in kinds.items():
                for client in list(clients):
                    try:
                        data = client.recv(1 << 16)
                        if not data:
                            clients.discard(client)
                        elif data[0] == 0x88:  # a WebSocket answers a Close with its own
                            client.send(b"\x88\x82\0\0\0\0\x03\xe9")
                    except BlockingIOError:
                        pass
                    except ConnectionError:
                        clients.discard(client)
                points[kind].append((at, len(clients)))
            time.sleep(0.05)
    draw("drain", "Who is still connected: SIGTERM, 2 s of lame duck, 8 s to finish", "connections", list(points.items()),
         [(2, "SIGTERM"), (4, "the listener closes"), (12, "the deadline")], 100, length)


if __name__ == "__main__":
    harness.BINARY = sys.argv[1]
    stalled()
    drain()

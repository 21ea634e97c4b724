"""What was shown by which client on which stack, as a table between two marks of a document.

A row is a client and what it shows. A case is in the row that names it, and else in that of its first id: so none is
left out. A cell is how many cases of the row held there; if they are fewer than on other stacks, a note says why.
"""
import re
import subprocess
import textwrap

from harness import SPEAK_H1, SPEAK_H2, STACKS

BEGIN, END = "<!-- real clients: begin -->", "<!-- real clients: end -->"

NAMED = [
    ("curl", "every route, plain and in TLS", ["curl_on_every_route"]),
    ("wrk, h2load", "load, below and beyond what is served", [
        "load_is_served", "load_past_the_limit_reads_nothing_but_200_and_503",
        "a_limit_that_finds_itself_refuses_nobody_for_long",
        "a_limit_that_finds_itself_holds_off_what_would_only_queue"]),
    ("ab", "HTTP/1.0, with keep-alive and without", ["ab_counts_no_failure", "ab_reads_its_last_answer"]),
    ("slowhttptest", "slow heads (`-H`), bodies (`-B`), readers (`-X`)", [
        "slowhttptest_holds_nothing", "slowhttptest_leaves_nothing"]),
    ("varnishtest", "HTTP/1 byte by byte", ["scripts_speak_http1", "a_client_of_http_1_0_is_told_one_thing"]),
    ("varnishtest", "HTTP/2 frame by frame", ["scripts_speak_http2"]),
    ("httpx, aiohttp, urllib3", "pools: around the timeout, after each last request, in a drain, `Retry-After`", [
        "who_obeys_sees_no_error", "who_asks_around_the_timeout_loses_nothing_that_was_begun",
        "a_pool_goes_on_after_each_last_request", "a_drain_in_the_middle_of_load",
        "who_waits_as_it_was_told_is_served"]),
    ("Chromium", "fetch, streams, WebSockets: kept, around the timeout, in a drain; `/status`", [
        "a_page_fetches_streams_and_talks", "a_page_that_asks_around_the_timeout_sees_no_error", "a_page_in_a_drain",
        "the_status_is_read_by_a_person"]),
    ("HAProxy", "its pool around the timeout, its reload, rolling restarts", [
        "reuse_behind_haproxy", "a_reload_of_haproxy", "rolling_behind_haproxy"]),
    ("HAProxy, curl", "the PROXY protocol: who the client is, its limit, the checks", [
        "the_client_is_known_behind_haproxy", "haproxy_is_not_the_client"]),
    ("nginx", "its cache around the timeout, its reload, rolling restarts", [
        "reuse_behind_nginx", "a_reload_of_nginx", "rolling_behind_nginx"]),
    ("python's h2", "gRPC beside plain routes, and refused", [
        "grpc_beside_plain_routes", "a_grpc_call_is_refused_in_grpc",
        "a_grpc_call_that_would_be_too_late_is_refused_at_once"]),
]
OWN = "sockets, python's h2"
BY_ID = {
    "LIMIT": (OWN, "the connection limit"),
    "CONN": (OWN, "the connection limit"),
    "ACCEPT": (OWN, "the connection limit"),
    "KEEP": (OWN, "keep-alive"),
    "READ": (OWN, "read timeouts"),
    "WRITE": (OWN, "write timeouts"),
    "DRAIN": (OWN, "a drain"),
    "SHED": (OWN, "overload"),
    "PROXY": (OWN, "the PROXY protocol"),
    None: (OWN, "a WebSocket, signals, wrong flags"),
}

H1_ONLY = ("The stack speaks HTTP/2 only: out of reach for who speaks HTTP/1 (ab, slowhttptest, aiohttp, urllib3, nginx to "
           "its servers), and without what is HTTP/1's (upgrades, `408` for half a head).")
H2_ONLY = "The stack speaks HTTP/1 only: without what is HTTP/2's."
NOT_SERVED = "The gRPC service is the tonic stack's; how a call is refused is asked of the others too."
ONE_IS_ENOUGH = "What does not depend on the stack is run on axum."
IN_TLS = "In TLS only: no browser speaks HTTP/2 without."


def row_of(case):
    for client, shows, names in NAMED:
        if case.__name__ in names:
            return client, shows
    ids = re.findall(r"\b([A-Z]+)-\d", case.__doc__)
    return BY_ID[ids[0] if ids else None]


def why_not(case, stacks, stack):
    """Why a case is not for a stack."""
    if stacks == ["axum"]:
        return ONE_IS_ENOUGH
    if stacks == ["tonic"]:
        return NOT_SERVED if stack in SPEAK_H2 else H2_ONLY
    assert stacks in (SPEAK_H1, SPEAK_H2), f"{case.__name__} has no reason not to run on {stack}"
    return H1_ONLY if stacks == SPEAK_H1 else H2_ONLY


def write(path, cases, results, known):
    """Replaces what is between the marks."""
    text = open(path).read()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = table(cases, results, known)
    with open(path, "w") as file:
        file.write(f"{before}{BEGIN}\n{made}\n{END}{after}")


def table(cases, results, known):
    rows = dict.fromkeys([(client, shows) for client, shows, _ in NAMED] + list(BY_ID.values()))
    rows = {row: [entry for entry in cases if row_of(entry[0]) == row] for row in rows}
    notes = []

    def mark(reason):
        if reason not in notes:
            notes.append(reason)
        return notes.index(reason) + 1

    def cell(row, stack):
        counts, marks = {"ok": 0, "known": 0, "FAILED": 0}, []
        for case, stacks in rows[row]:
            if stack not in stacks:
                marks.append(mark(why_not(case, stacks, stack)))
                continue
            result = results[case.__name__, stack]
            counts[result] += 1
            if result == "known":
                marks.append(mark(known[case.__name__] + "."))
        if row[0] == "Chromium" and stack not in SPEAK_H1:
            marks.append(mark(IN_TLS))
        told = ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "–"
        return told + "".join(f" ({number})" for number in sorted(set(marks)))

    lines = ["| client | what it shows | " + " | ".join(STACKS) + " |", "| --- | --- |" + " --- |" * len(STACKS)]
    lines += [f"| {client} | {shows} | " + " | ".join(cell((client, shows), stack) for stack in STACKS) + " |"
              for client, shows in rows]
    lines += [""] + [wrapped(f"{number}. {reason}", "   ") for number, reason in enumerate(notes, 1)]
    lines += ["", wrapped(f"The clients: {', '.join(versions())}.")]
    return "\n".join(lines)


def wrapped(text, indent=""):
    return textwrap.fill(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def versions():
    """What was run, as Debian and pip name it."""
    packages = {
        "curl": "curl", "wrk": "wrk", "nghttp2-client": "h2load", "apache2-utils": "ab", "slowhttptest": "slowhttptest",
        "varnish": "varnishtest", "chromium": "Chromium", "haproxy": "HAProxy", "nginx": "nginx",
        "python3-h2": "python's h2"}
    for package, name in packages.items():
        said = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, check=True).stdout.decode()
        yield f"{name} {re.match(r'(?:[0-9]+:)?([0-9.]+[0-9])', said)[1]}"
    from importlib.metadata import version
    for name in ("httpx", "aiohttp", "urllib3"):
        yield f"{name} {version(name)}"

"""Chromium: what a page sees of a server, and of its end.

Driven by its DevTools protocol. Pages are opened at `/`, which is a text, and everything is asked from there; but for
`/status`, which is a page to look at.
"""
import asyncio
import contextlib
import re
import subprocess
import tempfile

from harness import SPEAK_H1, SPEAK_H2, STACKS, Ending, Playground, packages

packages()

import aiohttp

# As root, without a screen, and without timers of a second for tabs that are not looked at.
CHROMIUM = [
    "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows", "--disable-extensions", "--ignore-certificate-errors",
    "--remote-debugging-port=0"]

HELPERS = """
const pause = ms => new Promise(done => setTimeout(done, ms));
const text = async path => {
    const answer = await fetch(path);
    if (answer.status !== 200) throw new Error(path + ': ' + answer.status);
    return answer.text();
};
const ticks = async path => {
    const reader = (await fetch(path)).body.getReader(), times = [];
    let said = '';
    for (;;) {
        const {done, value} = await reader.read();
        if (done) return {said, took: times[times.length - 1] - times[0]};
        said += new TextDecoder().decode(value);
        times.push(performance.now());
    }
};
const socket = () => new Promise((done, failed) => {
    const opened = new WebSocket(location.origin.replace('http', 'ws') + '/ws');
    opened.closed = new Promise(told => opened.onclose = ({code, wasClean}) => told({code, wasClean}));
    opened.onopen = () => done(opened);
    opened.onerror = () => failed(new Error('no WebSocket'));
});
const echoed = (opened, message) => new Promise(done => {
    opened.onmessage = ({data}) => done(data);
    opened.send(message);
});
"""


@contextlib.asynccontextmanager
async def browser():
    """Gives what opens a page; what that gives evaluates an expression there and waits for what it promises."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        command = [*CHROMIUM, f"--user-data-dir={directory}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            loop = asyncio.get_running_loop()
            while not (listening := re.match(rb"DevTools listening on (ws://\S+)", line := await asyncio.wait_for(
                    loop.run_in_executor(None, process.stderr.readline), 60))):
                assert line, f"chromium ended: {process.wait()}"
            # What else it has to say must not fill the pipe.
            drained = loop.run_in_executor(None, process.stderr.read)
            async with aiohttp.ClientSession() as session, session.ws_connect(
                    listening[1].decode(), max_msg_size=0) as devtools:
                yield Pages(devtools).open
            process.terminate()
            await drained
        finally:
            process.kill()
            process.wait()


class Pages:
    """The DevTools protocol: numbered calls and their answers, and events."""

    def __init__(self, devtools):
        self.devtools, self.last, self.answers, self.upgrades = devtools, 0, {}, {}
        self.listening = asyncio.create_task(self.listen())

    async def listen(self):
        async for message in self.devtools:
            said = message.json()
            if waiting := self.answers.pop(said.get("id"), None):
                waiting.set_result(said)
            elif said.get("method") == "Network.webSocketHandshakeResponseReceived":
                self.upgrades[said["sessionId"]] = said["params"]["response"]["status"]

    async def call(self, method, session=None, **parameters):
        self.last += 1
        waiting = self.answers[self.last] = asyncio.get_running_loop().create_future()
        call = {"id": self.last, "method": method, "params": parameters}
        await self.devtools.send_json({**call, "sessionId": session} if session else call)
        said = await asyncio.wait_for(waiting, 60)
        assert "result" in said, said
        return said["result"]

    async def open(self, url, ready="document.body?.innerText.trim() === 'ok'"):
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        await self.call("Network.enable", session)

        async def evaluate(expression):
            said = await self.call(
                "Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True)
            assert "exceptionDetails" not in said, said["exceptionDetails"]["exception"].get("description", said)
            return said["result"].get("value")

        evaluate.upgrade = lambda: self.upgrades.get(session)
        said = await self.call("Page.navigate", session, url=url)
        assert "errorText" not in said, said
        while not await evaluate(f"document.readyState === 'complete' && {ready}"):
            await asyncio.sleep(0.02)
        await evaluate(HELPERS)
        return evaluate


def reached(stack):
    """With TLS or without: a browser speaks HTTP/2 only inside it."""
    return [tls for tls in (False, True) if tls or stack in SPEAK_H1]


def each_way(stack, flags, work, path="/", **ready):
    """The work with a page and its server, plain and in TLS, at the same time in one browser."""
    async def pages():
        async with browser() as open_page:
            async def one(tls):
                with Playground(stack, *flags, tls=tls, logged=True) as server:
                    return await work(server, await open_page(server.url + path, **ready))
            return await asyncio.gather(*(one(tls) for tls in reached(stack)))
    for line in asyncio.run(pages()):
        print(f"   {line}", flush=True)


def protocol(server):
    return "h2" if server.tls and server.stack in SPEAK_H2 else "http/1.1"


def a_page_fetches_streams_and_talks(stack):
    """In Chromium connections are used again, a body arrives as it is made, an upload comes back, and a WebSocket
    echoes. KEEP-1, KEEP-2, CONN-2"""
    async def work(server, page):
        assert await page("(async () => { for (let n = 0; n < 20; n++) await text('/?' + n); return true })()")
        entries = await page(
            "performance.getEntriesByType('resource').filter(({name}) => name.includes('?'))"
            ".map(({connectStart, connectEnd, nextHopProtocol}) => [connectStart === connectEnd, nextHopProtocol])")
        assert len(entries) == 20 and {entry[1] for entry in entries} == {protocol(server)}, entries
        assert [entry[0] for entry in entries].count(False) <= 1, entries  # the icon may be using the first one
        said = await page("ticks('/stream/5/200')")
        assert said["said"] == "".join(f"tick {n}\n" for n in range(5)) and said["took"] > 500, said
        assert (await page("ticks('/bytes/3000000')"))["said"] == "0" * 3_000_000
        assert await page(
            "(async () => (await (await fetch('/echo', {method: 'POST', body: 'x'.repeat(1 << 20)})).text()).length)()"
        ) == 1 << 20
        assert await page("(async () => { const s = await socket(); return await echoed(s, 'hello') })()") == "hello"
        return f"{protocol(server)}, WebSocket by {page.upgrade()}"
    each_way(stack, [], work)


def a_page_that_asks_around_the_timeout_sees_no_error(stack):
    """In Chromium no fetch fails that is asked for at the moment at which its connection is closed, and none of those
    that go on while connections end by number and by age. KEEP-1, KEEP-5, KEEP-6"""
    async def around(server, page):
        asked = await page("""(async () => {
            let asked = 0;
            for (const ms of [980, 990, 995, 998, 1000, 1005]) {
                await Promise.all([1, 2, 3, 4, 5, 6].map(async () => { await text('/'); asked++ }));
                await pause(ms);
            }
            return asked;
        })()""")
        assert asked == 36
        return f"{protocol(server)}: {asked} fetches around the timeout"

    async def on_and_on(server, page):
        asked = await page("""(async () => {
            const end = performance.now() + 5000;
            let asked = 0;
            await Promise.all([1, 2, 3, 4].map(async () => {
                while (performance.now() < end) { await text('/'); asked++ }
            }));
            return asked;
        })()""")
        assert asked > 100
        return f"{protocol(server)}: {asked} fetches on connections of 50 requests or 1 s"

    async def pages():
        async with browser() as open_page:
            async def one(tls, flags, work):
                with Playground(stack, *flags, tls=tls) as server:
                    return await work(server, await open_page(server.url + "/"))
            ending = ["--max-requests-per-connection", "50", "--max-connection-age", "1s"]
            return await asyncio.gather(*(
                one(tls, *how) for tls in reached(stack)
                for how in ((["--keep-alive-timeout", "1s"], around), (ending, on_and_on))))
    for line in asyncio.run(pages()):
        print(f"   {line}", flush=True)


def a_page_in_a_drain(stack):
    """In Chromium, of a server that is told to end, the running fetch, upload and stream complete, and the WebSocket
    reads 1001; the process ends right after, and what is asked then fails. DRAIN-3, DRAIN-4, DRAIN-6, DRAIN-8"""
    async def work(server, page):
        await page("""(async () => {
            window.opened = await socket();
            window.hello = await echoed(opened, 'hello');
            window.slept = text('/sleep/2000');
            window.streamed = ticks('/stream/20/100');
            window.uploaded = fetch('/echo', {method: 'POST', body: 'x'.repeat(3 << 20)}).then(a => a.text());
            await pause(300);
        })()""")
        assert server.counts()["requests_in_flight"] > 2
        ending = Ending(server)
        closed = await page("opened.closed")
        assert closed == {"code": 1001, "wasClean": True}, closed
        assert await page("hello") == "hello" and await page("slept") == "ok\n"
        assert (await page("streamed"))["said"] == "".join(f"tick {n}\n" for n in range(20))
        assert await page("uploaded.then(body => body.length)") == 3 << 20
        code, took = await asyncio.get_running_loop().run_in_executor(None, ending.over)
        assert code == 0 and took < 6, (code, took, server.log())
        assert await page("text('/').catch(error => error.name)") == "TypeError"
        return f"{protocol(server)}: ended in {took:.1f} s"
    each_way(stack, [], work)


def the_status_is_read_by_a_person(stack):
    """/status is a page that shows what is open, in flight and coming to its end, and renews itself. OBS-3"""
    phase = "document.querySelector('#phase')?.innerText"

    def row(name):
        rows = "[...document.querySelectorAll('tr')].map(row => row.innerText)"
        return f"{rows}.find(text => text.startsWith('{name}'))"

    async def work(server, page):
        async def shows(expression, pattern):
            for _ in range(200):
                with contextlib.suppress(AssertionError):  # it is being renewed
                    if re.fullmatch(pattern, said := str(await page(expression))):
                        return
                await asyncio.sleep(0.05)
            raise AssertionError(f"{expression} shows {said}, not {pattern}")

        await shows(phase, "serving")
        await shows(row("open"), r"open \t[1-6] of 1024")  # a browser opens some to be ready
        await shows(row("in flight"), "in flight\t1")  # itself
        await shows("document.querySelector('meter').value", "[1-6]")
        slept = asyncio.create_task(asyncio.to_thread(server.curl, "/sleep/5000"))
        await shows(row("in flight"), "in flight\t2")
        ending = Ending(server)
        await shows(phase, "lame duck.*")
        assert await slept == b"ok\n"
        code, took = await asyncio.get_running_loop().run_in_executor(None, ending.over)
        assert code == 0, (code, server.log())
        return f"{protocol(server)}: seen until its end, {took:.1f} s"
    each_way(stack, ["--lame-duck", "4s"], work, "/status", ready="document.title === 'Status'")


CASES = [
    (a_page_fetches_streams_and_talks, STACKS), (a_page_that_asks_around_the_timeout_sees_no_error, STACKS),
    (a_page_in_a_drain, STACKS), (the_status_is_read_by_a_person, STACKS),
]

if __name__ == "__main__":
    import run
    run.main(CASES)

"""The readers of docs/examples, Python's and JavaScript's, with a real server at the other end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from typing import AsyncIterator, Callable, ContextManager, Iterator, List, Tuple

import pytest
from starlette.types import Receive, Scope, Send

from omniforge_chat import ChatError, Settings, Turn, create_app
from omniforge_chat.core.sse import Decoder

from ..support.constants import PATIENCE
from ..support.docs import DOCS
from ..support.process import environment
from ..support.servers import UvicornThread

EXAMPLES = DOCS / "examples"

# A reader's driver gets an address, a message and perhaps the number of pieces after which it is to
# leave. It prints the pieces and the outcome as JSON, and lives until its standard input ends.
PYTHON = """
import json, sys, httpx
from reader import ChatFailed, chat
url, message, *most = sys.argv[1:]
pieces, outcome = [], "done"
with httpx.Client() as client:
    try:
        reply = chat(client, url, message)
        for piece in reply:
            pieces.append(piece)
            if str(len(pieces)) in most:
                reply.close()
                break
    except ChatFailed as error:
        outcome = error.code
    print(json.dumps([pieces, outcome]), flush=True)
    sys.stdin.read()
"""
JAVASCRIPT = """
import { ChatFailed, chat } from "./reader.mjs";
const [url, message, most] = process.argv.slice(1);
const pieces = [];
let outcome = "done";
try {
  for await (const piece of chat(url, { message })) {
    pieces.push(piece);
    if (pieces.length === Number(most)) break;
  }
} catch (error) {
  if (!(error instanceof ChatFailed)) throw error;
  outcome = error.code;
}
console.log(JSON.stringify([pieces, outcome]));
process.stdin.resume();
"""
PARSE = """
import { events } from "./reader.mjs";
let input = "";
for await (const data of process.stdin.setEncoding("utf8")) input += data;
const found = [];
for (const reads of JSON.parse(input)) {
  const body = new ReadableStream({
    start(controller) {
      for (const read of reads) controller.enqueue(Buffer.from(read, "base64"));
      controller.close();
    },
  });
  const frames = [];
  for await (const { event, data } of events(body)) frames.push([event, data]);
  found.push(frames);
}
console.log(JSON.stringify(found));
"""


def node(script: str) -> List[str]:
    """The command that runs a module of JavaScript."""
    if shutil.which("node") is None:
        assert "CI" not in os.environ, "CI has to try the JavaScript too, and there is no node"
        pytest.skip("no node here")
    return ["node", "--input-type=module", "--eval", script, "--"]


Read = Callable[..., ContextManager[Tuple[List[str], str]]]


@pytest.fixture(params=["reader.py", "reader.mjs"])
def read(request: pytest.FixtureRequest) -> Read:
    """The pieces that a reader gets and how its chat ends, while its process still lives."""
    python = request.param == "reader.py"
    command = [sys.executable, "-c", PYTHON] if python else node(JAVASCRIPT)

    @contextlib.contextmanager
    def reading(*arguments: str) -> Iterator[Tuple[List[str], str]]:
        with subprocess.Popen(
            [*command, *arguments],
            cwd=EXAMPLES,
            env=environment(PYTHONPATH=os.pathsep.join([str(EXAMPLES), *sys.path])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            try:
                assert process.stdout is not None
                pieces, outcome = json.loads(process.stdout.readline())
                yield pieces, outcome
            finally:
                process.kill()

    return reading


async def talkative(turn: Turn) -> AsyncIterator[str]:
    yield turn.message
    await asyncio.sleep(0)
    yield "line\nbreak \u2028 é😀"
    if turn.message == "fail":
        raise ChatError("No more", code="own_code")


@pytest.mark.parametrize(
    ("message", "pieces", "outcome"),
    [
        ("hi", ["hi", "line\nbreak \u2028 é😀"], "done"),
        ("fail", ["fail", "line\nbreak \u2028 é😀"], "own_code"),
        ("", [], "validation_error"),
    ],
)
def test_a_reader_tells_how_a_chat_ended(
    read: Read, message: str, pieces: List[str], outcome: str
) -> None:
    """A reply that failed looks like a short one to whoever does not look."""
    app = create_app(talkative, settings=Settings())
    with UvicornThread(app) as server, read(f"{server.url}/api/v1/chat", message) as found:
        assert found == (pieces, outcome)


@pytest.mark.parametrize("broken", [False, True], ids=["ended", "broken"])
def test_a_reader_tells_a_reply_that_was_cut(read: Read, broken: bool) -> None:
    """By a proxy, which ends the stream properly, or by a crash, which does not."""

    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b':\n\nevent: chunk\ndata: {"content":"Half"}\n\nevent: done\ndata: {}\n'
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if not broken:
            await send({"type": "http.response.body"})

    with UvicornThread(cut, lifespan="off") as server, read(server.url, "hi") as found:
        assert found == (["Half"], "cut")


def test_a_reader_tells_a_refusal_that_is_not_the_chat_s(read: Read) -> None:
    """A proxy in front of it answers in a way of its own."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b"<h1>Bad Gateway</h1>"})

    with UvicornThread(proxy, lifespan="off") as server, read(server.url, "hi") as found:
        assert found == ([], "502")


def test_a_reader_that_leaves_stops_the_reply(read: Read) -> None:
    """Its process goes on, so nothing but its own care closes the connection."""
    closed = threading.Event()

    async def endless(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    app = create_app(endless, settings=Settings())
    with UvicornThread(app) as server, read(f"{server.url}/api/v1/chat", "hi", "1") as found:
        assert found == (["first"], "done")
        assert closed.wait(PATIENCE)


def test_the_javascript_reads_a_stream_as_the_standard_has_it() -> None:
    """At every split, as our own decoder does, which is held to the letter elsewhere."""
    streams = [
        b"data: one\n\ndata: two\r\n\r\ndata: three\r\rdata: unfinished\n",
        b"\xef\xbb\xbfdata: \xef\xbb\xbf\n\n\xef\xbb\xbfdata: no field\n\n",
        b"event: a\ndata:  two spaces\ndata:no space\ndata\n\nevent: b\n\ndata: message\n\n",
        b": comment\nid: 1\nretry: 5\n data: no field\nData: none\ndata: a:b: c\n\n",
        "data: é😀\u2028\x85\x0b\n\n".encode() + b"data: \xff\xf0\x9f\x98\n\n",
    ]
    cases = [
        reads
        for stream in streams
        for reads in (
            [stream],
            [stream[i : i + 1] for i in range(len(stream))],
            *([stream[:i], stream[i:]] for i in range(len(stream))),
        )
    ]
    done = subprocess.run(
        node(PARSE),
        cwd=EXAMPLES,
        env=environment(),
        input=json.dumps([[base64.b64encode(r).decode() for r in reads] for reads in cases]),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    for reads, found in zip(cases, json.loads(done.stdout)):
        decoder = Decoder()
        expected = [[f.event, f.data] for read in reads for f in decoder.feed(read)]
        assert found == expected, reads

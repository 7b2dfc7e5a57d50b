"""The two readers, Python's and JavaScript's, with a real server at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import AsyncIterator, Callable, ContextManager, Iterator, List, Optional, Tuple

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from omniforge_chat import ChatError, Settings, Turn, create_app
from omniforge_chat.models import UUID4_PATTERN, Rate
from omniforge_chat.reader import Chat, ChatFailed

from ..support.constants import CONVERSATION, PATIENCE
from ..support.docs import DOCS, blocks
from ..support.node import node, put_reader
from ..support.process import environment
from ..support.responders import saying
from ..support.servers import UvicornThread

# A reader's driver gets an address, a message and perhaps the number of pieces after which it is to
# leave. It prints the pieces and the outcome as JSON, and lives until its standard input ends.
PYTHON = """
import json, sys
sys.modules["click"] = None  # for the command line of httpx, which takes long
import httpx
from omniforge_chat.reader import Chat, ChatFailed
url, message, *most = sys.argv[1:]
pieces, outcome = [], None
with httpx.Client() as client:
    try:
        with Chat(client, url, message, conversation_id=CONVERSATION) as reply:
            for piece in reply:
                pieces.append(piece)
                if str(len(pieces)) in most:
                    break
        outcome = reply.done.get("conversation_id")
    except ChatFailed as error:
        outcome = error.code
    print(json.dumps([pieces, outcome]), flush=True)
    sys.stdin.read()
"""
JAVASCRIPT = """
import { ChatFailed, chat } from "./reader.mjs";
const [url, message, most] = process.argv.slice(1);
const pieces = [];
let outcome = null;
try {
  const reply = chat(message, { url, conversationId: CONVERSATION });
  for await (const piece of reply) {
    pieces.push(piece);
    if (pieces.length === Number(most)) break;
  }
  outcome = reply.done?.conversation_id;
} catch (error) {
  if (!(error instanceof ChatFailed)) throw error;
  outcome = error.code;
}
console.log(JSON.stringify([pieces, outcome ?? null]));
process.stdin.resume();
"""


Read = Callable[..., ContextManager[Tuple[List[str], Optional[str]]]]


@pytest.fixture(params=["reader.py", "reader.js"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """The pieces that a reader gets and how its chat ends, while its process still lives."""
    python = request.param == "reader.py"
    script = (PYTHON if python else JAVASCRIPT).replace("CONVERSATION", json.dumps(CONVERSATION))
    command = [sys.executable, "-c", script] if python else node(script)
    put_reader(tmp_path)

    @contextlib.contextmanager
    def reading(*arguments: str) -> Iterator[Tuple[List[str], Optional[str]]]:
        with subprocess.Popen(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
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
        ("hi", ["hi", "line\nbreak \u2028 é😀"], CONVERSATION),
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


def test_the_reader_of_the_docs_prints_a_reply(capsys: pytest.CaptureFixture[str]) -> None:
    """People copy it as it is."""
    [code] = blocks(DOCS / "protocol.md", "python")
    with UvicornThread(create_app(talkative, settings=Settings())) as server:
        exec(code.replace("http://127.0.0.1:8000", server.url), {})
    reply, tokens, conversation_id = capsys.readouterr().out.rsplit(" ", 2)
    assert (reply, tokens) == ("Helloline\nbreak \u2028 é😀\n", "5")
    assert re.fullmatch(UUID4_PATTERN, conversation_id.strip())


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(200, "text/event-stream", "unreadable"), (422, "application/json", "422")],
)
def test_the_reader_does_not_hold_what_never_ends(status: int, kind: str, code: str) -> None:
    """Whoever sends it would fill the memory of the client."""
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while read < 100:
            read += 1
            yield b" " * 1024 * 1024

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"Content-Type": kind}, content=endless())

    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport) as client, Chat(client, "http://x/", "hi") as reply:
        with pytest.raises(ChatFailed) as caught:
            next(iter(reply))
        assert caught.value.code == code
    assert read < 20


NO_KEYS = ["", "sesame\n", "sesame street", "sés", "sesame\x00"]


@pytest.mark.parametrize("key", NO_KEYS)
def test_a_key_that_can_be_none_is_refused_and_not_shown(key: str) -> None:
    """httpx would show it in the text of its error, and texts of errors are logged."""
    with httpx.Client() as client, pytest.raises(ValueError, match="visible ASCII") as caught:
        Chat(client, "http://127.0.0.1/", "hi", key=key)
    assert "ses" not in str(caught.value) + repr(caught.value)


def test_a_key_is_in_no_repr() -> None:
    """Nor in a failure, whatever a program prints of it."""
    body = b'{"code": "unauthorized", "message": "The key is not valid"}'
    headers = {"Content-Type": "application/json", "Retry-After": "7"}
    transport = httpx.MockTransport(lambda _: httpx.Response(401, headers=headers, content=body))
    with httpx.Client(transport=transport) as client:
        reply = Chat(client, "http://x/", "hi", key="sesame")
        with reply, pytest.raises(ChatFailed) as caught:
            list(reply)
        failure = caught.value
        assert (failure.status, failure.code, failure.retry_after) == (401, "unauthorized", 7)
        shown = [reply, vars(reply), failure, vars(failure), failure.__cause__]
        assert "sesame" not in repr(shown)


def test_the_reader_in_javascript_has_a_key_too(tmp_path: Path) -> None:
    """It tells a refusal by its status, code and wait, and shows no key that can be none."""
    put_reader(tmp_path)
    script = """
    import { chat } from "./reader.mjs";
    const [url, ...wrong] = process.argv.slice(1);
    for (const key of wrong) {
      try { chat("hi", { url, key }); }
      catch (error) { console.log(error.name, /ses/.test(error.message)); }
    }
    for (const key of [undefined, "sesame", "ofk_0123456789abcdef", "ofk_0123456789abcdef"]) {
      try { for await (const piece of chat("hi", { url, key })) console.log(piece); }
      catch ({ status, code, retryAfter }) { console.log(status, code, retryAfter); }
    }
    """
    settings = Settings(api_keys="me:ofk_0123456789abcdef", rate_limit=Rate(1, 60))
    with UvicornThread(create_app(saying("hello"), settings=settings)) as server:
        wrong = [key for key in NO_KEYS if "\x00" not in key]  # no argument can have that
        done = subprocess.run(
            [*node(script), f"{server.url}/api/v1/chat", *wrong],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stdout.splitlines() == [
        *["TypeError false"] * len(wrong),
        *["401 unauthorized undefined"] * 2,
        "hello",
        "429 rate_limited 60",
    ]


def test_the_reader_tells_the_usage_of_a_reply_that_failed() -> None:
    """It is paid for."""
    headers = {"Content-Type": "text/event-stream"}
    error = b'event: error\ndata: {"code":"c","message":"m","usage":{"tokens":1}}\n\n'
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=error))
    with httpx.Client(transport=transport) as client, Chat(client, "http://x/", "hi") as reply:
        with pytest.raises(ChatFailed, match="c: m") as caught:
            list(reply)
        assert caught.value.usage == {"tokens": 1}


def test_the_reader_tells_thoughts_to_whoever_asks_for_them() -> None:
    """They are no part of the reply, and others skip them as they do any event they do not know."""
    body = b"".join(
        f'event: {event}\ndata: {{"content":"{text}"}}\n\n'.encode()
        for event, text in (("thought", "a"), ("chunk", "b"), ("thought", "c"), ("chunk", "d"))
    )
    headers = {"Content-Type": "text/event-stream"}
    answer = httpx.Response(200, headers=headers, content=body + b"event: done\ndata: {}\n\n")
    thoughts: List[str] = []
    with httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as client:
        with Chat(client, "http://127.0.0.1/", "hi", on_thought=thoughts.append) as reply:
            assert (list(reply), thoughts) == (["b", "d"], ["a", "c"])
        with Chat(client, "http://127.0.0.1/", "hi") as reply:
            assert list(reply) == ["b", "d"]


def test_so_does_the_reader_in_javascript(tmp_path: Path) -> None:
    """And whoever does not ask is not troubled by the form of what is skipped."""
    put_reader(tmp_path)
    script = """
    import { ChatFailed, chat } from "./reader.mjs";
    const frame = (event, data) => `event: ${event}\\ndata: ${JSON.stringify(data)}\\n\\n`;
    const done = frame("done", {});
    const streams = [
      frame("thought", { content: "a" }) + frame("chunk", { content: "b" }) +
        frame("thought", { content: "c" }) + frame("chunk", { content: "d" }) + done,
      frame("thought", { text: "a" }) + done,
    ];
    const headers = { "Content-Type": "text/event-stream" };
    for (const stream of streams) {
      globalThis.fetch = async () => new Response(stream, { headers });
      for (const wanted of [true, false]) {
        const pieces = [], thoughts = [];
        const onThought = wanted ? (text) => thoughts.push(text) : undefined;
        try { for await (const piece of chat("hi", { url: "/", onThought })) pieces.push(piece); }
        catch (error) { pieces.push(error instanceof ChatFailed && error.code); }
        console.log(JSON.stringify([pieces, thoughts]));
      }
    }
    """
    done = subprocess.run(
        node(script), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [["b", "d"], ["a", "c"]],
        [["b", "d"], []],
        [["unreadable"], []],
        [[], []],
    ]


class Waiting:
    """A responder that says one word, and waits until it is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            self.closed.set()


def test_a_reader_that_leaves_stops_the_reply(read: Read) -> None:
    """Its process goes on, so nothing but its own care closes the connection."""
    responder = Waiting()
    app = create_app(responder, settings=Settings())
    with UvicornThread(app) as server, read(f"{server.url}/api/v1/chat", "hi", "1") as found:
        assert found == (["first"], None)
        assert responder.closed.wait(PATIENCE)


def test_an_abort_stops_the_reply_and_is_told_as_such(tmp_path: Path) -> None:
    """Whoever stops a reply gets the reason of the signal, and no failure of the chat's."""
    responder = Waiting()
    put_reader(tmp_path)
    script = """
    import { chat } from "./reader.mjs";
    const stop = new AbortController();
    try {
      const options = { url: process.argv[1], signal: stop.signal };
      for await (const _ of chat("hi", options)) setTimeout(() => stop.abort("enough"));
    } catch (reason) {
      console.log(reason);
    }
    """
    with UvicornThread(create_app(responder, settings=Settings())) as server:
        done = subprocess.run(
            [*node(script), f"{server.url}/api/v1/chat"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout == "enough\n"
        assert responder.closed.wait(PATIENCE)


def test_the_reader_sends_each_further_field(tmp_path: Path) -> None:
    """`conversation_id` too, which has an option of its own."""
    put_reader(tmp_path)
    script = """
    import { chat } from "./reader.mjs";
    globalThis.fetch = async (url, { body }) => { throw body; };
    const wanted = { conversation_id: "a", regenerate: true, message: "no" };
    for (const options of [{ fields: wanted }, { conversationId: "a" }, {}]) {
      try { for await (const _ of chat("hi", { url: "/", ...options })); }
      catch (body) { console.log(body); }
    }
    """
    done = subprocess.run(
        node(script), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"message": "hi", "conversation_id": "a", "regenerate": True},
        {"message": "hi", "conversation_id": "a"},
        {"message": "hi"},
    ]


def test_the_reader_asks_for_an_address_if_it_was_not_loaded_from_one(tmp_path: Path) -> None:
    """In Node.js there is no service beside the file."""
    put_reader(tmp_path)
    script = """
    import { chat } from "./reader.mjs";
    try { chat("hi"); } catch (error) { console.log(`${error}`); }
    """
    done = subprocess.run(
        node(script), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.startswith("TypeError: chat: ")

"""Variants of a provider's stream, kept as text: tests/providers/variants has a file a family.

Text, and no code or JSON, because its lines are the ones on the wire: you can paste a stream that
you have seen.

A variant begins with `== ` and its name. Then come the lines that the provider sends, and after
`=> ` what is made of them. `# ` begins a comment. A line of the provider is one of these:

    wire anthropic              this and all that follow in the file are in this wire format
    status 201                  instead of 200
    header Content-Encoding: x  one more header, or another value for one
    hint                        a status 103 before the other
    trailer X: y                a field after the body
    option hide_thoughts "on"   an option of the responder, as JSON
    start                       the usual frames before the text
    text Hello                  the usual frame of a text; in quotes, a JSON string
    finish stop                 the usual frames of a finish, with a usage of 7 tokens and 5
    end                         the usual frame that ends the stream
    data: {...}                 any other field: a frame of its own, with an `event:` line above it
    raw data: x\\r\\n             bytes, with the escapes of Python
    pause 6                     seconds
    reset                       the connection breaks
    silence                     nothing more comes, and the connection stays open

Each line is sent on its own; then the body ends properly. What is expected:

    => text Hello               default: Hello
    => thought hm               all thoughts, apart from the text; default: none
    => done stop                and its finish reason; this is the default
    => error upstream_error     and its code
    => message The ...          the beginning of the error's message
    => usage 7+5                of the prompt and of the reply, or in all: 12, or: 7+1 estimated;
                                default: 7+5 if there was a usual finish, or else estimated
    => log reason='...'         a part of the one line in the log; an error has to have it
    => package: words           why the provider's own package makes something else of it
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, List, Optional, Tuple

import httpx
import pytest

from omniforge_chat import Item, Responder, Settings, Thought, Turn, create_app

from .answers import last, text
from .app import HandDrivenRequest
from .logs import Records
from .timeless import TimelessLoop
from .wires import KEY, WIRES, Wire

FOLDER = Path(__file__).parents[1] / "providers" / "variants"
_WIRES = {wire.name: wire for wire in WIRES}


class Variant:
    """One variant: the steps of the provider, and the reply that they should come to."""

    def __init__(self, name: str, wire: Wire) -> None:
        self.name = name
        self.wire = wire
        self.status = 200
        self.headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        self.hint = self.trailer = b""
        self.options: Dict[str, Any] = {}
        self.steps: List[Tuple[str, Any]] = []
        self.expected: Dict[str, str] = {}

    @property
    def parts(self) -> List[bytes]:
        """All that is sent, if nothing happens meanwhile."""
        return [value for step, value in self.steps if step == "part"]

    @property
    def is_plain(self) -> bool:
        """Whether nothing but a body is sent."""
        return len(self.parts) == len(self.steps) and not self.options

    def add(self, line: str) -> None:
        """Add a line of the provider."""
        word, _, rest = line.partition(" ")
        if word == "status":
            self.status = int(rest)
        elif word == "header":
            name, _, value = rest.partition(":")
            self.headers[name] = value.strip()
        elif word == "hint":
            self.hint = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        elif word == "trailer":
            self.trailer = rest.encode() + b"\r\n"
        elif word == "option":
            name, _, value = rest.partition(" ")
            self.options[name] = json.loads(value)
        elif word == "pause":
            self.steps.append(("pause", float(rest)))
        elif word in ("reset", "silence"):
            self.steps.append((word, None))
        elif line.startswith("event:"):
            self.steps.append(("event", line.encode() + b"\n"))
        else:
            self.steps += [("part", self._joined(part)) for part in self._parts(word, rest, line)]

    def _parts(self, word: str, rest: str, line: str) -> List[bytes]:
        if word == "start":
            return self.wire.opening()
        if word == "text":
            return [self.wire.text(_string(rest))]
        if word == "finish":
            return self.wire.finish(rest)
        if word == "end":
            return [self.wire.end()]
        if word == "raw":
            return [rest.encode().decode("unicode_escape").encode("latin-1")]
        assert ":" in line, f"{self.name}: {line}"
        return [line.encode() + b"\n\n"]

    def _joined(self, part: bytes) -> bytes:
        """A frame with the line for its name that came before it."""
        if self.steps and self.steps[-1][0] == "event":
            name: bytes = self.steps.pop()[1]
            return name + part
        return part

    def outcome(self) -> Dict[str, Any]:
        """The reply that is expected, as `Stage.play` gives it."""
        expected = self.expected
        found: Dict[str, Any] = {"text": _string(expected.get("text", "Hello"))}
        found["thought"] = _string(expected.get("thought", ""))
        usual = any(b'"prompt_tokens": 7' in p or b'"output_tokens": 5' in p for p in self.parts)
        if "error" in expected:
            found["error"] = expected["error"]
        else:
            found["done"] = expected.get("done", "stop")
        if "usage" in expected or "error" not in expected:
            found["usage"] = expected.get("usage", "7+5" if usual else "estimated")
        return found

    @property
    def family(self) -> str:
        """The name of the file."""
        return self.name.partition(":")[0]


def _string(text: str) -> str:
    found: str = json.loads(text) if text.startswith('"') else text
    return found


def _read(path: Path) -> Iterator[Variant]:
    wire, variant = _WIRES["openai"], None
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("wire "):
            wire = _WIRES[line[5:]]
        elif line.startswith("== "):
            if variant is not None:
                yield variant
            variant = Variant(f"{path.stem}: {line[3:]}", wire)
        elif line.startswith("=> "):
            assert variant is not None
            word, _, rest = line[3:].partition(" ")
            variant.expected[word.rstrip(":")] = rest
        elif line and not line.startswith("# "):
            assert variant is not None
            variant.add(line)
    if variant is not None:
        yield variant


VARIANTS = [variant for path in sorted(FOLDER.glob("*.txt")) for variant in _read(path)]


class Stage:
    """A provider that plays variants, on a socket, and the service that asks it.

    Both are in one event loop, in which a pause takes no time. The socket is one of the file
    system: what is sent on it has arrived, so the clock never runs ahead of it.
    """

    def __init__(self, folder: Path) -> None:
        self.loop = TimelessLoop()
        self.path = str(folder / "provider")
        self._variant: Variant
        self._performances = 0  # of variants, at this moment
        self._server = self.loop.run_until_complete(
            asyncio.start_unix_server(self._connection, self.path)
        )
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=self.path, verify=False)
        )
        self._patch = pytest.MonkeyPatch()
        for module in ("core.responder", "stream.response"):
            self._patch.setattr(f"omniforge_chat.{module}.monotonic", self.loop.time)

    def close(self, *, lenient: bool = False) -> None:
        """Close everything; nothing may be left.

        Be `lenient` if somebody else has left generators to the garbage collector, which closes
        them in any order.
        """
        self._server.close()
        self.loop.run_until_complete(self._client.aclose())
        open_connections = asyncio.all_tasks(self.loop)
        if open_connections:
            self.loop.run_until_complete(asyncio.wait(open_connections, timeout=1))
        self._patch.undo()
        left = asyncio.all_tasks(self.loop)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        assert not left, f"tasks are left: {left}"
        troubles = [each for each in self.loop.troubles if not (lenient and "asyncgen" in each)]
        assert not troubles, troubles

    def make(self, variant: Variant) -> Any:
        """A responder that asks for this variant."""
        self._variant = variant
        return variant.wire.responder(
            base_url="http://provider", api_key=KEY, client=self._client, **variant.options
        )

    def play(self, variant: Variant) -> Dict[str, Any]:
        """The reply that a client of the service gets, and the lines of the log."""
        # The provider's limits are to be met first, whose defaults are 50 s.
        limits = Settings(first_chunk_timeout=600, idle_timeout=600)
        thoughts: List[str] = []
        app = create_app(_telling(self.make(variant), thoughts), settings=limits)

        async def run() -> HandDrivenRequest:
            request = HandDrivenRequest(headers={"X-Request-ID": "request-1"})
            await request.run(app)
            await asyncio.sleep(1e-3)  # each frame that nobody reads any more takes its instant
            assert not self._performances, "the provider has not seen that its client is gone"
            return request

        with Records() as records:
            frames = self.loop.run_until_complete(run()).frames
        event, data = last(frames)
        found = {"text": text(frames), "usage": _shown(data.get("usage")), "log": records.troubles}
        found["message"] = data.get("message", "")
        found["thought"] = "".join(thoughts)
        found[event] = data["code"] if event == "error" else data.get("finish_reason", "")
        return found

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split()[0]
                await reader.readexactly(int(length))
                self._performances += 1
                try:
                    await self._perform(reader, writer)
                finally:
                    self._performances -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _perform(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = self._variant.headers
        lines = [f"HTTP/1.1 {self._variant.status} X", *(f"{n}: {v}" for n, v in headers.items())]
        writer.write(self._variant.hint + "\r\n".join([*lines, "", ""]).encode())
        for step, value in self._variant.steps:
            if step == "part":
                writer.write(b"%x\r\n%s\r\n" % (len(value), value))
                await asyncio.sleep(1e-6)  # the client reads it meanwhile
            elif step == "reset":
                writer.close()
                return
            else:
                with contextlib.suppress(asyncio.TimeoutError):
                    # Or until the client leaves: nothing of a variant reaches into the next one.
                    await asyncio.wait_for(reader.read(1), value)
        writer.write(b"0\r\n" + self._variant.trailer + b"\r\n")


def _telling(responder: Any, thoughts: List[str]) -> Responder:
    """The same responder, which tells its thoughts."""

    async def respond(turn: Turn) -> AsyncIterator[Item]:
        items = responder(turn)
        try:
            async for item in items:
                if isinstance(item, Thought):
                    thoughts.append(item.text)
                yield item
        finally:
            await items.aclose()

    return respond


def _shown(usage: Optional[Dict[str, Any]]) -> str:
    """A usage as a variant has it."""
    if usage is None:
        return ""
    parts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if parts == (None, None):
        return "estimated" if usage.get("estimated") else str(usage["tokens"])
    assert usage["tokens"] == sum(part or 0 for part in parts)
    shown = "+".join("?" if part is None else str(part) for part in parts)
    return f"{shown} estimated" if usage.get("estimated") else shown

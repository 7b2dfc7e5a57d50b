"""A reply that is sent when it has ended: the limits of a stream, one document, an honest status.

The format is a small one of this test: whoever adds one writes no more than this.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Collection, Mapping, Optional, Tuple

import pytest
from starlette.types import Message as ASGIMessage

from omniforge_chat import ChatError, Finish, Settings, Thought, Turn, UpstreamRateLimited
from omniforge_chat.core.frames import Headers
from omniforge_chat.dialects import Dialect, Operation, Request
from omniforge_chat.errors import UpstreamError, UpstreamTimeout
from omniforge_chat.http.chat import ChatEndpoint
from omniforge_chat.models import ChatRequest, Done, Error
from omniforge_chat.stream import whole
from omniforge_chat.stream.lifecycle import Lifecycle

from ..support.app import HandDrivenRequest
from ..support.line import OFF
from ..support.responders import saying
from ..support.timeless import passing, settle, timeless


class Letter(Dialect):
    """A message of plain text, and a reply of one document."""

    name = "letter"
    path = "/letter"
    carries_history = True
    operation = Operation("letter", "Write", "The answer", ChatRequest, {}, ())

    def __init__(self, settings: Settings, parts: Collection[str]) -> None:
        pass

    def decode(self, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
        return Written(json.loads(body)["message"], whole=True, history=())


class Written(Request, frozen=True):
    def document(self, turn: Turn) -> Document:
        return Document()


class Document:
    def headers(self, status: int) -> Headers:
        return ((b"x-letter", b"%d" % status),)

    def done(self, done: Done, text: str, thoughts: str) -> bytes:
        known = [text, thoughts, done.finish_reason, done.usage.tokens]
        return json.dumps(known, ensure_ascii=False).encode()

    def error(self, error: Error, status: int) -> bytes:
        return json.dumps([error.code, error.message, status]).encode()


class Letters(HandDrivenRequest):
    """One letter to a service that `responder` answers."""

    def __init__(self, *items: Any, **limits: Any) -> None:
        super().__init__()
        settings = Settings(**limits)
        self.lifecycle = Lifecycle(max_streams=2)
        self.endpoint = ChatEndpoint(
            Letter(settings, ()), saying(*items), settings, self.lifecycle, None
        )

    def begin(self) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.run(self.endpoint))

    def answer(self) -> Tuple[int, Mapping[str, str], Any]:
        """The status, the headers and the document: all that was sent."""
        start, body = self.sent
        assert not body.get("more_body")
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], headers, json.loads(body["body"])


class Torn(Letters):
    """The first send of a message of the type `torn` is cancelled, and takes nothing."""

    task: asyncio.Task[Any]

    def __init__(self, torn: str, *items: Any) -> None:
        super().__init__(*items)
        self._torn: Optional[str] = torn

    async def send(self, message: ASGIMessage) -> None:
        if message["type"] == self._torn:
            self._torn = None
            self.task.cancel()
            await asyncio.sleep(60)
        await super().send(message)


@timeless
async def test_a_whole_reply_is_one_document_in_one_answer() -> None:
    """Its length is known, and nothing of a stream is in its head."""
    letters = Letters(Thought("Hm."), "Hé", "llo", Finish("length"), thoughts=True)
    await letters.begin()
    status, _, document = letters.answer()
    assert (status, document) == (200, ["Héllo", "Hm.", "length", 2])


@timeless
async def test_its_head_tells_its_length_and_nothing_of_a_stream() -> None:
    """A proxy that buffers may do so."""
    letters = Letters("é")
    await letters.begin()
    _, headers, _ = letters.answer()
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(letters.sent[1]["body"]))
    assert headers["cache-control"] == "no-store"
    assert "x-accel-buffering" not in headers
    assert headers["x-letter"] == "200"
    assert {"x-request-id", "x-conversation-id"} <= set(headers)


class Teapot(ChatError):
    status = 418


class Odd(ChatError):
    status = 200


ODD_WAITS = [None, "5", -1, math.inf, math.nan, [1]]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("secret"), 500),
        (ChatError("No"), 500),
        (UpstreamError("No"), 502),
        (UpstreamTimeout("No"), 504),
        (UpstreamRateLimited("No", retry_after=1.5), 429),
        (Teapot("No"), 418),
        (Odd("No"), 500),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
@timeless
async def test_a_failure_has_the_status_of_its_error(error: Exception, status: int) -> None:
    """The head is sent when the end is known: a client need not look into the document."""
    letters = Letters("Hel", error)
    await letters.begin()
    sent, headers, (_, message, told) = letters.answer()
    assert sent == told == status
    assert "secret" not in message
    assert headers.get("retry-after") == ("2" if status == 429 else None)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "1"), (0.5, "1"), (7, "7"), (7.5, "8"), *((odd, None) for odd in ODD_WAITS)],
)
@timeless
async def test_a_time_to_wait_that_makes_no_sense_is_not_told(seconds: Any, told: str) -> None:
    """An error of a host's may have any attribute of that name; its client gets an answer."""
    error = ChatError("No")
    error.retry_after = seconds  # type: ignore[attr-defined] # as a class of a host's may have it
    letters = Letters("Hel", error)
    await letters.begin()
    status, headers, _ = letters.answer()
    assert (status, headers.get("retry-after")) == (500, told)


@pytest.mark.parametrize("torn", ["http.response.start", "http.response.body"])
@timeless
async def test_a_send_that_was_cancelled_is_made_again(torn: str) -> None:
    """As in a stream: whoever stops the server leaves nobody with half an answer."""
    letters = Torn(torn, "Hello")
    letters.task = letters.begin()
    await asyncio.wait([letters.task])
    status, _, (text, *_) = letters.answer()
    assert (status, text) == (200, "Hello")


@timeless
async def test_the_limits_of_a_stream_hold() -> None:
    """A client that gets no heartbeats is not kept waiting for ever."""
    letters = Letters("Hel", None, **{**OFF, "idle_timeout": 60.0, "heartbeat_interval": 15.0})
    task = letters.begin()
    await passing(61)
    await task
    status, _, (code, *_) = letters.answer()
    assert (status, code) == (504, "timeout")


@timeless
async def test_a_drain_ends_it() -> None:
    """With the status that tells a client to try elsewhere."""
    letters = Letters("Hel", None)
    task = letters.begin()
    await settle()
    await letters.lifecycle.drain(0)
    await task
    status, headers, (code, *_) = letters.answer()
    assert (status, code, headers["retry-after"]) == (503, "shutting_down", "1")


@timeless
async def test_the_client_that_leaves_ends_the_work() -> None:
    """Nobody pays for text that nobody reads."""
    letters = Letters("Hel", None)
    task = letters.begin()
    await settle()
    letters.gone.set()
    await task
    assert letters.sent == []
    assert letters.lifecycle.open_streams == 0


@timeless
async def test_a_reply_that_is_too_long_to_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream keeps nothing; here a responder without end would fill the memory."""
    monkeypatch.setattr(whole, "MAX_CHARACTERS", 100)
    letters = Letters(*["0123456789" * 10] * 3, None)
    await letters.begin()
    status, _, (code, *_) = letters.answer()
    assert (status, code) == (500, "reply_too_long")


@timeless
async def test_what_cannot_be_encoded_is_a_failure() -> None:
    """Half a character in the text or in the end."""
    for items in (("a", "\ud83d"), ("a", Finish("\ud83d"))):
        letters = Letters(*items)
        await letters.begin()
        status, _, (code, *_) = letters.answer()
        assert (status, code) == (500, "stream_error")

"""What is measured: five ASGI apps that answer the same request with the same frames.

This module holds the work that each of them does, the bare app and ours; `alternatives.py` has the
rest, so that a process loads the framework that it measures and no other.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from typing import Any, AsyncIterator, Callable, Dict, List, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniforge_chat import Settings, Turn, Usage, create_app
from omniforge_chat.chat import CHARACTERS_PER_TOKEN
from omniforge_chat.models import Chunk, Done
from omniforge_chat.responders import placeholder
from omniforge_chat.sse import encode

INTERVAL = 0.05
"""Seconds between two tokens of a paced stream."""

MESSAGE = "Hello, help me create an agent"
CONVERSATION = "550e8400-e29b-41d4-a716-446655440000"

_WORDS = [f"word {number} " for number in range(1000)]


async def long(turn: Any) -> AsyncIterator[str]:
    """A thousand chunks, each ready at once."""
    for word in _WORDS:
        yield word


async def paced(turn: Any) -> AsyncIterator[str]:
    """As many tokens as the message says; each is the time at which it was yielded."""
    for _ in range(int(turn.message)):
        await asyncio.sleep(INTERVAL)
        yield str(time.perf_counter_ns())


# `Any`: a framework passes its own request, of which `message` alone is read.
RESPONDERS: Dict[str, Callable[[Any], AsyncIterator[str]]] = {
    "short": placeholder,
    "long": long,
    "paced": paced,
}


def tokens(characters: int) -> int:
    """The usage of a reply, as the contract estimates it."""
    return max(1, characters // CHARACTERS_PER_TOKEN)


def omniforge(workload: str) -> ASGIApp:
    return create_app(RESPONDERS[workload], settings=Settings())


_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ],
}


def _body(frame: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": frame, "more_body": more}


def bare(workload: str) -> ASGIApp:
    """The limit: constants, a send for each, and not even a look at the request."""
    if workload == "paced":
        return _bare_paced
    texts: List[str] = asyncio.run(_collect(RESPONDERS[workload](_turn())))
    messages = [_START, *(_body(encode(Chunk(text))) for text in texts), _done(texts)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def _bare_paced(scope: Scope, receive: Receive, send: Send) -> None:
    wanted = int(json.loads((await receive())["body"])["message"])
    await send(_START)
    for _ in range(wanted):
        await asyncio.sleep(INTERVAL)
        await send(_body(b'event: chunk\ndata: {"content":"%d"}\n\n' % time.perf_counter_ns()))
    await send(_done([]))


def _done(texts: Sequence[str]) -> Message:
    usage = Usage(tokens(sum(map(len, texts))), estimated=True)
    return _body(encode(Done(CONVERSATION, usage)), more=False)


def _turn() -> Turn:
    return Turn(message=MESSAGE, conversation_id=CONVERSATION, request_id="bench")


async def _collect(texts: AsyncIterator[str]) -> List[str]:
    return [text async for text in texts]


SUBJECTS = {
    "bare": "subjects:bare",
    "omniforge": "subjects:omniforge",
    "fastapi-stream": "alternatives:fastapi_stream",
    "fastapi-sse": "alternatives:fastapi_sse",
    "sse-starlette": "alternatives:sse_starlette",
}
"""The name of each subject, and the module and function that make it for a workload."""


def load(subject: str, workload: str) -> ASGIApp:
    """The app of `subject` that does `workload`. Raises ImportError where it is not installed."""
    module, _, function = SUBJECTS[subject].partition(":")
    app: ASGIApp = getattr(importlib.import_module(f"tests.bench.{module}"), function)(workload)
    return app

"""A request that is over is gone: nothing of it waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import subprocess
import sys
import tracemalloc
import weakref
from typing import Any, AsyncIterator, Dict, List

import pytest
from starlette.types import Message

from omniforge_chat import Settings, Turn, create_app
from omniforge_chat.app import ChatApp
from omniforge_chat.errors import UpstreamError

from ..support.app import HandDrivenRequest
from ..support.constants import PATIENCE
from ..support.docs import ROOT
from ..support.line import FOREVER


class Lost(HandDrivenRequest):
    """A request of a client that takes nothing once it is gone; it `began` with its first text."""

    def __init__(self, **request: Any) -> None:
        super().__init__(**request)
        self.began = asyncio.Event()

    async def send(self, message: Message) -> None:
        if "body" in message:
            self.began.set()
        if self.gone.is_set():
            raise OSError("gone")
        await super().send(message)


def test_an_open_stream_holds_the_conversation_and_not_its_body() -> None:
    """Clients send a MiB of it, and a reply may take minutes."""
    held: List[int] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        held.append(tracemalloc.get_traced_memory()[0])
        yield "a"

    said = {"role": "user", "content": "x" * 1_000_000}
    body = json.dumps({"model": "m", "messages": [said], "stream": True}).encode()
    parts: List[Message] = [
        {"type": "http.request", "body": body[:9], "more_body": True},
        {"type": "http.request", "body": body[9:], "more_body": False},
    ]
    app = create_app(respond, settings=Settings(dialects=("openai",)))

    async def run() -> int:  # before Python 3.10 a request is made for the loop that runs
        made = HandDrivenRequest(path="/v1/chat/completions", parts=parts)
        await made.run(app)
        return made.status

    tracemalloc.start()
    try:
        assert asyncio.run(run()) == 200
    finally:
        tracemalloc.stop()
    assert held[0] < 1_500_000


@pytest.mark.parametrize("end", ["done", "fails", "left", "lost", "limit", "cancel", "body"])
def test_a_request_that_is_over_is_freed_at_once(end: str) -> None:
    """A collection may be a long time off, and a host may have switched it off."""
    ticks = itertools.count()

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        for _ in range(3):
            await asyncio.sleep(0)
        if end == "fails":
            raise UpstreamError("no answer")
        while end == "lost":
            await asyncio.sleep(0)
            yield f"{next(ticks)}"
        if end != "done":
            await asyncio.sleep(FOREVER)

    async def run() -> Any:
        limits: Dict[str, Any] = {"idle_timeout" if end == "limit" else "body_timeout": 0.01}
        app = create_app(respond, settings=Settings(**limits))
        parts: List[Message] = (
            [{"type": "http.request", "body": b"", "more_body": True}] if end == "body" else []
        )
        made = Lost(parts=parts)
        task = asyncio.ensure_future(made.run(app))
        if end in ("left", "lost", "cancel"):
            await made.began.wait()
        if end in ("left", "lost"):
            made.gone.set()
        if end == "cancel":
            task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done()
        del task
        for _ in range(3):
            await asyncio.sleep(0)
        return weakref.ref(made)

    gc.disable()
    try:
        assert asyncio.run(run())() is None
    finally:
        gc.enable()


async def _happen(what: str, app: ChatApp, made: Lost, task: asyncio.Task[None]) -> None:
    """To a request whose reply is kept, and is under way."""
    if what in ("left", "abandoned", "stop", "drain"):
        made.gone.set()
        await asyncio.sleep(0)
    if what == "cancel":
        task.cancel()
    if what == "stop":
        path = f"/api/v1/chat/replies/{made.headers['x-reply-id']}"
        stop = HandDrivenRequest(b"", method="DELETE", path=path)
        await stop.run(app)
        assert stop.status == 202
    if what == "drain":
        await app.drain(0)


KEPT_ENDS = ["done", "fails", "left", "abandoned", "limit", "stop", "drain", "cancel"]


@pytest.mark.parametrize("reader", ["stays", "left", "cancel"])
@pytest.mark.parametrize("end", KEPT_ENDS)
def test_a_kept_reply_holds_neither_who_asked_for_it_nor_who_reads_it(
    end: str, reader: str
) -> None:
    """It is kept for minutes after they are over."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        for _ in range(10):
            await asyncio.sleep(0)
        yield "b"
        if end == "fails":
            raise UpstreamError("no answer")
        if end in ("abandoned", "limit", "stop", "drain", "cancel"):
            await asyncio.sleep(FOREVER)

    settings = Settings(
        replay="memory",
        replay_grace=0.02 if end == "abandoned" else 60.0,
        idle_timeout=0.02 if end == "limit" else None,
        cleanup_timeout=0.02,
    )

    async def run() -> List[Any]:
        app = create_app(respond, settings=settings)
        kept.append(app)
        made = Lost()
        task = asyncio.ensure_future(made.run(app))
        await made.began.wait()
        path = f"/api/v1/chat/replies/{made.headers['x-reply-id']}"
        reads = Lost(body=b"", method="GET", path=path)
        reading = asyncio.ensure_future(reads.run(app))
        await reads.began.wait()
        await _happen(end, app, made, task)
        await _happen("left" if end == "abandoned" else reader, app, reads, reading)
        await asyncio.wait([task, reading], timeout=PATIENCE)
        assert task.done()
        assert reading.done()
        del task, reading
        for _ in range(3):
            await asyncio.sleep(0)
        replay: Any = app._parts[2]
        assert len(replay) == 1
        return [weakref.ref(made), weakref.ref(reads)]

    kept: List[ChatApp] = []
    gc.disable()
    try:
        assert [each() for each in asyncio.run(run())] == [None, None]
    finally:
        gc.enable()


PENDING = """
import gc
from tests.support.line import stuck
from tests.support.timeless import timeless

async def main():
    line = await stuck("STAGE")
    raise KeyError

try:
    timeless(main)()
except KeyError:
    pass
gc.collect()
"""


@pytest.mark.parametrize("stage", ["nothing", "frame"])
def test_an_event_loop_that_is_closed_under_a_chat_holds_nobody_up(stage: str) -> None:
    """A host may leave without a farewell; then Python closes the chat, and there is no loop."""
    command = [sys.executable, "-W", "ignore", "-c", PENDING.replace("STAGE", stage)]
    done = subprocess.run(command, cwd=ROOT, timeout=PATIENCE, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr

"""Responders that say what a test tells them, and what any responder's answer comes to."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from typing import Any, AsyncIterator, List, Set

from omniforge_chat import Turn
from omniforge_chat.core.responder import Responder, converse
from omniforge_chat.models import Chunk, Event

from .constants import PATIENCE
from .native import native_reply


class Uncontrolled:
    """The control of `converse` without a stream: nobody stops the reply but the test."""

    stopped = False

    def responder_ended(self, decided: bool) -> None: ...


async def events_of(turn: Turn, responder: Responder) -> List[Event]:
    """What the answer of `responder` comes to, without a transport: chunks and what ended it."""
    reply = native_reply(turn)
    await converse(turn, responder, reply, Uncontrolled())
    return [*(Chunk(str(piece)) for piece in reply.ready), reply.terminal()]


def saying(*items: Any) -> Responder:
    """A responder that yields `items`. It raises an exception among them, and waits at a None."""

    async def respond(turn: Turn) -> AsyncIterator[Any]:
        for item in items:
            if item is None:
                await asyncio.Event().wait()
            if isinstance(item, Exception):
                raise item
            yield item

    return respond


class TellingCallers:
    """A responder that says "hi", and tells the modules that have frames above its own."""

    def __init__(self) -> None:
        self.callers: Set[str] = set()

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            self.callers.add(frame.f_globals["__name__"])
        yield "hi"


class PacedResponder:
    """A responder that yields "0 ", "1 " and so on, each when the test has asked for it.

    One turn at a time. `called` is set while a turn is being answered, `closed` when the responder
    has been closed.
    """

    def __init__(self) -> None:
        self.called = threading.Event()
        self.closed = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._asked: asyncio.Queue[bool]

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Queue()  # made in the loop that it serves, as 3.9 needs it
        self.closed.clear()
        self.called.set()
        try:
            for number in itertools.count():
                if not await self._asked.get():
                    return
                yield f"{number} "
        finally:
            self.called.clear()
            self.closed.set()

    def ask(self, *, more: bool = True) -> None:
        """Let the next token come, or with `more=False` the end."""
        assert self.called.wait(PATIENCE), "the responder was not called"
        self._loop.call_soon_threadsafe(self._asked.put_nowait, more)

    def finish(self) -> None:
        """Let the reply end."""
        self.ask(more=False)

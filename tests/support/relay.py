"""Asking a responder that relays a model."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, List

from omniforge_chat import Turn, Usage
from omniforge_chat.models import Chunk, Done, Error, Event

from .harness import CONVERSATION, PATIENCE, events_of

TURN = Turn("hi", CONVERSATION, "request-1")


COUNTED = Usage(12, prompt_tokens=7, completion_tokens=5)


def using(responder: Any, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """What `use` comes to, in an event loop of its own, with the responder closed at the end."""

    async def run() -> Any:
        try:
            return await asyncio.wait_for(use(responder), PATIENCE)
        finally:
            await responder.aclose()

    return asyncio.run(run())


def ask(responder: Any, turn: Turn = TURN) -> List[Event]:
    """All the events that one turn comes to."""

    async def use(responder: Any) -> List[Event]:
        return await events_of(turn, responder)

    events: List[Event] = using(responder, use)
    return events


def said(events: List[Event]) -> List[str]:
    """The chunks, of which nothing but one terminal event is no part."""
    assert isinstance(events[-1], (Done, Error))
    return [chunk.content for chunk in events[:-1] if isinstance(chunk, Chunk)]


def failed(events: List[Event]) -> Error:
    assert isinstance(events[-1], Error), events
    return events[-1]

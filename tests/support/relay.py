"""Asking a responder that relays a model, with a provider behind it or with none."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, List, Mapping, Optional, Tuple, TypeVar, Union

import httpx

from omniforge_chat import Observer, Thought, Turn, Usage
from omniforge_chat.models import Chunk, Done, Error, Event
from omniforge_chat.observer import UpstreamCall, UpstreamEnd
from omniforge_chat.responders.providers.reader import FrameReader

from .constants import CONVERSATION, PATIENCE
from .provider import Provider, Script
from .responders import events_of
from .wires import OPENAI, Wire

T = TypeVar("T")

TURN = Turn("hi", CONVERSATION, "request-1")
COUNTED = Usage(12, prompt_tokens=7, completion_tokens=5)
COMPLETE = Done(CONVERSATION, COUNTED, "stop")
"""The end of the replies that a Wire makes."""


class UpstreamWitness(Observer):
    """Notes the requests of which it hears, and adds `headers` to each."""

    def __init__(self, headers: Optional[Mapping[str, str]] = None) -> None:
        self.headers = headers
        self.began: List[UpstreamCall] = []
        self.ended: List[UpstreamEnd] = []

    def upstream_began(self, call: UpstreamCall) -> Optional[Mapping[str, str]]:
        self.began.append(call)
        return self.headers

    def upstream_ended(self, end: UpstreamEnd) -> None:
        self.ended.append(end)


def using(responder: Any, use: Callable[[Any], Awaitable[T]]) -> T:
    """What `use` comes to, in an event loop of its own, with the responder closed at the end."""

    async def run() -> T:
        try:
            return await asyncio.wait_for(use(responder), PATIENCE)
        finally:
            await responder.aclose()

    return asyncio.run(run())


def ask(responder: Any, turn: Turn = TURN) -> List[Event]:
    """All the events that one turn comes to."""
    return using(responder, lambda responder: events_of(turn, responder))


def ask_by(client: httpx.AsyncClient, provider: Provider) -> List[Event]:
    """The same by way of a client of one's own, which is closed at the end."""

    async def use(responder: Any) -> List[Event]:
        async with client:
            return await events_of(TURN, responder)

    return using(OPENAI.make(provider, client=client), use)


def relayed(script: Script, wire: Wire = OPENAI, **options: Any) -> List[Event]:
    """All the events of one turn that a provider answers as `script` says."""
    with Provider(script) as provider:
        return ask(wire.make(provider, **options))


def parts_of(reader: FrameReader, *parts: bytes) -> List[Union[str, Thought]]:
    """The texts and thoughts that these reads of a body add, up to the end."""
    found: List[Union[str, Thought]] = []
    for part in parts:
        text = reader.feed(part)
        found += [*reader.taken(), text]
        if reader.ended or reader.unreadable:
            break
    return [item for item in found if item]


def read(reader: FrameReader, *parts: bytes) -> List[str]:
    """The texts that these reads of a body add, up to the end."""
    return [item for item in parts_of(reader, *parts) if isinstance(item, str)]


def outcome(reader: FrameReader, parts: List[bytes]) -> Tuple[object, ...]:
    """All that a reader makes of these parts."""
    items: List[Union[str, Thought]] = parts_of(reader, *parts)
    text = reader.close()
    said: List[Tuple[bool, str]] = []
    for item in [*items, *reader.taken(), *filter(None, [text])]:
        is_thought = isinstance(item, Thought)
        words = item.text if isinstance(item, Thought) else item
        if said and said[-1][0] == is_thought:
            words = said.pop()[1] + words
        words.encode()
        said.append((is_thought, words))
    end = (reader.finish_reason, reader.complete, reader.settled, reader.ended, reader.usage)
    return (said, str(reader.problem), bool(reader.unreadable), *end)


def slowly(wire: Wire) -> FrameReader:
    """A reader for which no frame is a usual one."""
    kind: Any = type(wire.reader())
    reader: FrameReader = type("Slow", (kind,), {"__slots__": (), "read": kind._look})()
    return reader


async def items_from(responder: Any, turn: Turn = TURN) -> List[Any]:
    """All that a responder yields."""
    return [item async for item in responder(turn)]


def said(events: List[Event]) -> List[str]:
    """The chunks, of which nothing but one terminal event is no part."""
    assert isinstance(events[-1], (Done, Error))
    return [chunk.content for chunk in events[:-1] if isinstance(chunk, Chunk)]


def failed(events: List[Event]) -> Error:
    assert isinstance(events[-1], Error), events
    return events[-1]

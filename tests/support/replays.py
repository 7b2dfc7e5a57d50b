"""Replies that a test keeps, and reads again."""

from __future__ import annotations

import asyncio
import secrets
from time import monotonic
from typing import AsyncGenerator, Callable, List, Optional, Sequence, Tuple, Union

from omniforge_chat.models import Done, Error, Thought, Usage
from omniforge_chat.replay import Entry, Kept, Recording, Replay

from .constants import PATIENCE

DONE = Done("c", Usage(3, estimated=True), "stop")
GAP, LOST, UNAVAILABLE = "replay_gap", "worker_lost", "replay_unavailable"


def reply_id() -> str:
    """A new id."""
    return secrets.token_urlsafe(16)


def recorded(
    replay: Replay, *pieces: Union[str, Thought], conversation_id: str = "c", owner: str = ""
) -> Tuple[str, Recording]:
    """A running reply that has come as far as `pieces`, and its id."""
    name = reply_id()
    recording = replay.record(name, conversation_id, owner)
    assert recording is not None
    for piece in pieces:
        recording.add([piece])
    return name, recording


async def found(replay: Replay, name: str, owner: str = "") -> Kept:
    """A reply that is there, or will be as soon as its worker has stored it."""
    deadline = monotonic() + PATIENCE
    while True:
        kept = await replay.find(name, owner)
        if kept is not None:
            return kept
        assert monotonic() < deadline, "it is not there"
        await asyncio.sleep(0.005)


def spread(entries: Sequence[Entry]) -> List[Union[Tuple[type, str], Done, Error]]:
    """Entries with one item a character, so that it does not matter how they were cut."""
    out: List[Union[Tuple[type, str], Done, Error]] = []
    for entry in entries:
        if isinstance(entry, (Done, Error)):
            out.append(entry)
        else:
            text = entry.text if isinstance(entry, Thought) else entry
            out += [(type(entry), character) for character in text]
    return out


class Reader:
    """Somebody who reads a reply, in a task, and what they have got."""

    def __init__(self, entries: AsyncGenerator[Entry, None]) -> None:
        self.got: List[Entry] = []
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(self._read(entries))

    async def _read(self, entries: AsyncGenerator[Entry, None]) -> None:
        try:
            async for entry in entries:
                self.got.append(entry)
                self._news.set()
        finally:
            await entries.aclose()
            self._news.set()

    @property
    def text(self) -> str:
        """The text so far, thoughts included."""
        return "".join(
            entry.text if isinstance(entry, Thought) else entry
            for entry in self.got
            if isinstance(entry, (str, Thought))
        )

    async def until(self, text: str) -> None:
        """Wait until they have exactly `text`."""
        while len(self.text) < len(text) and not self._task.done():
            self._news.clear()
            await self._news.wait()
        assert self.text == text

    async def end(self) -> Union[Done, Error]:
        """The event that ends it, for them."""
        await self._task
        last = self.got[-1]
        assert isinstance(last, (Done, Error))
        return last

    async def leave(self) -> None:
        """Stop in the middle."""
        self._task.cancel()
        await asyncio.wait([self._task])


async def whole(replay: Replay, name: str, after: int = 0, owner: str = "") -> List[Entry]:
    """All that comes of a reply behind a position."""
    kept = await found(replay, name, owner)
    return [entry async for entry in kept.read(after)]


async def code(replay: Replay, name: str, after: int = 0) -> Optional[str]:
    """The code of the error that ends a reply; None if it is complete."""
    last = (await whole(replay, name, after))[-1]
    return last.code if isinstance(last, Error) else None


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never held")

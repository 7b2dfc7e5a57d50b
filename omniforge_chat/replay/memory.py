"""A store of replies in this process."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Dict, Optional

from ..rules import AT_LEAST_1_KIB, SECONDS, check
from ..settings import Settings
from .keys import Keys
from .live import LiveReply
from .protocol import Keyed
from .pulse import Pulse
from .shelf import Shelf

REPLY_BYTES = 1500
"""The memory that a reply takes besides its text, rounded up."""


class MemoryReplay:
    """A Replay in this process, with limits for everything. It is lost when the process ends.

    A reply is kept while it runs, and for `keep` seconds after its end. All of them together take
    at most `total_bytes` of memory: the one that ended first goes first. If those that run are too
    many, the largest is kept no more. Raises SettingsError for a limit that makes no sense.
    """

    def __init__(self, *, keep: float = 300.0, total_bytes: int = 64 * 1024 * 1024) -> None:
        check("keep", keep, SECONDS)
        check("total_bytes", total_bytes, AT_LEAST_1_KIB)
        self._keep = keep
        self._total_bytes = total_bytes
        self._replies: Shelf[LiveReply] = Shelf()
        self._ended: Dict[LiveReply, float] = {}  # and when each expires: that is their order
        self._bytes = 0
        self._keys = Keys()
        self._pulse = Pulse()
        self._timer: Optional[asyncio.TimerHandle] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None

    @classmethod
    def from_settings(cls, settings: Settings) -> MemoryReplay:
        """The one that `settings` describe."""
        return cls(keep=settings.replay_keep, total_bytes=settings.replay_total_bytes)

    def __len__(self) -> int:
        return len(self._replies)

    def record(self, reply_id: str, conversation_id: str, owner: str) -> LiveReply:
        """See Replay."""
        self._expire()
        reply = LiveReply(self, reply_id, conversation_id, owner)
        self._replies.add(reply)
        self._bytes += REPLY_BYTES
        self._shrink()
        return reply

    async def find(self, reply_id: str, owner: str) -> Optional[LiveReply]:
        """See Replay."""
        self._expire()
        reply = self._replies.get(reply_id)
        return reply if reply is not None and reply.owner == owner else None

    async def newest(self, conversation_id: str, owner: str) -> Optional[str]:
        """See Replay."""
        self._expire()
        replies = self._replies.of(conversation_id, owner)
        return replies[-1].reply_id if replies else None

    async def stop(self, reply_id: str, owner: str) -> Optional[bool]:
        """See Replay."""
        reply = await self.find(reply_id, owner)
        return None if reply is None else reply.request_stop()

    async def forget(self, conversation_id: str, owner: str) -> None:
        """See Replay."""
        for reply in self._replies.of(conversation_id, owner):
            reply.lose()
            self._remove(reply)
            reply.request_stop()

    async def keyed(self, owner: str, key: str) -> Optional[Keyed]:
        """See Replay."""
        return self._keys.get(owner, key)

    async def begin_once(self, owner: str, key: str, keyed: Keyed) -> Optional[Keyed]:
        """See Replay."""
        return self._keys.set(owner, key, keyed)

    async def aclose(self) -> None:
        """See Replay."""
        for reply in list(self._replies):
            reply.lose()
            self._remove(reply)
        self._keys.clear()
        self._pulse.aclose()

    # See Home

    def changed(self, reply: LiveReply) -> None:
        if reply.awaited:
            self._pulse.wake(reply)

    def grew(self, reply: LiveReply, size: int) -> None:
        self._bytes += size
        if size > 0:
            self._shrink()

    def ended(self, reply: LiveReply) -> None:
        if reply in self._replies:
            self._ended[reply] = monotonic() + self._keep
            self._wait()

    # Bounds

    def _remove(self, reply: LiveReply) -> None:
        """Forget a reply. Those who are reading it still get all of it, unless it is lost."""
        self._replies.remove(reply)
        self._ended.pop(reply, None)
        self._bytes -= REPLY_BYTES + reply.held
        if not self._ended and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _shrink(self) -> None:
        while self._bytes > self._total_bytes:
            if self._ended:
                self._remove(next(iter(self._ended)))
                continue
            largest = max(self._replies, key=lambda reply: reply.held)
            if not largest.held:
                break  # they have no text yet, and their number has its own limit
            largest.lose()

    def _expire(self) -> None:
        now = monotonic()
        while self._ended:
            oldest, until = next(iter(self._ended.items()))
            if until > now:
                break
            self._remove(oldest)

    def _wait(self) -> None:
        """Set the timer for the next reply that expires."""
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            self._loop = loop
            wait = next(iter(self._ended.values())) - monotonic()
            self._timer = loop.call_later(max(0.0, wait), self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._expire()
        if self._ended:
            self._wait()

"""The beat in which those who read replies in this process are woken.

A reader costs some 30 µs each time it is woken, its frame and its write included. So not all are
woken at once, for others have to wait meanwhile; and after some were, there is a pause, which is
the longer the more they were. A few readers get each piece at once. Hundreds get several pieces at
a time, and take a sixth of a core.
"""

from __future__ import annotations

import asyncio
from typing import Dict, Optional

from .live import LiveReply

TOGETHER = 50
"""How many are woken in one beat, unless more of them read one reply."""

PAUSE_PER_READER = 0.0002
LONGEST_ROUND = 0.25
"""In seconds. If there are so many that all of them would take longer, the pauses are shorter."""


class Pulse:
    """Wakes the readers of replies. It has a timer only while there is somebody to wake."""

    def __init__(self) -> None:
        self._due: Dict[LiveReply, None] = {}
        self._timer: Optional[asyncio.TimerHandle] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._next = 0.0  # not before that, on the clock of the loop

    def wake(self, reply: LiveReply) -> None:
        """Wake those who wait for more of `reply`, at a next beat."""
        self._due[reply] = None
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            self._wait(loop)

    def aclose(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._due.clear()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer = loop.call_at(max(self._next, loop.time()), self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        due, self._timer, woken = self._due, None, 0
        waiting = sum(reply.awaited for reply in due)
        while due and woken < TOGETHER:
            reply = next(iter(due))
            del due[reply]
            woken += reply.awaited
            reply.wake()
        if woken:
            pause = woken * min(PAUSE_PER_READER, LONGEST_ROUND / waiting)
            self._next = loop.time() + pause
        if due:
            self._wait(loop)

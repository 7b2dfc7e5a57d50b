"""The beat in which those who read replies of this process are woken.

A reader costs some 30 µs each time it is woken, its frame and its write included. The more readers
there are, the longer is the pause between two beats, so they never take more than a sixth of a
core; and a few of them get each piece at once.
"""

from __future__ import annotations

import asyncio
from typing import Dict, Optional

from .live import LiveReply

PAUSE_PER_READER = 0.0002
LONGEST_PAUSE = 0.1
"""In seconds."""


class Pulse:
    """Wakes the readers of replies. It has a timer only while there is somebody to wake."""

    def __init__(self) -> None:
        self._due: Dict[LiveReply, None] = {}
        self._timer: Optional[asyncio.TimerHandle] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._next = 0.0  # not before that, on the clock of the loop

    def wake(self, reply: LiveReply) -> None:
        """Wake those who wait for more of `reply`, at the next beat."""
        self._due[reply] = None
        loop = asyncio.get_running_loop()
        if self._timer is None or self._loop is not loop:
            self._loop = loop
            self._timer = loop.call_at(max(self._next, loop.time()), self._beat)

    def aclose(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._due.clear()

    def _beat(self) -> None:
        due, self._due, self._timer = self._due, {}, None
        woken = sum(reply.awaited for reply in due)
        for reply in due:
            reply.wake()
        if self._loop is not None:
            pause = min(LONGEST_PAUSE, woken * PAUSE_PER_READER)
            self._next = self._loop.time() + pause

"""How late an event loop is: what blocks it makes every stream of the process wait."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import List, Optional, Sequence

SECONDS = 0.5
"""How often it is looked at."""


class Lag:
    """Counts in `histogram`, which has these `bounds`, how late a timer fires.

    It begins in the event loop in which `start` is called, and goes on until `stop`.
    """

    def __init__(self, histogram: List[float], bounds: Sequence[float]) -> None:
        self.loop: Optional[asyncio.AbstractEventLoop] = None
        self._histogram = histogram
        self._bounds = bounds
        self._timer: Optional[asyncio.TimerHandle] = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at this event loop from now on, and at no other."""
        self.stop()
        self.loop = loop
        self._wait(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + SECONDS
        self._timer = loop.call_at(due, self._fire, loop, due)

    def _fire(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        late = max(0.0, loop.time() - due)
        self._histogram[bisect_left(self._bounds, late)] += 1
        self._histogram[-1] += late
        self._wait(loop)

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
        self.loop = self._timer = None

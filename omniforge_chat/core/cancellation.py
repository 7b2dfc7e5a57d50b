"""Whose cancellation was it?

A CancelledError says nothing of its sender. Three may have sent it: the stream itself, which ends a
responder; somebody outside, a server or a host, who ends the request; and the responder, which
awaited something that was cancelled elsewhere. The answers differ: the first is dealt with, the
second has to be passed on, the third is a bug of the responder's.

From Python 3.11 on a task counts how often it was asked to cancel. So a stream counts its own
cancellations, and the rest came from outside. It takes its own back in the end, as the
documentation of `Task.uncancel` asks for. Before 3.11 a task does not tell. This is the only module
that knows which Python runs.

To cancel the future that the task waits for would need no counting, and was tried. But time limits
and task groups within the responder compare the counts: if one of them fell due in the same turn of
the loop, it took the stream's cancellation for its own, and the responder went on.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

COUNTS_CANCELLATIONS = sys.version_info >= (3, 11)
"""Whether a task counts how often it was asked to cancel."""


def cancellations(task: Any) -> int:
    """How often `task` was asked to cancel; 0 before Python 3.11, which does not tell."""
    count: int = task.cancelling() if COUNTS_CANCELLATIONS and task is not None else 0
    return count


class Cancellation:
    """Cancels the task in which it was made, and tells that from the cancellations of others."""

    __slots__ = ("_known", "_ours", "_task")

    def __init__(self) -> None:
        self._task: Any = asyncio.current_task()
        self._ours = 0
        self._known = cancellations(self._task)

    def cancel(self) -> None:
        """Cancel the task; after `take_back` nothing happens."""
        if self._task is not None:
            self._ours += self._task.cancel()

    @property
    def from_outside(self) -> bool:
        """Whether others have cancelled it since `acknowledge`; never before Python 3.11."""
        return cancellations(self._task) - self._ours > self._known

    def acknowledge(self) -> None:
        """The cancellations of others so far are dealt with."""
        self._known = cancellations(self._task) - self._ours

    def retract(self) -> None:
        """Take one of ours back, which has arrived: time limits in the task must not count it."""
        self._ours -= 1
        if COUNTS_CANCELLATIONS:
            self._task.uncancel()

    def take_back(self) -> None:
        """Take our own cancellations back: the task goes on to something else."""
        if COUNTS_CANCELLATIONS:
            for _ in range(self._ours):
                self._task.uncancel()
        self._task = None  # a cancelled task keeps its traceback, and so whoever has made this

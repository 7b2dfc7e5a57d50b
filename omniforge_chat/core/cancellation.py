"""Whose cancellation was it?

A CancelledError says nothing of its sender. Three may have sent it: the stream itself, which ends a
responder; somebody outside, a server or a host, who ends the request; and the responder, which
awaited something that was cancelled elsewhere. The answers differ: the first is dealt with, the
second has to be passed on, the third is a bug of the responder's.

The stream's own cancellation never goes by way of `Task.cancel` (driver.py). So each time that the
task was asked to cancel, it was somebody outside, and from Python 3.11 on the task counts that.
Before 3.11 it does not tell. This is the only module that knows which Python runs.
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


class OutsideCancellation:
    """Tells whether others have asked the current task to cancel since the last look."""

    __slots__ = ("_known", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._known = cancellations(self._task)

    @property
    def came(self) -> bool:
        """Whether there was one that nobody has dealt with; never before Python 3.11."""
        return cancellations(self._task) > self._known

    def acknowledge(self) -> None:
        """It is dealt with."""
        self._known = cancellations(self._task)

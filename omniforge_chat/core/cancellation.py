"""Cancelling a task that others may cancel as well."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

COUNTS_CANCELS = sys.version_info >= (3, 11)
"""Whether a task counts how often it was asked to cancel. Where not, `interfered` is never true."""


class Canceller:
    """Cancels the task that was running at `attach`, and tells that from what others do to it."""

    __slots__ = ("_known", "_ours", "_task")

    def __init__(self) -> None:
        self._task: Any = None
        self._ours = 0
        self._known = 0  # how many cancellations of others have been dealt with

    def attach(self) -> None:
        """From now on it is about the current task. What was done to it before does not count."""
        self._task = asyncio.current_task()
        self.acknowledge()

    def cancel(self) -> None:
        """Cancel the task."""
        self._ours += self._task.cancel()

    @property
    def interfered(self) -> bool:
        """Whether others have cancelled the task, and nobody has dealt with that yet."""
        return self._others() > self._known

    def acknowledge(self) -> None:
        """What others have done so far is dealt with."""
        self._known = self._others()

    def detach(self) -> None:
        """Take our own cancellations back, as the documentation of `Task.uncancel` asks for."""
        if COUNTS_CANCELS:
            for _ in range(self._ours):
                self._task.uncancel()
        self._ours = 0

    def _others(self) -> int:
        return (
            self._task.cancelling() - self._ours if COUNTS_CANCELS and self._task is not None else 0
        )

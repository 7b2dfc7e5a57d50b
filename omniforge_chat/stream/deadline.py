"""Waits of a request before its stream begins: for its body, and for what was said before."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, Coroutine, Optional, TypeVar

from ..core.driver import drive
from ..errors import ShuttingDown
from .lifecycle import Lifecycle

T = TypeVar("T")


class Patience:
    """Lets one coroutine run for at most `seconds`, or until the drain of `lifecycle` has ended.

    `late` makes the exception that is raised when the time is over. Most coroutines have nothing to
    wait for, and then neither a timer nor a scope is made.
    """

    def __init__(
        self,
        seconds: float,
        late: Callable[[float], Exception],
        lifecycle: Optional[Lifecycle] = None,
    ) -> None:
        self._seconds = seconds
        self._late = late
        self._lifecycle = lifecycle

    # What it has once there was a wait.
    _task: Optional[asyncio.Task[Any]] = None
    _timer: Optional[asyncio.TimerHandle] = None
    _given_up: Optional[Exception] = None

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine`, which is cancelled where there is no time for it.

        Raises what `late` makes, ShuttingDown, or what `coroutine` raises.
        """
        try:
            return await drive(coroutine, self._before_wait)
        except asyncio.CancelledError:
            if self._given_up is None:
                raise
            uncancel = getattr(self._task, "uncancel", None)
            if uncancel is not None and uncancel() > 0:
                raise  # somebody else has cancelled it as well
            raise self._given_up from None
        finally:
            if self._timer is not None:
                self._timer.cancel()
                if self._lifecycle is not None:
                    self._lifecycle.closed(self)

    def _before_wait(self) -> None:
        if self._timer is None:
            self._task = asyncio.current_task()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds, self._time_is_up)
            if self._lifecycle is not None:
                self._lifecycle.opened(self)

    def _time_is_up(self) -> None:
        self._give_up(self._late(self._seconds))

    def shut_down(self) -> None:
        """Wait no longer: the drain has ended."""
        self._give_up(ShuttingDown("Server is shutting down"))

    def _give_up(self, error: Exception) -> None:
        if self._given_up is None and self._task is not None:
            self._given_up = error
            self._task.cancel()

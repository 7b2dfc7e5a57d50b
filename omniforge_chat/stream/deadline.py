"""A wait before the stream begins, with a limit: for the body, and for the conversation so far."""

from __future__ import annotations

import asyncio
from typing import Callable, Coroutine, Optional, TypeVar

from ..core.cancellation import Cancellation
from ..core.driver import drive
from ..errors import ShuttingDown
from .lifecycle import Lifecycle

T = TypeVar("T")


class Deadline:
    """Lets one coroutine run for at most `seconds`, or until the drain of `lifecycle` has ended.

    `late` makes the exception that is raised at the deadline. Most coroutines never wait, and then
    no timer is set.
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

    # Set at the first wait.
    _cancellation: Optional[Cancellation] = None
    _timer: Optional[asyncio.TimerHandle] = None
    _error: Optional[Exception] = None

    async def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """The result of `coroutine`, which is cancelled at the deadline.

        Raises the exception that `late` makes, ShuttingDown, or whatever `coroutine` raises.
        """
        try:
            return await drive(coroutine, self._before_wait)
        except asyncio.CancelledError:
            if self._error is None or (self._cancellation and self._cancellation.from_outside):
                raise
            raise self._error from None
        finally:
            # Its traceback knows this object: they would keep each other.
            self._error = None
            if self._timer is not None and self._cancellation is not None:
                self._timer.cancel()
                self._cancellation.take_back()
                if self._lifecycle is not None:
                    self._lifecycle.closed(self)

    def _before_wait(self) -> None:
        if self._timer is None:
            self._cancellation = Cancellation()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
            if self._lifecycle is not None:
                self._lifecycle.opened(self)

    def _expire(self) -> None:
        self._end(self._late(self._seconds))

    def shut_down(self) -> None:
        """Wait no longer: the drain has ended."""
        self._end(ShuttingDown("Server is shutting down"))

    def _end(self, error: Exception) -> None:
        if self._error is None and self._cancellation is not None:
            self._error = error
            self._cancellation.cancel()

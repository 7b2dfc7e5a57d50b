"""The refused requests of one app: counted, and told in the log without filling it."""

from __future__ import annotations

import asyncio
import logging
from typing import Dict, Optional, Tuple

from ..errors import InternalError, RequestError
from ..logs import logger
from ..observer import Observers, Refusal, Scope, tell

QUIET_SECONDS = 1.0
"""The log gets at most one line about refusals in this time."""


class Refusals:
    """Counts refused requests by code.

    The first one is told at once. Those that follow within QUIET_SECONDS are told together, in one
    line at its end. At DEBUG, each has a line of its own too.
    """

    def __init__(self, observers: Optional[Observers] = None) -> None:
        self._observers = observers or Observers()
        self._refused: Dict[str, Tuple[int, RequestError]] = {}  # the number, and the last one
        # The loop that has our timer. An app may live through several loops.
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    def note(self, error: RequestError, reference: str) -> None:
        """Tell of the request with the id `reference`, which is refused with `error`, at DEBUG."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "request refused request_id=%s status=%s code=%s: %s",
                *(reference, error.status, error.code, _one_line(error.message)),
            )

    def count(
        self,
        error: RequestError,
        reference: str,
        scope: Optional[Scope] = None,
        dialect: str = "",
    ) -> None:
        """Note the request with the id `reference`, which is refused with `error`, and count it.

        `scope` is that of the request, if it came so far; `dialect` that of the chat that it asks.
        """
        hooks = self._observers.chat_refused
        if hooks:
            tell(hooks, Refusal(error, reference, dialect, {} if scope is None else scope))
        if isinstance(error, InternalError):
            return  # the log has its traceback
        self.note(error, reference)
        number, _ = self._refused.get(error.code, (0, None))
        self._refused[error.code] = (number + 1, error)
        if self._loop is None or not self._loop.is_running():
            self._tell_and_wait()

    def _tell_and_wait(self) -> None:
        self._loop = self._timer = None
        if self._refused:
            self._tell()
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(QUIET_SECONDS, self._tell_and_wait)

    def _tell(self) -> None:
        refused, self._refused = self._refused, {}
        parts = [f"{code}={n} ({_one_line(last.message)})" for code, (n, last) in refused.items()]
        # A client's own mistakes are not urgent; that of a Host may be a setting that is missing.
        urgent = any(last.status >= 500 or last.status == 421 for _, last in refused.values())
        logger.log(logging.WARNING if urgent else logging.INFO, "refused: %s", ", ".join(parts))

    def close(self) -> None:
        """Tell those that are not told yet, and leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None
        if self._refused:
            self._tell()


def _one_line(text: str) -> str:
    """`text`, which may quote the client, as one line for a log: cut, and without controls."""
    line = " ".join(text.split())[:300]
    return "".join(character if character.isprintable() else "?" for character in line)

"""Whether a server does what it is asked, and the log's lines about that: one for each change."""

from __future__ import annotations

from time import monotonic
from typing import Set

from ..logs import logger
from ..rules import without_passwords
from .failures import StoreUnavailable

QUIET_SECONDS = 1.0
"""How long nothing may fail before the server counts as back."""


def address_of(url: str) -> str:
    """`url` without user name, password and options, for people."""
    return without_passwords(url).partition("?")[0]


class Health:
    """The state of one server, as the last attempts found it."""

    def __init__(self, url: str) -> None:
        self.available = True
        self.address = address_of(url)
        self._told: Set[str] = set()
        self._began = 0.0
        self._failed = 0.0

    def failed(self, failure: StoreUnavailable) -> None:
        """Something has failed. It is logged if it is new."""
        self._failed = monotonic()
        if self.available:
            self.available = False
            self._began = self._failed
            self._told.clear()
        if failure.kind not in self._told:
            self._told.add(failure.kind)
            logger.error("redis %s: %s", self.address, failure)

    def works(self) -> None:
        """Something that everybody needs has worked."""
        if not self.available and monotonic() - self._failed >= QUIET_SECONDS:
            self.available = True
            seconds = monotonic() - self._began
            logger.warning("redis %s: it is back after %.0f s", self.address, seconds)

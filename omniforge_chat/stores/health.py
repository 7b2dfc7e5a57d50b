"""Whether a server does what it is asked, and the log's lines about that: one for each change."""

from __future__ import annotations

from time import monotonic
from typing import Set

from ..logs import logger
from ..rules import without_passwords
from .failures import StoreUnavailable

QUIET_SECONDS = 1.0
"""How long nothing may fail before the log says that the server is back."""


def address_of(url: str) -> str:
    """`url` without user name, password and options, for people."""
    return without_passwords(url).partition("?")[0]


class Health:
    """The state of one server, as the last attempts found it.

    `available` follows each attempt. The log does so with a delay: a server that does only a part
    of what it is asked would fill it. `product` is its kind; `address` has no password.
    """

    def __init__(self, product: str, address: str) -> None:
        self.available = True
        self.product = product
        self.address = address
        self._told: Set[str] = set()  # the kinds of failures that are in the log
        self._began = 0.0
        self._failed = 0.0

    def failed(self, failure: StoreUnavailable) -> None:
        """Something has failed."""
        self.available = False
        self._failed = monotonic()
        if not self._told:
            self._began = self._failed
        if failure.kind not in self._told:
            self._told.add(failure.kind)
            logger.error("%s %s: %s", self.product, self.address, failure)

    def works(self) -> None:
        """Something that everybody needs has worked."""
        self.available = True
        if self._told and monotonic() - self._failed >= QUIET_SECONDS:
            self._told.clear()
            seconds = monotonic() - self._began
            logger.warning("%s %s: it is back after %.0f s", self.product, self.address, seconds)

"""Idempotency keys, and the replies that were made under them."""

from __future__ import annotations

from hashlib import sha256
from time import monotonic
from typing import Dict, NamedTuple, Optional

from .protocol import Keyed

KEY_SECONDS = 86_400.0
"""How long a key is remembered: longer than its reply, so that a late retry makes no second one."""

MAX_KEYS = 50_000
"""How many keys a process remembers: at most 20 MB."""


def digest(owner: str, key: str) -> bytes:
    """32 bytes for a key of `owner`, however long it is."""
    return sha256(f"{len(owner)}:{owner}{key}".encode("utf-8", "surrogatepass")).digest()


class _Noted(NamedTuple):
    keyed: Keyed
    until: float


class Keys:
    """The keys of a process. The oldest ones go first."""

    def __init__(self, *, limit: int = MAX_KEYS, seconds: float = KEY_SECONDS) -> None:
        self._limit = limit
        self._seconds = seconds
        self._noted: Dict[bytes, _Noted] = {}

    def get(self, owner: str, key: str) -> Optional[Keyed]:
        """The request that was made under a key."""
        self._expire()
        noted = self._noted.get(digest(owner, key))
        return None if noted is None else noted.keyed

    def set(self, owner: str, key: str, keyed: Keyed) -> Optional[Keyed]:
        """Note a request, unless there is one already, which is returned."""
        found = self.get(owner, key)
        if found is None:
            self._noted[digest(owner, key)] = _Noted(keyed, monotonic() + self._seconds)
            self._expire()
        return found

    def clear(self) -> None:
        self._noted.clear()

    def _expire(self) -> None:
        noted, now = self._noted, monotonic()
        while noted:
            oldest = next(iter(noted))
            if len(noted) <= self._limit and noted[oldest].until > now:
                break
            del noted[oldest]

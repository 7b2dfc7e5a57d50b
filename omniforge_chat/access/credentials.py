"""What a request shows to say who asks, and whose that is."""

from __future__ import annotations

from typing import List, Mapping, NamedTuple, Optional, Protocol

from ..models import Caller

LONGEST = 8192
"""A longer key or token is refused without a look at it."""


class Finding(NamedTuple):
    """What was found of a part: `state` is "ok", "warning" or "failed"."""

    state: str
    part: str
    text: str


class Source(Protocol):
    """Where callers are found: keys, or tokens. It is used in several event loops and threads."""

    async def find(self, secret: str) -> Optional[Caller]:
        """Whose `secret` is, or None. Raises as `Credentials.find` does."""

    async def check(self) -> List[Finding]:
        """Look whether all is there that is needed."""

    async def aclose(self) -> None:
        """Close what is open in this event loop."""


def read_secret(headers: Mapping[bytes, bytes]) -> Optional[str]:
    """The key or token in the headers of a request, or None.

    It is in `Authorization: Bearer` (RFC 6750, section 2.1), or else in `x-api-key`, as clients of
    Anthropic's format send it. The names are in lower case. An Authorization of another scheme is
    somebody else's.
    """
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    secret = value.strip() if scheme.lower() == b"bearer" else b""
    return (secret or headers.get(b"x-api-key", b"").strip()).decode("latin-1") or None


class Credentials:
    """All keys and tokens of a service. It may be used in several event loops and threads."""

    def __init__(self, keys: Optional[Source], tokens: Optional[Source]) -> None:
        self._keys = keys
        self._tokens = tokens

    async def find(self, secret: str) -> Optional[Caller]:
        """Whose key or token `secret` is, or None if it is nobody's.

        Raises AccessUnavailable if that cannot be found out now, and Forbidden for somebody who may
        do nothing here.
        """
        if len(secret) > LONGEST:
            return None
        caller = await self._keys.find(secret) if self._keys is not None else None
        if caller is None and self._tokens is not None and secret.count(".") == 2:
            caller = await self._tokens.find(secret)
        return caller

    async def check(self) -> List[Finding]:
        """Look whether all is there that is needed, and whether it is safe."""
        sources = (self._keys, self._tokens)
        return [f for source in sources if source is not None for f in await source.check()]

    async def aclose(self) -> None:
        """Close what is open in this event loop."""
        for source in (self._keys, self._tokens):
            if source is not None:
                await source.aclose()

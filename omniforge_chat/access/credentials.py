"""What a request shows to say who asks, and the owners of that."""

from __future__ import annotations

from typing import List, Mapping, Optional

from ..models import Caller
from ..settings import Settings
from .keys import Keys

LONGEST = 8192
"""A longer key or token is refused without a look at it."""


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
    """All keys of a service. It may be used in several event loops and threads."""

    def __init__(self, keys: Optional[Keys]) -> None:
        self._keys = keys

    @property
    def warnings(self) -> List[str]:
        """What whoever runs the service should know at its start, in a line each."""
        return [*self._keys.warnings] if self._keys is not None else []

    async def find(self, secret: str) -> Optional[Caller]:
        """Who has this key, or None if nobody has.

        Raises AccessUnavailable if that cannot be found out now, and Forbidden for somebody who may
        do nothing here.
        """
        if len(secret) > LONGEST:
            return None
        return await self._keys.find(secret) if self._keys is not None else None

    async def aclose(self) -> None:
        """Close what is open in this event loop."""


def make_credentials(settings: Settings) -> Optional[Credentials]:
    """The keys that `settings` name. None if they name none: nobody is asked then.

    Raises SettingsError for settings that contradict each other, and a file that cannot be used.
    """
    keys = Keys(settings) if settings.api_keys or settings.api_keys_file else None
    return None if keys is None else Credentials(keys)

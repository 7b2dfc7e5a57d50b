"""A request that may be sent twice: the header Idempotency-Key.

The header is that of draft-ietf-httpapi-idempotency-key-header. It says 409 while the first request
is being answered; for a stream it is better to join that one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Mapping, NamedTuple, Optional

from ..errors import InvalidHeader
from ..replay import Keyed

HEADER = b"idempotency-key"
MAX_CHARACTERS = 255
_is_key = re.compile(r'"[ !#-~]{1,255}"|[!#-~][ !#-~]{0,254}').fullmatch


class Attempt(NamedTuple):
    """A request with a key: whose it is, the key, and a digest of what it asks for."""

    owner: str
    key: str
    fingerprint: bytes

    def keyed(self, reply_id: str) -> Keyed:
        """What is noted if this request is answered by that reply."""
        return Keyed(self.fingerprint, reply_id)


def read_attempt(
    headers: Mapping[bytes, bytes], owner: str, path: str, body: bytes
) -> Optional[Attempt]:
    """The attempt that a request to the chat at `path` is, or None if it has no key.

    Raises InvalidHeader. A key may stand in quotation marks, as the draft asks for.
    """
    value = headers.get(HEADER)
    if value is None:
        return None
    key = value.decode("latin-1").strip(" \t")
    if not _is_key(key):
        raise InvalidHeader(
            f"Idempotency-Key: must be 1 to {MAX_CHARACTERS} visible ASCII characters"
        )
    digest = hashlib.sha256(b"%b\n%b" % (path.encode("utf-8", "replace"), body)).digest()
    return Attempt(owner, key.strip('"'), digest)

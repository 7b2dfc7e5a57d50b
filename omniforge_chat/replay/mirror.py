"""A reply of another worker that is read here."""

from __future__ import annotations

import math
from time import monotonic

from .live import Home, LiveReply
from .stored import Begin


class Mirror(LiveReply):
    """What comes of a reply of another worker."""

    __slots__ = ("heard_at", "key", "missing_since", "worker")

    patient = True

    def __init__(self, home: Home, reply_id: str, key: str, begin: Begin, start: int) -> None:
        super().__init__(home, reply_id, begin.conversation_id, begin.owner, start)
        self.key = key
        self.worker = begin.worker
        self.heard_at = monotonic()
        self.missing_since = math.inf

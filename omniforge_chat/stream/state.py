"""When things are due in the life of one stream: heartbeats, deadlines, the end of a patience."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Optional, Tuple

from ..settings import Settings

ATTEMPTS = 3
ATTEMPT_SECONDS = 0.05
"""How often, and how far apart, a responder that refuses to end is cancelled again at most."""


class Due(Enum):
    """What is to be done. The value of a deadline says what did not happen in time."""

    NOTHING = "nothing"
    FIRST_CHUNK = "No token came"
    NEXT_CHUNK = "No further token came"
    END = "The reply did not end"
    HEARTBEAT = "heartbeat"
    STALLED = "the client does not read"
    INSIST = "the responder does not end"


class Timetable:
    """What a stream notes down as it goes along, and what is due because of it.

    All times are of one monotonic clock, in seconds. `quiet_since` is when the last frame was sent,
    and infinite before the first. `sending_since`, `closing_since` (the responder was told to end,
    or cleans up) and `end_at` (its end was decided before it came) are None while they do not hold.
    """

    __slots__ = (
        "attempts",
        "beating",
        "chunks_came",
        "closing_since",
        "end_at",
        "idle_since",
        "limits",
        "quiet_since",
        "sending_since",
        "started",
        "unsent",
    )

    def __init__(self, limits: Settings, now: float) -> None:
        self.limits = limits
        self.started = self.idle_since = now
        self.quiet_since = inf
        self.chunks_came = False
        self.beating = False
        self.sending_since: Optional[float] = None
        self.closing_since: Optional[float] = None
        self.end_at: Optional[float] = None
        self.attempts = 0
        self.unsent = 0  # bytes, at the last look

    def look(self, unsent: int, now: float) -> None:
        """Note that so many bytes of what was sent have not been taken by the client.

        One that has taken something since the last look, if not yet all of a send, has its time
        again; but not once the end is decided, or its slowness would put that off.
        """
        if unsent < self.unsent and self.end_at is None:
            self.sending_since = now
        self.unsent = unsent

    def next(self) -> Tuple[float, Due, float]:
        """When the next thing is due in the present state, what it is, and its limit in seconds."""
        limits = self.limits
        best: Tuple[float, Due, float] = (inf, Due.NOTHING, 0.0)

        def add(what: Due, since: float, seconds: Optional[float]) -> None:
            nonlocal best
            if seconds is not None and since + seconds < best[0]:
                best = (since + seconds, what, seconds)

        if self.closing_since is not None:
            patience = limits.cleanup_timeout + self.attempts * ATTEMPT_SECONDS
            add(Due.INSIST, self.closing_since, patience)
            return best
        if self.end_at is None:
            add(Due.END, self.started, limits.total_timeout)
        if self.sending_since is not None:
            add(Due.STALLED, self.sending_since, limits.send_timeout)
            if self.end_at is not None:
                add(Due.STALLED, max(self.sending_since, self.end_at), limits.cleanup_timeout)
            return best
        if self.end_at is None:
            if self.chunks_came:
                add(Due.NEXT_CHUNK, self.idle_since, limits.idle_timeout)
            else:
                add(Due.FIRST_CHUNK, self.started, limits.first_chunk_timeout)
        if not self.beating:
            add(Due.HEARTBEAT, self.quiet_since, limits.heartbeat_interval)
        return best

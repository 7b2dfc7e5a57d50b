"""Limits that this process counts for itself."""

from __future__ import annotations

from collections import OrderedDict
from time import time
from typing import Callable

import msgspec

from ..models import Allowance
from ..rules import AT_LEAST_ONE, check
from .limits import DAY, Counts, Fields, backlog_after, fields, refusal

MAX_SUBJECTS = 100_000
"""About 30 MB."""

LOOKS = 8
"""How many others each new subject looks at, to find two that can be forgotten. So there are seldom
more of them than are in use, and nobody waits until all have been looked at."""


class _Subject(msgspec.Struct, gc=False):
    """What is counted of one: `backlog` as it was `at` that time, and the `tokens` of a `day`.

    Times are in seconds and days since 1970.
    """

    # A sum of times since 1970 would lose more digits with each chat.
    backlog: float = 0.0
    at: float = 0.0
    streams: int = 0
    readers: int = 0
    day: int = 0
    tokens: int = 0

    def is_at_rest(self, now: float) -> bool:
        """Whether nobody would notice if it were forgotten."""
        is_used = self.streams or self.readers or self.backlog > abs(now - self.at)
        return not (is_used or (self.tokens and self.day == now // DAY))


class MemoryLimiter:
    """A Limiter in this process. It knows at most `max_subjects`: those at rest are forgotten, and
    if there are too many others, one that nobody has looked at for long. `clock` tells the seconds
    since 1970. Raises SettingsError for a limit that makes no sense.
    """

    def __init__(
        self, *, max_subjects: int = MAX_SUBJECTS, clock: Callable[[], float] = time
    ) -> None:
        check("max_subjects", max_subjects, AT_LEAST_ONE)
        self.clock = clock
        self._max_subjects = max_subjects
        self._subjects: OrderedDict[str, _Subject] = OrderedDict()

    def __len__(self) -> int:
        return len(self._subjects)

    async def enter(self, subject: str, allowance: Allowance, *, reads: bool = False) -> MemoryPass:
        """See Limiter."""
        counted = self._subjects.get(subject)
        if counted is None:
            self._make_room()
            counted = self._subjects[subject] = _Subject()
        return MemoryPass(counted, allowance, reads, self.clock)

    async def aclose(self) -> None:
        """See Limiter."""

    def _make_room(self) -> None:
        now, forgotten = self.clock(), 0
        for _ in range(min(LOOKS, len(self._subjects))):
            name = next(iter(self._subjects))
            if self._subjects[name].is_at_rest(now):
                del self._subjects[name]
                forgotten += 1
                if forgotten == 2:
                    return
            else:
                self._subjects.move_to_end(name)
        if len(self._subjects) >= self._max_subjects:
            self._subjects.popitem(last=False)


class MemoryPass:
    """A Pass of a MemoryLimiter. Raises RateLimited if there is no room for it."""

    __slots__ = ("_allowance", "_clock", "_left", "_reads", "_subject", "headers")

    def __init__(
        self, subject: _Subject, allowance: Allowance, reads: bool, clock: Callable[[], float]
    ) -> None:
        self._subject = subject
        self._allowance = allowance
        self._clock = clock
        self._left = False
        self.headers: Fields = self._take(reads)
        self._reads = reads

    async def produce(self) -> None:
        """See Pass."""
        if self._reads and not self._left:
            self.headers = self._take(reads=False)
            self._subject.readers -= 1
            self._reads = False

    def leave(self, tokens: int) -> None:
        """See Pass."""
        if self._left:
            return
        self._left = True
        subject, today = self._subject, int(self._clock() // DAY)
        if self._reads:
            subject.readers -= 1
        else:
            subject.streams -= 1
        if self._allowance.tokens_per_day is not None:
            subject.tokens = tokens + (subject.tokens if subject.day == today else 0)
            subject.day = today

    def _take(self, reads: bool) -> Fields:
        subject, allowance, now = self._subject, self._allowance, self._clock()
        rate, backlog = allowance.rate, 0.0
        if rate is not None:
            backlog = backlog_after(subject.backlog, now - subject.at, rate)
        places = subject.readers if reads else subject.streams
        tokens = subject.tokens if subject.day == now // DAY else 0
        refused = refusal(allowance, reads, Counts(backlog, places, tokens, now))
        if refused is not None:
            raise refused
        if reads:
            subject.readers += 1
        else:
            subject.streams += 1
            if rate is not None:
                backlog += rate.seconds / rate.chats
                subject.backlog, subject.at = backlog, now
        return fields(allowance, reads, backlog, places + 1)

"""What has gone wrong, and when: from that follows what a reply may suffer."""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Iterable, List

BREATH = 0.2

LEASE = 4.5
"""A worker that hangs for longer, in seconds, may be taken for dead. That is a little less than
what other workers wait for, as its last beat may be a moment old."""


class Fault:
    """One of them: its kind, the pid of the worker, if it is about one, and from when to when."""

    def __init__(self, kind: str, pid: int = 0) -> None:
        self.kind = kind
        self.pid = pid
        self.began = monotonic()
        self.ended = inf


KILLED, TERMINATED, HUNG, CUT = "worker killed", "worker terminated", "worker hung", "all cut"
PAUSED, RESTARTED, DISCONNECTED = "redis paused", "redis restarted", "redis disconnected"
LOST_NEWEST, LOST_ALL, FLUSHED = "redis lost its newest writes", "redis lost all", "redis flushed"
FORGOT = "redis forgot its scripts"
STALLED = "all stood still"

_OF_REDIS = {PAUSED, RESTARTED, DISCONNECTED, LOST_NEWEST, LOST_ALL, FLUSHED, FORGOT, STALLED}
_LOSSES = {LOST_NEWEST, LOST_ALL, FLUSHED}


class Record:
    """All faults so far. The times are those of the monotonic clock.

    If it is `volatile`, everything is in one worker, and lost when that ends.
    """

    def __init__(self, *, volatile: bool) -> None:
        self._losses = [*_LOSSES, KILLED, TERMINATED] if volatile else [*_LOSSES]
        self.began = monotonic()
        self.faults: List[Fault] = []

    def add(self, kind: str, pid: int = 0) -> Fault:
        """It begins now."""
        self.faults.append(Fault(kind, pid))
        return self.faults[-1]

    async def watch(self) -> None:
        """Note when this machine has no time for anybody: to a worker Redis seems away then."""
        while True:
            before = monotonic()
            await asyncio.sleep(BREATH)
            if monotonic() - before > 5 * BREATH:
                fault = self.add(STALLED)
                fault.began, fault.ended = before, monotonic()

    def any(self, kinds: Iterable[str], since: float, until: float, pid: int = 0) -> bool:
        """Whether there was one of these, between two times."""
        return any(
            fault.kind in kinds
            and fault.began <= until
            and fault.ended >= since
            and (not pid or fault.pid == pid)
            for fault in self.faults
        )

    def killed(self, pid: int) -> bool:
        """Whether this process ended without any notice."""
        return self.any([KILLED], -inf, inf, pid)

    def terminated(self, pid: int) -> bool:
        """Whether it was told to end."""
        return self.any([TERMINATED], -inf, inf, pid)

    def killed_at(self, pid: int) -> float:
        """When; infinite if it was not."""
        times = [fault.began for fault in self.faults if fault.kind == KILLED and fault.pid == pid]
        return min(times, default=inf)

    def hung(self, pid: int, since: float, until: float) -> bool:
        """Whether it was silent for so long that others may think that it is dead."""
        return any(
            fault.kind == HUNG
            and fault.pid == pid
            and fault.ended >= since
            and min(fault.ended, until) - fault.began > LEASE
            for fault in self.faults
        )

    def lost_data(self, since: float) -> bool:
        """Whether something was lost that was stored before `since`, or later."""
        return self.any(self._losses, since, inf)

    def troubled(self, since: float, until: float) -> bool:
        """Whether something was the matter with Redis."""
        return self.any([*_OF_REDIS], since, until)

    def lines(self, since: float = -inf) -> List[str]:
        """The faults that were not over at `since`, as text."""
        return [
            f"{fault.began - self.began:7.2f} to {fault.ended - self.began:7.2f}  {fault.kind}"
            f"{f' (pid {fault.pid})' if fault.pid else ''}"
            for fault in self.faults
            if fault.ended >= since
        ]

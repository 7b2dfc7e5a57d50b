"""The task that talks with Redis for all replies of a process, in rounds.

Ten times a second everything that is to be sent goes out in one round trip, and never are two on
their way. After a failure, the same is sent again a little later: nobody knows what of it has
arrived, so all of it is such that a second time does no harm. The task ends when nobody has
anything to do.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import Any, List, Optional, Protocol, Sequence

from ..logs import logger
from ..stores import Command, SharedRedis, StoreUnavailable

ROUND_SECONDS = 0.1
HURRY_SECONDS = 0.02
"""The time from a round to the next, and to one that somebody cannot wait for."""

AGAIN_SECONDS = 0.2
"""The time from one that failed to the next."""

CLOSE_SECONDS = 3.0
"""How long the rest may take when the process is to end."""


class Part(Protocol):
    """What takes part in the rounds."""

    @property
    def busy(self) -> bool:
        """Whether there is to be a next round."""

    async def commands(self, worker: str) -> Sequence[Command]:
        """What to send in this round; `worker` is the name of this one."""

    def answered(self, answers: Sequence[Any]) -> None:
        """The answers to it."""

    async def check(self) -> None:
        """What is left to do after a round. Raises StoreUnavailable."""

    def failed(self) -> None:
        """The round has failed: nobody knows what of it has arrived."""


class Pump:
    """Makes rounds for its parts, while one of them is busy."""

    def __init__(self, redis: SharedRedis) -> None:
        self.parts: List[Part] = []
        self.failing_since = math.inf
        self._redis = redis
        self._task: Optional[asyncio.Task[None]] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._next = self._soonest = 0.0  # on the clock of the loop
        self._hurried = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._sleep: Optional[asyncio.Future[None]] = None

    @property
    def healthy(self) -> bool:
        """Whether the last round, if there was one, has not failed."""
        return self.failing_since == math.inf

    @property
    def behind(self) -> float:
        """For how many seconds every round has failed; 0 if the last one has not."""
        return max(0.0, monotonic() - self.failing_since)

    def wake(self) -> None:
        """Somebody is busy."""
        if self._task is None or self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self.failing_since = math.inf
            self._task = self._loop.create_task(self._run(self._loop))

    def hurry(self) -> None:
        """Somebody is busy, and should not have to wait for long."""
        self._hurried = True
        self.wake()
        if self._sleep is not None:
            self._set_timer(self._soonest)

    async def aclose(self) -> None:
        """Let the task make its last rounds, and end it."""
        task = self._task
        if task is not None and self._loop is asyncio.get_running_loop():
            self.hurry()
            await asyncio.wait([task], timeout=CLOSE_SECONDS)
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        task = self._task
        try:
            while any(part.busy for part in self.parts):
                await self._wait(loop)
                await self._round()
                now = loop.time()
                self._soonest = now + (HURRY_SECONDS if self.healthy else AGAIN_SECONDS)
                self._next = max(self._soonest, now + ROUND_SECONDS)
        finally:
            if self._task is task:
                self._task = None
                self.failing_since = math.inf  # nobody would find out that it works again

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sleep = loop.create_future()
        self._set_timer(self._soonest if self._hurried else self._next)
        try:
            await self._sleep
        finally:
            self._sleep, self._hurried = None, False
            if self._timer is not None:
                self._timer.cancel()

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._timer = self._loop.call_at(at, self._wake_up)

    def _wake_up(self) -> None:
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    async def _round(self) -> None:
        try:
            presence = self._redis.presence
            await presence.begin()
            each = [await part.commands(presence.worker) for part in self.parts]
            commands = [command for commands in each for command in commands]
            answers = await self._redis.batch(commands) if commands else []
            for part, sent in zip(self.parts, each):
                part.answered(answers[: len(sent)])
                answers = answers[len(sent) :]
            for part in self.parts:
                await part.check()
            self.failing_since = math.inf
        except StoreUnavailable:  # it is logged already
            self._failed()
        except Exception:
            logger.exception("replies cannot be stored or read")
            self._failed()

    def _failed(self) -> None:
        self.failing_since = min(self.failing_since, monotonic())
        for part in self.parts:
            part.failed()

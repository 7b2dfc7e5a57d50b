"""Limits that several workers count together in Redis, on several machines."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import deque
from time import monotonic
from typing import Any, Callable, Coroutine, Deque, Dict, List, NamedTuple, Optional, Set

from ..errors import LimitsUnavailable
from ..logs import logger
from ..models import Allowance
from ..stores import Command, SharedRedis, StoreFailure, StoreUnavailable
from .limits import Counts, Fields, fields, refusal
from .limits_script import PARTS, enter, hold, leave

PLACE_SECONDS = 30.0
HOLD_SECONDS = 10.0
"""How long a place is held, and how often that is done anew."""

AGAIN_SECONDS = 0.25
"""How often those that have left look whether Redis is back."""

MAX_LEFT = 10_000
"""How many of them wait for that. The places of others come back by themselves."""

BATCH = 500
"""How many commands go out at once: packing more would keep other streams waiting."""

CLOSE_SECONDS = 3.0
QUIET_SECONDS = 60.0
"""How long nothing may fail before a failure is logged again."""


class _Request(NamedTuple):
    """Who asks: the keys of the subject, in the order of PARTS, and a name of its own."""

    keys: List[str]
    allowance: Allowance
    member: str

    def place(self, reads: bool) -> str:
        """The key of the set in which it has a place, or "" if nobody counts these."""
        costs_tokens = self.allowance.tokens_per_day is not None and not reads
        return self.keys[1 + reads] if self.allowance.streams is not None or costs_tokens else ""


class _Left(NamedTuple):
    """One that has left. `again` says that it may have been sent before."""

    request: _Request
    tokens: int
    again: bool = False

    def command(self) -> Command:
        return leave(self.request.keys, self.request.member, self.tokens, again=self.again)


class RedisLimiter:
    """A Limiter in Redis. If that is out of reach, chats pass and are not counted, unless the
    limits are `required`. Close it before `redis`.
    """

    def __init__(self, redis: SharedRedis, *, required: bool = False) -> None:
        self._redis = redis
        self._required = required
        self._numbers = itertools.count()
        self._places: Dict[str, str] = {}  # the keys of the sets, by member
        self._left: Deque[_Left] = deque(maxlen=MAX_LEFT)
        self._tasks: Set[asyncio.Task[None]] = set()
        self._sending: Optional[asyncio.Task[None]] = None  # the one that takes those who leave now
        self._holding: Optional[asyncio.Task[None]] = None
        self._failed_at = -math.inf

    async def enter(self, subject: str, allowance: Allowance, *, reads: bool = False) -> RedisPass:
        """See Limiter."""
        member = f"{self._redis.presence.worker}:{next(self._numbers)}"
        request = _Request(self._redis.keys.subject(subject, *PARTS), allowance, member)
        headers = await self.take(request, "read" if reads else "chat")
        return RedisPass(self, request, reads, headers)

    async def aclose(self) -> None:
        """See Limiter."""
        loop = asyncio.get_running_loop()
        tasks = {task for task in self._tasks if task.get_loop() is loop}
        if self._redis.available:
            sending = tasks - {self._holding}
            if sending:
                await asyncio.wait(sending, timeout=CLOSE_SECONDS)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def take(self, request: _Request, kind: str) -> Fields:
        """Take what a request needs, and return its fields. Raises as `enter` does."""
        reads = kind == "read"
        headers: Fields = ()
        if request.allowance == Allowance():
            return headers
        try:
            headers = await self._take(request, reads, kind)
        except StoreFailure as failure:
            self._failed(failure)
            if self._required:
                self.leave(request, 0)  # nobody knows whether it has its place
                text = "The store of limits cannot be reached now; try again"
                raise LimitsUnavailable(text) from None
        except asyncio.CancelledError:
            self.leave(request, 0)
            raise
        place = request.place(reads)
        if place:
            self._places[request.member] = place
            self._holding = self._working(self._holding, self._hold)
        return headers

    def leave(self, request: _Request, tokens: int) -> None:
        """Give a place back soon, and count the tokens."""
        self._places.pop(request.member, None)
        if request.place(reads=False):
            is_limited = request.allowance.tokens_per_day is not None
            self._left.append(_Left(request, tokens if is_limited else 0))
            self._send_soon()

    async def _take(self, request: _Request, reads: bool, kind: str) -> Fields:
        if not self._redis.available:
            raise StoreUnavailable("UNREACHABLE", "redis is out of reach")
        if self._left:
            await asyncio.sleep(0)  # those who have just left go first
        passes, times, places, tokens = await self._redis.run(
            enter(request.keys, kind, PLACE_SECONDS, request.member, request.allowance)
        )
        backlog, now = map(float, times.split())
        refused = refusal(request.allowance, reads, Counts(backlog, places, tokens, now))
        if refused is not None and not passes:
            raise refused
        rate = request.allowance.rate
        if rate is not None and not reads:
            backlog += rate.seconds / rate.chats
        return fields(request.allowance, reads, backlog, places + 1)

    def _failed(self, failure: StoreFailure) -> None:
        if monotonic() - self._failed_at > QUIET_SECONDS:
            what = "are refused, as limits cannot be kept" if self._required else "are not limited"
            logger.error("chats %s: %s", what, failure)
        self._failed_at = monotonic()

    def _working(
        self, task: Optional[asyncio.Task[None]], work: Callable[[], Coroutine[Any, Any, None]]
    ) -> asyncio.Task[None]:
        """A task of this event loop that does `work`: this one, if it does still."""
        loop = asyncio.get_running_loop()
        if task is None or task.done() or task.get_loop() is not loop:
            task = loop.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return task

    def _send_soon(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._sending = self._working(self._sending, self._send)

    async def _send(self) -> None:
        if not self._redis.available:
            await asyncio.sleep(AGAIN_SECONDS)
        # Who leaves from now on goes with the next. None waits for the answer to another: else the
        # next chat of its caller could be faster.
        self._sending = None
        if not self._redis.available:
            self._send_soon()
            return
        batch = [self._left.popleft() for _ in range(min(BATCH, len(self._left)))]
        try:
            await self._redis.batch([left.command() for left in batch])
        except StoreUnavailable as failure:
            self._left.extendleft(
                left._replace(again=left.again or failure.in_doubt) for left in reversed(batch)
            )
        if self._left:
            self._send_soon()

    async def _hold(self) -> None:
        while self._places:
            await asyncio.sleep(HOLD_SECONDS)
            sets: Dict[str, List[str]] = {}
            for member, key in self._places.items():
                sets.setdefault(key, []).append(member)
            keys = [*sets]
            with contextlib.suppress(StoreUnavailable):
                for start in range(0, len(keys), BATCH):
                    await self._redis.batch(
                        [self._held(key, sets[key]) for key in keys[start : start + BATCH]]
                    )

    def _held(self, key: str, members: List[str]) -> Command:
        # Some may have left while others were sent.
        still = [member for member in members if member in self._places]
        return hold(key, PLACE_SECONDS, still)


class RedisPass:
    """A Pass of a RedisLimiter."""

    def __init__(
        self, limiter: RedisLimiter, request: _Request, reads: bool, headers: Fields
    ) -> None:
        self._limiter = limiter
        self._request = request
        self._reads = reads
        self._left = False
        self.headers = headers

    async def produce(self) -> None:
        """See Pass."""
        if self._reads and not self._left:
            self.headers = await self._limiter.take(self._request, "produce")
            self._reads = False

    def leave(self, tokens: int) -> None:
        """See Pass."""
        if not self._left:
            self._left = True
            self._limiter.leave(self._request, tokens)

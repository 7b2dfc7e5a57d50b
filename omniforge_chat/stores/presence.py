"""This process as others see it, and the death of others.

A worker is one event loop of one process. It has a random name, and shows its life in two ways:

- A key that it sets every BEAT_SECONDS, and that lives for LEASE_SECONDS.
- A subscription to a channel of its own. The server ends that as soon as the connection breaks,
  which is at once if the process dies. Messages come over it, too.

A worker looks dead if its key is gone, or if nobody is subscribed and its key is older than two
beats. The first is a process that hangs or has lost the server, the second one that was killed.

All workers look dead when the server was restarted, emptied, or has slept for longer than a lease.
So whoever looks must know that this has not just happened. It knows by its own key and its own
subscription: each look first sets that key, and is told whether it was there. If it was not, if the
subscription has ended, if a beat has come late, or if any command has failed, then for
STEADY_SECONDS nobody is declared dead: in that time the others show their life again.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import secrets
from time import monotonic
from typing import Any, Callable, Dict, List, Optional, Sequence

from ..logs import logger
from .commands import Command, Script, command
from .driver import Driver
from .failures import StoreUnavailable, demanded
from .health import Health
from .inspection import Finding, inspect
from .keys import Keys
from .line import Line

BEAT_SECONDS = 0.25
LEASE_SECONDS = 5.0
STEADY_SECONDS = 1.5
PING_SECONDS = 3.0
"""How long the subscription may be silent before the server is asked whether it is still there."""

CANCEL_SECONDS = 0.1
"""How long a task may take to end before it is cancelled again."""

_BEAT = Script("return redis.call('SET', KEYS[1], '1', 'PX', ARGV[1], 'GET')")
"""A script, as nothing works without the right to call one, and only then the server is back."""


class Verdict(enum.Enum):
    """What is known about another worker."""

    ALIVE = "alive"
    DEAD = "dead"
    UNSURE = "unsure"
    """Ask again a little later: within STEADY_SECONDS this changes."""


class Presence:
    """One worker, in the event loop that runs when this is made.

    `worker` is its name. `hear` is called with each message that others `send` to it.
    """

    def __init__(
        self,
        line: Line,
        driver: Driver,
        keys: Keys,
        health: Health,
        hear: Callable[[str], None],
    ) -> None:
        self.worker = secrets.token_urlsafe(9)
        self._line = line
        self._driver = driver
        self._keys = keys
        self._health = health
        self._hear = hear
        self._finding: Optional[Finding] = None
        self._tasks: List[asyncio.Task[None]] = []
        self._beating: Optional[asyncio.Task[None]] = None
        self._beaten = -math.inf
        self._steady_since = math.inf

    async def begin(self) -> None:
        """Return as soon as others can see that this worker lives.

        Call it before each write that names the worker: if it has begun, that costs nothing. Raises
        StoreUnavailable.
        """
        self.watch()
        if monotonic() - self._beaten > LEASE_SECONDS / 2:
            await self._beat()

    def watch(self) -> None:
        """Begin, if it has not begun, without waiting for that."""
        if not self._tasks:
            self._tasks = [*map(asyncio.ensure_future, (self._live(), self._listen()))]

    def doubt(self) -> None:
        """The server has failed somebody here: it may have lost what it knew of others."""
        self._steady_since = math.inf

    async def verdicts(self, workers: Sequence[str]) -> Dict[str, Verdict]:
        """Whether others live, in one round trip. Raises StoreUnavailable."""
        await self.begin()
        keys = [self._keys.worker(worker) for worker in workers]
        known, subscribers, *lives = await self._send(
            self._beat_command(),
            command("PUBSUB", "NUMSUB", *keys),
            *(command("PTTL", key) for key in keys),
        )
        self._beat_answered(known)
        return {
            worker: Verdict.ALIVE if worker == self.worker else self._verdict(count, life)
            for worker, count, life in zip(workers, subscribers[1::2], lives)
        }

    async def send(self, worker: str, message: str) -> bool:
        """Send a message to another worker. Whether anybody has got it; raises StoreUnavailable."""
        [heard] = await self._send(command("PUBLISH", self._keys.worker(worker), message))
        return bool(heard)

    async def aclose(self) -> None:
        """End this worker: the others see at once that it is gone."""
        tasks = {*self._tasks, *filter(None, [self._beating])}
        while tasks:
            for task in tasks:
                task.cancel()
            # `wait_for`, by which redis-py connects, may lose one before Python 3.12.
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        if self._beaten > -math.inf and self._health.available:
            with contextlib.suppress(StoreUnavailable):
                await self._line.send([command("DEL", self._keys.worker(self.worker))])

    def _verdict(self, subscribers: int, life: int) -> Verdict:
        age = LEASE_SECONDS - life / 1000
        if life >= 0 and subscribers > 0:
            return Verdict.ALIVE
        steady = monotonic() - self._steady_since > STEADY_SECONDS
        return Verdict.DEAD if steady and (life < 0 or age > 2 * BEAT_SECONDS) else Verdict.UNSURE

    def _beat_command(self) -> Command:
        return _BEAT([self._keys.worker(self.worker)], int(LEASE_SECONDS * 1000))

    def _beat_answered(self, known: Optional[bytes]) -> None:
        now = monotonic()
        if known is None or now - self._beaten > 4 * BEAT_SECONDS or self._steady_since > now:
            self._steady_since = now
        self._beaten = now
        self._health.works()

    def _failed(self, failure: StoreUnavailable) -> None:
        self.doubt()
        self._health.failed(failure)

    async def _beat(self) -> None:
        """One beat, for all who wait for one. Raises StoreUnavailable."""
        if self._beating is None:
            self._beating = asyncio.ensure_future(self._beat_now())
            self._beating.add_done_callback(self._beat_is_over)
        await asyncio.shield(self._beating)

    def _beat_is_over(self, task: asyncio.Task[None]) -> None:
        self._beating = None
        if not task.cancelled():
            task.exception()  # those who wait have it, if anybody does

    async def _beat_now(self) -> None:
        if self._finding is None:
            try:
                found = self._finding = await inspect(self._line, self._keys, self.worker)
            except StoreUnavailable as failure:
                self._failed(failure)
                raise
            logger.info("redis %s: %s %s", self._health.address, found.product, found.version)
            for warning in found.warnings:
                logger.warning("redis %s: %s", self._health.address, warning)
        [known] = await self._send(self._beat_command())
        self._beat_answered(known)

    async def _send(self, *commands: Command) -> List[Any]:
        try:
            return demanded(await self._line.send(commands))
        except StoreUnavailable as failure:
            self._failed(failure)
            raise

    async def _live(self) -> None:
        try:
            while True:
                with contextlib.suppress(StoreUnavailable):
                    await self._beat()
                await asyncio.sleep(BEAT_SECONDS if self._finding else 4 * BEAT_SECONDS)
        finally:
            # The event loop may end without an aclose.
            await self._line.aclose()

    async def _listen(self) -> None:
        while True:
            connection = self._driver.connection()
            try:
                await connection.connect()
                await connection.send_command("SUBSCRIBE", self._keys.worker(self.worker))
                await self._read(connection)
            except self._driver.errors:
                pass  # the beats tell
            except Exception:
                logger.exception("redis %s: the subscription failed", self._health.address)
            finally:
                self.doubt()  # the subscriptions of all may have ended with it
                await self._driver.close(connection)
            await asyncio.sleep(BEAT_SECONDS)

    async def _read(self, connection: Any) -> None:
        """Read what comes over the subscription, until the server is silent."""
        asked = False
        while True:
            answer = await connection.read_response(timeout=PING_SECONDS)
            if answer is None:
                if asked:
                    return
                asked = True
                await connection.send_command("PING")
                continue
            asked = False
            if answer[0] == b"subscribe":
                self._steady_since = max(self._steady_since, monotonic())
            elif answer[0] == b"message":
                try:
                    self._hear(answer[2].decode())
                except Exception:  # anybody may send anything
                    logger.exception("redis %s: a bad message", self._health.address)

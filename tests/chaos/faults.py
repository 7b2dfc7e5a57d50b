"""What is done to workers, connections and Redis, and when.

The seed decides what comes, in which order and for how long. In the first third of the time only
workers and connections suffer, in the second only Redis, and in the last both. So in the first two
there are few excuses for a reply that suffers.
"""

from __future__ import annotations

import asyncio
import random
import signal
from time import monotonic
from typing import Awaitable, Callable, List, Optional, Sequence

from .balancer import Balancer
from .record import (
    CUT,
    DISCONNECTED,
    FLUSHED,
    FORGOT,
    HUNG,
    KILLED,
    LOST_ALL,
    LOST_NEWEST,
    PAUSED,
    RESTARTED,
    TERMINATED,
    Fault,
    Record,
)
from .store import Store
from .worker import Worker

Deed = Callable[[], Awaitable[None]]


class Faults:
    """Makes them. Without a store only workers and connections suffer."""

    def __init__(
        self,
        seed: int,
        record: Record,
        workers: Sequence[Worker],
        balancer: Balancer,
        store: Optional[Store],
    ) -> None:
        # One for each kind, as the two go on side by side.
        self._dice = random.Random(f"{seed}-workers")
        self._dice_of_redis = random.Random(f"{seed}-redis")
        self._record = record
        self._workers = workers
        self._balancer = balancer
        self._store = store

    async def run(self, seconds: float) -> None:
        """Return when the time is up, and all are up again."""
        now = monotonic()
        thirds = [now + seconds * number / 3 for number in range(1, 4)]
        workers = self._of_workers()
        if self._store is None:
            await self._repeat(self._dice, workers, thirds[2])
            return
        redis = self._of_redis(self._store)
        await self._repeat(self._dice, workers, thirds[0])
        await self._repeat(self._dice_of_redis, redis, thirds[1])
        await asyncio.gather(
            self._deploy_and_repeat(workers, thirds[2]),
            self._repeat(self._dice_of_redis, redis, thirds[2]),
        )

    async def _deploy_and_repeat(self, deeds: List[Deed], until: float) -> None:
        for worker in self._workers:  # a new version, on one after the other
            await self._end(worker)
        await self._repeat(self._dice, deeds, until)

    async def _repeat(self, dice: random.Random, deeds: List[Deed], until: float) -> None:
        """Do each of them once, and then any, until the time is up."""
        left = dice.sample(deeds, len(deeds))
        while monotonic() < until:
            pause = dice.choice([0.3, 1.0, 3.0])  # after the last, all is as if nothing had been
            await asyncio.sleep(min(pause, max(0.0, until - monotonic())))
            await (left.pop() if left else dice.choice(deeds))()

    # Workers and connections

    def _of_workers(self) -> List[Deed]:
        return [self._kill, self._kill, self._terminate, self._hang, self._cut]

    async def _kill(self) -> None:
        worker = self._dice.choice(self._workers)
        fault = self._record.add(KILLED, worker.pid)
        await asyncio.to_thread(worker.kill)
        await self._start(worker, fault)

    async def _terminate(self) -> None:
        await self._end(self._dice.choice(self._workers))

    async def _end(self, worker: Worker) -> None:
        fault = self._record.add(TERMINATED, worker.pid)
        worker.up = self._dice.random() < 0.5  # some balancers are told before
        await asyncio.to_thread(worker.stop)
        await self._start(worker, fault)

    async def _start(self, worker: Worker, fault: Fault) -> None:
        await asyncio.sleep(self._dice.choice([0.0, self._dice.random()]))
        await asyncio.to_thread(worker.start)
        fault.ended = monotonic()

    async def _hang(self) -> None:
        worker = self._dice.choice(self._workers)
        seconds = self._dice.choice([self._dice.random(), 2.0, 6.0])
        fault = self._record.add(HUNG, worker.pid)
        worker.pause()
        await asyncio.sleep(seconds)
        worker.resume()
        fault.ended = monotonic()

    async def _cut(self) -> None:
        fault = self._record.add(CUT)
        self._balancer.cut()
        fault.ended = monotonic()

    # Redis

    def _of_redis(self, store: Store) -> List[Deed]:
        dice = self._dice_of_redis

        def deed(kind: str, act: Callable[[], None]) -> Deed:
            async def do() -> None:
                fault = self._record.add(kind)
                await asyncio.to_thread(act)
                fault.ended = monotonic()

            return do

        async def pause() -> None:
            fault = self._record.add(PAUSED)
            store.pause()
            await asyncio.sleep(dice.choice([dice.random(), dice.uniform(0.0, 4.0)]))
            store.resume()
            fault.ended = monotonic()

        ends = (signal.SIGTERM, signal.SIGKILL)
        return [
            pause,
            deed(RESTARTED, lambda: store.come_back(dice.uniform(0, 1.5), dice.choice(ends))),
            deed(DISCONNECTED, store.disconnect),
            deed(LOST_NEWEST, lambda: store.lose_newest(dice.uniform(0.05, 1.5))),
            deed(LOST_ALL, lambda: store.lose_all(dice.uniform(0, 1))),
            deed(FLUSHED, store.flush),
            deed(FORGOT, store.forget_scripts),
        ]

"""Chaos, from the command line. Exit status 1 if something was not as it should be."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import random
import re
import sys
import tempfile
from collections import defaultdict
from math import inf
from pathlib import Path
from time import monotonic
from typing import Callable, DefaultDict, Dict, List, Optional

from .balancer import Balancer
from .faults import Faults
from .journal import Journal
from .judge import Judge
from .reader import LONGEST, Reader
from .record import Record
from .rest import Rest
from .rest import until as waited
from .run import GRACE, World
from .store import Store
from .worker import Worker

MEMORY = "memory"
"""The name of no server: one worker keeps everything, and loses it when it ends."""

SPARE = 3 * LONGEST
"""Seconds after the time is up, within which it ends in every case."""

SHOWN = 3
"""So many troubles of each kind are shown."""


def _variables(store: Optional[Store], journal: Path) -> Dict[str, str]:
    kind = MEMORY if store is None else "redis"
    address = {} if store is None else {"REDIS_URL": store.url}
    return {
        **address,
        "CHAT_RESPONDER": "tests.chaos.responder:respond",
        "CHAOS_JOURNAL": str(journal),
        "CHAT_REPLAY": kind,
        "CHAT_REPLAY_GRACE": str(GRACE),
        "CHAT_REPLAY_KEEP": "3600",
        "CHAT_REPLAY_TOTAL_BYTES": str(1024**3),
        "CHAT_HISTORY": kind,
        "CHAT_HISTORY_CONVERSATIONS": "1000000",
        "CHAT_HISTORY_TOTAL_BYTES": str(1024**3),
        "CHAT_HISTORY_BYTES": str(16 * 1024**2),
        "CHAT_HISTORY_MESSAGES": "10000",
        "CHAT_THOUGHTS": "on",
        "CHAT_HEARTBEAT_INTERVAL": "1",
        "CHAT_DRAIN_TIMEOUT": "1",
    }


class Chaos:
    """One run of it all: `world` has what came of it, and `record` what was done."""

    def __init__(self, seed: int, store: Optional[Store], directory: Path) -> None:
        self._seed = seed
        self._store = store
        self._journal = Journal(directory / "journal")
        variables = _variables(store, self._journal.path)
        count = 1 if store is None else 4
        self._workers = [Worker(f"worker {number}", variables) for number in range(count)]
        self.record = Record(volatile=store is None)
        self.world = World(seed)

    async def run(self, seconds: float, readers: int) -> None:
        """Do it. All processes have ended then."""
        workers = self._workers
        try:
            await self._each(Worker.start)
            async with Balancer(lambda: [each.port for each in workers if each.up]) as balancer:
                self.world.port = balancer.port
                running = self._run(seconds, readers, balancer)
                try:
                    await asyncio.wait_for(running, seconds + SPARE)
                except asyncio.TimeoutError:
                    self.world.trouble("it did not come to an end")
            await self._each(Worker.stop)
        finally:
            for worker in workers:
                worker.close()
        for worker in workers:
            for complaint in worker.complaints():
                self.world.trouble(complaint)
            print(f"{worker.name} ended with {worker.statuses}")

    async def _each(self, act: Callable[[Worker], None]) -> None:
        await asyncio.gather(*(asyncio.to_thread(act, worker) for worker in self._workers))

    async def _run(self, seconds: float, readers: int, balancer: Balancer) -> None:
        rest = Rest(self.world, self._workers, self._store)
        await rest.measure()
        self.record.began = monotonic()
        until = monotonic() + seconds
        faults = Faults(self._seed, self.record, self._workers, balancer, self._store)
        living = [Reader(number, self.world).live(until) for number in range(readers)]
        watching = asyncio.ensure_future(self.record.watch())
        await asyncio.gather(faults.run(seconds), *living)
        watching.cancel()
        pids = {worker.pid for worker in self._workers}

        def is_quiet() -> bool:
            return not any(each.ended == inf and each.pid in pids for each in self._journal.read())

        if not await waited(is_quiet, LONGEST):
            self.world.trouble("replies go on that nobody reads")
        judge = Judge(self.world, self.record, self._journal.read())
        judge.judge()
        await rest.check(judge)


def report(chaos: Chaos, again: str) -> None:
    """Print what came of it."""
    for name, count in sorted(chaos.world.counts.items()):
        print(f"{count:8} {name}")
    kinds: DefaultDict[str, List[str]] = defaultdict(list)
    for trouble in chaos.world.troubles:
        first, _, _ = trouble.partition("\n")
        kinds[re.sub(r"[0-9a-f-]{8,}|\d+|'.*'", "*", first)].append(trouble)
    for kind, troubles in kinds.items():
        print(f"\n=== {len(troubles)} times: {kind}")
        print("\n\n".join(troubles[:SHOWN]))
    if kinds:
        print("\n=== what was done")
        print("\n".join(chaos.record.lines()))
        print(f"{len(chaos.world.troubles)} troubles; again: {again}")
    else:
        print("all as it should be")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--server", default="redis", help="redis, valkey-8, valkey-9, or memory")
    parser.add_argument("--readers", type=int, default=200)
    arguments = parser.parse_args()
    options = " ".join(f"--{name} {value}" for name, value in vars(arguments).items())
    again = f"{sys.executable} -m tests.chaos {options}"
    print(again, flush=True)
    faulthandler.dump_traceback_later(arguments.seconds + 2 * SPARE, exit=True)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = None
        if arguments.server != MEMORY:
            store = stack.enter_context(Store(arguments.server))
        chaos = Chaos(arguments.seed, store, directory)
        asyncio.run(chaos.run(arguments.seconds, arguments.readers))
    report(chaos, again)
    return 1 if chaos.world.troubles else 0


if __name__ == "__main__":
    sys.exit(main())

"""python -m tests.bench.histories: how long a turn waits for each store of conversations.

Eight chats are under way at once. Each begins a turn and ends it, over and over, in conversations
of up to 20 turns, with a reply of 1,000 characters. The times are those that a chat waits; CPU is
that of this process for a whole turn, and a server has its own. The servers are on this machine,
without fsync, and the file is in the directory for temporary ones. The machine must be quiet.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Iterator, List, Tuple

from ..support.histories import (
    InMemory,
    InPostgres,
    InRedis,
    InSQLite,
    Processes,
    Store,
    Stores,
    said,
    turn,
)
from ..support.stores import PostgresServer, RedisServer
from ..support.stores.redis import program

CHATS, TURNS, TURNS_IN_ALL = 8, 20, 300
REPLY = "word " * 200


async def talk(history: Store, names: Iterator[int], waits: List[Tuple[float, float]]) -> None:
    """One chat after the other; how long each waited for its beginning, and for its end."""
    for number in range(TURNS_IN_ALL):
        if number % TURNS == 0:
            name = str(next(names))
        claim = turn(name)
        began = time.perf_counter()
        await history.begin_turn(claim)
        begun = time.perf_counter()
        await history.end_turn(claim, said("How do you do?", REPLY))
        waits.append((begun - began, time.perf_counter() - begun))


def measure(name: str, stores: Stores) -> None:
    processes = Processes(stores)

    async def chats() -> None:
        history, names = processes(), count()
        await asyncio.gather(*(talk(history, names, []) for _ in range(CHATS)))  # to warm up
        waits: List[Tuple[float, float]] = []
        before = time.process_time()
        await asyncio.gather(*(talk(history, names, waits) for _ in range(CHATS)))
        used = (time.process_time() - before) / len(waits)
        begins, ends = (sorted(each) for each in zip(*waits))
        figures = [
            f"{what} p50 {times[len(times) // 2] * 1e3:.2f} ms"
            f" p99 {times[len(times) * 99 // 100] * 1e3:.2f} ms"
            for what, times in (("begin", begins), ("end", ends))
        ]
        print(f"{name:10} {', '.join(figures)}, CPU {used * 1e6:.0f} µs a turn", flush=True)

    processes.run(chats)


def main() -> None:
    measure("memory", InMemory())
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        measure("sqlite", InSQLite(Path(directory)))
        measure("postgresql", InPostgres(stack.enter_context(PostgresServer())))
        measure("redis", InRedis(stack.enter_context(RedisServer(program("redis")))))


if __name__ == "__main__":
    main()

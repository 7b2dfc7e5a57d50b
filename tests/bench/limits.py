"""python -m tests.bench.limits: what it costs to count how much each caller has.

A chat enters and leaves, with one limit or with all three. CPU is that of this process for both, at
its best of some rounds, and the wait is the median of that for `enter`, with 8 chats at once. The
server, Redis, is on this machine, and has figures of its own. The machine must be quiet.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from typing import List

from omniforge_chat.access import Limiter
from omniforge_chat.access.limits_memory import MAX_SUBJECTS, MemoryLimiter
from omniforge_chat.access.limits_redis import RedisLimiter
from omniforge_chat.models import Allowance, Rate
from omniforge_chat.stores import SharedRedis

from ..support.stores import RedisServer
from ..support.stores.redis import program

RATE = Rate(10**6, 1)
ALLOWANCES = {"rate": Allowance(RATE), "all": Allowance(RATE, 10**3, 10**9)}
CHATS, TURNS, ROUNDS = 8, 1_000, 5


async def chat(limiter: Limiter, allowance: Allowance, subject: str, waits: List[float]) -> None:
    for _ in range(TURNS):
        began = time.perf_counter()
        entered = await limiter.enter(subject, allowance)
        waits.append(time.perf_counter() - began)
        entered.leave(5)


async def measure(name: str, limiter: Limiter) -> None:
    for limited, allowance in ALLOWANCES.items():
        used: List[float] = []
        waits: List[float] = []
        for _ in range(ROUNDS):
            waits = []
            before = time.process_time()
            await asyncio.gather(
                *(chat(limiter, allowance, f"id:{n}", waits) for n in range(CHATS))
            )
            used.append((time.process_time() - before) / len(waits))
        wait = sorted(waits)[len(waits) // 2]
        print(
            f"{name:6} {limited:4} CPU {min(used) * 1e6:.1f} µs, enter p50 {wait * 1e3:.3f} ms",
            flush=True,
        )


async def fill(limiter: MemoryLimiter) -> None:
    """Print the memory that all callers take whom it knows."""
    tracemalloc.start()
    for number in range(MAX_SUBJECTS):
        entered = await limiter.enter(
            f"address:10.0.{number >> 8}.{number & 255}", ALLOWANCES["all"]
        )
        entered.leave(5)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"memory of {len(limiter):,} callers {taken / 1e6:.1f} MB", flush=True)


async def main() -> None:
    await measure("memory", MemoryLimiter())
    await fill(MemoryLimiter())
    with RedisServer(program("redis")) as server:
        redis = SharedRedis(server.url, "bench:")
        limiter = RedisLimiter(redis)
        await measure("redis", limiter)
        await limiter.aclose()
        await redis.aclose()
        called = server.client.info("commandstats")["cmdstat_evalsha"]
        print(f"in the server: {called['usec_per_call']} µs a call")


if __name__ == "__main__":
    asyncio.run(main())

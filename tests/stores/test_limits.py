"""What each store of limits does alike, and several workers with one of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
from typing import Any, AsyncIterator, Callable, List, Tuple, Union

import pytest

from omniforge_chat.access import Limiter, Pass
from omniforge_chat.access.limits_memory import MemoryLimiter
from omniforge_chat.access.limits_redis import RedisLimiter
from omniforge_chat.errors import RateLimited
from omniforge_chat.models import Allowance, Rate
from omniforge_chat.stores import SharedRedis

from ..support.stores import RedisServer
from ..support.stores.redis import SERVERS
from ..support.stores.shared import process, until

Servers = Callable[[str], RedisServer]

DAY = 86_400
"""The seconds of a rate that brings nothing back while a test runs."""

ALL = Allowance(Rate(50, DAY), streams=50, tokens_per_day=50_000)


@contextlib.asynccontextmanager
async def limiters(store: str, servers: Servers, number: int = 2) -> AsyncIterator[List[Limiter]]:
    """So many workers with one store; in memory they are one."""
    if store == "memory":
        yield [MemoryLimiter()] * number
        return
    prefix = f"{secrets.token_hex(4)}:"
    redises = [SharedRedis(servers(store).url, prefix) for _ in range(number)]
    made = [RedisLimiter(redis) for redis in redises]
    try:
        yield [*made]
    finally:
        for limiter, redis in zip(made, redises):
            await limiter.aclose()
            await redis.aclose()
        assert not asyncio.all_tasks() - {asyncio.current_task()}


async def entered(limiter: Limiter, allowance: Allowance, **options: Any) -> Union[Pass, str]:
    """The pass of a request, or the reason of its refusal without the seconds."""
    try:
        return await limiter.enter("id:a", allowance, **options)
    except RateLimited as refused:
        return str(refused).partition(";")[0]


@pytest.mark.parametrize("store", ["memory", *SERVERS])
@pytest.mark.parametrize(
    ("allowance", "reads"),
    [
        (Allowance(rate=ALL.rate), False),
        (Allowance(streams=50), False),
        (Allowance(streams=50), True),
        (Allowance(tokens_per_day=50_000), False),
        (ALL, False),
    ],
    ids=["rate", "streams", "readers", "tokens", "all"],
)
def test_a_limit_that_200_requests_race_for_lets_exactly_as_many_pass(
    store: str, redis_servers: Servers, allowance: Allowance, reads: bool
) -> None:
    """At two workers at once: whoever looks first and counts then lets more pass."""

    async def run() -> None:
        async with limiters(store, redis_servers) as workers:
            found = await asyncio.gather(
                *(entered(workers[n % 2], allowance, reads=reads) for n in range(200))
            )
            passes = [each for each in found if not isinstance(each, str)]
            assert len(passes) == 50
            for each in passes:
                each.leave(0)

            async def is_as_before() -> bool:
                again = await entered(workers[0], allowance, reads=reads)
                return isinstance(again, str) == (allowance.rate is not None)

            await until(is_as_before)

    asyncio.run(run())


Outcome = Tuple[str, str]


async def act(limiter: Limiter, allowance: Allowance, moments: random.Random) -> List[str]:
    """Some requests begin, go on and end, by chance; all that a client would see of it."""
    open_passes: List[Pass] = []
    seen: List[str] = []
    for _ in range(80):
        kind = moments.choice(["chat", "read", "produce", "leave", "leave"])
        tokens, which = moments.choice([0, 1, 700, 2_000]), moments.random()
        picked = open_passes[int(which * len(open_passes))] if open_passes else None
        try:
            if kind in ("chat", "read"):
                open_passes.append(await limiter.enter("id:a", allowance, reads=kind == "read"))
                seen.append(str(open_passes[-1].headers))
            elif picked is not None and kind == "produce":
                await picked.produce()
                seen.append(str(picked.headers))
            elif picked is not None:
                picked.leave(tokens)
        except RateLimited as refused:
            seen.append(f"{refused} {refused.headers}")
    # The seconds differ with the time that Redis takes.
    return [re.sub(r"(wait |t=)\d+", r"\1", each) for each in seen]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("rate", [None, Rate(12, DAY)])
@pytest.mark.parametrize("streams", [None, 3])
@pytest.mark.parametrize("tokens", [None, 12_000])
def test_a_store_in_redis_decides_as_one_in_memory(
    server: str, redis_servers: Servers, rate: Any, streams: Any, tokens: Any
) -> None:
    """What a test proves of one is true of the other, and an operator may change the store."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    allowance = Allowance(rate, streams, tokens)

    async def run() -> None:
        async with limiters(server, redis_servers, 1) as [there]:
            expected = await act(MemoryLimiter(), allowance, random.Random(seed))
            assert await act(there, allowance, random.Random(seed)) == expected

    asyncio.run(run())


def test_a_chat_passes_after_the_wait_that_it_was_told(redis_servers: Servers) -> None:
    """By the clock of the server, which a test cannot set."""

    async def run() -> None:
        allowance = Allowance(Rate(2, 2))
        async with limiters("redis", redis_servers, 1) as [limiter]:
            for _ in range(2):
                (await limiter.enter("id:a", allowance)).leave(0)
            with pytest.raises(RateLimited) as refused:
                await limiter.enter("id:a", allowance)
            assert refused.value.retry_after == 1
            await asyncio.sleep(refused.value.retry_after)
            await limiter.enter("id:a", allowance)

    asyncio.run(run())


# It enters as often as it can, and tells how often it passed. All begin at once: when a line comes.
_WORKER = """
import asyncio, sys
from omniforge_chat.access.limits_redis import RedisLimiter
from omniforge_chat.errors import RateLimited
from omniforge_chat.models import Allowance, Rate
from omniforge_chat.stores import SharedRedis

async def passes(limiter, subject, allowance):
    try:
        await limiter.enter(subject, allowance)
    except RateLimited:
        return False
    return True

async def main():
    limiter = RedisLimiter(SharedRedis(sys.argv[1], "test:"))
    await limiter.enter("id:other", Allowance(streams=9))
    print("ready", flush=True)
    sys.stdin.readline()
    for subject, limit in (("id:a", Allowance(Rate(100, 86400))), ("id:b", Allowance(streams=70))):
        found = await asyncio.gather(*(passes(limiter, subject, limit) for _ in range(100)))
        print(sum(found), flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""


def test_four_processes_let_as_many_pass_as_one(one_redis_server: RedisServer) -> None:
    """A service with four workers has the limit that its operator set, and not four times it."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process(_WORKER, one_redis_server.url)) for _ in range(4)]
        for worker in workers:
            assert worker.line() == "ready"
        for worker in workers:
            worker.write("go")
        for limit in (100, 70):
            assert sum(int(worker.line()) for worker in workers) == limit

"""Workers that see each other live and die, against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Iterator, List, Tuple

import pytest

from omniforge_chat.stores import Presence, SharedRedis, StoreUnavailable, Verdict, command

from ..support.constants import PATIENCE
from ..support.logs import Records
from ..support.stores import RedisServer
from ..support.stores.redis import program
from ..support.stores.shared import PREFIX, Process, process, shared, until

WORKER = """
import asyncio, sys
from omniforge_chat.stores import SharedRedis

async def main():
    redis = SharedRedis(sys.argv[1], sys.argv[2])
    redis.hear("say", lambda text: print("heard", text, flush=True))
    await redis.presence.begin()
    while not (await redis.presence.send(redis.presence.worker, "hello")):
        await asyncio.sleep(0.01)
    print(redis.presence.worker, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await redis.aclose()

asyncio.run(main())
"""


@contextlib.contextmanager
def other_worker(server: RedisServer) -> Iterator[Tuple[str, Process]]:
    """Another process with a worker, which has begun, and that worker's name."""
    with process(WORKER, server.url, PREFIX) as started:
        yield started.line(), started


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker declares others dead as soon as it has looked twice."""
    monkeypatch.setattr("omniforge_chat.stores.presence.STEADY_SECONDS", 0.0)


def test_a_worker_that_has_just_begun_can_be_closed(one_redis_server: RedisServer) -> None:
    """In any moment. A service whose start fails would else hang in place of ending."""

    async def run() -> None:
        for turns in range(40):
            async with shared(one_redis_server.url) as redis:
                redis.presence.watch()
                for _ in range(turns):
                    await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


async def verdict(redis: SharedRedis, worker: str) -> Verdict:
    return (await redis.presence.verdicts([worker]))[worker]


async def until_dead(redis: SharedRedis, worker: str) -> None:
    async def dead() -> bool:
        return await verdict(redis, worker) is Verdict.DEAD

    await until(dead)


def life(server: RedisServer, worker: str) -> int:
    """The milliseconds that are left of a worker's lease; -2 if it is over."""
    left: int = server.client.pttl(f"{PREFIX}w:{{{worker}}}")
    return left


@pytest.mark.usefixtures("soon")
def test_a_worker_that_is_killed_is_dead_before_its_lease_ends(redis_server: RedisServer) -> None:
    """Its users wait for a part of a second, and not for all of the lease."""

    async def run() -> None:
        async with shared(redis_server.url) as redis:
            with other_worker(redis_server) as (worker, other):
                assert await verdict(redis, worker) is Verdict.ALIVE
                other.send(signal.SIGKILL)
                seen = Verdict.ALIVE
                while seen is Verdict.ALIVE:  # for a moment the server does not know
                    seen = await verdict(redis, worker)
                assert seen is Verdict.UNSURE
                await until_dead(redis, worker)
                assert life(redis_server, worker) > 3_000

    asyncio.run(run())


@pytest.mark.usefixtures("soon")
def test_a_worker_that_hangs_lives_as_long_as_its_lease(one_redis_server: RedisServer) -> None:
    """It may only be slow: so others wait, but not for ever."""

    async def run() -> None:
        async with shared(one_redis_server.url) as redis:
            with other_worker(one_redis_server) as (worker, other):
                other.send(signal.SIGSTOP)
                assert await verdict(redis, worker) is Verdict.ALIVE
                one_redis_server.client.delete(f"{PREFIX}w:{{{worker}}}")  # five seconds later
                await until_dead(redis, worker)
                other.send(signal.SIGCONT)

                async def alive() -> bool:
                    return await verdict(redis, worker) is Verdict.ALIVE

                await until(alive)

    asyncio.run(run())


@pytest.mark.usefixtures("soon")
def test_a_worker_that_ends_is_dead_at_once(one_redis_server: RedisServer) -> None:
    """A deploy replaces all of them, one after the other."""

    async def run() -> None:
        async with shared(one_redis_server.url) as redis:
            await redis.presence.begin()
            async with shared(one_redis_server.url) as other:
                await other.presence.begin()
                worker = other.presence.worker
                assert await verdict(redis, worker) is not Verdict.DEAD
            assert await verdict(redis, worker) is Verdict.DEAD
            assert await verdict(redis, redis.presence.worker) is Verdict.ALIVE

    asyncio.run(run())


@pytest.mark.parametrize("mishap", ["restart", "flush", "pause"])
def test_nobody_is_taken_for_dead_when_the_server_lost_what_it_knew(
    one_redis_server: RedisServer, mishap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All replies and all turns that run would be lost, although no worker is."""
    monkeypatch.setattr("omniforge_chat.stores.presence.LEASE_SECONDS", 0.6)
    monkeypatch.setattr("omniforge_chat.stores.presence.STEADY_SECONDS", 0.5)
    monkeypatch.setattr("omniforge_chat.stores.driver.ANSWER_SECONDS", 0.3)
    seen: List[Verdict] = []

    async def look(redis: SharedRedis, worker: str) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):
                seen.append(await verdict(redis, worker))
            await asyncio.sleep(0)

    async def run() -> None:
        async with shared(one_redis_server.url) as redis, shared(one_redis_server.url) as other:
            steady = [each.presence for each in (redis, other)]
            for presence in steady:
                await presence.begin()
            await until(lambda: is_steady(redis))
            worker = other.presence.worker
            looking = asyncio.ensure_future(look(redis, worker))
            if mishap == "restart":
                one_redis_server.restart()
            elif mishap == "flush":
                one_redis_server.flush()
            else:
                one_redis_server.pause()
                await asyncio.sleep(0.8)
                one_redis_server.resume()
            await until(is_alive)
            await until(lambda: is_steady(redis))
            await until(is_alive)
            looking.cancel()

    async def is_alive() -> bool:
        return seen[-9:] == [Verdict.ALIVE] * 9

    with Records():
        asyncio.run(run())
    assert Verdict.DEAD not in seen


def test_nobody_is_taken_for_dead_when_the_server_has_lost_the_newest_beats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replica takes over, to which not all was sent, and all subscriptions are gone.

    Others than the beats may be the first who notice that.
    """
    monkeypatch.setattr("omniforge_chat.stores.presence.BEAT_SECONDS", 0.4)
    monkeypatch.setattr("omniforge_chat.stores.presence.STEADY_SECONDS", 0.5)
    seen: List[Verdict] = []

    async def look(redis: SharedRedis, worker: str) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):
                await redis.run(command("GET", "key"))
                seen.append(await verdict(redis, worker))
            await asyncio.sleep(0)

    async def run() -> None:
        with RedisServer(program("redis"), durable=True) as server:
            async with shared(server.url) as redis, shared(server.url) as other:
                for each in (redis, other):
                    await each.presence.begin()
                await until(lambda: is_steady(redis))
                looking = asyncio.ensure_future(look(redis, other.presence.worker))
                await asyncio.get_running_loop().run_in_executor(None, server.lose_newest, 1.2)
                await until(lambda: is_steady(redis))
                looking.cancel()

    with Records():
        asyncio.run(run())
    assert Verdict.ALIVE in seen
    assert Verdict.DEAD not in seen


async def is_steady(redis: SharedRedis) -> bool:
    """Whether it would declare others dead: this one has never been."""
    return await verdict(redis, "nobody") is Verdict.DEAD


def test_a_worker_hears_what_others_send(one_redis_server: RedisServer) -> None:
    """A stop that reaches any worker ends the reply where it is made."""

    async def run() -> None:
        heard: List[str] = []
        async with shared(one_redis_server.url) as redis:
            redis.hear("say", heard.append)
            with other_worker(one_redis_server) as (worker, other):
                assert await redis.presence.send(worker, "say hello there")
                assert other.line() == "heard hello there"
                other.send(signal.SIGKILL)

                async def unheard() -> bool:
                    return not await redis.presence.send(worker, "say it again")

                await until(unheard)
            await redis.presence.begin()

            async def heard_itself() -> bool:
                await redis.presence.send(redis.presence.worker, "say é")
                await redis.presence.send(redis.presence.worker, "sing é")
                return "é" in heard

            for restart in (False, True):
                if restart:
                    one_redis_server.restart()
                    heard.clear()
                await until(heard_itself)
            assert set(heard) == {"é"}

    with Records():
        asyncio.run(run())


def test_a_message_that_makes_no_sense_is_logged_and_no_more(
    one_redis_server: RedisServer,
) -> None:
    """Anybody who may publish there can send one, and the next may be a stop."""

    async def run() -> None:
        heard: List[int] = []
        async with shared(one_redis_server.url) as redis:
            redis.hear("count", lambda text: heard.append(int(text)))
            await redis.presence.begin()
            channel = f"{PREFIX}w:{{{redis.presence.worker}}}"

            async def sent() -> bool:
                return all(
                    one_redis_server.client.publish(channel, data)
                    for data in (b"count", b"count x", b"\xff", b"", b"count 1")
                )

            await until(sent)

            async def counted() -> bool:
                return heard == [1]

            await until(counted)

    with Records() as log:
        asyncio.run(run())
    assert len(log.troubles) == 3
    assert all(line.endswith("a bad message") for line in log.troubles)


def test_a_subscription_that_goes_silent_is_made_again(
    one_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection may be cut where nobody tells its ends, such as in a firewall."""
    monkeypatch.setattr("omniforge_chat.stores.presence.PING_SECONDS", 0.05)

    def subscriptions() -> List[str]:
        clients = one_redis_server.client.client_list(_type="pubsub")
        return [client["id"] for client in clients]

    async def run() -> None:
        async with shared(one_redis_server.url) as redis:
            await redis.presence.begin()

            async def subscribed() -> bool:
                return len(subscriptions()) == 1

            await until(subscribed)
            before = subscriptions()
            await asyncio.sleep(0.3)
            assert subscriptions() == before  # it has answered
            one_redis_server.pause()
            await asyncio.sleep(0.3)
            one_redis_server.resume()

            async def another() -> bool:
                return len(subscriptions()) == 1 and subscriptions() != before

            await until(another)

    with Records():
        asyncio.run(run())


def test_a_worker_whose_life_is_not_seen_makes_no_claim(one_redis_server: RedisServer) -> None:
    """Others would take it for dead at once."""
    seen: List[bool] = []

    async def begin(presence: Presence) -> None:
        await presence.begin()
        seen.append(life(one_redis_server, presence.worker) > 0)

    async def run() -> None:
        async with shared(one_redis_server.url) as redis:
            await asyncio.gather(*(begin(redis.presence) for _ in range(20)))

    asyncio.run(run())
    assert seen == [True] * 20

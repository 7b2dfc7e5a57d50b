"""Limits in Redis, if workers or the server fail."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any, AsyncIterator, List, Tuple

import pytest

from omniforge_chat import Settings, Usage, create_app
from omniforge_chat.access import Pass, make_limiter
from omniforge_chat.access import limits_redis as module
from omniforge_chat.access.limits_redis import RedisLimiter
from omniforge_chat.errors import LimitsUnavailable, RateLimited
from omniforge_chat.models import Allowance, Rate
from omniforge_chat.stores import SharedRedis, make_redis

from ..support.app import HandDrivenRequest
from ..support.logs import Records
from ..support.loops import cancelled, waiting
from ..support.responders import saying
from ..support.stores import RedisServer
from ..support.stores.shared import PREFIX, process, shared, until

ONE = Allowance(streams=1)


@contextlib.asynccontextmanager
async def limiter(
    server: RedisServer, **options: Any
) -> AsyncIterator[Tuple[RedisLimiter, SharedRedis]]:
    async with shared(server.url) as redis:
        made = RedisLimiter(redis, **options)
        try:
            yield made, redis
        finally:
            await made.aclose()


async def refused(store: RedisLimiter, allowance: Allowance, subject: str = "id:a") -> bool:
    try:
        (await store.enter(subject, allowance)).leave(0)
    except RateLimited:
        return True
    return False


@pytest.fixture
def short_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACE_SECONDS", 0.6)
    monkeypatch.setattr(module, "HOLD_SECONDS", 0.15)


_HOLDER = """
import asyncio, sys
from omniforge_chat.access import limits_redis as module
from omniforge_chat.models import Allowance
from omniforge_chat.stores import SharedRedis
module.PLACE_SECONDS, module.HOLD_SECONDS = 0.6, 0.15

async def main():
    limiter = module.RedisLimiter(SharedRedis(sys.argv[1], "test:"))
    await limiter.enter("id:a", Allowance(streams=1))
    print("in", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_a_worker_that_is_killed_gives_its_places_back(
    one_redis_server: RedisServer, short_places: None
) -> None:
    """Else a caller could never chat again after some crashes. One that lives keeps its places."""

    async def run() -> None:
        async with limiter(one_redis_server) as (store, _):
            with process(_HOLDER, one_redis_server.url) as holder:
                assert await asyncio.to_thread(holder.line) == "in"
                await asyncio.sleep(2 * 0.6)
                assert await refused(store, ONE)
                holder.send(signal.SIGKILL)

                async def came_back() -> bool:
                    return not await refused(store, ONE)

                await until(came_back)

    asyncio.run(run())


def test_places_that_the_server_has_lost_are_put_in_again(
    one_redis_server: RedisServer, short_places: None
) -> None:
    """After a restart of a Redis without a disk the open streams count as before."""

    async def run() -> None:
        async with limiter(one_redis_server) as (store, _):
            entered = await store.enter("id:a", ONE)
            one_redis_server.flush()

            async def is_in() -> bool:
                return bool(one_redis_server.client.keys("*:streams"))

            await until(is_in)
            assert await refused(store, ONE)
            entered.leave(0)
            assert not await refused(store, ONE)

    asyncio.run(run())


def test_a_request_that_is_cancelled_on_its_way_leaves_no_place_behind(
    one_redis_server: RedisServer,
) -> None:
    """A client that leaves in this moment would else lose a place for half a minute."""

    async def run() -> None:
        async with limiter(one_redis_server) as (store, _):
            assert not await refused(store, ONE)
            for _ in range(3):
                await cancelled(await waiting(store.enter("id:a", ONE)))
            assert not await refused(store, ONE)

    asyncio.run(run())


def test_a_place_is_free_for_the_next_request_in_the_same_moment(
    one_redis_server: RedisServer,
) -> None:
    """A client with one stream chats one chat after another, and must not be faster than we are."""

    async def run() -> None:
        async with limiter(one_redis_server) as (store, _):
            for _ in range(20):
                entered = await store.enter("id:a", ONE)
                other = await waiting(store.enter("id:b", ONE))  # something is on its way
                entered.leave(0)
                await asyncio.sleep(0)
                (await store.enter("id:a", ONE)).leave(0)
                (await other).leave(0)

    asyncio.run(run())


def test_chats_pass_while_the_server_is_away_and_count_when_it_is_back(
    one_redis_server: RedisServer,
) -> None:
    """A limit is no reason to be down; the log says so once, and tokens are not forgotten."""

    async def run() -> None:
        allowance = Allowance(Rate(1, 86_400), streams=1, tokens_per_day=100)
        async with limiter(one_redis_server) as (store, _):
            before = await store.enter("id:a", allowance)
            one_redis_server.stop()
            passes: List[Pass] = []
            for _ in range(5):
                passes.append(await store.enter("id:a", allowance))
            assert not any(each.headers for each in passes)
            for each in (before, *passes):
                each.leave(20)
            one_redis_server.start()

            async def are_counted() -> bool:
                keys = one_redis_server.client.keys("*:tokens")
                return bool(keys) and one_redis_server.client.get(keys[0]) == "120"

            await until(are_counted)
            with pytest.raises(RateLimited, match="used up the 100 tokens"):
                await store.enter("id:a", allowance)

    with Records() as log:
        asyncio.run(run())
    [away, unlimited] = [text for text in log.troubles if "back" not in text]
    assert "it cannot be reached" in away
    assert unlimited.startswith("chats are not limited: ")


def test_chats_are_refused_while_the_server_is_away_if_limits_are_required(
    one_redis_server: RedisServer,
) -> None:
    """For whoever pays for each chat. Afterwards nothing is left of those that were refused."""

    async def run() -> None:
        async with limiter(one_redis_server, required=True) as (store, _):
            assert not await refused(store, ONE)
            one_redis_server.stop()
            for _ in range(3):
                with pytest.raises(LimitsUnavailable):
                    await store.enter("id:a", ONE)
            one_redis_server.start()

            async def passes() -> bool:
                with contextlib.suppress(LimitsUnavailable):
                    return not await refused(store, ONE)
                return False

            await until(passes)

    with Records() as log:
        asyncio.run(run())
    assert sum("chats are refused, as limits cannot be kept" in text for text in log.troubles) == 1


def test_a_place_that_was_taken_without_an_answer_is_given_back(
    one_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request was refused, and a server that goes on may have let it in nevertheless."""
    monkeypatch.setattr(module, "PLACE_SECONDS", 3_600.0)

    async def run() -> None:
        async with limiter(one_redis_server, required=True) as (store, redis):
            assert not await refused(store, ONE)
            one_redis_server.pause()
            with pytest.raises(LimitsUnavailable):
                await store.enter("id:a", ONE)
            one_redis_server.resume()

            async def passes() -> bool:
                return redis.available and not await refused(store, ONE)

            await until(passes)

    asyncio.run(run())


def test_places_that_are_left_while_others_are_held_anew_stay_free(
    one_redis_server: RedisServer, short_places: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many callers that takes several round trips."""
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "PLACE_SECONDS", 3_600.0)

    async def run() -> None:
        async with limiter(one_redis_server) as (store, redis):
            await store.enter("id:a", ONE)
            second = await store.enter("id:b", ONE)
            batch, batches, held = redis.batch, 0, asyncio.Event()

            async def is_one() -> bool:
                return len(one_redis_server.client.keys("*:streams")) == 1

            async def slow(commands: Any) -> Any:
                nonlocal batches
                batches += 1
                if batches == 1:  # the place of a is held anew
                    second.leave(0)
                    await until(is_one)
                answers = await batch(commands)
                if batches == 3:  # a, the leave of b, and then b again
                    held.set()
                return answers

            monkeypatch.setattr(redis, "batch", slow)
            await held.wait()
            assert not await refused(store, ONE, "id:b")

    asyncio.run(run())


def test_who_has_left_is_counted_before_the_store_closes(one_redis_server: RedisServer) -> None:
    """A worker that is stopped would else keep places and forget tokens."""

    async def run() -> None:
        settings = Settings(
            tokens_per_day=10_000,
            limits="redis",
            redis_url=one_redis_server.url,
            redis_prefix=PREFIX,
        )
        app = create_app(saying("a", Usage(600)), settings=settings)
        await HandDrivenRequest().run(app)
        await app.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    [key] = one_redis_server.client.keys("*:tokens")
    assert one_redis_server.client.get(key) == "600"


def test_tokens_are_not_counted_twice_if_no_answer_came(one_redis_server: RedisServer) -> None:
    """What was sent to a server that hangs may be done when it goes on, and is sent again."""

    def value(key: Any) -> Any:
        return one_redis_server.client.get(key)

    async def run() -> None:
        allowance = Allowance(tokens_per_day=10_000)
        async with limiter(one_redis_server) as (store, redis):
            passes = [await store.enter("id:a", allowance) for _ in range(3)]
            one_redis_server.pause()
            for each in passes:
                each.leave(100)

            async def is_away() -> bool:
                return not redis.available

            await until(is_away)
            one_redis_server.resume()

            async def are_counted() -> bool:
                keys = one_redis_server.client.keys("*:tokens")
                return bool(keys) and redis.available and int(value(keys[0])) >= 300

            await until(are_counted)
            await store.aclose()  # whatever waited for its turn has gone
            [key] = one_redis_server.client.keys("*:tokens")
            assert value(key) == "300"

    asyncio.run(run())


def test_keys_tell_nothing_of_a_caller_and_stay_together(one_redis_server: RedisServer) -> None:
    """An id may be an address of mail; and a script needs its keys in one place."""

    async def run() -> None:
        async with limiter(one_redis_server) as (store, _):
            allowance = Allowance(Rate(5, 60), streams=5, tokens_per_day=5_000)
            for reads in (False, True):
                entered = await store.enter("id:ü{}*\ud800@example.com", allowance, reads=reads)
            entered.leave(7)

    asyncio.run(run())
    keys: List[str] = one_redis_server.client.keys("*")  # type: ignore[assignment]  # it decodes
    assert all(key.startswith(f"{PREFIX}l:{{") for key in keys if ":w:" not in key)
    assert len({key.partition("}")[0] for key in keys}) == 1
    assert not any("example" in key for key in keys)
    assert all(0 < one_redis_server.client.pttl(key) <= 86_400_000 for key in keys)


def test_a_key_that_holds_something_else_is_in_the_log_once(one_redis_server: RedisServer) -> None:
    """Somebody has written into it: nobody else feels that, and the chat passes."""

    async def run() -> None:
        async with limiter(one_redis_server) as (store, redis):
            [key] = redis.keys.subject("id:a", "streams")
            one_redis_server.client.set(key, "x")
            for _ in range(3):
                assert not await refused(store, ONE)
            (await store.enter("id:b", ONE)).leave(0)
            assert redis.available

    with Records() as log:
        asyncio.run(run())
    [text] = log.troubles
    assert text.startswith("chats are not limited: ")


def test_settings_name_the_store(one_redis_server: RedisServer) -> None:
    """One way to Redis serves all stores of an app."""
    limited = Settings(limits="redis", rate_limit=Rate(1, 60), redis_url=one_redis_server.url)
    redis = make_redis(limited)
    assert redis is not None
    assert isinstance(make_limiter(limited, redis), RedisLimiter)
    assert make_limiter(Settings(limits="redis"), redis) is None

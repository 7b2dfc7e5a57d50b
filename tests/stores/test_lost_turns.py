"""Turns whose end the server has lost, or whose process ends."""

from __future__ import annotations

import asyncio
from typing import List

import pytest

from omniforge_chat import Claim, ConversationBusy, HistoryUnavailable, Message
from omniforge_chat.conversations.redis import RedisHistory

from ..support.logs import Records
from ..support.stores import RedisServer
from ..support.stores.redis import program
from ..support.stores.shared import shared, until


def test_a_claim_whose_end_was_lost_does_not_outlive_its_turn() -> None:
    """Nobody could speak in that conversation any more, for as long as a turn may take."""
    answers: List[type] = []

    async def run(server: RedisServer) -> None:
        async with shared(server.url) as one, shared(server.url) as two:
            history, other = RedisHistory(one), RedisHistory(two)
            turn = Claim("a", "", "1", "hi")
            await history.begin_turn(turn)
            mark = server.written()
            await history.end_turn(turn, (Message("user", "hi"), Message("assistant", "ho")))
            server.lose_newest(0.0, mark)

            async def is_free() -> bool:
                try:
                    await other.begin_turn(Claim("a", "", "2", "hi"))
                except (ConversationBusy, HistoryUnavailable) as error:
                    answers.append(type(error))
                    return False
                return True

            await until(is_free)
            assert ConversationBusy in answers
            for _ in range(3):  # that of a turn which runs is not taken away
                with pytest.raises(ConversationBusy):
                    await history.begin_turn(Claim("a", "", "3", "hi"))
                await asyncio.sleep(0.3)
            for each in (history, other):
                await each.aclose()

    with RedisServer(program("redis"), durable=True) as server, Records():
        asyncio.run(run(server))


def test_a_turn_that_is_cut_off_as_the_process_ends_leaves_no_task(
    one_redis_server: RedisServer,
) -> None:
    """Nobody would wait for it, and Python complains of it in the last lines of the log."""

    async def run() -> None:
        async with shared(one_redis_server.url) as redis:
            history = RedisHistory(redis)
            await redis.presence.begin()
            one_redis_server.pause()
            before = asyncio.all_tasks()
            beginning = asyncio.ensure_future(history.begin_turn(Claim("a", "", "1", "hi")))
            for _ in range(5):  # until it waits for the server
                await asyncio.sleep(0)
            assert not asyncio.all_tasks() <= before | {beginning}
            await history.aclose()
            left = asyncio.all_tasks()
            beginning.cancel()
            await asyncio.wait([beginning])
            assert asyncio.all_tasks() <= left - {beginning}

    with Records():
        asyncio.run(run())

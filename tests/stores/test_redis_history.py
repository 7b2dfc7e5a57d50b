"""What a store of conversations in Redis does when things go wrong, against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from typing import Any, AsyncIterator, Callable, List, Tuple

import pytest

from omniforge_chat import (
    Claim,
    ConversationBusy,
    ConversationNotFound,
    HistoryUnavailable,
    Message,
    Settings,
    create_app,
)
from omniforge_chat.conversations.redis import RedisHistory

from ..support.answers import last, refusal
from ..support.app import HandDrivenRequest
from ..support.constants import CONVERSATION
from ..support.logs import Records
from ..support.responders import saying
from ..support.stores import RedisServer
from ..support.stores.shared import PREFIX, process, shared, until

OTHER = "550e8400-e29b-41d4-a716-446655440001"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker declares others dead as soon as it has looked twice."""
    monkeypatch.setattr("omniforge_chat.stores.presence.STEADY_SECONDS", 0.0)


def claim(conversation_id: str = "a", message: str = "hi", owner: str = "") -> Claim:
    return Claim(conversation_id, owner, secrets.token_urlsafe(16), message)


def said(user: str, reply: str) -> Tuple[Message, Message]:
    return Message("user", user), Message("assistant", reply)


async def keep(history: RedisHistory, user: str, reply: str, conversation_id: str = "a") -> None:
    turn = claim(conversation_id)
    await history.begin_turn(turn)
    await history.end_turn(turn, said(user, reply))


async def contents(history: RedisHistory, conversation_id: str = "a") -> List[str]:
    """The texts of a conversation, as a turn finds them."""
    turn = claim(conversation_id)
    messages = await history.begin_turn(turn)
    await history.end_turn(turn, ())
    return [message.content for message in messages]


@contextlib.asynccontextmanager
async def histories(server: RedisServer, **bounds: Any) -> AsyncIterator[List[RedisHistory]]:
    """Those of two workers."""
    async with shared(server.url) as one, shared(server.url) as two:
        made = [RedisHistory(redis, **bounds) for redis in (one, two)]
        try:
            yield made
        finally:
            for history in made:
                await history.aclose()


def key(part: str, conversation_id: str = "a") -> str:
    return f"{PREFIX}c:{{{conversation_id}}}:{part}"


def commands(server: RedisServer, about: str, run: Callable[[], Any]) -> List[str]:
    """The commands of clients that `run` brings about, of those whose keys contain `about`."""
    with server.client.monitor() as monitor:  # type: ignore[no-untyped-call]
        run()
        server.client.echo("over")
        found: List[str] = []
        for seen in monitor.listen():
            if "over" in seen["command"]:
                break
            if about in seen["command"] and seen["client_type"] != "lua":
                found.append(seen["command"].split()[0])
        return found


def test_a_turn_is_two_round_trips(redis_server: RedisServer) -> None:
    """One when it begins and one when it ends, so that a chat waits for the store but little."""

    async def run() -> None:
        async with shared(redis_server.url) as redis:
            history = RedisHistory(redis)
            await keep(history, "1", "2", "b")
            loop = asyncio.get_running_loop()
            turn = asyncio.run_coroutine_threadsafe

            def one() -> None:
                turn(keep(history, "1", "2"), loop).result()

            seen = await loop.run_in_executor(None, commands, redis_server, "{a}", one)
            assert seen == ["EVALSHA", "EVALSHA"]

    asyncio.run(run())


def test_every_key_ends_by_itself(one_redis_server: RedisServer) -> None:
    """A store that only grows is full one day, and that is a night."""

    def lives() -> List[int]:
        client = one_redis_server.client
        return [client.ttl(name) for name in client.keys(f"{PREFIX}c:*")]

    async def run() -> None:
        async with histories(one_redis_server, ttl=60.0) as (history, other):
            turn = claim()
            for messages in ((), said("1", "2")):
                await history.begin_turn(turn)
                assert all(900 < life <= 960 for life in lives())
                await history.end_turn(turn, messages)
                assert all(0 < life <= 60 for life in lives())
            assert len(lives()) == 1
            await history.begin_turn(turn)
            await other.delete("a", "")
            [life] = lives()
            assert 900 < life <= 960
        async with shared(one_redis_server.url) as redis:
            await RedisHistory(redis, longest_turn=None).begin_turn(claim("b"))
            assert all(one_redis_server.client.ttl(key("turn", "b")) > 80_000 for _ in "1")

    asyncio.run(run())


def test_an_id_may_have_braces(one_redis_server: RedisServer) -> None:
    """They mark what of a key decides on its place in a cluster, and clients make ids."""

    async def run() -> None:
        async with histories(one_redis_server) as (history, _):
            ids = ["}", "{", "a}b", "{a}", "%7D", "a}:turn", "%"]
            for name in ids:
                await keep(history, name, "2", name)
            for name in ids:
                assert await contents(history, name) == [name, "2"]
        assert all(str(name).count("}") == 1 for name in one_redis_server.client.keys("*:log"))

    asyncio.run(run())


# Workers that die, or are taken for dead


HOLDER = """
import asyncio, logging, sys
from omniforge_chat import Claim, Message
from omniforge_chat.conversations.redis import RedisHistory
from omniforge_chat.stores import SharedRedis

async def main():
    logging.basicConfig(stream=sys.stdout, level=logging.ERROR)
    redis = SharedRedis(sys.argv[1], sys.argv[2])
    history = RedisHistory(redis)
    turn = Claim("a", "", "turn", "what?")
    await history.begin_turn(turn)
    print("begun", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await history.end_turn(turn, [Message("user", "what?"), Message("assistant", "this")])
    print("ended", flush=True)
    await redis.aclose()

asyncio.run(main())
"""


def test_the_conversation_of_a_killed_worker_is_free_before_its_lease_ends(
    one_redis_server: RedisServer,
) -> None:
    """Its user sends the message again at once, to another worker; and it is not lost if not."""

    async def run() -> None:
        async with histories(one_redis_server) as (history, _):
            await keep(history, "1", "2")
            with process(HOLDER, one_redis_server.url, PREFIX) as holder:
                assert holder.line() == "begun"
                with pytest.raises(ConversationBusy):
                    await history.begin_turn(claim())
                holder.send(signal.SIGKILL)
                turn = claim()
                messages = await history.begin_turn(turn)
            assert [message.content for message in messages] == ["1", "2", "what?"]
            leases = one_redis_server.client.keys(f"{PREFIX}w:*")
            assert len(leases) == 2  # that of the killed one is still there
            await history.end_turn(turn, said("what?", "nothing"), 1)
            assert await contents(history) == ["1", "2", "what?", "nothing"]

    asyncio.run(run())


@pytest.mark.parametrize("ended", [False, True])
def test_a_turn_that_others_have_taken_over_changes_nothing_any_more(
    one_redis_server: RedisServer, ended: bool
) -> None:
    """A worker that only hung comes back with a reply; the user has another one by then."""

    async def run() -> None:
        async with histories(one_redis_server) as (history, _):
            await contents(history, "b")
            with process(HOLDER, one_redis_server.url, PREFIX) as slow:
                assert slow.line() == "begun"
                slow.send(signal.SIGSTOP)
                with pytest.raises(ConversationBusy):
                    await history.begin_turn(claim())
                for lease in one_redis_server.client.keys(f"{PREFIX}w:*"):
                    one_redis_server.client.delete(lease)  # five seconds later
                turn = claim()
                while True:
                    with contextlib.suppress(ConversationBusy):
                        messages = await history.begin_turn(turn)
                        break
                assert [message.content for message in messages] == ["what?"]
                if ended:
                    await history.end_turn(turn, said("what?", "that"), 1)
                slow.send(signal.SIGCONT)
                slow.write("end")
                assert "history lost a turn conversation_id=a: others have taken" in slow.line()
                assert slow.line() == "ended"
                if not ended:
                    await history.end_turn(turn, said("what?", "that"), 1)
                assert await contents(history) == ["what?", "that"]

    asyncio.run(run())


# A server that forgets, or is away


def test_a_turn_is_kept_although_the_server_forgot_all_during_it(redis_server: RedisServer) -> None:
    """It is no reason to forget the reply, too. But others may have begun anew meanwhile."""

    async def run() -> None:
        async with histories(redis_server) as (history, other):
            await keep(history, "1", "2")
            turn = claim()
            await history.begin_turn(turn)
            redis_server.flush()
            await history.end_turn(turn, said("3", "4"), 2)
            assert await contents(history) == ["3", "4"]

            await history.begin_turn(turn)
            redis_server.client.delete(key("turn"))  # it forgot only what was newest
            await history.end_turn(turn, said("5", "6"), 2)
            assert await contents(history) == ["5", "6"]
            assert log.troubles == []

            for reply in ((), said("7", "8")):
                await history.begin_turn(turn)
                redis_server.flush()
                await other.begin_turn(new := claim())
                await history.end_turn(turn, said("9", "9"))
                await other.end_turn(new, reply)
                assert len(log.troubles) == 1
                log.all.clear()
            assert await contents(history) == ["7", "8"]

            await history.begin_turn(turn)
            redis_server.flush()
            await keep(other, "1", "2")
            await history.end_turn(turn, said("9", "9"))
            assert await contents(history) == ["1", "2"]

    with Records() as log:
        asyncio.run(run())


def test_a_deleted_conversation_does_not_come_back(redis_server: RedisServer) -> None:
    """Neither with the turn that ran then, nor with one that was taken over."""

    async def run() -> None:
        async with histories(redis_server) as (history, other):
            for between in (False, True):
                await keep(history, "1", "2")
                await history.begin_turn(turn := claim())
                await other.delete("a", "")
                if between:
                    await keep(other, "3", "4")
                    await other.delete("a", "")
                await history.end_turn(turn, said("5", "6"))
                with pytest.raises(ConversationNotFound):
                    await other.read("a", "")
            await keep(history, "7", "8")
            assert await contents(other) == ["7", "8"]

    with Records() as log:
        asyncio.run(run())
    assert log.troubles == []


def test_the_end_of_a_turn_waits_in_the_background_for_the_server(
    one_redis_server: RedisServer,
) -> None:
    """The client has its reply, and gets its last event; what was said is stored a little later."""

    async def run() -> None:
        async with histories(one_redis_server) as (history, other):
            turns = [claim(name) for name in "abc"]
            for turn in turns:
                await history.begin_turn(turn)
            one_redis_server.stop()
            for turn in turns:
                await history.end_turn(turn, said("1", "2"))
            with pytest.raises(HistoryUnavailable):
                await other.begin_turn(claim())
            one_redis_server.start()

            async def stored() -> bool:
                return len(one_redis_server.client.keys(f"{PREFIX}c:*:log")) == 3

            await until(stored)
            for name in "abc":
                assert await contents(other, name) == ["1", "2"]

    with Records() as log:
        asyncio.run(run())
    assert not any("lost a turn" in line for line in log.troubles)


@pytest.mark.parametrize("close", [False, True])
def test_a_turn_that_could_not_be_stored_is_in_the_log(
    one_redis_server: RedisServer, close: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its conversation is free as soon as the server is back."""
    name = "omniforge_chat.conversations.redis_endings"
    monkeypatch.setattr(f"{name}.{'CLOSE_SECONDS' if close else 'TRY_SECONDS'}", 0.3)

    async def run() -> None:
        async with histories(one_redis_server) as (history, other):
            await history.begin_turn(turn := claim())
            one_redis_server.config(maxmemory=1)
            await history.end_turn(turn, said("1", "2"))
            if close:
                await history.aclose()
            else:

                async def told() -> bool:
                    return "lost a turn" in log.troubles[-1]

                await until(told)
                one_redis_server.config(maxmemory=0)

                async def free() -> bool:
                    with contextlib.suppress(ConversationBusy, HistoryUnavailable):
                        return await contents(other) == []
                    return False

                await until(free)

    with Records() as log:
        asyncio.run(run())
    [lost] = [line for line in log.troubles if "lost" in line]
    assert lost.startswith("history lost a turn conversation_id=a: redis was out of reach ")


@pytest.mark.parametrize("left", [False, True])
def test_a_claim_whose_answer_nobody_got_is_released(
    one_redis_server: RedisServer, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs may make the claim when it goes on, long after the chat was refused."""
    monkeypatch.setattr("omniforge_chat.stores.driver.ANSWER_SECONDS", 0.3)

    async def run() -> None:
        async with histories(one_redis_server) as (history, other):
            await keep(history, "1", "2")
            one_redis_server.pause()
            beginning = asyncio.ensure_future(history.begin_turn(claim()))
            await asyncio.sleep(0.05)
            if left:
                beginning.cancel()
            with pytest.raises((HistoryUnavailable, asyncio.CancelledError)):
                await beginning
            one_redis_server.resume()

            async def claimed() -> bool:
                with contextlib.suppress(ConversationBusy, HistoryUnavailable):
                    return await contents(other) == ["1", "2"]
                return False

            await until(claimed)

    with Records():
        asyncio.run(run())


# What no conversation is


def garbage(server: RedisServer, part: str, kind: str) -> None:
    client = server.client
    if kind == "type":
        client.delete(key(part))
        client.hset(key(part), "a", "b")
    elif part == "turn":
        client.set(key(part), kind)
    elif kind == "older":
        client.lpush(key(part), "older")
    else:
        client.rpush(key(part), kind)


@pytest.mark.parametrize("kind", ["type", "older", "", "garbage", "\x93\xa0", "\x93\xa0\x00\xa0"])
@pytest.mark.parametrize("part", ["turn", "log"])
def test_what_is_unreadable_hurts_only_its_conversation(
    one_redis_server: RedisServer, part: str, kind: str
) -> None:
    """Whatever wrote there: one conversation is refused, and the log names its keys once."""

    async def run() -> None:
        async with histories(one_redis_server) as (history, _):
            await keep(history, "1", "2")
            garbage(one_redis_server, part, kind)
            for _ in range(2):
                with pytest.raises(HistoryUnavailable, match="This conversation cannot be read"):
                    await history.begin_turn(claim())
                with pytest.raises(HistoryUnavailable, match="This conversation cannot be read"):
                    await history.read("a", "")
                await keep(history, "3", "4", "b")
            assert len(await contents(history, "b")) == 4
            one_redis_server.client.delete(key(part))
            assert await contents(history) == (["1", "2"] if part == "turn" else [])

    with Records() as log:
        asyncio.run(run())
    [line] = log.troubles
    assert f"one of the keys {key('*')} holds what is no conversation; delete it (" in line


@pytest.mark.parametrize("part", ["turn", "log"])
@pytest.mark.parametrize("kind", ["type", "garbage"])
def test_what_is_unreadable_can_be_deleted(
    one_redis_server: RedisServer, part: str, kind: str
) -> None:
    """It is what the log advises, and nobody can lose anything."""

    async def run() -> None:
        async with histories(one_redis_server) as (history, other):
            await keep(history, "1", "2")
            await history.begin_turn(turn := claim())
            garbage(one_redis_server, part, kind)
            await other.delete("a", "")
            await history.end_turn(turn, said("3", "4"))
            for call in (history.read, history.delete):
                with pytest.raises(ConversationNotFound):
                    await call("a", "")

    asyncio.run(run())


def test_a_turn_survives_that_its_conversation_becomes_unreadable(
    one_redis_server: RedisServer,
) -> None:
    """Its client has its reply, and there is nothing that it could do."""

    async def run() -> None:
        async with histories(one_redis_server) as (history, _):
            await history.begin_turn(turn := claim())
            garbage(one_redis_server, "log", "type")
            await history.end_turn(turn, said("1", "2"))

    with Records() as log:
        asyncio.run(run())
    [line] = log.troubles
    assert key("*") in line


# What a client is told


async def chat(app: Any, conversation_id: str = CONVERSATION) -> HandDrivenRequest:
    made = HandDrivenRequest({"message": "hi", "conversation_id": conversation_id})
    await made.run(app)
    return made


@pytest.mark.parametrize("how", ["gone", "full", "reader", "replica", "password"])
def test_a_client_is_told_that_its_conversation_cannot_be_had(
    one_redis_server: RedisServer, how: str
) -> None:
    """It tries again a little later. A reply without memory would be worse; one line is logged."""

    async def run(url: str) -> None:
        app = create_app(
            saying("Hi"), settings=Settings(history="redis", redis_url=url, redis_prefix=PREFIX)
        )
        for _ in range(3):
            answer = await chat(app)
            assert answer.headers["retry-after"] == "1"
            message = "The store of conversations is out of reach"
            assert refusal(*answer.json()) == (503, "history_unavailable", message)
        await app.aclose()

    with Records() as log, contextlib.ExitStack() as stack:
        server = one_redis_server
        url = server.url
        if how == "gone":
            server.stop()
        elif how == "full":
            server.config(maxmemory=1)
        elif how == "reader":
            url = server.user("reader", "+@all", "-@write")
        elif how == "replica":
            url = stack.enter_context(server.replica()).url
        else:
            server.config(requirepass="right")
            url = server.url_of("", "wr0ng")
        asyncio.run(run(url))
    assert len([line for line in log.troubles if line.startswith("redis")]) == 1
    assert "wr0ng" not in str([record.getMessage() for record in log.all])


def test_conversations_go_on_at_another_worker(redis_server: RedisServer) -> None:
    """It is what the store is for. An app that is made again has nothing of its own."""
    settings = Settings(history="redis", redis_url=redis_server.url, redis_prefix=PREFIX)

    async def ask(conversation_id: str) -> int:
        app = create_app(saying("Hi"), settings=settings)
        event, data = last((await chat(app, conversation_id)).frames)
        assert event == "done"
        await app.aclose()
        number: int = data["history"]
        return number

    with Records() as log:
        known = [asyncio.run(ask(name)) for name in (CONVERSATION, OTHER, CONVERSATION)]
    assert known == [0, 0, 2]
    assert log.troubles == []

"""What each store of replies does alike."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import Any, Awaitable, Callable, Iterator, List, Tuple, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniforge_chat.models import Error, Thought
from omniforge_chat.replay import Keyed, Replay
from omniforge_chat.replay.memory import MemoryReplay
from omniforge_chat.replay.text import TAKEN_BYTES

from ..support.constants import PATIENCE
from ..support.replays import DONE, Reader, found, recorded, reply_id, spread, until, whole
from ..support.stores import RedisServer
from ..support.stores.redis import SERVERS, program
from ..support.stores.workers import workers

Test = Callable[[Replay, Replay], Awaitable[None]]
"""What one worker produces, and another one reads."""

Stores = Callable[[Test], None]


async def _watched(test: Test, here: Replay, there: Replay) -> None:
    await asyncio.wait_for(test(here, there), PATIENCE)


def _in_memory(test: Test) -> None:
    async def run() -> None:
        replay = MemoryReplay(keep=60)
        await _watched(test, replay, replay)
        await replay.aclose()
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(run())


def _in_redis(url: str, number: int, test: Test) -> None:
    async def run() -> None:
        async with workers(url, number) as replays:
            await _watched(test, replays[0], replays[-1])
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(run())


@pytest.fixture(params=["memory", "one worker", *SERVERS], scope="module")
def in_store(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """Runs a test with a store."""
    if request.param == "memory":
        yield _in_memory
        return
    alone = request.param == "one worker"
    with RedisServer(program("redis" if alone else request.param)) as server:
        yield partial(_in_redis, server.url, 1 if alone else 2)


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds follow each other faster, as tests wait for them."""
    monkeypatch.setattr("omniforge_chat.replay.pump.ROUND_SECONDS", 0.01)
    monkeypatch.setattr("omniforge_chat.replay.redis.YOUNG_SECONDS", (0.0, 0.02, 0.05, 0.2))
    monkeypatch.setattr("omniforge_chat.replay.following.PATIENCE_SECONDS", 0.5)


PIECES = st.lists(
    st.tuples(st.booleans(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)).map(
        lambda made: Thought(made[1]) if made[0] else made[1]
    ),
    max_size=20,
)


@settings(max_examples=15)
@given(pieces=PIECES, cut=st.data())
def test_a_reply_is_the_same_from_every_position(
    in_store: Stores, pieces: List[Union[str, Thought]], cut: Any
) -> None:
    """Whatever it is made of, whoever comes when: each character once, in order, of its kind."""
    total = sum(map(len, pieces))
    joins = cut.draw(st.lists(st.integers(0, len(pieces)), max_size=3), "readers come before")
    places = [
        cut.draw(st.integers(0, sum(map(len, pieces[:at]))), "and know so many") for at in joins
    ]
    waits = cut.draw(st.sets(st.integers(0, len(pieces))), "time passes before")

    async def test(here: Replay, there: Replay) -> None:
        name, recording = recorded(here)
        readers: List[Tuple[int, Reader]] = []
        for number in range(len(pieces) + 1):
            for at, place in zip(joins, places):
                if at == number:
                    readers.append((place, Reader((await found(there, name)).read(place))))
            if number in waits:
                await asyncio.sleep(0)
            recording.add(pieces[number : number + 1])
        recording.end(DONE)
        expected = spread([*pieces, DONE])
        for place, reader in readers:
            await reader.end()
            assert spread(reader.got) == expected[place:]
        for after in {0, total // 2, total}:
            assert spread(await whole(there, name, after)) == expected[after:]
        kept = await found(there, name)
        assert (kept.characters, kept.last, kept.conversation_id) == (total, DONE, "c")

    in_store(test)


def test_missed_text_is_one_piece_and_then_it_comes_as_it_is_made(in_store: Stores) -> None:
    """A client that comes back is where it was at once, however many tokens it has missed."""

    async def test(here: Replay, there: Replay) -> None:
        name, recording = recorded(here, *(["token "] * 100))
        reader = Reader((await found(there, name)).read(6))
        await reader.until("token " * 99)
        assert len(reader.got) == 1
        recording.add(["live"])
        await reader.until("token " * 99 + "live")
        recording.end(DONE)
        assert await reader.end() == DONE

    in_store(test)


def test_a_long_text_comes_in_pieces_that_a_slow_reader_can_hold(in_store: Stores) -> None:
    """A reader that does not read holds one of them, and not all of the reply."""
    text = "aé€😀" * 10_000

    async def test(here: Replay, there: Replay) -> None:
        name, recording = recorded(here, text[:7], Thought(text), text)
        recording.end(DONE)
        for replay in (here, there):
            got = await whole(replay, name)
            assert spread(got) == spread([text[:7], Thought(text), text, DONE])
            pieces = [piece for piece in got if isinstance(piece, (str, Thought))]
            assert max(map(len, pieces)) <= TAKEN_BYTES

    in_store(test)


def test_it_is_known_how_many_came_to_read_and_until_when(in_store: Stores) -> None:
    """The grace of a reply whose client has left counts from there."""

    async def test(here: Replay, there: Replay) -> None:
        name, recording = recorded(here, "Hello")
        assert (recording.followers, recording.followed_at) == (0, float("-inf"))
        readers = [Reader((await found(there, name)).read(0)) for _ in range(2)]
        for reader in readers:
            await reader.until("Hello")
        await until(lambda: recording.followers == 2)
        first = recording.followed_at
        await until(lambda: recording.followed_at > first)
        for reader in readers:
            await reader.leave()
        await until(lambda: monotonic() - recording.followed_at > 0.6)
        assert recording.followers == 2
        recording.end(DONE)

    in_store(test)


def test_a_position_beyond_the_end_never_hangs(in_store: Stores) -> None:
    """A client that asks for it has mixed something up, and hears so."""

    async def test(here: Replay, there: Replay) -> None:
        name, recording = recorded(here, "Hello")
        [error] = await whole(there, name, 6)
        assert isinstance(error, Error)
        recording.end(DONE)
        assert await whole(there, name, 6) == [DONE]

    in_store(test)


def test_a_reply_belongs_to_its_owner(in_store: Stores) -> None:
    """An id that has leaked is nothing worth."""

    async def test(here: Replay, there: Replay) -> None:
        name, recording = recorded(here, "Hello", owner="me")
        await found(there, name, "me")
        for owner in ("", "you", "m", "me "):
            assert await there.find(name, owner) is None
            assert await there.stop(name, owner) is None
            assert await there.newest("c", owner) is None
            await there.forget("c", owner)
        assert await there.newest("c", "me") == name
        recording.end(DONE)
        assert await whole(there, name, owner="me") == ["Hello", DONE]

    in_store(test)


def test_a_stop_is_heard_also_if_it_comes_first(in_store: Stores) -> None:
    """A client may stop a reply before its stream has begun."""

    async def test(here: Replay, there: Replay) -> None:
        stops: List[str] = []
        late, late_recording = recorded(here)
        assert await there.stop(late, "") is True
        late_recording.stop = lambda: stops.append("late")
        await until(lambda: stops == ["late"])
        early, early_recording = recorded(here)
        early_recording.stop = lambda: stops.append("early")
        assert await there.stop(early, "") is True
        await until(lambda: stops == ["late", "early"])
        early_recording.end(DONE)
        await whole(there, early)
        assert await there.stop(early, "") is False
        assert await there.stop(reply_id(), "") is None

    in_store(test)


def test_the_newest_reply_of_a_conversation_is_found(in_store: Stores) -> None:
    """A page that was closed and opened again shows the reply that goes on."""

    async def test(here: Replay, there: Replay) -> None:
        assert await there.newest("c", "") is None
        _, before = recorded(here, "Hello")
        before.end(DONE)
        name, recording = recorded(here, "Hello")
        other, _ = recorded(here, "Hello", conversation_id="other")
        await found(there, other)
        assert await there.newest("c", "") == name
        recording.end(DONE)
        assert await there.newest("c", "") == name

    in_store(test)


def test_of_a_conversation_that_is_forgotten_nothing_is_left(in_store: Stores) -> None:
    """Deleted means deleted, also what a reply still adds."""

    async def test(here: Replay, there: Replay) -> None:
        stops: List[str] = []
        ended, recording = recorded(here, "Hello")
        recording.end(DONE)
        name, recording = recorded(here, "Hello")
        recording.stop = lambda: stops.append("")
        other, kept = recorded(here, "Hello", conversation_id="other")
        reader = Reader((await found(there, name)).read(0))
        await reader.until("Hello")
        await found(there, other)
        await there.forget("c", "")
        await until(lambda: stops == [""])
        assert isinstance(await reader.end(), Error)
        recording.add([" you"])
        recording.end(DONE)
        assert [await there.find(each, "") for each in (name, ended)] == [None, None]
        assert await there.newest("c", "") is None
        kept.end(DONE)
        assert await whole(there, other) == ["Hello", DONE]

    in_store(test)


def test_of_many_requests_with_one_key_one_is_the_first(
    in_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six retries of one click, and one reply to pay for."""
    # No reply begins here.
    monkeypatch.setattr("omniforge_chat.replay.requests.LIVING_SECONDS", 0.0)

    async def test(here: Replay, there: Replay) -> None:
        assert await there.keyed("", "key") is None
        requests = [Keyed(b"%d" % number, reply_id()) for number in range(6)]
        answers = await asyncio.gather(
            *(
                (here, there)[number % 2].begin_once("", "key", keyed)
                for number, keyed in enumerate(requests)
            )
        )
        [winner] = [keyed for keyed, answer in zip(requests, answers) if answer is None]
        assert [answer for answer in answers if answer is not None] == [winner] * 5
        assert await there.keyed("", "key") == winner
        assert await there.keyed("me", "key") is None
        for key in ("", "k" * 255, "ключ"):
            assert await here.begin_once("", key, requests[0]) is None
            assert await there.keyed("", key) == requests[0]

    in_store(test)


def test_nothing_is_kept_once_it_is_closed(in_store: Stores) -> None:
    """A reply that goes on nevertheless does no harm, and hears of none."""

    async def test(here: Replay, there: Replay) -> None:
        _, recording = recorded(here, "Hello")
        await here.aclose()
        await here.aclose()
        recording.add([" you"])
        recording.end(DONE)

    in_store(test)

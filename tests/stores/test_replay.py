"""What each store of replies does alike."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, List, Tuple, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat.models import Error, Thought
from omniforge_chat.replay import Keyed, Replay
from omniforge_chat.replay.memory import MemoryReplay

from ..support.constants import PATIENCE
from ..support.replays import DONE, Reader, found, recorded, reply_id, spread, whole

Test = Callable[[Replay], Awaitable[None]]
Stores = Callable[[Test], None]


def _in_memory(test: Test) -> None:
    async def run() -> None:
        replay = MemoryReplay(keep=60)
        await asyncio.wait_for(test(replay), PATIENCE)
        await replay.aclose()
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(run())


@pytest.fixture(params=["memory"], scope="module")
def in_store(request: pytest.FixtureRequest) -> Stores:
    """Runs a test with a store."""
    return {"memory": _in_memory}[request.param]


PIECES = st.lists(
    st.tuples(st.booleans(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)).map(
        lambda made: Thought(made[1]) if made[0] else made[1]
    ),
    max_size=20,
)


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

    async def test(replay: Replay) -> None:
        name, recording = recorded(replay)
        readers: List[Tuple[int, Reader]] = []
        for number in range(len(pieces) + 1):
            for at, place in zip(joins, places):
                if at == number:
                    readers.append((place, Reader((await found(replay, name)).read(place))))
            if number in waits:
                await asyncio.sleep(0)
            recording.add(pieces[number : number + 1])
        recording.end(DONE)
        expected = spread([*pieces, DONE])
        for place, reader in readers:
            await reader.end()
            assert spread(reader.got) == expected[place:]
        for after in {0, total // 2, total}:
            assert spread(await whole(replay, name, after)) == expected[after:]
        kept = await found(replay, name)
        assert (kept.characters, kept.last, kept.conversation_id) == (total, DONE, "c")

    in_store(test)


def test_missed_text_is_one_piece_and_then_it_comes_as_it_is_made(in_store: Stores) -> None:
    """A client that comes back is where it was at once, however many tokens it has missed."""

    async def test(replay: Replay) -> None:
        name, recording = recorded(replay, *(["token "] * 100))
        reader = Reader((await found(replay, name)).read(6))
        await reader.until("token " * 99)
        assert len(reader.got) == 1
        recording.add(["live"])
        await reader.until("token " * 99 + "live")
        recording.end(DONE)
        assert await reader.end() == DONE

    in_store(test)


def test_it_is_known_how_many_came_to_read_and_until_when(in_store: Stores) -> None:
    """The grace of a reply whose client has left counts from there."""

    async def test(replay: Replay) -> None:
        name, recording = recorded(replay, "Hello")
        assert (recording.followers, recording.followed_at) == (0, float("-inf"))
        readers = [Reader((await found(replay, name)).read(0)) for _ in range(2)]
        for reader in readers:
            await reader.until("Hello")
        first = recording.followed_at
        await readers.pop().leave()
        assert recording.followed_at >= first
        await readers.pop().leave()
        assert recording.followers == 2
        left = recording.followed_at
        assert first <= left == recording.followed_at
        recording.end(DONE)

    in_store(test)


def test_a_position_beyond_the_end_never_hangs(in_store: Stores) -> None:
    """A client that asks for it has mixed something up, and hears so."""

    async def test(replay: Replay) -> None:
        name, recording = recorded(replay, "Hello")
        [error] = await whole(replay, name, 6)
        assert isinstance(error, Error)
        recording.end(DONE)
        assert await whole(replay, name, 6) == [DONE]

    in_store(test)


def test_a_reply_belongs_to_its_owner(in_store: Stores) -> None:
    """An id that has leaked is nothing worth."""

    async def test(replay: Replay) -> None:
        name, recording = recorded(replay, "Hello", owner="me")
        for owner in ("", "you", "m", "me "):
            assert await replay.find(name, owner) is None
            assert await replay.stop(name, owner) is None
            assert await replay.newest("c", owner) is None
            await replay.forget("c", owner)
        assert await replay.newest("c", "me") == name
        recording.end(DONE)
        assert await whole(replay, name, owner="me") == ["Hello", DONE]

    in_store(test)


def test_a_stop_is_heard_also_if_it_comes_first(in_store: Stores) -> None:
    """A client may stop a reply before its stream has begun."""

    async def test(replay: Replay) -> None:
        stops: List[str] = []
        late, late_recording = recorded(replay)
        assert await replay.stop(late, "") is True
        late_recording.stop = lambda: stops.append("late")
        assert stops == ["late"]
        early, early_recording = recorded(replay)
        early_recording.stop = lambda: stops.append("early")
        assert await replay.stop(early, "") is True
        assert stops == ["late", "early"]
        early_recording.end(DONE)
        assert await replay.stop(early, "") is False
        assert await replay.stop(reply_id(), "") is None

    in_store(test)


def test_the_newest_reply_of_a_conversation_is_found(in_store: Stores) -> None:
    """A page that was closed and opened again shows the reply that goes on."""

    async def test(replay: Replay) -> None:
        assert await replay.newest("c", "") is None
        _, before = recorded(replay, "Hello")
        before.end(DONE)
        name, recording = recorded(replay, "Hello")
        recorded(replay, "Hello", conversation_id="other")
        assert await replay.newest("c", "") == name
        recording.end(DONE)
        assert await replay.newest("c", "") == name

    in_store(test)


def test_of_a_conversation_that_is_forgotten_nothing_is_left(in_store: Stores) -> None:
    """Deleted means deleted, also what a reply still adds."""

    async def test(replay: Replay) -> None:
        stops: List[str] = []
        ended, recording = recorded(replay, "Hello")
        recording.end(DONE)
        name, recording = recorded(replay, "Hello")
        recording.stop = lambda: stops.append("")
        other, kept = recorded(replay, "Hello", conversation_id="other")
        reader = Reader((await found(replay, name)).read(0))
        await reader.until("Hello")
        await replay.forget("c", "")
        assert stops == [""]
        assert isinstance(await reader.end(), Error)
        recording.add([" you"])
        recording.end(DONE)
        assert [await replay.find(each, "") for each in (name, ended)] == [None, None]
        assert await replay.newest("c", "") is None
        kept.end(DONE)
        assert await whole(replay, other) == ["Hello", DONE]

    in_store(test)


def test_of_many_requests_with_one_key_one_is_the_first(in_store: Stores) -> None:
    """Six retries of one click, and one reply to pay for."""

    async def test(replay: Replay) -> None:
        assert await replay.keyed("", "key") is None
        requests = [Keyed(b"%d" % number, reply_id()) for number in range(6)]
        answers = await asyncio.gather(*(replay.begin_once("", "key", keyed) for keyed in requests))
        [winner] = [keyed for keyed, answer in zip(requests, answers) if answer is None]
        assert [answer for answer in answers if answer is not None] == [winner] * 5
        assert await replay.keyed("", "key") == winner
        assert await replay.keyed("me", "key") is None
        for key in ("", "k" * 255, "ключ"):
            assert await replay.begin_once("", key, requests[0]) is None
            assert await replay.keyed("", key) == requests[0]

    in_store(test)


def test_nothing_is_kept_once_it_is_closed(in_store: Stores) -> None:
    """A reply that goes on nevertheless does no harm, and hears of none."""

    async def test(replay: Replay) -> None:
        _, recording = recorded(replay, "Hello")
        await replay.aclose()
        await replay.aclose()
        recording.add([" you"])
        recording.end(DONE)

    in_store(test)

"""What a store in memory keeps of replies, for how long, and at which price."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any, Dict, List

import pytest

from omniforge_chat.models import Thought
from omniforge_chat.replay import Keyed
from omniforge_chat.replay.keys import Keys
from omniforge_chat.replay.live import MAX_BYTES
from omniforge_chat.replay.memory import REPLY_BYTES, MemoryReplay
from omniforge_chat.rules import SettingsError
from omniforge_chat.settings import Settings

from ..support.loops import in_each_loop
from ..support.replays import DONE, GAP, Reader, code, found, recorded, whole

KIB = 1024


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Dict[str, float]:
    """The time of the store, which a test sets."""
    clock = {"now": 1000.0}
    for module in ("memory", "keys"):
        monkeypatch.setattr(f"omniforge_chat.replay.{module}.monotonic", lambda: clock["now"])
    return clock


@in_each_loop
async def test_a_reply_is_kept_for_some_time_after_its_end(clock: Dict[str, float]) -> None:
    """Long enough for a phone that comes out of a tunnel, and no longer."""
    replay = MemoryReplay(keep=60)
    name, recording = recorded(replay, "Hello")
    clock["now"] += 1000  # however long it runs
    recording.end(DONE)
    clock["now"] += 59
    assert await whole(replay, name) == ["Hello", DONE]
    clock["now"] += 2
    assert await replay.find(name, "") is None
    assert len(replay) == 0
    await replay.aclose()


@in_each_loop
async def test_what_has_expired_goes_though_nobody_asks_any_more() -> None:
    """An idle service does not hold the replies of the last rush."""
    replay = MemoryReplay(keep=0.01)
    for _ in range(3):
        recorded(replay, "Hello")[1].end(DONE)
        await asyncio.sleep(0.005)
    for _ in range(1000):
        await asyncio.sleep(0.005)
        if not len(replay):
            break
    assert len(replay) == 0


@in_each_loop
async def test_who_reads_when_a_reply_expires_gets_all_of_it(clock: Dict[str, float]) -> None:
    """A slow client does not lose the end of what it has begun to read."""
    replay = MemoryReplay(keep=60)
    name, recording = recorded(replay, "Hello", Thought("hm"))
    recording.end(DONE)
    entries = (await found(replay, name)).read(0)
    got: List[Any] = [await entries.__anext__()]
    clock["now"] += 61
    assert await replay.find(name, "") is None
    got += [entry async for entry in entries]
    assert got == ["Hello", Thought("hm"), DONE]
    await replay.aclose()


@in_each_loop
async def test_a_reply_that_is_too_long_is_not_kept_at_all() -> None:
    """Half of it, without its front, would look like the whole."""
    replay = MemoryReplay()
    name, recording = recorded(replay, "Hello")
    reader = Reader((await found(replay, name)).read(0))
    await reader.until("Hello")
    half = "é" * (MAX_BYTES // 4)  # two bytes each
    recording.add([half, half])
    assert getattr(await reader.end(), "code", None) == GAP
    kept = await found(replay, name)
    assert kept.characters is None
    assert await code(replay, name) == GAP
    assert await replay.stop(name, "") is True  # it runs on, for its own client
    recording.end(DONE)
    assert await code(replay, name, 5) == GAP
    await replay.aclose()


@in_each_loop
async def test_the_reply_that_ended_first_makes_room() -> None:
    """The replies of now can be resumed, whatever was an hour ago."""
    replay = MemoryReplay(total_bytes=3 * (REPLY_BYTES + 100 * KIB))
    names = []
    for _ in range(5):
        name, recording = recorded(replay, "x" * 100 * KIB)
        recording.end(DONE)
        names.append(name)
    assert [await replay.find(name, "") is not None for name in names] == [False] * 2 + [True] * 3
    await replay.aclose()


@in_each_loop
async def test_if_those_that_run_are_too_many_the_longest_is_not_kept() -> None:
    """It frees the most; the others can still be resumed."""
    replay = MemoryReplay(total_bytes=100 * KIB)
    small, _ = recorded(replay, "x" * 20 * KIB)
    large, _ = recorded(replay, "x" * 50 * KIB)
    middle, _ = recorded(replay, "x" * 40 * KIB)
    assert [(await found(replay, name)).characters for name in (small, large, middle)] == [
        20 * KIB,
        None,
        40 * KIB,
    ]
    many = [recorded(replay)[0] for _ in range(100)]  # their number has another limit
    assert (await found(replay, many[0])).characters == 0
    await replay.aclose()


@in_each_loop
async def test_who_reads_misses_nothing_of_a_reply_whose_text_is_let_go_of() -> None:
    """A store elsewhere has it, but the reader here need not ask for what it was about to read."""
    replay = MemoryReplay()
    reply = replay.record("r", "c", "")
    reply.add(["Hello", Thought("hm")])
    slow = reply.read(0)
    got: List[Any] = [await slow.__anext__()]
    quick = Reader(reply.read(2))
    await quick.until("llohm")
    reply.let_go()
    assert (reply.base, reply.held, reply.length) == (7, 0, 7)
    reply.add([Thought("!"), " you"])
    await quick.until("llohm! you")
    reply.end(DONE)
    got += [entry async for entry in slow]
    assert got == ["Hello", Thought("hm"), Thought("!"), " you", DONE]
    assert [entry async for entry in reply.read(7)] == [Thought("!"), " you", DONE]
    assert await quick.end() == DONE
    await replay.aclose()


@in_each_loop
async def test_many_followers_are_told_in_beats_and_miss_nothing() -> None:
    """Each wakes for several pieces at once, so a crowd of them leaves the others their time."""
    replay = MemoryReplay()
    name, recording = recorded(replay, "Hello")
    readers = [Reader((await found(replay, name)).read(0)) for _ in range(200)]
    for reader in readers:
        await reader.until("Hello")
    for _ in range(100):
        recording.add([" you"])
        await asyncio.sleep(0)
    recording.end(DONE)
    for reader in readers:
        assert await reader.end() == DONE
        assert reader.text == "Hello" + " you" * 100
        assert len(reader.got) < 30
    await replay.aclose()


def test_a_store_serves_one_event_loop_after_the_other() -> None:
    """An app may be made once, and be run by each test of its host."""
    replay = MemoryReplay(keep=60)

    async def talk() -> None:
        name, recording = recorded(replay, "Hello")
        reader = Reader((await found(replay, name)).read(0))
        await reader.until("Hello")
        recording.add([" you"])
        await reader.until("Hello you")
        recording.end(DONE)
        assert await reader.end() == DONE

    for _ in range(3):
        asyncio.run(talk())
    assert len(replay) == 3
    asyncio.run(replay.aclose())


def test_a_key_is_remembered_for_longer_than_its_reply(clock: Dict[str, float]) -> None:
    """So a client that tries again hours later hears that, in place of a second answer."""
    keys = Keys(limit=2, seconds=60)
    first, other = Keyed(b"1", "a"), Keyed(b"2", "b")
    assert keys.set("", "k", first) is None
    assert keys.set("", "k", other) == first
    assert keys.set("me", "k", other) is None
    assert keys.get("", "k") == first
    clock["now"] += 61
    assert keys.get("", "k") is None


def test_the_oldest_key_makes_room(clock: Dict[str, float]) -> None:
    """Nobody can fill the memory with keys."""
    keys = Keys(limit=2)
    for number in range(3):
        keys.set("", f"k{number}", Keyed(b"", str(number)))
    assert [keys.get("", f"k{number}") is not None for number in range(3)] == [False, True, True]


def test_the_memory_that_a_reply_takes_is_what_is_counted() -> None:
    """The limit in bytes is one for the process."""

    async def measure(text: str) -> float:
        replay = MemoryReplay()
        recorded(replay, text)[1].end(DONE)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(5):
            _, recording = recorded(replay, conversation_id=f"{number:036}")
            for _ in range(100):
                recording.add([text[:2], text[2:]])
            recording.end(DONE)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
        await replay.aclose()
        return taken / 5

    gc.freeze()  # what is there already, thousands of tests among it, takes long to look through
    tracemalloc.start()
    try:
        for text in ("token", "to😀en"):
            # Whatever else happens in the process is counted, too, but hardly three times.
            taken = min(asyncio.run(measure(text)) for _ in range(3))
            assert taken < REPLY_BYTES + 1.2 * 100 * len(text.encode())
    finally:
        tracemalloc.stop()
        gc.unfreeze()


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    """It would keep nothing, in silence."""
    with pytest.raises(SettingsError, match="keep"):
        MemoryReplay(keep=0)
    with pytest.raises(SettingsError, match="total_bytes"):
        MemoryReplay(total_bytes=1)
    asyncio.run(MemoryReplay.from_settings(Settings()).aclose())

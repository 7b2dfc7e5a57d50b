"""What a store in memory keeps of conversations, and the window of them that a model is sent."""

from __future__ import annotations

import asyncio
import tracemalloc
import uuid
from datetime import datetime, timezone
from typing import Any, Coroutine, Dict, List, Tuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import Claim, Message
from omniforge_chat.conversations.memory import MemoryHistory
from omniforge_chat.conversations.window import characters_of, shortened, turns_of, window
from omniforge_chat.errors import ConversationBusy, ConversationNotFound
from omniforge_chat.rules import SettingsError


def said(user: str, assistant: str) -> Tuple[Message, Message]:
    return Message("user", user), Message("assistant", assistant)


def claim(conversation_id: str, turn_id: str = "turn", owner: str = "", message: str = "") -> Claim:
    return Claim(conversation_id, owner, turn_id, message)


def begin(history: MemoryHistory, conversation_id: str) -> str:
    """Begin a turn, and return the text of all earlier messages."""
    return "".join(m.content for m in asyncio.run(history.begin_turn(claim(conversation_id))))


def end(history: MemoryHistory, conversation_id: str, *turn: str) -> None:
    asyncio.run(history.end_turn(claim(conversation_id), said(*turn) if turn else ()))


def keep(history: MemoryHistory, conversation_id: str, user: str, assistant: str) -> None:
    begin(history, conversation_id)
    end(history, conversation_id, user, assistant)


def contents(history: MemoryHistory, conversation_id: str) -> str:
    text = begin(history, conversation_id)
    end(history, conversation_id)
    return text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Dict[str, float]:
    """The time of the store, which a test sets."""
    clock = {"now": 1000.0}
    monkeypatch.setattr("omniforge_chat.conversations.memory.monotonic", lambda: clock["now"])
    return clock


def test_the_least_recently_used_conversation_goes_first() -> None:
    """Memory stays bounded however many conversations there are, and the live ones stay."""
    history = MemoryHistory(max_conversations=2)
    keep(history, "a", "1", "2")
    keep(history, "b", "3", "4")
    contents(history, "a")
    keep(history, "c", "5", "6")
    assert [contents(history, name) for name in "abc"] == ["12", "", "56"]
    assert len(history) == 2


def test_a_conversation_that_is_being_continued_is_not_forgotten(clock: Dict[str, float]) -> None:
    """However many others pass by while its reply is made, and however long that takes."""
    history = MemoryHistory(max_conversations=2, ttl=60)
    keep(history, "a", "1", "2")
    begin(history, "a")
    for other in "bcd":
        keep(history, other, "3", "4")
    assert len(history) == 2
    clock["now"] += 61
    keep(history, "e", "5", "6")
    end(history, "a", "7", "8")
    assert contents(history, "a") == "1278"


@pytest.mark.parametrize("bounds", [{"max_messages": 4}, {"max_messages": 5}, {"max_bytes": 3_000}])
def test_the_oldest_whole_turns_of_a_long_conversation_go(bounds: Dict[str, int]) -> None:
    """Half a turn would be an answer without its question."""
    history = MemoryHistory(**bounds)
    for number in "123":
        keep(history, "a", number * 400, number * 400)
    assert contents(history, "a") == "2" * 800 + "3" * 800


@pytest.mark.parametrize("character", ["x", "é", "你", "😀", "\0"])
@pytest.mark.parametrize("bounds", [{"max_bytes": 4_096}, {"max_total_bytes": 4_096}])
def test_a_turn_larger_than_the_bound_loses_its_middle(
    bounds: Dict[str, int], character: str
) -> None:
    """One enormous reply takes no more than a conversation may, and the next turn knows of it."""
    history = MemoryHistory(**bounds)
    keep(history, "a", "one", "two")
    keep(history, "a", "hi", f"<{character * 100_000}>")
    [user, reply] = asyncio.run(history.begin_turn(claim("a")))
    assert user == Message("user", "hi")
    assert reply == Message("assistant", reply.content, complete=True, shortened=True)
    assert reply.content.startswith(f"<{character}")
    assert f"{character} [...] {character}" in reply.content
    assert reply.content.endswith(f"{character}>")
    assert 2_500 < len(reply.content.encode()) < 4_096


def test_the_newest_turn_is_kept_whatever_the_bounds() -> None:
    """Otherwise a store of one message would remember nothing."""
    history = MemoryHistory(max_messages=1, max_bytes=1_024)
    keep(history, "a", "1", "2")
    keep(history, "a", "3" * 10_000, "4" * 10_000)
    text = contents(history, "a")
    assert text.count("3") == text.count("4") > 100
    assert "1" not in text
    assert text.count(" [...] ") == 2


# What it takes


@pytest.mark.parametrize(
    ("text", "turns", "conversations"),
    [
        pytest.param("x" * 20_000, 4, 25, id="long replies"),
        pytest.param("😀" * 5_000, 4, 25, id="long replies of emoji"),
        pytest.param(("x" * 999 + "😀") * 20, 4, 25, id="one emoji in a thousand"),
        pytest.param("é", 50, 55, id="short turns"),
        pytest.param("x", 1, 1_500, id="many conversations"),
    ],
)
def test_the_bound_holds_for_the_memory_of_the_process(
    text: str, turns: int, conversations: int
) -> None:
    """Counted in characters, people who write emoji would get four times the memory, or eight."""
    bound = 512 * 1024
    history = MemoryHistory(
        max_conversations=10**6, max_messages=10**6, max_bytes=64 * 1024, max_total_bytes=bound
    )

    async def fill() -> int:
        most = 0
        for number in range(conversations):
            turn = claim(str(uuid.UUID(int=number)))
            for _ in range(turns):
                await history.begin_turn(turn)
                await history.end_turn(turn, said(text[:10], text))
            # As a provider's responder does: Python keeps the bytes of a text that was encoded.
            msgspec.json.encode(await history.begin_turn(turn))
            await history.end_turn(turn, ())
            most = max(most, tracemalloc.get_traced_memory()[0])
        return most

    async def measure() -> int:
        before = tracemalloc.get_traced_memory()[0]
        return await fill() - before

    msgspec.json.encode(text)  # so that the bytes that Python keeps of it are none of the store's
    tracemalloc.start()
    try:
        taken = asyncio.run(measure())
    finally:
        tracemalloc.stop()
    assert 0.6 * bound < taken <= bound


def test_the_bound_of_all_is_kept_beside_conversations_that_are_being_continued() -> None:
    """They stay, so the others make room; and those that are replaced or forgotten give theirs."""
    history = MemoryHistory(max_total_bytes=10_000)
    keep(history, "a", "1", "x" * 4_000)
    begin(history, "a")
    for name in "bcb":
        keep(history, name, "1", "y" * 4_000)
    assert [contents(history, name)[:2] for name in "bc"] == ["1y", ""]
    end(history, "a", "2", "x" * 9_000)
    assert len(history) == 1
    assert contents(history, "a").endswith("x")


def test_an_old_conversation_is_forgotten(clock: Dict[str, float]) -> None:
    """What nobody has asked for in a day does not stay in memory."""
    history = MemoryHistory(ttl=60)
    keep(history, "a", "1", "2")
    clock["now"] += 60
    assert contents(history, "a") == "12"
    clock["now"] += 61
    assert contents(history, "a") == ""
    assert len(history) == 0


@pytest.mark.parametrize(("replaced", "kept"), [(0, "112233"), (2, "1133"), (4, "33"), (9, "33")])
def test_the_newest_messages_can_be_replaced(replaced: int, kept: str) -> None:
    """With those that replace them, in one step; a claim that is released replaces nothing."""
    history = MemoryHistory()
    for number in "12":
        keep(history, "a", number, number)
    begin(history, "a")
    asyncio.run(history.end_turn(claim("a"), (), 2))
    assert begin(history, "a") == "1122"
    asyncio.run(history.end_turn(claim("a"), said("3", "3"), replaced))
    assert contents(history, "a") == kept


def test_a_conversation_is_busy_until_its_turn_has_ended() -> None:
    """Two turns at once would each miss what the other says."""
    history = MemoryHistory()
    begin(history, "a")
    with pytest.raises(ConversationBusy):
        begin(history, "a")
    begin(history, "b")
    end(history, "a")
    begin(history, "a")


def test_only_the_claim_that_holds_a_conversation_can_end_its_turn() -> None:
    """One that comes late would put its reply behind a turn that never knew of it."""
    history = MemoryHistory()
    keep(history, "a", "1", "2")
    asyncio.run(history.end_turn(claim("a"), said("3", "4"), 2))
    begin(history, "a")
    asyncio.run(history.end_turn(claim("a", "another"), said("5", "6"), 2))
    with pytest.raises(ConversationBusy):
        begin(history, "a")
    end(history, "a")
    assert contents(history, "a") == "12"


# Reading and deleting


def test_a_conversation_can_be_read_while_it_is_continued() -> None:
    """With the times at which its turns ended; it is not claimed for that."""
    history = MemoryHistory()
    before = datetime.now(timezone.utc)
    keep(history, "a", "1", "2")
    begin(history, "a")
    stored = asyncio.run(history.read("a", ""))
    assert [(m.role, m.content, m.complete) for m in stored] == [
        ("user", "1", True),
        ("assistant", "2", True),
    ]
    assert all(before <= message.time <= datetime.now(timezone.utc) for message in stored)
    end(history, "a")


def test_a_conversation_that_was_deleted_is_not_brought_back_by_its_running_turn() -> None:
    """Whoever deletes a conversation wants nothing of it to be left."""
    history = MemoryHistory()
    keep(history, "a", "1", "2")
    for number in ("3", "4"):  # a new conversation, too
        begin(history, "a")
        asyncio.run(history.delete("a", ""))
        asyncio.run(history.begin_turn(claim("a", number)))
        end(history, "a", "5", "6")
        assert len(history) == 0
        asyncio.run(history.end_turn(claim("a", number), ()))
    for call in (history.read, history.delete):
        with pytest.raises(ConversationNotFound):
            asyncio.run(call("a", ""))


def test_a_conversation_is_its_owners_alone() -> None:
    """For anybody else it does not exist, from its first turn on."""
    history = MemoryHistory()
    mine, theirs = claim("a", owner="me"), claim("a", owner="you")
    asyncio.run(history.begin_turn(mine))
    for _ in range(2):
        strangers: Tuple[Coroutine[Any, Any, object], ...] = (
            history.begin_turn(theirs),
            history.read("a", "you"),
            history.delete("a", ""),
        )
        for stranger in strangers:
            with pytest.raises(ConversationNotFound):
                asyncio.run(stranger)
        asyncio.run(history.end_turn(mine, said("1", "2")))
    assert len(asyncio.run(history.read("a", "me"))) == 2


@pytest.mark.parametrize(
    "bounds",
    [
        *({"max_conversations": 0}, {"max_messages": "5"}, {"max_bytes": 1_023}),
        *({"max_total_bytes": -1}, {"ttl": None}),
    ],
)
def test_a_bound_of_no_use_is_named(bounds: Dict[str, Any]) -> None:
    """When the store is made, and not when the first conversation does not fit."""
    with pytest.raises(SettingsError, match=next(iter(bounds))):
        MemoryHistory(**bounds)


@pytest.mark.parametrize(
    ("characters", "kept"), [(-5, ""), (0, ""), (2, "cd"), (5, "cd"), (6, "abcd")]
)
def test_the_window_is_the_newest_whole_turns_that_fit(characters: int, kept: str) -> None:
    """A model is sent what it can hold, and never an answer without its question."""
    turns = turns_of([*said("aa", "bb"), *said("c", "d")])
    assert "".join(message.content[0] for message in window(turns, characters)) == kept


@pytest.mark.parametrize(
    ("user", "reply", "characters", "kept"),
    [
        pytest.param("hello", "0123456789" * 10, 25, "hello|0123456 [...] 456789", id="a reply"),
        pytest.param("0123456789" * 10, "bye", 24, "0123456 [...] 3456789|bye", id="a message"),
        pytest.param("a" * 99, "b" * 99, 23, "aa [...] aa|bb [...] bb", id="both"),
        pytest.param(
            "a" * 9, "b" * 99, 27, "a" * 9 + "|bbbbbb [...] bbbbb", id="not the short one"
        ),
        pytest.param("a" * 9, "b" * 9, 17, "aaaaaaaa|bbbbbbbb", id="no room for a mark"),
        pytest.param("a", "b", 1, "|", id="no room"),
    ],
)
def test_the_newest_turn_is_shortened_if_it_is_too_long(
    user: str, reply: str, characters: int, kept: str
) -> None:
    """A follow-up to a long reply is about that reply, so some of it has to be known."""
    turns = turns_of([*said("old", "older"), *said(user, reply)])
    messages = window(turns, characters)
    assert "|".join(message.content for message in messages) == kept
    for message, whole in zip(messages, (user, reply)):
        assert message.shortened == (message.content != whole)
        assert message.complete


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 100))
def test_a_shortened_turn_has_what_fits_and_no_more(lengths: List[int], characters: int) -> None:
    """Its messages share the room: a short one gives what it does not need to the long ones."""
    turn = tuple(Message("user", "x" * length) for length in lengths)
    short = shortened(turn, characters)
    assert characters_of(short) <= characters
    if characters_of(turn) > characters:
        assert characters_of(short) > characters - len(turn)
        assert all(a == b for a, b in zip(turn, short) if len(a.content) <= characters // len(turn))

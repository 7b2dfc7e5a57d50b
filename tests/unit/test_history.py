"""What a store in memory keeps of conversations, and the window of them that a model is sent."""

from __future__ import annotations

import asyncio
from typing import Any, Dict, Tuple

import pytest

from omniforge_chat import Message
from omniforge_chat.conversations.memory import MemoryHistory
from omniforge_chat.conversations.window import window
from omniforge_chat.errors import ConversationBusy, SettingsError


def said(user: str, assistant: str) -> Tuple[Message, Message]:
    return Message("user", user), Message("assistant", assistant)


def begin(history: MemoryHistory, conversation_id: str) -> str:
    """Begin a turn, and return the text of all earlier messages."""
    return "".join(m.content for m in asyncio.run(history.begin_turn(conversation_id)))


def end(history: MemoryHistory, conversation_id: str, *turn: str) -> None:
    asyncio.run(history.end_turn(conversation_id, said(*turn) if turn else ()))


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


@pytest.mark.parametrize(
    "bounds", [{"max_messages": 4}, {"max_messages": 5}, {"max_characters": 4}]
)
def test_the_oldest_whole_turns_of_a_long_conversation_go(bounds: Dict[str, int]) -> None:
    """Half a turn would be an answer without its question."""
    history = MemoryHistory(**bounds)
    for number in "123":
        keep(history, "a", number, number)
    assert contents(history, "a") == "2233"


def test_a_turn_larger_than_the_bound_is_not_kept() -> None:
    """One enormous reply cannot take more than a conversation may."""
    history = MemoryHistory(max_characters=10)
    keep(history, "a", "hi", "x" * 9)
    assert contents(history, "a") == ""


def test_an_old_conversation_is_forgotten(clock: Dict[str, float]) -> None:
    """What nobody has asked for in a day does not stay in memory."""
    history = MemoryHistory(ttl=60)
    keep(history, "a", "1", "2")
    clock["now"] += 60
    assert contents(history, "a") == "12"
    clock["now"] += 61
    assert contents(history, "a") == ""
    assert len(history) == 0


def test_a_conversation_is_busy_until_its_turn_has_ended() -> None:
    """Two turns at once would each miss what the other says."""
    history = MemoryHistory()
    begin(history, "a")
    with pytest.raises(ConversationBusy):
        begin(history, "a")
    begin(history, "b")
    end(history, "a")
    begin(history, "a")


@pytest.mark.parametrize(
    "bounds",
    [{"max_conversations": 0}, {"max_messages": "5"}, {"max_characters": -1}, {"ttl": None}],
)
def test_a_bound_of_no_use_is_named(bounds: Dict[str, Any]) -> None:
    """When the store is made, and not when the first conversation does not fit."""
    with pytest.raises(SettingsError, match=next(iter(bounds))):
        MemoryHistory(**bounds)


@pytest.mark.parametrize(
    ("characters", "kept"), [(-5, ""), (0, ""), (1, ""), (2, "cd"), (5, "cd"), (6, "abcd")]
)
def test_the_window_is_the_newest_whole_turns_that_fit(characters: int, kept: str) -> None:
    """A model is sent what it can hold, and never an answer without its question."""
    messages = [*said("aa", "bb"), *said("c", "d")]
    assert "".join(message.content[0] for message in window(messages, characters)) == kept

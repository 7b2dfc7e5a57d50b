"""The part of a conversation that fits into a limit: its newest whole turns.

The newest one is always in it, or a follow-up such as "shorten that" would know of nothing. If it
is too long by itself, its longest messages lose their middle.
"""

from __future__ import annotations

from typing import Callable, List, Sequence, Tuple, TypeVar

from msgspec.structs import replace

from ..models import Message

T = TypeVar("T")
Messages = Tuple[Message, ...]

MARK = " [...] "
"""It stands in place of the middle of a text."""


def turns_of(messages: Sequence[Message]) -> List[Messages]:
    """The turns that `messages` make up: each begins with a message of the user."""
    turns: List[Messages] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append((message,))
        else:
            turns[-1] += (message,)
    return turns


def window(turns: Sequence[Messages], characters: int, least: int = 0) -> Messages:
    """The messages of the newest `turns` that have at most `characters` in all.

    If the newest one alone has more, it is shortened to `characters`, but not to fewer than
    `least`. If both are 0, nothing is left.
    """
    kept = newest(turns, characters, characters_of)
    if not kept and max(characters, least) > 0:
        kept = [shortened(turn, max(characters, least)) for turn in turns[-1:]]
    return tuple(message for turn in kept for message in turn)


def newest(turns: Sequence[T], limit: int, size: Callable[[T], int]) -> Sequence[T]:
    """The last of `turns` whose sizes add up to at most `limit`."""
    total = 0
    for number, turn in enumerate(reversed(turns)):
        total += size(turn)
        if total > limit:
            return turns[len(turns) - number :]
    return turns


def characters_of(turn: Messages) -> int:
    """The number of characters in a turn."""
    return sum(len(message.content) for message in turn)


def shortened(turn: Messages, characters: int) -> Messages:
    """`turn` with at most `characters`: long messages are cut to one length, short ones stay."""
    left, room = characters, 0
    for number, length in enumerate(sorted(len(message.content) for message in turn)):
        room = left // (len(turn) - number)
        if length > room:
            break
        left -= length
    else:
        return turn
    return tuple(
        replace(message, content=without_middle(message.content, room), shortened=True)
        if len(message.content) > room
        else message
        for message in turn
    )


def fitted(turn: Messages, limit: int, size: Callable[[Messages], int]) -> Messages:
    """`turn`, shortened until its `size` is at most `limit`, if that can be."""
    whole, characters = turn, characters_of(turn)
    taken = size(turn)
    while taken > limit and characters > 0:
        characters = characters * limit // taken
        turn = shortened(whole, characters)
        taken = size(turn)
    return turn


def is_said(message: Message, text: str) -> bool:
    """Whether `message` is the user's `text`, or what is left of it if it was shortened."""
    content = message.content
    whole = without_middle(text, len(content)) if message.shortened else text
    return message.role == "user" and content == whole


def without_middle(text: str, characters: int) -> str:
    """The beginning and the end of `text`, with MARK between, if it has more than `characters`."""
    if len(text) <= characters:
        return text
    room = characters - len(MARK)
    if room < 2:
        return text[:characters]
    return f"{text[: room - room // 2]}{MARK}{text[len(text) - room // 2 :]}"

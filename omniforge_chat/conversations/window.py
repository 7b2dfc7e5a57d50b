"""The part of a conversation that fits into a limit: its newest whole turns."""

from __future__ import annotations

from typing import Callable, List, Sequence, Tuple

from ..models import Message


def window(messages: Sequence[Message], characters: int) -> Tuple[Message, ...]:
    """The newest whole turns among `messages` that have at most `characters` in all."""
    turns: List[Tuple[Message, ...]] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append((message,))
        else:
            turns[-1] += (message,)
    return tuple(message for turn in newest(turns, characters, characters_of) for message in turn)


def newest(
    turns: List[Tuple[Message, ...]], limit: int, size: Callable[[Tuple[Message, ...]], int]
) -> List[Tuple[Message, ...]]:
    """The last of `turns` whose sizes add up to at most `limit`."""
    total = 0
    for number, turn in enumerate(reversed(turns)):
        total += size(turn)
        if total > limit:
            return turns[len(turns) - number :]
    return turns


def characters_of(turn: Tuple[Message, ...]) -> int:
    """The number of characters in a turn."""
    return sum(len(message.content) for message in turn)

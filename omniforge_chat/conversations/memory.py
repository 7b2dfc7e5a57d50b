"""A history in this process."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from time import monotonic
from typing import List, Sequence, Set, Tuple

import msgspec

from ..errors import ConversationBusy, SettingsError
from ..models import Message
from ..settings import AT_LEAST_ONE, check
from .window import characters_of, newest


class _Kept(msgspec.Struct):
    turns: List[Tuple[Message, ...]]
    used: float


class MemoryHistory:
    """A history in this process, bounded on every side. It is lost when the process ends.

    `max_conversations` are kept at most; the least recently used goes. Of each, the newest whole
    turns are kept that have at most `max_messages` and `max_characters` together. What was not used
    for `ttl` seconds is forgotten. Raises SettingsError for a bound of no use.
    """

    def __init__(
        self,
        *,
        max_conversations: int = 1_000,
        max_messages: int = 100,
        max_characters: int = 100_000,
        ttl: float = 86_400.0,
    ) -> None:
        for name, value in (
            ("max_conversations", max_conversations),
            ("max_messages", max_messages),
            ("max_characters", max_characters),
        ):
            check(name, value, AT_LEAST_ONE)
        if not isinstance(ttl, (int, float)) or not ttl > 0:
            raise SettingsError("ttl", ttl, "a number of seconds above 0")
        self._max_conversations = max_conversations
        self._max_messages = max_messages
        self._max_characters = max_characters
        self._ttl = ttl
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the least recently used first
        self._busy: Set[str] = set()

    def __len__(self) -> int:
        return len(self._kept)

    async def load(self, conversation_id: str) -> Sequence[Message]:
        """As in History."""
        if conversation_id in self._busy:
            raise ConversationBusy("Another message of this conversation is being answered")
        self._forget_old()
        self._busy.add(conversation_id)
        kept = self._kept.get(conversation_id)
        if kept is None:
            return ()
        self._use(conversation_id, kept)
        return [message for turn in kept.turns for message in turn]

    async def append(self, conversation_id: str, messages: Sequence[Message]) -> None:
        """As in History."""
        self._busy.discard(conversation_id)
        if not messages:
            return
        kept = self._kept.get(conversation_id) or _Kept([], 0.0)
        turns = [*kept.turns, tuple(messages)]
        kept.turns = newest(turns, self._max_messages, len)
        kept.turns = newest(kept.turns, self._max_characters, characters_of)
        self._use(conversation_id, kept)
        if len(self._kept) > self._max_conversations:
            self._forget_one()

    def _use(self, conversation_id: str, kept: _Kept) -> None:
        kept.used = monotonic()
        self._kept[conversation_id] = kept
        self._kept.move_to_end(conversation_id)

    def _forget_one(self) -> None:
        """Let the least recently used go, of those that are not just being continued."""
        for conversation_id in self._kept:
            if conversation_id not in self._busy:
                del self._kept[conversation_id]
                break

    def _forget_old(self) -> None:
        oldest_kept = monotonic() - self._ttl
        old = itertools.takewhile(lambda item: item[1].used < oldest_kept, self._kept.items())
        for conversation_id, _ in list(old):
            if conversation_id not in self._busy:
                del self._kept[conversation_id]

"""A store of conversations in this process."""

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


class _Conversation(msgspec.Struct):
    turns: List[Tuple[Message, ...]]
    used: float = 0.0


class MemoryHistory:
    """A History in this process, with limits for everything. It is lost when the process ends.

    It keeps at most `max_conversations`; the least recently used one goes first. Of each it keeps
    the newest whole turns that have at most `max_messages` messages and `max_characters` characters
    in all. A conversation that nobody has used for `ttl` seconds is forgotten. Raises SettingsError
    for a limit that makes no sense.
    """

    def __init__(
        self,
        *,
        max_conversations: int = 1_000,
        max_messages: int = 100,
        max_characters: int = 100_000,
        ttl: float = 86_400.0,
    ) -> None:
        check("max_conversations", max_conversations, AT_LEAST_ONE)
        check("max_messages", max_messages, AT_LEAST_ONE)
        check("max_characters", max_characters, AT_LEAST_ONE)
        if not isinstance(ttl, (int, float)) or not ttl > 0:
            raise SettingsError("ttl", ttl, "a number of seconds above 0")
        self._max_conversations = max_conversations
        self._max_messages = max_messages
        self._max_characters = max_characters
        self._ttl = ttl
        # The least recently used first.
        self._conversations: OrderedDict[str, _Conversation] = OrderedDict()
        self._claimed: Set[str] = set()

    def __len__(self) -> int:
        return len(self._conversations)

    async def begin_turn(self, conversation_id: str) -> Sequence[Message]:
        """See History."""
        if conversation_id in self._claimed:
            raise ConversationBusy("Another message of this conversation is being answered")
        self._forget_expired()
        self._claimed.add(conversation_id)
        conversation = self._conversations.get(conversation_id)
        if conversation is None:
            return ()
        self._use(conversation_id, conversation)
        return [message for turn in conversation.turns for message in turn]

    async def end_turn(self, conversation_id: str, messages: Sequence[Message]) -> None:
        """See History."""
        self._claimed.discard(conversation_id)
        if not messages:
            return
        conversation = self._conversations.get(conversation_id) or _Conversation([])
        turns = newest([*conversation.turns, tuple(messages)], self._max_messages, len)
        conversation.turns = newest(turns, self._max_characters, characters_of)
        self._use(conversation_id, conversation)
        if len(self._conversations) > self._max_conversations:
            self._forget_one()

    def _use(self, conversation_id: str, conversation: _Conversation) -> None:
        conversation.used = monotonic()
        self._conversations[conversation_id] = conversation
        self._conversations.move_to_end(conversation_id)

    def _forget_one(self) -> None:
        """Forget the least recently used conversation that nobody has claimed."""
        for conversation_id in self._conversations:
            if conversation_id not in self._claimed:
                del self._conversations[conversation_id]
                break

    def _forget_expired(self) -> None:
        limit = monotonic() - self._ttl
        expired = itertools.takewhile(
            lambda item: item[1].used < limit, self._conversations.items()
        )
        for conversation_id, _ in list(expired):
            if conversation_id not in self._claimed:
                del self._conversations[conversation_id]

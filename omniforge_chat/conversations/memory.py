"""A store of conversations in this process.

It keeps each turn as bytes, and not as text: Python takes four bytes for each character of a text
that has one emoji in it, and as much again once such a text has been encoded. So a bound in bytes
is one for the memory of the process, whatever people write.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from datetime import datetime, timezone
from time import monotonic, time
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import msgspec

from ..errors import ConversationBusy, ConversationNotFound
from ..models import Message, StoredMessage
from ..rules import AT_LEAST_1_KIB, AT_LEAST_ONE, SettingsError, check
from ..settings import Settings
from .protocol import Claim
from .window import characters_of, newest, shortened

TURN_BYTES = 160
CONVERSATION_BYTES = 512
"""The memory that a turn and a conversation take besides their text, rounded up."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Tuple[Message, ...]).decode


class _Turn(NamedTuple):
    messages: int
    data: bytes
    ended: float  # seconds since 1970


class _Conversation(msgspec.Struct):
    owner: str
    turns: List[_Turn]
    bytes: int = 0
    used: float = 0.0


class MemoryHistory:
    """A History in this process, with limits for everything. It is lost when the process ends.

    It keeps at most `max_conversations` that take at most `max_total_bytes` of memory; the least
    recently used one goes first. Of each it keeps the newest whole turns that have at most
    `max_messages` messages and take at most `max_bytes`. The newest turn always stays, shortened if
    it must be. A conversation that nobody has used for `ttl` seconds is forgotten. Raises
    SettingsError for a limit that makes no sense.
    """

    def __init__(
        self,
        *,
        max_conversations: int = 1_000,
        max_messages: int = 100,
        max_bytes: int = 128 * 1024,
        max_total_bytes: int = 64 * 1024 * 1024,
        ttl: float = 86_400.0,
    ) -> None:
        check("max_conversations", max_conversations, AT_LEAST_ONE)
        check("max_messages", max_messages, AT_LEAST_ONE)
        check("max_bytes", max_bytes, AT_LEAST_1_KIB)
        check("max_total_bytes", max_total_bytes, AT_LEAST_1_KIB)
        if not isinstance(ttl, (int, float)) or not ttl > 0:
            raise SettingsError("ttl", ttl, "a number of seconds above 0")
        self._max_conversations = max_conversations
        self._max_messages = max_messages
        self._max_bytes = min(max_bytes, max_total_bytes) - CONVERSATION_BYTES
        self._max_total_bytes = max_total_bytes
        self._ttl = ttl
        # The least recently used first.
        self._conversations: OrderedDict[str, _Conversation] = OrderedDict()
        self._bytes = 0
        self._claims: Dict[str, Claim] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> MemoryHistory:
        """The one that `settings` describe."""
        return cls(
            max_conversations=settings.history_conversations,
            max_messages=settings.history_messages,
            max_bytes=settings.history_bytes,
            max_total_bytes=settings.history_total_bytes,
            ttl=settings.history_ttl,
        )

    def __len__(self) -> int:
        return len(self._conversations)

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        """See History."""
        conversation_id = claim.conversation_id
        self._forget_expired()
        conversation = self._owned(conversation_id, claim.owner)
        if conversation_id in self._claims:
            raise ConversationBusy("Another message of this conversation is being answered")
        self._claims[conversation_id] = claim
        if conversation is None:
            return ()
        self._use(conversation_id, conversation)
        return [message for turn in conversation.turns for message in _decode(turn.data)]

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int = 0) -> None:
        """See History."""
        conversation_id = claim.conversation_id
        if self._claims.get(conversation_id) != claim:
            return  # the conversation was deleted meanwhile
        del self._claims[conversation_id]
        if not messages:
            return
        turn = self._encoded(tuple(messages))
        conversation = self._conversations.get(conversation_id) or _Conversation(claim.owner, [])
        earlier = list(conversation.turns)
        while replaced > 0 and earlier:
            replaced -= earlier.pop().messages
        room = self._max_messages - turn.messages
        turns = [*newest(earlier, room, lambda earlier: earlier.messages), turn]
        conversation.turns = list(newest(turns, self._max_bytes, _bytes_of))
        taken = CONVERSATION_BYTES + sum(map(_bytes_of, conversation.turns))
        self._bytes += taken - conversation.bytes
        conversation.bytes = taken
        self._use(conversation_id, conversation)
        while (
            len(self._conversations) > self._max_conversations
            or self._bytes > self._max_total_bytes
        ) and self._forget_one():
            pass

    async def read(self, conversation_id: str, owner: str) -> Sequence[StoredMessage]:
        """See StoredConversations."""
        self._forget_expired()
        conversation = self._owned(conversation_id, owner)
        if conversation is None:
            raise _unknown()
        return [
            StoredMessage(
                *(message.role, message.content, message.complete),
                datetime.fromtimestamp(turn.ended, timezone.utc),
            )
            for turn in conversation.turns
            for message in _decode(turn.data)
        ]

    async def delete(self, conversation_id: str, owner: str) -> None:
        """See StoredConversations."""
        if self._owned(conversation_id, owner) is not None:
            self._forget(conversation_id)
        elif conversation_id not in self._claims:
            raise _unknown()
        self._claims.pop(conversation_id, None)

    def _owned(self, conversation_id: str, owner: str) -> Optional[_Conversation]:
        """A conversation, if there is one. Raises ConversationNotFound if it is not `owner`'s."""
        conversation = self._conversations.get(conversation_id)
        known = conversation or self._claims.get(conversation_id)
        if known is not None and known.owner != owner:
            raise _unknown()
        return conversation

    def _encoded(self, messages: Tuple[Message, ...]) -> _Turn:
        """The turn of `messages`, shortened if it takes more than a conversation may."""
        data = _encode(messages)
        limit, characters = self._max_bytes - TURN_BYTES, characters_of(messages)
        while len(data) > limit and characters > 0:
            characters = characters * limit // len(data)
            data = _encode(shortened(messages, characters))
        # The encoder's bytes are up to half as large again within; those of a copy are not.
        return _Turn(len(messages), bytes(memoryview(data)), time())

    def _use(self, conversation_id: str, conversation: _Conversation) -> None:
        conversation.used = monotonic()
        self._conversations[conversation_id] = conversation
        self._conversations.move_to_end(conversation_id)

    def _forget(self, conversation_id: str) -> None:
        self._bytes -= self._conversations.pop(conversation_id).bytes

    def _forget_one(self) -> bool:
        """Forget the least recently used conversation that nobody has claimed, if there is one."""
        for conversation_id in self._conversations:
            if conversation_id not in self._claims:
                self._forget(conversation_id)
                return True
        return False

    def _forget_expired(self) -> None:
        limit = monotonic() - self._ttl
        expired = itertools.takewhile(
            lambda item: item[1].used < limit, self._conversations.items()
        )
        for conversation_id, _ in list(expired):
            if conversation_id not in self._claims:
                self._forget(conversation_id)


def _unknown() -> ConversationNotFound:
    return ConversationNotFound("No conversation with this id is stored")


def _bytes_of(turn: _Turn) -> int:
    return TURN_BYTES + len(turn.data)

"""The replies of this process, by their ids and by their conversations."""

from __future__ import annotations

from typing import Dict, Generic, Iterator, List, Optional, Tuple, TypeVar

from .live import LiveReply

R = TypeVar("R", bound=LiveReply)


class Shelf(Generic[R]):
    """Replies that can be found. An id is nothing without the owner."""

    def __init__(self) -> None:
        self._replies: Dict[str, R] = {}
        self._conversations: Dict[Tuple[str, str], List[R]] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def __iter__(self) -> Iterator[R]:
        return iter(self._replies.values())

    def __contains__(self, reply: R) -> bool:
        return self._replies.get(reply.reply_id) is reply

    def add(self, reply: R) -> None:
        self._replies[reply.reply_id] = reply
        conversation = (reply.owner, reply.conversation_id)
        self._conversations.setdefault(conversation, []).append(reply)

    def remove(self, reply: R) -> None:
        del self._replies[reply.reply_id]
        conversation = (reply.owner, reply.conversation_id)
        others = self._conversations[conversation]
        others.remove(reply)
        if not others:
            del self._conversations[conversation]

    def get(self, reply_id: str) -> Optional[R]:
        """A reply, whoever owns it."""
        return self._replies.get(reply_id)

    def of(self, conversation_id: str, owner: str) -> List[R]:
        """The replies of a conversation, oldest first."""
        return list(self._conversations.get((owner, conversation_id), ()))

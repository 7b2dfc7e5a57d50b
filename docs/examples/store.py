"""A store of conversations: the History protocol on a directory, with a file for each conversation.

    app = create_app(respond, history=FileHistory("conversations"))

It is for one process, because it keeps its claims in memory. It keeps every conversation: you may
want to delete old files.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Dict, List, Sequence

import msgspec

from omniforge_chat import Claim, ConversationBusy, ConversationNotFound, Message


class Conversation(msgspec.Struct):
    """What is in a file, as JSON."""

    owner: str
    messages: List[Message]


class FileHistory:
    """Conversations in the files of `directory`, which is made if it is not there."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._claims: Dict[str, Claim] = {}

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        """Claim the conversation, and return its messages, oldest first.

        Raises ConversationBusy if it is claimed, and ConversationNotFound if it is another owner's.
        """
        held = self._claims.setdefault(claim.conversation_id, claim)
        if held.owner != claim.owner:
            raise ConversationNotFound("You have no conversation with this id")
        if held is not claim:
            raise ConversationBusy("Another message of this conversation is being answered")
        try:
            # A disk blocks, and the event loop must not: every stream would stand still.
            conversation = await asyncio.to_thread(self._load, claim)
        except BaseException:
            del self._claims[claim.conversation_id]
            raise
        return conversation.messages

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        """Put the turn's messages in place of the last `replaced`; release the conversation."""
        if self._claims.get(claim.conversation_id) != claim:
            return
        try:
            if messages:
                await asyncio.to_thread(self._store, claim, messages, replaced)
        finally:
            del self._claims[claim.conversation_id]

    def _path(self, claim: Claim) -> Path:
        # An id may have any visible character in it, such as a slash.
        return self._directory / hashlib.sha256(claim.conversation_id.encode()).hexdigest()

    def _load(self, claim: Claim) -> Conversation:
        try:
            data = self._path(claim).read_bytes()
        except FileNotFoundError:
            return Conversation(claim.owner, [])
        conversation = msgspec.json.decode(data, type=Conversation)
        if conversation.owner != claim.owner:
            raise ConversationNotFound("You have no conversation with this id")
        return conversation

    def _store(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        conversation = self._load(claim)
        kept = conversation.messages[: len(conversation.messages) - replaced]
        conversation.messages = [*kept, *messages]
        # All of it or nothing: whoever reads meanwhile, or after a crash, finds the old file.
        path = self._path(claim)
        written = path.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(conversation))
        written.replace(path)

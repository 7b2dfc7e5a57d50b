"""A stored conversation as a document, and its end: for the routes and for the command line."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

from ..conversations.protocol import StoredConversations
from ..errors import ConversationNotFound
from ..models import StoredMessage
from ..replay import Replay


def conversation_document(
    conversation_id: str, messages: Sequence[StoredMessage]
) -> Dict[str, Any]:
    """What clients get of a conversation."""
    return {"conversation_id": conversation_id, "messages": messages}


async def delete_conversation(
    stored: StoredConversations, replay: Optional[Replay], conversation_id: str, owner: str
) -> None:
    """Delete a conversation and the replies that are kept of it; one that runs is stopped.

    If it fails half-way, call it again. Raises ConversationNotFound if there is nothing to delete,
    HistoryUnavailable and ReplayUnavailable.
    """
    kept = None
    if replay is not None:
        kept = await replay.newest(conversation_id, owner)
    try:
        # First, so that a reply that is being stopped stores nothing.
        await stored.delete(conversation_id, owner)
    except ConversationNotFound:
        if kept is None:
            raise
    if replay is not None:
        await replay.forget(conversation_id, owner)

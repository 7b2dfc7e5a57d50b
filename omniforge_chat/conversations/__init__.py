"""Earlier messages, and whose turn it is: stores of conversations, and one turn with a store.

`http` runs a turn through `ConversationTurn`; `app` makes the store that the settings name. A store
of yours follows the protocol `History`.
"""

from typing import Optional

from ..settings import Settings
from ..stores import SharedRedis
from .memory import MemoryHistory
from .protocol import Claim, History, StoredConversations
from .turn import ConversationTurn, late_history

__all__ = [
    "Claim",
    "ConversationTurn",
    "History",
    "MemoryHistory",
    "StoredConversations",
    "late_history",
    "make_history",
]


def make_history(settings: Settings, redis: Optional[SharedRedis] = None) -> Optional[History]:
    """The store of conversations that `settings` name, or None. `redis` is for the one in Redis."""
    return MemoryHistory.from_settings(settings) if settings.history == "memory" else None

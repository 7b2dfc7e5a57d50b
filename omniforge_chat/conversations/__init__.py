"""Earlier messages, and whose turn it is: stores of conversations, and one turn with a store.

`http` runs a turn through `ConversationTurn`; `app` makes the store that the settings name. A store
of yours follows the protocol `History`.
"""

from typing import Optional

from ..settings import Settings
from ..stores import SharedRedis
from .memory import MemoryHistory
from .protocol import Claim, History, StoredConversations
from .redis import RedisHistory
from .turn import ConversationTurn, late_history

__all__ = [
    "Claim",
    "ConversationTurn",
    "History",
    "MemoryHistory",
    "RedisHistory",
    "StoredConversations",
    "late_history",
    "make_history",
]


def make_history(settings: Settings, redis: Optional[SharedRedis] = None) -> Optional[History]:
    """The store of conversations that `settings` name, or None. `redis` is for the one in Redis."""
    if settings.history == "memory":
        return MemoryHistory.from_settings(settings)
    if settings.history == "redis" and redis is not None:
        return RedisHistory.from_settings(settings, redis)
    return None

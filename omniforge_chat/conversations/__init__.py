"""Earlier messages, and whose turn it is: stores of conversations, and one turn with a store.

`http` runs a turn through `ConversationTurn`; `app` makes the store that the settings name. A store
of yours follows the protocol `History`.
"""

from .loading import make_history
from .memory import MemoryHistory
from .protocol import Claim, History, StoredConversations
from .redis import RedisHistory
from .turn import ConversationTurn

__all__ = [
    "Claim",
    "ConversationTurn",
    "History",
    "MemoryHistory",
    "RedisHistory",
    "StoredConversations",
    "make_history",
]

"""What was said before: the conversations that a service remembers.

A history is asked twice for each turn. `load` begins the turn: it gives the earlier messages and
claims the conversation, so that a second chat in it is told to wait. `append` ends the turn: it
adds what came of it and gives the conversation free. Each is one round trip for a store on another
machine, and nothing but ids and messages passes. Such a store should let a claim lapse that nobody
ends, as the process that made it may have died; and it should renew those of its own process until
they end, as a turn may take longer than is worth waiting for a process that has died.
"""

from __future__ import annotations

from typing import Protocol, Sequence

from ..models import Message


class History(Protocol):
    """Where conversations are kept. It may be asked for many conversations at once."""

    async def load(self, conversation_id: str) -> Sequence[Message]:
        """Begin a turn: all that is kept of the conversation, oldest first; nothing, if unknown.

        Raises ConversationBusy while another turn of the conversation has not ended. What raises
        has claimed nothing. A caller may stop waiting; the turn is ended when this returns after
        all, and it is cancelled after LATE_SECONDS.
        """

    async def append(self, conversation_id: str, messages: Sequence[Message]) -> None:
        """End the turn that `load` began. `messages` are what came of it, perhaps none."""


LATE_SECONDS = 60.0
"""How long a `load` may go on that nobody waits for any more."""

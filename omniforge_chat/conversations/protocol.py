"""The protocol that a store of conversations follows, for you who write one.

The service calls a store twice for each message that it answers:

1. `begin_turn` claims the conversation and returns its earlier messages. Until the turn ends, a
   second chat in the same conversation is refused.
2. `end_turn` adds the messages of the turn, perhaps in place of the last ones, and releases the
   claim.

For a store on another machine each call can be one round trip: only ids and messages are passed.
If several processes share your store, one of them may die while it holds a claim. So let a claim
expire, and renew the claims of your own process until their turns end: a turn may take longer than
you want to wait for a process that has died.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Protocol, Sequence

from ..models import Message

ABANDONED_SECONDS = 60.0
"""How long a `begin_turn` may still run after its chat has stopped waiting for it."""


class History(Protocol):
    """A store of conversations. It is called for many conversations at once.

    If it also has a method `async def aclose(self)`, `ChatApp.aclose` calls that.
    """

    async def begin_turn(self, conversation_id: str) -> Sequence[Message]:
        """Claim the conversation, and return its messages, oldest first.

        Return an empty sequence if you do not know the conversation. Raise ConversationBusy while
        another turn holds the claim: the chat is then refused with 409. Any other exception refuses
        it with 500. If you raise, you hold no claim, and `end_turn` is not called.

        If this takes longer than `body_timeout`, or the client's request is cancelled, the chat
        stops waiting. It does not cancel your coroutine: as soon as you return, `end_turn` releases
        the claim. After 60 more seconds you are cancelled.
        """

    async def end_turn(
        self, conversation_id: str, messages: Sequence[Message], replaced: int
    ) -> None:
        """Add `messages` to the conversation, and release the claim that `begin_turn` made.

        `messages` is the user's message and the reply, or empty if there was no reply. A reply that
        was cut has `complete=False`. `replaced` is the number of the newest messages that
        `begin_turn` has returned, in place of which the new ones come: remove them and add these in
        one step, so that a failure loses neither. If your claim has expired meanwhile, remove none.
        It is 0 for most turns, and whenever `messages` is empty. The chat waits for half of
        `cleanup_timeout`; you may go on after that. An exception is logged, and the client does not
        see it.
        """


def check_history(history: object) -> None:
    """Raises TypeError, which says what to write, if `history` cannot be called as a History."""
    calls = {"begin_turn": ("conversation_id",), "end_turn": ("conversation_id", (), 0)}
    for name, arguments in calls.items():
        method = getattr(history, name, None)
        if inspect.isclass(history) or not callable(method):
            raise TypeError(f"history has no `begin_turn` and `end_turn` to call: {history!r}")
        with contextlib.suppress(ValueError):  # it does not tell its parameters
            try:
                inspect.signature(method).bind(*arguments)
            except TypeError as error:
                wanted = ", ".join([*inspect.signature(getattr(History, name)).parameters][1:])
                raise TypeError(f"{name}({wanted}) of {history!r}: {error}") from None

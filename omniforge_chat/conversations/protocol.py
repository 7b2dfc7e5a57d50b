"""The protocol that a store of conversations follows, for you who write one.

The service calls a store twice for each message that it answers:

1. `begin_turn` claims the conversation and returns its earlier messages. Until the turn ends, a
   second chat in the same conversation is refused.
2. `end_turn` adds the messages of the turn, perhaps in place of the last ones, and releases the
   claim.

For a store on another machine each call can be one round trip: only a claim and messages are
passed. If several processes share your store, one of them may die while it holds a claim. So let a
claim expire, and renew the claims of your own process until their turns end: a turn may take longer
than you want to wait for a process that has died. `Claim.message` is there for that case: keep it
with the claim, and whoever takes over an expired one adds it to the conversation.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Protocol, Sequence, runtime_checkable

import msgspec

from ..models import Message, StoredMessage

ABANDONED_SECONDS = 60.0
"""How long a `begin_turn` may still run after its chat has stopped waiting for it."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One turn's right to a conversation.

    - `conversation_id`: 1 to 128 visible ASCII characters.
    - `owner`: who asks, as the app around the chat has found out, or "". A conversation belongs to
      the first one who speaks in it.
    - `turn_id`: it is never used again, so it tells this claim from all others.
    - `message`: the user's message that is to be answered.
    """

    conversation_id: str
    owner: str
    turn_id: str
    message: str


class History(Protocol):
    """A store of conversations. It is called for many conversations at once.

    If it also has a method `async def aclose(self)`, `ChatApp.aclose` calls that. If it has those
    of StoredConversations, clients can read and delete a conversation.
    """

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        """Claim the conversation, and return its messages, oldest first.

        Return an empty sequence if you do not know the conversation. Raise ConversationBusy while
        another turn holds the claim: the chat is then refused with 409. Raise ConversationNotFound
        (404) if it belongs to another owner, and HistoryUnavailable (503) if you cannot tell. Any
        other exception refuses it with 500. If you raise, you hold no claim, and `end_turn` is not
        called.

        If this takes longer than `body_timeout`, or the client's request is cancelled, the chat
        stops waiting. It does not cancel your coroutine: as soon as you return, `end_turn` releases
        the claim. After 60 more seconds you are cancelled.
        """

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        """Add `messages` to the conversation, and release the claim that `begin_turn` made.

        `messages` is the user's message and the reply, or empty if there was no reply. A reply that
        was cut has `complete=False`. `replaced` is the number of the newest messages that
        `begin_turn` has returned, in place of which the new ones come: remove them and add these in
        one step, so that a failure loses neither. It is 0 for most turns, and whenever `messages`
        is empty. If the claim is no longer this one, because it has expired or the conversation was
        deleted, change nothing. The chat waits for half of `cleanup_timeout`; you may go on after
        that. An exception is logged, and the client does not see it.
        """


@runtime_checkable
class StoredConversations(Protocol):
    """The further methods of a History whose conversations can be read and deleted."""

    async def read(self, conversation_id: str, owner: str) -> Sequence[StoredMessage]:
        """The messages of a conversation, oldest first.

        Raises ConversationNotFound, also if it belongs to another owner.
        """

    async def delete(self, conversation_id: str, owner: str) -> None:
        """Delete all of a conversation, and its claim: a turn that runs stores nothing.

        Raises ConversationNotFound, also if it belongs to another owner.
        """


_CLAIM = Claim("", "", "", "")
_CALLS = {"begin_turn": (_CLAIM,), "end_turn": (_CLAIM, (), 0)}


def check_history(history: object) -> None:
    """Raises TypeError, which says what to write, if `history` cannot be called as a History."""
    for name, arguments in _CALLS.items():
        method = getattr(history, name, None)
        if inspect.isclass(history) or not callable(method):
            raise TypeError(f"history has no `begin_turn` and `end_turn` to call: {history!r}")
        with contextlib.suppress(ValueError):  # it does not tell its parameters
            try:
                inspect.signature(method).bind(*arguments)
            except TypeError as error:
                wanted = ", ".join([*inspect.signature(getattr(History, name)).parameters][1:])
                raise TypeError(f"{name}({wanted}) of {history!r}: {error}") from None

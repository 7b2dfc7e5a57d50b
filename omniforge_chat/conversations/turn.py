"""One turn of a conversation that is stored."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Coroutine, List, Optional, Sequence, Set

from ..core.responder import Item, Responder, close, iterate
from ..errors import HistoryUnavailable
from ..logs import logger
from ..models import Message, Turn
from .protocol import ABANDONED_SECONDS, Claim, History
from .window import Messages, is_said, turns_of, window

LEAST_CHARACTERS = 1_000
"""The room that a message leaves to the turn before it, however long it is itself."""

_background_tasks: Set[asyncio.Task[None]] = set()


def _run_in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that goes on even if nobody waits for it: the event loop alone does not keep it."""
    task = asyncio.ensure_future(work)
    _background_tasks.add(task)
    task.add_done_callback(_background_tasks.discard)
    return task


def _encodable(parts: List[str]) -> str:
    """The text before the first part that has no UTF-8, which no client could be sent."""
    for count, part in enumerate(parts):
        try:
            part.encode()
        except UnicodeEncodeError:
            return "".join(parts[:count])
    return "".join(parts)


def _is_complete(messages: Sequence[Message]) -> bool:
    """Whether there is a reply, and none was cut."""
    return len(messages) > 0 and all(message.complete for message in messages)


class ConversationTurn:
    """One turn of a stored conversation: one `begin_turn`, then exactly one `end_turn`.

    If `end_turn` takes longer than `timeout` seconds, it goes on in the background.
    """

    def __init__(self, history: History, claim: Claim, *, timeout: float) -> None:
        self._history = history
        self._claim = claim
        self._timeout = timeout
        self.earlier: Messages = ()
        self._claimed = False
        self._replaced: Messages = ()
        self._edited = False

    async def begin(
        self,
        *,
        context_chars: int,
        regenerate: bool = False,
        edits: Optional[str] = None,
    ) -> None:
        """Claim the conversation; `earlier` are then the newest whole turns that fit.

        The newest turn is always there, shortened if it must be; except if `context_chars` is 0.
        A last turn is left out, and the new turn will replace it, if its message is `edits`, or if
        it is the same and `regenerate` is set or nobody has answered it. Raises what the history
        raises.
        """
        message = self._claim.message
        # The store works in a task of its own. If a cancellation could reach it, nobody would know
        # whether it has claimed the conversation.
        beginning = asyncio.ensure_future(self._history.begin_turn(self._claim))
        try:
            await asyncio.wait([beginning])
        except asyncio.CancelledError:
            _run_in_background(self._release_when_claimed(beginning))
            raise
        if beginning.cancelled():
            raise RuntimeError("begin_turn of the history was cancelled, but not by this service")
        earlier = beginning.result()
        self._claimed = True
        turns = turns_of(earlier)
        # A turn that was refused, or had no reply, was never stored: then the last one is another.
        # One whose process died is stored without a reply.
        if turns:
            last, *replies = turns[-1]
            again = (regenerate or not replies) and is_said(last, message)
            self._edited = not again and edits is not None and is_said(last, edits)
            if again or self._edited:
                self._replaced = turns.pop()
        least = min(context_chars, LEAST_CHARACTERS)
        self.earlier = window(turns, context_chars - len(message), least)

    def late(self, seconds: float) -> HistoryUnavailable:
        """The error if `begin` takes longer than `seconds`, which is logged."""
        self._warn(seconds)
        return HistoryUnavailable(f"The store of conversations did not answer within {seconds:g} s")

    def _warn(self, seconds: float) -> None:
        logger.warning(
            "history has not answered within %g s conversation_id=%s",
            *(seconds, self._claim.conversation_id),
        )

    async def _release_when_claimed(self, beginning: asyncio.Future[Sequence[Message]]) -> None:
        await asyncio.wait([beginning], timeout=ABANDONED_SECONDS)
        if not beginning.done():
            beginning.cancel()
        elif not beginning.cancelled() and beginning.exception() is None:
            await self._end(())

    def record(self, responder: Responder) -> Responder:
        """A responder that answers as `responder` does, and stores the turn when it ends."""

        async def recorded(turn: Turn) -> AsyncIterator[Item]:
            parts: List[str] = []
            complete = False
            reply: Any = None
            try:
                reply = iterate(responder(turn))
                async for item in reply:
                    if isinstance(item, str):
                        parts.append(item)
                    yield item
                complete = True
            finally:
                try:
                    await close(reply, turn)
                finally:
                    text = _encodable(parts)
                    complete = complete and len(text) == sum(map(len, parts))
                    said = (Message("user", turn.message), Message("assistant", text, complete))
                    await self.end(said if text else ())

        return recorded

    async def end(self, messages: Sequence[Message] = ()) -> None:
        """Release the conversation, with the messages of the turn. A second call does nothing."""
        if not self._claimed:
            return
        self._claimed = False
        # Again a task of its own: a cancellation that reached the store's work would leave the
        # conversation claimed. A stream that has waited long enough cancels twice; then the task
        # goes on without it.
        ending = _run_in_background(self._end(messages))
        try:
            await asyncio.wait([ending], timeout=self._timeout)
        except asyncio.CancelledError:
            await asyncio.wait([ending], timeout=self._timeout)
            raise
        if not ending.done():
            # The client has its reply. It is not kept waiting for `done`.
            self._warn(self._timeout)

    async def _end(self, messages: Sequence[Message]) -> None:
        replaced = self._replaced if messages else ()
        if _is_complete(replaced) and not _is_complete(messages) and not self._edited:
            messages, replaced = (), ()  # a whole reply is worth more than one that was cut
        try:
            await self._history.end_turn(self._claim, messages, len(replaced))
        except Exception:
            # The client has its reply. Only the next turn will not know of it.
            logger.exception("history failed conversation_id=%s", self._claim.conversation_id)

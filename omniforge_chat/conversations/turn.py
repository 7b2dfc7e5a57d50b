"""One turn's dealings with a history."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, List, Sequence, Set, Tuple

from ..core.reply import Item, Responder, close, iterate
from ..logs import logger
from ..models import Message, Turn
from .protocol import LATE_SECONDS, History
from .window import window


def _encodable(parts: List[str]) -> str:
    """The text up to the first part that has no UTF-8: that is where its client lost it."""
    for count, part in enumerate(parts):
        try:
            part.encode()
        except UnicodeEncodeError:
            return "".join(parts[:count])
    return "".join(parts)


_going_on: Set[asyncio.Future[None]] = set()


def _keep(task: asyncio.Future[None]) -> asyncio.Future[None]:
    """`task`, which goes on whoever stops waiting for it: event loops refer to tasks weakly."""
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    return task


def late_history(seconds: float) -> TimeoutError:
    """The error of a history whose `load` took longer than `seconds`."""
    return TimeoutError(f"the history did not answer within {seconds:g} seconds")


class Recollection:
    """One turn's dealings with a history, from `load` to exactly one `append`.

    An `append` that takes longer than `seconds` goes on without being waited for.
    """

    def __init__(self, history: History, conversation_id: str, *, seconds: float) -> None:
        self._history = history
        self._conversation_id = conversation_id
        self._seconds = seconds
        self._open = False

    async def begin(self, message: str, *, context_chars: int) -> Tuple[Message, ...]:
        """The earlier messages that go with `message`: whole turns, the newest that fit."""
        # In a task of its own: a cancellation that got into it might or might not find that the
        # store has claimed the conversation.
        loading = asyncio.ensure_future(self._history.load(self._conversation_id))
        try:
            await asyncio.wait([loading])
        except asyncio.CancelledError:
            _keep(asyncio.ensure_future(self._give_up(loading)))
            raise
        if loading.cancelled():
            raise RuntimeError("the history's load was cancelled, but not by us")
        earlier = loading.result()
        self._open = True
        return window(earlier, context_chars - len(message))

    async def _give_up(self, loading: asyncio.Future[Sequence[Message]]) -> None:
        """End the turn that `loading` still begins."""
        await asyncio.wait([loading], timeout=LATE_SECONDS)
        if not loading.done():
            loading.cancel()
        elif not loading.cancelled() and loading.exception() is None:
            await self._append(())

    def of(self, responder: Responder) -> Responder:
        """A responder that answers as `responder` does, and remembers the turn when it ends."""

        async def remembering(turn: Turn) -> AsyncIterator[Item]:
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

        return remembering

    async def end(self, messages: Sequence[Message] = ()) -> None:
        """Give the conversation free, with what came of the turn; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        # In a task of its own: a client may leave at any time, and a cancellation that got into a
        # store's work would leave the conversation claimed. A stream that has waited long enough
        # cancels twice; then the task goes on without it.
        ending = _keep(asyncio.ensure_future(self._append(messages)))
        try:
            await asyncio.wait([ending], timeout=self._seconds)
        except asyncio.CancelledError:
            await asyncio.wait([ending], timeout=self._seconds)
            raise
        if not ending.done():
            # The client has its reply, and is told so.
            logger.warning(
                "history has not answered within %g s conversation_id=%s",
                *(self._seconds, self._conversation_id),
            )

    async def _append(self, messages: Sequence[Message]) -> None:
        try:
            await self._history.append(self._conversation_id, messages)
        except Exception:
            # The client has its reply; only the next turn will not know of it.
            logger.exception("history failed conversation_id=%s", self._conversation_id)

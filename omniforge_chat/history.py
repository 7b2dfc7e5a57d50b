"""What was said before: the conversations that a service remembers.

A history is asked twice for each turn. `load` begins the turn: it gives the earlier messages and
claims the conversation, so that a second chat in it is told to wait. `append` ends the turn: it
adds what came of it and gives the conversation free. Each is one round trip for a store on another
machine, and nothing but ids and messages passes. Such a store should let a claim lapse that nobody
ends, as the process that made it may have died; and it should renew those of its own process until
they end, as a turn may take longer than is worth waiting for a process that has died.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from time import monotonic
from typing import Any, AsyncIterator, Callable, List, Protocol, Sequence, Set, Tuple

import msgspec

from .chat import Item, Responder, close, iterate
from .errors import ConversationBusy, SettingsError
from .logs import logger
from .models import Message, Turn
from .settings import AT_LEAST_ONE, check


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


class _Kept(msgspec.Struct):
    turns: List[Tuple[Message, ...]]
    used: float


class MemoryHistory:
    """A history in this process, bounded on every side. It is lost when the process ends.

    `max_conversations` are kept at most; the least recently used goes. Of each, the newest whole
    turns are kept that have at most `max_messages` and `max_characters` together. What was not used
    for `max_age` seconds is forgotten. Raises SettingsError for a bound of no use.
    """

    def __init__(
        self,
        *,
        max_conversations: int = 1_000,
        max_messages: int = 100,
        max_characters: int = 100_000,
        max_age: float = 86_400.0,
    ) -> None:
        for name, value in (
            ("max_conversations", max_conversations),
            ("max_messages", max_messages),
            ("max_characters", max_characters),
        ):
            check(name, value, AT_LEAST_ONE)
        if not isinstance(max_age, (int, float)) or not max_age > 0:
            raise SettingsError("max_age", max_age, "a number of seconds above 0")
        self._max_conversations = max_conversations
        self._max_messages = max_messages
        self._max_characters = max_characters
        self._max_age = max_age
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the least recently used first
        self._busy: Set[str] = set()

    def __len__(self) -> int:
        return len(self._kept)

    async def load(self, conversation_id: str) -> Sequence[Message]:
        """As in History."""
        if conversation_id in self._busy:
            raise ConversationBusy("Another message of this conversation is being answered")
        self._forget_old()
        self._busy.add(conversation_id)
        kept = self._kept.get(conversation_id)
        if kept is None:
            return ()
        self._use(conversation_id, kept)
        return [message for turn in kept.turns for message in turn]

    async def append(self, conversation_id: str, messages: Sequence[Message]) -> None:
        """As in History."""
        self._busy.discard(conversation_id)
        if not messages:
            return
        kept = self._kept.get(conversation_id) or _Kept([], 0.0)
        turns = [*kept.turns, tuple(messages)]
        kept.turns = _newest(turns, self._max_messages, len)
        kept.turns = _newest(kept.turns, self._max_characters, _characters)
        self._use(conversation_id, kept)
        if len(self._kept) > self._max_conversations:
            self._forget_one()

    def _use(self, conversation_id: str, kept: _Kept) -> None:
        kept.used = monotonic()
        self._kept[conversation_id] = kept
        self._kept.move_to_end(conversation_id)

    def _forget_one(self) -> None:
        """Let the least recently used go, of those that are not just being continued."""
        for conversation_id in self._kept:
            if conversation_id not in self._busy:
                del self._kept[conversation_id]
                break

    def _forget_old(self) -> None:
        oldest_kept = monotonic() - self._max_age
        old = itertools.takewhile(lambda item: item[1].used < oldest_kept, self._kept.items())
        for conversation_id, _ in list(old):
            if conversation_id not in self._busy:
                del self._kept[conversation_id]


def window(messages: Sequence[Message], characters: int) -> Tuple[Message, ...]:
    """The newest whole turns among `messages` that have at most `characters` together."""
    turns: List[Tuple[Message, ...]] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append((message,))
        else:
            turns[-1] += (message,)
    return tuple(message for turn in _newest(turns, characters, _characters) for message in turn)


def _newest(
    turns: List[Tuple[Message, ...]], limit: int, size: Callable[[Tuple[Message, ...]], int]
) -> List[Tuple[Message, ...]]:
    total = 0
    for number, turn in enumerate(reversed(turns)):
        total += size(turn)
        if total > limit:
            return turns[len(turns) - number :]
    return turns


def _characters(turn: Tuple[Message, ...]) -> int:
    return sum(len(message.content) for message in turn)


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

"""The core: a turn and a responder in, a reply out. It knows nothing of HTTP.

The text of a responder is gathered in `Reply.ready`. Whoever drives `converse` takes it from there
when something is about to wait, and only then (driver.py). So a piece is on its way before the
responder waits for the next one. A responder that never waits is made to wait, at a bound in
characters and in time. So it neither hides from its own client nor starves the others.
"""

from __future__ import annotations

import inspect
from time import monotonic
from types import AsyncGeneratorType
from typing import Any, AsyncIterator, Callable, Iterator, List, Optional, Protocol, Union

from ..errors import ChatError, StreamError
from ..logs import logger
from ..models import Done, Error, Finish, Thought, Turn, Usage
from .driver import checkpoint
from .sse import MAX_TEXT_BYTES, encode, encode_chunks, encode_leading

Item = Union[str, Thought, Usage, Finish]
"""A responder may yield these."""

Responder = Callable[[Turn], AsyncIterator[Item]]
"""Any async generator function of text. It takes the turn and yields pieces of the reply; it may
also yield Thoughts, a Usage and a Finish."""

BUFFER_BYTES = 16 * 1024
BUFFER_SECONDS = 0.005
"""How much is gathered at most before it goes out, in bytes of ASCII, and for how long. (Other
alphabets have up to four bytes a character, and control characters six in JSON.)"""

_FRAME_BYTES = 36
"""The bytes of a frame without the text of its piece."""

SILENT_ITEMS = 100
"""How many items without text are read before the event loop gets a turn."""

ERROR_CHARACTERS = 2_000
"""How much of a message of an error is shown: in any JSON escaping it fits into a frame."""

CHARACTERS_PER_TOKEN = 4
"""The usual rule of thumb for English text, if a responder does not count tokens itself."""


class Reply:
    """The reply to one turn, as far as it has come.

    `ready` is the text that has not been sent, piece by piece; `chunks` and `characters` count the
    text that has. `first_at` is when the first piece came, and `oldest_at` when the first one of
    `ready` came, on the monotonic clock. It has ended when it is `complete`, or there is an
    `error`. `last` is the event that ends it, once it was encoded; nothing may follow it.
    """

    __slots__ = (
        "characters",
        "chunks",
        "complete",
        "error",
        "finish_reason",
        "first_at",
        "last",
        "oldest_at",
        "ready",
        "reported",
        "turn",
    )

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.ready: List[str] = []
        self.chunks = 0
        self.characters = 0
        self.first_at: Optional[float] = None
        self.oldest_at = 0.0
        self.reported: Optional[Usage] = None
        self.finish_reason: Optional[str] = None
        self.error: Optional[Error] = None
        self.last: Union[Done, Error, None] = None
        self.complete = False

    @property
    def ended(self) -> bool:
        """Whether it is decided which event ends it."""
        return self.complete or self.error is not None

    def sent(self) -> None:
        """Count the pieces of `ready` as sent."""
        ready = self.ready
        if self.chunks == 0:
            self.first_at = self.oldest_at
        self.chunks += len(ready)
        self.characters += len("".join(ready))  # faster than a sum: tests.bench.tricks
        ready.clear()

    def note(self, item: object) -> str:
        """Note a Usage or a Finish; the text of an item that is some other kind of str.

        Raises StreamError for an item that a responder may not yield.
        """
        if isinstance(item, str):
            return str.__str__(item)  # msgspec encodes no subclasses of str
        if isinstance(item, Usage):
            for field in ("tokens", "prompt_tokens", "completion_tokens"):
                count = getattr(item, field)
                if (type(count) is not int or count < 0) and (
                    count is not None or field == "tokens"
                ):
                    raise StreamError(f"Usage.{field} must be a whole number >= 0, not {count!r}")
            if not isinstance(item.estimated, (bool, type(None))):
                raise StreamError(f"Usage.estimated must be a bool, not {item.estimated!r}")
            self.reported = item
            return ""
        if isinstance(item, Finish):
            if not isinstance(item.reason, str):
                raise StreamError(f"Finish.reason must be a str, not {item.reason!r}")
            self.finish_reason = str.__str__(item.reason)
            return ""
        if isinstance(item, Thought):
            return ""
        raise StreamError(
            f"a responder yields str, Thought, Usage or Finish, not {type(item).__name__}"
        )

    def usage(self) -> Optional[Usage]:
        """The responder's report, or else an estimate from the text; None if there is neither.

        If the responder reported the prompt alone, only the reply is estimated.
        """
        reported = self.reported
        if reported is None:
            produced = self.chunks > 0 or self.ready
            return Usage(self._estimate(), estimated=True) if produced else None
        if reported.prompt_tokens is None or reported.completion_tokens is not None:
            return reported
        prompt = reported.prompt_tokens
        completion = self._estimate() if self.chunks or self.ready else 0
        return Usage(prompt + completion, prompt, completion, estimated=True)

    def _estimate(self) -> int:
        characters = self.characters + len("".join(self.ready))
        return max(1, characters // CHARACTERS_PER_TOKEN)

    def fail(self, error: BaseException) -> None:
        """End the reply with `error`, as far as a client may see it.

        A ChatError is shown as it is, but at most ERROR_CHARACTERS of its message. Any other
        exception is logged, and the client is told `processing_error` (`stream_error` if the
        responder yielded something that is no text) with the turn's request id.
        """
        causes = list(_causes(error))
        intended = [cause for cause in causes if _is_intended(cause)]
        if len(intended) < len(causes):
            logger.error("reply failed request_id=%s", self.turn.request_id, exc_info=error)
        if intended:
            # msgspec encodes no subclasses of str.
            code, message = map(str.__str__, (intended[0].code, intended[0].message))
            if len(message) > ERROR_CHARACTERS:
                message = f"{message[:ERROR_CHARACTERS]}..."
                logger.warning("error message shortened request_id=%s", self.turn.request_id)
        else:
            failed = any(isinstance(cause, StreamError) for cause in causes)
            code = StreamError.code if failed else ChatError.code
            message = f"Error generating response (reference {self.turn.request_id})"
        self.error = Error(code, message)

    def terminal(self) -> Union[Done, Error]:
        """The one event that ends it, with the usage so far."""
        usage = self.usage()
        if self.error is not None:
            return Error(self.error.code, self.error.message, usage)
        # A complete reply of no text has cost something, too.
        usage = usage or Usage(1, estimated=True)
        turn = self.turn
        known = len(turn.history) if turn.remembered else None
        return Done(turn.conversation_id, usage, self.finish_reason, known)

    def frames(self, *, last: bool) -> bytes:
        """The frames of `ready`, and of the event that ends it if they are the `last`.

        If a piece cannot be encoded, it ends with that error, before the piece.
        """
        try:
            body = encode_chunks(self.ready)
        except (TypeError, ValueError) as error:
            body, self.ready[:] = encode_leading(self.ready)
            self.fail(_unencodable("a piece of text", error))
        if not last:
            return body
        try:
            return body + self._end()
        except (TypeError, ValueError) as error:
            self.fail(_unencodable("the end", error))
            self.reported = None  # it may be the part that cannot be encoded
            return body + self._end()

    def _end(self) -> bytes:
        self.last = self.terminal()
        frame = encode(self.last)
        if len(frame) > MAX_TEXT_BYTES:
            raise ValueError(f"the frame has {len(frame)} bytes")
        return frame


def _unencodable(what: str, error: Exception) -> StreamError:
    failure = StreamError(f"{what} cannot be encoded")
    failure.__cause__ = error
    return failure


class Control(Protocol):
    """Whoever drives `converse` decides by this when it stops."""

    @property
    def stopped(self) -> bool:
        """Whether nothing that the responder still yields is read."""

    def responder_ended(self, decided: bool) -> None:
        """The responder has no more to say, and cleans up; `decided`: the reply has ended."""


async def converse(turn: Turn, responder: Responder, reply: Reply, control: Control) -> None:
    """Answer `turn`: `reply` gets the text as it comes, and the error if there was one.

    No exception of the responder leaves it; only cancellation passes through. The responder is
    closed in every case.
    """
    ready = reply.ready
    items: Any = None
    room = silent = 0
    due = 0.0
    try:
        items = iterate(responder(turn))
        async for item in items:
            if control.stopped:
                break  # it swallowed its cancellation
            if type(item) is not str:
                item = reply.note(item)
            if not item:
                silent += 1
                if silent % SILENT_ITEMS == 0:
                    await checkpoint()
                continue
            now = monotonic()
            if not ready:
                reply.oldest_at = now
                due, room = now + BUFFER_SECONDS, BUFFER_BYTES
            ready.append(item)
            room -= len(item) + _FRAME_BYTES
            if room <= 0 or now > due:
                await checkpoint()
        else:
            reply.complete = not control.stopped  # or it swallowed its cancellation, and is cut
    except Exception as error:
        if control.stopped:
            logger.exception("responder failed to end request_id=%s", turn.request_id)
        else:
            reply.fail(error)
    finally:
        control.responder_ended(reply.ended)
        # A generator that has come to its end has closed itself.
        if not (reply.complete and type(items) is AsyncGeneratorType):
            await close(items, turn)


def _causes(error: BaseException) -> Iterator[Any]:
    """The error itself, or, if a task group has wrapped it, the errors inside."""
    members = getattr(error, "exceptions", None)
    if isinstance(members, tuple) and members:
        for member in members:
            yield from _causes(member)
    else:
        yield error


def _is_intended(error: BaseException) -> bool:
    """Whether a responder raised it for the client to see."""
    return (
        isinstance(error, ChatError)
        and not isinstance(error, StreamError)
        and isinstance(error.code, str)
        and isinstance(getattr(error, "message", None), str)  # a subclass may have forgotten it
    )


def iterate(reply: Any) -> Any:
    """The iterator of a responder's reply. Raises TypeError if it cannot be iterated."""
    if hasattr(reply, "__aiter__"):
        return reply.__aiter__()
    if inspect.iscoroutine(reply):
        reply.close()  # or Python warns that it was never awaited
    raise TypeError(
        f"the responder returned {type(reply).__name__}; "
        "write it as an async generator function, `async def` with `yield`"
    )


async def close(reply: Any, turn: Turn) -> None:
    """Close the responder. An exception of its cleanup is logged: the client has been answered."""
    aclose = getattr(reply, "aclose", None)
    if aclose is not None:
        try:
            await aclose()
        except Exception:
            logger.exception("responder failed to close request_id=%s", turn.request_id)

"""The core: a turn and a responder in, events out. It knows nothing of HTTP."""

from __future__ import annotations

import inspect
from typing import Any, AsyncGenerator, AsyncIterator, Callable, Iterator, Optional, Union

from .errors import ChatError, StreamError
from .logs import logger
from .models import Chunk, Done, Error, Event, Finish, Turn, Usage

Responder = Callable[[Turn], AsyncIterator[Union[str, Usage, Finish]]]
"""What answers: any async generator function of text. It takes the turn and yields pieces of the
reply, and optionally a Usage and a Finish."""

CHARACTERS_PER_TOKEN = 4
"""The usual rule of thumb for English text, where a responder does not count tokens itself."""


class Tally:
    """What one reply has come to so far."""

    __slots__ = ("characters", "chunks", "error", "finish_reason", "reported")

    def __init__(self) -> None:
        self.chunks = 0
        self.characters = 0
        self.reported: Optional[Usage] = None
        self.finish_reason: Optional[str] = None
        self.error: Optional[Error] = None

    def usage(self) -> Usage:
        """What the responder reported, completed by an estimate from what was sent; tokens >= 1.

        Where the responder reported the prompt alone, only the reply is estimated.
        """
        reported = self.reported
        if reported is None:
            return Usage(self._estimate(), estimated=True)
        if reported.prompt_tokens is None or reported.completion_tokens is not None:
            return reported
        prompt, completion = reported.prompt_tokens, self._estimate() if self.chunks else 0
        return Usage(prompt + completion, prompt, completion, estimated=True)

    def _estimate(self) -> int:
        return max(1, self.characters // CHARACTERS_PER_TOKEN)

    def failed(self, code: str, message: str) -> Error:
        """The terminal event of a reply that did not complete, with the usage of what there is."""
        produced = self.chunks or self.reported is not None
        self.error = Error(code, message, self.usage() if produced else None)
        return self.error


async def converse(
    turn: Turn, responder: Responder, tally: Optional[Tally] = None
) -> AsyncGenerator[Event, None]:
    """Answer `turn`: chunks as they come, then exactly one terminal event, Done or Error.

    No exception of the responder leaves it: a ChatError becomes the Error that it describes, any
    other becomes `processing_error` (`stream_error` where the responder yielded what is no text),
    with the traceback in the log under the turn's request id. Only cancellation passes through, and
    then there is no terminal event. The responder is closed in every case. Whoever iterates this
    generator closes it too. `tally`, if given, is kept up to date as the reply grows.
    """
    if tally is None:
        tally = Tally()
    terminal: Event
    reply: Any = None
    try:
        reply = _iterate(responder(turn))
        async for item in reply:
            if type(item) is not str:
                item = _text(item, tally)
            if item:
                tally.chunks += 1
                tally.characters += len(item)
                yield Chunk(item)
        terminal = Done(turn.conversation_id, tally.usage(), tally.finish_reason)
    except Exception as error:
        terminal = describe(error, turn, tally)
    finally:
        await _close(reply, turn)
    yield terminal


def describe(error: Exception, turn: Turn, tally: Tally) -> Error:
    """The terminal event for what a reply failed with; what was not meant to be seen is logged."""
    causes = list(_causes(error))
    intended = [cause for cause in causes if _is_intended(cause)]
    if len(intended) < len(causes):
        logger.error("reply failed request_id=%s", turn.request_id, exc_info=error)
    if intended:
        # msgspec encodes no subclasses of str.
        return tally.failed(str.__str__(intended[0].code), str.__str__(intended[0].message))
    failed = any(isinstance(cause, StreamError) for cause in causes)
    code = StreamError.code if failed else ChatError.code
    return tally.failed(code, f"Error generating response (reference {turn.request_id})")


def _causes(error: BaseException) -> Iterator[Any]:
    """What was raised: the error itself, or where a task group has wrapped it, what it wraps."""
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


def _iterate(reply: Any) -> Any:
    """The iterator of what a responder returned; TypeError if it cannot be iterated."""
    if hasattr(reply, "__aiter__"):
        return reply.__aiter__()
    if inspect.iscoroutine(reply):
        reply.close()  # or Python warns that it was never awaited
    raise TypeError(
        f"the responder returned {type(reply).__name__}; "
        "write it as an async generator function, `async def` with `yield`"
    )


def _text(item: object, tally: Tally) -> str:
    """What an item that is not exactly a str adds to the reply; the tally notes Usage, Finish."""
    if isinstance(item, str):
        return str.__str__(item)  # msgspec encodes no subclasses of str
    if isinstance(item, Usage):
        for field in ("tokens", "prompt_tokens", "completion_tokens"):
            count = getattr(item, field)
            if (type(count) is not int or count < 0) and (count is not None or field == "tokens"):
                raise StreamError(f"Usage.{field} must be a whole number >= 0, not {count!r}")
        tally.reported = item
        return ""
    if isinstance(item, Finish):
        if not isinstance(item.reason, str):
            raise StreamError(f"Finish.reason must be a str, not {item.reason!r}")
        tally.finish_reason = str.__str__(item.reason)
        return ""
    raise StreamError(f"a responder yields str, Usage or Finish, not {type(item).__name__}")


async def _close(reply: Any, turn: Turn) -> None:
    """Close the responder. What its clean-up raises is logged: the client has been answered."""
    aclose = getattr(reply, "aclose", None)
    if aclose is not None:
        try:
            await aclose()
        except Exception:
            logger.exception("responder failed to close request_id=%s", turn.request_id)

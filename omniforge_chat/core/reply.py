"""The reply to one turn: the pieces of a responder, how they end, and their frames.

Pieces are gathered in `Reply.ready`. Whoever runs the responder (responder.py) takes them when
something is about to wait, and only then (driver.py).
"""

from __future__ import annotations

from itertools import groupby, takewhile
from typing import Any, Iterator, List, Optional, Tuple, Union

from ..errors import ChatError, StreamError
from ..logs import logger
from ..models import Done, Error, Finish, Thought, Turn, Usage
from .frames import STARTED, UNOPENED, Frames, Opened
from .sse import MAX_TEXT_BYTES, encode_texts, is_encodable

ERROR_CHARACTERS = 2_000
"""How much of a message of an error is shown: in any JSON escaping it fits into a frame."""

CHARACTERS_PER_TOKEN = 4
"""The usual rule of thumb for English text, if a responder does not count tokens itself."""


class Reply:
    """The reply to one turn, as far as it has come, and its frames.

    `ready` are the pieces that have not been sent: text, and Thoughts if they are shown. `chunks`
    and `characters` count those that have. `first_at` is when the first piece came, and `oldest_at`
    when the first one of `ready` came, on the monotonic clock. It has ended when it is `complete`,
    or there is an `error`. If somebody has raised that on purpose, `cause` is the status and the
    `retry_after` of the exception, which itself would keep this reply by its traceback. `given` is
    for setting: the event that ends it, if another stream has decided that. `unremembered` is, too:
    a store was to keep the turn, and cannot. `last` is the event that ends it, once it was encoded;
    nothing may follow it.
    """

    __slots__ = (
        "_next",
        "_open",
        "_thinks",
        "_thoughts",
        "cause",
        "characters",
        "chunks",
        "complete",
        "error",
        "finish_reason",
        "first_at",
        "format",
        "given",
        "last",
        "oldest_at",
        "ready",
        "reported",
        "turn",
        "unremembered",
    )

    def __init__(self, turn: Turn, frames: Frames, *, thoughts: bool = False) -> None:
        self.turn = turn
        self.format = frames
        self._thoughts = thoughts  # they are shown
        self._thinks = False  # there is one in `ready`
        self._open = frames.opened  # as the client has it
        self._next = frames.opened  # and as it will, when `ready` is sent
        self.ready: List[Union[str, Thought]] = []
        self.chunks = 0
        self.characters = 0
        self.first_at: Optional[float] = None
        self.oldest_at = 0.0
        self.reported: Optional[Usage] = None
        self.finish_reason: Optional[str] = None
        self.error: Optional[Error] = None
        self.cause: Tuple[object, object] = (500, None)
        self.given: Union[Done, Error, None] = None
        self.last: Union[Done, Error, None] = None
        self.complete = False
        self.unremembered = False

    @property
    def ended(self) -> bool:
        """Whether it is decided which event ends it."""
        return self.complete or self.error is not None

    @property
    def status(self) -> int:
        """The HTTP status of its response."""
        return 200

    def sent(self) -> None:
        """The frames were sent: count the pieces of `ready`."""
        self._open = self._next
        ready = self.ready
        if not ready:
            return
        if self.chunks == 0:
            self.first_at = self.oldest_at
        self.chunks += len(ready)
        if self._thinks:
            self._thinks = False
            self.characters += sum(map(len, ready))
        else:  # faster than a sum: tests.bench.tricks
            self.characters += len("".join(ready))  # type: ignore[arg-type]
        ready.clear()

    def note(self, item: object) -> Union[str, Thought]:
        """Note a Usage or a Finish; the piece that another item is, or "".

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
            if not isinstance(item.text, str):
                raise StreamError(f"Thought.text must be a str, not {item.text!r}")
            if not (self._thoughts and item.text):
                return ""
            self._thinks = True
            return Thought(str.__str__(item.text))
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
        return max(1, (self.characters + sum(map(len, self.ready))) // CHARACTERS_PER_TOKEN)

    def fail(self, error: BaseException) -> None:
        """End the reply with `error`, as far as a client may see it.

        A ChatError is shown as it is, but at most ERROR_CHARACTERS of its message. Any other
        exception is logged, and the client is told `processing_error` (`stream_error` if the
        responder yielded something that is no text) with the turn's request id.
        """
        causes = list(_causes(error))
        intended = [cause for cause in causes if _is_intended(cause)]
        self.cause = (500, None)
        if intended:
            self.cause = (intended[0].status, getattr(intended[0], "retry_after", None))
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
        if self.given is not None and self.error in (None, self.given):
            return self.given
        usage = self.usage()
        if self.error is not None:
            return Error(self.error.code, self.error.message, usage)
        # A complete reply of no text has cost something, too.
        usage = usage or Usage(1, estimated=True)
        turn = self.turn
        known = len(turn.history) if turn.remembered else None
        remembered = False if self.unremembered else None
        return Done(turn.conversation_id, usage, self.finish_reason, known, remembered)

    def frames(self, *, last: bool) -> bytes:
        """The frames of the start and of `ready` that the client does not have yet.

        If they are the `last`, those of the end too. If a piece cannot be encoded, it ends with
        that error, before the piece. Until `sent` is called, a second call returns the same.
        """
        opened = self._open
        try:
            if opened.kind is str and not self._thinks:  # the usual case
                texts: List[str] = self.ready  # type: ignore[assignment] # there is no thought
                body = encode_texts(texts, opened.part.before, opened.part.after)
            else:
                body = self._frames()
        except (TypeError, ValueError) as error:
            self.ready[:] = takewhile(lambda piece: is_encodable(_text(piece)), self.ready)
            body = self._frames()
            self.fail(unencodable("a piece of text", error))
        if not last:
            return body
        try:
            return body + self._end()
        except (TypeError, ValueError) as error:
            self.fail(unencodable("the end", error))
            self.reported = None  # it may be the part that cannot be encoded
            return body + self._end()

    def _frames(self) -> bytes:
        self._next = self._open
        if self._thinks:
            return self._runs()
        texts: List[str] = self.ready  # type: ignore[assignment] # as above
        start = self._start()
        return start + self._run(str, texts) if texts else start

    def _start(self) -> bytes:
        if self._open is not UNOPENED:
            return b""
        self._next = STARTED
        return self.format.start()

    def _runs(self) -> bytes:
        """The same of pieces with thoughts among them."""
        frames = [self._start()]
        pieces: List[Union[str, Thought]] = []
        for kind, run in groupby(self.ready, type):
            texts = [piece.text if isinstance(piece, Thought) else piece for piece in run]
            frames.append(self._run(kind, texts))
            pieces += [Thought(text) for text in texts] if kind is Thought else texts
        self.ready[:] = pieces
        return b"".join(frames)

    def _run(self, kind: type, texts: List[str]) -> bytes:
        """The frames of pieces of one kind; a part is opened for them if none is."""
        opened, lead = self._next, b""
        if opened.kind is not kind:
            number = opened.number + 1
            part = (self.format.thought if kind is Thought else self.format.text)(number)
            lead = opened.part.closing + part.opening
            opened = Opened(kind, number, part)
        frames = lead + encode_texts(texts, opened.part.before, opened.part.after)
        self._next = opened
        return frames

    def _end(self) -> bytes:
        self.last = self.terminal()
        if isinstance(self.last, Done):
            frames = self._next.part.closing + self.format.done(self.last)
        else:
            frames = self.format.error(self.last)
        if len(frames) > MAX_TEXT_BYTES:
            raise ValueError(f"the frames have {len(frames)} bytes")
        return frames


def _text(piece: Union[str, Thought]) -> str:
    return piece.text if isinstance(piece, Thought) else piece


def unencodable(what: str, error: Exception) -> StreamError:
    """The failure if `what` the responder has yielded cannot be encoded, because of `error`."""
    failure = StreamError(f"{what} cannot be encoded")
    failure.__cause__ = error
    return failure


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

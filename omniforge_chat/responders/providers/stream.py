"""One answered request to a provider: reading its stream within time limits, and leaving it.

A time limit around each read would be set and taken back for every token, and a scope must not
stay open while a generator yields. So one timer serves the whole stream:

- It is set once. When it fires and the deadline has moved on meanwhile, it is set again.
- When the deadline has come, it cancels the one future that the read waits for, and never the task.
  So a cancellation of the task always comes from somebody else, and is passed on.
- If both come in the same moment, the task's count of cancellations tells them apart. Before Python
  3.11 there is no count, and the cancellation is taken for the deadline.
"""

from __future__ import annotations

import asyncio
import math
import re
import types
from typing import Any, Awaitable, Callable, Generator, Optional

from ...core.cancellation import cancellations
from ...core.driver import see_out
from ...errors import UpstreamError
from .body import BROKEN, Body
from .errors import UNREADABLE, Failure, describe, header, silent
from .reasons import Redact, words_in

FINISH_SECONDS = 5.0
"""How long the frames after the text (usage, the end mark) may take to come."""

DRAIN_SECONDS = 0.1
"""How long the end of the body may take after the end mark. A connection can be used again only if
its response was read to the end."""

CUT = "The model provider's reply was cut off"

_begins_a_stream = re.compile(rb"[\xef\xbb\xbf\s]*(data|event|id|retry|error)?:").match


class _DeadlinePassed(BaseException):
    """The deadline has come.

    No Exception: httpcore keeps those, and raises them in all that share a connection (HTTP/2).
    """


class ProviderStream:
    """A response whose start has come. You read it, and close it in every case.

    The first frame must come by `deadline`, in the loop's time; the limits are in seconds, infinite
    if they are off. `fail` logs a Failure and makes its error. `closed` is called once, when the
    response has let its connection go.
    """

    def __init__(
        self,
        body: Body,
        *,
        deadline: float,
        first_chunk_timeout: float,
        idle_timeout: float,
        fail: Callable[[Failure], UpstreamError],
        closed: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.fail = fail
        self._closed = closed
        self._response = body.response
        self._start = body.start
        self._rest = body.rest.__anext__
        self._next: Callable[[], Awaitable[bytes]] = self._first if body.start else self._rest
        self._time = loop.time
        self._call_at = loop.call_at
        self._deadline = deadline
        self._first_chunk_timeout = first_chunk_timeout
        self._idle_timeout = idle_timeout
        self._timer: Optional[asyncio.TimerHandle] = None
        self._awaited: Optional[asyncio.Future[Any]] = None
        self._task: Any = None  # that set the timer
        self._cancels = 0  # how often that task had been cancelled when the deadline came
        self._at_work = False
        self._expired = False
        self._finishing = False
        self.first_at: Optional[float] = None
        """When the first piece of the reply had come, in the loop's time."""

    async def _first(self) -> bytes:
        """Return the bytes that have come already."""
        self._next = self._rest
        return self._start

    @types.coroutine
    def _limited(self) -> Generator[Any, Any, bytes]:
        """Do the next read, driven by hand, so that the timer knows the future that it awaits."""
        step: Generator[Any, Any, bytes] = self._next().__await__()
        try:
            awaited = step.send(None)
            while True:
                self._awaited = awaited
                if self._timer is None and self._deadline < math.inf:
                    self._task = asyncio.current_task()
                    self._timer = self._call_at(self._deadline, self._timer_fired)
                try:
                    sent = yield awaited
                except BaseException as error:
                    stopped = _DeadlinePassed() if self._is_timeout() else error
                    break
                awaited = step.send(sent)
        except StopIteration as stop:
            data: bytes = stop.value
            return data
        finally:
            self._awaited = None
        # httpx closes the connection now. Neither the timer nor anybody else may cut that short.
        try:
            return (yield from see_out(step, awaited, stopped))
        finally:
            del stopped  # its traceback knows this frame: they would keep each other

    async def read(self) -> bytes:
        """Return the next bytes of the body; empty bytes are its end.

        Raises UpstreamTimeout if the deadline comes first, and UpstreamError if the connection
        breaks. Once the text is complete, both are an end like any other.
        """
        try:
            return await self._limited()
        except StopAsyncIteration:
            return b""
        except _DeadlinePassed:
            failure = self._silent()
        except BROKEN as error:
            failure = Failure(UpstreamError, CUT, describe(error))
        if self._finishing:
            return b""
        raise self.fail(failure)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._awaited is None:
            return  # nobody reads; the next read that waits sets the timer again
        if self._time() < self._deadline:
            self._timer = self._call_at(self._deadline, self._timer_fired)
        elif self._awaited.cancel():  # False if it is done: then there is something to read
            self._expired = True
            self._cancels = cancellations(self._task)

    def _is_timeout(self) -> bool:
        """Whether the deadline ended the wait, and nobody cancelled the task meanwhile."""
        return self._expired and cancellations(self._task) == self._cancels

    def overdue(self) -> bool:
        """Whether the deadline has come though the provider sends: comments, say, without a pause.

        Ask after a read that brought no progress. Raises UpstreamTimeout, as `read` does.
        """
        if self._time() < self._deadline:
            return False
        if not self._finishing:
            raise self.fail(self._silent())
        return True

    def _silent(self) -> Failure:
        limit = self._idle_timeout if self._at_work else self._first_chunk_timeout
        return silent(limit, begun=self._at_work)

    def cut(self, redact: Redact) -> Failure:
        """The failure of a stream that ended before the reply did, or that was none."""
        detail = "the stream ended without a finish"
        detail += header(self._response.headers, "content-type", redact)
        if not self._start:
            return Failure(UpstreamError, CUT, f"{detail} body=empty")
        if _begins_a_stream(self._start):
            return Failure(UpstreamError, CUT, detail)
        reason = words_in(self._start, redact).reason
        return Failure(UpstreamError, UNREADABLE, f"{detail} reason={reason!r}")

    def progressed(self) -> None:
        """Begin the idle time anew: the model was at work, and its text was passed on."""
        if self._at_work:
            self._deadline = self._time() + self._idle_timeout
        else:
            self._at_work = True
            self._finishing = False
            self._move(self._idle_timeout)
            self._note_first()

    def finish(self, *, settled: bool) -> None:
        """Note that the text is complete: until it progresses, nothing can make the reply fail.

        If that is `settled`, the rest has only a short time to come.
        """
        self._at_work = False
        self._finishing = True
        self._note_first()
        self._move(min(self._idle_timeout, FINISH_SECONDS if settled else math.inf))

    async def drain(self) -> None:
        """Read the rest of a finished stream if it comes at once, to keep the connection."""
        self._finishing = True
        self._move(DRAIN_SECONDS)
        while await self.read() and not self.overdue():
            pass

    def _note_first(self) -> None:
        if self.first_at is None:
            self.first_at = self._time()

    def _move(self, seconds: float) -> None:
        """Set a deadline that may be nearer than the one that the timer is set for."""
        self._deadline = self._time() + seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        """Let the connection go. One that was not read to its end is closed."""
        self._next = self._rest  # a method of its own would keep it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._response.is_closed:
            self._closed()
        else:
            # In a task of its own, as no cancellation reaches that.
            await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        try:
            await self._response.aclose()
        finally:
            self._closed()

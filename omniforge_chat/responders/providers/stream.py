"""One answered request to a model provider: reading its stream within time limits, and leaving it.

A time limit around each read would cost some microseconds for every token, and a scope must not
stay open while a generator yields. So one timer serves the whole stream. It is set once and, when
it fires, set again for as long as the deadline has moved on since. Where the deadline has come it
cancels the one future that the read waits for. The task itself is never cancelled: a cancellation
from outside stays what it is. (Where it comes in the very moment of the deadline, Python 3.9 and
3.10 do not tell the two apart, and it is taken for the deadline.)
"""

from __future__ import annotations

import asyncio
import math
import ssl
import sys
import types
from typing import Any, Callable, Generator, Optional

import httpx

from ...core.driver import see_out
from ...errors import UpstreamError, UpstreamTimeout
from .errors import Failure

FINISH_SECONDS = 5.0
"""How long what follows the end of the text (usage, the end mark) may take to come."""

DRAIN_SECONDS = 0.1
"""How long the end of the body may take after the end mark; read to its end, a connection can be
used again."""

BROKEN = (httpx.TransportError, ssl.SSLError)
"""What a connection that breaks raises; httpcore lets the latter through."""

_CUT = "The model provider's reply was cut off"


class _Silence(BaseException):
    """The deadline has come.

    No Exception: httpcore keeps those, and raises them in all that share a connection (HTTP/2).
    """


class Exchange:
    """A response whose head has come. Whoever has it reads it, and closes it in every case.

    `deadline` is the loop's time by which the first frame must have come. `fail` makes the error
    of a Failure, and logs it. `closed` is called once, when the response has let its connection go.
    """

    def __init__(
        self,
        response: httpx.Response,
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
        self._response = response
        self._next = response.aiter_raw().__anext__
        self._time = loop.time
        self._call_at = loop.call_at
        self._deadline = deadline
        self._first_chunk_timeout = first_chunk_timeout
        self._idle_timeout = idle_timeout
        self._timer: Optional[asyncio.TimerHandle] = None
        self._waits_for: Optional[asyncio.Future[Any]] = None
        self._task: Any = None  # that set the timer
        self._cancels = 0  # how often that task had been cancelled when the deadline came
        self._began = False
        self._expired = False
        self._finishing = False

    @types.coroutine
    def _limited(self) -> Generator[Any, Any, bytes]:
        """The next read, driven by hand: what it waits for is known to the timer."""
        step: Generator[Any, Any, bytes] = self._next().__await__()
        try:
            waits_for = step.send(None)
            while True:
                self._waits_for = waits_for
                if self._timer is None and self._deadline < math.inf:
                    self._task = asyncio.current_task()
                    self._timer = self._call_at(self._deadline, self._due)
                try:
                    sent = yield waits_for
                except BaseException as error:
                    stopped = _Silence() if self._is_silence() else error
                    break
                waits_for = step.send(sent)
        except StopIteration as stop:
            data: bytes = stop.value
            return data
        finally:
            self._waits_for = None
        # It closes the connection now, and neither the timer nor anybody else may cut that short.
        return (yield from see_out(step, waits_for, stopped))

    async def read(self) -> bytes:
        """The next bytes of the body, not empty; empty where it has ended.

        Raises UpstreamTimeout when the deadline comes first, UpstreamError when the connection
        breaks; once the text is complete either is an end like any other.
        """
        try:
            return await self._limited()
        except StopAsyncIteration:
            return b""
        except _Silence:
            silence = f"was silent for {self._idle_timeout:g} seconds"
            if not self._began:
                silence = f"did not begin to answer within {self._first_chunk_timeout:g} seconds"
            failure = Failure(UpstreamTimeout, f"The model provider {silence}", "silence")
        except BROKEN as error:
            failure = broken(error)
        if self._finishing:
            return b""
        raise self.fail(failure)

    def _due(self) -> None:
        self._timer = None
        if self._waits_for is None:
            return  # nobody reads; the next read that waits sets a timer again
        if self._time() < self._deadline:
            self._timer = self._call_at(self._deadline, self._due)
        elif self._waits_for.cancel():  # False where it is done: then there is something to read
            self._expired = True
            self._cancels = _cancels(self._task)

    def _is_silence(self) -> bool:
        """Whether the wait ended because of the deadline, and not of a cancellation with it."""
        return self._expired and _cancels(self._task) == self._cancels

    def cut(self) -> Failure:
        """The failure of a stream that came to its end before the reply did."""
        kind = self._response.headers.get("content-type")
        detail = f"the stream ended without a finish content_type={kind}"
        return Failure(UpstreamError, _CUT, detail)

    def progressed(self) -> None:
        """The model was at work, and what that brought was passed on: the silence begins anew."""
        if self._began:
            self._deadline = self._time() + self._idle_timeout
        else:
            self._began = True
            self._move(self._idle_timeout)

    def finish(self) -> None:
        """The text is complete; what may still come does not decide whether the reply is."""
        self._finishing = True
        self._move(min(self._idle_timeout, FINISH_SECONDS))

    async def drain(self) -> None:
        """Read the rest of a finished stream, if it comes at once, so that the connection stays."""
        self._finishing = True
        self._move(DRAIN_SECONDS)
        while await self.read():
            pass

    def _move(self, seconds: float) -> None:
        """Bring the deadline nearer than the timer may be set for."""
        self._deadline = self._time() + seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        """Let go of the connection: of one that is not read to its end, by closing it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._response.is_closed:
            self._closed()
        else:
            # In a task of its own, which no cancellation reaches.
            await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        try:
            await self._response.aclose()
        finally:
            self._closed()


def _cancels(task: Any) -> int:
    """How often `task` was cancelled. Before Python 3.11 it does not tell, and 0 stands for it."""
    cancels: int = task.cancelling() if sys.version_info >= (3, 11) else 0
    return cancels


def broken(error: Exception) -> Failure:
    """The failure of a connection that broke while the answer came."""
    return Failure(UpstreamError, _CUT, describe(error))


def describe(error: Exception) -> str:
    """An exception for the log, on one line."""
    return f"{type(error).__name__}: {error}".rstrip(": ")

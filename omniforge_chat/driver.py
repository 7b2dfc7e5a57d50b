"""Driving a coroutine by hand, so that something can be done at the moment it is about to wait.

An event loop resumes a task's outermost coroutine, and learns what the task waits for from what the
innermost one yields. A driver stands between: it resumes the coroutine itself, sees each thing that
it is about to wait for first, and passes it on. The coroutine runs in the same task as before, so
context variables, cancellation, time-outs and task groups inside it work as ever.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any, Awaitable, Callable, Coroutine, Generator, Optional, TypeVar

T = TypeVar("T")


class Abandoned(BaseException):
    """Raised by `before_wait`: the coroutine refuses to end, and `drive` is to give it up."""


@types.coroutine
def drive(
    coroutine: Coroutine[Any, Any, T], before_wait: Callable[[], Optional[Awaitable[None]]]
) -> Generator[Any, Any, T]:
    """Run `coroutine`, calling `before_wait` each time it is about to wait; return its result.

    What `before_wait` returns, if anything, is awaited before the wait itself. If that raises, the
    wait is off, and the coroutine gets the exception in its place: it is how cancellation that
    arrives meanwhile, or a failure there, reaches it.
    """
    resume: Callable[[Any], Any] = coroutine.send
    value: Any = None
    while True:
        try:
            awaited = resume(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        resume, value = coroutine.send, None
        try:
            first = before_wait()
            if first is not None:
                yield from first.__await__()
            value = yield awaited
        except BaseException as error:
            # It is not waited for any more. (A bare turn of the loop is None.)
            if awaited is not None:
                awaited.cancel()
            if isinstance(error, Abandoned):
                with contextlib.suppress(RuntimeError):
                    coroutine.close()
                raise
            resume, value = coroutine.throw, error

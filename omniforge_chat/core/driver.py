"""Driving a coroutine by hand, so that something can be done at the moment it is about to wait.

An event loop resumes a task's outermost coroutine, and learns what the task waits for from what the
innermost one yields. A driver stands between: it resumes the coroutine itself, sees each thing that
it is about to wait for first, and passes it on. The coroutine runs in the same task as before, so
context variables, cancellation, time-outs and task groups inside it work as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from typing import Any, Awaitable, Callable, Coroutine, Generator, NoReturn, Optional, TypeVar

T = TypeVar("T")


class Abandoned(BaseException):
    """Raised by `before_wait`: the coroutine refuses to end, and `drive` is to give it up."""


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Give the event loop a turn."""
    yield


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
            followed = isinstance(awaited, asyncio.Future)
            if first is not None:
                # Until this task really waits for it, others may begin to.
                if followed:
                    awaited._asyncio_future_blocking = False
                yield from first.__await__()
                if followed:
                    awaited._asyncio_future_blocking = True
            if type(awaited) is _Future or not followed:
                value = yield awaited
            else:
                yield from _follow(awaited, before_wait)
        except BaseException as error:
            # It is not waited for any more. (A bare turn of the loop is None; and what the event
            # loop refuses to wait for, another library's future say, can be anything.)
            if hasattr(awaited, "cancel"):
                awaited.cancel()
            if isinstance(error, Abandoned):
                with contextlib.suppress(RuntimeError):
                    coroutine.close()
                raise
            resume, value = coroutine.throw, error


_Future = asyncio.Future
"""The plain kind, which is over as soon as it is cancelled."""


def _follow(
    awaited: asyncio.Future[Any], before_wait: Callable[[], Optional[Awaitable[None]]]
) -> Generator[Any, None, None]:
    """Wait for `awaited`, which may outlive its cancellation: a task, or several of them.

    A task that waits for another hands its own cancellation on, and hears nothing more until the
    other one ends. Here it waits for a future of its own instead, so that each cancellation comes
    by: it is handed on as ever, but then `before_wait` is asked, and can give the wait up.
    """
    # What the event loop does with a future that a task gives it; it will not see this one.
    awaited._asyncio_future_blocking = False
    while not awaited.done():
        try:
            yield from _gate(awaited)
        except asyncio.CancelledError:
            if not awaited.cancel():
                raise
            first = before_wait()
            if first is not None:
                yield from first.__await__()


def _gate(awaited: asyncio.Future[Any]) -> Generator[Any, None, None]:
    """Wait until `awaited` is done. A cancellation ends the wait, and does not get to `awaited`."""
    gate = awaited.get_loop().create_future()

    def open_gate(_: object) -> None:
        if not gate.done():
            gate.set_result(None)

    awaited.add_done_callback(open_gate)
    try:
        yield from gate
    finally:
        awaited.remove_done_callback(open_gate)


@types.coroutine
def see_out(
    steps: Generator[Any, Any, Any], awaited: object, error: BaseException
) -> Generator[Any, Any, NoReturn]:
    """Run `steps` to its end, whose wait for `awaited` ended with `error`, without tearing it.

    A library that gives the event loop a turn within its clean-up is not ready to be cancelled
    there, and would never finish it. So `error` gets in at the first wait that is more than a bare
    turn, and what comes after that is clean-up: a cancellation meanwhile is held back. Raises the
    last cancellation that was, or else what `steps` raises, or else `error`.
    """
    resume: Callable[[Any], Any] = steps.send
    value: Any = None
    inside = False
    held = error
    waited = True
    while True:
        future = awaited if isinstance(awaited, asyncio.Future) else None
        if future is not None:
            future._asyncio_future_blocking = False
        if not inside and future is not None and (future.cancelled() or not future.done()):
            future.cancel()
            inside = True
            resume, value = steps.throw, error
        else:
            while not waited:
                try:
                    yield from _bare(awaited) if future is None else _gate(future)
                except asyncio.CancelledError as later:
                    held = later
                waited = future is None or future.done()
            resume, value = steps.send, None
        try:
            awaited = resume(value)
        except BaseException as raised:
            if held is not error or isinstance(raised, StopIteration):
                raise held from None
            raise
        waited = False


def _bare(awaited: object) -> Generator[Any, None, None]:
    yield awaited

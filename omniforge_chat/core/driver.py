"""Driving a coroutine by hand, so that something can be done at the moment it is about to wait.

An event loop resumes a task's outermost coroutine. It learns what the task waits for from the value
that the innermost coroutine yields: a future, or None for a bare turn of the loop. A driver stands
between the two. It resumes the coroutine itself, sees each thing that the coroutine is about to
wait for before the event loop does, and passes it on. Context variables, time limits and task
groups inside the coroutine work as ever, because the task is the same.

Three things follow, and the code below is about them:

1. The driver may await something else first (`before_wait` returns it): a `send()` of all that is
   ready. Until then the future must not look as if this task waited for it already.
2. A cancellation that arrives while that is awaited calls the wait off, and goes to the coroutine.
3. A task that waits for another task hands its cancellation on, and hears nothing more until that
   one ends, which may be never. So the driver waits for a future of its own beside it, the gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from typing import Any, Awaitable, Callable, Coroutine, Generator, NoReturn, Optional, TypeVar

T = TypeVar("T")

BeforeWait = Callable[[], Optional[Awaitable[None]]]
"""Called each time a coroutine is about to wait. If it returns something, that is awaited first."""


class Abandoned(BaseException):
    """Raised by `before_wait`: the coroutine refuses to end, and the driver is to give it up."""


@types.coroutine
def checkpoint() -> Generator[None, None, None]:
    """Give the event loop a turn."""
    yield


@types.coroutine
def drive(coroutine: Coroutine[Any, Any, T], before_wait: BeforeWait) -> Generator[Any, Any, T]:
    """Run `coroutine`, calling `before_wait` each time it is about to wait; return its result.

    If `before_wait`, or the thing that it returns, raises, then the wait is off, and the coroutine
    gets the exception instead. A GeneratorExit that the coroutine raises without being closed
    becomes a RuntimeError: to its callers it would mean that they are being closed.
    """
    resume: Callable[[Any], Any] = coroutine.send
    value: Any = None
    while True:
        try:
            awaited = resume(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except GeneratorExit as error:
            if isinstance(value, GeneratorExit):
                raise  # we are being closed
            raise RuntimeError("the coroutine raised GeneratorExit by itself") from error
        except BaseException:
            value = None  # its traceback knows this frame: they would keep each other
            raise
        resume, value = coroutine.send, None
        try:
            first = before_wait()
            is_future = isinstance(awaited, asyncio.Future)
            if first is not None:
                # Until this task really waits for it, others may begin to.
                if is_future:
                    awaited._asyncio_future_blocking = False
                yield from first.__await__()
                if is_future:
                    awaited._asyncio_future_blocking = True
            if type(awaited) is _Future or not is_future:
                value = yield awaited
            else:
                yield from _follow(awaited, before_wait)
        except BaseException as error:
            _call_off(awaited)
            if isinstance(error, Abandoned):
                with contextlib.suppress(RuntimeError):
                    coroutine.close()
                raise
            resume, value = coroutine.throw, error


_Future = asyncio.Future
"""The plain kind, which is over as soon as it is cancelled."""


def _follow(awaited: asyncio.Future[Any], before_wait: BeforeWait) -> Generator[Any, Any, None]:
    """Wait for `awaited`, which may outlive its cancellation: a task, or several of them.

    Each cancellation is handed on as ever. Then `before_wait` is asked, and can give up.
    """
    # The event loop does this to a future that a task gives it; it will not see this one.
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


def _call_off(awaited: Any) -> None:
    """Nobody waits for `awaited` any more.

    A bare turn of the loop is None; and if the event loop refuses to wait for it, as for another
    library's future, it can be anything.
    """
    if hasattr(awaited, "cancel"):
        awaited.cancel()


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
    """Run `steps`, whose wait for `awaited` ended with `error`, to its end without tearing it.

    A library that gives the event loop a turn within its cleanup is not ready to be cancelled
    there, and would never finish it. So `error` gets in at the first wait that is more than a bare
    turn. After that comes the cleanup: a cancellation meanwhile is held back. Raises the last
    cancellation if there was one, else the exception of `steps`, else `error`.
    """
    resume: Callable[[Any], Any] = steps.send
    value: Any = None
    inside = False
    held = error
    waited = True
    try:
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
    finally:
        del error, held, value  # as in `drive`


def _bare(awaited: object) -> Generator[Any, None, None]:
    yield awaited

"""Tests that run in each kind of event loop, and what they do to its tasks."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any, Awaitable, Callable, Coroutine, List, TypeVar

import pytest

from .constants import PATIENCE

T = TypeVar("T")


def in_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an `async` test in each kind of event loop, which nothing may be left in."""

    @functools.wraps(test)
    def run(kind: str, **options: Any) -> None:
        loop: asyncio.AbstractEventLoop = pytest.importorskip(kind).new_event_loop()
        troubles: List[Any] = []
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        try:
            loop.run_until_complete(asyncio.wait_for(test(**options), PATIENCE))
            assert not asyncio.all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            assert not troubles
        finally:
            loop.close()

    kind = inspect.Parameter("kind", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # pytest reads it
        [*inspect.signature(test).parameters.values(), kind]
    )
    run_in_each: Callable[..., None] = pytest.mark.parametrize("kind", ["asyncio", "uvloop"])(run)
    return run_in_each


async def waiting(awaitable: Awaitable[T]) -> asyncio.Task[T]:
    """A task for `awaitable`, which has come to its first wait."""

    async def work() -> T:
        return await awaitable

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    return task


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel `task`, and see it end so."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def unfinished() -> asyncio.Future[Any]:
    """A future that nothing finishes but the test."""
    return asyncio.get_running_loop().create_future()

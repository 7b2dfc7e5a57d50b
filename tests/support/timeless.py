"""An event loop in which waiting takes no time, for what is about seconds and minutes."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import Any, Callable, Coroutine, Dict, List, Optional, Tuple, TypeVar

import pytest

T = TypeVar("T")

_PATIENCE = 20.0

_CLOCKS = [
    *("core.responder", "stream.response", "stream.kept", "http.replies"),
    *("replay.live", "replay.memory", "replay.keys"),
]
"""The modules that look at the time."""


class _Selector(selectors.DefaultSelector):
    now = 1000.0

    def select(self, timeout: Optional[float] = None) -> List[Tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout is not None:
            if not ready:
                self.now += max(0.0, timeout or 0.0)
            return ready
        # Only another thread could bring something now.
        ready = super().select(_PATIENCE)
        assert ready, "nothing will ever happen any more"
        return ready


class TimelessLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything can run, and then jumps.

    It jumps to the next timer that is due. So an hour's wait is over at once, exactly on time, and
    a test that has slept for an instant knows that all that could happen has happened. `tasks` and
    `timers` count what has been made in it. `troubles` is what failed where nobody looked, which a
    test may expect by being `lenient`.
    """

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)
        self.tasks = 0
        self.timers = 0
        self.troubles: List[Dict[str, Any]] = []
        self.lenient = False
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda _, context: self.troubles.append(context))

    def time(self) -> float:
        """The time now, in seconds."""
        return self._clock.now

    def work(self, seconds: float) -> None:
        """Let time pass as it does in code that does not wait."""
        self._clock.now += seconds

    def call_at(  # type: ignore[override]  # whatever the arguments are, they are passed on
        self, *arguments: Any, **options: Any
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(*arguments, **options)

    def _make_task(
        self, _: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        self.tasks += 1
        return asyncio.Task(coroutine, loop=self, **options)


def timeless(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an `async` test in a TimelessLoop, which is the clock of the streams too.

    It may leave no task behind, and nothing may have failed where nobody looked.
    """

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        loop = TimelessLoop()
        with pytest.MonkeyPatch.context() as patch:
            for module in _CLOCKS:
                patch.setattr(f"omniforge_chat.{module}.monotonic", loop.time)
            try:
                loop.run_until_complete(test(*arguments, **options))
                left = asyncio.all_tasks(loop)
                assert not left, f"tasks are left: {left}"
                loop.run_until_complete(loop.shutdown_asyncgens())
                assert loop.lenient or not loop.troubles
            finally:
                loop.close()

    return run


def clock() -> TimelessLoop:
    """The loop that a timeless test runs in."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TimelessLoop)
    return loop


def now() -> float:
    """The time now, in seconds, of a timeless test."""
    return clock().time()


async def settle() -> None:
    """Wait until all that can happen now has happened."""
    await asyncio.sleep(1e-6)


async def passing(seconds: float) -> None:
    """Let this much time pass, and all happen that happens meanwhile."""
    await asyncio.sleep(seconds)

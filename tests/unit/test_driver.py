"""The driver: a coroutine that is resumed by hand behaves as one that the event loop resumes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import types
import weakref
from typing import Any, Awaitable, Callable, Coroutine, Generator, List, Optional, TypeVar, cast

import anyio
import anyio.to_thread
import pytest

from omniforge_chat.core.cancellation import cancellations
from omniforge_chat.core.driver import Abandoned, checkpoint, drive, see_out

from ..support.constants import PATIENCE
from ..support.loops import cancelled, in_each_loop, unfinished, waiting

T = TypeVar("T")


def nothing() -> None:
    """A hook that does nothing."""


class Waits:
    """A hook that counts the waits, and does at each what the test wants."""

    def __init__(self, act: Callable[[], Optional[Awaitable[None]]] = nothing) -> None:
        self.count = 0
        self._act = act

    def __call__(self) -> Optional[Awaitable[None]]:
        self.count += 1
        return self._act()


async def swallowing(awaited: Awaitable[object], result: str) -> str:
    """Wait, and end with `result` after a cancellation."""
    with contextlib.suppress(asyncio.CancelledError):
        await awaited
        return "not cancelled"
    await asyncio.sleep(0)  # it comes once
    return result


# Results and exceptions


def test_a_coroutine_that_never_waits_calls_no_hook_and_gives_the_loop_no_turn() -> None:
    """What is ready costs nothing: it needs no event loop at all."""
    waits = Waits()

    async def work() -> str:
        return "done"

    with pytest.raises(StopIteration) as stop:
        cast(Any, drive(work(), waits)).send(None)
    assert stop.value.value == "done"
    assert waits.count == 0


@in_each_loop
async def test_what_the_coroutine_raises_is_raised() -> None:
    """Before its first wait as well as after it."""

    async def work(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise LookupError("mine")

    for wait in (False, True):
        with pytest.raises(LookupError, match="mine"):
            await drive(work(wait), nothing)


@in_each_loop
async def test_what_a_wait_brings_or_fails_with_reaches_the_coroutine() -> None:
    """Values come from futures and from tasks; and `except` around an `await` works as ever."""

    async def work() -> int:
        loop = asyncio.get_running_loop()
        brings, fails = unfinished(), unfinished()
        loop.call_soon(brings.set_result, 40)
        loop.call_soon(fails.set_exception, LookupError())
        with pytest.raises(LookupError):
            await fails
        await asyncio.sleep(0.001)
        return int(await brings) + await asyncio.ensure_future(asyncio.sleep(0, 2))

    assert await drive(work(), nothing) == 42


@in_each_loop
async def test_what_no_event_loop_can_wait_for_fails_in_the_coroutine() -> None:
    """A responder that awaits another library's futures is told so, and can clean up."""

    class Alien:
        def __await__(self) -> Any:
            yield "not a future"

    async def work() -> str:
        with pytest.raises(RuntimeError, match="not a future"):
            await Alien()
        await asyncio.sleep(0)
        return "went on"

    assert await drive(work(), nothing) == "went on"


# The hook


@in_each_loop
async def test_the_hook_is_called_once_for_each_wait_and_before_it() -> None:
    """It is what sends a frame off before the wait for the next token."""
    seen: List[str] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            future = loop.create_future()
            # The loop's next turn comes after the hook, however the wait ends.
            loop.call_soon(seen.append, "turn")
            loop.call_soon(future.set_result, None)
            await future
            seen.append("woken")

    await drive(work(), lambda: seen.append("hook"))
    assert seen == ["hook", "turn", "woken"] * 3


@in_each_loop
async def test_what_the_hook_returns_is_awaited_before_the_wait() -> None:
    """The frame is with the server before the responder waits, and waits of its own are its own.

    A bare turn of the loop is a wait, as it lets others run; a future that is done is none.
    """
    seen: List[str] = []

    async def send() -> None:
        await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        seen.append("sent")

    async def work() -> None:
        ready = unfinished()
        ready.set_result(None)
        await ready
        await asyncio.sleep(0)
        seen.append("woken")

    waits = Waits(send)
    await drive(work(), waits)
    assert waits.count == 1
    assert seen == ["sent", "woken"]


@in_each_loop
async def test_a_wait_that_ends_while_the_hook_still_waits_is_not_lost() -> None:
    """The next token may come while the one before is still being sent."""
    future = unfinished()

    async def send() -> None:
        future.set_result("the next token")
        for _ in range(3):
            await asyncio.sleep(0)

    async def work() -> str:
        return str(await future)

    assert await drive(work(), send) == "the next token"


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("when", ["at once", "after a wait"])
@in_each_loop
async def test_what_the_hook_raises_is_thrown_into_the_coroutine_and_its_wait_is_off(
    when: str, bare: bool
) -> None:
    """Nobody waits for a token once it is decided that the stream ends."""
    future = unfinished()

    async def work() -> str:
        with pytest.raises(LookupError):
            await (checkpoint() if bare else future)
        return "went on"

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError

    def act() -> Optional[Awaitable[None]]:
        if when == "at once":
            raise LookupError
        return fail()

    assert await drive(work(), act) == "went on"
    assert future.cancelled() != bare


# Cancellation


@pytest.mark.parametrize("where", ["in the wait", "in the hook"])
@in_each_loop
async def test_cancellation_from_outside_reaches_the_coroutine(where: str) -> None:
    """The responder's `finally` runs wherever the cancellation meets the task."""
    seen: List[str] = []
    future = unfinished()
    hooks: List[Awaitable[None]] = [unfinished()] if where == "in the hook" else []

    async def work() -> None:
        try:
            await future
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    await cancelled(await waiting(drive(work(), lambda: hooks.pop() if hooks else None)))
    assert future.cancelled()
    assert seen == ["cancelled", "cleaned up"]


@in_each_loop
async def test_a_coroutine_may_swallow_a_cancellation_and_end_in_its_own_way() -> None:
    """It is its own affair, as in any task."""
    task = await waiting(drive(swallowing(unfinished(), "survived"), nothing))
    task.cancel()
    assert await task == "survived"


@in_each_loop
async def test_an_awaited_task_is_cancelled_with_the_coroutine_that_awaits_it() -> None:
    """As it is without a driver; a shielded one is not."""
    awaited = asyncio.ensure_future(asyncio.Event().wait())
    shielded = asyncio.ensure_future(asyncio.Event().wait())
    cleans_up = asyncio.Event()

    async def work() -> None:
        try:
            await awaited
        finally:
            cleans_up.set()
            await asyncio.shield(shielded)

    task = await waiting(drive(work(), nothing))
    task.cancel()
    await cleans_up.wait()
    await cancelled(task)
    assert awaited.cancelled()
    assert not shielded.done()
    shielded.cancel()
    await asyncio.wait([shielded])


@in_each_loop
async def test_an_awaited_task_that_outlives_its_cancellation_is_waited_for() -> None:
    """What it returns, or raises, reaches who awaits it, as it does without a driver."""
    waits = Waits()

    async def work() -> str:
        return await inner

    inner = await waiting(swallowing(unfinished(), "after all"))
    task = await waiting(drive(work(), waits))
    task.cancel()
    assert await task == "after all"
    assert waits.count == 2  # at the wait, and at the cancellation that did not end it


# Giving up


def give_up() -> None:
    """A hook that does."""
    raise Abandoned


@in_each_loop
async def test_an_abandoned_coroutine_is_not_resumed_any_more() -> None:
    """One that refuses to end must not hold the request for ever."""
    seen: List[str] = []

    async def work() -> None:
        try:
            await unfinished()
        finally:
            seen.append("closed")

    with pytest.raises(Abandoned):
        await drive(work(), give_up)
    assert seen == ["closed"]


@in_each_loop
async def test_a_coroutine_that_awaits_a_task_that_refuses_to_end_can_be_given_up() -> None:
    """A cancellation goes to the awaited task alone, and nobody would hear of it again."""
    release = asyncio.Event()
    hooks: List[Callable[[], None]] = []

    async def deaf() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async def work() -> None:
        await inner

    inner = await waiting(deaf())
    task = await waiting(drive(work(), lambda: hooks[0]() if hooks else None))
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    hooks.append(give_up)
    task.cancel()
    with pytest.raises(Abandoned):
        await task
    assert not inner.done()
    release.set()
    await inner


@in_each_loop
async def test_an_abandoned_coroutine_that_waits_even_then_is_dropped() -> None:
    """Not even GeneratorExit ends it; then it is left where it is."""
    deaf = True

    async def work() -> None:
        while deaf:
            try:
                await unfinished()
            except BaseException:  # a responder that swallows everything
                continue

    coroutine = work()
    with pytest.raises(Abandoned):
        await drive(coroutine, give_up)
    deaf = False
    coroutine.close()  # it hears us now, so that nothing is left of it after the test


# What people use inside


async def asyncio_s_wait_for() -> None:
    """Time limits around an upstream are what responders are made of."""
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    assert await asyncio.wait_for(asyncio.sleep(0, "in time"), PATIENCE) == "in time"


async def anyio_s_time_limits() -> None:
    """anyio cancels again and again until its scope is left; it has to see the task as it is."""
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    seen = []
    try:
        with anyio.fail_after(0.01):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
                seen.append("shielded")
    except TimeoutError:
        seen.append("timed out")
    assert seen == ["shielded", "timed out"]
    with anyio.fail_after(PATIENCE):
        await anyio.sleep(0.001)


async def an_anyio_task_group() -> None:
    """Children run beside the driven coroutine, and end before it leaves the group."""
    seen: List[str] = []

    async def child(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(child, "a")
        group.start_soon(child, "b")
        await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    assert sorted(seen) == ["a", "b"]


async def threads() -> None:
    """Blocking clients of models run in one, with the context variables of the request."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("request")
    assert await asyncio.get_running_loop().run_in_executor(None, lambda: 1) == 1
    assert await anyio.to_thread.run_sync(name.get) == "request"


inside = [asyncio_s_wait_for, anyio_s_time_limits, an_anyio_task_group, threads]

if sys.version_info >= (3, 11):  # which brought asyncio.timeout and asyncio.TaskGroup

    async def asyncio_s_timeout() -> None:
        """It cancels the task and takes that back, so the count of cancellations comes out even."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        async with asyncio.timeout(PATIENCE):
            await asyncio.sleep(0)

    async def an_asyncio_task_group() -> None:
        """A child's failure cancels the parent's wait, and is what comes out."""

        async def fail() -> None:
            raise LookupError

        async def failing() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            good = group.create_task(asyncio.sleep(0, "good"))
        with pytest.raises(Exception, match="unhandled errors in a TaskGroup"):
            await failing()
        assert good.result() == "good"

    inside += [asyncio_s_timeout, an_asyncio_task_group]


@pytest.mark.parametrize("work", inside)
@in_each_loop
async def test_what_people_use_works_inside(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A driven coroutine is no special case to any library."""
    await drive(work(), nothing)
    assert cancellations(asyncio.current_task()) == 0


@in_each_loop
async def test_a_cancelled_anyio_task_group_inside_ends_with_its_children() -> None:
    """A client that leaves ends all that was started for its reply."""
    seen: List[str] = []
    started = asyncio.Event()

    async def child() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("child")

    async def work() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                await anyio.sleep_forever()
        finally:
            seen.append("parent")

    task = await waiting(drive(work(), nothing))
    await started.wait()
    await cancelled(task)
    assert seen == ["child", "parent"]


@in_each_loop
async def test_inner_tasks_work_inside() -> None:
    """A task of its own is resumed by the loop, not by the driver: it is no wait of ours."""

    async def inner(number: int) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return number

    async def work() -> List[int]:
        return list(await asyncio.gather(*map(inner, range(3))))

    waits = Waits()
    assert await drive(work(), waits) == [0, 1, 2]
    assert waits.count == 1


@in_each_loop
async def test_it_is_one_task_and_one_context() -> None:
    """What asks for the current task, or sets a context variable, finds what it would find."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="unset")
    seen: List[Any] = []

    async def work() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        name.set("set inside")

    await drive(work(), nothing)
    assert seen == [asyncio.current_task()] * 2
    assert name.get() == "set inside"


@in_each_loop
async def test_a_driven_coroutine_may_drive_another() -> None:
    """Each hook hears of the waits below it, the innermost first."""
    seen: List[str] = []

    async def outer() -> str:
        return await drive(asyncio.sleep(0, "inner"), lambda: seen.append("inner"))

    assert await drive(outer(), lambda: seen.append("outer")) == "inner"
    assert seen == ["inner", "outer"]


# Seeing out


@types.coroutine
def interruptible(work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """`work`, which is seen out as soon as a wait of its ends with an exception."""
    steps: Generator[Any, Any, Any] = work.__await__()
    awaited = steps.send(None)
    while True:
        try:
            value = yield awaited
        except BaseException as error:
            return (yield from see_out(steps, awaited, error))
        awaited = steps.send(value)


@pytest.mark.parametrize("waits", [True, False])
@in_each_loop
async def test_a_cancellation_gets_in_at_a_real_wait_and_not_at_a_bare_turn(waits: bool) -> None:
    """The wait itself is off; the turn before it was not torn.

    If there is no such wait, it has run to its end, but nobody waits for what it came to.
    """
    passed: List[str] = []
    future = unfinished()

    async def work() -> str:
        await asyncio.sleep(0)
        passed.append("turn")
        try:
            if waits:
                await future
        except asyncio.CancelledError:
            passed.append("cancelled")
            raise
        return "done"

    task = await waiting(interruptible(work()))
    assert passed == []
    await cancelled(task)
    assert passed == (["turn", "cancelled"] if waits else ["turn"])
    assert future.cancelled() == waits


@in_each_loop
async def test_a_clean_up_is_not_cut_short_however_often_it_is_cancelled() -> None:
    """Neither in its turns nor in its waits; what was asked for is raised when it has ended."""
    passed: List[str] = []
    future = unfinished()

    async def work() -> None:
        try:
            await unfinished()
        finally:
            await asyncio.sleep(0)
            passed.append("turn")
            await future
            passed.append("wait")
            raise OSError("what it ended with")

    task = await waiting(interruptible(work()))
    for _ in range(10):
        await asyncio.sleep(0)
        task.cancel()
    assert passed == ["turn"]
    future.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert passed == ["turn", "wait"]


@in_each_loop
async def test_another_error_gets_in_and_what_it_becomes_comes_out() -> None:
    """A time limit is thrown in place of the cancellation that it was made with."""

    async def work() -> None:
        try:
            await unfinished()
        except KeyError:
            await asyncio.sleep(0)
            raise OSError("closed") from None

    steps = work().__await__()
    awaited = steps.send(None)
    with pytest.raises(OSError, match="closed"):
        await see_out(steps, awaited, KeyError())


# Memory


@in_each_loop
@pytest.mark.parametrize("way", ["driven", "seen out"])
async def test_a_cancelled_coroutine_is_freed_without_a_collection(way: str) -> None:
    """Its exception knows its frames; none of these may know the exception."""

    class Held:
        pass

    async def work() -> None:
        mine = Held()
        held.append(weakref.ref(mine))
        await unfinished()

    async def see() -> None:
        await (drive(work(), nothing) if way == "driven" else interruptible(work()))

    held: List[Any] = []
    gc.disable()
    try:
        task = await waiting(see())
        task.cancel()
        await asyncio.wait([task])
        del task
        assert held[0]() is None
    finally:
        gc.enable()

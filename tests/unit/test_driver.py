"""The driver: a coroutine that is resumed by hand behaves as one that the event loop resumes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import importlib.util
import sys
import types
import weakref
from typing import Any, Awaitable, Callable, Coroutine, Generator, List, Optional, TypeVar, cast

import anyio
import anyio.to_thread
import pytest

from omniforge_chat.core.driver import Abandoned, drive, see_out

from ..support.constants import PATIENCE

T = TypeVar("T")


Run = Callable[[Coroutine[Any, Any, T]], T]

LOOPS = [
    pytest.param("asyncio", id="asyncio"),
    pytest.param(
        "uvloop",
        id="uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="no uvloop here"
        ),
    ),
]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Runs a coroutine in each kind of event loop, which nothing may be left in."""

    def run_in_loop(coroutine: Coroutine[Any, Any, T]) -> T:
        loop: asyncio.AbstractEventLoop = importlib.import_module(request.param).new_event_loop()
        troubles: List[Any] = []
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        try:
            result = loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))
            assert not asyncio.all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            assert not troubles
            return result
        finally:
            loop.close()

    return run_in_loop


class Waits:
    """A hook that counts the waits, and does at each what the test wants."""

    def __init__(self, act: Optional[Callable[[], Optional[Awaitable[None]]]] = None) -> None:
        self.count = 0
        self._act = act

    def __call__(self) -> Optional[Awaitable[None]]:
        self.count += 1
        return None if self._act is None else self._act()


def nothing() -> None:
    """A hook that does nothing."""


# Results and exceptions


def test_what_the_coroutine_returns_is_returned(run: Run[str]) -> None:
    """A driven coroutine is awaited like any other."""

    async def work() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return "done"

    async def main() -> str:
        return await drive(work(), nothing)

    assert run(main()) == "done"


def test_a_coroutine_that_never_waits_calls_no_hook_and_gives_the_loop_no_turn() -> None:
    """What is ready costs nothing: it needs no event loop at all."""
    waits = Waits()

    async def work() -> str:
        return "done"

    with pytest.raises(StopIteration) as stop:
        cast(Any, drive(work(), waits)).send(None)
    assert stop.value.value == "done"
    assert waits.count == 0


def test_what_the_coroutine_raises_is_raised(run: Run[None]) -> None:
    """Before its first wait as well as after it."""

    async def work(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise LookupError("mine")

    async def main() -> None:
        for wait in (False, True):
            with pytest.raises(LookupError, match="mine"):
                await drive(work(wait), nothing)

    run(main())


def test_what_a_wait_fails_with_reaches_the_coroutine_which_may_go_on(run: Run[str]) -> None:
    """`except` around an `await` works as ever."""

    async def work() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, LookupError("theirs"))
        try:
            await future
        except LookupError as error:
            await asyncio.sleep(0)
            return str(error)
        return "nothing was raised"

    async def main() -> str:
        return await drive(work(), nothing)

    assert run(main()) == "theirs"


def test_what_a_wait_brings_reaches_the_coroutine(run: Run[int]) -> None:
    """Values come from futures and from tasks."""

    async def main() -> int:
        async def work() -> int:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, 40)
            return int(await future) + await asyncio.ensure_future(asyncio.sleep(0, 2))

        return await drive(work(), nothing)

    assert run(main()) == 42


def test_what_no_event_loop_can_wait_for_fails_in_the_coroutine(run: Run[str]) -> None:
    """A responder that awaits another library's futures is told so, and can clean up."""

    class Alien:
        def __await__(self) -> Any:
            yield "not a future"

    async def work() -> str:
        try:
            await Alien()
        except RuntimeError as error:
            await asyncio.sleep(0)
            return str(error)
        return "nothing was raised"

    async def main() -> str:
        return await drive(work(), nothing)

    assert "not a future" in run(main())


# The hook


def test_the_hook_is_called_once_for_each_wait_and_before_it(run: Run[None]) -> None:
    """It is what sends a frame off before the wait for the next token."""
    seen: List[str] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for number in range(3):
            future = loop.create_future()
            # The loop's next turn comes after the hook, however the wait ends.
            loop.call_soon(seen.append, f"turn {number}")
            loop.call_soon(future.set_result, None)
            await future
            seen.append(f"woken {number}")

    async def main() -> None:
        waits = Waits(lambda: seen.append("hook"))
        await drive(work(), waits)
        assert waits.count == 3

    run(main())
    assert seen == [
        text for number in range(3) for text in ("hook", f"turn {number}", f"woken {number}")
    ]


def test_a_bare_turn_of_the_loop_is_a_wait(run: Run[int]) -> None:
    """`sleep(0)` lets others run, so what is ready goes out before it as well."""

    async def main() -> int:
        waits = Waits()
        await drive(asyncio.sleep(0), waits)
        return waits.count

    assert run(main()) == 1


def test_what_the_hook_returns_is_awaited_before_the_wait(run: Run[None]) -> None:
    """The frame is with the server before the responder waits, and waits of its own are its own."""
    seen: List[str] = []

    async def send() -> None:
        await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        seen.append("sent")

    async def work() -> None:
        ready = asyncio.get_running_loop().create_future()
        ready.set_result(None)
        await ready  # is no wait
        await asyncio.sleep(0)
        seen.append("woken")

    async def main() -> None:
        waits = Waits(send)
        await drive(work(), waits)
        assert waits.count == 1

    run(main())
    assert seen == ["sent", "woken"]


def test_a_wait_that_ends_while_the_hook_still_waits_is_not_lost(run: Run[str]) -> None:
    """The next token may come while the one before is still being sent."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()

        async def send() -> None:
            future.set_result("the next token")
            for _ in range(3):
                await asyncio.sleep(0)

        async def work() -> str:
            return await future

        return await drive(work(), send)

    assert run(main()) == "the next token"


@pytest.mark.parametrize("when", ["at once", "after a wait"])
def test_what_the_hook_raises_is_thrown_into_the_coroutine_and_its_wait_is_off(
    run: Run[None], when: str
) -> None:
    """Nobody waits for a token once it is decided that the stream ends."""
    seen: List[str] = []
    left: List[asyncio.Future[None]] = []

    class Stop(Exception):
        pass

    async def work() -> str:
        left.append(asyncio.get_running_loop().create_future())
        try:
            await left[0]
        except Stop:
            seen.append("stopped")
        return "went on"

    async def fail() -> None:
        await asyncio.sleep(0)
        raise Stop

    def act() -> Optional[Awaitable[None]]:
        if when == "at once":
            raise Stop
        return fail()

    async def main() -> None:
        assert await drive(work(), Waits(act)) == "went on"
        assert left[0].cancelled()

    run(main())
    assert seen == ["stopped"]


def test_a_hook_that_raises_at_a_bare_turn_of_the_loop_stops_it_too(run: Run[None]) -> None:
    """There is no future to cancel then."""

    def act() -> None:
        raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            await drive(asyncio.sleep(0), act)

    run(main())


# Cancellation


@pytest.mark.parametrize("where", ["in the wait", "in the hook"])
def test_cancellation_from_outside_reaches_the_coroutine(run: Run[None], where: str) -> None:
    """The responder's `finally` runs wherever the cancellation meets the task."""
    seen: List[str] = []

    async def main() -> None:
        waiting = asyncio.Event()
        future = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                await future
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0)
                seen.append("cleaned up")
                raise

        async def block() -> None:
            waiting.set()
            if where == "in the hook":
                await asyncio.get_running_loop().create_future()

        first = [block]

        def act() -> Optional[Awaitable[None]]:
            return first.pop()() if first else None

        async def driven() -> None:
            await drive(work(), act)

        task = asyncio.ensure_future(driven())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert future.cancelled()

    run(main())
    assert seen == ["cancelled", "cleaned up"]


def test_a_coroutine_may_swallow_a_cancellation_and_end_in_its_own_way(run: Run[None]) -> None:
    """It is its own affair, as in any task."""

    async def main() -> None:
        waiting = asyncio.Event()

        async def work() -> str:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return "survived"

        async def driven() -> str:
            return await drive(work(), waiting.set)

        task = asyncio.ensure_future(driven())
        await waiting.wait()
        task.cancel()
        assert await task == "survived"

    run(main())


def test_an_awaited_task_is_cancelled_with_the_coroutine_that_awaits_it(run: Run[None]) -> None:
    """As it is without a driver; a shielded one is not."""

    async def main() -> None:
        waiting = asyncio.Event()
        awaited = asyncio.ensure_future(asyncio.Event().wait())
        shielded = asyncio.ensure_future(asyncio.Event().wait())

        async def work() -> None:
            waiting.set()  # main() hears of it when this waits
            try:
                await awaited
            finally:
                waiting.set()
                await asyncio.shield(shielded)

        async def driven() -> None:
            await drive(work(), nothing)

        task = asyncio.ensure_future(driven())
        for _ in range(2):
            await waiting.wait()
            waiting.clear()
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert awaited.cancelled()
        assert not shielded.done()
        shielded.cancel()
        await asyncio.wait([shielded])

    run(main())


def test_an_awaited_task_that_outlives_its_cancellation_is_waited_for(run: Run[None]) -> None:
    """What it returns, or raises, reaches who awaits it, as it does without a driver."""

    async def main() -> None:
        waits = Waits()
        waiting = asyncio.Event()

        async def stubborn() -> str:
            waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                for _ in range(3):
                    await asyncio.sleep(0)
            return "after all"

        async def work() -> str:
            return await asyncio.ensure_future(stubborn())

        async def driven() -> str:
            return await drive(work(), waits)

        task = asyncio.ensure_future(driven())
        await waiting.wait()
        task.cancel()
        assert await task == "after all"
        assert waits.count == 2  # at the wait, and at the cancellation that did not end it

    run(main())


def test_several_tasks_that_are_awaited_together_are_followed_too(run: Run[List[int]]) -> None:
    """`gather` is cancelled by way of what it gathers."""

    async def main() -> List[int]:
        async def value(number: int) -> int:
            await asyncio.sleep(0)
            return number

        async def work() -> List[int]:
            return list(await asyncio.gather(*map(value, range(3))))

        return await drive(work(), nothing)

    assert run(main()) == [0, 1, 2]


# Giving up


def test_an_abandoned_coroutine_is_not_resumed_any_more(run: Run[None]) -> None:
    """One that refuses to end must not hold the request for ever."""
    seen: List[str] = []

    async def main() -> None:
        async def work() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                seen.append("closed")

        def give_up() -> None:
            raise Abandoned

        with pytest.raises(Abandoned):
            await drive(work(), give_up)

    run(main())
    assert seen == ["closed"]


def test_a_coroutine_that_awaits_a_task_that_refuses_to_end_can_be_given_up(
    run: Run[None],
) -> None:
    """A cancellation goes to the awaited task alone, and nobody would hear of it again."""

    async def main() -> None:
        waiting, release = asyncio.Event(), asyncio.Event()
        give_up = False

        async def deaf() -> None:
            waiting.set()
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

        inner = asyncio.ensure_future(deaf())

        async def work() -> None:
            await inner

        def before_wait() -> None:
            if give_up:
                raise Abandoned

        async def driven() -> None:
            await drive(work(), before_wait)

        task = asyncio.ensure_future(driven())
        await waiting.wait()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done()
        give_up = True
        task.cancel()
        with pytest.raises(Abandoned):
            await task
        assert not inner.done()
        release.set()
        await inner

    run(main())


def test_an_abandoned_coroutine_that_waits_even_then_is_dropped(run: Run[None]) -> None:
    """Not even GeneratorExit ends it; then it is left where it is."""
    deaf = [True]

    async def main() -> None:
        async def work() -> None:
            while deaf[0]:
                try:
                    await asyncio.get_running_loop().create_future()
                except BaseException:  # a responder that swallows everything
                    continue

        def give_up() -> None:
            raise Abandoned

        coroutine = work()
        with pytest.raises(Abandoned):
            await drive(coroutine, give_up)
        deaf[0] = False
        coroutine.close()  # it hears us now, so that nothing is left of it after the test

    run(main())


# What people use inside


def test_asyncio_wait_for_works_inside(run: Run[None]) -> None:
    """Time limits around an upstream are what responders are made of."""

    async def work() -> str:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        return await asyncio.wait_for(asyncio.sleep(0, "in time"), PATIENCE)

    async def main() -> None:
        assert await drive(work(), nothing) == "in time"

    run(main())


if sys.version_info >= (3, 11):  # which brought asyncio.timeout and asyncio.TaskGroup

    def test_asyncio_timeout_works_inside(run: Run[None]) -> None:
        """It cancels the task and takes that back, so the count of cancellations comes out even."""

        async def work() -> str:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            async with asyncio.timeout(PATIENCE):
                await asyncio.sleep(0)
            return "in time"

        async def main() -> None:
            assert await drive(work(), nothing) == "in time"
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

        run(main())

    def test_an_asyncio_task_group_works_inside(run: Run[None]) -> None:
        """A child's failure cancels the parent's wait, and is what comes out."""

        async def fail() -> None:
            raise LookupError

        async def failing() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()

        async def work() -> str:
            async with asyncio.TaskGroup() as group:
                good = group.create_task(asyncio.sleep(0, "good"))
            with pytest.raises(Exception, match="unhandled errors in a TaskGroup"):
                await failing()
            return good.result()

        async def main() -> None:
            assert await drive(work(), nothing) == "good"

        run(main())


def test_anyio_time_limits_work_inside(run: Run[None]) -> None:
    """anyio cancels again and again until its scope is left; it has to see the task as it is."""

    async def work() -> str:
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
        return "in time"

    async def main() -> None:
        assert await drive(work(), nothing) == "in time"

    run(main())


def test_an_anyio_task_group_works_inside(run: Run[None]) -> None:
    """Children run beside the driven coroutine, and end before it leaves the group."""
    seen: List[str] = []

    async def child(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(name)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child, "a")
            group.start_soon(child, "b")
            await anyio.sleep(0.001)
            group.cancel_scope.cancel()

    async def main() -> None:
        await drive(work(), nothing)

    run(main())
    assert sorted(seen) == ["a", "b"]


def test_a_cancelled_anyio_task_group_inside_ends_with_its_children(run: Run[None]) -> None:
    """A client that leaves ends all that was started for its reply."""
    seen: List[str] = []

    async def main() -> None:
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

        async def driven() -> None:
            await drive(work(), nothing)

        task = asyncio.ensure_future(driven())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert seen == ["child", "parent"]


def test_threads_work_inside(run: Run[None]) -> None:
    """Blocking clients of models run in one, with the context variables of the request."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    async def work() -> str:
        name.set("request")
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, lambda: 1) == 1
        return await anyio.to_thread.run_sync(name.get)

    async def main() -> None:
        assert await drive(work(), nothing) == "request"

    run(main())


def test_inner_tasks_work_inside(run: Run[None]) -> None:
    """A task of its own is resumed by the loop, not by the driver: it is no wait of ours."""

    async def main() -> None:
        async def inner() -> int:
            for _ in range(5):
                await asyncio.sleep(0)
            return 1

        async def work() -> int:
            tasks = [asyncio.ensure_future(inner()) for _ in range(3)]
            return sum(await asyncio.gather(*tasks))

        waits = Waits()
        assert await drive(work(), waits) == 3
        assert waits.count == 1

    run(main())


def test_it_is_one_task_and_one_context(run: Run[None]) -> None:
    """What asks for the current task, or sets a context variable, finds what it would find."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="unset")

    async def main() -> None:
        seen: List[Any] = []

        async def work() -> None:
            seen.append(asyncio.current_task())
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())
            name.set("set inside")

        await drive(work(), nothing)
        assert seen == [asyncio.current_task()] * 2
        assert name.get() == "set inside"

    run(main())


def test_a_driven_coroutine_may_drive_another(run: Run[None]) -> None:
    """Each hook hears of the waits below it, the innermost first."""
    seen: List[str] = []

    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    async def outer() -> str:
        return await drive(inner(), lambda: seen.append("inner"))

    async def main() -> None:
        assert await drive(outer(), lambda: seen.append("outer")) == "inner"

    run(main())
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


def test_a_cancellation_gets_in_at_a_real_wait_and_not_at_a_bare_turn(run: Run[None]) -> None:
    """The wait itself is off; the bare turn before it was not torn."""
    passed: List[str] = []

    async def work(future: asyncio.Future[None]) -> None:
        await asyncio.sleep(0)
        passed.append("turn")
        try:
            await future
        except asyncio.CancelledError:
            passed.append("cancelled")
            raise

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def see() -> None:
            await interruptible(work(future))

        task = asyncio.ensure_future(see())
        await asyncio.sleep(0)
        assert passed == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert passed == ["turn", "cancelled"]
        assert future.cancelled()

    run(main())


def test_a_clean_up_is_not_cut_short_however_often_it_is_cancelled(run: Run[None]) -> None:
    """Neither in its turns nor in its waits; what was asked for is raised when it has ended."""
    passed: List[str] = []

    async def work(future: asyncio.Future[None]) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            passed.append("turn")
            await future
            passed.append("wait")
            raise OSError("what it ended with")

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def see() -> None:
            await interruptible(work(future))

        task = asyncio.ensure_future(see())
        for _ in range(10):
            await asyncio.sleep(0)
            task.cancel()
        assert passed == ["turn"]
        future.set_result(None)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert passed == ["turn", "wait"]

    run(main())


def test_what_ends_before_a_cancellation_could_get_in_ends_with_it(run: Run[None]) -> None:
    """It has run to its end, but nobody waits for what it came to."""
    passed: List[str] = []

    async def work() -> str:
        await asyncio.sleep(0)
        passed.append("end")
        return "done"

    async def main() -> None:
        async def see() -> None:
            await interruptible(work())

        task = asyncio.ensure_future(see())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert passed == ["end"]

    run(main())


def test_another_error_gets_in_and_what_it_becomes_comes_out(run: Run[None]) -> None:
    """A time limit is thrown in place of the cancellation that it was made with."""

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except KeyError:
            await asyncio.sleep(0)
            raise OSError("closed") from None

    async def main() -> None:
        steps = work().__await__()
        awaited = steps.send(None)
        with pytest.raises(OSError, match="closed"):
            await see_out(steps, awaited, KeyError())

    run(main())


# Memory


@pytest.mark.parametrize("way", ["driven", "seen out"])
def test_a_cancelled_coroutine_is_freed_without_a_collection(run: Run[Any], way: str) -> None:
    """Its exception knows its frames; none of these may know the exception."""

    class Held:
        pass

    async def main() -> Any:
        async def work() -> None:
            mine = Held()
            held.append(mine)
            await asyncio.get_running_loop().create_future()

        async def see() -> None:
            await (drive(work(), nothing) if way == "driven" else interruptible(work()))

        held: List[Any] = []
        task = asyncio.ensure_future(see())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return weakref.ref(held.pop())

    gc.disable()
    try:
        assert run(main())() is None
    finally:
        gc.enable()

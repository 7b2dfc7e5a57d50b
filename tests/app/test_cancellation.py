"""One stream's cancellations: the clean-up of its responder, outside ones, and its own limits."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Awaitable, Callable, List, Optional, Union

import anyio
import pytest

from omniforge_chat import Turn
from omniforge_chat.core.cancellation import COUNTS_CANCELLATIONS
from omniforge_chat.stream.state import ATTEMPT_SECONDS, ATTEMPTS

from ..support.line import CAUSES, FOREVER, OFF, TOLD, Line, Script, ended_by, stuck
from ..support.timeless import clock, now, passing, settle, timeless

# Closing the responder


async def _shielded_by_anyio() -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(3)


async def _shielded_by_asyncio() -> None:
    await asyncio.shield(asyncio.ensure_future(asyncio.sleep(3)))


@pytest.mark.parametrize("clean_up", [3, _shielded_by_anyio, _shielded_by_asyncio])
@pytest.mark.parametrize("cause", CAUSES)
@timeless
async def test_a_responder_has_time_to_clean_up(
    cause: str, clean_up: Union[float, Callable[[], Awaitable[None]]]
) -> None:
    """It closes the model's stream, or writes down its usage; and a shield is let be."""
    line = await ended_by(cause, Script("a", FOREVER, clean_up=clean_up))
    await line.end()
    assert (line.script.closing, line.script.closed) == (10, 13)
    assert (line.told, line.troubles) == (TOLD[cause], [])


@pytest.mark.parametrize("cause", ["leave", "drain", "deadline"])
@timeless
async def test_a_clean_up_that_takes_too_long_is_cancelled_and_logged(cause: str) -> None:
    """A place in the server is not for ever."""
    line = await ended_by(cause, Script("a", FOREVER, clean_up=FOREVER))
    assert await line.end() == 15
    assert (line.script.closing, line.script.closed) == (10, None)
    assert line.told == TOLD[cause]
    assert line.troubles == ["responder did not end within 5 s of its cancellation"]


@timeless
async def test_a_clean_up_after_the_last_token_is_bounded_too() -> None:
    """The reply is complete, but its stream would never end."""
    line = Line(Script("a", clean_up=FOREVER), idle_timeout=10)
    assert await line.end() == 10
    assert (line.said, line.told, line.script.closing) == ("a", "timeout", 0)


@timeless
async def test_a_clean_up_after_the_last_piece_has_its_time_whatever_the_client_does() -> None:
    """A slow client is no reason to cut an iterator's `aclose` short."""
    closed: List[float] = []

    class Items:
        def __init__(self, turn: Turn) -> None:
            self._items = iter("ab")

        def __aiter__(self) -> Items:
            return self

        async def __anext__(self) -> str:
            for item in self._items:
                return item
            raise StopAsyncIteration

        async def aclose(self) -> None:
            await asyncio.sleep(2)
            closed.append(now())

    line = Line(Items, send_timeout=30)
    line.stop_reading()
    await passing(10)
    line.read_on()
    assert await line.end() == 10  # the timer of its sleep has run meanwhile
    assert len(closed) == 1
    assert line.said == "ab"


@pytest.mark.filterwarnings(
    # What Python says of a coroutine that ignores even GeneratorExit, when it is dropped.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("form", ["coroutine", "task", "tasks"])
@pytest.mark.parametrize("cause", ["leave", "drain", "deadline"])
@timeless
async def test_a_responder_that_swallows_everything_is_given_up_and_logged(
    form: str, cause: str
) -> None:
    """`except BaseException: continue` exists, and must cost its own reply only."""
    deaf = True

    async def swallow() -> None:
        while deaf:
            try:
                await asyncio.sleep(FOREVER)
            except BaseException:
                continue

    # A cancellation goes to a task that is awaited, and to nobody else.
    step = {
        "coroutine": swallow,
        "task": lambda: asyncio.ensure_future(swallow()),
        "tasks": lambda: asyncio.gather(swallow(), swallow()),
    }[form]
    line = await ended_by(cause, Script("a", step))
    began = now()
    await asyncio.wait([line.task], timeout=100)
    took = now() - began
    deaf = False  # what it has left running ends at its next cancellation
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await line.end()
    assert took == pytest.approx(5 + ATTEMPTS * ATTEMPT_SECONDS, abs=0.001)
    assert line.told == TOLD[cause]
    assert line.troubles[0] == "responder did not end within 5 s of its cancellation"
    assert line.troubles[-1] == "responder given up"
    clock().lenient = True  # Python, too, can only complain of it


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("cause", ["leave", "drain", "deadline"])
@timeless
async def test_a_responder_that_swallows_and_goes_on_yielding_is_not_read(
    cause: str, waits: bool
) -> None:
    """Nobody hears its words after its end was decided."""
    swallowed = 0

    async def stubborn(turn: Turn) -> AsyncIterator[str]:
        nonlocal swallowed
        yield "a"
        while True:
            try:
                await asyncio.sleep(FOREVER)
            except asyncio.CancelledError:
                swallowed += 1
            yield "never to be seen"
            if waits:
                await asyncio.sleep(1)

    line = await ended_by(cause, stubborn)
    assert await line.end() == 10
    assert swallowed == 1
    assert (line.said, line.told) == ("a", TOLD[cause])
    chat = vars(line.records.all[-1])["chat"]
    assert (chat["chunks"], chat["tokens"]) == (1, 1)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("cause", ["drain", "deadline"])
@timeless
async def test_what_a_responder_makes_of_its_cancellation_does_not_change_the_end(
    cause: str, fails: bool
) -> None:
    """A reply that was cut is never `done`, and a failing clean-up does not hide what cut it."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            if fails:
                raise LookupError("a clean-up that fails") from None

    line = await ended_by(cause, respond)
    await line.end()
    assert line.told == TOLD[cause]
    assert line.troubles == ["responder failed to end"] * fails


@pytest.mark.parametrize(("cause", "told"), [("leave", None), ("drain", "timeout")])
@timeless
async def test_closing_a_second_cause_changes_nothing(cause: str, told: Optional[str]) -> None:
    """The first decides the end, if there is still somebody to tell; nothing is cancelled again."""
    script = Script("a", FOREVER, clean_up=3)
    line = await ended_by("deadline", script, total_timeout=12)
    await passing(1)
    line.meet(cause)
    assert await line.end() == 13
    assert script.closed == 13
    assert (line.said, line.told) == ("a", told)
    assert line.outcome == (told or "disconnected")


# Cancellations from outside


@timeless
async def test_closing_a_cancellation_from_outside_ends_the_clean_up() -> None:
    """Whoever cancels a request wants it to end now; the client still gets the last frame."""
    line = await ended_by("deadline", Script("a", FOREVER, clean_up=3))
    await passing(1)
    line.cancel()
    assert await line.end(cancelled=COUNTS_CANCELLATIONS) == 11
    assert (line.told, line.script.closed) == ("timeout", None)


@timeless
async def test_a_clean_up_after_a_cancellation_from_outside_meets_the_deadlines() -> None:
    """A stream cannot tell it from a time limit of the responder's own, which is no end."""
    line = Line(Script("a", FOREVER, clean_up=FOREVER), **{**OFF, "idle_timeout": 10})
    await passing(7)
    line.cancel()
    assert await line.end(cancelled=COUNTS_CANCELLATIONS) == 10
    assert (line.told, line.script.closed) == ("timeout", None)


@pytest.mark.skipif(not COUNTS_CANCELLATIONS, reason="a task does not tell that it was cancelled")
@timeless
async def test_a_clean_up_is_not_held_up_by_a_client_that_does_not_read() -> None:
    """It may need a moment, and what is left to be said can wait for the last frame."""
    line = Line(Script("a", 1, "b", FOREVER, clean_up=1), **OFF)
    await line.until("a")
    line.stop_reading()
    await passing(2)
    line.cancel()
    await passing(2)
    assert line.script.closed == 3
    line.read_on()
    await line.end()
    assert line.said == "ab"


@timeless
async def test_a_reply_whose_end_was_not_told_is_not_logged_as_done() -> None:
    """Who counts replies would count one that no client has got."""
    line = await stuck("last frame")
    for _ in range(2):
        line.cancel()
        await settle()
    await asyncio.wait([line.task])
    assert line.outcome == "cancelled"


# Cancellations that are no end


@pytest.mark.parametrize("how", ["raised", "awaited"])
@timeless
async def test_a_cancellation_that_nobody_asked_for_is_the_responder_s_error(how: str) -> None:
    """It has awaited something that was cancelled elsewhere, and must not take the server along."""

    async def await_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.cancel)
        await future

    line = Line(Script("1234", asyncio.CancelledError() if how == "raised" else await_cancelled))
    await line.end(cancelled=not COUNTS_CANCELLATIONS)
    assert line.tokens == 1
    if COUNTS_CANCELLATIONS:
        assert line.told == "processing_error"
        assert line.troubles == ["reply failed"]
        assert line.records.all[0].exc_info
    else:
        assert line.told == "shutting_down"


@timeless
async def test_a_time_limit_of_the_responder_s_own_is_no_end() -> None:
    """It cancels the same task, and the responder goes on with something else."""

    async def slow() -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            await asyncio.sleep(8)  # longer than `cleanup_timeout`

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        with anyio.move_on_after(3, shield=False):
            await asyncio.shield(asyncio.ensure_future(asyncio.sleep(FOREVER)))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow(), 3)
        await asyncio.sleep(20)
        yield "b"

    line = Line(respond, **{**OFF, "heartbeat_interval": 2.0})
    await passing(3 + 3 + 8 + 20 + 1)
    for task in asyncio.all_tasks() - {asyncio.current_task(), line.task}:
        task.cancel()  # the shielded one
    await line.end()
    assert (line.said, line.told, line.troubles) == ("ab", "done", [])


@pytest.mark.parametrize("cause", ["leave", "drain", "nothing"])
@timeless
async def test_a_time_limit_of_the_responder_s_own_may_fire_in_a_blocked_send(cause: str) -> None:
    """It is the responder that goes on then, and the stream with it, as before."""
    closed: List[float] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "a"
            with anyio.move_on_after(3):
                await asyncio.sleep(FOREVER)  # before which "a" is sent, or not
            yield "b"
            await asyncio.sleep(20 if cause == "nothing" else FOREVER)
        finally:
            closed.append(now())

    line = Line(respond, **OFF)
    line.stop_reading()
    await passing(5)
    line.read_on()
    await line.until("ab")
    await passing(10)  # longer than `cleanup_timeout`
    began = now()
    assert closed == []
    line.meet(cause)
    await line.end()
    assert line.told == TOLD[cause]
    assert closed == [began] or cause == "nothing"


@pytest.mark.parametrize("cause", ["leave", "drain"])
@timeless
async def test_a_stream_ends_while_its_responder_cleans_up_within_a_limit_of_its_own(
    cause: str,
) -> None:
    """The clean-up is the responder's business; that the stream ends is not."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        with anyio.move_on_after(3):
            try:
                await asyncio.sleep(FOREVER)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(12)
        await asyncio.sleep(FOREVER)

    line = await ended_by(cause, respond)
    assert await line.end() <= 3 + 12
    assert line.told == TOLD[cause]


@pytest.mark.parametrize("shared", ["future", "task"])
@timeless
async def test_streams_may_wait_for_the_same_thing(shared: str) -> None:
    """A token that is refreshed, a connection that is made: many wait for what one does."""
    future = asyncio.get_running_loop().create_future()

    async def work() -> str:
        return str(await future)

    awaited: Any = future if shared == "future" else asyncio.ensure_future(work())

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        yield str(await awaited)

    lines = [Line(respond) for _ in range(3)]
    for line in lines[:2]:
        line.stop_reading()
    await settle()
    for line in lines:
        line.read_on()
    future.set_result("b")
    await asyncio.wait([line.task for line in lines])
    for line in lines:
        await line.end()
        assert (line.said, line.told) == ("ab", "done")


@timeless
async def test_closing_has_its_limit_if_a_send_was_cancelled_after_the_end_was_decided() -> None:
    """Nothing else would end a responder that does not."""
    script = Script("a", 1, "b", FOREVER, clean_up=lambda: asyncio.sleep(FOREVER))
    line = Line(script, **OFF)
    await line.until("a")
    line.stop_reading()
    await passing(2)
    line.drain(0)
    await passing(1)
    line.cancel()
    await settle()
    line.read_on()
    assert await line.end(cancelled=COUNTS_CANCELLATIONS) == 3 + 5
    assert (line.said, line.told) == ("ab", "shutting_down")


@timeless
async def test_closing_a_cancellation_from_outside_is_passed_on_if_the_responder_has_failed() -> (
    None
):
    """That it has failed is no decision of the stream's, on any Python."""

    class Failing:
        def __init__(self, turn: Turn) -> None:
            self._texts = ["a"]

        def __aiter__(self) -> Failing:
            return self

        async def __anext__(self) -> str:
            return self._texts.pop()

        async def aclose(self) -> None:
            await asyncio.sleep(3)

    line = Line(Failing)
    await line.until("a")
    line.cancel()
    assert await line.end(cancelled=True) == 0
    assert line.told == "processing_error"

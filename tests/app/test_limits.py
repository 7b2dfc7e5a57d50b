"""One stream's limits and the drain: when they end it, and what the client is told."""

from __future__ import annotations

from typing import AsyncIterator, List, Optional

import pytest

from omniforge_chat import Turn, Usage

from ..support.line import FOREVER, OFF, PHASES, TOLD, Line, Script, Step, computing, stuck
from ..support.timeless import clock, passing, settle, timeless

# Waiting for the responder


@pytest.mark.parametrize(
    ("steps", "took", "tokens", "message"),
    [
        ([FOREVER], 40, None, "No token came within 40 seconds"),
        # A responder that computes holds up the clock of its stream too, which then is late.
        ([computing(70), FOREVER], 70, None, "No token came within 40 seconds"),
        ([30, "1234", 50, "5678", FOREVER], 150, 2, "No further token came within 70 seconds"),
        # The usage that it reports is the number that is on the bill.
        (["1234", Usage(tokens=41), FOREVER], 70, 41, "No further token came within 70 seconds"),
        (["1234", 55] * 100, 900, 17, "The reply did not end within 900 seconds"),
    ],
)
@timeless
async def test_waiting_a_stream_ends_when_something_takes_too_long(
    steps: List[Step], took: float, tokens: Optional[int], message: str
) -> None:
    """A model that hangs holds no connection for ever; the usage is of what was produced."""
    line = Line(Script(*steps), first_chunk_timeout=40, idle_timeout=70)
    assert await line.end() == took
    assert (line.told, line.tokens) == ("timeout", tokens)
    assert line.ending()["message"] == message
    assert line.script.closed == took
    assert (line.outcome, line.troubles) == ("timeout", [])


@timeless
async def test_each_limit_may_be_off() -> None:
    """A batch job behind a patient client may take hours."""
    line = Line(Script(20_000, "a", 20_000), **OFF)
    assert await line.end() == 40_000
    assert (line.said, line.told, line.heartbeats) == ("a", "done", [])


@timeless
async def test_a_responder_that_yields_nothing_for_ever_meets_its_deadline() -> None:
    """Items without text are not the token that it was given time for."""

    async def nothing(turn: Turn) -> AsyncIterator[str]:
        while True:
            clock().work(0.01)
            yield ""

    line = Line(nothing)
    assert await line.end() == pytest.approx(60, abs=2)
    assert (line.told, line.tokens) == ("timeout", None)


@pytest.mark.parametrize(
    ("steps", "took", "told", "tokens"),
    [(["12345678", FOREVER], 3, "shutting_down", 2), (["1234", 2, "5678"], 2, "done", 2)],
)
@timeless
async def test_waiting_a_stream_ends_with_the_drain_s_time(
    steps: List[Step], took: float, told: str, tokens: int
) -> None:
    """A deployment does not wait for ever; most replies end within its time, and are whole."""
    line = Line(Script(*steps))
    await settle()
    line.drain(3)
    assert await line.end() == took
    assert (line.said, line.told, line.tokens) == ("12345678", told, tokens)
    assert line.script.closed == took
    assert (line.outcome, line.troubles) == (told, [])


@timeless
async def test_a_stream_that_first_waits_after_the_drain_s_time_ends_then() -> None:
    """It was admitted before, and nobody would come again to end it."""
    line = Line(Script("1234", FOREVER))
    line.app._lifecycle._time_is_up = True
    assert await line.end() == 0
    assert (line.said, line.told) == ("1234", "shutting_down")
    assert line.script.closed == 0


# Sending to a client that does not read


@timeless
async def test_time_spent_sending_does_not_count_as_the_responder_s_silence() -> None:
    """It is not to blame for a slow client."""
    line = await stuck("frame", idle_timeout=25)
    await line.at(45)
    line.read_on()
    await line.until("ab")
    assert await line.end() == 70
    assert line.told == "timeout"


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("cause", ["deadline", "drain", "cancel"])
@pytest.mark.parametrize("sending", PHASES)
@timeless
async def test_an_end_waits_for_what_is_on_its_way_but_only_so_long(
    sending: str, cause: str, reads: bool
) -> None:
    """No frame is torn or lost, and a client that does not read gets `cleanup_timeout`, no more.

    A reply that was complete stays so: the cause comes too late to be told.
    """
    deadline = 40 if cause == "deadline" else None
    line = await stuck(sending, send_timeout=None, total_timeout=deadline)
    await passing(20)
    line.meet(cause)
    await passing(4)
    if sending == "frame" and cause != "cancel":
        assert line.script.closing is None
    if reads:
        line.read_on()
    assert await line.end() == (44 if reads else 45)
    assert line.script.closed is not None
    if reads:
        assert line.said == {"headers": "", "frame": "ab", "last frame": "ab"}.get(sending, "a")
        assert line.told == ("done" if sending == "last frame" else TOLD[cause])
        assert line.heartbeats == ([44] if sending == "heartbeat" else [])
    else:
        assert (line.aborts, line.outcome) == (1, "stalled")

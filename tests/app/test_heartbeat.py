"""One stream's heartbeats: when they come, and what waits while one is on its way."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from ..support.line import FOREVER, OFF, TOLD, Line, Script, Step, computing
from ..support.timeless import settle, timeless


@pytest.mark.parametrize(
    ("steps", "limits", "heartbeats"),
    [
        pytest.param([50, "a", 50, "b"], {}, [15, 30, 45, 65, 80, 95], id="each silence"),
        pytest.param([*["a", 14] * 10, "a"], {}, [], id="tokens are no silence"),
        # A responder that computes before its first wait is late with everything.
        pytest.param([computing(20), 1, "a"], {}, [], id="none before the headers"),
        pytest.param(
            ["a", FOREVER], {"heartbeat_interval": 3, "idle_timeout": 10}, [3, 6, 9], id="clean-up"
        ),
    ],
)
@timeless
async def test_heartbeats_fill_each_silence(
    steps: List[Step], limits: Dict[str, Any], heartbeats: List[float]
) -> None:
    """Proxies take a silence of a minute for the end; between tokens they would only cost."""
    line = Line(Script(*steps, clean_up=4), **limits)
    await line.end()
    assert line.types[0] == "start"
    assert line.heartbeats == heartbeats


@timeless
async def test_a_client_that_does_not_read_gets_no_heartbeats() -> None:
    """They would pile up before it; the silence begins when it has read."""
    line = Line(Script("a", 10, "b", 115), send_timeout=None)
    await line.at(5)
    line.stop_reading()
    await line.at(100)
    line.read_on()
    await line.end()
    assert line.heartbeats == [115]


@pytest.mark.parametrize("cause", ["deadline", "drain"])
@timeless
async def test_an_end_at_the_moment_of_a_heartbeat_comes_behind_it(cause: str) -> None:
    """Both are due at once if the limits are multiples of each other, as the defaults are."""
    line = Line(Script(FOREVER), first_chunk_timeout=30 if cause == "deadline" else None)
    if cause == "drain":
        await settle()
        line.drain(30)
    assert await line.end() == 30
    assert (line.told, line.tokens) == (TOLD[cause], None)
    assert line.heartbeats in ([15], [15, 30])


# One that is on its way


@pytest.mark.parametrize(
    ("steps", "heartbeats"), [(["a", 20, "b", 48, "c"], [25, 40, 55]), (["a", 20, "b"], [25])]
)
@timeless
async def test_what_comes_while_a_heartbeat_is_on_its_way_goes_out_behind_it(
    steps: List[Step], heartbeats: List[float]
) -> None:
    """Not with the token after it, which may be long in coming; and the last frame is the last."""
    line = Line(Script(*steps))
    await line.at(1)
    line.stop_reading()
    await line.at(25)
    line.read_on()
    await line.until("ab")
    assert line.times[-2:] == [25, 25]
    await line.end()
    assert (line.told, line.heartbeats) == ("done", heartbeats)
    assert line.bodies.count(b"") == 0


@timeless
async def test_a_heartbeat_that_the_server_fails_to_send_ends_the_stream() -> None:
    """Nothing can be told any more, and the responder must not go on for nobody."""
    line = Line(Script("a", FOREVER), **{**OFF, "heartbeat_interval": 15.0})
    await line.until("a")
    line.fails = LookupError("a bug of the server's")
    assert await line.end() == 15
    assert line.script.closed == 15
    assert line.outcome == "disconnected"
    assert line.troubles == ["heartbeat failed"]


@timeless
@pytest.mark.parametrize("cause", ["drain", "deadline", "cancel"])
async def test_a_piece_that_waits_for_a_stuck_heartbeat_puts_no_end_off(cause: str) -> None:
    """The last frame would wait for the heartbeat for ever, and so would the server."""
    limits = {"heartbeat_interval": 15, "send_timeout": 1000, "total_timeout": 40}
    if cause != "deadline":
        limits.pop("total_timeout")
    line = Line(Script("a", 20, "b", FOREVER), **{**OFF, **limits, "cleanup_timeout": 5})
    await line.at(1)
    line.stop_reading()
    await line.at(40)
    line.meet(cause)
    assert await line.end() == 45
    assert line.aborts == 1
    assert line.said == "a"

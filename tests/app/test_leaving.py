"""One stream's client: it leaves, or does not read, and however the server tells of that."""

from __future__ import annotations

import asyncio
from typing import Callable, List, Optional, Type

import pytest
from starlette.types import Message

from omniforge_chat.stream.response import UNSENT

from ..support.answers import last
from ..support.line import FOREVER, PHASES, Line, Script, Step, stuck
from ..support.timeless import settle, timeless

# It leaves


@pytest.mark.parametrize("server", ["lets go", "says nothing"])
@pytest.mark.parametrize("sending", PHASES)
@timeless
async def test_a_stream_ends_at_once_when_its_client_leaves(sending: str, server: str) -> None:
    """Nobody pays for tokens that nobody reads.

    The server may let a blocked `send` go, or only `receive` tells of it.
    """
    line = await stuck(sending)
    messages = len(line.sent)
    if server == "lets go":
        line.leave()
    else:
        line.gone.set()
    assert await line.end() == 20
    assert line.script.closed == 20
    assert (len(line.sent), line.aborts, line.troubles) == (messages, 0, [])
    assert line.outcome == "disconnected" or (sending, server) == ("last frame", "lets go")


@pytest.mark.parametrize("clean_up", [0, 3, FOREVER])
@pytest.mark.parametrize(
    ("steps", "when"),
    [
        pytest.param([FOREVER], 0, id="headers"),
        pytest.param([10, "b", FOREVER], 10, id="frame"),
        pytest.param([10, *["x" * 1000] * 100], 10, id="full buffer"),
        pytest.param(["a", FOREVER], 15, id="heartbeat"),
        pytest.param(["a", 10], 10, id="last frame"),
    ],
)
@timeless
async def test_a_send_that_raises_oserror_tells_that_the_client_has_left(
    steps: List[Step], when: float, clean_up: float
) -> None:
    """Servers of ASGI 2.4 say so there, perhaps before `receive` does."""
    line = Line(Script(*steps, clean_up=clean_up), fails=OSError("gone") if when == 0 else None)
    await settle()
    line.fails = OSError("gone")
    # The last frame is not tried before the clean-up is over; but a heartbeat is, in second 15.
    assert await line.end() == when + min(clean_up, 5)
    assert (line.outcome, line.aborts) == ("disconnected", 0)


@pytest.mark.parametrize(("error", "troubles"), [(OSError, []), (LookupError, ["receive failed"])])
@timeless
async def test_a_receive_that_raises_tells_that_the_client_has_left(
    error: Type[Exception], troubles: List[str]
) -> None:
    """Some servers say it so; if it is a bug, nobody would notice the leaving any more."""

    def receive() -> Message:
        raise error

    line = Line(Script("a", FOREVER), receives=receive)
    assert await line.end() == 0
    assert line.script.closed is not None
    assert (line.outcome, line.troubles) == ("disconnected", troubles)
    assert troubles == [] or line.records.all[0].exc_info


@timeless
async def test_a_receive_that_repeats_the_body_is_asked_no_more() -> None:
    """Middleware of some frameworks does that; the reply is given, with a warning in the log."""

    def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    line = Line(Script("a", 20, "b"), receives=receive)
    assert await line.end() == 20
    assert (line.said, line.told) == ("ab", "done")
    [trouble] = line.troubles
    assert "receive() repeats itself" in trouble


@timeless
async def test_a_server_that_tells_of_the_leaving_after_the_end_changes_nothing() -> None:
    """uvicorn answers `receive` with a disconnect as soon as the response is complete."""

    class Server(Line):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message.get("more_body") is False:
                self.gone.set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    line = Server(Script("a", 1, "b"))
    await line.end()
    assert last(line.frames)[0] == "done"


# It does not read


@pytest.mark.parametrize(
    ("sending", "closing", "took"),
    [("headers", 30, 30), ("frame", 50, 50), ("heartbeat", 50, 50), ("last frame", 20, 50)],
)
@timeless
async def test_a_client_that_does_not_read_is_cut(
    sending: str, closing: float, took: float
) -> None:
    """It would hold its memory and the responder's for ever."""
    line = await stuck(sending)
    said = line.said
    assert await line.end() == took
    assert (line.script.closing, line.script.closed) == (closing, closing)
    assert (line.said, line.aborts) == (said, 1)
    assert (line.outcome, line.troubles) == ("stalled", [])


class _Connection:
    """What a client has not taken yet of what was sent: less at each look until `least`."""

    def __init__(self, most: int, least: int) -> None:
        self.left = most
        self.least = least

    def __call__(self) -> int:
        self.left = max(self.least, self.left - 1)
        return self.left


@pytest.mark.parametrize(
    ("unsent", "limit", "took"),
    [
        # It is looked at every 7.5 s, and from the second time to the tenth has taken something.
        pytest.param(_Connection(most=20, least=10), None, 10 * 7.5 + 30, id="it stops"),
        pytest.param(_Connection(most=1000, least=0), 40.0, 40 + 20, id="the end is decided"),
    ],
)
@timeless
async def test_a_client_that_takes_something_reads_however_slowly(
    unsent: Callable[[], int], limit: Optional[float], took: float
) -> None:
    """It is not cut until it stops, or until the end is decided, which it would put off."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script, heartbeat_interval=None, total_timeout=limit, cleanup_timeout=20.0)
    line.scope["extensions"][UNSENT] = unsent
    await line.until("a")
    line.stop_reading()
    script.go_on()
    assert await line.end() == took
    assert line.outcome == "stalled"

"""One stream's sends: one write per wait, the bounds of it, what fails, and any order of events.

The test is the client and the server at once, in an event loop in which waiting takes no time. What
follows from each event in each phase is in unit/test_state.py; here is that the shell does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from functools import partial
from typing import Any, AsyncIterator, Dict, List, Optional, Set, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from omniforge_chat import Settings, Turn, Usage, create_app
from omniforge_chat.core.cancellation import COUNTS_CANCELLATIONS
from omniforge_chat.core.frames import HEARTBEAT
from omniforge_chat.core.responder import BUFFER_BYTES, BUFFER_SECONDS
from omniforge_chat.core.sse import Decoder, encode_texts

from ..support.answers import last, text
from ..support.app import HandDrivenRequest
from ..support.constants import PATIENCE
from ..support.line import FOREVER, OFF, Line, Script, Step, computing
from ..support.timeless import clock, passing, settle, timeless

# One write for each wait


@timeless
async def test_what_is_ready_goes_out_in_one_write_before_the_responder_waits() -> None:
    """Nothing that is ready waits, and a burst of tokens costs one write: the speed rests on it."""
    line = Line(Script("a", "b", "c", 1, "d", "e"))
    await line.until("abc")
    assert len(line.bodies) == 1
    await line.end()
    assert (line.said, line.told) == ("abcde", "done")
    assert len(line.bodies) == 2


@timeless
async def test_a_reply_that_never_waits_costs_one_write_and_neither_a_task_nor_a_timer() -> None:
    """Most of a short reply's price would be the child task that it does not need."""
    tasks, timers = clock().tasks, clock().timers
    line = Line(Script("a", "b"))
    await asyncio.wait([line.task])
    assert line.types == ["start", "body"]
    assert (clock().tasks, clock().timers) == (tasks + 1, timers)
    await line.end()


@timeless
async def test_each_piece_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask the encoder how much is gathered cost a quarter of a long reply's time."""
    encoded: List[int] = []

    def encode(texts: List[str], before: bytes, after: bytes) -> bytes:
        encoded.append(len(texts))
        return encode_texts(texts, before, after)

    monkeypatch.setattr("omniforge_chat.core.reply.encode_texts", encode)
    line = Line(Script(*(f"word {number} " for number in range(5_000))))
    await line.end()
    assert sum(encoded) == 5_000
    assert len(encoded) == len(line.bodies) > 4


@timeless
async def test_the_headers_leave_before_the_first_token_exists() -> None:
    """Servers hold them back until there is a body, so an empty one goes with them."""
    line = Line(Script(1, "a"))
    await settle()
    assert line.types == ["start", "body"]
    assert line.bodies == [b""]
    await line.end()
    assert line.said == "a"


@pytest.mark.parametrize("size", [10, 1000])
@pytest.mark.parametrize("character", ["x", "é", "你", "😀", '"', "\n"])
@timeless
async def test_ready_frames_are_gathered_up_to_a_bound_in_characters(
    character: str, size: int
) -> None:
    """It bounds the memory, and is used; to count bytes would cost more than it saves."""
    line = Line(Script(*[character * size] * (100_000 // size)))
    await line.end()
    assert line.said == character * 100_000
    sizes = [len(body) for body in line.bodies[:-1]]
    most = len(json.dumps(character, ensure_ascii=False).encode()) - 2
    assert max(sizes) <= most * (BUFFER_BYTES + size + 100)
    assert min(sizes) >= 0.8 * BUFFER_BYTES


@pytest.mark.parametrize(("burst", "seconds", "pieces"), [(0, 0.001, 100), (50, 0.003, 30)])
@timeless
async def test_ready_frames_are_gathered_up_to_a_bound_in_time(
    burst: int, seconds: float, pieces: int
) -> None:
    """Tokens that are computed are seen as they come, and if they slow down after a burst, too."""
    slow: List[Step] = [computing(seconds), "y"]
    line = Line(Script(*["x"] * burst, *slow * pieces))
    await line.end()
    came = iter([0.0] * burst + [seconds * (number + 1) for number in range(pieces)])
    late = [
        sent - next(came)
        for body, sent in zip(line.bodies[:-1], line.times[1:])
        for _ in text(Decoder().feed(body))
    ]
    assert max(late) <= BUFFER_SECONDS + seconds + 0.0001
    assert 10 <= len(line.bodies) < 30


@timeless
async def test_at_the_bound_the_loop_gets_a_turn() -> None:
    """A responder that never waits would starve all others, and its own client's leaving."""

    async def others() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def endless(turn: Turn) -> AsyncIterator[str]:
        while not task.done():
            yield "x" * 100
            assert len(line.sent) < 1000, "nobody else gets a turn"

    task = asyncio.ensure_future(others())
    line = Line(endless)
    await line.end()
    assert line.told == "done"


@timeless
async def test_a_frame_that_is_larger_than_the_buffer_is_sent_whole() -> None:
    """A chunk may be a whole document."""
    line = Line(Script("a", "x" * 10 * BUFFER_BYTES, "b"))
    await line.end()
    assert line.said == "a" + "x" * 10 * BUFFER_BYTES + "b"


# A client that is slow


@timeless
async def test_a_client_may_stop_reading_and_read_on() -> None:
    """Nothing is lost and nothing comes twice, however long it takes and wherever it stops."""
    line = Line(Script("a", None, "b", None, "c"), **OFF)
    for second, before, after in [(500, "", "a"), (1000, "a", "ab"), (5000, "ab", "abc")]:
        line.stop_reading()
        if before:
            line.script.go_on()
        await line.at(second)
        assert line.said == before
        line.read_on()
        await line.until(after)
    assert await line.end() == 5000
    assert (line.said, line.told) == ("abc", "done")


@pytest.mark.parametrize("sending", ["frame", "heartbeat"])
@timeless
async def test_a_client_that_does_not_read_slows_its_responder(sending: str) -> None:
    """Backpressure: what is produced and not yet sent stays within the buffer's bound."""
    produced = 0

    async def endless(turn: Turn) -> AsyncIterator[str]:
        nonlocal produced
        if sending == "heartbeat":
            yield "a"
            await asyncio.sleep(20)
        while True:
            produced += 100
            yield "x" * 100

    line = Line(endless, heartbeat_interval=15)
    if sending == "frame":
        line.stop_reading()
    await line.at(10)
    line.stop_reading()
    await line.at(25)
    for _ in range(2):
        said = len(line.said)
        assert said < produced <= said + BUFFER_BYTES
        line.read_on()
        for _ in range(3):  # turns of the loop
            await asyncio.sleep(0)
        line.stop_reading()
        await passing(20)
    assert len(line.said) > said
    line.leave()
    await line.end()


# What fails


@pytest.mark.parametrize(
    ("steps", "clean_up", "took"),
    [([None], None, 0), ([], None, 0), ([FOREVER], 3, 3), ([FOREVER], FOREVER, 5)],
)
@timeless
async def test_what_cannot_be_encoded_ends_the_stream_and_closes_the_responder(
    steps: List[Step], clean_up: Optional[float], took: float
) -> None:
    """It has time to clean up as at any other end; what it says after that is not sent."""
    line = Line(Script("1234", "\ud83d", "never", *steps, clean_up=clean_up))
    assert await line.end() == took
    assert line.script.closed == (None if clean_up == FOREVER else took)
    assert (line.said, line.told, line.tokens) == ("1234", "stream_error", 1)
    assert line.troubles[0] == "reply failed"
    assert line.records.all[0].exc_info


@timeless
async def test_a_send_that_fails_is_the_server_s_error_and_does_not_tear_the_clean_up() -> None:
    """It is not hidden from the server; the responder is told to end as ever, and has its time."""
    seen: List[object] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(1)
        except BaseException as error:
            seen.append(type(error))
            raise

    line = Line(Script("a", 1, "b", wait, clean_up=2))
    await line.until("a")
    line.fails = RuntimeError("what the server says")
    with pytest.raises(RuntimeError, match="what the server says"):
        await line.end()
    assert seen == [asyncio.CancelledError]
    assert (line.script.closing, line.script.closed) == (1, 3)


@timeless
async def test_a_responder_that_catches_all_it_can_does_not_go_on_when_a_send_has_failed() -> None:
    """One that tries again and again would never give the loop a turn."""
    rounds = 0

    async def respond(turn: Turn) -> AsyncIterator[str]:
        nonlocal rounds
        while rounds < 1000:
            with contextlib.suppress(Exception):
                rounds += 1
                await asyncio.sleep(0.5)
                yield "token"

    line = Line(respond, fails=TypeError("what a middleware says"))
    with pytest.raises(TypeError, match="what a middleware says"):
        await line.end()
    assert rounds == 1


@timeless
async def test_a_send_that_refuses_to_end_is_given_up_and_not_blamed_on_the_responder() -> None:
    """Whoever reads the log looks for the fault where it is."""

    class Stubborn(Line):
        async def send(self, message: Message) -> None:
            while message["type"] == "http.response.body":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            await super().send(message)

    line = Stubborn(Script("a"))
    await line.end()
    assert line.troubles[-1] == "send given up"
    assert line.outcome == "stalled"


class _Priced(Usage, frozen=True):
    price: object = None


class _Panic(BaseException):
    """As those of extension modules, which are no `Exception`."""


@pytest.mark.parametrize(
    ("step", "told"),
    [
        pytest.param(partial(sys.exit, 3), "processing_error", id="ends the process"),
        pytest.param(_Panic("a secret"), "processing_error", id="panics"),
        pytest.param(_Priced(5, price=object()), "stream_error", id="a usage without JSON"),
    ],
)
@timeless
async def test_whatever_a_responder_does_the_client_is_told_the_end(step: Any, told: str) -> None:
    """Also if it does what is not a responder's to do."""
    line = Line(Script("a", 1, step))
    await line.end()
    assert (line.said, line.told, line.tokens) == ("a", told, 1)
    assert b"secret" not in line.body


# Around it


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are not eager here")
def test_eager_tasks_change_nothing() -> None:
    """A host may have all of its tasks begin at once."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(0.2)
        yield "b"

    async def main() -> HandDrivenRequest:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
        made = HandDrivenRequest()
        app = create_app(respond, settings=Settings(heartbeat_interval=0.03))
        await asyncio.wait_for(made.run(app), PATIENCE)
        return made

    made = asyncio.run(main())
    assert text(made.frames) == "ab"
    assert last(made.frames)[0] == "done"
    beats = [message for message in made.sent if message.get("body") == HEARTBEAT]
    assert 1 <= len(beats) <= 7


@timeless
async def test_a_refusal_that_is_not_read_holds_no_place() -> None:
    """Whoever sends nonsense and does not read the answer could fill a server."""
    line = Line(Script("a"))
    line.stop_reading()
    line._incoming = [{"type": "http.request", "body": b"nonsense", "more_body": False}]
    await settle()
    assert not line.task.done()
    assert line.app.open_streams == 0
    await asyncio.wait_for(line.app.drain(0), 1)
    line.read_on()
    await asyncio.wait([line.task])
    assert line.status == 400


# Any order


EVENTS = [
    *[("pass", seconds) for seconds in (0, 0.5, 2, 5, 8)],
    *[(event, 0) for event in ("go on", "stop reading", "read on", "leave", "vanish", "fail")],
    *[("drain", 0), ("drain", 4), ("cancel", 0)],
]
LIMITS = {
    "heartbeat_interval": 2.0,
    "first_chunk_timeout": 6.0,
    "idle_timeout": 5.0,
    "total_timeout": 20.0,
    "send_timeout": 7.0,
}


async def happen(line: Line, event: str, seconds: float) -> None:
    """Let one thing happen to a stream."""
    if event == "pass":
        await passing(seconds) if seconds else await asyncio.sleep(0)
    elif event == "drain":
        line.drain(seconds)
    elif event == "vanish":
        line.gone.set()
    elif event == "fail":
        line.fails = OSError("gone")
    else:
        getattr(line.script if event == "go on" else line, event.replace(" ", "_"))()


@settings(max_examples=400)
@given(
    steps=st.lists(st.sampled_from(["a", "b" * 20_000, None, None, 0, 1, 4, 9]), max_size=8),
    failure=st.sampled_from([None, None, LookupError("a bug"), "\ud83d"]),
    clean_up=st.sampled_from([None, None, 1, 30]),
    off=st.sets(st.sampled_from(sorted(LIMITS))),
    events=st.lists(st.sampled_from(EVENTS), max_size=12),
)
@timeless
async def test_whatever_happens_in_any_order_a_stream_ends_properly(
    steps: List[Any],
    failure: Any,
    clean_up: Optional[float],
    off: Set[str],
    events: List[Tuple[str, float]],
) -> None:
    """The edges of all these modules, in all the orders that nobody has thought of."""
    script = Script(*steps, *([] if failure is None else [failure]), clean_up=clean_up)
    limits: Dict[str, Any] = {**LIMITS, **dict.fromkeys(off)}
    line = Line(script, cleanup_timeout=3.0, **limits)
    for event, seconds in events:
        await happen(line, event, seconds)
    await passing(60)
    left = not line.task.done() or line.gone.is_set() or line.fails is not None
    line.leave()  # without limits nothing else would end it
    await asyncio.wait([line.task], timeout=60)
    await line.end(cancelled=None if COUNTS_CANCELLATIONS else line.task.cancelled())

    whole = "".join(step for step in steps if isinstance(step, str))
    assert whole.startswith(line.said)
    if not script.called:
        assert line.said == ""
    else:
        assert script.closing is not None
        assert script.closed is not None or clean_up is not None
    if not any("chat" in vars(record) for record in line.records.all):
        assert not script.called  # it was refused, or the client had left before
        return
    assert (line.outcome == "stalled") == (line.aborts == 1)
    if not left and line.cancels < 2:
        event, data = last(line.frames)
        assert line.outcome == data.get("code", "done")
        assert event == "error" or line.said == whole
    else:
        assert [frame.event for frame in line.frames[:-1]] == ["chunk"] * (len(line.frames) - 1)

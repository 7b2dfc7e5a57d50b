"""One stream's life, edge by edge: each state, and each thing that can end it there.

The states are those of the table in streaming.py. The test is the client and the server at once, in
an event loop in which waiting takes no time, so that each limit is met to the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import logging
import sys
import weakref
from functools import partial
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Set,
    Tuple,
)

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from omniforge_chat import Settings, Turn, Usage, create_app
from omniforge_chat.core.reply import BUFFER_BYTES, BUFFER_SECONDS, Responder
from omniforge_chat.core.sse import HEARTBEAT, Decoder
from omniforge_chat.errors import UpstreamError
from omniforge_chat.stream.lifecycle import Lifecycle
from omniforge_chat.stream.response import ABORT, UNSENT, EventStream
from omniforge_chat.stream.state import ATTEMPT_SECONDS, ATTEMPTS

from ..support.answers import last, text
from ..support.app import HandDrivenRequest
from ..support.constants import CONVERSATION, PATIENCE
from ..support.logs import Records
from ..support.timeless import clock, now, passing, settle, timeless

REFERENCE = "ref-1"

FOREVER = 10.0**8
"""Seconds that nothing but the stream itself brings to an end."""

OFF: Dict[str, Any] = {
    "heartbeat_interval": None,
    "first_chunk_timeout": None,
    "idle_timeout": None,
    "total_timeout": None,
    "send_timeout": None,
}

KNOWS_WHO_CANCELS = sys.version_info >= (3, 11)
"""Whether a task tells that it was asked to cancel; without that a stream has to guess."""

GIVEN_UP = 5 + ATTEMPTS * ATTEMPT_SECONDS
"""Seconds after which a responder that refuses to end is given up, by default."""


class Line(HandDrivenRequest):
    """One chat, between a test that is the client and the server, and an app of its own.

    The client reads, until `stop_reading`; as with uvicorn, a `send` then waits before it takes
    anything. `fails` is what `send` raises, and `receives` what `receive` does after the body, if
    not what they should. `end` waits until it is over, and sees that nothing is left of it.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        receives: Optional[Callable[[], Message]] = None,
        fails: Optional[Exception] = None,
        **limits: Any,
    ) -> None:
        super().__init__(headers={"X-Request-ID": REFERENCE})
        self.scope["extensions"] = {ABORT: self._abort}
        self.app = create_app(responder, settings=Settings(**limits))
        self.fails = fails
        self.times: List[float] = []
        self.aborts = 0
        self.cancels = 0
        self._receives = receives
        self._drains: List[asyncio.Future[None]] = []
        self._reads = asyncio.Event()
        self._reads.set()
        self._began = now()
        self.task = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        try:
            await self.run(self.app)
            for _ in range(3):  # a server, or a middleware, still has something to do
                await asyncio.sleep(0)
        finally:
            cancelling = getattr(asyncio.current_task(), "cancelling", None)
            # What was cancelled for the stream's own purposes has been taken back.
            assert cancelling is None or cancelling() == self.cancels

    async def receive(self) -> Message:
        if self.received and self._receives is not None:
            try:
                return self._receives()
            except Exception:
                self.leave()
                raise
        return await super().receive()

    async def send(self, message: Message) -> None:
        await self._reads.wait()
        if self.fails is not None:
            raise self.fails
        if not self.gone.is_set():
            self.sent.append(message)
            self.times.append(round(now() - self._began, 3))

    def _abort(self) -> None:
        self.aborts += 1
        self.leave()

    def stop_reading(self) -> None:
        self._reads.clear()

    def read_on(self) -> None:
        self._reads.set()

    def leave(self) -> None:
        """Be gone: `receive` tells of it, and what waits in `send` is let go without a word."""
        self.gone.set()
        self._reads.set()

    def cancel(self) -> None:
        """Cancel the request, as a server does that wants to end."""
        self.cancels += self.task.cancel()

    def drain(self, seconds: float) -> None:
        """Let the app begin to drain."""
        self._drains.append(asyncio.ensure_future(self.app.drain(seconds)))

    @property
    def bodies(self) -> List[bytes]:
        """What the app has sent after the headers, message by message."""
        return [message["body"] for message in self.sent[1:]]

    @property
    def heartbeats(self) -> List[float]:
        """When there were heartbeats, in seconds since the beginning."""
        return [t for m, t in zip(self.sent, self.times) if m.get("body") == HEARTBEAT]

    @property
    def said(self) -> str:
        """The text that has reached the client."""
        return text(self.frames)

    async def until(self, said: str) -> None:
        """Let everything happen that can happen now; then this is what has been said."""
        await settle()
        assert self.said == said

    async def end(self, *, cancelled: Optional[bool] = None) -> float:
        """How many seconds the request took, which is over and has left nothing behind."""
        await asyncio.wait([self.task], timeout=10.0**5)
        took = now() - self._began
        assert self.task.done(), "it does not end"
        if cancelled is None:
            cancelled = self.cancels > 0
        assert self.task.cancelled() == cancelled
        if not cancelled:
            self.task.result()
        assert self.app.open_streams == 0
        assert self.app._lifecycle._waiting == set()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self._check_messages()
        return round(took, 3)

    def _check_messages(self) -> None:
        """Each message holds whole frames, a heartbeat is alone in its own, and the end is last."""
        for body in self.bodies:
            assert body == b"" or body.endswith(b"\n\n")
            assert HEARTBEAT not in body.splitlines(keepends=True) or body == HEARTBEAT
        if not self.gone.is_set() and self.fails is None:
            more = [message["more_body"] for message in self.sent[1:]]
            assert more == [True] * (len(more) - 1) + [False]

    def ending(self) -> Tuple[str, Any]:
        """The terminal event that the client got, which was the only one."""
        assert not self.gone.is_set()
        return last(self.frames)

    def error(self) -> Tuple[str, Optional[int]]:
        """The code of the error that the stream ended with, and the tokens until then."""
        event, data = self.ending()
        assert event == "error"
        return data["code"], data.get("usage", {}).get("tokens")


class Script:
    """A responder that does one step after the other, and then has ended.

    A text is yielded; a number is slept for, in seconds; None waits for `go_on`; an exception is
    raised; anything else is called, and what that returns awaited. In its `finally` it awaits
    `clean_up()`; `closing` and `closed` are the times before and after, `called` when it began.
    """

    def __init__(
        self, *steps: Any, clean_up: Optional[Callable[[], Awaitable[Any]]] = None
    ) -> None:
        self._steps = steps
        self._clean_up = clean_up
        self._went_on = asyncio.Event()
        self.called: Optional[float] = None
        self.closing: Optional[float] = None
        self.closed: Optional[float] = None

    def go_on(self) -> None:
        self._went_on.set()

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        self.called = now()
        try:
            for step in self._steps:
                if isinstance(step, str):
                    yield step
                elif isinstance(step, (int, float)):
                    await asyncio.sleep(step)
                elif isinstance(step, BaseException):
                    raise type(step)(*step.args)
                elif step is None:
                    await self._went_on.wait()
                    self._went_on.clear()
                else:
                    await step()
        finally:
            self.closing = now()
            if self._clean_up is not None:
                await self._clean_up()
            self.closed = now()


@pytest.fixture
def records() -> Iterator[Records]:
    with Records() as kept:
        yield kept


def outcome(records: Records) -> str:
    """How the chat has ended, as the log has it."""
    ended: str = records.chat(REFERENCE)["outcome"]
    return ended


def ends_as(line: Line, cause: str) -> None:
    """The client learns of `cause` if it is still there."""
    if cause == "leave":
        assert line.gone.is_set()
    else:
        assert line.error()[0] == {"deadline": "timeout"}.get(cause, "shutting_down")


def bring(line: Line, cause: str) -> None:
    """Make `cause` happen now. (A deadline comes by itself, with time.)"""
    if cause == "leave":
        line.leave()
    elif cause == "drain":
        line.drain(0)
    elif cause == "cancel":
        line.cancel()


CAUSES = ["leave", "drain", "deadline", "cancel"]


# One write for each wait


@timeless
async def test_what_is_ready_goes_out_in_one_write_before_the_responder_waits() -> None:
    """Nothing that is ready waits, and a burst of tokens costs one write: the speed rests on it."""
    script = Script("a", "b", "c", None, "d", "e")
    line = Line(script)
    await line.until("abc")
    assert len(line.bodies) == 1
    script.go_on()
    await line.end()
    assert line.said == "abcde"
    assert line.ending()[0] == "done"
    assert len(line.bodies) == 2


@timeless
async def test_a_reply_that_never_waits_costs_one_write_and_neither_a_task_nor_a_timer() -> None:
    """Most of a short reply's price would be the child task that it does not need."""
    tasks, timers = clock().tasks, clock().timers
    line = Line(Script("a", "b"))
    await asyncio.wait([line.task])
    assert [message["type"] for message in line.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert (clock().tasks, clock().timers) == (tasks + 1, timers)
    await line.end()


@timeless
async def test_the_headers_leave_before_the_first_token_exists() -> None:
    """Servers hold them back until there is a body, so an empty one goes with them."""
    script = Script(None, "a")
    line = Line(script)
    await settle()
    assert [message["type"] for message in line.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert line.bodies == [b""]
    script.go_on()
    await line.end()
    assert line.said == "a"


@timeless
async def test_ready_frames_are_gathered_up_to_a_bound_in_bytes() -> None:
    """A responder that is always ready must not fill the memory before its first write."""
    chunk = "x" * 1000
    line = Line(Script(*[chunk] * 100))
    await line.end()
    assert line.said == chunk * 100
    assert all(len(body) < BUFFER_BYTES + 1100 for body in line.bodies)
    assert len(line.bodies) < 50


@timeless
async def test_ready_frames_are_gathered_up_to_a_bound_in_time() -> None:
    """Tokens that are computed, not waited for, are seen by the client as they come."""
    began = now()

    async def compute(turn: Turn) -> AsyncIterator[str]:
        for _ in range(100):
            clock().work(0.001)
            yield f"{now() - began} "

    line = Line(compute)
    await line.end()
    for body, sent in zip(line.bodies[:-1], line.times[1:]):
        oldest = float(text(Decoder().feed(body)).split()[0])
        assert sent - oldest < BUFFER_SECONDS + 0.0011
    assert 10 < len(line.bodies) < 30


@timeless
async def test_pieces_that_slow_down_after_a_burst_are_noticed() -> None:
    """Fast ones are let through without a look at the clock; only a few may be late for it."""
    began = now()

    async def burst_then_compute(turn: Turn) -> AsyncIterator[str]:
        for _ in range(50):
            yield "x"
        for _ in range(20):
            clock().work(0.003)
            yield f"{now() - began} "

    line = Line(burst_then_compute)
    await line.end()
    late = []
    for body, sent in zip(line.bodies[:-1], line.times[1:]):
        said = text(Decoder().feed(body)).lstrip("x").split()
        late += [sent - float(time) for time in said]
    assert max(late) <= BUFFER_SECONDS + 0.003


@pytest.mark.parametrize("character", ["x", "é", "你", "😀", '"', "\n"])
@timeless
async def test_the_bound_holds_for_all_characters_and_is_used(character: str) -> None:
    """It counts characters, as counting bytes would cost more than it saves."""
    line = Line(Script(*[character * 10] * 2000))
    await line.end()
    assert line.said == character * 20_000
    sizes = [len(body) for body in line.bodies[:-1]]
    assert max(sizes) <= len(json.dumps(character, ensure_ascii=False).encode()) * BUFFER_BYTES
    assert min(sizes[:-1]) >= 0.8 * BUFFER_BYTES


@timeless
async def test_at_the_bound_the_loop_gets_a_turn() -> None:
    """A responder that never waits would starve all others, and its own client's leaving."""
    turns: List[int] = []

    async def others() -> None:
        for number in itertools.count():
            turns.append(number)
            await asyncio.sleep(0)

    async def endless(turn: Turn) -> AsyncIterator[str]:
        while len(turns) < 10:
            yield "x" * 100
            assert len(line.sent) < 1000, "nobody else gets a turn"

    line = Line(endless)
    task = asyncio.ensure_future(others())
    await asyncio.wait([line.task])
    task.cancel()
    await line.end()
    assert line.ending()[0] == "done"


@timeless
async def test_a_frame_that_is_larger_than_the_buffer_is_sent_whole() -> None:
    """A chunk may be a whole document."""
    line = Line(Script("a", "x" * 10 * BUFFER_BYTES, "b"))
    await line.end()
    assert line.said == "a" + "x" * 10 * BUFFER_BYTES + "b"


# Waiting for the responder


@pytest.mark.parametrize("said", ["", "12345678"])
@timeless
async def test_waiting_it_ends_at_once_when_the_client_leaves(said: str, records: Records) -> None:
    """Nobody pays for tokens that nobody reads."""
    script = Script(said, FOREVER)
    line = Line(script)
    await line.until(said)
    await passing(7)
    messages = len(line.sent)
    line.leave()
    assert await line.end() == 7
    assert script.closed == script.closing == pytest.approx(now(), abs=0.001)
    assert len(line.sent) == messages
    assert outcome(records) == "disconnected"
    assert records.troubles == []


@timeless
async def test_waiting_it_ends_when_the_first_token_takes_too_long(records: Records) -> None:
    """A model that hangs holds no connection for ever; nothing was produced, so no usage."""
    script = Script(FOREVER)
    line = Line(script, first_chunk_timeout=40)
    assert await line.end() == 40
    assert line.error() == ("timeout", None)
    assert line.ending()[1]["message"] == "No token came within 40 seconds"
    assert script.closed is not None
    assert outcome(records) == "timeout"
    assert records.troubles == []


@timeless
async def test_waiting_it_ends_when_the_next_token_takes_too_long() -> None:
    """The silence counts from the last token on, and the usage is of what was produced."""
    script = Script(50, "1234", 50, "5678", FOREVER)
    line = Line(script)
    assert await line.end() == 160
    assert line.said == "12345678"
    assert line.error() == ("timeout", 2)
    assert line.ending()[1]["message"] == "No further token came within 60 seconds"
    assert script.closed is not None


@timeless
async def test_waiting_it_ends_when_the_whole_reply_takes_too_long() -> None:
    """However busy it is."""
    line = Line(Script(*["1234", 55] * 100))
    assert await line.end() == 900
    assert line.error() == ("timeout", 17)
    assert line.ending()[1]["message"] == "The reply did not end within 900 seconds"


@timeless
async def test_tokens_that_a_responder_has_reported_are_the_usage_of_a_timeout() -> None:
    """Whoever pays for them wants the number that is on the bill."""

    async def count(turn: Turn) -> AsyncIterator[Any]:
        yield "1234"
        yield Usage(tokens=41)
        await asyncio.sleep(FOREVER)

    line = Line(count)
    await line.end()
    assert line.error() == ("timeout", 41)


@timeless
async def test_each_limit_may_be_off() -> None:
    """A batch job behind a patient client may take hours."""
    line = Line(Script(20_000, "a", 20_000), **OFF)
    assert await line.end() == 40_000
    assert line.said == "a"
    assert line.ending()[0] == "done"
    assert line.heartbeats == []


@timeless
async def test_waiting_it_ends_with_the_drain_s_time(records: Records) -> None:
    """A deployment does not wait for ever, and the client knows that it may try again."""
    script = Script("12345678", FOREVER)
    line = Line(script)
    await line.until("12345678")
    drain = asyncio.ensure_future(line.app.drain(3))
    await drain
    assert line.app.open_streams == 0
    assert await line.end() == 3
    assert line.error() == ("shutting_down", 2)
    assert script.closed is not None
    assert outcome(records) == "shutting_down"
    assert records.troubles == []


@timeless
async def test_a_reply_that_ends_within_the_drain_s_time_is_whole() -> None:
    """Most replies are shorter than the patience of an orchestrator."""
    line = Line(Script("a", 2, "b"))
    await line.until("a")
    line.drain(3)
    assert await line.end() == 2
    assert line.said == "ab"
    assert line.ending()[0] == "done"


@timeless
async def test_waiting_a_cancellation_from_outside_is_told_and_passed_on() -> None:
    """A server that is told to end at once cancels; the client still hears of it."""
    script = Script("12345678", FOREVER)
    line = Line(script)
    await line.until("12345678")
    line.cancel()
    assert await line.end() == 0
    assert line.error() == ("shutting_down", 2)
    assert script.closed is not None


@timeless
async def test_a_deadline_that_passed_while_nothing_waited_acts_at_the_first_wait() -> None:
    """A responder that computes holds up the clock of its stream too, which then is late."""

    async def compute() -> None:
        clock().work(70)
        await asyncio.sleep(FOREVER)

    script = Script(compute)
    line = Line(script)
    assert await line.end() == 70
    assert line.error() == ("timeout", None)
    assert script.closed is not None


@timeless
async def test_a_stream_that_first_waits_after_the_drain_s_time_ends_then() -> None:
    """It was admitted before, and nobody would come again to end it."""
    lifecycle = Lifecycle(max_streams=1)
    lifecycle.admit()
    drain = asyncio.ensure_future(lifecycle.drain(0))
    await settle()
    request = HandDrivenRequest()
    await request.receive()
    script = Script("1234", FOREVER)
    turn = Turn("hi", CONVERSATION, REFERENCE)
    stream = EventStream(turn, script, Settings(), lifecycle, request.receive, request.send)
    await stream.respond()
    lifecycle.release()
    await drain
    event, data = last(request.frames)
    assert (event, data["code"]) == ("error", "shutting_down")
    assert text(request.frames) == "1234"
    assert script.closed is not None


# Sending to a client that does not read


@pytest.mark.parametrize("server", ["lets go", "says nothing"])
@timeless
async def test_sending_it_ends_at_once_when_the_client_leaves(
    server: str, records: Records
) -> None:
    """Whether the server lets a blocked `send` go, or only `receive` tells of it."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(7)
    if server == "lets go":
        line.leave()
    else:
        line.gone.set()
    assert await line.end() == 7
    assert script.closed is not None
    assert line.said == "a"
    assert line.aborts == 0
    assert outcome(records) == "disconnected"


@timeless
async def test_a_client_that_does_not_read_is_cut(records: Records) -> None:
    """It would hold its memory and the responder's for ever."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    assert await line.end() == 30
    assert script.closed is not None
    assert line.aborts == 1
    assert line.said == "a"
    assert outcome(records) == "stalled"
    assert records.troubles == []


@timeless
async def test_a_client_that_does_not_even_take_the_headers_is_cut() -> None:
    """The responder is held at its first wait until they are through."""
    script = Script("a", None, "b")
    line = Line(script)
    line.stop_reading()
    assert await line.end() == 30
    assert line.sent[1:] == []
    assert script.called is not None
    assert script.closing == script.called + 30
    assert line.aborts == 1


@timeless
async def test_without_a_send_timeout_a_client_may_stop_and_read_on() -> None:
    """Nothing is lost and nothing comes twice, however long it takes."""
    script = Script("a", None, "b", None, "c")
    line = Line(script, **OFF)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(5000)
    await line.until("a")
    line.read_on()
    await line.until("ab")
    script.go_on()
    assert await line.end() == 5000
    assert line.said == "abc"
    assert line.ending()[0] == "done"


@timeless
async def test_a_client_that_does_not_read_slows_its_responder() -> None:
    """Backpressure: what is produced and not yet sent stays within the buffer's bound."""
    produced = 0

    async def endless(turn: Turn) -> AsyncIterator[str]:
        nonlocal produced
        while True:
            produced += 100
            yield "x" * 100

    line = Line(endless)
    line.stop_reading()
    await settle()
    assert 0 < produced <= BUFFER_BYTES
    line.read_on()
    for _ in range(3):  # turns of the loop
        await asyncio.sleep(0)
    line.stop_reading()
    await passing(20)
    assert len(line.said) < produced <= len(line.said) + BUFFER_BYTES
    line.leave()
    await line.end()


@timeless
async def test_time_spent_sending_does_not_count_as_the_responder_s_silence() -> None:
    """It is not to blame for a slow client."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script, idle_timeout=10)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(25)
    line.read_on()
    await line.until("ab")
    assert await line.end() == 35
    assert line.error()[0] == "timeout"


@pytest.mark.parametrize("cause", ["deadline", "drain"])
@timeless
async def test_sending_a_deadline_or_the_drain_waits_until_the_frame_is_through(
    cause: str,
) -> None:
    """A frame that is on its way is not torn."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script, total_timeout=10)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(8)
    bring(line, cause)
    await passing(4)
    assert script.closing is None
    line.read_on()
    assert await line.end() == 12
    assert line.said == "ab"
    ends_as(line, cause)


@pytest.mark.parametrize(("cause", "cut"), [("deadline", 15), ("drain", 13)])
@timeless
async def test_sending_a_deadline_or_the_drain_does_not_wait_as_long_as_it_would_else(
    cause: str, cut: float, records: Records
) -> None:
    """After it the client has `cleanup_timeout` to take the frame that is on its way."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script, total_timeout=10)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(8)
    bring(line, cause)
    assert await line.end() == cut
    assert line.said == "a"
    assert line.aborts == 1
    assert script.closed is not None
    assert outcome(records) == "stalled"


@timeless
async def test_a_deadline_while_the_headers_are_sent_acts_behind_them() -> None:
    """Whatever is late, the client gets a response that is complete."""
    script = Script(FOREVER)
    line = Line(script, total_timeout=10)
    line.stop_reading()
    await passing(12)
    line.read_on()
    assert await line.end() == 12
    assert line.error() == ("timeout", None)


@timeless
async def test_a_cancellation_while_the_headers_are_sent_is_told_too() -> None:
    """There is no last frame without a response that has begun."""
    script = Script(FOREVER)
    line = Line(script)
    line.stop_reading()
    await passing(3)
    line.cancel()
    await passing(1)
    line.read_on()
    assert await line.end() == 4
    assert [message["type"] for message in line.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert line.error() == ("shutting_down", None)


@timeless
async def test_sending_a_cancellation_from_outside_loses_no_frame() -> None:
    """What `send` had not taken when it was cancelled goes out once, before the last frame."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await settle()
    line.cancel()
    await passing(4)
    assert script.closed is not None
    line.read_on()
    assert await line.end() == 4
    assert line.said == "ab"
    assert line.error()[0] == "shutting_down"


@timeless
async def test_a_cancellation_from_outside_waits_for_a_client_only_so_long() -> None:
    """A server that cancels wants to end; a client that does not read cannot keep it."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script, send_timeout=None)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await settle()
    line.cancel()
    assert await line.end() == 5
    assert line.aborts == 1


# Closing the responder


@pytest.mark.parametrize("cause", CAUSES)
@timeless
async def test_a_responder_has_time_to_clean_up(cause: str, records: Records) -> None:
    """It closes the model's stream, or writes down what was used."""
    script = Script("a", FOREVER, clean_up=lambda: asyncio.sleep(3))
    line = Line(script, idle_timeout=20)
    await passing(20 if cause == "deadline" else 7)
    began = now()
    bring(line, cause)
    await line.end()
    assert script.closing == pytest.approx(began, abs=0.001)
    assert script.closed == pytest.approx(began + 3, abs=0.001)
    ends_as(line, cause)
    assert records.troubles == []


async def _shielded_by_anyio() -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(3)


async def _shielded_by_asyncio() -> None:
    await asyncio.shield(asyncio.ensure_future(asyncio.sleep(3)))


@pytest.mark.parametrize("clean_up", [_shielded_by_anyio, _shielded_by_asyncio])
@pytest.mark.parametrize("cause", CAUSES)
@timeless
async def test_a_shielded_clean_up_is_let_be(
    clean_up: Callable[[], Awaitable[None]], cause: str, records: Records
) -> None:
    """People write a shield where something has to be done to its end."""
    script = Script("a", FOREVER, clean_up=clean_up)
    line = Line(script, idle_timeout=20)
    await passing(20 if cause == "deadline" else 7)
    began = now()
    bring(line, cause)
    await line.end()
    assert script.closed == pytest.approx(began + 3, abs=0.001)
    ends_as(line, cause)
    assert records.troubles == []


@pytest.mark.parametrize("cause", ["leave", "drain", "deadline"])
@timeless
async def test_a_clean_up_that_takes_too_long_is_cancelled_and_logged(
    cause: str, records: Records
) -> None:
    """A place in the server is not for ever."""
    script = Script("a", FOREVER, clean_up=lambda: asyncio.sleep(FOREVER))
    line = Line(script, idle_timeout=10)
    await passing(10 if cause == "deadline" else 7)
    began = now()
    bring(line, cause)
    assert await line.end() == pytest.approx(began - line._began + 5, abs=0.001)
    assert script.closing == pytest.approx(began, abs=0.001)
    assert script.closed is None
    ends_as(line, cause)
    [trouble] = records.troubles
    assert trouble == (
        f"responder did not end within 5 s of its cancellation request_id={REFERENCE}"
    )


@timeless
async def test_a_clean_up_after_the_last_token_is_bounded_too(records: Records) -> None:
    """The reply is complete, but its stream would never end."""
    script = Script("a", clean_up=lambda: asyncio.sleep(FOREVER))
    line = Line(script, idle_timeout=10)
    assert await line.end() == 10
    assert line.said == "a"
    assert line.error()[0] == "timeout"
    assert script.closing == line._began


@pytest.mark.filterwarnings(
    # What Python says of a coroutine that ignores even GeneratorExit, when it is dropped.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("form", ["generator", "coroutine", "task", "tasks"])
@pytest.mark.parametrize("cause", ["leave", "drain", "deadline"])
@timeless
async def test_a_responder_that_swallows_everything_is_given_up_and_logged(
    form: str, cause: str, records: Records
) -> None:
    """`except BaseException: continue` exists, and must cost its own reply only."""
    deaf = True

    async def coroutine() -> None:
        while deaf:
            try:
                await asyncio.sleep(FOREVER)
            except BaseException:
                continue

    async def generator(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        while deaf:
            try:
                await asyncio.sleep(FOREVER)
            except BaseException:
                continue

    # A cancellation goes to a task that is awaited, and to nobody else.
    step = {
        "coroutine": coroutine,
        "task": lambda: asyncio.ensure_future(coroutine()),
        "tasks": lambda: asyncio.gather(coroutine(), coroutine()),
    }
    line = Line(generator if form == "generator" else Script("a", step[form]), idle_timeout=10)
    await passing(10 if cause == "deadline" else 7)
    began = now()
    bring(line, cause)
    await asyncio.wait([line.task], timeout=100)
    took = now() - began
    deaf = False  # what it has left running ends at its next cancellation
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await line.end()
    assert took == pytest.approx(GIVEN_UP, abs=0.001)
    ends_as(line, cause)
    assert records.troubles[0] == (
        f"responder did not end within 5 s of its cancellation request_id={REFERENCE}"
    )
    assert records.troubles[-1] == f"responder given up request_id={REFERENCE}"
    clock().lenient = True  # Python, too, can only complain of it


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("cause", ["leave", "drain", "deadline"])
@timeless
async def test_a_responder_that_swallows_and_goes_on_yielding_is_not_read(
    cause: str, waits: bool, records: Records
) -> None:
    """What it says after its end was decided, nobody hears."""
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

    line = Line(stubborn, idle_timeout=10)
    await passing(10 if cause == "deadline" else 7)
    bring(line, cause)
    assert await line.end() == (10 if cause == "deadline" else 7)
    assert swallowed == 1
    assert line.said == "a"
    ends_as(line, cause)
    chat = records.chat(REFERENCE)
    assert (chat["chunks"], chat["tokens"]) == (1, 1)


@timeless
async def test_a_responder_that_yields_even_when_it_is_closed_is_logged(records: Records) -> None:
    """Python calls that a RuntimeError; it is the responder's, and its client was answered."""

    async def stubborn(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.sleep(FOREVER)
        except BaseException:
            try:
                yield "never"
            except GeneratorExit:
                yield "not even then"

    line = Line(stubborn, idle_timeout=10)
    assert await line.end() == 10
    assert line.said == "a"
    assert line.error()[0] == "timeout"
    assert records.troubles == [f"responder failed to close request_id={REFERENCE}"]
    clock().lenient = True  # Python, too, can only complain of it


@timeless
async def test_closing_the_client_may_leave(records: Records) -> None:
    """Then there is nobody left to tell how it ended."""
    script = Script("a", FOREVER, clean_up=lambda: asyncio.sleep(3))
    line = Line(script, idle_timeout=10)
    await passing(11)
    line.leave()
    assert await line.end() == 13
    assert script.closed is not None
    assert line.said == "a"
    assert outcome(records) == "disconnected"


@timeless
async def test_closing_a_second_cause_changes_nothing() -> None:
    """The first decides what the client is told, and the clean-up is not cancelled again."""
    script = Script("a", FOREVER, clean_up=lambda: asyncio.sleep(3))
    line = Line(script, idle_timeout=10, total_timeout=12)
    await passing(11)
    line.drain(0)
    assert await line.end() == 13
    assert script.closed is not None
    assert line.error()[0] == "timeout"


@timeless
async def test_a_clean_up_after_a_cancellation_from_outside_meets_the_deadlines() -> None:
    """A stream cannot tell it from a time limit of the responder's own, which is no end."""
    script = Script("a", FOREVER, clean_up=lambda: asyncio.sleep(FOREVER))
    line = Line(script, **{**OFF, "idle_timeout": 10})
    await passing(7)
    line.cancel()
    assert await line.end(cancelled=KNOWS_WHO_CANCELS) == 10
    assert script.closed is None
    assert line.error()[0] == "timeout"


@timeless
async def test_a_time_limit_of_the_responder_s_own_is_no_end(records: Records) -> None:
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
    assert line.said == "ab"
    assert line.ending()[0] == "done"
    assert records.troubles == []


@timeless
async def test_closing_a_cancellation_from_outside_ends_the_clean_up() -> None:
    """Whoever cancels a request wants it to end now; the client still gets the last frame."""
    script = Script("a", FOREVER, clean_up=lambda: asyncio.sleep(3))
    line = Line(script, idle_timeout=10)
    await passing(11)
    line.cancel()
    assert await line.end(cancelled=KNOWS_WHO_CANCELS) == 11
    assert script.closed is None
    assert line.error()[0] == "timeout"


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
    assert await line.end(cancelled=KNOWS_WHO_CANCELS) == 3 + 5
    assert (line.said, line.error()[0]) == ("ab", "shutting_down")


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
    assert line.error()[0] == "processing_error"


# Ending: the last frame


@timeless
async def test_ending_the_client_may_read_on() -> None:
    """A reply that has been produced is not lost on a client that pauses."""
    script = Script("a", None, "b")
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(25)
    line.read_on()
    assert await line.end() == 25
    assert line.said == "ab"
    assert line.ending()[0] == "done"


@pytest.mark.parametrize("server", ["lets go", "says nothing"])
@timeless
async def test_ending_the_client_may_leave(server: str, records: Records) -> None:
    """The request ends with it."""
    script = Script("a", None, "b")
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(7)
    if server == "lets go":
        line.leave()
    else:
        line.gone.set()
    assert await line.end() == 7
    assert line.aborts == 0


@timeless
async def test_ending_a_client_that_does_not_read_is_cut(records: Records) -> None:
    """The last frame waits for it no longer than any other."""
    script = Script("a", None, "b")
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    assert await line.end() == 30
    assert line.aborts == 1
    assert outcome(records) == "stalled"


@pytest.mark.parametrize("cause", ["deadline", "drain", "cancel"])
@timeless
async def test_ending_waits_less_for_the_client_where_the_end_was_not_the_responder_s(
    cause: str, records: Records
) -> None:
    """A drain would last as long as the slowest client, who gets `cleanup_timeout` instead."""
    line = Line(Script("a", FOREVER), idle_timeout=10)
    await passing(9)
    line.stop_reading()
    if cause == "deadline":
        await passing(1)
    began = now()
    bring(line, cause)
    assert await line.end() == pytest.approx(began - line._began + 5, abs=0.001)
    assert line.aborts == 1
    assert outcome(records) == "stalled"


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("cause", ["deadline", "drain"])
@timeless
async def test_ending_a_deadline_or_the_drain_comes_too_late_to_be_told(
    cause: str, reads: bool
) -> None:
    """The reply was complete; only the time that the client has left is `cleanup_timeout` then."""
    script = Script("a", None, "b")
    line = Line(script, total_timeout=10, send_timeout=None)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(10)
    bring(line, cause)
    await passing(4)
    if reads:
        line.read_on()
        assert await line.end() == 14
        assert line.said == "ab"
        assert line.ending()[0] == "done"
    else:
        assert await line.end() == 15
        assert line.aborts == 1


@timeless
async def test_ending_a_cancellation_from_outside_loses_no_frame() -> None:
    """`done` was on its way, and what was not taken is sent."""
    script = Script("a", None, "b")
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(1)
    line.cancel()
    await passing(1)
    line.read_on()
    assert await line.end() == 2
    assert line.said == "ab"
    assert line.ending()[0] == "done"


# Heartbeats


@timeless
async def test_heartbeats_fill_each_silence_before_the_first_token_too() -> None:
    """Proxies take a silence of a minute for the end."""
    line = Line(Script(50, "a", 50, "b"))
    await line.end()
    assert line.heartbeats == [15, 30, 45, 65, 80, 95]
    assert line.said == "ab"


@timeless
async def test_tokens_are_no_silence() -> None:
    """A heartbeat between them would only cost."""
    line = Line(Script(*["a", 14] * 10))
    await line.end()
    assert line.heartbeats == []


@timeless
async def test_a_client_that_does_not_read_gets_no_heartbeats() -> None:
    """They would pile up before it; the silence begins when it has read."""
    script = Script("a", None, "b", None)
    line = Line(script, send_timeout=None)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await passing(100)
    line.read_on()
    await passing(20)
    script.go_on()
    await line.end()
    assert line.heartbeats == [115]


@timeless
async def test_closing_there_are_no_heartbeats() -> None:
    """The last frame comes in a moment."""
    script = Script("a", FOREVER, clean_up=lambda: asyncio.sleep(4))
    line = Line(script, idle_timeout=10, heartbeat_interval=3)
    await line.end()
    assert line.heartbeats == [3, 6, 9]


def _behind_a_heartbeat(*steps: Any, **limits: Any) -> Line:
    """A stream whose first heartbeat, after 15 seconds, finds a client that does not read."""
    line = Line(Script("a", *steps), **limits)
    asyncio.get_running_loop().call_later(1, line.stop_reading)
    return line


@timeless
async def test_what_comes_while_a_heartbeat_is_on_its_way_goes_out_behind_it() -> None:
    """Not with the token after it, which may be long in coming."""
    line = _behind_a_heartbeat(20, "b", 48, "c")
    await passing(25)
    line.read_on()
    await line.until("ab")
    assert line.times[-2:] == [25, 25]
    await line.end()
    assert line.said == "abc"
    assert line.heartbeats == [25, 40, 55]
    assert line.bodies.count(b"") == 0


@timeless
async def test_a_heartbeat_on_its_way_holds_the_responder_up_as_a_frame_does() -> None:
    """What is produced meanwhile stays within the buffer's bound."""
    produced = 0

    async def endless(turn: Turn) -> AsyncIterator[str]:
        nonlocal produced
        yield "a"
        await asyncio.sleep(20)
        while True:
            produced += 100
            yield "x" * 100

    line = Line(endless)
    await line.until("a")
    line.stop_reading()
    await passing(25)
    assert 0 < produced <= BUFFER_BYTES
    line.leave()
    await line.end()


@timeless
async def test_a_reply_that_ends_while_a_heartbeat_is_on_its_way_ends_behind_it() -> None:
    """The last frame is the last thing sent."""
    line = _behind_a_heartbeat(20, "b")
    await passing(25)
    line.read_on()
    await line.end()
    assert line.said == "ab"
    assert line.ending()[0] == "done"
    assert line.heartbeats == [25]


@pytest.mark.parametrize("server", ["lets go", "says nothing"])
@timeless
async def test_a_client_may_leave_while_a_heartbeat_is_on_its_way(
    server: str, records: Records
) -> None:
    """Nothing of it remains to cancel what the server does next."""
    line = _behind_a_heartbeat(FOREVER)
    await passing(20)
    if server == "lets go":
        line.leave()
    else:
        line.gone.set()
    assert await line.end() == 20
    assert outcome(records) == "disconnected"


@timeless
async def test_a_heartbeat_that_the_server_fails_to_send_ends_the_stream(
    records: Records,
) -> None:
    """Nothing can be told any more, and the responder must not go on for nobody."""
    script = Script("a", FOREVER)
    line = Line(script, **{**OFF, "heartbeat_interval": 15.0})
    await line.until("a")
    line.fails = LookupError("a bug of the server's")
    assert await line.end() == 15
    assert script.closed == line._began + 15
    assert outcome(records) == "disconnected"
    assert records.troubles == [f"heartbeat failed request_id={REFERENCE}"]


@timeless
async def test_there_is_no_heartbeat_before_the_headers() -> None:
    """A responder that has computed for long before its first wait is late with everything."""

    async def compute() -> None:
        clock().work(20)
        await asyncio.sleep(1)

    line = Line(Script(compute, "a"))
    await line.end()
    assert line.sent[0]["type"] == "http.response.start"
    assert line.heartbeats == []
    assert line.said == "a"


@timeless
async def test_a_responder_that_yields_nothing_for_ever_meets_its_deadline() -> None:
    """Items without text are not the token that it was given time for."""

    async def nothing(turn: Turn) -> AsyncIterator[str]:
        while True:
            clock().work(0.01)
            yield ""

    line = Line(nothing)
    assert await line.end() == pytest.approx(60, abs=2)
    assert line.error() == ("timeout", None)


@timeless
async def test_a_client_that_does_not_take_a_heartbeat_is_cut(records: Records) -> None:
    """Between tokens nothing else would show that it does not read."""
    line = _behind_a_heartbeat(FOREVER)
    assert await line.end() == 15 + 30
    assert line.aborts == 1
    assert outcome(records) == "stalled"


@pytest.mark.parametrize("cause", ["deadline", "drain"])
@timeless
async def test_a_deadline_or_the_drain_waits_for_a_heartbeat_that_is_on_its_way(cause: str) -> None:
    """Half a heartbeat would spoil the frame behind it."""
    line = _behind_a_heartbeat(FOREVER, total_timeout=20)
    await passing(18)
    bring(line, cause)
    await passing(3)
    line.read_on()
    assert await line.end() == 21
    assert line.heartbeats == [21]
    ends_as(line, cause)


@pytest.mark.parametrize(("cause", "cut"), [("deadline", 25), ("drain", 23)])
@timeless
async def test_a_deadline_or_the_drain_waits_for_a_heartbeat_only_so_long(
    cause: str, cut: float
) -> None:
    """It is bounded as a frame's way is."""
    line = _behind_a_heartbeat(FOREVER, total_timeout=20)
    await passing(18)
    bring(line, cause)
    assert await line.end() == cut
    assert line.aborts == 1


@timeless
async def test_a_deadline_at_the_moment_of_a_heartbeat_comes_behind_it() -> None:
    """Both are due at once where the limits are multiples of each other, as the defaults are."""
    line = Line(Script(FOREVER))
    assert await line.end() == 60
    assert line.error() == ("timeout", None)
    assert line.heartbeats in ([15, 30, 45], [15, 30, 45, 60])


@timeless
async def test_the_drain_s_end_at_the_moment_of_a_heartbeat_comes_behind_it() -> None:
    """The heartbeat that begins then must not take the last frame's place."""
    line = Line(Script(FOREVER))
    await settle()
    line.drain(15)
    await settle()
    assert await line.end() == 15
    assert line.error() == ("shutting_down", None)


@timeless
async def test_a_cancellation_from_outside_waits_for_a_heartbeat_that_is_on_its_way() -> None:
    """The last frame stands behind it."""
    line = _behind_a_heartbeat(FOREVER)
    await passing(18)
    line.cancel()
    await passing(2)
    line.read_on()
    assert await line.end() == 20
    assert line.heartbeats == [20]
    assert line.error()[0] == "shutting_down"


# What fails elsewhere


@pytest.mark.parametrize("how", ["raised", "awaited"])
@timeless
async def test_a_cancellation_that_nobody_asked_for_is_the_responder_s_error(
    how: str, records: Records
) -> None:
    """It has awaited something that was cancelled elsewhere, and must not take the server along."""

    async def await_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.cancel)
        await future

    step = asyncio.CancelledError() if how == "raised" else await_cancelled
    line = Line(Script("1234", step))
    if KNOWS_WHO_CANCELS:
        await line.end()
        assert line.error() == ("processing_error", 1)
        assert records.about(REFERENCE, logging.ERROR).exc_info
    else:
        await line.end(cancelled=True)
        assert line.error() == ("shutting_down", 1)


@pytest.mark.parametrize("steps", [[None], []])
@timeless
async def test_what_cannot_be_encoded_ends_the_stream_and_closes_the_responder(
    steps: List[Any], records: Records
) -> None:
    """Whether or not it goes on, what it says after that is not sent."""
    script = Script("1234", "\ud83d", "never", *steps)
    line = Line(script)
    assert await line.end() == 0
    assert script.closed is not None
    assert line.said == "1234"
    assert line.error() == ("stream_error", 1)
    assert records.about(REFERENCE, logging.ERROR).exc_info


@pytest.mark.parametrize(("clean_up", "took"), [(3, 3), (FOREVER, 5)])
@timeless
async def test_after_what_cannot_be_encoded_the_responder_has_time_to_clean_up(
    clean_up: float, took: float
) -> None:
    """It is closed as at any other end."""
    script = Script("\ud83d", FOREVER, clean_up=lambda: asyncio.sleep(clean_up))
    line = Line(script)
    assert await line.end() == took
    assert line.error() == ("stream_error", None)
    assert (script.closed is not None) == (clean_up == 3)


@pytest.mark.parametrize("clean_up", [0, 3, FOREVER])
@pytest.mark.parametrize("when", ["headers", "frame", "full buffer", "heartbeat", "last frame"])
@timeless
async def test_a_send_that_raises_oserror_tells_that_the_client_has_left(
    when: str, clean_up: float, records: Records
) -> None:
    """Servers of ASGI 2.4 say so there, perhaps before `receive` does."""
    steps: Dict[str, List[Any]] = {
        "headers": [FOREVER],
        "frame": ["a", None, "b", FOREVER],
        "full buffer": ["a", None, *["x" * 1000] * 100],
        "heartbeat": ["a", FOREVER],
        "last frame": ["a", None],
    }
    script = Script(*steps[when], clean_up=lambda: asyncio.sleep(clean_up))
    line = Line(script, fails=OSError("gone") if when == "headers" else None)
    await settle()
    line.fails = OSError("gone")
    script.go_on()
    took = await line.end()
    closing = min(clean_up, 5) if script.closing is not None else 0
    if when == "last frame" and clean_up == FOREVER:
        closing = 15  # it had not ended yet, so a heartbeat was tried
    assert took == (15 if when == "heartbeat" else 0) + closing
    assert outcome(records) == "disconnected"
    assert line.aborts == 0


@timeless
async def test_a_send_that_fails_otherwise_is_the_server_s_error() -> None:
    """It is not hidden from the server, and the place is free again."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script)
    await line.until("a")
    line.fails = RuntimeError("what the server says")
    script.go_on()
    with pytest.raises(RuntimeError, match="what the server says"):
        await line.end()
    assert script.closed is not None
    assert line.app.open_streams == 0


class _Connection:
    """What a client has not taken yet of what was sent: less at each look until `least`."""

    def __init__(self, most: int, least: int) -> None:
        self.left = most
        self.least = least

    def __call__(self) -> int:
        self.left = max(self.least, self.left - 1)
        return self.left


@timeless
async def test_a_client_that_takes_something_reads_however_slowly(records: Records) -> None:
    """It slows its responder, and is not cut for that; when it stops, it has its time once more."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script, heartbeat_interval=None, total_timeout=None, cleanup_timeout=20.0)
    line.scope["extensions"][UNSENT] = _Connection(most=20, least=10)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    # It is looked at every 7.5 s, and from the second time to the tenth has taken something.
    assert await line.end() == 10 * 7.5 + 30
    assert outcome(records) == "stalled"


@timeless
async def test_a_slow_client_is_not_waited_for_once_the_end_is_decided() -> None:
    """A drain, and a deadline, would have no end either."""
    script = Script("a", None, "b", FOREVER)
    line = Line(script, heartbeat_interval=None, total_timeout=40.0)
    line.scope["extensions"][UNSENT] = _Connection(most=1000, least=0)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    assert await line.end() == 45


@timeless
async def test_a_send_that_fails_does_not_tear_the_clean_up(records: Records) -> None:
    """It is no failure of the responder's, which is told to end as ever, and has its time."""
    seen: List[object] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.sleep(1)
            yield "b"
            await asyncio.sleep(1)
        except BaseException as error:
            seen.append(type(error))
            raise
        finally:
            await asyncio.sleep(2)
            seen.append("cleaned up")

    line = Line(respond)
    await line.until("a")
    line.fails = RuntimeError("what the server says")
    with pytest.raises(RuntimeError, match="what the server says"):
        await line.end()
    assert seen == [asyncio.CancelledError, "cleaned up"]


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

    line = Line(respond)
    line.fails = TypeError("what a middleware says")
    with pytest.raises(TypeError, match="what a middleware says"):
        await line.end()
    assert rounds == 1


@timeless
async def test_a_send_that_refuses_to_end_is_given_up_and_not_blamed_on_the_responder(
    records: Records,
) -> None:
    """Whoever reads the log looks for the fault where it is."""

    class Stubborn(Line):
        async def send(self, message: Message) -> None:
            while message["type"] == "http.response.body":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            await super().send(message)

    line = Stubborn(Script("a"))
    await line.end()
    assert records.troubles[-1] == f"send given up request_id={REFERENCE}"
    assert outcome(records) == "stalled"


class _Priced(Usage, frozen=True):
    price: object = None


@pytest.mark.parametrize("how", ["exit", "usage"])
@timeless
async def test_whatever_a_responder_does_the_client_is_told_the_end(how: str) -> None:
    """Also where the usage cannot be told, and where it wants to end the process."""

    async def respond(turn: Turn) -> AsyncIterator[Any]:
        yield "a"
        await asyncio.sleep(1)
        if how == "exit":
            sys.exit(3)
        yield _Priced(5, price=object())

    line = Line(respond)
    await line.end()
    assert line.said == "a"
    assert line.error() == ("processing_error" if how == "exit" else "stream_error", 1)


@timeless
async def test_a_receive_that_raises_oserror_tells_that_the_client_has_left(
    records: Records,
) -> None:
    """Some servers say it so."""

    def receive() -> Message:
        raise OSError

    script = Script("a", FOREVER)
    line = Line(script, receives=receive)
    assert await line.end() == 0
    assert script.closed is not None
    assert outcome(records) == "disconnected"
    assert records.troubles == []


@timeless
async def test_a_receive_that_fails_otherwise_counts_as_leaving_and_is_logged(
    records: Records,
) -> None:
    """Nobody would notice the leaving any more."""

    def receive() -> Message:
        raise LookupError

    script = Script("a", FOREVER)
    line = Line(script, receives=receive)
    assert await line.end() == 0
    assert script.closed is not None
    assert records.about(REFERENCE, logging.ERROR).exc_info
    assert outcome(records) == "disconnected"


@timeless
async def test_a_receive_that_repeats_the_body_is_asked_no_more(records: Records) -> None:
    """Middleware of some frameworks does that; the reply is given, with a warning in the log."""

    def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    line = Line(Script("a", 20, "b"), receives=receive)
    assert await line.end() == 20
    assert line.said == "ab"
    assert line.ending()[0] == "done"
    [trouble] = records.troubles
    assert "receive() repeats itself" in trouble


@timeless
async def test_a_server_that_tells_of_the_leaving_after_the_end_changes_nothing(
    records: Records,
) -> None:
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


# A responder's own time limits, and what it does with a cancellation


@pytest.mark.parametrize("cause", ["leave", "drain", "nothing"])
@timeless
async def test_a_time_limit_of_the_responder_s_own_may_fire_in_a_blocked_send(cause: str) -> None:
    """It is the responder that goes on then, and the stream with it, as before."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "a"
            with anyio.move_on_after(3):
                await asyncio.sleep(FOREVER)  # before which "a" is sent, or not
            yield "b"
            await asyncio.sleep(20 if cause == "nothing" else FOREVER)
        finally:
            closed.append(now())

    closed: List[float] = []
    line = Line(respond, **OFF)
    line.stop_reading()
    await passing(5)
    line.read_on()
    await line.until("ab")
    await passing(10)  # longer than `cleanup_timeout`
    began = now()
    assert closed == []
    bring(line, cause)
    await line.end()
    if cause == "nothing":
        assert line.ending()[0] == "done"
    else:
        assert closed == [began]
        ends_as(line, cause)


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

    line = Line(respond, **OFF)
    await passing(10)
    bring(line, cause)
    assert await line.end() <= 3 + 12
    ends_as(line, cause)


@pytest.mark.parametrize("shared", ["future", "task"])
@timeless
async def test_streams_may_wait_for_the_same_thing(shared: str) -> None:
    """A token that is refreshed, a connection that is made: many wait for what one does."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

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
    for line in lines:
        await line.end()
        assert line.said == "ab"
        assert line.ending()[0] == "done"


@pytest.mark.parametrize("form", ["returns", "raises"])
@pytest.mark.parametrize("cause", ["drain", "deadline"])
@timeless
async def test_what_a_responder_makes_of_its_cancellation_does_not_change_the_end(
    cause: str, form: str, records: Records
) -> None:
    """A reply that was cut is never `done`, and a failing clean-up does not hide what cut it."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            if form == "raises":
                raise LookupError("a clean-up that fails") from None

    line = Line(respond, idle_timeout=10)
    await passing(10 if cause == "deadline" else 7)
    bring(line, cause)
    await line.end()
    ends_as(line, cause)
    ended = "responder failed to end"
    assert [ended in trouble for trouble in records.troubles] == [True] * (form == "raises")


@timeless
async def test_an_exception_of_no_known_kind_is_an_error_too() -> None:
    """The panics of extension modules are no `Exception`."""

    class Panic(BaseException):
        pass

    line = Line(Script("a", Panic("a secret")))
    await line.end()
    assert line.error()[0] == "processing_error"
    assert b"secret" not in line.body


@timeless
async def test_a_reply_whose_end_was_not_told_is_not_logged_as_done(records: Records) -> None:
    """Who counts replies would count one that no client has got."""
    script = Script("a", None)
    line = Line(script)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await settle()
    line.cancel()
    await settle()
    line.cancel()
    await asyncio.wait([line.task])
    assert outcome(records) == "cancelled"


@pytest.mark.skipif(not KNOWS_WHO_CANCELS, reason="a task does not tell that it was cancelled")
@timeless
async def test_a_clean_up_is_not_held_up_by_a_client_that_does_not_read() -> None:
    """It may need a moment, and what is left to be said can wait for the last frame."""
    script = Script("a", None, "b", FOREVER, clean_up=lambda: asyncio.sleep(1))
    line = Line(script, **OFF)
    await line.until("a")
    line.stop_reading()
    script.go_on()
    await settle()
    began = now()
    line.cancel()
    await passing(2)
    assert script.closed == began + 1
    line.read_on()
    await line.end()
    assert line.said == "ab"


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


async def happen(line: Line, script: Script, event: str, seconds: float) -> None:
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
        getattr(script if event == "go on" else line, event.replace(" ", "_"))()


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
    """The edges above, in all the orders that nobody has thought of."""
    steps = [*steps, *([] if failure is None else [failure])]
    script = Script(*steps, clean_up=partial(asyncio.sleep, clean_up) if clean_up else None)
    limits: Dict[str, Any] = {**LIMITS, **dict.fromkeys(off)}
    with Records() as records:
        line = Line(script, cleanup_timeout=3.0, **limits)
        for event, seconds in events:
            await happen(line, script, event, seconds)
        await passing(60)
        left = not line.task.done() or line.gone.is_set() or line.fails is not None
        line.leave()  # without limits nothing else would end it
        await asyncio.wait([line.task], timeout=60)
        await line.end(cancelled=None if KNOWS_WHO_CANCELS else line.task.cancelled())
        ended = [vars(r)["chat"] for r in records.all if "chat" in vars(r)]

    whole = "".join(step for step in steps if isinstance(step, str) and step != failure)
    assert whole.startswith(line.said)
    if script.called is None:
        assert line.said == ""
    else:
        assert script.closing is not None
        assert script.closed is not None or clean_up is not None
    if ended == []:  # nothing was opened: it was refused, or the client had left before
        assert script.called is None
        return
    [chat] = ended
    assert (chat["outcome"] == "stalled") == (line.aborts == 1)
    if not left and line.cancels < 2:
        event, data = last(line.frames)
        assert chat["outcome"] == data.get("code", "done")
        assert event == "error" or line.said == whole
    else:
        assert [frame.event for frame in line.frames[:-1]] == ["chunk"] * (len(line.frames) - 1)


# Memory


class Lost(HandDrivenRequest):
    """A request of a client that takes nothing once it is gone; it `began` with its first text."""

    def __init__(self, **request: Any) -> None:
        super().__init__(**request)
        self.began = asyncio.Event()

    async def send(self, message: Message) -> None:
        if "body" in message:
            self.began.set()
        if self.gone.is_set():
            raise OSError("gone")
        await super().send(message)


@pytest.mark.parametrize("end", ["done", "fails", "left", "lost", "limit", "cancel", "body"])
def test_a_request_that_is_over_is_freed_at_once(end: str) -> None:
    """A collection may be a long time off, and a host may have switched it off."""
    ticks = itertools.count()

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        for _ in range(3):
            await asyncio.sleep(0)
        if end == "fails":
            raise UpstreamError("no answer")
        while end == "lost":
            await asyncio.sleep(0)
            yield f"{next(ticks)}"
        if end != "done":
            await asyncio.sleep(FOREVER)

    async def run() -> Any:
        limits: Dict[str, Any] = {"idle_timeout" if end == "limit" else "body_timeout": 0.01}
        app = create_app(respond, settings=Settings(**limits))
        parts: List[Message] = (
            [{"type": "http.request", "body": b"", "more_body": True}] if end == "body" else []
        )
        made = Lost(parts=parts)
        task = asyncio.ensure_future(made.run(app))
        if end in ("left", "lost", "cancel"):
            await made.began.wait()
        if end in ("left", "lost"):
            made.gone.set()
        if end == "cancel":
            task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done()
        del task
        for _ in range(3):
            await asyncio.sleep(0)
        return weakref.ref(made)

    gc.disable()
    try:
        assert asyncio.run(run())() is None
    finally:
        gc.enable()

"""The room of an app and its drain: who is admitted, who is told to end, and when it is over."""

from __future__ import annotations

import asyncio
from typing import Any, List

import pytest
from starlette.types import Message

from omniforge_chat import Settings, create_app
from omniforge_chat.errors import Overloaded, RequestTimeout, ShuttingDown
from omniforge_chat.http.body import late_body, read_body
from omniforge_chat.responders import placeholder
from omniforge_chat.stream.deadline import Deadline
from omniforge_chat.stream.lifecycle import Lifecycle

from ..support.answers import last, refusal
from ..support.app import HandDrivenRequest
from ..support.timeless import now, passing, settle, timeless


class Waiter:
    """A request that waits, and ends `seconds` after it was told to."""

    def __init__(self, lifecycle: Lifecycle, seconds: float = 0, *, waits: bool = True) -> None:
        self.told: List[float] = []
        self._lifecycle = lifecycle
        self._seconds = seconds
        lifecycle.admit()
        if waits:
            lifecycle.opened(self)

    def shut_down(self) -> None:
        self.told.append(now())
        asyncio.get_running_loop().call_later(self._seconds, self.end)

    def end(self) -> None:
        self._lifecycle.closed(self)
        self._lifecycle.release()


# Room


class Left:
    """A stream whose client has left."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.followed = False
        self.gives_way = False
        lifecycle.admit()
        lifecycle.went_away(self)

    def give_way(self) -> None:
        self.gives_way = True


def test_who_may_read_a_reply_pushes_none_out_before_it_begins_one() -> None:
    """The one that it reads could be the one that gives way."""
    lifecycle = Lifecycle(max_streams=1)
    left = Left(lifecycle)
    assert lifecycle.admit(reads=True)
    assert not left.gives_way
    lifecycle.produce()
    assert left.gives_way
    assert lifecycle.open_streams == 2


def test_who_found_every_place_taken_is_refused_if_no_reply_gives_way() -> None:
    """Somebody may have come to read it meanwhile."""
    lifecycle = Lifecycle(max_streams=1)
    left = Left(lifecycle)
    assert lifecycle.admit(reads=True)
    left.followed = True
    with pytest.raises(Overloaded):
        lifecycle.produce()
    lifecycle.release()
    assert lifecycle.open_streams == 1


def test_who_found_a_place_needs_no_other() -> None:
    lifecycle = Lifecycle(max_streams=1)
    assert not lifecycle.admit(reads=True)


def test_there_is_room_for_so_many_and_a_place_given_back_is_free() -> None:
    """One more would be one too many for the memory that was planned."""
    lifecycle = Lifecycle(max_streams=2)
    for _ in range(3):
        lifecycle.admit()
        lifecycle.admit()
        assert lifecycle.open_streams == 2
        with pytest.raises(Overloaded):
            lifecycle.admit()
        assert lifecycle.open_streams == 2
        lifecycle.release()
        lifecycle.release()
        assert lifecycle.open_streams == 0


@timeless
async def test_a_draining_app_admits_nobody_whether_or_not_there_is_room() -> None:
    """That it drains is the better reason of the two: another server has room."""
    lifecycle = Lifecycle(max_streams=1)
    assert not lifecycle.draining
    waiter = Waiter(lifecycle)
    drain = asyncio.ensure_future(lifecycle.drain(10))
    await settle()
    assert lifecycle.draining
    with pytest.raises(ShuttingDown):
        lifecycle.admit()
    waiter.end()
    await drain
    with pytest.raises(ShuttingDown):
        lifecycle.admit()
    assert lifecycle.open_streams == 0


# The drain


@timeless
async def test_with_nothing_open_a_drain_is_over_at_once() -> None:
    """An idle service ends without waiting."""
    began = now()
    await Lifecycle(max_streams=1).drain(10)
    assert now() == began


@timeless
async def test_a_drain_is_over_when_the_last_one_has_ended() -> None:
    """No sooner, or its last frame would be lost; no later, or the deployment waits for nothing."""
    lifecycle = Lifecycle(max_streams=3)
    waiters = [Waiter(lifecycle) for _ in range(3)]
    drain = asyncio.ensure_future(lifecycle.drain(10))
    for waiter in waiters:
        await passing(2)
        assert not drain.done()
        waiter.end()
    await settle()
    assert drain.done()
    assert [waiter.told for waiter in waiters] == [[], [], []]


@pytest.mark.parametrize("seconds", [0, 10])
@timeless
async def test_who_is_left_when_the_time_is_up_is_told_once_and_waited_for(seconds: float) -> None:
    """The last frames still have to be sent. `drain(0)` is what a second SIGTERM comes to."""
    lifecycle = Lifecycle(max_streams=2)
    began = now()
    waiters = [Waiter(lifecycle, seconds=1), Waiter(lifecycle, seconds=4)]
    await lifecycle.drain(seconds)
    assert [waiter.told for waiter in waiters] == [[began + seconds]] * 2
    assert now() == pytest.approx(began + seconds + 4)
    assert lifecycle.open_streams == 0


@pytest.mark.parametrize(("first", "second", "told"), [(100, 2, 5 + 2), (8, 100, 8)])
@timeless
async def test_a_second_drain_shortens_the_first_and_lengthens_nothing(
    first: float, second: float, told: float
) -> None:
    """The first promise was made to whoever waits for the process to end; both return."""
    lifecycle = Lifecycle(max_streams=1)
    began = now()
    waiter = Waiter(lifecycle, seconds=1)
    drain = asyncio.ensure_future(lifecycle.drain(first))
    await passing(5)
    await lifecycle.drain(second)
    await drain
    assert waiter.told == [pytest.approx(began + told)]
    assert now() == pytest.approx(began + told + 1)


@timeless
async def test_a_drain_that_is_cancelled_leaves_the_app_draining() -> None:
    """A server that loses its patience cancels it; a second call still ends what is open."""
    lifecycle = Lifecycle(max_streams=1)
    waiter = Waiter(lifecycle)
    first = asyncio.ensure_future(lifecycle.drain(100))
    await settle()
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert lifecycle.draining
    assert waiter.told == []
    await lifecycle.drain(0)
    assert len(waiter.told) == 1


@timeless
async def test_who_begins_to_wait_after_the_time_is_up_is_told_at_once() -> None:
    """It was admitted before, but had not waited yet, so nobody knew of it."""
    lifecycle = Lifecycle(max_streams=1)
    late = Waiter(lifecycle, waits=False)
    drain = asyncio.ensure_future(lifecycle.drain(1))
    await passing(2)
    assert not drain.done()
    lifecycle.opened(late)
    assert late.told == [now()]
    await drain


@timeless
async def test_who_waits_no_more_is_not_told() -> None:
    """A request may wait for its body, then for its responder, and each only while it does."""
    lifecycle = Lifecycle(max_streams=1)
    waiter = Waiter(lifecycle)
    lifecycle.closed(waiter)
    drain = asyncio.ensure_future(lifecycle.drain(0))
    await settle()
    assert waiter.told == []
    lifecycle.release()
    await drain


# Bodies that are still being read


def _part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def _read(lifecycle: Lifecycle, receive: Any) -> bytes:
    return await Deadline(15, late_body, lifecycle).run(read_body(receive, max_bytes=100))


@timeless
async def test_a_body_that_is_still_coming_when_the_drain_ends_is_refused() -> None:
    """A client that sends slowly would hold the process up as much as a reply does."""
    app = create_app(placeholder, settings=Settings())
    request = HandDrivenRequest(parts=[_part(b'{"message"', more=True)])
    task = asyncio.ensure_future(request.run(app))
    await settle()
    assert app.open_streams == 1
    await app.drain(5)
    assert refusal(*request.json())[:2] == (503, "shutting_down")
    assert int(request.headers["retry-after"]) >= 1
    assert app.open_streams == 0
    await task


@timeless
async def test_a_body_that_arrives_within_the_drain_s_time_is_answered() -> None:
    """It was admitted before the drain began."""
    app = create_app(placeholder, settings=Settings())
    arrived = asyncio.Event()

    class Slow(HandDrivenRequest):
        async def receive(self) -> Message:
            if self.received:
                await arrived.wait()
            return await super().receive()

    request = Slow(parts=[_part(b'{"message"', more=True), _part(b':"hi"}', more=False)])
    task = asyncio.ensure_future(request.run(app))
    await settle()
    drain = asyncio.ensure_future(app.drain(5))
    await passing(2)
    arrived.set()
    await drain
    await task
    assert last(request.frames)[0] == "done"


@timeless
async def test_a_body_that_never_waits_makes_neither_a_timer_nor_an_entry() -> None:
    """Nearly every body is there already, and costs nothing."""
    lifecycle = Lifecycle(max_streams=1)
    parts = [_part(b"a", more=True), _part(b"b", more=False)]

    async def receive() -> Message:
        assert lifecycle._waiting == set()
        return parts.pop(0)

    assert await _read(lifecycle, receive) == b"ab"


@timeless
async def test_what_a_body_reader_was_told_too_late_changes_nothing() -> None:
    """The time may be up just when the last part has come."""
    lifecycle = Lifecycle(max_streams=1)
    arrived: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def receive() -> Message:
        return await asyncio.shield(arrived)

    task = asyncio.ensure_future(_read(lifecycle, receive))
    await settle()
    [reader] = lifecycle._waiting
    arrived.set_result(_part(b"ab", more=False))
    assert await task == b"ab"
    assert lifecycle._waiting == set()
    reader.shut_down()
    await settle()
    assert task.done()


@timeless
async def test_a_body_reader_that_is_cancelled_from_outside_says_so() -> None:
    """It is not its own time limit, and not the drain."""
    lifecycle = Lifecycle(max_streams=1)
    task = asyncio.ensure_future(_read(lifecycle, _never))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert lifecycle._waiting == set()


@timeless
async def test_the_first_cause_that_ends_a_body_reader_wins() -> None:
    """Whether its own limit or the drain's, it is told once."""
    for drained in (False, True):
        lifecycle = Lifecycle(max_streams=1)

        async def receive() -> Message:
            try:
                return await _never()
            finally:
                await asyncio.sleep(20)  # a server that takes long to let go

        task = asyncio.ensure_future(_read(lifecycle, receive))
        await settle()
        [reader] = lifecycle._waiting
        await passing(14 if drained else 15)
        reader.shut_down()
        with pytest.raises(ShuttingDown if drained else RequestTimeout):
            await task
        assert lifecycle._waiting == set()

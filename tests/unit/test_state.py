"""The state of a stream by itself: each row of its table, its timers, and any order of events."""

from __future__ import annotations

from functools import partial
from math import inf
from operator import methodcaller
from typing import Any, Callable, List, NamedTuple, Optional

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omniforge_chat import Settings
from omniforge_chat.errors import Abandoned, ReplyTimeout, ShuttingDown
from omniforge_chat.stream.state import ATTEMPT_SECONDS, ATTEMPTS, StreamState
from omniforge_chat.stream.transitions import TRANSITIONS, Action, Event, Phase

LIMITS = Settings()
CAUSE = ShuttingDown("The server is shutting down")
WAITING, SENDING, CLEANING_UP, FINISHING, OVER, AWAY = Phase
NOTHING, FLUSH, HEARTBEAT, CANCEL, GIVE_UP, ABORT = Action


def waiting() -> StreamState:
    """A stream that has just begun."""
    return StreamState(LIMITS, 0.0)


def sending(*, ended: bool = False, noted: bool = False) -> StreamState:
    """One that sends a piece; its responder has `ended`, or its end is `noted`."""
    state = waiting()
    if ended:
        state.responder_ended(True)
    state.about_to_wait(0.0, True)
    if noted:
        state.end(0.0, CAUSE)
    return state


def cleaning_up(*, gone: Optional[str] = None, insisted: int = 0) -> StreamState:
    """One whose responder was cancelled `insisted` times too often."""
    state = waiting()
    if gone:
        state.client_left(0.0, gone)
    else:
        state.end(0.0, CAUSE)
    for _ in range(insisted):
        state.timer(state.due())
    return state


def kept(*, grace: float = 30.0, stalled: bool = True) -> StreamState:
    """One whose reply outlives its client, which may be dropped if it does not read."""
    state = waiting()
    state.keep(grace, stalled=stalled)
    return state


def kept_and_sending() -> StreamState:
    """The same, which sends a piece."""
    state = kept()
    state.about_to_wait(0.0, True)
    return state


def away(*, grace: float = 30.0) -> StreamState:
    """The same, whose client has left at second 10."""
    state = kept(grace=grace)
    state.client_left(10.0, "disconnected")
    return state


def finishing() -> StreamState:
    """One that sends its last frame."""
    state = waiting()
    state.responder_ended(True)
    state.closed(0.0, True)
    return state


def quiet() -> StreamState:
    """One whose client has heard nothing for some time."""
    state = sending()
    state.taken(0.0, True)
    return state


def ended_by_itself() -> StreamState:
    """One whose responder has ended, and begins to clean up."""
    state = waiting()
    state.responder_ended(True)
    return state


class Row(NamedTuple):
    """A state, an event that happens to it, and what that comes to."""

    event: Event
    before: Callable[[], StreamState]
    happens: Callable[[StreamState], Any]
    phase: Phase
    action: Action


ready = methodcaller("about_to_wait", 1.0, True)
refused = methodcaller("about_to_wait", 6.0, False)
ended = methodcaller("responder_ended", True)
end = methodcaller("end", 1.0, CAUSE)
left = methodcaller("client_left", 1.0, "disconnected")
stalled = methodcaller("client_left", 1.0, "stalled")
taken = methodcaller("taken", 1.0, True)
torn = methodcaller("torn", 1.0)
failed = methodcaller("failed", 1.0)
quiet_for_long = methodcaller("timer", 15.0)
late = methodcaller("timer", 5.0)
closed = methodcaller("closed", 1.0, False)
closed_well = methodcaller("closed", 1.0, True)

noted = partial(sending, noted=True)
sending_the_end = partial(sending, ended=True)
stubborn = partial(cleaning_up, insisted=ATTEMPTS + 1)
unheard = partial(cleaning_up, gone="disconnected")
unread = partial(cleaning_up, gone="stalled")

ROWS = [
    Row(Event.READY, waiting, ready, SENDING, FLUSH),
    Row(Event.QUIET, quiet, quiet_for_long, WAITING, HEARTBEAT),
    Row(Event.ENDED, waiting, ended, CLEANING_UP, NOTHING),
    Row(Event.END, waiting, end, CLEANING_UP, CANCEL),
    Row(Event.LEFT, waiting, left, CLEANING_UP, CANCEL),
    Row(Event.TAKEN, sending, taken, WAITING, NOTHING),
    Row(Event.TAKEN_LATE, noted, taken, CLEANING_UP, CANCEL),
    Row(Event.TAKEN_ENDED, sending_the_end, taken, CLEANING_UP, NOTHING),
    Row(Event.TORN, sending, torn, WAITING, NOTHING),
    Row(Event.TORN_ENDED, sending_the_end, torn, CLEANING_UP, NOTHING),
    Row(Event.FAILED, sending, failed, CLEANING_UP, CANCEL),
    Row(Event.ENDED, sending, lambda s: s.responder_ended(True), CLEANING_UP, NOTHING),
    Row(Event.LEFT, sending, stalled, CLEANING_UP, CANCEL),
    Row(Event.LEFT_KEPT, kept, left, AWAY, NOTHING),
    Row(Event.STALLED_KEPT, kept, stalled, AWAY, ABORT),
    Row(Event.LEFT_KEPT, kept_and_sending, left, AWAY, NOTHING),
    Row(Event.STALLED_KEPT, kept_and_sending, stalled, AWAY, ABORT),
    Row(Event.READY, away, ready, AWAY, FLUSH),
    Row(Event.ENDED, away, ended, CLEANING_UP, NOTHING),
    Row(Event.END, away, end, CLEANING_UP, CANCEL),
    Row(Event.READY, ended_by_itself, ready, SENDING, FLUSH),
    Row(Event.INSIST, cleaning_up, late, CLEANING_UP, CANCEL),
    Row(Event.REFUSED, stubborn, refused, CLEANING_UP, GIVE_UP),
    Row(Event.CLOSED, cleaning_up, closed, FINISHING, FLUSH),
    Row(Event.CLOSED_UNHEARD, unheard, closed, OVER, NOTHING),
    Row(Event.CLOSED_STALLED, unread, closed, OVER, ABORT),
    Row(Event.TAKEN, finishing, taken, OVER, NOTHING),
    Row(Event.CLOSED, finishing, closed_well, FINISHING, FLUSH),
    Row(Event.LEFT, finishing, stalled, CLEANING_UP, CANCEL),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.before().phase.name} {row.event.name}")
def test_each_event_has_one_consequence(row: Row) -> None:
    """Without an event loop, a clock or a socket."""
    state = row.before()
    assert TRANSITIONS[state.phase, row.event] == (row.phase, row.action)
    assert (row.happens(state) or NOTHING, state.phase) == (row.action, row.phase)


def test_there_is_a_row_for_each_transition() -> None:
    """What has none could be wrong and nobody would notice."""
    assert {(row.before().phase, row.event) for row in ROWS} == set(TRANSITIONS)
    assert len(ROWS) == len(TRANSITIONS)


def test_nothing_happens_to_a_stream_that_is_over() -> None:
    """A timer, a drain or a client may come a moment too late."""
    for row in ROWS:
        if row.event not in (Event.READY, Event.TAKEN):  # which nobody tells of any more
            state = row.before()
            state.abandon()
            assert (row.happens(state) or NOTHING, state.phase) == (NOTHING, OVER), row


@pytest.mark.parametrize("state", [noted(), sending_the_end(), finishing()])
def test_an_end_that_comes_late_tears_nothing(state: StreamState) -> None:
    """The first cause holds, and a reply that is complete stays so."""
    cause, phase = state.cause, state.phase
    assert state.end(1.0, ReplyTimeout("too late")) is NOTHING
    assert state.phase is phase
    assert state.cause is cause or cause is None


def test_pieces_wait_for_the_last_frame_if_a_send_was_cancelled_from_outside() -> None:
    """Another send would be in the way of who wants to end."""
    state = sending()
    state.torn(1.0)
    assert state.was_torn
    assert state.about_to_wait(2.0, True, True) is NOTHING
    assert state.about_to_wait(2.0, True) is FLUSH


@pytest.mark.parametrize("before", [waiting, sending])
def test_a_responder_whose_end_nobody_has_told_is_closed_all_the_same(
    before: Callable[[], StreamState],
) -> None:
    """An event loop that is closed under a stream tears all that would have told it."""
    assert before().closed(1.0, False) is FLUSH


# Timers


def slow() -> StreamState:
    """One whose client is slow to take a piece, when the drain comes after 20 seconds."""
    state = sending()
    state.end(20.0, CAUSE)
    return state


def beating() -> StreamState:
    """One with a heartbeat on its way since second 15."""
    state = quiet()
    state.timer(15.0)
    return state


@pytest.mark.parametrize(
    ("state", "due"),
    [
        pytest.param(waiting(), 60.0, id="the first chunk"),
        pytest.param(quiet(), 15.0, id="a heartbeat"),
        pytest.param(beating(), 45.0, id="a heartbeat that is not taken"),
        pytest.param(sending(), 30.0, id="a slow client"),
        pytest.param(slow(), 25.0, id="a slow client, and the end is decided"),
        pytest.param(cleaning_up(), 5.0, id="the end of the clean-up"),
        pytest.param(cleaning_up(insisted=1), 5.0 + ATTEMPT_SECONDS, id="the next attempt"),
        pytest.param(ended_by_itself(), 60.0, id="its clean-up has not waited yet"),
        pytest.param(StreamState(Settings(first_chunk_timeout=None), 0.0), 900.0, id="the whole"),
        pytest.param(
            StreamState(Settings(first_chunk_timeout=None, total_timeout=None), 0.0), inf, id="none"
        ),
    ],
)
def test_the_next_timer_is_for_the_next_thing_that_is_due(state: StreamState, due: float) -> None:
    """A timer that is early is asked again; one that is late keeps a promise too late."""
    assert state.due() == pytest.approx(due)
    if due < inf:
        assert state.timer(state.due() - 0.001) is NOTHING


def test_the_limit_that_was_missed_is_the_cause() -> None:
    """The client is told which, and how long it was."""
    state = waiting()
    assert state.timer(60.0) is CANCEL
    assert str(state.cause) == "No token came within 60 seconds"
    state = StreamState(Settings(heartbeat_interval=None), 0.0)
    state.about_to_wait(0.0, True)
    state.taken(1.0, True)
    assert state.timer(61.0) is CANCEL
    assert str(state.cause) == "No further token came within 60 seconds"


def test_a_client_that_takes_some_of_a_send_has_its_time_again() -> None:
    """It reads, however slowly; but not once the end is decided."""
    state = sending()
    state.look(29.0, 1000)
    assert state.due() == 30.0
    state.look(29.5, 900)
    assert state.due() == 59.5
    state.end(30.0, CAUSE)
    state.look(34.0, 800)
    assert state.due() == 35.0


# Away


def test_a_reply_without_its_client_ends_if_nobody_comes_back() -> None:
    """The time counts from when somebody was last seen to read it."""
    state = away()
    assert state.due() == 40.0
    state.about_to_wait(39.0, True)
    state.taken(39.0, True)
    state.followed_at = 39.0
    assert state.timer(40.0) is NOTHING
    assert state.due() == 69.0
    assert state.timer(69.0) is CANCEL
    assert isinstance(state.cause, Abandoned)


def test_a_reply_without_its_client_has_its_limits() -> None:
    """Those of the provider and of the whole; only heartbeats have nobody to go to."""
    state = away(grace=inf)
    assert state.due() == 60.0
    state.about_to_wait(20.0, True)
    state.taken(20.0, True)
    assert state.due() == 80.0
    assert state.timer(80.0) is CANCEL
    assert isinstance(state.cause, ReplyTimeout)


def test_a_client_that_cannot_be_dropped_ends_its_reply() -> None:
    """Its send might wait for ever, and the reply with it."""
    state = kept(stalled=False)
    assert state.client_left(1.0, "stalled") is CANCEL
    assert state.phase is CLEANING_UP


def test_a_reply_that_has_ended_is_not_kept_open_for_a_client_that_leaves() -> None:
    """Its last frame is all that is left to send."""
    state = kept()
    state.responder_ended(True)
    state.closed(0.0, True)
    assert state.client_left(1.0, "disconnected") is CANCEL
    assert state.closed(1.0, True) is NOTHING
    assert state.phase is OVER


# Any order


class Life(RuleBasedStateMachine):
    """A shell that does what the state says, a responder and a client that do as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state = waiting()
        self.in_send = False
        self.last_frames = 0
        self.cancels: List[str] = []
        self.beats = 0
        self.responder_has_ended = False

    def does(self, action: Action, cause: str) -> None:
        """What the shell does."""
        if action is CANCEL:
            self.cancels.append(cause)
            self.in_send = False
        elif action is FLUSH and self.state.away_since is not None:
            self.does(self.state.taken(self.now, True), "taken")
        elif action is FLUSH:
            self.in_send = True
        elif action is HEARTBEAT:
            self.beats += 1
        elif action is GIVE_UP:
            self.close()
        elif action is ABORT and self.in_send:
            self.in_send = False
            self.does(self.state.taken(self.now, True), "taken")

    def at_work(self) -> bool:
        return not self.in_send and self.state.phase in (WAITING, CLEANING_UP, AWAY)

    def close(self) -> None:
        if not self.responder_has_ended:
            self.responder_has_ended = True
            self.state.responder_ended(False)
        self.does(self.state.closed(self.now, self.state.cause is None), "")

    @initialize(grace=st.sampled_from([1.0, 100.0, inf]), stalled=st.booleans())
    def the_reply_may_be_kept(self, grace: float, stalled: bool) -> None:
        self.state.keep(grace, stalled=stalled)

    @rule(ago=st.sampled_from([0.0, 0.5, 50.0]))
    def somebody_reads_it(self, ago: float) -> None:
        self.state.followed_at = max(self.state.followed_at, self.now - ago)

    @rule(seconds=st.sampled_from([0.001, 1.0, 16.0, 61.0, 901.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(20):
            if self.state.due() > self.now:
                break
            self.does(self.state.timer(self.now), "timer")

    @precondition(at_work)
    @rule(ready=st.booleans())
    def the_responder_waits(self, ready: bool) -> None:
        self.does(self.state.about_to_wait(self.now, ready), "")

    @precondition(lambda self: self.at_work() and not self.responder_has_ended)
    @rule(by_itself=st.booleans())
    def the_responder_ends(self, by_itself: bool) -> None:
        self.responder_has_ended = True
        self.state.responder_ended(by_itself)

    @precondition(lambda self: self.at_work() and self.responder_has_ended)
    @rule()
    def the_responder_is_closed(self) -> None:
        self.close()

    @precondition(lambda self: self.in_send and not self.beats)  # a send waits for a heartbeat
    @rule(pieces=st.booleans())
    def the_client_takes_it(self, pieces: bool) -> None:
        self.in_send = False
        self.last_frames += self.state.phase is FINISHING
        self.does(self.state.taken(self.now, pieces), "taken")

    @precondition(lambda self: self.in_send and self.state.phase is SENDING)
    @rule(outside=st.booleans())
    def the_send_does_not_end_well(self, outside: bool) -> None:
        self.in_send = False
        if outside or self.beats:  # while it waits for a heartbeat, nothing is sent that could fail
            self.state.torn(self.now)
        else:
            self.does(self.state.failed(self.now), "failed")

    @rule(how=st.sampled_from(["disconnected", "stalled"]))
    def the_client_leaves(self, how: str) -> None:
        self.does(self.state.client_left(self.now, how), "left")

    @rule()
    def the_drain_ends(self) -> None:
        self.does(self.state.end(self.now, CAUSE), "end")

    @precondition(lambda self: self.beats > 0)
    @rule(taken=st.booleans())
    def the_heartbeat_is_over(self, taken: bool) -> None:
        self.beats -= 1
        self.state.beat(self.now, taken)
        if self.in_send:
            self.state.send_began(self.now)
        if not taken:
            self.does(self.state.client_left(self.now, "disconnected"), "left")

    @invariant()
    def one_last_frame_and_nothing_after_it(self) -> None:
        assert self.last_frames <= 1
        assert self.last_frames == 0 or self.state.phase is OVER
        assert self.state.phase is not OVER or not self.in_send

    @invariant()
    def each_cause_cancels_once(self) -> None:
        for cause in ("end", "left", "failed"):
            assert self.cancels.count(cause) <= 1
        # A limit of the reply, a stall, and the attempts, once more while the last frame is sent.
        assert self.cancels.count("timer") <= 2 + 2 * (ATTEMPTS + 1)
        assert self.beats <= 1

    def teardown(self) -> None:
        """A client that takes nothing and a responder that refuses to end: it ends all the same."""
        for _ in range(20):
            if self.at_work():
                self.the_responder_waits(ready=False)
            if self.state.phase is OVER:
                return
            due = self.state.due()
            assert self.in_send or self.at_work()
            assert due < inf, "nothing will ever happen any more"
            self.now = max(self.now, due)
            self.does(self.state.timer(self.now), "timer")
        raise AssertionError("it does not end")


class LifeWithoutReplay(Life):
    """The same of a stream whose reply is not kept."""

    @initialize()
    def the_reply_may_be_kept(self) -> None:
        pass


TestAnyOrder = Life.TestCase
TestAnyOrderWithoutReplay = LifeWithoutReplay.TestCase

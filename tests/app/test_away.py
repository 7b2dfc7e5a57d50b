"""A reply whose client has left: it goes on, for those who come back, and not for ever.

The test is the client and the server at once, in an event loop in which waiting takes no time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any, AsyncIterator, Dict, List, Optional, Tuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniforge_chat import ChatError, Turn
from omniforge_chat.core.cancellation import COUNTS_CANCELLATIONS
from omniforge_chat.core.sse import Frame
from omniforge_chat.logs import JSONFormatter
from omniforge_chat.rules import DIALECTS

from ..support.answers import refusal
from ..support.app import HandDrivenRequest
from ..support.away import Follower, KeptLine
from ..support.conducted import said
from ..support.constants import CONVERSATION as ID
from ..support.line import FOREVER, PHASES, Script, Step, beat_of, stick
from ..support.logs import Records
from ..support.timeless import clock, passing, settle, timeless

# How long it goes on


@pytest.mark.parametrize(
    ("on_disconnect", "took", "outcome"),
    [
        pytest.param(None, 10 + 30, "abandoned", id="the setting"),
        ("cancel", 10, "disconnected"),
        (0, 10, "disconnected"),
        (0.25, 10.25, "abandoned"),
        (600, 610, "abandoned"),
        (1e300, 1000, "done"),
        ("continue", 1000, "done"),
    ],
)
@timeless
async def test_a_reply_outlives_its_connection_as_long_as_the_request_says(
    on_disconnect: Any, took: float, outcome: str
) -> None:
    """Who closes the tab wants nothing more; who has asked for a report comes back tomorrow."""
    body = {"message": "hi", "on_disconnect": on_disconnect}
    line = KeptLine(Script("a", 1000, "b"), body=body, replay_grace=30)
    await line.until_away(10)
    assert line.app.open_streams == (took > 10)
    assert await line.end() == took
    assert line.script.closed == took
    assert line.ended["outcome"] == outcome
    end = {"disconnected": "abandoned"}.get(outcome, outcome)
    assert await line.kept() == ("ab" if end == "done" else "a", end)


CHATS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "native": ("/api/v1/chat", {"message": "hi"}),
    "ai_sdk": ("/api/chat", {"id": "chat"}),
    "openai": ("/v1/chat/completions", {"model": "omniforge", "stream": True}),
    "openai, no stream": ("/v1/chat/completions", {"model": "omniforge"}),
    "ag_ui": ("/ag-ui", {"threadId": "a", "runId": "b"}),
}


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("chat", CHATS)
@timeless
async def test_a_reply_goes_on_only_if_its_client_can_come_back(chat: str, keyed: bool) -> None:
    """Nobody pays for the rest of a reply for which no client of this format ever asks.

    With an Idempotency-Key each can.
    """
    path, body = CHATS[chat]
    body = {**body, "messages": [{"id": "1", "role": "user", "content": "hi"}]}
    headers = {"Idempotency-Key": "key"} if keyed else {}
    line = KeptLine(Script("a", FOREVER), body=body, path=path, headers=headers, dialects=DIALECTS)
    await line.until_away(10)
    comes_back = keyed or chat in ("native", "ai_sdk")
    assert await line.end() == (40 if comes_back else 10)
    assert line.ended["outcome"] == ("abandoned" if comes_back else "disconnected")


STEPS: List[Step] = [10, "b"] * 5


@timeless
async def test_the_grace_begins_when_nobody_reads_any_more() -> None:
    """A client that has come back, and is cut again, has as much time as the first time."""
    line = KeptLine(Script("a", *STEPS, FOREVER), replay_grace=30)
    await line.until_away(10)
    await line.at(35)
    first, second = line.follow(), line.follow()
    await line.at(90)  # longer than the grace
    assert first.said == "abbbbb"
    await first.leave()
    await line.at(100)
    await second.leave()
    assert await line.end() == 130
    assert line.ended["followers"] == 2
    assert line.ended["away_ms"] == 120_000.0


@timeless
async def test_a_short_grace_costs_no_timers_while_somebody_reads() -> None:
    """A client chooses it; it would be asked a thousand times a second whether it is over."""
    body = {"message": "hi", "on_disconnect": 0.001}
    line = KeptLine(Script("a", 100, "b", FOREVER), body=body)
    await line.at(10)
    follower = line.follow()
    await line.until_away(10)
    timers = clock().timers
    await line.at(105)
    assert follower.said == "ab"
    assert clock().timers - timers < 100
    await follower.leave()
    assert await line.end() < 111  # some seconds later: it is looked at now and then


# What it does meanwhile


@timeless
async def test_a_reply_ends_without_its_client_as_with_it() -> None:
    """The pieces are kept as they come, nobody gets a heartbeat, and the place is held."""
    line = KeptLine(Script("a", 20, "b", 1000, "c"), heartbeat_interval=15, replay_grace=10_000)
    await line.until_away(10)
    messages = len(line.sent)
    assert line.app.open_streams == 1
    assert await line.end() == 1020
    assert len(line.sent) == messages
    assert (line.ended["outcome"], line.ended["chunks"]) == ("done", 3)
    assert await line.kept() == ("abc", "done")


@timeless
async def test_who_comes_back_to_a_full_service_finds_a_place_and_pushes_no_reply_out() -> None:
    """It would be their own, or that of another one who is about to come back."""
    line = KeptLine(Script("a", 100, "b", FOREVER), replay_grace=10_000, max_streams=1)
    await line.until_away(10)
    first = line.follow()
    by_post = HandDrivenRequest(headers={"Last-Event-ID": f"{line.reply_id}.1"})
    chat = HandDrivenRequest()
    others = [asyncio.ensure_future(each.run(line.app)) for each in (by_post, chat)]
    await settle()
    # One reply is without its client, so one more may be open than there are places. It gives no
    # way while somebody reads it.
    assert first.said == "a"
    assert refusal(*by_post.json())[:2] == (503, "overloaded")
    assert refusal(*chat.json())[:2] == (503, "overloaded")
    await asyncio.wait(others)
    await line.at(150)
    assert first.said == "ab"
    await first.leave()
    await line.at(160)
    chat = HandDrivenRequest({"message": "hi", "on_disconnect": "cancel"})
    answering = asyncio.ensure_future(chat.run(line.app))
    await asyncio.wait([line.task])
    assert line.since() == 160
    assert await line.kept() == ("ab", "abandoned")
    chat.gone.set()
    await answering
    await line.end()


@pytest.mark.parametrize(
    ("limits", "took", "told"),
    [
        ({"total_timeout": 50}, 50, "timeout"),
        ({"idle_timeout": 50}, 50, "timeout"),
        ({"replay_grace": 40}, 50, "abandoned"),
    ],
)
@timeless
async def test_the_limits_hold_without_a_client(
    limits: Dict[str, Any], took: float, told: str
) -> None:
    """A model that hangs is as bad if nobody looks."""
    line = KeptLine(Script("a", FOREVER), **{"replay_grace": 1e6, **limits})
    await line.until_away(10)
    follower = line.follow() if told == "timeout" else None
    assert await line.end() == took
    assert (line.ended["outcome"], line.ended["away_ms"]) == (told, 40_000.0)
    assert await line.kept() == ("a", told)
    if follower is not None:
        assert (await follower.end())[1]["code"] == told
        assert follower.said == "a"


@timeless
async def test_the_first_chunk_is_waited_for_without_a_client_too() -> None:
    """It has left before there was anything to read."""
    line = KeptLine(Script(20, "a"), first_chunk_timeout=60)
    await line.until_away(10)
    assert await line.end() == 20
    assert await line.kept() == ("a", "done")


@pytest.mark.parametrize(
    ("cause", "clean_up"),
    [
        *itertools.product(["drain", "stop", "cancel"], [0, 3]),
        ("drain", FOREVER),
        ("stop", FOREVER),
    ],
)
@timeless
async def test_a_reply_without_a_client_is_ended_from_outside(cause: str, clean_up: float) -> None:
    """By the end of a drain, by its stop, and by a server that wants its task to end."""
    line = KeptLine(Script("a", FOREVER, clean_up=clean_up), replay_grace=1e6)
    await line.until_away(10)
    follower = line.follow()
    await line.at(20)
    if cause == "stop":
        assert await line.stop() == 202
        assert await line.stop() == 202
    else:
        line.meet(cause)
    follows = await follower.end()
    await line.end()
    assert line.script.closing == 20
    told = "stopped" if cause == "stop" else "shutting_down"
    assert await line.kept() == ("a", told)
    assert follower.said == "a"
    assert follows[1].get("code", follows[1].get("finish_reason")) == told
    # The drain ends the follower, and not what it follows: so it may go on elsewhere.
    _, _, position = follower.frames[-1].id.rpartition(".")
    assert (position == "1") == (cause == "drain")
    if cause == "stop":
        assert await line.stop() == 200
        assert line.ended["outcome"] == "done"
    else:
        assert line.ended["outcome"] == "shutting_down"


# Its last send


@pytest.mark.parametrize("server", ["lets go", "says nothing", "raises"])
@pytest.mark.parametrize("sending", PHASES)
@timeless
async def test_a_send_to_a_client_that_has_left_holds_nothing_up(sending: str, server: str) -> None:
    """However the server tells of the leaving: what comes is kept, and the reply ends in time."""
    steps = [60 if step == FOREVER else step for step in [*PHASES[sending], 50, "z"]]
    beat = beat_of(sending)
    line = KeptLine(Script(*steps), heartbeat_interval=beat, replay_grace=1e6)
    await stick(line, sending)
    if server == "raises":
        line.fails = OSError("gone")
        line.read_on()
    if server == "lets go":
        line.leave()
    else:
        line.gone.set()
    assert await line.end() == sum(step for step in steps if isinstance(step, int))
    said = "".join(step for step in steps if isinstance(step, str))
    assert await line.kept() == (said, "done")
    assert (line.ended["outcome"], line.troubles) == ("done", [])


@timeless
async def test_a_send_that_was_given_up_leaves_no_trace_in_the_task() -> None:
    """A time limit of the responder's would take its own cancellation for somebody else's."""
    late: List[str] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(20)
        yield "b"
        with anyio.move_on_after(50) as scope:
            await asyncio.sleep(FOREVER)
        late.append("anyio" if scope.cancelled_caught else "")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(FOREVER), 50)
            late.append("never")
        late.append("asyncio")
        yield "c"

    line = KeptLine(respond, replay_grace=1e6)
    await line.at(19)
    line.stop_reading()
    await line.at(25)
    line.gone.set()
    assert await line.end() == 120
    assert late == ["anyio", "asyncio"]
    assert await line.kept() == ("abc", "done")


@timeless
async def test_a_client_may_come_back_while_its_first_connection_is_not_known_to_be_dead() -> None:
    """A phone that has changed its network has got what an old connection still wants to send."""
    line = KeptLine(Script("a", 10, "b", "c", 10, "d"), send_timeout=1000)
    await line.at(9)
    line.stop_reading()
    await line.at(15)
    follower = line.follow(f"{line.reply_id}.2")
    await settle()
    assert follower.said == "c"
    assert not follower.task.done()
    line.read_on()
    assert (await follower.end())[0] == "done"
    assert follower.said == "cd"
    await line.end()
    assert line.said == "abcd"


@timeless
async def test_the_end_is_known_though_the_first_client_does_not_take_it() -> None:
    """Who has come back does not wait for the old connection to time out."""
    line = KeptLine(Script("a", 20, "b"), send_timeout=1000)
    await line.at(19)
    line.stop_reading()
    follower = line.follow()
    await line.at(20)
    assert (await follower.end())[0] == "done"
    assert line.since() == 20
    assert await line.stop() == 200
    line.leave()
    await line.end()


# A client that does not read


@pytest.mark.parametrize("sending", ["headers", "frame", "heartbeat", "last frame"])
@timeless
async def test_a_client_that_does_not_read_is_cut_and_its_reply_goes_on(sending: str) -> None:
    """It holds the reply up for no longer than `send_timeout`."""
    steps = [100 if step == FOREVER else step for step in PHASES[sending]]
    limits = {"heartbeat_interval": beat_of(sending), "send_timeout": 30, "replay_grace": 1e6}
    line = KeptLine(Script(*steps), **limits)
    await stick(line, sending)
    took = {"headers": 100, "frame": 120, "heartbeat": 100, "last frame": 50}[sending]
    assert await line.end() == took
    assert line.aborts == 1
    said = "".join(step for step in steps if isinstance(step, str))
    assert await line.kept() == (said, "done")


@timeless
async def test_a_server_that_cannot_cut_a_client_has_its_reply_cancelled() -> None:
    """It would hold the connection until the reply ends, for a client that reads nothing."""
    line = KeptLine(Script("a", 20, "b", FOREVER), send_timeout=30)
    line.scope["extensions"] = {}
    await stick(line, "frame")
    assert await line.end() == 50
    assert line.ended["outcome"] == "stalled"
    assert await line.kept() == ("ab", "abandoned")


# The log


@timeless
async def test_the_log_tells_of_the_reply_and_of_those_who_read_it() -> None:
    """Who came back, for how much, and how long a reply ran for nobody."""
    line = KeptLine(Script("Hel", 20, "lo", 20), body={"message": "hi", "conversation_id": ID})
    await line.until_away(10)
    with Records() as records:
        follower = line.follow(f"{line.reply_id}.3")
        await line.at(25)
        await follower.leave()
        await line.end()
    name = line.reply_id
    reference = follower.headers["x-request-id"]
    read, ended = line.records.all
    assert read in records.all
    assert ended.getMessage() == (
        f"chat ended request_id=ref-1 conversation_id={ID} outcome=done chunks=2 tokens=1 "
        f"first_chunk_ms=0.0 total_ms=40000.0 reply_id={name} followers=1 away_ms=30000.0"
    )
    assert read.getMessage() == (
        f"reply read request_id={reference} conversation_id={ID} reply_id={name} "
        "outcome=disconnected after=3 total_ms=15000.0"
    )
    assert not hasattr(read, "chat")
    fields = json.loads(JSONFormatter().format(ended))
    assert fields["message"] == "chat ended"
    assert (fields["reply_id"], fields["followers"], fields["away_ms"]) == (name, 1, 30000.0)
    fields = json.loads(JSONFormatter().format(read))
    assert fields["message"] == "reply read"
    assert (fields["reply_id"], fields["outcome"], fields["after"]) == (name, "disconnected", 3)


@timeless
async def test_the_log_of_a_reply_that_nobody_has_left_has_no_time_for_that() -> None:
    """0.0 would be a client that has left at the very end."""
    line = KeptLine(Script("a", 20, "b"))
    await line.end()
    assert (line.ended["followers"], line.ended["away_ms"]) == (0, None)


# In any order


FOLLOWERS = ["follow", "follow", "a follower leaves"]
EVENTS = st.tuples(
    st.sampled_from(["leave", "drain", "cancel", "stop", "stop reading", "read on", *FOLLOWERS]),
    st.integers(0, 40),
)


@settings(max_examples=60)
@given(
    steps=st.lists(st.sampled_from(["x", "y", "zz"]) | st.integers(1, 30), max_size=8),
    failure=st.sampled_from([None, ChatError("no")]),
    clean_up=st.sampled_from([None, 2, FOREVER]),
    grace=st.sampled_from([0, 5, "continue"]),
    events=st.lists(EVENTS, max_size=10),
)
@timeless
async def test_whatever_happens_in_any_order_what_is_kept_is_what_was_said(
    steps: List[Any],
    failure: Optional[Exception],
    clean_up: Optional[float],
    grace: Any,
    events: List[Tuple[str, int]],
) -> None:
    """Each who reads gets a beginning of the one text, and the one end of it or none."""
    script = Script(*steps, *([] if failure is None else [failure]), clean_up=clean_up)
    body = {"message": "hi", "on_disconnect": grace}
    limits = {"send_timeout": 15, "cleanup_timeout": 3.0, "total_timeout": 200}
    limits["replay_keep"] = 3600  # all that happens may take longer than it is kept by default
    line = KeptLine(script, body=body, **limits)
    followers: List[Follower] = []
    for event, seconds in events:
        await happen(line, followers, event)
        await passing(seconds)
    line.read_on()
    await asyncio.wait([line.task, *(follower.task for follower in followers)])
    await line.end(cancelled=None if COUNTS_CANCELLATIONS else line.task.cancelled())
    if not script.called:
        return
    text, end = await line.kept()
    assert "".join(step for step in steps if isinstance(step, str)).startswith(text)
    for reader in [line, *followers]:
        if reader.sent and reader.status == 200:
            told = [frame for frame in reader.frames if frame.event != "chunk"]
            assert text.startswith(said(reader.frames))
            if told and not told[0].id.endswith(f".{len(said(reader.frames))}"):
                assert said(reader.frames) == text
                assert end_of(told[0]) == end
            assert told == reader.frames[len(reader.frames) - len(told) :]


async def happen(line: KeptLine, followers: List[Follower], event: str) -> None:
    if event == "follow":
        if line.sent:
            followers.append(line.follow())
    elif event == "a follower leaves":
        for follower in followers:
            if not follower.gone.is_set():
                follower.gone.set()
                break
    elif event == "stop":
        if line.sent:
            await line.stop()
    elif event != "cancel" or line.cancels == 0:
        getattr(line, event.replace(" ", "_"))()
    await settle()


def end_of(frame: Frame) -> str:
    """As `KeptLine.kept` has it."""
    data = json.loads(frame.data)
    return str(data.get("code") or data.get("finish_reason") or frame.event)

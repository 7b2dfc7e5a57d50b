"""AG-UI: bodies to requests, replies to the events that old and new clients take."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import ChatError, Finish, Message, Settings, Thought, Turn, Usage
from omniforge_chat.core.responder import Item
from omniforge_chat.core.sse import Decoder
from omniforge_chat.dialects import Request, make_dialect
from omniforge_chat.dialects.ag_ui import AGUIFrames
from omniforge_chat.errors import InvalidFields, RequestError

from ..support.golden import check, stream
from ..support.requests import judged_request, ui_bodies

TURN = Turn("hi", "thread-1", "request-1", dialect="ag_ui")
FRAMES = AGUIFrames("thread-1", "run-1", "msg-1", reasons=True)
OLD = AGUIFrames("thread-1", "run-1", "msg-1", reasons=False)
DIALECT = make_dialect("ag_ui", Settings())

OPENED = {
    "TEXT_MESSAGE": "TEXT_MESSAGE_CONTENT",
    "REASONING_MESSAGE": "REASONING_MESSAGE_CONTENT",
    "THINKING_TEXT_MESSAGE": "THINKING_TEXT_MESSAGE_CONTENT",
    "REASONING": "",
    "THINKING": "",
}
"""What may be open, and its pieces."""


def decode(**fields: Any) -> Request:
    return DIALECT.decode(json.dumps(fields).encode(), {})


# Replies


def events(body: bytes) -> List[Dict[str, Any]]:
    """The events of a stream, in an order that clients take."""
    assert b"\r" not in body  # older clients split at two line feeds
    assert all(line[:6] == "data: " for line in body.decode().split("\n") if line)
    found = [json.loads(frame.data) for frame in Decoder().feed(body)]
    assert [found[0]["type"], found[0]["threadId"]] == ["RUN_STARTED", "thread-1"]
    opened: List[Any] = []
    for event in found[1:-1]:
        assert None not in event.values()
        kind, _, step = event["type"].rpartition("_")
        mark = (kind, event.get("messageId"))
        if step == "START":
            assert kind in OPENED
            opened.append(mark)
        elif step == "CONTENT":
            assert opened[-1] == mark
            assert event["delta"] != ""
        else:
            assert (step, opened.pop()) == ("END", mark)
    last = found[-1]
    assert last["type"] in ("RUN_FINISHED", "RUN_ERROR")
    if last["type"] == "RUN_FINISHED":
        assert (opened, last["outcome"]) == ([], {"type": "success"})
    return found


@pytest.mark.parametrize(("frames", "name"), [(FRAMES, "whole"), (OLD, "old")])
def test_a_reply_is_as_in_the_file(frames: AGUIFrames, name: str) -> None:
    """Clients of 0.0.42 reject the names of thoughts that 1.0 has."""
    usage = Usage(7, prompt_tokens=3, completion_tokens=4)
    items: List[Item] = [Thought("hm"), Thought("m\n"), "one ", "zwölf \u2028", Thought("so")]
    whole = stream(TURN, frames, *items, "end", usage, Finish("length"))
    check(f"ag_ui_{name}.txt", whole)
    events(whole)


def test_a_failure_is_as_in_the_file() -> None:
    """It may come while a message is open."""
    failed = stream(TURN, FRAMES, "half ", error=ChatError("No more", code="own_code"))
    check("ag_ui_failed.txt", failed)
    events(failed)


@pytest.mark.parametrize("error", [None, ChatError("no")])
def test_a_reply_without_text_begins_and_ends(error: Optional[ChatError]) -> None:
    """There is no message in it, but a run."""
    found = events(stream(TURN, FRAMES, error=error))
    assert [event["type"] for event in found[1:]] == ["RUN_ERROR" if error else "RUN_FINISHED"]


@given(st.lists(st.text().map(Thought) | st.text(), max_size=12), st.booleans())
def test_any_reply_is_in_an_order_that_clients_take(items: List[Item], new: bool) -> None:
    """A message is closed before the next thing opens, and nothing is empty."""
    found = events(stream(TURN, FRAMES if new else OLD, *items))
    thoughts = "REASONING_MESSAGE_CONTENT" if new else "THINKING_TEXT_MESSAGE_CONTENT"
    for kind, pieces in (
        ("TEXT_MESSAGE_CONTENT", [item for item in items if isinstance(item, str)]),
        (thoughts, [item.text for item in items if isinstance(item, Thought)]),
    ):
        told = "".join(event["delta"] for event in found if event["type"] == kind)
        assert told == "".join(pieces)


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        (Usage(7), {"totalTokens": 7}),
        (Usage(7, prompt_tokens=3), {"inputTokens": 3, "outputTokens": 1, "totalTokens": 4}),
        (Usage(7, 3, 4), {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}),
        (Usage(2**60), {"totalTokens": 2**53 - 1}),
    ],
)
def test_usage_is_in_numbers_that_clients_take(usage: Usage, told: Dict[str, int]) -> None:
    """Null for one that is unknown rejects the run, and so does a number above 2^53."""
    *_, finished = events(stream(TURN, FRAMES, "text", usage))
    assert finished["usage"] == [told]


def test_each_reply_has_ids_of_its_own() -> None:
    """Clients know messages by them."""
    request = decode(messages=[{"role": "user", "content": "hi"}], runId="run-1")
    assert request.frames(TURN).text(1) != request.frames(TURN).text(1)
    frames = request.frames(TURN)
    assert frames.text(1) == frames.text(1)  # a send may be cancelled, and made anew
    assert frames.text(1) != frames.text(2)


# Requests


def test_a_conversation_of_an_agent() -> None:
    """As HttpAgent of 1.0 sends it, with messages of all roles."""
    request = decode(
        threadId="thread-1",
        runId="run-1",
        protocolVersion="1.0",
        state={},
        messages=[
            {"id": "1", "role": "system", "content": "Be kind."},
            {"id": "2", "role": "developer", "content": "Be brief."},
            {"id": "3", "role": "user", "content": "hi"},
            {"id": "4", "role": "reasoning", "content": "hm"},
            {"id": "5", "role": "assistant", "content": "hello"},
            {"id": "6", "role": "assistant", "toolCalls": [{"id": "t"}]},
            {"id": "7", "role": "tool", "content": "42", "toolCallId": "t"},
            {"id": "8", "role": "activity", "activityType": "plan", "content": {}},
            {"id": "9", "role": "user", "content": [{"type": "text", "text": "more"}]},
        ],
        tools=[],
        context=[],
        forwardedProps={"temperature": 0.5},
    )
    assert (request.message, request.conversation_id) == ("more", "thread-1")
    assert request.history == (Message("user", "hi"), Message("assistant", "hello"))
    assert request.system == "Be kind.\n\nBe brief."
    assert dict(request.parameters) == {"temperature": 0.5}
    thoughts = request.frames(TURN).thought(1)
    assert b"REASONING_MESSAGE_CONTENT" in thoughts.before


def test_a_client_before_1_0_tells_no_version() -> None:
    """So it gets the names that it knows."""
    request = decode(messages=[{"role": "user", "content": "hi"}], forwardedProps=None)
    assert b"THINKING_TEXT_MESSAGE_CONTENT" in request.frames(TURN).thought(1).before
    assert dict(request.parameters) == {}


def test_the_run_and_the_thread_come_back() -> None:
    """Whatever characters they have; a client that sends none gets new ones."""
    message = {"role": "user", "content": "hi"}
    request = decode(messages=[message], threadId='a"b', runId="c\\d")
    turn = Turn("hi", 'a"b', "request-1")
    started = json.loads(request.frames(turn).start()[len("data: ") :])
    assert (started["threadId"], started["runId"]) == ('a"b', "c\\d")
    runs = {decode(messages=[message]).frames(TURN).start() for _ in range(2)}
    assert len(runs) == 2


IMAGE = {"type": "image", "source": {"type": "url", "value": "data:,"}}


def test_a_part_that_is_no_text_is_refused_unless_the_responder_takes_it() -> None:
    """Nobody is to believe that a picture was seen."""
    message = {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]}
    body = json.dumps({"messages": [message]}).encode()
    with pytest.raises(InvalidFields, match=r"messages\[0\]\.content\[1\]: .*'image' is not taken"):
        DIALECT.decode(body, {})
    request = make_dialect("ag_ui", Settings(), ["image"]).decode(body, {})
    assert (request.message, request.parts) == ("look", (IMAGE,))


def test_all_wrong_fields_are_named() -> None:
    """People who write a client by hand read it."""
    with pytest.raises(InvalidFields) as refused:
        decode(threadId="", runId=1, messages=[{"role": "user", "content": {}}, {}])
    assert refused.value.message == (
        "threadId: must be 1 to 128 visible ASCII characters; runId: must be a string, not a "
        "number; messages[0].content: must be a string or an array, not an object; "
        "messages[1].role: must be a string"
    )


def test_a_refusal_has_a_code() -> None:
    """A client has it as the payload of its error."""
    refused = DIALECT.refusal(InvalidFields("no"))
    assert refused == (b'{"code":"validation_error","message":"no"}', "application/json")


@given(st.binary() | st.text().map(str.encode) | ui_bodies("content"))
def test_any_body_is_a_request_or_is_refused_in_words(body: bytes) -> None:
    """Nothing else is raised, whatever comes from outside."""
    judged = judged_request(DIALECT, body)
    if isinstance(judged, RequestError):
        assert judged.status in (400, 422)
        assert 0 < len(judged.message) < 3_000
    else:
        assert judged.message.strip()
        assert all(message.content.strip() for message in judged.history or ())

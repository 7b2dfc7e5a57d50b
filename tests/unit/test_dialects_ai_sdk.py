"""The AI SDK's format: bodies to requests, replies to the chunks that its clients take."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import ChatError, Finish, Message, Settings, Thought, Turn, Usage
from omniforge_chat.core.responder import Item
from omniforge_chat.core.sse import Decoder
from omniforge_chat.dialects import Request, make_dialect
from omniforge_chat.dialects.ai_sdk import AISDKFrames
from omniforge_chat.errors import InvalidFields, RequestError

from ..support.golden import check, stream
from ..support.requests import judged_request, ui_bodies

TURN = Turn("hi", "chat-1", "request-1", dialect="ai_sdk")
FRAMES = AISDKFrames("chat-1", "msg-1")
DIALECT = make_dialect("ai_sdk", Settings())

REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "other"}
"""Any other word fails the whole chat in `ai` 5 and 6."""


def decode(**fields: Any) -> Request:
    return DIALECT.decode(json.dumps(fields).encode(), {})


def said(role: str, *texts: str) -> Dict[str, Any]:
    return {"id": "m", "role": role, "parts": [{"type": "text", "text": text} for text in texts]}


# Replies


def chunks(body: bytes) -> List[Dict[str, Any]]:
    """The chunks of a stream, in an order that useChat takes, and all closed if it has finished."""
    frames = [frame.data for frame in Decoder().feed(body)]
    assert frames[-1] == "[DONE]"
    found = [json.loads(data) for data in frames[:-1]]
    assert found[0]["type"] == "start"
    opened: List[str] = []
    used: List[str] = []
    for chunk in found[1:]:
        kind, _, step = chunk["type"].rpartition("-")
        assert None not in chunk.values()
        if step == "start":
            assert chunk["id"] not in used
            opened.append(chunk["id"])
            used.append(chunk["id"])
        elif step == "delta":
            assert (kind in ("text", "reasoning"), chunk["id"] in opened) == (True, True)
            assert chunk["delta"]
        elif step == "end":
            opened.remove(chunk["id"])
    last = found[-1]
    assert last["type"] in ("finish", "error")
    if last["type"] == "finish":
        assert opened == []
        assert last["finishReason"] in REASONS
    return found


def test_a_reply_is_as_in_the_file() -> None:
    """Text, thoughts between, usage and reason; line ends of Unicode are escaped."""
    usage = Usage(7, prompt_tokens=3, completion_tokens=4)
    items: List[Item] = [
        Thought("hm"),
        Thought("m\n"),
        "one ",
        "zwölf \u2028",
        Thought("so"),
        "end",
    ]
    whole = stream(TURN, FRAMES, *items, usage, Finish("content_filter"))
    check("ai_sdk_whole.txt", whole)
    chunks(whole)


def test_a_failure_is_as_in_the_file() -> None:
    """The format has no place for a code, so the metadata bring it before the error."""
    failed = stream(TURN, FRAMES, "half ", error=ChatError("No more", code="own_code"))
    check("ai_sdk_failed.txt", failed)
    chunks(failed)


@pytest.mark.parametrize("error", [None, ChatError("no")])
def test_a_reply_without_text_begins_and_ends(error: Any) -> None:
    """Without `start` its message would have no id, and without `[DONE]` it was cut."""
    types = [chunk["type"] for chunk in chunks(stream(TURN, FRAMES, error=error))]
    assert types == (["start", "message-metadata", "error"] if error else ["start", "finish"])


@given(st.text(max_size=20) | st.sampled_from(["stop", "length", "content_filter", "tool_calls"]))
def test_every_reason_is_one_that_clients_know(reason: str) -> None:
    """The responder's own word is in the metadata."""
    *_, finish = chunks(stream(TURN, FRAMES, "text", Finish(reason)))
    assert finish["messageMetadata"]["finish_reason"] == reason
    known = {"stop": "stop", "length": "length"}
    known.update(content_filter="content-filter", tool_calls="tool-calls")
    assert finish["finishReason"] == known.get(reason, "other")


@given(st.lists(st.text().map(Thought) | st.text(), max_size=12))
def test_any_reply_is_in_an_order_that_clients_take(items: List[Item]) -> None:
    """A delta before its part was started fails the whole chat."""
    found = chunks(stream(TURN, FRAMES, *items))
    for kind, pieces in (
        ("text-delta", [item for item in items if isinstance(item, str)]),
        ("reasoning-delta", [item.text for item in items if isinstance(item, Thought)]),
    ):
        told = "".join(chunk["delta"] for chunk in found if chunk["type"] == kind)
        assert told == "".join(pieces)


def test_each_reply_has_an_id_of_its_own() -> None:
    """useChat knows messages by it; the client may send one X-Request-ID again and again."""
    request = decode(messages=[said("user", "hi")])
    assert request.frames(TURN).start() != request.frames(TURN).start()
    frames = request.frames(TURN)
    assert frames.start() == frames.start()  # a send may be cancelled, and made anew


# Requests


def test_a_conversation_of_use_chat() -> None:
    """As it is sent for the second message: parts of all kinds, metadata, and a trigger."""
    reply = said("assistant", "one ", "two")
    reply["parts"] += [{"type": "step-start"}, {"type": "reasoning", "text": "hm"}]
    reply["metadata"] = {"usage": {"tokens": 3}}
    request = decode(
        id="Ab3dEf6hIj9kLm2n",
        messages=[said("system", "Be kind."), said("user", "hi"), reply, said("user", "and", "so")],
        trigger="submit-message",
        messageId=None,
        temperature=0.5,
    )
    assert (request.message, request.conversation_id) == ("andso", "Ab3dEf6hIj9kLm2n")
    assert request.history == (Message("user", "hi"), Message("assistant", "one two"))
    assert (request.system, request.regenerate) == ("Be kind.", False)
    assert dict(request.parameters) == {"temperature": 0.5}
    with pytest.raises(TypeError):
        request.parameters["temperature"] = 1  # type: ignore[index] # they are read-only


def test_a_conversation_of_assistant_ui() -> None:
    """Its last message is the reply that is about to come, which is empty."""
    request = decode(
        system="Be kind.",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
            {"role": "user", "content": "more"},
            {"role": "assistant", "content": []},
        ],
        threadId="thread-1",
        tools={},
        runConfig={},
        state=None,
    )
    assert (request.message, request.conversation_id) == ("more", "thread-1")
    assert request.history == (Message("user", "hi"), Message("assistant", "hello"))
    assert request.system == "Be kind.\n\nBe brief."


def test_regenerate_is_told() -> None:
    """The old reply is gone from the messages."""
    request = decode(messages=[said("user", "hi")], trigger="regenerate-message", messageId="m")
    assert request.regenerate
    assert request.conversation_id is None


FILE = {"type": "file", "mediaType": "image/png", "url": "data:,"}


def test_a_part_that_is_no_text_is_refused_unless_the_responder_takes_it() -> None:
    """Nobody is to believe that a picture was seen."""
    message = said("user", "look")
    message["parts"].append(FILE)
    body = json.dumps({"messages": [message]}).encode()
    with pytest.raises(InvalidFields, match=r"messages\[0\]\.parts\[1\]: .*'file' is not taken"):
        DIALECT.decode(body, {})
    request = make_dialect("ai_sdk", Settings(), ["file"]).decode(body, {})
    assert (request.message, request.parts) == ("look", (FILE,))


def test_a_part_of_an_earlier_message_stops_nobody() -> None:
    """The client sends it with each further message, and its user could never go on."""
    refused = said("user", "look")
    refused["parts"].append(FILE)
    request = decode(messages=[refused, said("user", "then without")])
    assert request.history == (Message("user", "look"),)


def test_a_message_of_a_part_alone_is_one() -> None:
    """If the responder takes it."""
    body = json.dumps({"messages": [{"role": "user", "parts": [FILE]}]}).encode()
    request = make_dialect("ai_sdk", Settings(), ["file"]).decode(body, {})
    assert (request.message, request.parts) == ("", (FILE,))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "messages: must be an array"),
        ({"messages": []}, "messages: the last one must be the user's"),
        ({"messages": [said("assistant", "hi")]}, "messages: the last one must be the user's"),
        ({"messages": [said("user", " \n")]}, "messages[0].parts: must not be empty"),
        ({"messages": [{"role": "user"}]}, "messages[0].parts: must not be empty"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content: must be a string or",
        ),
        ({"messages": [said("user", "hi")], "id": "ä"}, "id: must be 1 to 128 visible ASCII"),
        (
            {"messages": [said("user", "hi")], "threadId": 3},
            "threadId: must be a string, not a num",
        ),
    ],
)
def test_a_wrong_field_is_named(fields: Any, words: str) -> None:
    """People who write a client by hand read it."""
    with pytest.raises(InvalidFields) as refused:
        decode(**fields)
    assert refused.value.message.startswith(words)


def test_all_wrong_fields_are_named_but_not_without_end() -> None:
    """A body of a mebibyte has room for many, and the answer is not to be larger."""
    with pytest.raises(InvalidFields) as refused:
        decode(id=1, system=[], trigger={}, messages=[None, {"role": 3}, *[7] * 50_000])
    message = refused.value.message
    for field in ("id", "system", "trigger", "messages[0]", "messages[1].role", "messages[2]"):
        assert f"{field}: must be" in message
    assert message.endswith("; and more")
    assert len(message) < 2_000


def test_a_refusal_is_plain_text() -> None:
    """useChat shows the body as it is to its user."""
    refused = DIALECT.refusal(InvalidFields("messages: must be an array"))
    assert refused == (b"messages: must be an array", "text/plain; charset=utf-8")


@given(st.binary() | st.text().map(str.encode) | ui_bodies("parts", "content"))
def test_any_body_is_a_request_or_is_refused_in_words(body: bytes) -> None:
    """Nothing else is raised, whatever comes from outside."""
    judged = judged_request(DIALECT, body)
    if isinstance(judged, RequestError):
        assert judged.status in (400, 422)
        assert 0 < len(judged.message) < 3_000
    else:
        assert judged.message.strip()
        assert all(message.content.strip() for message in judged.history or ())

"""OpenAI's format: bodies to requests, replies to the chunks and documents that clients take."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import ChatError, Finish, Message, Settings, Thought, Turn, Usage
from omniforge_chat.core.responder import Item
from omniforge_chat.core.sse import Decoder
from omniforge_chat.dialects import Request, make_dialect
from omniforge_chat.dialects.openai import OpenAIDocument, OpenAIFrames
from omniforge_chat.dialects.openai_shapes import Completion, CompletionChunk, CompletionFailure
from omniforge_chat.errors import (
    ConversationBusy,
    InvalidFields,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RequestError,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from omniforge_chat.models import Done, Error

from ..support.golden import check, stream
from ..support.requests import judged_request, texts, values

TURN = Turn("hi", "talk-1", "request-1", dialect="openai")
DIALECT = make_dialect("openai", Settings())
USER = {"role": "user", "content": "hi"}


def frames(*, with_usage: bool = False, model: str = "any/model") -> OpenAIFrames:
    return OpenAIFrames("chatcmpl-1", 1_700_000_000, model, with_usage=with_usage)


def decode(*messages: Any, headers: Optional[Dict[bytes, bytes]] = None, **fields: Any) -> Request:
    body = {"model": "m", "messages": messages, **fields}
    return DIALECT.decode(json.dumps(body).encode(), headers or {})


# Replies


def chunks(body: bytes) -> List[CompletionChunk]:
    """The chunks of a stream that is complete, in the order that clients take."""
    *found, last = [frame.data for frame in Decoder().feed(body)]
    assert last == "[DONE]"
    return [msgspec.json.decode(data, type=CompletionChunk, strict=True) for data in found]


ITEMS: List[Item] = [Thought("hm"), Thought("m\n"), "one ", "zwölf \u2028", Thought("so"), "end"]
COUNTED = Usage(7, prompt_tokens=3, completion_tokens=4)


@pytest.mark.parametrize(("with_usage", "name"), [(False, "whole"), (True, "usage")])
def test_a_reply_is_as_in_the_file(with_usage: bool, name: str) -> None:
    """The usage comes only if it was asked for; the other chunks say null then."""
    whole = stream(TURN, frames(with_usage=with_usage), *ITEMS, COUNTED, Finish("length"))
    check(f"openai_{name}.txt", whole)
    chunks(whole)


def test_a_failure_is_as_in_the_file() -> None:
    """Behind the text before it, and nothing follows: clients take `[DONE]` for a good end."""
    failed = stream(TURN, frames(), "half ", error=ChatError("No more", code="own_code"))
    check("openai_failed.txt", failed)


def test_a_document_is_as_in_the_file() -> None:
    """A reply that is not streamed, with thoughts, and one that failed."""
    document = OpenAIDocument("chatcmpl-1", 1_700_000_000, 'm"\u2028')
    told = document.done(Done("talk-1", COUNTED, "length"), "zwölf \u2028", "hm")
    check("openai_document.txt", told + b"\n" + document.error(Error("own_code", "No"), 500))
    msgspec.json.decode(told, type=Completion, strict=True)


def test_no_frame_has_an_id_or_a_time_to_retry() -> None:
    """After one, openai of PyPI decodes each blank line as JSON, and fails."""
    whole = stream(TURN, frames(with_usage=True), *ITEMS, COUNTED)
    for line in whole.decode().split("\n"):
        assert line == "" or line.startswith("data: ")


def test_the_first_chunk_has_the_role_and_the_one_behind_the_text_has_the_reason() -> None:
    """Helpers of openai of npm and of PyPI raise without."""
    first, *pieces, last = chunks(stream(TURN, frames(), "one ", "two"))
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [piece.choices[0].delta.content for piece in pieces] == ["one ", "two"]
    reasons = [chunk.choices[0].finish_reason for chunk in (first, *pieces, last)]
    assert reasons == [None, None, None, "stop"]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in (first, *pieces, last)} == {
        ("chatcmpl-1", 1_700_000_000, "any/model")
    }


def test_a_reply_without_text_begins_and_ends() -> None:
    """With both of them."""
    first, last = chunks(stream(TURN, frames()))
    assert (first.choices[0].delta.role, last.choices[0].finish_reason) == ("assistant", "stop")


@given(
    st.text(max_size=20)
    | st.sampled_from(["stop", "length", "content_filter", "tool_calls", "function_call"])
)
def test_every_reason_is_one_that_clients_know(reason: str) -> None:
    """Clients that check the document refuse any other."""
    *_, last = chunks(stream(TURN, frames(), "text", Finish(reason)))
    told = last.choices[0].finish_reason
    known = ("stop", "length", "content_filter", "tool_calls", "function_call")
    assert told == (reason if reason in known else "stop")
    done = OpenAIDocument("c", 1, "m").done(Done("talk-1", Usage(1), reason), "text", "")
    assert json.loads(done)["choices"][0]["finish_reason"] == told


@given(st.lists(st.text().map(Thought) | st.text(), max_size=12), texts, st.booleans())
def test_any_reply_of_any_model_is_chunks(items: List[Item], model: str, with_usage: bool) -> None:
    """A line is a line to everybody, whatever the client has called the model."""
    try:
        made = frames(model=model, with_usage=with_usage)
    except UnicodeEncodeError:
        return  # it cannot come out of a body
    body = stream(TURN, made, *items)
    assert body.decode().splitlines() == body.decode().split("\n")[:-1]
    found = chunks(body)
    deltas = [choice.delta for chunk in found for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "".join(
        item for item in items if isinstance(item, str)
    )
    assert "".join(delta.reasoning_content or "" for delta in deltas) == "".join(
        item.text for item in items if isinstance(item, Thought)
    )
    assert {chunk.model for chunk in found} == {model}


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        (Usage(7), (0, 7, 7)),
        (Usage(7, 3, 4), (3, 4, 7)),
        (Usage(9, 3, 4), (3, 4, 9)),
        (Usage(5, 3, 4), (3, 4, 7)),
        (Usage(7, completion_tokens=4), (3, 4, 7)),
        (Usage(7, prompt_tokens=3), (3, 1, 4)),
        (None, (0, 1, 1)),
    ],
)
def test_usage_is_in_three_numbers(usage: Optional[Usage], told: Any) -> None:
    """Clients want all three. If only the sum is known, it is the completion's."""
    items: List[Item] = ["text", *([usage] if usage else [])]
    *others, last = chunks(stream(TURN, frames(with_usage=True), *items))
    assert last.choices == []
    assert isinstance(last.usage, msgspec.Struct)
    assert msgspec.structs.astuple(last.usage) == told
    assert [chunk.usage for chunk in others] == [None] * len(others)


def test_usage_that_nobody_asked_for_is_not_sent() -> None:
    """No chunk is without a choice: many clients read the first one of each."""
    found = chunks(stream(TURN, frames(), "text", COUNTED))
    assert {(chunk.usage, len(chunk.choices)) for chunk in found} == {(msgspec.UNSET, 1)}


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ChatError("No"), "server_error", "processing_error"),
        (ChatError("No", code="own_code"), "server_error", "own_code"),
        (ValueError("secret"), "server_error", "processing_error"),
        (UpstreamTimeout("No"), "server_error", "upstream_timeout"),
        (UpstreamRateLimited("No"), "rate_limit_error", "upstream_rate_limited"),
    ],
)
def test_a_failure_has_a_type_and_a_code(error: Exception, kind: str, code: str) -> None:
    """In an object: of a text, openai of PyPI loses the message, and the AI SDK refuses it."""
    *_, last = Decoder().feed(stream(TURN, frames(), "half", error=error))
    told = msgspec.json.decode(last.data, type=CompletionFailure, strict=True).error
    assert (told.type, told.code, told.param) == (kind, code, None)
    assert json.loads(last.data)["error"]["param"] is None


def test_each_reply_has_an_id_of_its_own() -> None:
    """Some clients replace a message that has the same, and may send one X-Request-ID again."""
    request = decode(USER, stream=True)
    assert request.frames(TURN).start() != request.frames(TURN).start()
    made = request.frames(TURN)
    assert made.start() == made.start()  # a send may be cancelled, and made anew


# Requests


def test_a_conversation_of_openai() -> None:
    """With all roles, contents of all kinds, and fields that nobody here knows."""
    request = decode(
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "t"}]},
        {"role": "tool", "content": "42", "tool_call_id": "t"},
        {"role": "assistant", "content": "hello", "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("and", "more")]},
        stream=True,
        stream_options={"include_usage": True, "new": 1},
        temperature=0.5,
        tools=[],
        user="u",
    )
    assert (request.message, request.conversation_id) == ("andmore", None)
    assert request.history == (Message("user", "hi"), Message("assistant", "hello"))
    assert (request.system, request.whole) == ("Be kind.\n\nBe brief.", False)
    assert dict(request.parameters) == {"model": "m", "temperature": 0.5, "tools": [], "user": "u"}
    with pytest.raises(TypeError):
        request.parameters["temperature"] = 1  # type: ignore[index] # they are read-only
    last = chunks(stream(TURN, request.frames(TURN), "text"))[-1]
    assert last.usage


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream": None}])
def test_a_request_without_stream_is_for_a_document(fields: Any) -> None:
    """LangChain's `invoke` and the makers of titles ask so."""
    request = decode(USER, stream_options=None, **fields)
    assert request.whole
    told = request.document(TURN).done(Done("talk-1", Usage(1)), "text", "")
    assert json.loads(told)["choices"][0]["message"] == {
        "content": "text",
        "role": "assistant",
        "refusal": None,
    }


def test_a_document_that_failed_is_not_to_be_asked_for_again() -> None:
    """The packages of OpenAI do so after 429 and 5xx, and a second reply costs as the first."""
    for status in (500, 502, 504):
        assert (b"x-should-retry", b"false") in decode(USER).document(TURN).headers(status)
    for status in (200, 429, 503):
        assert not decode(USER).document(TURN).headers(status)


def test_the_conversation_is_in_a_header() -> None:
    """The body has no place for it. An empty one is that of a template that found nothing."""
    assert decode(USER, headers={b"x-conversation-id": b"a/b:1"}).conversation_id == "a/b:1"
    assert decode(USER, headers={b"x-conversation-id": b""}).conversation_id is None
    for wrong in (b"a b", b"x" * 129, "é".encode(), b"\xff"):
        with pytest.raises(InvalidFields, match="X-Conversation-ID: must be 1 to 128 visible"):
            decode(USER, headers={b"x-conversation-id": wrong})


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def test_a_part_that_is_no_text_is_refused_unless_the_responder_takes_it() -> None:
    """Nobody is to believe that a picture was seen."""
    message = {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]}
    words = r"messages\[0\]\.content\[1\]: .*'image_url' is not taken"
    with pytest.raises(InvalidFields, match=words):
        decode(message)
    body = json.dumps({"model": "m", "messages": [message]}).encode()
    request = make_dialect("openai", Settings(), ["image_url"]).decode(body, {})
    assert (request.message, request.parts) == ("look", (IMAGE,))


@pytest.mark.parametrize("model", ["gpt-4o", "a/b", 'a"b\\\u2028', "é" * 256])
def test_any_name_of_a_model_comes_back(model: str) -> None:
    """deep-chat asks for `gpt-4o` if it is told nothing."""
    request = decode(USER, model=model, stream=True)
    assert chunks(stream(TURN, request.frames(TURN)))[0].model == model
    whole = request.document(TURN).done(Done("talk-1", Usage(1)), "", "")
    assert json.loads(whole)["model"] == model


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": None}, "model: must be a string"),
        ({"model": 4}, "model: must be a string, not a number"),
        ({"model": ""}, "model: must have 1 to 256 characters"),
        ({"model": "m" * 257}, "model: must have 1 to 256 characters"),
        ({"messages": None}, "messages: must be an array"),
        ({"messages": []}, "messages: the last one must be the user's"),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "tool", "content": "4"}]},
            "messages: the last one must be the user's",
        ),
        (
            {"messages": [{"role": "usr", "content": "?"}, {"role": "user", "content": "?"}]},
            "messages[0].role: must be one of system, developer, user, assistant, tool, function, "
            "not 'usr'",
        ),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "messages: the last one"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content: must not be"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content: must not be"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content: must be a"),
        ({"stream": "yes"}, "stream: must be a boolean, not a string"),
        ({"stream_options": []}, "stream_options: must be an object, not an array"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage: must be a bool"),
    ],
)
def test_a_wrong_field_is_named(fields: Any, words: str) -> None:
    """People who write a client by hand read it."""
    with pytest.raises(InvalidFields) as refused:
        decode(USER, **fields)
    assert refused.value.message.startswith(words)


def test_all_wrong_fields_are_named() -> None:
    """Once each, in one message."""
    with pytest.raises(InvalidFields) as refused:
        decode(3, {}, model=[], stream=1, headers={b"x-conversation-id": b" "})
    assert refused.value.message == (
        "model: must be a string, not an array; stream: must be a boolean, not a number; "
        "X-Conversation-ID: must be 1 to 128 visible ASCII characters; "
        "messages[0]: must be an object, not a number; messages[1].role: must be a string"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidFields("no"), "invalid_request_error"),
        (NotFound("no"), "invalid_request_error"),
        (ConversationBusy("no"), "invalid_request_error"),
        (PayloadTooLarge("no"), "invalid_request_error"),
        (Overloaded("no"), "server_error"),
    ],
)
def test_a_refusal_is_in_their_shape(error: RequestError, kind: str) -> None:
    """Or the exception has the whole body as its text, and no code."""
    body, media_type = DIALECT.refusal(error)
    told = {"message": "no", "type": kind, "code": error.code, "param": None}
    assert (json.loads(body), media_type) == ({"error": told}, "application/json")


def test_a_number_beyond_all_is_named_as_such() -> None:
    """It is JSON, and so the body is an object."""
    for number in (b"1e999", b"[-1e999]", b"9" * 5_000):
        judged = judged_request(DIALECT, b'{"model":"m","seed":%b}' % number)
        assert isinstance(judged, RequestError)
        assert (judged.status, judged.message) == (400, "body: a number is too large")


_part = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["text", "image_url"]) | values, "text": texts | values}
)
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | values},
    optional={"content": texts | st.lists(_part | values, max_size=3) | values},
)
_bodies = st.fixed_dictionaries(
    {
        "model": st.just("m") | values,
        "messages": st.lists(_message | values, max_size=4) | values,
    },
    optional={
        "stream": st.booleans() | values,
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": values}) | values,
        "temperature": values,
    },
).map(lambda fields: json.dumps(fields).encode())


@given(st.binary() | st.text().map(str.encode) | _bodies)
def test_any_body_is_a_request_or_is_refused_in_words(body: bytes) -> None:
    """Nothing else is raised, whatever comes from outside."""
    judged = judged_request(DIALECT, body)
    if isinstance(judged, RequestError):
        assert judged.status in (400, 422)
        assert 0 < len(judged.message) < 3_000
        json.loads(DIALECT.refusal(judged)[0])
    else:
        assert judged.message.strip()
        assert all(message.content.strip() for message in judged.history or ())
        chunks(stream(TURN, judged.frames(TURN), "text"))


@given(st.binary(max_size=20))
def test_any_header_is_an_id_or_is_refused(header: bytes) -> None:
    """Servers pass on what they get."""
    body = json.dumps({"model": "m", "messages": [USER]}).encode()
    try:
        told = DIALECT.decode(body, {b"x-conversation-id": header}).conversation_id
    except InvalidFields:
        return
    assert (told or "").encode() == header

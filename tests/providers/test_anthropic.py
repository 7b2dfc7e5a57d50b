"""What is peculiar to Anthropic's messages, and to the servers that speak them."""

from __future__ import annotations

from typing import Any

import pytest

from omniforge_chat import Usage
from omniforge_chat.responders.providers.anthropic import AnthropicResponder, MessageReader

from ..support.relay import COUNTED, TURN, read
from ..support.wires import ANTHROPIC, KEY, frame


def event(name: str, **fields: Any) -> bytes:
    return frame({"type": name, **fields}, name)


def test_what_is_no_text_is_passed_over() -> None:
    """Thinking, tools, pings, and whatever a later version adds, whatever it looks like."""
    parts = [
        event("content_block_delta", delta={"type": "thinking_delta", "thinking": "hm"}),
        event("content_block_delta", delta={"type": "signature_delta", "signature": "s"}),
        event("content_block_delta", delta={"type": "input_json_delta", "partial_json": "{"}),
        event("ping"),
        event("content_block_delta", delta={"type": "later_delta", "text": "no"}),
        event("a_later_event", delta="a string", usage=[]),
        b"event: another\ndata: no JSON\n\n",
        frame({"id": 1}),
        ANTHROPIC.text("Hello"),
    ]
    reader = MessageReader()
    reply = [*ANTHROPIC.opening(), *parts, *ANTHROPIC.finish("end_turn"), ANTHROPIC.end()]
    assert read(reader, *reply) == ["Hello"]
    assert (reader.ended, reader.finish_reason, reader.usage) == (True, "stop", COUNTED)


@pytest.mark.parametrize(
    ("part", "progressed"),
    [
        (event("ping"), False),
        (event("a_later_event"), False),
        (event("content_block_delta", delta={"type": "thinking_delta", "thinking": "hm"}), True),
    ],
)
def test_a_thought_shows_the_model_at_work(part: bytes, progressed: bool) -> None:
    """A ping shows that a server lives, not that its model does."""
    reader = MessageReader()
    assert reader.feed(part) == ""
    assert reader.progressed == progressed


def test_a_lost_start_loses_no_usage() -> None:
    """Seen at llama.cpp: then `message_delta` carries the only one."""
    usage = {"input_tokens": 7, "output_tokens": 5}
    delta = event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    reader = MessageReader()
    assert read(reader, ANTHROPIC.text("Hello"), delta, ANTHROPIC.end()) == ["Hello"]
    assert reader.usage == COUNTED


def test_later_counts_do_not_take_from_earlier_ones() -> None:
    """Each is a total; what one event leaves out another has said."""
    reader = MessageReader()
    read(
        reader,
        *ANTHROPIC.opening(),
        event("message_delta", delta={}, usage={"input_tokens": 4, "output_tokens": 3}),
        event("message_delta", delta={}, usage={"output_tokens": 5}),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 0}),
    )
    assert (reader.usage, reader.finish_reason) == (COUNTED, "stop")


def test_an_empty_reason_is_none() -> None:
    """What is cut after it is cut."""
    reader = MessageReader()
    read(reader, event("message_delta", delta={"stop_reason": ""}, usage={"output_tokens": 1}))
    assert (reader.ended, reader.finish_reason) == (False, None)


def test_usage_without_the_prompt_is_what_it_is() -> None:
    """Nothing is made up for what was not counted."""
    reader = MessageReader()
    read(reader, ANTHROPIC.text("Hello"), *ANTHROPIC.finish("end_turn"))
    assert reader.usage == Usage(5, completion_tokens=5)


def test_the_prompt_is_known_from_the_start() -> None:
    """It is the larger part of most bills, and known where the reply breaks."""
    reader = MessageReader()
    read(reader, *ANTHROPIC.opening())
    assert reader.usage == Usage(7, prompt_tokens=7)


def test_frames_without_names_are_known_by_their_data() -> None:
    """Some gateways drop the line."""
    reply = [*ANTHROPIC.opening(), event("later", delta="no"), *ANTHROPIC.reply("Hello")]
    reader = MessageReader()
    assert read(reader, *(part[part.index(b"data:") :] for part in reply)) == ["Hello"]
    assert (reader.ended, reader.finish_reason, reader.usage) == (True, "stop", COUNTED)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("stop_sequence", "stop"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_use"),
        ("model_context_window_exceeded", "length"),
    ],
)
def test_reasons_are_told_in_one_language(reason: str, shown: str) -> None:
    """A client need not know which provider answers; what has no common word keeps its own."""
    reader = MessageReader()
    read(reader, *ANTHROPIC.reply("x", reason=reason))
    assert reader.finish_reason == shown


def test_a_bare_error_is_one_too() -> None:
    """Seen at llama.cpp, where the provider has an object around it."""
    problem = {"code": 400, "message": "too long", "type": "exceed_context_size_error"}
    reader = MessageReader()
    assert read(reader, ANTHROPIC.text("Hel"), frame(problem, "error")) == ["Hel"]
    assert reader.problem == problem


@pytest.mark.parametrize("path", ["", "/v1", "/v1/"])
def test_the_request_is_as_the_api_demands(path: str) -> None:
    """It refuses what has no version or no limit; a base URL may have the version in it."""
    responder = AnthropicResponder(
        base_url=f"http://h{path}", api_key=KEY, system_prompt="Be brief."
    )
    assert responder.base_url + responder.path() == "http://h/v1/messages"
    assert responder.headers() == {"anthropic-version": "2023-06-01", "x-api-key": KEY}
    assert responder.fields() == {"max_tokens": 4096, "system": "Be brief."}
    assert responder.messages(TURN) == [{"role": "user", "content": "hi"}]

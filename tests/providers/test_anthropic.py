"""What is peculiar to Anthropic's messages, and to the servers that speak them."""

from __future__ import annotations

from typing import Any, List

import pytest

from omniforge_chat import Usage
from omniforge_chat.models import Done

from ..support.harness import CONVERSATION
from ..support.provider import ANTHROPIC, KEY, Provider, Script, frame
from ..support.relay import COUNTED, ask, failed, said


def stream(*parts: bytes) -> Script:
    return lambda call: call.stream(*parts)


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
    reply = [*ANTHROPIC.opening(), *parts, *ANTHROPIC.finish("end_turn"), ANTHROPIC.end()]
    with Provider(stream(*reply)) as provider:
        events = ask(ANTHROPIC.make(provider))
    assert said(events) == ["Hello"]
    assert events[-1] == Done(CONVERSATION, COUNTED, "stop")


def test_a_lost_start_loses_no_usage() -> None:
    """Seen at llama.cpp: then `message_delta` carries the only one."""
    usage = {"input_tokens": 7, "output_tokens": 5}
    reply = [
        ANTHROPIC.text("Hello"),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage),
        ANTHROPIC.end(),
    ]
    with Provider(stream(*reply)) as provider:
        assert ask(ANTHROPIC.make(provider))[-1] == Done(CONVERSATION, COUNTED, "stop")


def test_later_counts_do_not_take_from_earlier_ones() -> None:
    """Each is a total; what one event leaves out another has said."""
    later = [
        event("message_delta", delta={}, usage={"input_tokens": 4, "output_tokens": 3}),
        event("message_delta", delta={}, usage={"output_tokens": 5}),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 0}),
    ]
    with Provider(stream(*ANTHROPIC.opening(), ANTHROPIC.text("Hello"), *later)) as provider:
        assert ask(ANTHROPIC.make(provider))[-1] == Done(CONVERSATION, COUNTED, "stop")


def test_an_empty_reason_is_none() -> None:
    """What is cut after it is cut."""
    empty = event("message_delta", delta={"stop_reason": ""}, usage={"output_tokens": 1})
    with Provider(stream(*ANTHROPIC.opening(), ANTHROPIC.text("Hel"), empty)) as provider:
        assert failed(ask(ANTHROPIC.make(provider))).code == "upstream_error"


def test_usage_without_the_prompt_is_what_it_is() -> None:
    """Nothing is made up for what was not counted."""
    reply = [ANTHROPIC.text("Hello"), *ANTHROPIC.finish("end_turn")]
    with Provider(stream(*reply)) as provider:
        done = ask(ANTHROPIC.make(provider))[-1]
    assert done == Done(CONVERSATION, Usage(5, completion_tokens=5), "stop")


def test_the_prompt_is_known_where_the_reply_breaks() -> None:
    """It is the larger part of most bills; what was said is estimated."""
    with Provider(stream(*ANTHROPIC.opening(), ANTHROPIC.text("x" * 40))) as provider:
        error = failed(ask(ANTHROPIC.make(provider)))
    assert error.usage == Usage(17, prompt_tokens=7, completion_tokens=10, estimated=True)


def test_frames_without_names_are_known_by_their_data() -> None:
    """Some gateways drop the line."""
    reply: List[bytes] = []
    for part in [*ANTHROPIC.reply("Hello"), event("later", delta="no")]:
        reply.append(part[part.index(b"data:") :])
    with Provider(stream(*reply)) as provider:
        events = ask(ANTHROPIC.make(provider))
    assert said(events) == ["Hello"]
    assert events[-1] == Done(CONVERSATION, COUNTED, "stop")


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
    with Provider(stream(*ANTHROPIC.reply("x", reason=reason))) as provider:
        assert ask(ANTHROPIC.make(provider))[-1] == Done(CONVERSATION, COUNTED, shown)


def test_a_bare_error_is_one_too() -> None:
    """Seen at llama.cpp, where the provider has an object around it."""
    problem = {"code": 400, "message": "too long", "type": "exceed_context_size_error"}
    with Provider(stream(ANTHROPIC.text("Hel"), frame(problem, "error"))) as provider:
        events = ask(ANTHROPIC.make(provider))
    assert said(events) == ["Hel"]
    assert failed(events).message == "The model provider rejected the request: too long"


@pytest.mark.parametrize("base_path", ["", "/v1", "/v1/"])
def test_the_request_is_as_the_api_demands(base_path: str) -> None:
    """It refuses what has no version or no limit; a base URL may have the version in it."""
    with Provider(ANTHROPIC.answer("x")) as provider:
        responder = ANTHROPIC.make(
            provider, base_url=provider.url + base_path, system_prompt="Be brief."
        )
        ask(responder)
        call = provider.call()
    assert call.path == "/v1/messages"
    assert call.headers["anthropic-version"] == "2023-06-01"
    assert call.headers["x-api-key"] == KEY
    assert call.body["max_tokens"] == 4096
    assert call.body["system"] == "Be brief."
    assert call.body["messages"] == [{"role": "user", "content": "hi"}]

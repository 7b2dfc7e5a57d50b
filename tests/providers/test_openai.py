"""What is peculiar to OpenAI's chat completions, and to the servers that speak them."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any, AsyncIterator, Dict, List

import httpx
import pytest

from omniforge_chat import Usage
from omniforge_chat.models import Done
from omniforge_chat.responders.providers.openai import OpenAIResponder

from ..support.harness import CONVERSATION, events_of
from ..support.provider import KEY, OPENAI, Provider, Script, frame
from ..support.relay import COUNTED, TURN, ask, failed, said


def stream(*parts: bytes) -> Script:
    return lambda call: call.stream(*parts)


def choice(**fields: Any) -> bytes:
    return frame({"choices": [fields]})


DONE = b"data: [DONE]\n\n"


def test_the_end_mark_is_an_end_also_without_a_reason() -> None:
    """Some servers give none; nothing was cut for that."""
    with Provider(stream(OPENAI.text("Hello"), DONE)) as provider:
        events = ask(OPENAI.make(provider))
    assert said(events) == ["Hello"]
    assert events[-1] == Done(CONVERSATION, Usage(1, estimated=True))


def test_a_reason_is_an_end_also_without_the_end_mark() -> None:
    """Others leave the mark out."""
    with Provider(stream(OPENAI.text("Hello"), *OPENAI.finish("stop"))) as provider:
        assert ask(OPENAI.make(provider))[-1] == Done(CONVERSATION, COUNTED, "stop")


def test_frames_in_all_their_forms_are_read() -> None:
    """Gateways and filters send frames that hold less, or more, than the usual one."""
    parts = [
        frame({"choices": [], "prompt_filter_results": []}),
        frame({"choices": None}),
        choice(index=0, finish_reason=None, content_filter_results={}),
        choice(delta=None),
        choice(delta={"role": "assistant"}),
        choice(delta={"reasoning_content": "hm"}),
        choice(delta={"tool_calls": [{"index": 0}]}),
        choice(index=1, delta={"content": "another choice"}, finish_reason="stop"),
        choice(delta={"content": "I "}),
        choice(delta={"refusal": "cannot"}),
        choice(delta={}, finish_reason="content_filter"),
        DONE,
    ]
    with Provider(stream(*parts)) as provider:
        events = ask(OPENAI.make(provider))
    assert said(events) == ["I ", "cannot"]
    assert events[-1] == Done(CONVERSATION, Usage(2, estimated=True), "content_filter")


def test_an_empty_reason_is_none() -> None:
    """Some servers send one with every frame; what is cut after it is cut."""
    part = choice(index=0, delta={"content": "Hel"}, finish_reason="")
    with Provider(stream(part)) as provider:
        events = ask(OPENAI.make(provider))
    assert said(events) == ["Hel"]
    assert failed(events).code == "upstream_error"


def test_text_in_parts_is_read_and_thoughts_are_not() -> None:
    """Mistral's models that think send both in one list."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [
        choice(delta={"content": [thought]}),
        choice(delta={"content": [thought, {"type": "text", "text": "Hel"}]}),
        choice(delta={"content": [{"type": "text", "text": "l"}, {"type": "text"}, {}]}),
        choice(delta={"content": "o"}, finish_reason="stop"),
    ]
    with Provider(stream(*parts, OPENAI.end())) as provider:
        events = ask(OPENAI.make(provider))
    assert "".join(said(events)) == "Hello"
    assert isinstance(events[-1], Done)


def test_white_space_around_the_data_says_nothing() -> None:
    """Nor do data that are nothing else."""
    parts = [b"data: \n\n", OPENAI.text("Hello"), b"data:  \n\n", b"data: [DONE] \n\n"]
    with Provider(stream(*parts)) as provider:
        events = ask(OPENAI.make(provider))
    assert (said(events), type(events[-1])) == (["Hello"], Done)


def test_usage_with_every_frame_counts_once() -> None:
    """The last one is the reply's; without a sum it is made."""
    parts: List[bytes] = []
    for count in range(1, 4):
        usage = {"prompt_tokens": 7.0, "completion_tokens": count}
        delta = {"index": 0, "delta": {"content": "x"}}
        parts.append(frame({"choices": [delta], "usage": usage}))
    with Provider(stream(*parts, DONE)) as provider:
        assert ask(OPENAI.make(provider))[-1] == Done(CONVERSATION, Usage(10, 7, 3))


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": -1, "completion_tokens": 1}, {"total_tokens": "many"}]
)
def test_usage_that_says_nothing_is_estimated(usage: Dict[str, int]) -> None:
    """An odd count is no reason to fail a reply that is complete."""
    with Provider(stream(OPENAI.text("Hello"), frame({"usage": usage}), DONE)) as provider:
        assert ask(OPENAI.make(provider))[-1] == Done(CONVERSATION, Usage(1, estimated=True))


def test_usage_is_asked_for_unless_that_is_switched_off() -> None:
    """A server that refuses the field is of use without it."""
    with Provider(OPENAI.answer("x")) as provider:
        ask(OPENAI.make(provider))
        ask(OPENAI.make(provider, include_usage=False))
        asked, not_asked = (call.body for call in provider.calls)
    assert asked["stream_options"] == {"include_usage": True}
    assert "stream_options" not in not_asked


def test_the_system_prompt_is_the_first_message() -> None:
    """Before the history, however much of that there is."""
    with Provider(OPENAI.answer("x")) as provider:
        ask(OPENAI.make(provider, system_prompt="Be brief."))
        assert provider.call().path == "/v1/chat/completions"
        assert provider.call().headers["authorization"] == f"Bearer {KEY}"
        assert provider.call().body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ]


@pytest.mark.parametrize(
    "problem",
    [
        frame({"error": {"code": 500, "message": "Context size exceeded", "type": "server_error"}}),
        frame({"error": "Context size exceeded"}),
        frame({"error": {}}),
        frame({"message": "Context size exceeded"}, "error"),
        frame({"object": "error", "message": "Context size exceeded", "code": 500}),
        choice(delta={}, finish_reason="error"),
        choice(delta={}, finish_reason="abort"),  # vLLM
        choice(delta={}, finish_reason="insufficient_system_resource"),  # DeepSeek
    ],
)
def test_an_error_frame_in_all_its_forms_is_the_end(problem: bytes) -> None:
    """Each was seen at some server; a clean end follows it, and sometimes even the end mark."""
    with Provider(stream(OPENAI.text("Hel"), problem, DONE)) as provider:
        events = ask(OPENAI.make(provider))
    assert said(events) == ["Hel"]
    assert failed(events).code == "upstream_error"
    assert failed(events).message == "The model provider failed"


def test_a_rate_limit_in_the_middle_is_known_by_its_number() -> None:
    """Gateways put the status that they got into the frame."""
    problem = frame({"error": {"code": "429", "message": "slow down"}})
    with Provider(stream(OPENAI.text("Hel"), problem)) as provider:
        assert failed(ask(OPENAI.make(provider))).code == "upstream_rate_limited"


def test_openai_itself_is_asked_in_its_own_words() -> None:
    """Its newer models refuse `max_tokens`; other servers know nothing else."""
    sent: List[httpx.Request] = []

    async def pieces() -> AsyncIterator[bytes]:
        yield b"".join(OPENAI.reply("x"))

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, content=pieces())

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            responder = OpenAIResponder(api_key=KEY, max_tokens=9, client=client)
            assert [item async for item in responder(TURN)][:1] == ["x"]

    asyncio.run(main())
    assert str(sent[0].url) == "https://api.openai.com/v1/chat/completions"
    body = json.loads(sent[0].content)
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body
    assert body["model"] == OpenAIResponder.options_type.default_model


def test_an_encryption_that_breaks_is_a_cut() -> None:
    """httpx does not make an error of its own of it, as it does of every other break."""

    async def pieces() -> AsyncIterator[bytes]:
        yield OPENAI.text("Hel")
        raise ssl.SSLError("decryption failed")

    async def main() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=pieces()))
        async with httpx.AsyncClient(transport=transport) as client:
            events = await events_of(TURN, OpenAIResponder(api_key=KEY, client=client))
        assert said(events) == ["Hel"]
        assert failed(events).code == "upstream_error"

    asyncio.run(main())

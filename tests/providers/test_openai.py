"""What is peculiar to OpenAI's chat completions, and to the servers that speak them."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from omniforge_chat import Turn, Usage
from omniforge_chat.responders.providers.openai import CompletionReader, OpenAIResponder

from ..support.constants import CONVERSATION
from ..support.relay import COUNTED, TURN, read
from ..support.wires import KEY, OPENAI, frame


def choice(**fields: Any) -> bytes:
    return frame({"choices": [fields]})


DONE = b"data: [DONE]\n\n"


def test_the_end_mark_is_an_end_also_without_a_reason() -> None:
    """Some servers give none; nothing was cut for that."""
    reader = CompletionReader()
    assert read(reader, OPENAI.text("Hello"), DONE) == ["Hello"]
    assert (reader.ended, reader.finish_reason, reader.problem) == (True, None, None)


def test_a_reason_is_known_also_without_the_end_mark() -> None:
    """Others leave the mark out."""
    reader = CompletionReader()
    read(reader, OPENAI.text("Hello"), *OPENAI.finish("stop"))
    assert (reader.ended, reader.finish_reason, reader.usage) == (False, "stop", COUNTED)


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
    reader = CompletionReader()
    assert read(reader, *parts) == ["I ", "cannot"]
    assert (reader.finish_reason, reader.usage) == ("content_filter", None)


@pytest.mark.parametrize(
    ("part", "progressed"),
    [
        (frame({"choices": []}), False),
        (frame({"usage": {}}), False),
        (b"data: \n\n", False),
        (b":\n\n", False),
        (choice(delta={"reasoning_content": "hm"}), True),
        (choice(index=1, delta={"tool_calls": [{"index": 0}]}), True),
    ],
)
def test_a_frame_with_a_choice_shows_the_model_at_work(part: bytes, progressed: bool) -> None:
    """A thought and a tool do, though they are no text."""
    reader = CompletionReader()
    assert reader.feed(part) == ""
    assert reader.progressed == progressed


def test_an_empty_reason_is_none() -> None:
    """Some servers send one with every frame; what is cut after it is cut."""
    reader = CompletionReader()
    assert reader.feed(choice(index=0, delta={"content": "Hel"}, finish_reason="")) == "Hel"
    assert (reader.ended, reader.finish_reason) == (False, None)


def test_text_in_parts_is_read_and_thoughts_are_not() -> None:
    """Mistral's models that think send both in one list."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [
        choice(delta={"content": [thought]}),
        choice(delta={"content": [thought, {"type": "text", "text": "Hel"}]}),
        choice(delta={"content": [{"type": "text", "text": "l"}, {"type": "text"}, {}]}),
        choice(delta={"content": "o"}, finish_reason="stop"),
    ]
    assert read(CompletionReader(), *parts) == ["Hel", "l", "o"]


def test_white_space_around_the_data_says_nothing() -> None:
    """Nor do data that are nothing else."""
    reader = CompletionReader()
    parts = [b"data: \n\n", OPENAI.text("Hello"), b"data:  \n\n", b"data: [DONE] \n\n"]
    assert read(reader, *parts) == ["Hello"]
    assert (reader.ended, reader.problem) == (True, None)


def test_usage_with_every_frame_counts_once() -> None:
    """The last one is the reply's; without a sum it is made."""
    reader = CompletionReader()
    for count in range(1, 4):
        usage = {"prompt_tokens": 7.0, "completion_tokens": count}
        delta = {"index": 0, "delta": {"content": "x"}}
        assert reader.feed(frame({"choices": [delta], "usage": usage})) == "x"
        assert reader.usage == Usage(7 + count, 7, count)
    known = reader.usage
    reader.feed(frame({"usage": usage}))
    assert reader.usage is known  # which tells the responder that it is no news


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": -1, "completion_tokens": 1}, {"total_tokens": "many"}]
)
def test_usage_that_says_nothing_is_none(usage: Dict[str, int]) -> None:
    """An odd count is no reason to fail a reply that is complete."""
    reader = CompletionReader()
    read(reader, OPENAI.text("Hello"), frame({"usage": usage}), DONE)
    assert (reader.ended, reader.usage, reader.unreadable) == (True, None, "")


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
    reader = CompletionReader()
    assert read(reader, OPENAI.text("Hel"), problem, DONE) == ["Hel"]
    assert reader.problem
    assert reader.finish_reason is None


# The request


def test_usage_is_asked_for_unless_that_is_switched_off() -> None:
    """A server that refuses the field is of use without it."""
    asked = OpenAIResponder(base_url="http://h").fields()
    assert asked == {"stream_options": {"include_usage": True}}
    assert OpenAIResponder(base_url="http://h", include_usage=False).fields() == {}


def test_the_system_prompt_is_the_first_message() -> None:
    """Before the history, however much of that there is."""
    responder = OpenAIResponder(base_url="http://h", system_prompt="Be brief.")
    messages: List[Dict[str, str]] = responder.messages(TURN)
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    assert OpenAIResponder(base_url="http://h").messages(Turn("hi", CONVERSATION, "r")) == [
        {"role": "user", "content": "hi"}
    ]


def test_openai_itself_is_asked_in_its_own_words() -> None:
    """Its newer models refuse `max_tokens`; other servers know nothing else."""
    responder = OpenAIResponder(api_key=KEY, max_tokens=9)
    assert responder.base_url + responder.path() == "https://api.openai.com/v1/chat/completions"
    assert responder.headers() == {"Authorization": f"Bearer {KEY}"}
    fields = responder.fields()
    assert (fields["max_completion_tokens"], fields["model"]) == (9, "gpt-4.1-mini")
    assert "max_tokens" not in fields

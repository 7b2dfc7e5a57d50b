"""What is peculiar to OpenAI's chat completions, and to the servers that speak them."""

from __future__ import annotations

from typing import Dict, List

from omniforge_chat import Turn, Usage
from omniforge_chat.responders.providers.completions import CompletionReader
from omniforge_chat.responders.providers.openai import OpenAIResponder

from ..support.constants import CONVERSATION
from ..support.relay import TURN
from ..support.wires import KEY, frame


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

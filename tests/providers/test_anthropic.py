"""What is peculiar to Anthropic's messages, and to the servers that speak them."""

from __future__ import annotations

import pytest

from omniforge_chat.responders.providers.anthropic import AnthropicResponder

from ..support.relay import TURN
from ..support.wires import KEY


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

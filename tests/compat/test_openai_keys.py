"""The package of OpenAI, as it meets keys and limits."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Iterator, List

import pytest
from starlette.types import Message, Receive, Scope, Send

from omniforge_chat import Settings, create_app
from omniforge_chat.models import Rate

from ..support.missing import missing
from ..support.responders import saying
from ..support.servers import UvicornThread

KEY = "ofk_0123456789abcdef"
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def openai() -> Any:
    """Any, because types are checked also where it is not installed."""
    try:
        return import_module("openai")
    except ModuleNotFoundError:
        missing("openai")


@pytest.fixture
def statuses() -> List[int]:
    """Those of the answers of the service."""
    return []


@pytest.fixture
def server(statuses: List[int]) -> Iterator[UvicornThread]:
    """A service in which a caller may begin one chat in two seconds."""
    settings = Settings(api_keys=f"me:{KEY}", rate_limit=Rate(1, 2), dialects=("openai",))
    chat = create_app(saying("Hello, ", "you."), settings=settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await chat(scope, receive, noted)

    with UvicornThread(app, lifespan="off") as running:
        yield running


def ask(openai: Any, server: UvicornThread, key: str = KEY, *, retries: int = 0) -> str:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries) as client:
        chunks = client.chat.completions.create(model="x", messages=MESSAGES, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_its_api_key_is_the_key_of_the_service(openai: Any, server: UvicornThread) -> None:
    """Nothing else needs to be set; and a wrong one is told as what it is, without a second try."""
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(openai, server, "sesame", retries=2)
    assert caught.value.code == "unauthorized"
    assert caught.value.response.headers["www-authenticate"] == "Bearer"
    assert "sesame" not in str(caught.value)
    assert ask(openai, server) == "Hello, you."


def test_a_limit_is_an_error_of_its_own(openai: Any, server: UvicornThread) -> None:
    """A program catches it by its class, and reads the code and the wait."""
    assert ask(openai, server) == "Hello, you."
    with pytest.raises(openai.RateLimitError) as caught:
        ask(openai, server)
    assert caught.value.code == "rate_limited"
    assert int(caught.value.response.headers["retry-after"]) in (1, 2)
    assert caught.value.response.headers["ratelimit"].startswith('"2s";r=0;t=')


def test_its_own_retry_waits_as_long_as_it_is_told(
    openai: Any, server: UvicornThread, statuses: List[int]
) -> None:
    """Else its one retry came too early: by itself it waits for half a second."""
    assert ask(openai, server) == "Hello, you."
    assert ask(openai, server, retries=1) == "Hello, you."
    assert statuses == [200, 429, 200]

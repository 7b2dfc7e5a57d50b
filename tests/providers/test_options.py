"""The options of a provider: what is refused and in whose words, and what the environment says."""

from __future__ import annotations

import inspect
from typing import Any, Dict, List, Optional

import httpx
import pytest

from omniforge_chat import AnthropicResponder, OpenAIResponder, Settings
from omniforge_chat.responders.providers.anthropic import AnthropicOptions
from omniforge_chat.responders.providers.openai import OpenAIOptions
from omniforge_chat.rules import SettingsError

from ..support.wires import KEY, Wire

ADDRESSES = """
    localhost:8080 ftp://host http://host:port http://256.256.256.256 http://[v1.x] http://xn--a
    http://host/?key=password http://host/#password ftp://host?key=password user:password@host
    http://user:password@host http://user:password@host:port http://user:password@[host
"""
NO_USE: Dict[str, List[Any]] = {
    "base_url": [*ADDRESSES.split(), "http://ho st", b"http://h"],
    "api_key": ["pass\nword", b"password"],
    "model": ["\udcff", 5],
    "system_prompt": ["\udcff"],
    "temperature": [-1, float("nan"), True],
    "max_tokens": [0],
    "max_connections": [True],
    "first_chunk_timeout": [0],
    "idle_timeout": [float("inf")],
    "connect_timeout": ["1", None],
    "extra_headers": [{"X": "password\n"}, {"X": 5}, ["X"]],
    "extra_body": [{"x": object()}, ["pass"], {"x": "pass\udcff"}, {"stream": True}],
    "extra_query": ["a=pass", {"a": None}, {"a": "\udcff"}],
    "include_usage": [1, "off"],
    "max_tokens_field": ["tokens", 5],
    "client": [httpx.Client, httpx.AsyncClient],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in NO_USE.items() for value in values]
)
def test_an_option_of_no_use_is_named(name: str, value: object) -> None:
    """At the start, not with the first message; and no secret is quoted."""
    options: Dict[str, Any] = {"base_url": "http://h", name: value}
    with pytest.raises(SettingsError) as raised:
        OpenAIOptions(**options)
    assert raised.value.name == name
    assert "pass" not in str(raised.value)


def test_a_responder_takes_the_options_as_keywords(wire: Wire) -> None:
    """Type checkers and `help` know them, though they are written once."""
    with pytest.raises(SettingsError, match="model=5: expected text, which is a str"):
        OpenAIResponder(base_url="http://h", model=5)  # type: ignore[arg-type]  # as mypy says too
    with pytest.raises(TypeError, match="modle"):
        OpenAIResponder(modle="m")  # type: ignore[call-arg]  # as mypy says too
    with pytest.raises(TypeError, match="include_usage"):
        AnthropicResponder(include_usage=True)  # type: ignore[call-arg]  # it is OpenAI's
    responder = wire.responder
    assert list(inspect.signature(responder).parameters) == list(
        responder.options_type.__struct_fields__
    )


def test_no_repr_shows_a_key() -> None:
    """Be it a debugger's, a log's or that of rich, which asks in a way of its own."""
    options = OpenAIOptions(api_key=KEY, extra_headers={"X-Api-Key": KEY}, model="m")
    expected = "(base_url='https://api.openai.com/v1', model='m', api_key='***')"
    assert repr(options) == f"OpenAIOptions{expected}"
    assert repr(OpenAIResponder(api_key=KEY, model="m")) == f"OpenAIResponder{expected}"
    assert KEY not in repr(options.__rich_repr__())
    assert "api_key" not in repr(OpenAIOptions(base_url="http://h"))


@pytest.mark.parametrize(
    ("options", "model", "connections"),
    [
        ({"api_key": KEY}, "gpt-4.1-mini", 1000),
        ({"api_key": KEY, "base_url": "https://api.openai.com/v1/"}, "gpt-4.1-mini", 1000),
        ({"base_url": "http://h", "client": httpx.AsyncClient()}, None, 100),
        ({"base_url": "http://h", "model": "m", "max_connections": 7}, "m", 7),
        ({"extra_headers": {"Authorization": "Bearer x"}}, "gpt-4.1-mini", 1000),
    ],
)
def test_what_is_not_given_depends_on_the_rest(
    options: Any, model: Optional[str], connections: int
) -> None:
    """A server of one's own may have one model without a name, and a client a limit of its own."""
    found = OpenAIOptions(**options)
    assert (found.known_model, found.connections) == (model, connections)


@pytest.mark.parametrize(
    ("given", "secrets"),
    [
        ({"Authorization": f"Bearer {KEY}"}, (f"Bearer {KEY}", KEY)),
        ({"authorization": "Basic c2hvcnQx"}, ("Basic c2hvcnQx", "c2hvcnQx")),
        ({"X-Api-Key": "short-key"}, ("short-key",)),
        ({"X-Other": "a-value-that-is-long"}, ("a-value-that-is-long",)),
        ({"X-Version": "2024-01-01"}, ()),
    ],
)
def test_a_secret_is_known_by_its_place(given: Dict[str, str], secrets: Any) -> None:
    """Providers quote keys without the scheme that stood before them, so both are redacted.

    A server of one's own takes anything for a key, and no message would be legible without an `x`.
    """
    assert OpenAIOptions(base_url="http://h", api_key=KEY).secrets == (KEY,)
    assert OpenAIOptions(base_url="http://h", api_key="x").secrets == ()
    assert OpenAIOptions(base_url="http://h", extra_headers=given).secrets == secrets


def test_a_client_of_ones_own_has_secrets_too() -> None:
    """It was set up elsewhere, and sends what it has with every request."""
    headers, params = {"Authorization": f"Bearer {KEY}"}, {"key": "secret-0123"}
    client = httpx.AsyncClient(headers=headers, params=params)
    secrets = OpenAIOptions(base_url="http://h", client=client).secrets
    assert {f"Bearer {KEY}", KEY, "secret-0123"} <= set(secrets)


# The environment


def test_the_environment_describes_a_responder(wire: Wire) -> None:
    """The names are those that the providers' own tools read; an empty variable is absent."""
    prefix = wire.name.upper()
    variables = {
        f"{prefix}_BASE_URL": "http://h/v1/",
        f"{prefix}_API_KEY": KEY,
        f"{prefix}_MODEL": "m",
        "CHAT_SYSTEM_PROMPT": "Be brief.",
        "CHAT_TEMPERATURE": "0.5",
        "CHAT_MAX_TOKENS": "9",
    }
    options = wire.responder.options_type.from_env(variables)
    assert options == wire.responder.options_type(
        base_url="http://h/v1/",
        api_key=KEY,
        model="m",
        system_prompt="Be brief.",
        temperature=0.5,
        max_tokens=9,
    )
    assert repr(wire.responder.from_env(variables)) == (
        f"{wire.responder.__name__}(base_url='http://h/v1', model='m', api_key='***')"
    )


def test_a_server_of_ones_own_needs_neither_key_nor_model(wire: Wire) -> None:
    """It has one model, and asks nobody who they are."""
    responder = wire.responder.from_env({f"{wire.name.upper()}_BASE_URL": "http://h"})
    assert "model" not in responder.fields()
    assert not {"Authorization", "x-api-key"} & set(responder.headers())


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("ANTHROPIC_API_KEY", " ", "=None: expected a key, as https://api."),
        ("ANTHROPIC_BASE_URL", "nowhere", "='***': expected an address such as"),
        ("ANTHROPIC_BASE_URL", "ftp://h", "='ftp://h': expected an address such as"),
        ("ANTHROPIC_MODEL", "\udcff", "='\\udcff': expected text, in UTF-8"),
        ("CHAT_SYSTEM_PROMPT", "\udcff", "='\\udcff': expected text, in UTF-8"),
        ("CHAT_TEMPERATURE", "hot", "='hot': expected a number of at least 0"),
        ("CHAT_TEMPERATURE", "-1", "=-1.0: expected a number of at least 0"),
        ("CHAT_MAX_TOKENS", "1.5", "='1.5': expected a whole number of at least 1"),
        ("CHAT_IDLE_TIMEOUT", "-1", "='-1': expected a number of seconds"),
        ("CHAT_IDLE_TIMEOUT", "long", "='long': expected a number of seconds"),
    ],
)
def test_a_variable_of_no_use_is_named(variable: str, value: str, expected: str) -> None:
    """One clear line, in the words of whoever set it."""
    with pytest.raises(SettingsError) as raised:
        AnthropicOptions.from_env({"ANTHROPIC_API_KEY": KEY, variable: value})
    assert str(raised.value).startswith(variable + expected)


@pytest.mark.parametrize(
    ("variables", "limits", "first", "idle"),
    [
        ({}, None, 50, 50),
        ({"CHAT_FIRST_CHUNK_TIMEOUT": "300", "CHAT_IDLE_TIMEOUT": "120"}, None, 290, 110),
        ({"CHAT_FIRST_CHUNK_TIMEOUT": "0.3"}, None, 0.25, 50),
        ({"CHAT_FIRST_CHUNK_TIMEOUT": "off", "CHAT_IDLE_TIMEOUT": "off"}, None, None, None),
        (
            {"CHAT_IDLE_TIMEOUT": "1"},
            Settings(first_chunk_timeout=0.6, idle_timeout=None),
            0.5,
            None,
        ),
    ],
)
def test_the_limits_follow_those_of_the_service(
    variables: Dict[str, str], limits: Optional[Settings], first: Any, idle: Any
) -> None:
    """One variable is enough for a model that takes its time; and silence is told by its cause."""
    options = OpenAIOptions.from_env({"OPENAI_API_KEY": KEY, **variables}, limits)
    assert options.first_chunk_timeout == (first and pytest.approx(first))
    assert options.idle_timeout == idle

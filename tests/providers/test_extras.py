"""Your own fields, headers and query, from the environment and in code; and tokens of gateways."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Dict, Optional

import pytest

from omniforge_chat import AnthropicResponder
from omniforge_chat.responders.providers.extras import OUR_HEADERS
from omniforge_chat.responders.providers.openai import OpenAIResponder
from omniforge_chat.rules import SettingsError

from ..support.docs import DOCS, blocks
from ..support.provider import Call, Provider, refusing
from ..support.relay import COMPLETE, ask, failed
from ..support.wires import ANTHROPIC, KEY, OPENAI, Wire


def test_the_environment_adds_to_each_request(wire: Wire) -> None:
    """As the keywords do, without a line of code."""
    prefix = wire.name.upper()
    headers = {"X-Team": "red", "content-type": "application/json; charset=utf-8"}
    variables = {
        f"{prefix}_EXTRA_BODY": ' {"top_p": 0.9, "metadata": {"a": [1, null]}, "model": "m2"}\n',
        f"{prefix}_EXTRA_HEADERS": json.dumps(headers),
        f"{prefix}_EXTRA_QUERY": "api-version=2024-10-21&empty=&a+b=%C3%A9%26",
        f"{prefix}_MODEL": "m",
    }
    with Provider(wire.answer("x")) as provider:
        variables[f"{prefix}_BASE_URL"] = provider.url + wire.base_path
        assert ask(wire.responder.from_env(variables))[-1] == COMPLETE
        call = provider.call()
    sent = {name: call.body[name] for name in ("top_p", "metadata", "model", "stream")}
    assert sent == {"top_p": 0.9, "metadata": {"a": [1, None]}, "model": "m2", "stream": True}
    assert call.headers["x-team"] == "red"
    assert call.header_names.count("content-type") == 1
    assert call.path.partition("?")[2] == "api-version=2024-10-21&empty=&a+b=%C3%A9%26"


OBJECT = "expected a JSON object such as "


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("EXTRA_BODY", f"top_p={KEY}", f'{OBJECT}{{"top_p": 0.9}}; JSON is malformed'),
        ("EXTRA_BODY", f'["{KEY}"]', f'{OBJECT}{{"top_p": 0.9}}'),
        ("EXTRA_BODY", f'{{"a": "{KEY}"', f'{OBJECT}{{"top_p": 0.9}}; Input data was truncated'),
        ("EXTRA_BODY", f'{{"{KEY}": NaN}}', f'{OBJECT}{{"top_p": 0.9}}; JSON is malformed'),
        ("EXTRA_BODY", '{"a": "\udcff"}', f'{OBJECT}{{"top_p": 0.9}}; UnicodeEncodeError'),
        ("EXTRA_BODY", "[" * 100_000, f'{OBJECT}{{"top_p": 0.9}}; RecursionError'),
        (
            "EXTRA_BODY",
            f'{{"messages": [], "stream": false, "user": "{KEY}"}}',
            "expected fields other than messages and stream, which the service sets itself",
        ),
        (
            "EXTRA_BODY",
            '{"stream": true}',
            "expected fields other than stream, which the service sets itself",
        ),
        ("EXTRA_HEADERS", f"X-Api-Key: {KEY}", f'{OBJECT}{{"X-Team": "red"}}; JSON is malformed'),
        (
            "EXTRA_HEADERS",
            f'{{"X-Team": "red", "{KEY}": 5}}',
            "expected names and values of visible ASCII, which are str, also in number 2",
        ),
        (
            "EXTRA_HEADERS",
            f'{{"X": "{KEY}\\r\\nX: y"}}',
            "expected names and values of visible ASCII, also in number 1",
        ),
        (
            "EXTRA_HEADERS",
            f'{{"Bearer {KEY}": "x"}}',
            "expected names and values of visible ASCII, also in number 1",
        ),
        ("EXTRA_QUERY", KEY, "expected a query such as api-version=2024-10-21"),
        ("EXTRA_QUERY", f'{{"api-version": "{KEY}"}}', "expected a query such as api-version="),
        ("EXTRA_QUERY", f"a=1&a={KEY}", "expected a query such as api-version="),
        ("EXTRA_QUERY", "a=1&&b", "expected a query such as api-version="),
        ("EXTRA_QUERY", "a=\udcff", "expected text, in UTF-8"),
    ],
)
def test_a_variable_of_no_use_is_named_and_not_quoted(
    name: str, text: str, expected: str, wire: Wire
) -> None:
    """It may hold a key."""
    variable = f"{wire.name.upper()}_{name}"
    with pytest.raises(SettingsError) as raised:
        wire.responder.from_env({f"{wire.name.upper()}_API_KEY": KEY, variable: text})
    assert str(raised.value).startswith(f"{variable}='***': {expected}")
    assert KEY[:12] not in str(raised.value)


@pytest.mark.parametrize("name", OUR_HEADERS)
def test_a_header_that_frames_the_request_is_refused(name: str) -> None:
    """Two lengths, or two hosts, are how requests are smuggled (RFC 9112, section 11.2)."""
    for spelling in (name, name.lower(), name.upper()):
        with pytest.raises(SettingsError) as raised:
            OpenAIResponder(base_url="http://h", extra_headers={"X-Team": "red", spelling: "x"})
        assert str(raised.value) == (
            f"extra_headers='***': expected headers other than {name}, "
            "which the connection sets itself"
        )


@pytest.mark.parametrize("field", ["messages", "stream"])
def test_a_field_of_ours_is_refused_in_code_too(field: str, wire: Wire) -> None:
    """Whoever sets it would wonder why nothing changes."""
    with pytest.raises(SettingsError, match=f"other than {field}, which the service sets itself"):
        wire.responder(base_url="http://h", extra_body={field: None})


def test_the_values_of_headers_and_queries_are_redacted(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """Providers quote the address that was asked. Versions and short values stay legible."""
    caplog.set_level("INFO", "omniforge_chat")
    options: Dict[str, Any] = {
        "extra_headers": {"X-Team": "blue-team", "X-Mode": "fast", "api-key": 'k"y-0123'},
        "extra_query": {"sig": "a b/c&d+e", "api-version": "2024-10-21-preview"},
    }

    async def quote(call: Call) -> None:
        values = [call.headers[name] for name in ("x-team", "x-mode", "api-key")]
        await call.refuse(400, {"error": f"no {call.path} a b/c&d+e {' '.join(values)}"})

    with Provider(quote) as provider:
        message = failed(ask(wire.make(provider, **options))).message
    shown = "?sig=***&api-version=2024-10-21-preview *** *** fast ***"
    assert message.endswith(shown)
    assert shown in caplog.text
    for secret in ("blue-team", "a+b", "a b", "0123", KEY):
        assert secret not in message + "".join(m for m in caplog.messages if "upstream" in m)


# Tokens of gateways


@pytest.mark.parametrize("key", [None, KEY])
def test_a_token_is_sent_in_place_of_the_key(key: Optional[str]) -> None:
    """Gateways take it so; and whoever has both in the environment means the gateway."""
    token = "token-0123456789"
    variables = {"ANTHROPIC_AUTH_TOKEN": token, **({"ANTHROPIC_API_KEY": key} if key else {})}
    assert isinstance(AnthropicResponder.from_env(variables), AnthropicResponder)
    with Provider(ANTHROPIC.answer("x"), refusing(400, {"error": f"what is {token}"})) as provider:
        variables["ANTHROPIC_BASE_URL"] = provider.url
        responder = AnthropicResponder.from_env(variables)
        assert ask(responder)[-1] == COMPLETE
        headers = provider.call().headers
        assert failed(ask(responder)).message.endswith("what is ***")
    assert headers["authorization"] == f"Bearer {token}"
    assert "x-api-key" not in headers
    assert token not in repr(responder)
    assert "auth_token='***'" in repr(responder)


# Azure


def recipe() -> Dict[str, str]:
    """The variables of the recipe for Azure's classic address in docs/providers.md."""
    (code,) = (c for c in blocks(DOCS / "providers.md", "console") if "OPENAI_EXTRA_QUERY" in c)
    exports = re.findall(r"^\$ export (.*)$", code, re.MULTILINE)
    words = [word for line in exports for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words)


def test_the_recipe_for_azures_classic_address_works() -> None:
    """It wants a version in the query, and has a header of its own for the key."""

    async def azure(call: Call) -> None:
        path = "/openai/deployments/DEPLOYMENT/chat/completions?api-version=2024-10-21"
        if call.path != path:
            await call.refuse(404, {"error": {"code": "404", "message": "Resource not found"}})
        elif call.headers.get("api-key") != KEY or "authorization" in call.headers:
            await call.refuse(401, {"error": {"code": "401", "message": "Access denied"}})
        else:
            filtered = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
            await call.stream(filtered, *OPENAI.reply("Hello"))

    variables = recipe()
    OpenAIResponder.from_env(variables)
    with Provider(azure) as provider:
        url = variables["OPENAI_BASE_URL"]
        variables["OPENAI_BASE_URL"] = url.replace("https://NAME.openai.azure.com", provider.url)
        variables["OPENAI_EXTRA_HEADERS"] = variables["OPENAI_EXTRA_HEADERS"].replace(
            "YOUR-KEY", KEY
        )
        responder = OpenAIResponder.from_env(variables)
        assert ask(responder)[-1] == COMPLETE
        assert "model" not in provider.call().body

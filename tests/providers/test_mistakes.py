"""Keys and addresses as people get them wrong: one clear line at the start, without the key."""

from __future__ import annotations

import json
import logging
from typing import Any, Dict, List, Optional

import pytest

from omniforge_chat.responders.providers.anthropic import AnthropicOptions
from omniforge_chat.responders.providers.credentials import fault_of
from omniforge_chat.rules import SettingsError

from ..support.provider import Provider, refusing
from ..support.relay import ask, failed
from ..support.wires import KEY, OPENAI, Wire

ELSEWHERE = "https://gateway.test/v1"
HERE = "http://127.0.0.1:8080/v1"

QUOTED = "a key without quotes around it"
PLACEHOLDER = "a key of your own, as this is a placeholder"

LOOKS_WRONG: Dict[str, List[str]] = {
    QUOTED: [f'"{KEY}"', f"'{KEY}'", f'"{KEY}', f"{KEY}'", f"`{KEY}`", f'"Bearer {KEY}"', '"'],
    "a key alone, without 'Bearer' before it": [f"Bearer {KEY}", f"Bearer  {KEY}"],
    "a key alone, without 'bearer' before it": [f"bearer {KEY}"],
    "a key alone, without 'Authorization: Bearer' before it": [f"Authorization: Bearer {KEY}"],
    "a key alone, without 'api-key:' before it": [f"api-key: {KEY}"],
    "a key alone, without 'x-api-key:' before it": [f"x-api-key:{KEY}"],
    "a key alone, without 'OPENAI_API_KEY=' before it": [f"OPENAI_API_KEY={KEY}"],
    "a key alone, without 'export OPENAI_API_KEY=' before it": [f"export OPENAI_API_KEY={KEY}"],
    "a key without white space in it": [f"{KEY} {KEY}", f"{KEY[:9]} {KEY[9:]}"],
    PLACEHOLDER: [
        *("sk-...", "sk-ant-...", "sk-proj-...", "sk-xxxxxxxx", "sk-ant-XXXX", "sk-****", "..."),
        *("your-api-key", "YOUR_API_KEY", "your_openai_api_key_here", "<your key>", "<key>"),
        *("sk-your-key-here", "${OPENAI_API_KEY}", "$OPENAI_API_KEY", "{{ key }}", "changeme"),
        *("change-me", "replace-with-your-key", "insert-key", "api-key", "my-api-key", "API_KEY"),
        *("sk-placeholder", "xxx", "TODO", "sk-1234567890", "example-key", "%KEY%"),
    ],
}
CANNOT_BE_SENT: Dict[str, List[str]] = {
    "a key on one line, without line ends or tabs in it": [
        *(f"{KEY}{end}{KEY}" for end in ("\n", "\r\n", "\t", "\0", "\u2028", "\x85")),
    ],
    "a key of visible ASCII characters; a quote or a dash may be a typographic one": [
        *(f"\u201c{KEY}\u201d", f"sk\u2013{KEY}", f"{KEY}\u00e9", f"{KEY[:9]}\u00a0{KEY[9:]}"),
        f"\ufeff{KEY}",
    ],
}
RIGHT = [
    *("sk-proj-T3BlbkFJ_x-your9", "sk-ant-api03-abc_DEF-123", "gsk_abc123", "AIzaSyA-x_0", "EMPTY"),
    *("not-needed", "lm-studio", "ollama", "abc=def==", "dapi0123", "a'b\"c", "eyJhbGciOi.J9.x-_"),
]


def pairs(table: Dict[str, List[str]]) -> List[Any]:
    return [(key, expected) for expected, keys in table.items() for key in keys]


def environ(wire: Wire, url: Optional[str], key: str) -> Dict[str, str]:
    prefix = wire.name.upper()
    return {f"{prefix}_API_KEY": key, **({f"{prefix}_BASE_URL": url} if url else {})}


def refused(variables: Dict[str, str], wire: Wire = OPENAI) -> str:
    """The line that ends the start."""
    with pytest.raises(SettingsError) as raised:
        wire.responder.from_env(variables)
    line = str(raised.value)
    assert line.isprintable()
    assert KEY[:9] not in line
    return line


@pytest.mark.parametrize(("key", "expected"), pairs(CANNOT_BE_SENT))
def test_a_key_that_cannot_be_sent_is_refused_everywhere(key: str, expected: str) -> None:
    """No header can have it."""
    for url in (None, ELSEWHERE, HERE):
        line = refused(environ(OPENAI, url, key))
        assert line == f"OPENAI_API_KEY='***': expected {expected}"


@pytest.mark.parametrize(("key", "expected"), pairs(LOOKS_WRONG))
def test_a_key_that_looks_wrong_is_refused_at_the_provider_and_doubted_elsewhere(
    key: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider has given out no such key; a server of your own takes what it likes."""
    for url in (None, "https://eu.api.openai.com/v1", "https://red.openai.azure.com/openai/v1"):
        assert refused(environ(OPENAI, url, key)) == f"OPENAI_API_KEY='***': expected {expected}"
    assert not caplog.records
    OPENAI.responder.from_env(environ(OPENAI, ELSEWHERE, key))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"OPENAI_API_KEY='***': expected {expected};")
    assert KEY[:9] not in record.getMessage()


@pytest.mark.parametrize("key", RIGHT)
def test_a_key_that_may_be_one_is_taken(key: str, caplog: pytest.LogCaptureFixture) -> None:
    """A start that is refused for nothing is worse than a late 401."""
    assert fault_of(key) == ""
    for url in (None, ELSEWHERE, HERE):
        OPENAI.responder.from_env(environ(OPENAI, url, key))
    assert not caplog.records


def test_a_server_on_this_machine_may_have_a_placeholder(caplog: pytest.LogCaptureFixture) -> None:
    """It asks for no key, but some tool wanted one."""
    OPENAI.responder.from_env(environ(OPENAI, HERE, "your-api-key"))
    assert not caplog.records
    OPENAI.responder.from_env(environ(OPENAI, HERE, f'"{KEY}"'))
    assert QUOTED in caplog.text


def test_each_wire_names_its_own_variable(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """In code it is the keyword."""
    name = f"{wire.name.upper()}_API_KEY"
    assert refused(environ(wire, None, f"'{KEY}'"), wire) == f"{name}='***': expected {QUOTED}"
    with pytest.raises(SettingsError, match=r"^api_key='\*\*\*': expected a key without quotes"):
        wire.responder(api_key=f"'{KEY}'")
    wire.responder(api_key=f"'{KEY}'", base_url=ELSEWHERE)
    assert caplog.text.count(f"{name}='***'") == 1


def test_a_token_is_looked_at_as_a_key_is() -> None:
    """It is one, by another name."""
    with pytest.raises(SettingsError) as raised:
        AnthropicOptions.from_env({"ANTHROPIC_AUTH_TOKEN": f"Bearer {KEY}"})
    expected = "a key alone, without 'Bearer' before it"
    assert str(raised.value) == f"ANTHROPIC_AUTH_TOKEN='***': expected {expected}"


def test_a_key_in_quotes_is_redacted_with_and_without_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The provider may quote it in either way."""
    with Provider(refusing(400, {"error": f"{KEY} or '{KEY}' or Bearer {KEY}"})) as provider:
        message = failed(ask(OPENAI.make(provider, api_key=f"Bearer '{KEY}'"))).message
    assert message.endswith("refused the request: *** or '***' or Bearer ***")
    assert KEY[:9] not in caplog.text


# Addresses

AN_ADDRESS = "expected an address such as http://127.0.0.1:8080/v1"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ('"https://h/v1"', f"='***': {AN_ADDRESS}, without quotes"),
        ("'https://h/v1'", f"='***': {AN_ADDRESS}, without quotes"),
        ("https://h/v1'", f"='***': {AN_ADDRESS}, without quotes"),
        ("api.openai.com/v1", f"='***': {AN_ADDRESS}, with http:// or https:// before it"),
        ("localhost:8080/v1", f"='***': {AN_ADDRESS}, with http:// or https:// before it"),
        ("//h/v1", f"='***': {AN_ADDRESS}, with http:// or https:// before it"),
        (KEY, f"='***': {AN_ADDRESS}, with http:// or https:// before it"),
        (
            "https://h/v1/chat/completions",
            f"='https://h/v1/chat/completions': {AN_ADDRESS}, "
            "without /chat/completions, which is added",
        ),
        (
            "https://h/v1/messages/",
            f"='https://h/v1/messages/': {AN_ADDRESS}, without /messages/, which is added",
        ),
        (
            "https://h/v1/responses",
            f"='https://h/v1/responses': {AN_ADDRESS}, without /responses, which is added",
        ),
        (
            "https://h/openai?api-version=1",
            f"='https://h/openai?***': {AN_ADDRESS}, without a query, for which there is "
            "extra_query",
        ),
        (f"https://user:{KEY}@h/v1", f"='***': {AN_ADDRESS}, without credentials"),
        ("https://h/v1 ", ""),
        ("https://h/v1/", ""),
        ("https://h/openai/deployments/messages-4/", ""),
        ("https://h", ""),
    ],
)
def test_an_address_that_cannot_be_right_is_refused(wire: Wire, url: str, line: str) -> None:
    """With the part that is wrong."""
    variables = environ(wire, url, KEY)
    if line:
        assert refused(variables, wire) == f"{wire.name.upper()}_BASE_URL{line}"
    else:
        wire.responder.from_env(variables)


@pytest.mark.parametrize("url", ["https://api.openai.com", "https://eu.api.openai.com/"])
def test_openai_itself_needs_the_version(url: str) -> None:
    """Other servers do without it, as DeepSeek's does."""
    line = refused(environ(OPENAI, url, KEY))
    assert line == f"OPENAI_BASE_URL='{url}': expected an address with /v1 at its end"
    OPENAI.responder.from_env(environ(OPENAI, "https://api.deepseek.com", KEY))


@pytest.mark.parametrize(
    ("path", "status", "advised"),
    [("", 404, True), ("", 405, True), ("", 400, False), ("/v1", 404, False)],
)
def test_an_address_without_the_version_is_doubted_once_it_has_failed(
    path: str, status: int, advised: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Most servers want one."""
    with Provider(refusing(status, json.dumps({"detail": "Not Found"}).encode())) as provider:
        failed(ask(OPENAI.make(provider, base_url=provider.url + path)))
    assert ("most servers want a base URL with /v1 at its end" in caplog.text) == advised

"""Choosing what answers by its name, with the extra that it needs or without."""

from __future__ import annotations

import subprocess
import sys

import pytest

import omniforge_chat
from omniforge_chat import Settings, create_app
from omniforge_chat.errors import SettingsError
from omniforge_chat.responders import load_responder
from omniforge_chat.responders.providers.anthropic import AnthropicResponder
from omniforge_chat.responders.providers.openai import OpenAIResponder

from ..support.harness import environment, exchange, last
from ..support.provider import Call, Provider


def python(code: str, **variables: str) -> str:
    """What `code` prints, in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("name", "kind"), [("openai", OpenAIResponder), ("anthropic", AnthropicResponder)]
)
def test_a_model_is_chosen_by_its_name(
    name: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`CHAT_RESPONDER=openai` is all it takes, beside the key."""
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-test-0123")
    monkeypatch.delenv(f"{name.upper()}_BASE_URL", raising=False)
    assert type(load_responder(Settings(responder=name).responder)) is kind


def test_a_missing_key_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the first chat."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(SettingsError, match="OPENAI_API_KEY=None: expected a key"):
        load_responder("openai")


def test_a_wrong_name_is_told_the_right_ones() -> None:
    """One clear line."""
    with pytest.raises(SettingsError) as raised:
        load_responder("opnai")
    assert str(raised.value) == (
        "CHAT_RESPONDER='opnai': "
        "expected placeholder, openai, anthropic, or package.module:attribute"
    )


def test_the_package_is_imported_without_the_extra() -> None:
    """Whoever relays no model needs no HTTP client."""
    assert python("import sys, omniforge_chat; print('httpx' in sys.modules)") == "False\n"


def test_the_models_are_public_names() -> None:
    """They are found where everything else is, and imported when they are named."""
    assert omniforge_chat.OpenAIResponder is OpenAIResponder
    assert omniforge_chat.AnthropicResponder is AnthropicResponder
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = omniforge_chat.Nothing


def test_a_missing_extra_is_named() -> None:
    """In code and at the start of the service alike: with the command that installs it."""
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "import omniforge_chat, omniforge_chat.cli as cli\n"
        "try: omniforge_chat.OpenAIResponder\n"
        "except ImportError as error: print(error)\n"
        "sys.stderr = sys.stdout\n"
        "print(cli.main(['--responder', 'openai']))"
    )
    advice = "httpx is missing: pip install 'omniforge-chat[providers]'"
    assert python(code).splitlines() == [
        advice,
        f"omniforge-chat: CHAT_RESPONDER='openai': expected one that can be imported; {advice}",
        "2",
    ]


def test_a_chosen_model_has_its_limits_from_the_settings_that_were_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are a little shorter, so that the client is told who was silent."""
    with Provider(Call.left) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        settings = Settings(responder="openai", first_chunk_timeout=0.3)
        name, data = last(exchange(create_app(settings=settings), {"message": "hi"}).frames)
    assert (name, data["code"]) == ("error", "upstream_timeout")
    assert data["message"].endswith("within 0.25 seconds")

"""Keys and passwords: wherever a provider, a mistake or a bug puts them, nobody gets to read them.

What is looked through is all that leaves the process: the events, every record of every logger, the
errors with their tracebacks, each repr, and what the service itself writes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from omniforge_chat import Settings, create_app
from omniforge_chat.cli import main
from omniforge_chat.core import sse

from ..support.answers import last
from ..support.process import environment, running
from ..support.provider import Call, Provider, Script, hang_up, refusing
from ..support.relay import TURN
from ..support.responders import events_of
from ..support.wires import ANTHROPIC, OPENAI, Wire

PLAIN = "sk-test-0123456789abcdef"
ODD = 'sk-test-"o\'dd"  \\key/0123'
"""One that looks different where it is quoted, and where white space is tidied."""

HEADER = "bearer-of-another-gateway"


def echoing(status: int) -> Callable[[Wire, str], Script]:
    """A refusal that quotes the key at once, where the text will be cut, and beyond."""

    def make(wire: Wire, key: str) -> Script:
        return refusing(
            status,
            {
                "error": {
                    "message": f"{key} {HEADER} {'x' * (280 - len(key) - len(HEADER))} {key} {key}",
                    "type": f"{'y' * 280}{key}",
                    "code": key,
                }
            },
        )

    return make


def in_a_stream(make: Callable[[Wire, str], bytes]) -> Callable[[Wire, str], Script]:
    def script(wire: Wire, key: str) -> Script:
        return lambda call: call.stream(*wire.opening(), wire.text("Hel"), make(wire, key))

    return script


def with_headers(**headers: str) -> Callable[[Wire, str], Script]:
    def make(wire: Wire, key: str) -> Script:
        async def script(call: Call) -> None:
            await call.head(**{name: text.format(key) for name, text in headers.items()})
            await call.end()

        return script

    return make


BEHAVIOURS: Dict[str, Callable[[Wire, str], Script]] = {
    "a reply": lambda wire, key: wire.answer("Hel", "lo"),
    **{f"status {status}": echoing(status) for status in (400, 401, 403, 422, 429, 500, 503)},
    "a refusal that is a text": lambda wire, key: refusing(400, f"{'x' * 295}{key}"),
    "no JSON": lambda wire, key: refusing(400, f"<html>{key}".encode()),
    "an error in the stream": in_a_stream(
        lambda wire, key: wire.error(key, f"{'x' * 295}{key} {HEADER}")
    ),
    "an error in the stream that rejects": in_a_stream(
        lambda wire, key: wire.error("invalid_request_error", f"you sent {key} {HEADER}")
    ),
    "garbage": in_a_stream(lambda wire, key: f"data: {{{key}\n\n".encode()),
    "a cut": in_a_stream(lambda wire, key: b": " + key.encode() + b"\n\n"),
    "another encoding": with_headers(content_encoding="{}"),
    "another type": with_headers(content_type="text/{}"),
    "no answer": lambda wire, key: hang_up,
}


CASES = [(OPENAI, behaviour, key) for behaviour in BEHAVIOURS for key in (PLAIN, ODD)]
CASES += [(ANTHROPIC, behaviour, PLAIN) for behaviour in BEHAVIOURS if "stream" in behaviour]
CASES += [(ANTHROPIC, behaviour, PLAIN) for behaviour in ("a reply", "status 400")]
"""A provider's own are its header for the key, and its form of an error in the stream."""


def assert_secret(shown: str, *secrets: str) -> None:
    """Not even the beginning of a secret is shown, as it is or as it looks where it is quoted."""
    assert shown
    for secret in secrets:
        for begin in (secret[:12], repr(secret)[1:13], " ".join(secret.split())[:12]):
            assert begin not in shown


@pytest.mark.parametrize(
    ("wire", "behaviour", "key"),
    CASES,
    ids=[f"{wire.name}-{what}-{'odd' if key is ODD else 'plain'}" for wire, what, key in CASES],
)
def test_whatever_a_provider_does_the_key_is_in_no_event_log_error_or_repr(
    wire: Wire, behaviour: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Providers quote keys, and what is logged at DEBUG today is in somebody's ticket tomorrow."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.WARNING, "httpcore")  # as the service has it, and for this reason
    shown: List[str] = []

    async def use(responder: Any) -> None:
        try:
            for event in await events_of(TURN, responder):
                shown.append(sse.encode(event).decode())
            try:
                async for item in responder(TURN):
                    shown.append(repr(item))
            except Exception as error:
                shown.append(repr(error))
                shown.append(traceback.format_exc())
            app = create_app(responder, settings=Settings())
            shown.extend(map(repr, (responder, *vars(responder).values(), app, app.routes)))
        finally:
            await responder.aclose()

    with Provider(BEHAVIOURS[behaviour](wire, key)) as provider:
        asyncio.run(
            use(wire.make(provider, api_key=key, extra_headers={"X-Gateway-Authorization": HEADER}))
        )
        sent = provider.call().headers
        assert key in sent.get("authorization", sent.get("x-api-key", ""))
    for record in caplog.records:
        shown.append(caplog.handler.format(record))
        shown.append(repr(record.args))
    assert_secret("\n".join(shown), key, HEADER)


@pytest.mark.parametrize(
    ("wire", "level", "style"),
    [
        (OPENAI, "debug", "text"),
        (OPENAI, "info", "json"),
        (ANTHROPIC, "debug", "json"),
        (ANTHROPIC, "info", "text"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_service_writes_no_key_at_any_level(
    wire: Wire, level: str, style: str, tmp_path: Path
) -> None:
    """As an operator has it: everything from the environment, all loggers in one log."""
    prefix = wire.name.upper()
    error = {"message": f"what is {PLAIN}", "type": PLAIN}
    variables = {
        "CHAT_RESPONDER": wire.name,
        "LOG_LEVEL": level,
        "LOG_FORMAT": style,
        f"{prefix}_API_KEY": PLAIN,
    }
    with Provider(refusing(400, {"error": error}, x_your_key=PLAIN)) as provider:
        variables[f"{prefix}_BASE_URL"] = provider.url + wire.base_path
        with running(tmp_path, **variables) as service, service.connect() as client:
            client.post({"message": "hi"})
            client.head()
            event, data = last(client.frames())
            assert (event, data["code"]) == ("error", "upstream_error")
            assert data["message"].endswith("refused the request: what is ***")
            client.close()
            assert service.end() == 0
    log = "\n".join(service.log)
    assert "what is ***" in log
    assert_secret(log + str(data), PLAIN)


@pytest.mark.parametrize(
    "variables",
    [
        {"API_KEY": f"{PLAIN}\n{PLAIN}"},
        {"API_KEY": f"'{PLAIN}'"},
        {"API_KEY": f"Bearer {PLAIN}"},
        {"EXTRA_HEADERS": f"api-key: {PLAIN}"},
        {"EXTRA_QUERY": PLAIN},
        {"API_KEY": PLAIN, "BASE_URL": f"http://user:{PLAIN}@host"},
        {"API_KEY": PLAIN, "BASE_URL": f"http://user:{PLAIN}@[host"},
        {"API_KEY": PLAIN, "BASE_URL": f"http://host/v1?key={PLAIN}"},
        {"API_KEY": PLAIN, "BASE_URL": PLAIN},
        {"API_KEY": PLAIN, "BASE_URL": f"http://user:{PLAIN}@host/\udcff"},
    ],
)
def test_a_setting_of_no_use_is_told_without_the_secret_in_it(
    variables: Dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line that ends a start goes to the terminal, and to the log of whatever started it."""
    named = {f"OPENAI_{name}": value for name, value in variables.items()}
    monkeypatch.setattr(os, "environ", environment(CHAT_RESPONDER="openai", **named))
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("omniforge-chat: OPENAI_")
    assert len(output.err.splitlines()) == 1
    assert_secret(output.err, PLAIN)


def test_settings_hold_no_key() -> None:
    """So that they can be logged, and passed to whom they may concern."""
    variables = {"CHAT_RESPONDER": "openai", "OPENAI_API_KEY": PLAIN}
    assert_secret(repr(Settings.from_env(variables)), PLAIN)

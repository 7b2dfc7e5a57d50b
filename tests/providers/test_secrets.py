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

import httpx
import pytest

from omniforge_chat import Settings, create_app
from omniforge_chat.cli import main
from omniforge_chat.core import sse
from omniforge_chat.responders.providers import client as provider_client

from ..support.harness import environment, events_of, last
from ..support.process import running
from ..support.provider import WIRES, Call, Provider, Script, Wire
from ..support.relay import TURN, ask, failed, using

PLAIN = "sk-test-0123456789abcdef"
ODD = 'sk-test-"o\'dd"  \\key/0123'
"""One that looks different where it is quoted, and where white space is tidied."""

HEADER = "bearer-of-another-gateway"


def refusing(status: int, document: Any, **headers: str) -> Script:
    return lambda call: call.refuse(status, document, **headers)


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


async def hang_up(call: Call) -> None:
    call.close()


BEHAVIOURS: Dict[str, Callable[[Wire, str], Script]] = {
    "a reply": lambda wire, key: wire.answer("Hel", "lo"),
    **{f"status {status}": echoing(status) for status in (400, 401, 403, 422, 429, 500, 503)},
    "a refusal that is a text": lambda wire, key: refusing(400, f"{'x' * 295}{key}"),
    "no JSON": lambda wire, key: refusing(400, f"<html>{key}".encode()),
    "an error in the stream": in_a_stream(
        lambda wire, key: wire.error(key, f"{'x' * 295}{key} {HEADER}")
    ),
    "an error that rejects": in_a_stream(
        lambda wire, key: wire.error("invalid_request_error", f"you sent {key} {HEADER}")
    ),
    "garbage": in_a_stream(lambda wire, key: f"data: {{{key}\n\n".encode()),
    "a cut": in_a_stream(lambda wire, key: b": " + key.encode() + b"\n\n"),
    "another encoding": with_headers(content_encoding="{}"),
    "another type": with_headers(content_type="text/{}"),
    "no answer": lambda wire, key: hang_up,
}


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest.fixture(autouse=True)
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_client, "BACKOFF_SECONDS", 0.001)


def assert_secret(shown: str, *secrets: str) -> None:
    """Not even the beginning of a secret is shown, as it is or as it looks where it is quoted."""
    assert shown
    for secret in secrets:
        for begin in (secret[:12], repr(secret)[1:13], " ".join(secret.split())[:12]):
            assert begin not in shown


@pytest.mark.parametrize("key", [PLAIN, ODD], ids=["plain", "odd"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
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
            shown.extend(map(repr, (responder, vars(responder)["_client"], app, app.routes)))
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


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("style", ["text", "json"])
def test_the_service_writes_no_key_at_any_level(
    wire: Wire, level: str, style: str, tmp_path: Path
) -> None:
    """The same as an operator has it: everything from the environment, all loggers in one log."""
    prefix = wire.name.upper()

    async def echo(call: Call) -> None:
        error = {"message": f"what is {PLAIN}", "type": PLAIN}
        await call.refuse(400, {"error": error}, x_your_key=PLAIN)

    variables = {
        "CHAT_RESPONDER": wire.name,
        "LOG_LEVEL": level,
        "LOG_FORMAT": style,
        f"{prefix}_API_KEY": PLAIN,
    }
    with Provider(echo) as provider:
        variables[f"{prefix}_BASE_URL"] = provider.url + wire.base_path
        with running(tmp_path, **variables) as service, service.connect() as client:
            client.post({"message": "hi"})
            client.head()
            event, data = last(client.frames())
            assert (event, data["code"]) == ("error", "upstream_error")
            assert data["message"].endswith("rejected the request: what is ***")
            client.close()
            assert service.end() == 0
    log = "\n".join(service.log)
    assert "what is ***" in log
    assert_secret(log + str(data), PLAIN)


@pytest.mark.parametrize(
    "variables",
    [
        {"API_KEY": f"{PLAIN}\n{PLAIN}"},
        {"API_KEY": f"{PLAIN}é"},
        {"API_KEY": PLAIN, "BASE_URL": f"http://user:{PLAIN}@host"},
        {"API_KEY": PLAIN, "BASE_URL": f"http://user:{PLAIN}@host:port"},
        {"API_KEY": PLAIN, "BASE_URL": f"http://user:{PLAIN}@[host"},
        {"API_KEY": PLAIN, "BASE_URL": f"user:{PLAIN}@host"},
        {"API_KEY": PLAIN, "BASE_URL": f"http://host/v1?key={PLAIN}"},
        {"API_KEY": PLAIN, "BASE_URL": f"ftp://host/v1#{PLAIN}"},
        {"API_KEY": PLAIN, "BASE_URL": "nowhere"},
        {"API_KEY": PLAIN, "BASE_URL": PLAIN},
        {"API_KEY": PLAIN, "BASE_URL": f"http://user:{PLAIN}@host/\udcff"},
    ],
)
def test_a_setting_of_no_use_is_told_without_the_secret_in_it(
    wire: Wire,
    variables: Dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line that ends a start goes to the terminal, and to the log of whatever started it."""
    named = {f"{wire.name.upper()}_{name}": value for name, value in variables.items()}
    monkeypatch.setattr(os, "environ", environment(CHAT_RESPONDER=wire.name, **named))
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"omniforge-chat: {wire.name.upper()}_")
    assert len(output.err.splitlines()) == 1
    assert_secret(output.err, PLAIN)


def test_settings_hold_no_key(wire: Wire) -> None:
    """So that they can be logged, and passed to whom they may concern."""
    settings = Settings.from_env(
        {"CHAT_RESPONDER": wire.name, f"{wire.name.upper()}_API_KEY": PLAIN}
    )
    assert_secret(repr(settings), PLAIN)


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        ({"extra_headers": {"Authorization": f"Bearer {PLAIN}"}}, PLAIN),
        ({"extra_headers": {"authorization": "Basic c2hvcnQx"}}, "c2hvcnQx"),
        ({"extra_headers": {"X-Api-Key": "short-key"}}, "short-key"),
    ],
)
def test_a_key_in_a_header_is_one_too(wire: Wire, options: Dict[str, Any], secret: str) -> None:
    """Providers quote it without the scheme that stood before it."""
    with Provider(refusing(400, {"error": {"message": f"wrong: {secret}."}})) as provider:
        responder = wire.make(provider, api_key=None, **options)
        assert failed(ask(responder)).message.endswith("rejected the request: wrong: ***.")


def test_a_key_in_a_client_of_ones_own_is_one_too(wire: Wire) -> None:
    """It was set up elsewhere, and is sent with every request."""
    headers, params = {"Authorization": f"Bearer {PLAIN}"}, {"key": "secret-0123"}
    client = httpx.AsyncClient(headers=headers, params=params)

    async def use(responder: Any) -> Any:
        async with client:
            return failed(await events_of(TURN, responder))

    quoting = refusing(400, {"error": {"message": f"wrong: {PLAIN}, secret-0123."}})
    with Provider(quoting) as provider:
        error = using(wire.make(provider, api_key=None, client=client), use)
    assert error.message.endswith("rejected the request: wrong: ***, ***.")


def test_a_word_that_serves_as_a_key_is_left_in_messages(wire: Wire) -> None:
    """A server of one's own takes anything, and no message would be legible without an `x`."""
    with Provider(refusing(400, {"error": {"message": "max context exceeded"}})) as provider:
        error = failed(ask(wire.make(provider, api_key="x")))
    assert error.message.endswith("rejected the request: max context exceeded")

"""Requests that are refused, and those that are sent again, in whatever wire format."""

from __future__ import annotations

import logging
import re
import socket
import sys

import httpx
import pytest

from omniforge_chat.models import Done
from omniforge_chat.responders.providers import body, connections
from omniforge_chat.responders.providers import client as provider_client
from omniforge_chat.responders.providers.errors import UNREADABLE
from omniforge_chat.rules import SettingsError

from ..support.constants import PATIENCE
from ..support.provider import Call, Provider, refusing
from ..support.relay import COMPLETE, ask, ask_by, failed, said
from ..support.wires import KEY, OPENAI


def test_a_redirect_is_not_followed() -> None:
    """It would take the key to whatever address it names."""
    with Provider(OPENAI.answer("x")) as elsewhere:
        with Provider(refusing(307, {}, location=elsewhere.url)) as provider:
            events = ask_by(httpx.AsyncClient(follow_redirects=True), provider)
        assert failed(events).code == "upstream_error"
        assert not elsewhere.calls


def test_a_refusal_is_told_to_the_client_and_logged_under_the_request_s_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is one of those that are not tried again."""
    document = {"error": {"message": "no such luck", "type": "some_error"}}
    with Provider(refusing(400, document)) as provider:
        error = failed(ask(OPENAI.make(provider)))
        assert len(provider.calls) == 1
    assert (error.code, error.usage) == ("upstream_error", None)
    assert error.message == "The model provider refused the request: no such luck"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "omniforge_chat"]
    assert "request_id=request-1" in line
    assert "status=400 kind=some_error reason='no such luck'" in line


@pytest.mark.parametrize(("seconds", "endless"), [(0.05, False), (2 * PATIENCE, True)])
def test_a_refusal_is_read_only_so_far(
    seconds: float,
    endless: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The status is known; a body that stalls, or has no end, is not waited for."""
    monkeypatch.setattr(body, "REFUSAL_SECONDS", seconds)

    async def script(call: Call) -> None:
        await call.refuse(404, b"x", content_length=str(10**18))
        while endless:
            await call.send(b"x" * 65536)
        await call.left()

    with Provider(script) as provider:
        message = failed(ask(OPENAI.make(provider))).message
        assert message.startswith("The model provider does not know the model")
        assert "reason='x" in caplog.text
        provider.wait_for_open_connections(0)


def test_a_compressed_stream_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """It was not asked for, and would be garbage to us."""

    async def script(call: Call) -> None:
        await call.head(content_encoding="a, " * 1000 + "gzip")
        await call.left()

    with Provider(script) as provider:
        assert failed(ask(OPENAI.make(provider))).code == "upstream_error"
        assert provider.call().gone.wait(PATIENCE)
    assert re.search(r"content_encoding=(a, )+a?\.\.\.$", caplog.records[-1].getMessage())


LONG = f"{KEY} {'x' * 20_000}".encode()


@pytest.mark.parametrize(
    ("answer", "seen", "message"),
    [
        (b"SSH-2.0 %s\r\n\r\n" % LONG, "illegal status line", UNREADABLE),
        (b"HTTP/1.1 200 OK\r\nno field %s\r\n\r\n" % LONG, "illegal header line", UNREADABLE),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size %s\r\n" % LONG,
            "illegal chunk header",
            "The model provider's reply was cut off",
        ),
    ],
)
def test_bytes_that_are_no_http_make_a_short_line_in_the_log(
    answer: bytes, seen: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """h11 quotes all of them, the key among them, if the other side sends back its request."""

    async def script(call: Call) -> None:
        await call.send(answer)
        await call.left()

    with Provider(script) as provider:
        assert failed(ask(OPENAI.make(provider))).message == message
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    detail = line.partition("code=upstream_error ")[2]
    assert seen in detail
    assert len(detail) <= 300
    assert KEY not in line


def test_a_provider_that_cannot_be_reached_is_an_upstream_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection that was refused may be tried again: nothing was sent."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        error = failed(ask(OPENAI.responder(base_url=f"http://127.0.0.1:{port}")))
    assert error.code == "upstream_error"
    assert error.message == "The model provider cannot be reached"
    assert caplog.text.count("upstream tried again") == 2


def test_a_passing_refusal_is_tried_again() -> None:
    """Nobody has to know of it."""
    refusals = (refusing(429, {}, retry_after="0"), refusing(503, {}))
    with Provider(*refusals, OPENAI.answer("Hello")) as provider:
        events = ask(OPENAI.make(provider))
        assert len(provider.calls) == 3
    assert (said(events), events[-1]) == (["Hello"], COMPLETE)


def test_three_tries_are_all(caplog: pytest.LogCaptureFixture) -> None:
    """More of them make an overload worse."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    with Provider(refusing(503, {})) as provider:
        error = failed(ask(OPENAI.make(provider)))
        assert len(provider.calls) == 3
    assert (error.code, error.message) == ("upstream_error", "The model provider is not available")
    lines = [record.getMessage() for record in caplog.records if record.name == "omniforge_chat"]
    tried_again = [line.startswith("upstream tried again request_id=request-1") for line in lines]
    assert tried_again == [True, True, False]


def test_a_wait_beyond_the_deadline_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client learns now what it would learn then."""
    monkeypatch.setattr(provider_client, "BACKOFF_SECONDS", 1000.0)
    with Provider(refusing(503, {})) as provider:
        assert failed(ask(OPENAI.make(provider))).code == "upstream_error"
        assert len(provider.calls) == 1


@pytest.mark.parametrize("asked", ["0", "Wed, 01 Jan 2020 00:00:00 GMT"])
def test_a_provider_that_asks_for_no_wait_is_given_one(
    asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Or all the replies that it refused in one moment would be back in the next."""
    monkeypatch.setattr(provider_client, "BACKOFF_SECONDS", 0.04)
    caplog.set_level(logging.INFO)
    with Provider(refusing(429, retry_after=asked), OPENAI.answer("x")) as provider:
        assert isinstance(ask(OPENAI.make(provider))[-1], Done)
    (wait,) = re.findall(r"upstream tried again .*wait_ms=(\d+)", caplog.text)
    assert 20 <= int(wait) <= 40


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE='/nowhere': expected certificates that can"),
        ("SSL_CERT_FILE", __file__, f"SSL_CERT_FILE='{__file__}': expected certificates that can"),
        ("SSLKEYLOGFILE", "/nowhere/x", "SSLKEYLOGFILE='/nowhere/x': expected a file that can be"),
        ("ALL_PROXY", "socks5://user:pass@h", "ALL_PROXY='***': expected a proxy that httpx can"),
        ("HTTPS_PROXY", "pass://h", "HTTPS_PROXY='***': expected a proxy that httpx can use"),
    ],
)
def test_a_variable_that_httpx_reads_is_named_too(
    variable: str, value: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message would fail for it, one after the other."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setitem(sys.modules, "socksio", None)  # an extra of httpx's, as if it were absent
    connections._tls.cache_clear()
    with pytest.raises(SettingsError) as raised:
        OPENAI.responder(base_url="http://h")
    assert str(raised.value).startswith(line)
    assert "pass" not in str(raised.value)

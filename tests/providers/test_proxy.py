"""Proxies in the environment: never for this machine, and named by the log without credentials."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, AsyncIterator, Dict, Iterator, List

import httpx
import pytest

from omniforge_chat.models import Event
from omniforge_chat.responders.providers.address import is_loopback, without_secrets
from omniforge_chat.responders.providers.connections import Connections
from omniforge_chat.responders.providers.openai import OpenAIOptions

from ..support.growth import LINEAR, growth
from ..support.provider import Call, Provider, refusing
from ..support.relay import COMPLETE, TURN, ask, failed, using
from ..support.responders import events_of
from ..support.wires import OPENAI

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may have some."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """The port of a listener that fails the test if somebody has connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


LOOPBACK = (
    "127.0.0.1",
    "localhost",
    "LocalHost",
    "127.1",
    "0.0.0.0",
    "[::ffff:7f00:1]",
)


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_asked_without_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy would ask itself."""
    with Provider(OPENAI.answer("x")) as provider, nobody() as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        url = provider.url.replace("127.0.0.1", host)
        if host == LOOPBACK[0]:
            monkeypatch.delenv("HTTP_PROXY")  # so that SOCKS would be used
        if host == LOOPBACK[-1] and not _has_ipv6():
            pytest.skip("no IPv6 here")
        assert ask(OPENAI.responder(base_url=f"{url}/v1"))[-1] == COMPLETE


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as trial:
        trial.bind(("::1", 0))
        return True
    return False


def test_a_proxy_of_no_use_is_no_matter_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody uses it."""
    monkeypatch.setenv("ALL_PROXY", "nonsense://h")
    with Provider(OPENAI.answer("x")) as provider:
        assert ask(OPENAI.make(provider))[-1] == COMPLETE


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        *((f"http://{host}:8080/v1", True) for host in LOOPBACK),
        *(
            (f"http://{host}", True)
            for host in ("[::1]", "[::]", "localhost.", "a.localhost", "0", "127.9.9.9")
        ),
        *((f"http://{host}", False) for host in ("128.0.0.1", "[::2]", "localhost.example.com")),
        *((f"http://{host}", False) for host in ("1270.0.0.1", "notlocalhost", "10.0.0.1", "[")),
    ],
)
def test_this_machine_is_known_by_its_names(url: str, expected: bool) -> None:
    """RFC 6761, section 6.3, and RFC 1122, section 3.2.1.3."""
    assert is_loopback(url) == expected


def through(provider: Provider) -> str:
    return provider.url.replace("http://", "http://user:pass-word@")


def test_the_log_names_the_proxy_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever runs the service may have forgotten it."""

    async def use(responder: Any) -> List[Event]:
        return [(await events_of(TURN, responder))[-1] for _ in range(2)]

    caplog.set_level("INFO", "omniforge_chat")
    with Provider(OPENAI.answer("x")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", through(proxy))
        responder = OPENAI.responder(base_url="http://provider.test/v1")
        assert using(responder, use) == [COMPLETE] * 2
        assert proxy.call().path == "http://provider.test/v1/chat/completions"
        shown = f"through proxy={proxy.url.replace('http://', 'http://***@')}"
    assert [r.getMessage() for r in caplog.records if r.name == "omniforge_chat"] == [
        f"upstream url=http://provider.test/v1 is asked {shown}"
    ]


@pytest.mark.parametrize("status", [407, 502])
def test_a_failure_names_the_proxy(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be the proxy's."""
    with Provider(refusing(status, b"<title>Squid says no</title>")) as proxy:
        monkeypatch.setenv("ALL_PROXY", through(proxy))
        failed(ask(OPENAI.responder(base_url="http://provider.test/v1")))
        shown = proxy.url.replace("http://", "http://***@")
    line = [r.getMessage() for r in caplog.records if r.name == "omniforge_chat"][-1]
    assert line.endswith(f"reason='Squid says no' proxy={shown}")
    assert "pass-word" not in caplog.text


@contextlib.asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[int]:
    """A listener that answers each head with `data`, and closes."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_a_proxy_that_quotes_its_credentials_is_redacted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its page about a refusal may show the whole request."""

    async def quoting(call: Call) -> None:
        sent = call.headers["proxy-authorization"]
        await call.refuse(407, f"You sent {sent}, which is user:pass-word".encode())

    with Provider(quoting) as proxy:
        monkeypatch.setenv("HTTP_PROXY", through(proxy))
        failed(ask(OPENAI.responder(base_url="http://provider.example/v1")))
    assert "reason='You sent Basic ***, which is user:***'" in caplog.text


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_does_not_connect_is_named(
    scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By way of CONNECT, as for all that is encrypted; and one that is not there."""

    async def main() -> List[Event]:
        async with answering(b"HTTP/1.1 407 Who are you\r\n\r\n") as port:
            port = port if scheme == "http" else 9  # nobody listens on it
            monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://user:pass-word@127.0.0.1:{port}")
            responder = OPENAI.responder(base_url="https://provider.test/v1")
            try:
                return await events_of(TURN, responder)
            finally:
                await responder.aclose()

    error = failed(asyncio.run(main()))
    assert error.message == "The model provider cannot be reached"
    line = [r.getMessage() for r in caplog.records if r.name == "omniforge_chat"][-1]
    assert f" proxy={scheme}://***@127.0.0.1:" in line
    assert "pass-word" not in caplog.text


PROXY = "http://***@proxy.test:3128"
GIVEN = "http://user:pass-word@proxy.test:3128/"


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({}, "http://h.test", None),
        ({"http_proxy": GIVEN}, "http://h.test", PROXY),
        ({"HTTP_PROXY": GIVEN}, "https://h.test", None),
        ({"HTTPS_PROXY": "proxy.test:3128"}, "https://h.test", "http://proxy.test:3128"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": GIVEN}, "https://h.test", PROXY),
        ({"HTTP_PROXY": "http://other", "ALL_PROXY": GIVEN}, "http://h.test", "http://other"),
        *(
            ({"ALL_PROXY": GIVEN, "NO_PROXY": exempt}, url, expected)
            for exempt, url, expected in (
                ("*", "http://h.test", None),
                ("a.test, *", "http://h.test", None),
                ("h.test", "http://h.test", None),
                ("H.test", "http://h.test", None),
                ("h.test", "https://x.h.test", None),
                ("h.test", "http://xh.test", PROXY),
                (".h.test", "http://x.h.test", None),
                (".h.test", "http://h.test", PROXY),
                ("h.test:8080", "http://h.test:8080/v1", None),
                ("h.test:8080", "http://h.test", PROXY),
                ("a.test , h.test", "http://h.test", None),
                ("10.0.0.1", "http://10.0.0.1:8080/v1", None),
                ("10.0.0.0/8", "http://10.0.0.1", PROXY),
                ("10.0.0.1", "http://110.0.0.1", PROXY),
                ("fe80::1", "http://[fe80::1]:8080", None),
                ("localhost", "http://x.localhost.test", PROXY),
                ("http://h.test", "http://h.test", None),
                ("http://h.test", "https://h.test", PROXY),
                ("https://*.h.test", "https://x.h.test", None),
                ("all://h.test", "https://h.test", None),
                (",", "https://h.test", PROXY),
            )
        ),
    ],
)
def test_the_proxy_is_the_one_that_httpx_takes(
    variables: Dict[str, str], url: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name in the log would lead astray if it were another one."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = httpx.AsyncClient(verify=False)  # which saves reading certificates
    direct = client._transport_for_url(httpx.URL(url)) is client._transport
    assert direct == (expected is None)
    assert Connections(OpenAIOptions(base_url=url)).proxy == expected
    assert Connections(OpenAIOptions(base_url=url, client=client)).proxy is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/v1", "http://h/v1"),
        ("http://user:pa@ss/word@h:1/v1//x", "http://***@h:1/v1//x"),
        ("//user@h/?a#b", "//***@h/?***"),
        ("/login#x?y", "/login?***"),
        ("user@h", "user@h"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_secrets(url: str, expected: str) -> None:
    """Whatever somebody has written there."""
    assert without_secrets(url) == expected


@pytest.mark.parametrize("unit", ["/", "//", "@", "://"])
def test_a_long_address_is_soon_read(unit: str) -> None:
    """A provider may send one, and all streams of the process wait meanwhile."""
    assert growth(lambda size: without_secrets(unit * size), 50_000) < LINEAR

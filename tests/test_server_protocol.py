"""How our own server reads HTTP/1.1: any request, in any pieces, within limits."""

from __future__ import annotations

import asyncio
from typing import Any, Dict, Iterator, List, Tuple, cast

import pytest
from starlette.types import Receive, Scope, Send

from omniforge_chat import Settings, create_app
from omniforge_chat.app import ChatApp
from omniforge_chat.server import Server, make_server

from .harness import WIRES, LiveService, assert_next_request_works, last, request


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the method and the body."""
    body, more = scope["method"].encode() + b" ", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body, more = body + message["body"], message["more_body"]
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Wire(asyncio.Transport):
    """A connection without a socket, which takes all that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def conversation(server: Server, pieces: List[bytes]) -> Tuple[List[str], bool]:
    """The echoes of `pieces`, each of which is one read, and whether the connection was closed."""
    state, wire = server.server_state, Wire()
    protocol = server.config.http_protocol_class(  # type: ignore[call-arg]
        config=server.config, server_state=state, app_state={}
    )
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            protocol.data_received(piece)
    while state.tasks:
        await asyncio.wait(state.tasks)
    protocol.connection_lost(None)
    answers = wire.written.split(b"HTTP/1.1 ")[1:]
    assert all(answer.startswith(b"200 ") for answer in answers), wire.written
    return [answer.partition(b"\r\n\r\n")[2].decode() for answer in answers], wire.closed


@pytest.fixture(params=["httptools", "h11"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server of `echo`, which is driven by hand."""
    pytest.importorskip(request.param)
    return make_server(cast(ChatApp, echo), Settings(), log_config=None, http=request.param)


@pytest.fixture(params=WIRES)
def service(request: pytest.FixtureRequest) -> Iterator[LiveService]:
    options: Dict[str, Any] = request.param
    with LiveService(create_app(settings=Settings()), Settings(), **options) as service:
        yield service


# An upgrade

UPGRADE = b"Host: test\r\nConnection: %s\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABk\r\n"
H2C = UPGRADE % (b"Upgrade, HTTP2-Settings", b"h2c")
UPGRADES = {
    "length": (b"POST / HTTP/1.1\r\n" + H2C + b"Content-Length: 5\r\n\r\nhello", "POST hello"),
    "chunked": (
        b"PUT / HTTP/1.1\r\n" + H2C + b"Transfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\nMore: x\r\n\r\n",
        "PUT hello",
    ),
    "websocket": (b"GET / HTTP/1.1\r\n" + UPGRADE % (b"Upgrade", b"websocket") + b"\r\n", "GET "),
}
CLOSE = (
    b"POST / HTTP/1.1\r\n" + UPGRADE % (b"close, Upgrade", b"h2c") + b"Content-Length: 2\r\n\r\nby"
)


@pytest.mark.parametrize("kind", UPGRADES)
def test_an_upgrade_is_ignored_however_the_request_is_cut(server: Server, kind: str) -> None:
    """One request has one answer, its body is its body (RFC 9110, section 7.8)."""
    first, echoed = UPGRADES[kind]
    whole = first + first + CLOSE + first
    expected = ([echoed, echoed, "POST by"], True)

    async def run() -> None:
        for pieces in ([whole], [whole[i : i + 1] for i in range(len(whole))]):
            assert await conversation(server, pieces) == expected
        for cut in range(1, len(whole)):
            assert await conversation(server, [whole[:cut], whole[cut:]]) == expected, cut

    asyncio.run(run())


def test_a_chat_may_ask_for_an_upgrade(service: LiveService) -> None:
    """As `curl --http2` does, and Java's own client; the body may be a segment of its own."""
    fields = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}
    head, end, body = request({"message": "hi"}, headers=fields).partition(b"\r\n\r\n")
    with service.connect() as client:
        client.send(head + end)
        service.until(lambda: service.app.open_streams > 0)
        client.send(body)
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"
        assert_next_request_works(client)

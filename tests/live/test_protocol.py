"""How our own server reads HTTP/1.1: any request, in any pieces, within limits."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from contextvars import ContextVar
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from omniforge_chat import Settings, create_app
from omniforge_chat.core.sse import Decoder
from omniforge_chat.server import protocol
from omniforge_chat.server.rules import HEAD_BYTES, HEAD_FIELDS

from ..support.answers import last, refusal
from ..support.client import assert_next_request_works, request
from ..support.constants import PATIENCE
from ..support.driven import Wire, body_of, conversation, cut, echoes, serving
from ..support.logs import Records
from ..support.responders import PacedResponder
from ..support.servers import WIRES, ServiceThread


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the method and the body."""
    sent = await body_of(receive)
    assert sent is not None
    body = scope["method"].encode() + b" " + sent
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(params=["httptools", "h11"])
def http(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Dict[str, Any]:
    options: Dict[str, Any] = request.param
    return options


@pytest.fixture
def service(wire: Dict[str, Any]) -> Iterator[ServiceThread]:
    with ServiceThread(create_app(settings=Settings()), Settings(), **wire) as service:
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
def test_an_upgrade_is_ignored_however_the_request_is_cut(http: str, kind: str) -> None:
    """One request has one answer, its body is its body (RFC 9110, section 7.8)."""
    first, echoed = UPGRADES[kind]
    whole = first + first + CLOSE + first
    server = serving(echo, http)

    async def run() -> None:
        twice = [[whole[:index], whole[index:]] for index in range(1, len(whole))]
        for pieces in ([whole], cut(whole, 1), *twice):
            written, closed = await conversation(server, pieces)
            assert closed
            assert echoes(written) == [echoed, echoed, "POST by"], pieces

    asyncio.run(run())


def test_a_chat_may_ask_for_an_upgrade(service: ServiceThread) -> None:
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


# A target that is no path


def test_a_target_with_a_host_reaches_its_route(service: ServiceThread) -> None:
    """RFC 9112, section 3.2.2; and `*` is a target that the app knows nothing of."""
    with service.connect() as client:
        client.ask("http://test/health?a=b")
        assert client.json()[::2] == (200, {"status": "healthy"})
        client.post({"message": "hi"}, path=f"http://127.0.0.1:{service.port}/api/v1/chat")
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"
        client.ask("*", method="OPTIONS")
        assert refusal(*client.json())[:2] == (404, "not_found")
        assert_next_request_works(client)


def test_a_trailer_is_no_header(service: ServiceThread) -> None:
    """RFC 9110, section 6.5.1: the head of this one says that it is no JSON."""
    body = b'{"message":"hi"}'
    head = b"POST /api/v1/chat HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\n"
    trailers = b"Content-Type: application/json\r\nX-Request-ID: trailing\r\n"
    with service.connect() as client:
        client.send(
            head
            + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
            + trailers
            + b"\r\n"
        )
        status, headers, answer = client.json()
        assert refusal(status, headers, answer)[:2] == (415, "unsupported_media_type")
        assert headers["x-request-id"] != "trailing"
        assert_next_request_works(client)


# Limits

CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
GET = b"GET / HTTP/1.1\r\nHost: test\r\n"
LONG = b"a" * HEAD_BYTES
MANY = b"a: b\r\n" * (HEAD_FIELDS + 1)
TOO_LARGE = {
    "a field": GET + b"A: " + LONG + b"\r\n\r\n",
    "a field without end": GET + b"A: " + LONG,
    "a name without end": GET + LONG,
    "the target": b"GET /" + LONG + b" HTTP/1.1\r\nHost: test\r\n\r\n",
    "fields": GET + MANY + b"\r\n",
    "fields without end": GET + b"a: b\r\n" * (HEAD_BYTES // 6 + 1),
    "the next head": GET + b"\r\n" + GET + b"A: " + LONG + b"\r\n\r\n",
    "trailers": CHUNKED + b"0\r\n" + MANY + b"\r\n",
    "a trailer": CHUNKED + b"0\r\nA: " + LONG + b"\r\n\r\n",
    "a chunk extension": CHUNKED + b"1;" + LONG * 6,
    "a chunk extension in one read with a head": CHUNKED + b"1;" + LONG + b"a" * 8192,
}


@pytest.mark.parametrize("size", [1000, 2**18])
@pytest.mark.parametrize("what", TOO_LARGE)
def test_a_head_that_is_too_large_is_refused(http: str, what: str, size: int) -> None:
    """It would lie in memory until it ends, which may be never."""
    pieces = cut(TOO_LARGE[what], size)
    written, closed = asyncio.run(conversation(serving(echo, http), [*pieces, b"1", b"1"]))
    answer = written.rpartition(b"HTTP/1.1 ")[2]
    before = echoes(written[: -len(answer)].rpartition(b"HTTP/1.1 ")[0])
    assert before in ([], ["GET "] if what == "the next head" else [])
    head, _, body = answer.decode().partition("\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:])
    assert refusal(int(head[:3]), fields, json.loads(body))[:2] == (431, "headers_too_large")
    assert (fields["connection"], fields["cache-control"]) == ("close", "no-store")
    assert int(fields["content-length"]) == len(body)
    assert closed


@pytest.mark.parametrize("size", [1000, 2**18])
def test_a_head_within_the_limits_is_taken_whatever_comes_with_it(http: str, size: int) -> None:
    """A limit is for one head, or the trailers, and not for a connection."""
    large = b"A: " + LONG[:-200] + b"\r\n"
    many = b"a: b\r\n" * HEAD_FIELDS
    whole = (GET + large + b"\r\n") * 2 + CHUNKED + b"0\r\n" + many + b"\r\n"
    whole += (
        b"POST / HTTP/1.1\r\n"
        + many[12:]
        + b"Host: test\r\nContent-Length: %d\r\n\r\n" % len(LONG * 2)
    )
    written, _ = asyncio.run(conversation(serving(echo, http), cut(whole + LONG * 2, size)))
    assert echoes(written) == ["GET ", "GET ", "POST x", "POST " + (LONG * 2).decode()]


@pytest.mark.parametrize("rest", [b"0\r\n" + MANY, b"1;" + LONG + LONG, b"no chunk"])
def test_nothing_is_answered_within_an_answer(http: str, rest: bytes) -> None:
    """The connection is closed, and the app sees the client as gone."""
    seen: List[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"late"})

    pieces = [CHUNKED, *cut(rest + b"\r\n", 1000)]
    written, closed = asyncio.run(conversation(serving(app, http), pieces))
    assert closed
    assert written.count(b"HTTP/1.1") == 1
    assert written.endswith(b"\r\n\r\n")
    assert seen[-1] == "http.disconnect"


BEHIND = {
    "no HTTP": (b"{}\r\n\r\n", 400),
    "two hosts": (GET + b"Host: b\r\n\r\n", 400),
    "a large head": (GET + b"A: " + LONG + b"\r\n\r\n", 431),
    "a bad body": (CHUNKED + b"no chunk\r\n" + GET + b"\r\n", 400),
    "a good one, and a bad one": (GET + b"\r\n" + GET + b"A\r\n\r\n", 400),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("what", BEHIND)
def test_a_refusal_comes_after_the_answers_to_the_requests_before_it(
    http: str, what: str, begun: bool
) -> None:
    """Or the client would take it for the answer to its first request."""
    behind, status = BEHIND[what]
    sent = GET + b"\r\n" + behind

    async def run() -> None:
        go = asyncio.Event()
        requests: List[Scope] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            length = [(b"content-length", b"2")]
            start = {"type": "http.response.start", "status": 200, "headers": length}
            requests.append(scope)
            early = begun and len(requests) == 1
            if early:
                await send(start)
            await go.wait()
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                more = message["more_body"]
            if not early:
                await send(start)
            await send({"type": "http.response.body", "body": b"ok"})

        for pieces in ([sent], cut(sent, 1 if len(sent) < 1000 else 1000)):
            go.clear()
            requests.clear()
            asyncio.get_running_loop().call_soon(go.set)
            written, closed = await conversation(serving(app, http), [*pieces, b"more"])
            good, _, answer = written.rpartition(b"HTTP/1.1 ")
            assert echoes(good) == ["ok"] * (2 if what.startswith("a good") else 1)
            assert answer.startswith(b"%d " % status)
            assert closed

    asyncio.run(run())


LAST = {
    "close": GET + b"Connection: close\r\n\r\n",
    "HTTP/1.0": b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("rest", [b"\r\n", b"no HTTP\r\n\r\n", GET + b"\r\n", GET])
@pytest.mark.parametrize("last", LAST)
def test_what_comes_behind_the_last_request_takes_nothing_from_its_answer(
    http: str, last: str, rest: bytes, begun: bool
) -> None:
    """Some clients send an empty line behind a body (RFC 9112, sections 2.2 and 9.6)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        length = [(b"content-length", b"2")]
        start = {"type": "http.response.start", "status": 200, "headers": length}
        if begun:
            await send(start)
        for _ in range(5):  # until all has come
            await asyncio.sleep(0)
        if not begun:
            await send(start)
        await send({"type": "http.response.body", "body": b"ok"})

    for pieces in ([LAST[last], rest], [LAST[last] + rest, rest]):
        written, closed = asyncio.run(conversation(serving(app, http), pieces))
        assert echoes(written) == ["ok"]
        assert closed


@pytest.mark.parametrize("blanks", [b"\t", b" \t", b"\t "])
def test_a_tab_behind_a_coding_leaves_no_client_without_an_answer(http: str, blanks: bytes) -> None:
    """llhttp takes it for another coding, with which the body would never end."""
    whole = CHUNKED.replace(b"chunked", b"chunked" + blanks) + b"0\r\n\r\n"
    written, _ = asyncio.run(conversation(serving(echo, http), [whole]))
    assert written.startswith(b"HTTP/1.1 400 " if http == "httptools" else b"HTTP/1.1 200 ")


def test_requests_that_wait_are_held_as_bytes(http: str) -> None:
    """A read can bring thousands, and one that is parsed takes forty times as much memory."""
    count = 2000

    async def run() -> None:
        go = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await echo(scope, receive, send)

        server, wire = serving(app, http), Wire()
        protocol: Any = server.config.http_protocol_class(  # type: ignore[call-arg]
            config=server.config, server_state=server.server_state, app_state={}
        )
        protocol.connection_made(wire)
        post = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n%05d"
        data = b"".join(post % number for number in range(count))
        for piece in cut(data, len(data) // 3 + 1):
            protocol.data_received(piece)
        assert len(getattr(protocol, "pipeline", ())) < 200
        go.set()
        while server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=PATIENCE)
        assert echoes(wire.written) == [f"POST {number:05}" for number in range(count)]
        protocol.connection_lost(None)

    asyncio.run(run())


def test_a_client_is_told_of_a_head_that_is_too_large(
    service: ServiceThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it is still sending, for a while; the others don't notice."""
    with service.connect() as client, service.connect() as other:
        client.send(GET + b"A: " + LONG * 100)
        assert refusal(*client.json())[:2] == (431, "headers_too_large")
        client.wait_closed()
        assert_next_request_works(other)
    service.rest()
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.0)
    with service.connect() as client:
        client.send(GET + LONG)
        client.wait_closed()
        service.until(lambda: service.connections == 0)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 2 * PATIENCE)
    monkeypatch.setattr(protocol, "LINGER_BYTES", 1000)
    with service.connect() as client:
        client.send(GET + b"A\r\n\r\n")
        assert refusal(*client.json())[:2] == (400, "bad_request")
        client.send(LONG)
        service.until(lambda: service.connections == 0)


def test_what_the_server_refuses_is_in_the_log_by_its_id(service: ServiceThread) -> None:
    """Once a second, and at DEBUG each: whoever sends garbage does not fill the disk."""
    with Records() as records:
        for garbage in (b"\x16\x03\x01\r\n\r\n", GET + LONG):
            with service.connect() as client:
                client.send(garbage)
                _, headers, body = client.json()
                line = records.about(headers["x-request-id"], logging.DEBUG).getMessage()
                assert f"code={body['code']}" in line
    told, *_ = [r.getMessage() for r in records.all if r.levelno > logging.DEBUG]
    assert told.startswith("refused: bad_request=1 (")


# HTTP/1.0

LENGTH = [(b"content-length", b"11")]
ANSWERS: Dict[str, Tuple[int, Any, List[bytes]]] = {
    "no length": (200, [], [b"hello ", b"", b"world", b""]),
    "no length, one piece": (200, [], [b"hello world"]),
    "a length": (200, LENGTH, [b"hello ", b"world"]),
    "a coding of the app's": (200, [(b"Transfer-Encoding", b"chunked")], [b"hello world"]),
    "nothing": (200, [], [b""]),
    "no body": (204, [], [b""]),
    "not modified": (304, [], [b""]),
}


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_in_http_1_0_ends_with_the_connection(
    http: str, what: str, method: bytes
) -> None:
    """Such a client knows no chunks, and would take their sizes for text (RFC 9112, 6.1)."""
    status, headers, pieces = ANSWERS[what]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["http_version"] == "1.0"
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    request = method + b" / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    written, closed = asyncio.run(conversation(serving(app, http), [request + request]))
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"transfer-encoding" not in head.lower()
    assert (b"content-length: 11" in head.lower()) == (what == "a length")
    assert b"connection: close" in head.lower()
    assert body == (b"" if method == b"HEAD" else b"".join(pieces))
    assert closed


def test_an_app_that_fails_in_http_1_0_is_told_of(http: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError

    written, closed = asyncio.run(conversation(serving(app, http), [b"GET / HTTP/1.0\r\n\r\n"]))
    assert written.startswith(b"HTTP/1.1 500 ")
    assert b"transfer-encoding" not in written.lower()
    assert (written.endswith(b"\r\n\r\nInternal Server Error"), closed) == (True, True)


def test_a_chat_in_http_1_0_is_a_stream_without_chunks(service: ServiceThread) -> None:
    whole = request({"message": "hi"}).replace(b"HTTP/1.1", b"HTTP/1.0")
    with service.connect() as client:
        client.send(whole)
        status, headers = client.head()
        assert (status, headers["connection"]) == (200, "close")
        assert "transfer-encoding" not in headers
        frames = Decoder().feed(client.rest())
    assert last(frames)[0] == "done"


# Contexts


@pytest.mark.parametrize("pipelined", [False, True])
def test_each_request_has_a_context_of_its_own(wire: Dict[str, Any], pipelined: bool) -> None:
    """What the first one's middleware has set, such as its user, is nothing to the second one.

    A large body makes the server resume reading in the request's task, which is how a context
    gets to the next request on a connection that is kept alive.
    """
    user: ContextVar[str] = ContextVar("user")
    app = create_app(settings=Settings())
    seen: List[str] = []

    class Middleware:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                seen.append(user.get("nobody"))
                user.set("first")
            await self.app(scope, receive, send)

    app.add_middleware(Middleware)
    with ServiceThread(app, Settings(), **wire) as service, service.connect() as client:
        whole = request({"message": "hi"})
        large = request({"message": "hi", "more": "a" * 100_000})
        if pipelined:
            client.send(whole * 3)
        for number in range(3):
            if not pipelined:
                client.send(large)
            assert client.head()[0] == 200
            assert last(client.frames())[0] == "done"
            assert len(seen) > number
    assert seen == ["nobody"] * 3


# The end of a connection


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "when",
    [
        "idle",
        "a head",
        "a body",
        "a stream",
        "a stream and a head",
        "an answer",
        "a refusal",
        "garbage",
    ],
)
def test_a_lost_connection_leaves_nothing_to_the_collector(
    wire: Dict[str, Any], when: str, how: str
) -> None:
    """It comes round late to what has grown old, and that may be many megabytes."""
    paced = PacedResponder()
    settings = Settings()
    with ServiceThread(create_app(paced, settings=settings), settings, **wire) as service:
        client = service.connect()
        service.until(lambda: service.connections > 0)
        left = service.call(
            lambda: [weakref.ref(protocol) for protocol in service._server.server_state.connections]
        )
        if when == "a body":
            client.send(request({"message": "hi"})[:-5])
            service.until(lambda: service.app.open_streams > 0)
        elif when.startswith("a stream"):
            client.post({"message": "hi"})
            client.head()
            paced.ask()
            client.frame()
            client.send(GET * when.endswith("head") + b"\r\n")
        elif when == "an answer":
            client.ask("/health")
            client.json()
        elif when in ("a refusal", "garbage"):
            client.send(GET + MANY + b"\r\n" if when == "a refusal" else b"{}\r\n\r\n")
            client.json()
        elif when == "a head":
            client.send(GET)
        getattr(client, how)()
        service.until(lambda: all(ref() is None for ref in left))

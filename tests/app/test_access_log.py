"""The access log: a line for each request, whoever answers it, when its response has ended."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Optional

import pytest

from omniforge_chat import Settings, create_app

from ..support.client import Client
from ..support.conducted import Conductor
from ..support.constants import CONVERSATION
from ..support.logs import Records
from ..support.servers import ServiceThread
from ..support.traces import SAMPLED, TRACE

KEY = "ofk_0123456789abcdef0123456789"


@pytest.fixture(scope="module", params=["httptools", "h11"])
def served(request: pytest.FixtureRequest, conductor: Conductor) -> Iterator[ServiceThread]:
    """A service on each parser."""
    settings = Settings(access_log=True, page=True, api_keys=f"tester:{KEY}")
    app = create_app(conductor, settings=settings)
    with ServiceThread(app, settings, http=request.param) as service:
        yield service


Logged = Callable[[str], Dict[str, Any]]


@pytest.fixture
def logged() -> Iterator[Logged]:
    """The line of the next request in which a text occurs."""
    with Records() as records:

        def line(text: str) -> Dict[str, Any]:
            while True:
                fields = vars(records.about(text)).get("access")
                if fields is not None:
                    assert isinstance(fields.pop("ms"), (float, type(None)))
                    return dict(fields)

        yield line


def known(path: str, status: Optional[int], size: int, **more: str) -> Dict[str, Any]:
    """A line with these fields."""
    method = more.pop("method", "POST")
    first = {"method": method, "path": path, "status": status, "bytes": size}
    return {**first, "client": "127.0.0.1", **more}


def test_a_chat_is_logged_at_the_end_of_its_stream(
    port: int, conductor: Conductor, message: str, logged: Logged
) -> None:
    """With who asked, and in which trace."""
    with Client(port) as client:
        headers = {"X-API-Key": KEY, "X-Request-ID": "ref-1", "traceparent": SAMPLED}
        body = {"message": message, "conversation_id": CONVERSATION}
        client.post(body, path="/api/v1/chat?secret=1", headers=headers)
        reply = conductor.reply(message)
        reply.say("one")
        reply.finish()
        client.head()
        frames = client.frames()
    assert frames[-1].event == "done"
    line = logged("request method")
    size = line.pop("bytes")
    assert size > 100
    assert {**line, "bytes": size} == known(
        "/api/v1/chat", 200, size, request_id="ref-1", caller="key:tester", trace_id=TRACE
    )


def test_a_client_that_leaves_has_its_line_too(
    port: int, conductor: Conductor, message: str, logged: Logged
) -> None:
    """There is no end of the response that could bring it."""
    with Client(port) as client:
        client.post({"message": message}, headers={"X-API-Key": KEY, "X-Request-ID": "ref-1"})
        reply = conductor.reply(message)
        reply.say("one")
        client.head()
        client.frame()
    assert logged("ref-1 caller=key:tester")["status"] == 200


def test_other_routes_and_refusals_are_logged(port: int, logged: Logged) -> None:
    """Also those of a layer around the routes. What a HEAD has no body of has no bytes."""
    asked = {
        "/health": ("GET", 200),
        "/ready": ("HEAD", 200),
        "/nothing?x=1": ("GET", 404),
        "/api/v1/chat": ("GET", 405),
    }
    with Client(port) as client:
        for path, (method, status) in asked.items():
            client.ask(path, method=method, headers={"X-Request-ID": f"ref{path[:4]}"})
            found, fields = client.head()
            assert found == status
            if method != "HEAD":
                client.content(fields)
            line = logged("request method")
            assert (line["method"], line["path"]) == (method, path.partition("?")[0])
            assert (line["status"], line["request_id"]) == (status, f"ref{path[:4]}")
            assert (line["bytes"] == 0) is (method == "HEAD")
        client.post({"message": "hi"}, headers={"X-Request-ID": "ref-2"})
        assert client.head()[0] == 401
        assert logged("ref-2")["status"] == 401


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NOTHTTP\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: %s\r\n\r\n" % (b"x" * 70_000), 431),
    ],
)
def test_what_the_server_refuses_is_logged(
    data: bytes, status: int, port: int, logged: Logged
) -> None:
    """Without the parts of its head, which say nothing for sure."""
    with Client(port) as client:
        client.send(data)
        found, fields = client.head()
        assert found == status
        size = len(client.content(fields))
    line = logged("request method=None path=None")
    assert len(line.pop("request_id")) == 32
    assert line == {
        "method": None,
        "path": None,
        "status": status,
        "bytes": size,
        "client": "127.0.0.1",
    }


def test_a_path_cannot_forge_a_line(port: int, logged: Logged) -> None:
    """It is logged as it was sent: what it stands for may be the end of a line."""
    with Client(port) as client:
        client.ask("/x%0A2026-01-01 ERROR".replace(" ", "%20"))
        client.head()
    assert logged("request method")["path"] == "/x%0A2026-01-01%20ERROR"


def test_a_forwarded_address_cannot_forge_a_field(port: int, logged: Logged) -> None:
    """Some proxies pass on whatever their client says about itself."""
    with Client(port) as client:
        client.ask("/forwarded", headers={"X-Forwarded-For": "x\x85 caller=somebody"})
        client.head()
    fields = logged("/forwarded")
    assert fields["client"] == "x??caller=somebody"
    assert "caller" not in fields

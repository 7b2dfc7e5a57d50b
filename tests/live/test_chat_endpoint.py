"""POST /api/v1/chat over a socket, with each parser and each event loop of uvicorn.

Each kind of answer comes once over each wire. What else there is to say of a body, a header or an
error is said where no socket is needed.
"""

from __future__ import annotations

import json
import select
from typing import Any, AsyncIterator, Dict, Iterator, List

import pytest

from omniforge_chat import Settings, Turn, create_app
from omniforge_chat.core.responder import Item, Responder
from omniforge_chat.responders import placeholder

from ..support.answers import last, refusal, text
from ..support.client import assert_next_request_works, request
from ..support.constants import CONVERSATION
from ..support.responders import PacedResponder, saying
from ..support.servers import WIRES, UvicornThread

HEAD = b"POST /api/v1/chat HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


class Stage:
    """A server whose responder each test replaces with its own: servers take long to start."""

    def __init__(self, wire: Dict[str, Any]) -> None:
        self.responder: Responder = placeholder
        self.server = UvicornThread(create_app(self._respond, settings=Settings()), **wire)

    def _respond(self, turn: Turn) -> AsyncIterator[Item]:
        return self.responder(turn)


@pytest.fixture(scope="module", params=WIRES)
def wire(request: pytest.FixtureRequest) -> Dict[str, Any]:
    options: Dict[str, Any] = request.param
    return options


@pytest.fixture(scope="module")
def theatre(wire: Dict[str, Any]) -> Iterator[Stage]:
    stage = Stage(wire)
    with stage.server:
        yield stage


@pytest.fixture
def stage(theatre: Stage) -> Stage:
    theatre.responder = placeholder
    return theatre


@pytest.fixture
def server(stage: Stage) -> UvicornThread:
    return stage.server


# The stream


def test_a_message_is_answered_with_chunks_and_done(server: UvicornThread) -> None:
    """The README's first example."""
    with server.chat("Hello", conversation_id=CONVERSATION) as client:
        status, headers = client.head()
        assert status == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-conversation-id"] == CONVERSATION
        assert "connection" not in headers
        frames = client.frames()
        assert len(frames) == 6
        assert text(frames).startswith('Thank you for your message. You said: "Hello". ')
        usage = {"tokens": len(text(frames)) // 4, "estimated": True}
        assert last(frames) == ("done", {"conversation_id": CONVERSATION, "usage": usage})


def test_headers_and_chunks_arrive_while_the_responder_waits(stage: Stage) -> None:
    """A token that is held back until the next one comes is always one token late."""
    stage.responder = paced = PacedResponder()
    with stage.server.chat() as client:
        assert client.head()[0] == 200
        for number in range(3):
            paced.ask()
            assert json.loads(client.frame().data) == {"content": f"{number} "}
        assert not paced.closed.is_set()
        paced.finish()
        assert last(client.frames())[0] == "done"


def test_the_responder_gets_the_message_as_it_was_sent_and_the_client_its_reply(
    stage: Stage,
) -> None:
    """Line breaks, NUL, emoji, marks of direction, frames of our own: all of them are only text."""
    odd = " \n\t\0שלום \u202eabc\u202c👩\u200d👧é e\u0301 \ufeff\u2028\x85\x1f"  # noqa: RUF001
    odd += "\n\ndata: x\n\nevent: done\ndata: {}\n\n \r\n "
    message = odd + "😀" * (10_000 - len(odd))
    seen: List[str] = []

    async def echo(turn: Turn) -> AsyncIterator[str]:
        seen.append(turn.message)
        yield turn.message

    stage.responder = echo
    with stage.server.connect() as client:
        for ascii_only in (True, False):
            client.post(json.dumps({"message": message}, ensure_ascii=ascii_only).encode())
            client.head()
            frames = client.frames()
            assert last(frames)[0] == "done"
            assert text(frames) == message
    assert seen == [message, message]


def test_a_reply_that_fails_ends_with_the_error_and_the_connection_goes_on(stage: Stage) -> None:
    """A client may rely on a terminal event, and needs no new connection after it."""
    stage.responder = saying("12345678", RuntimeError("the secret cause"))
    with stage.server.chat() as client:
        reference = client.head()[1]["x-request-id"]
        assert last(client.frames()) == (
            "error",
            {
                "code": "processing_error",
                "message": f"Error generating response (reference {reference})",
                "usage": {"tokens": 2, "estimated": True},
            },
        )
        stage.responder = placeholder
        assert_next_request_works(client)


# The request


def test_a_second_request_that_did_not_wait_is_answered_second(server: UvicornThread) -> None:
    """HTTP/1.1 lets a client pipeline: the second request lies in the buffer during the first."""
    with server.connect() as client:
        client.send(request({"message": "one"}) + request({"message": "two"}))
        for word in ("one", "two"):
            client.head()
            frames = client.frames()
            assert f'"{word}"' in text(frames)
            assert last(frames)[0] == "done"


def test_a_body_in_many_small_parts_is_put_together(server: UvicornThread) -> None:
    """TCP may part a request anywhere, also within a character."""
    body = json.dumps({"message": "Grüße 👋"}, ensure_ascii=False).encode()
    with server.connect() as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert client.head()[0] == 200
        assert '"Grüße 👋"' in text(client.frames())
        assert_next_request_works(client)


def test_a_client_that_asks_before_it_sends_its_body_may_go_on(server: UvicornThread) -> None:
    """curl sends `Expect: 100-continue` with larger bodies, and waits (RFC 9110, 10.1.1)."""
    asking = request({"message": "hi"}, headers={"Expect": "100-continue"})
    head, _, body = asking.partition(b"\r\n\r\n")
    with server.connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.head()[0] == 100
        client.send(body)
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"


# Refusals


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        pytest.param(request(b"[" * 100_000), 400, "validation_error", id="no object"),
        pytest.param(request({}), 422, "validation_error", id="a wrong field"),
        pytest.param(
            request({}, headers={"Content-Type": ""}), 415, "unsupported_media_type", id="no type"
        ),
        pytest.param(request({}, path="/%ff%00?a=b"), 404, "not_found", id="a path of odd bytes"),
        pytest.param(request({}, path="/health"), 405, "method_not_allowed", id="a wrong method"),
    ],
)
def test_a_refused_request_costs_only_itself(
    server: UvicornThread, asked: bytes, status: int, code: str
) -> None:
    """Each kind of refusal has the one shape, and the connection goes on."""
    with server.connect() as client:
        client.send(asked)
        assert refusal(*client.json())[:2] == (status, code)
        assert_next_request_works(client)


@pytest.mark.parametrize(
    ("fields", "first", "rest"),
    [
        (b"Content-Length: 1000000", b"", b" " * 1_000_000),
        (b"Content-Length: 1000000\r\nExpect: 100-continue", b"", b" " * 1_000_000),
        (b"Transfer-Encoding: chunked", b"20001\r\n" + b" " * 0x20001, b"\r\n1\r\n \r\n0\r\n\r\n"),
    ],
    ids=["announced", "asked first", "grown"],
)
def test_a_body_too_large_is_refused_before_its_end(
    server: UvicornThread, fields: bytes, first: bytes, rest: bytes
) -> None:
    """Waiting for a megabyte to say no to it helps nobody, and a chunked body may have no end."""
    with server.connect() as client:
        client.send(HEAD + fields + b"\r\n\r\n" + first)
        assert refusal(*client.json())[:2] == (413, "payload_too_large")
        client.send(rest)
        assert_next_request_works(client)


def test_an_answer_to_head_ends_with_its_headers(server: UvicornThread) -> None:
    """Load balancers ask so, and would take a body for the next answer."""
    with server.connect() as client:
        for path, status in (("/api/v1/chat", 405), ("/health", 200)):
            client.ask(path, method="HEAD")
            got, headers = client.head()
            assert got == status
            assert int(headers["content-length"]) > 0
        assert_next_request_works(client)


def test_a_body_that_does_not_arrive_in_time_is_cut_off(wire: Dict[str, Any]) -> None:
    """The limit is for the whole body: one byte now and then does not keep a connection."""
    app = create_app(settings=Settings(body_timeout=0.3))
    with UvicornThread(app, **wire) as server, server.connect() as client:
        client.send(HEAD + b"Content-Length: 1000\r\n\r\n")
        for _ in range(900):
            if select.select([client.socket], [], [], 0.02)[0]:
                break
            client.send(b" ")
        status, headers, body = client.json()
        assert refusal(status, headers, body)[:2] == (408, "request_timeout")
        # What comes of this body later would be taken for the next request.
        assert headers["connection"] == "close"
        client.wait_closed()


def test_a_body_longer_than_announced_is_read_to_that_length(server: UvicornThread) -> None:
    """What lies behind it is no request, so this connection ends."""
    with server.connect() as client:
        client.post(b'{"message"', headers={"Content-Length": "10"})
        assert refusal(*client.json())[:2] == (400, "validation_error")
        client.send(b':"hi"}\r\n\r\n')
        assert client.head()[0] == 400
        client.wait_closed()

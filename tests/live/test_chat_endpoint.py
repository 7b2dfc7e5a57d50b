"""POST /api/v1/chat on a real server: the contract, as a client sees it."""

from __future__ import annotations

import json
import logging
import re
import select
import socket
import uuid
from typing import Any, AsyncIterator, Dict, Iterator, List, Set

import pytest

from omniforge_chat import ChatError, Settings, Turn, Usage, create_app
from omniforge_chat.core.reply import Item, Responder
from omniforge_chat.responders import placeholder

from ..support.answers import last, refusal, text
from ..support.client import assert_next_request_works, request
from ..support.constants import CONVERSATION, PATIENCE
from ..support.logs import Records
from ..support.responders import PacedResponder
from ..support.servers import WIRES, UvicornThread

LIMIT = Settings().max_body_bytes


class Stage:
    """A server whose responder each test replaces with its own: servers take long to start."""

    def __init__(self, wire: Dict[str, Any]) -> None:
        self.responder: Responder = placeholder
        self.server = UvicornThread(create_app(self._respond, settings=Settings()), **wire)

    def _respond(self, turn: Turn) -> AsyncIterator[Item]:
        return self.responder(turn)


@pytest.fixture(scope="module", params=WIRES)
def theatre(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    with stage.server:
        yield stage


@pytest.fixture
def stage(theatre: Stage) -> Stage:
    theatre.responder = placeholder
    return theatre


@pytest.fixture(scope="module")
def one_theatre() -> Iterator[Stage]:
    stage = Stage({})
    with stage.server:
        yield stage


@pytest.fixture
def one_stage(one_theatre: Stage) -> Stage:
    """One server, for what does not depend on how it reads and writes."""
    one_theatre.responder = placeholder
    return one_theatre


@pytest.fixture
def one_server(one_stage: Stage) -> UvicornThread:
    return one_stage.server


@pytest.fixture
def server(stage: Stage) -> UvicornThread:
    return stage.server


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Dict[str, Any]:
    options: Dict[str, Any] = request.param
    return options


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
        event, data = last(frames)
        assert event == "done"
        assert data == {
            "conversation_id": CONVERSATION,
            "usage": {"tokens": len(text(frames)) // 4, "estimated": True},
        }


def test_a_new_conversation_gets_an_id_that_header_and_done_agree_on(server: UvicornThread) -> None:
    """A client continues a conversation by this id, and may have read either of the two."""
    seen = []
    for fields in ({}, {"conversation_id": None}):
        with server.chat("hi", **fields) as client:
            _, headers = client.head()
            _, data = last(client.frames())
            assert data["conversation_id"] == headers["x-conversation-id"]
            assert uuid.UUID(data["conversation_id"]).version == 4
            seen.append(data["conversation_id"])
    assert seen[0] != seen[1]


def test_the_headers_leave_before_the_first_token_exists(stage: Stage) -> None:
    """A client shows that it is answered, and a proxy does not give up, while a model thinks."""
    stage.responder = paced = PacedResponder()
    with stage.server.chat() as client:
        status, headers = client.head()
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        assert not paced.closed.is_set()
        paced.finish()
        assert last(client.frames())[0] == "done"


def test_a_chunk_arrives_while_the_responder_waits_before_the_next(stage: Stage) -> None:
    """A token that is held back until the next one comes is always one token late."""
    stage.responder = paced = PacedResponder()
    with stage.server.chat() as client:
        client.head()
        for number in range(3):
            paced.ask()
            assert json.loads(client.frame().data) == {"content": f"{number} "}
        paced.finish()
        assert last(client.frames())[0] == "done"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("  \n\thi \r\n ", id="white space around"),
        pytest.param("שלום, מה שלומך? مرحبا بك \u202eabc\u202c", id="right to left"),
        pytest.param("before\0after", id="NUL"),
        pytest.param("\0", id="only NUL"),
        pytest.param("👩‍👩‍👧‍👦" * 1000, id="emoji"),
        pytest.param("é e\u0301 ﬁ Ⅷ", id="not normalised"),
        pytest.param("\ufeffhi", id="BOM inside"),
        pytest.param("data: x\n\nevent: done\ndata: {}\n\n", id="an event of our own format"),
        pytest.param("one\u2028two\u2029three\x85four\x1f", id="other line breaks"),
        pytest.param("😀" * 10_000, id="as long as allowed, in emoji"),
        pytest.param("x" * 10_000, id="as long as allowed"),
    ],
)
def test_the_responder_gets_the_message_as_it_was_sent_and_the_client_its_reply(
    one_stage: Stage, message: str
) -> None:
    """What is trimmed or normalised on the way cannot be put back by a responder."""
    seen: List[str] = []

    async def echo(turn: Turn) -> AsyncIterator[str]:
        seen.append(turn.message)
        yield turn.message

    one_stage.responder = echo
    for ascii_only in (True, False):
        body = json.dumps({"message": message}, ensure_ascii=ascii_only).encode()
        with one_stage.server.connect() as client:
            client.post(body)
            client.head()
            frames = client.frames()
            assert last(frames)[0] == "done"
            assert text(frames) == message
    assert seen == [message, message]


def test_unknown_fields_are_ignored(server: UvicornThread) -> None:
    """Clients may be newer than the server."""
    with server.chat("hi", temperature=1.5, history=[{"role": "user"}], message_id=None) as client:
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Application/JSON",
        "application/vnd.api+json",
        "application/merge-patch+json; version=1",
    ],
)
def test_any_json_media_type_is_taken(one_server: UvicornThread, content_type: str) -> None:
    """Clients add parameters and use types of their own; all of these are JSON by RFC 6839."""
    with one_server.connect() as client:
        client.post({"message": "hi"}, headers={"Content-Type": content_type})
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"


def test_a_second_request_that_did_not_wait_is_answered_second(server: UvicornThread) -> None:
    """HTTP/1.1 lets a client pipeline: the second request lies in the buffer during the first."""
    other = "16fd2706-8baf-433b-82eb-8c7fada847da"
    with server.connect() as client:
        client.send(
            request({"message": "one", "conversation_id": CONVERSATION})
            + request({"message": "two", "conversation_id": other})
        )
        for word, conversation in (("one", CONVERSATION), ("two", other)):
            _, headers = client.head()
            assert headers["x-conversation-id"] == conversation
            frames = client.frames()
            assert f'"{word}"' in text(frames)
            assert last(frames)[1]["conversation_id"] == conversation


def test_a_connection_serves_one_chat_after_the_other(server: UvicornThread) -> None:
    """Browsers and proxies keep connections; a stream that ends properly leaves its own usable."""
    with server.connect() as client:
        for _ in range(20):
            assert_next_request_works(client)


def test_a_body_in_many_small_parts_is_put_together(server: UvicornThread) -> None:
    """TCP may part a request anywhere, also within a character."""
    body = json.dumps({"message": "Grüße 👋"}, ensure_ascii=False).encode()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with server.connect() as client:
        client.send(
            b"POST /api/v1/chat HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        client.send(chunked)
        assert client.head()[0] == 200
        assert '"Grüße 👋"' in text(client.frames())
        assert_next_request_works(client)


def test_a_client_that_asks_before_it_sends_its_body_may_go_on(
    server: UvicornThread,
) -> None:
    """curl sends `Expect: 100-continue` with larger bodies, and waits (RFC 9110, 10.1.1)."""
    head, _, body = request({"message": "hi"}, headers={"Expect": "100-continue"}).partition(
        b"\r\n\r\n"
    )
    with server.connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.head()[0] == 100
        client.send(body)
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"
        assert_next_request_works(client)


# The request id


@pytest.mark.parametrize("sent", ["7", "a" * 128, "req_01:ab/cd-ef~!#$%&'*+", '"quoted,\\{}"'])
def test_a_usable_request_id_of_the_client_is_kept(one_stage: Stage, sent: str) -> None:
    """The client's own log, ours, and the responder's then speak of the same request."""
    seen: List[str] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        seen.append(turn.request_id)
        yield "hi"

    one_stage.responder = respond
    with one_stage.server.connect() as client:
        client.post({"message": "hi"}, headers={"X-Request-ID": sent})
        _, headers = client.head()
        assert headers["x-request-id"] == sent
        client.frames()
        client.post(b"[]", headers={"X-Request-ID": sent})
        assert client.json()[1]["x-request-id"] == sent
    assert seen == [sent]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 129, id="too long"),
        pytest.param("two words", id="a space"),
        pytest.param("tab\tbed", id="a tab"),
        pytest.param("caf\xe9", id="latin-1"),
        pytest.param("\x80\xff\xfe", id="odd bytes"),
        pytest.param("Grüße".encode().decode("latin-1"), id="UTF-8"),
    ],
)
def test_an_unusable_request_id_is_replaced(one_server: UvicornThread, sent: str) -> None:
    """What a log line or a header of ours cannot carry safely goes no further."""
    with one_server.connect() as client:
        for field in ("message", "text"):
            client.post({field: "hi"}, headers={"X-Request-ID": sent})
            status, headers = client.head()
            assert re.fullmatch(r"[!-~]{1,128}", headers["x-request-id"])
            assert headers["x-request-id"] not in sent
            if status == 200:
                client.frames()
            else:
                client.content(headers)
        assert_next_request_works(client)


def test_requests_without_an_id_get_one_each(server: UvicornThread) -> None:
    """Two requests on one connection are two lines in the log."""
    seen = set()
    with server.connect() as client:
        for _ in range(3):
            client.post({"message": "hi"})
            seen.add(client.head()[1]["x-request-id"])
            client.frames()
    assert len(seen) == 3


# Errors before the stream

_TOO_LONG = "message: Message exceeds maximum length of 10000 characters"
_UUID = "conversation_id: must be a UUID of version 4"


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        pytest.param(b"", 400, "validation_error", "empty", id="empty"),
        pytest.param(b" \n", 400, "validation_error", "body: ", id="only white space"),
        pytest.param(b"{", 400, "validation_error", "body: ", id="cut off"),
        pytest.param(b"message=hi", 400, "validation_error", "body: ", id="a form"),
        pytest.param(b'{"message":"hi"}}', 400, "validation_error", "body: ", id="more behind it"),
        pytest.param(b'{"message":"\xff"}', 400, "validation_error", "not UTF-8", id="not UTF-8"),
        pytest.param(
            '{"message":"hi"}'.encode("utf-16"), 400, "validation_error", "not UTF-8", id="UTF-16"
        ),
        pytest.param(
            b'{"message":"hi","x":"\xc3"}',
            400,
            "validation_error",
            "not UTF-8",
            id="not UTF-8 in a field that nobody asked for",
        ),
        pytest.param(
            b'{"message":"\\ud800"}', 400, "validation_error", "surrogate", id="a lone surrogate"
        ),
        pytest.param(
            b'{"message":"\xed\xa0\x80"}',
            400,
            "validation_error",
            "not UTF-8",
            id="a surrogate in bytes",
        ),
        pytest.param(b"[" * 100_000, 400, "validation_error", "body: ", id="100,000 brackets deep"),
        pytest.param(
            b'{"message":"hi","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            400,
            "validation_error",
            "deep",
            id="deep in a field that nobody asked for",
        ),
        pytest.param(b'{"message":NaN}', 400, "validation_error", "body: ", id="NaN"),
        pytest.param(
            b'\xef\xbb\xbf{"message":"hi"}', 400, "validation_error", "byte order mark", id="a BOM"
        ),
        pytest.param(b'["hi"]', 400, "validation_error", "object", id="an array"),
        pytest.param(b'"hi"', 400, "validation_error", "object", id="a string"),
        pytest.param(b"null", 400, "validation_error", "object", id="null"),
        pytest.param(b"{}", 422, "validation_error", "message: ", id="no message"),
        pytest.param(b'{"message":""}', 422, "validation_error", "message: ", id="empty message"),
        pytest.param(b'{"message":42}', 422, "validation_error", "message: ", id="a number"),
        pytest.param(b'{"message":null}', 422, "validation_error", "message: ", id="null message"),
        pytest.param(
            json.dumps({"message": " \t\n\u00a0\u2003\u3000\u2028\x85"}).encode(),
            422,
            "validation_error",
            "message: ",
            id="only white space of the Unicode kinds",
        ),
        pytest.param(
            json.dumps({"message": "x" * 10_001}).encode(),
            422,
            "message_too_long",
            _TOO_LONG,
            id="10,001 characters",
        ),
        pytest.param(
            json.dumps({"message": "😀" * 10_001}, ensure_ascii=False).encode(),
            422,
            "message_too_long",
            _TOO_LONG,
            id="10,001 emoji",
        ),
        pytest.param(
            b'{"message":"hi","conversation_id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8"}',
            422,
            "validation_error",
            _UUID,
            id="a UUID of version 1",
        ),
        pytest.param(
            b'{"message":"hi","conversation_id":"550E8400-E29B-41D4-A716-446655440000"}',
            422,
            "validation_error",
            _UUID,
            id="a UUID in upper case",
        ),
        pytest.param(
            b'{"message":"hi","conversation_id":""}',
            422,
            "validation_error",
            _UUID,
            id="an empty id",
        ),
        pytest.param(
            b'{"message":"hi","conversation_id":7}',
            422,
            "validation_error",
            "conversation_id: must be a string, not a number",
            id="a number for an id",
        ),
    ],
)
def test_a_body_that_is_not_nice_is_refused_and_the_connection_goes_on(
    one_server: UvicornThread, body: bytes, status: int, code: str, said: str
) -> None:
    """Any bytes get an answer that helps, and cost only their own request."""
    with one_server.connect() as client:
        client.post(body)
        got, got_code, message = refusal(*client.json())
        assert (got, got_code) == (status, code)
        assert said in message
        assert_next_request_works(client)


def test_all_wrong_fields_are_named_at_once(server: UvicornThread) -> None:
    """Nobody likes to be told of the second mistake after mending the first."""
    with server.connect() as client:
        client.post({"message": 1, "conversation_id": []})
        _, _, message = refusal(*client.json())
        assert message == (
            "message: must be a string, not a number; "
            "conversation_id: must be a string, not an array"
        )


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/json; application/json",
        "application/x+json+x",
    ],
)
def test_what_is_not_declared_as_json_is_refused(
    one_server: UvicornThread, content_type: str
) -> None:
    """A page of another site can send forms and plain text without asking first (CORS)."""
    with one_server.connect() as client:
        client.post({"message": "hi"}, headers={"Content-Type": content_type})
        status, code, message = refusal(*client.json())
        assert (status, code) == (415, "unsupported_media_type")
        assert "application/json" in message
        assert_next_request_works(client)


def test_no_content_type_at_all_is_refused(server: UvicornThread) -> None:
    """Absent is not JSON either."""
    with server.connect() as client:
        client.send(
            b"POST /api/v1/chat HTTP/1.1\r\nHost: test\r\nContent-Length: 16\r\n\r\n"
            b'{"message":"hi"}'
        )
        assert refusal(*client.json())[:2] == (415, "unsupported_media_type")
        assert_next_request_works(client)


def test_a_compressed_body_is_refused_and_not_called_bad_json(server: UvicornThread) -> None:
    """It would be read as JSON and found wanting; the client should learn what is really wrong."""
    with server.connect() as client:
        client.post(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        status, code, message = refusal(*client.json())
        assert (status, code) == (415, "unsupported_media_type")
        assert "Content-Encoding" in message
        assert_next_request_works(client)


@pytest.mark.parametrize("expect", [{}, {"Expect": "100-continue"}], ids=["", "asked first"])
def test_a_body_announced_too_large_is_refused_before_it_is_sent(
    server: UvicornThread, expect: Dict[str, str]
) -> None:
    """Waiting for a megabyte to say no to it helps nobody."""
    body = json.dumps({"message": "hi", "padding": "x" * 1_000_000}).encode()
    head, _, _ = request(body, headers=expect).partition(b"\r\n\r\n")
    with server.connect() as client:
        client.send(head + b"\r\n\r\n")
        status, code, message = refusal(*client.json())
        assert (status, code) == (413, "payload_too_large")
        assert str(LIMIT) in message
        client.send(body)
        assert_next_request_works(client)


def test_a_body_that_grows_too_large_is_refused_before_its_end(server: UvicornThread) -> None:
    """A chunked body announces nothing, and may have no end."""
    part = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    with server.connect() as client:
        client.send(
            b"POST /api/v1/chat HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        client.send(part * (LIMIT // 0x1000 + 1))
        assert refusal(*client.json())[:2] == (413, "payload_too_large")
        client.send(part * 10 + b"0\r\n\r\n")
        assert_next_request_works(client)


def test_a_body_as_large_as_the_limit_is_read(server: UvicornThread) -> None:
    """10,000 characters fit in any JSON escaping, and a limit includes itself."""
    body = json.dumps({"message": "hi"}).encode()
    with server.connect() as client:
        client.post(body + b" " * (LIMIT - len(body)))
        assert client.head()[0] == 200
        client.frames()
        client.post(body + b" " * (LIMIT - len(body) + 1))
        assert refusal(*client.json())[:2] == (413, "payload_too_large")
        assert_next_request_works(client)


@pytest.mark.parametrize("path", ["/", "/api/v1/chat/", "/api/v1", "/%ff%00", "/a?message=hi"])
def test_a_path_that_is_nowhere_is_not_found(one_server: UvicornThread, path: str) -> None:
    """In the shape of all errors, with no redirect and no page of a framework."""
    with one_server.connect() as client:
        for method in ("GET", "POST"):
            client.ask(path, method=method, headers={"Content-Length": "0"})
            status, headers, body = client.json()
            assert refusal(status, headers, body)[:2] == (404, "not_found")
            assert "location" not in headers
        assert_next_request_works(client)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/v1/chat", {"POST"}),
        ("PUT", "/api/v1/chat", {"POST"}),
        ("OPTIONS", "/api/v1/chat", {"POST"}),
        ("PATCH", "/api/v1/chat", {"POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("DELETE", "/ready", {"GET", "HEAD"}),
        ("POST", "/openapi.json", {"GET", "HEAD"}),
        ("POST", "/docs", {"GET", "HEAD"}),
    ],
)
def test_another_method_is_refused_with_those_that_are_allowed(
    one_server: UvicornThread, method: str, path: str, allowed: Set[str]
) -> None:
    """RFC 9110, section 15.5.6, demands `Allow`."""
    with one_server.connect() as client:
        client.ask(path, method=method, headers={"Content-Length": "0"})
        status, headers, body = client.json()
        assert refusal(status, headers, body)[:2] == (405, "method_not_allowed")
        assert {name.strip() for name in headers["allow"].split(",")} == allowed
        assert_next_request_works(client)


def test_a_head_request_to_the_chat_has_no_body(server: UvicornThread) -> None:
    """It is refused like any other method, but an answer to HEAD ends with its headers."""
    with server.connect() as client:
        client.ask("/api/v1/chat", method="HEAD")
        status, headers = client.head()
        assert status == 405
        assert headers["allow"] == "POST"
        assert headers["x-request-id"]
        assert_next_request_works(client)


@pytest.mark.parametrize("trickle", [b"", b" "], ids=["stops", "trickles"])
def test_a_body_that_does_not_arrive_in_time_is_cut_off(
    wire: Dict[str, Any], trickle: bytes
) -> None:
    """The limit is for the whole body: one byte now and then does not keep a connection."""
    app = create_app(settings=Settings(body_timeout=0.3))
    with UvicornThread(app, **wire) as server, server.connect() as client:
        client.send(
            b"POST /api/v1/chat HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"message":"hi"}'
        )
        for _ in range(900):
            readable, _, _ = select.select([client.socket], [], [], 0.02)
            if readable:
                break
            client.send(trickle)
        status, headers, body = client.json()
        assert refusal(status, headers, body) == (
            408,
            "request_timeout",
            "body: did not arrive within 0.3 seconds",
        )
        # What comes of this body later would be taken for the next request.
        assert headers["connection"] == "close"
        client.wait_closed()
        with server.connect() as other:
            assert_next_request_works(other)


def test_a_body_shorter_than_announced_ends_with_the_connection(server: UvicornThread) -> None:
    """There is nobody left to tell, and what came is no request."""
    with Records() as records:
        with server.connect() as client:
            client.post({"message": "hi"}, headers={"Content-Length": "1000"})
            client.socket.shutdown(socket.SHUT_WR)
            client.wait_closed()
        with server.chat() as client:
            reference = client.head()[1]["x-request-id"]
            assert last(client.frames())[0] == "done"
            records.about(reference)
        assert records.troubles == []


def test_a_body_longer_than_announced_is_read_to_that_length(
    server: UvicornThread,
) -> None:
    """What lies behind it is no request, so this connection ends, and only this one."""
    with server.connect() as client:
        client.post(b'{"message"', headers={"Content-Length": "10"})
        assert refusal(*client.json())[:2] == (400, "validation_error")
        client.send(b':"hi"}\r\n\r\n')
        assert client.head()[0] == 400
        client.wait_closed()
    with server.connect() as client:
        assert_next_request_works(client)


def test_beyond_the_limit_of_streams_a_request_is_refused_before_its_body(
    wire: Dict[str, Any],
) -> None:
    """A server that is full says so at once, and when to come again."""
    paced = PacedResponder()
    app = create_app(paced, settings=Settings(max_streams=1))
    with UvicornThread(app, **wire) as server, server.chat() as first, server.connect() as second:
        assert first.head()[0] == 200
        head, _, body = request({"message": "hi"}).partition(b"\r\n\r\n")
        second.send(head + b"\r\n\r\n")
        status, headers, answer = second.json()
        assert refusal(status, headers, answer)[:2] == (503, "overloaded")
        assert int(headers["retry-after"]) >= 1
        second.send(body)
        second.ask("/health")
        assert second.json()[0] == 200
        paced.finish()
        assert last(first.frames())[0] == "done"
        # The place is given back after the last byte has been sent.
        while status == 503:
            second.post({"message": "hi"})
            status, headers = second.head()
            if status == 503:
                second.content(headers)
        assert status == 200
        paced.finish()
        assert last(second.frames())[0] == "done"


def test_what_breaks_unexpectedly_before_the_stream_is_an_internal_error(
    server: UvicornThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client learns nothing of the cause but where the log has it."""

    def fail(body: bytes) -> None:
        raise RuntimeError("the secret cause")

    with Records() as records, server.connect() as client:
        monkeypatch.setattr("omniforge_chat.http.validation.parse", fail)
        client.post({"message": "hi"})
        status, headers, body = client.json()
        reference = headers["x-request-id"]
        assert refusal(status, headers, body)[:2] == (500, "internal_error")
        assert "secret" not in body["message"]
        assert reference in body["message"]
        assert records.about(reference, logging.ERROR).exc_info
        monkeypatch.undo()
        assert_next_request_works(client)


# Errors inside the stream


async def _chat_error(turn: Turn) -> AsyncIterator[str]:
    yield "Let me see. "
    raise ChatError("No such agent: 007", code="no_agent")


async def _chat_error_at_once(turn: Turn) -> AsyncIterator[str]:
    raise ChatError("Not today")
    yield ""


async def _bug(turn: Turn) -> AsyncIterator[str]:
    yield "12345678"
    yield Usage(tokens=41)  # type: ignore[misc]  # as people write it, it says str alone
    raise RuntimeError("the secret cause")


async def _bug_at_once(turn: Turn) -> AsyncIterator[str]:
    raise RuntimeError("the secret cause")
    yield ""


async def _surrogate(turn: Turn) -> AsyncIterator[str]:
    yield "fine "
    yield "half a smile: \ud83d"
    yield "never"


async def _bytes(turn: Turn) -> AsyncIterator[Any]:
    yield b"fine"


_REFERENCE = "Error generating response (reference <id>)"


def _estimate(tokens: int) -> Dict[str, Any]:
    return {"tokens": tokens, "estimated": True}


@pytest.mark.parametrize(
    ("responder", "error"),
    [
        pytest.param(
            _chat_error,
            {"code": "no_agent", "message": "No such agent: 007", "usage": _estimate(3)},
            id="on purpose",
        ),
        pytest.param(
            _chat_error_at_once,
            {"code": "processing_error", "message": "Not today"},
            id="on purpose, at once",
        ),
        pytest.param(
            _bug,
            {"code": "processing_error", "message": _REFERENCE, "usage": {"tokens": 41}},
            id="a bug",
        ),
        pytest.param(
            _bug_at_once, {"code": "processing_error", "message": _REFERENCE}, id="a bug, at once"
        ),
        pytest.param(
            _surrogate,
            {"code": "stream_error", "message": _REFERENCE, "usage": _estimate(1)},
            id="a lone surrogate",
        ),
        pytest.param(
            _bytes, {"code": "stream_error", "message": _REFERENCE}, id="bytes where text belongs"
        ),
    ],
)
def test_a_reply_that_fails_ends_with_the_error_and_nothing_behind_it(
    stage: Stage, responder: Responder, error: Dict[str, Any]
) -> None:
    """A client may rely on a terminal event, and shows its message to the user."""
    stage.responder = responder
    with Records() as records, stage.server.connect() as client:
        client.post({"message": "hi"})
        status, headers = client.head()
        assert status == 200
        reference = headers["x-request-id"]
        event, data = last(client.frames())
        assert event == "error"
        assert data == {**error, "message": error["message"].replace("<id>", reference)}
        fields = records.chat(reference)
        assert fields["outcome"] == error["code"]
        assert fields["tokens"] == error.get("usage", {"tokens": 0})["tokens"]
        assert len(records.troubles) == (1 if error["message"] == _REFERENCE else 0)
        assert all(reference in trouble for trouble in records.troubles)
        stage.responder = placeholder
        assert_next_request_works(client)


# The client leaves


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_ends_the_responder(stage: Stage, how: str) -> None:
    """Nobody pays for tokens that nobody reads: its `finally` runs while it waits for the next."""
    stage.responder = paced = PacedResponder()
    for tokens in (0, 2):
        client = stage.server.chat()
        client.head()
        for _ in range(tokens):
            paced.ask()
            client.frame()
        assert paced.called.wait(PATIENCE)
        getattr(client, how)()
        assert paced.closed.wait(PATIENCE)


# The other routes


@pytest.mark.parametrize(("path", "status"), [("/health", "healthy"), ("/ready", "ready")])
def test_probes_answer(server: UvicornThread, path: str, status: str) -> None:
    """Orchestrators ask with GET, load balancers with HEAD."""
    with server.connect() as client:
        client.ask(path, headers={"X-Request-ID": "probe-1"})
        got, headers, body = client.json()
        assert got == 200
        assert body == {"status": status}
        assert headers["content-type"] == "application/json"
        assert headers["x-request-id"] == "probe-1"
        client.ask(path, method="HEAD")
        got, head_headers = client.head()
        assert got == 200
        assert head_headers["content-length"] == headers["content-length"]
        assert_next_request_works(client)

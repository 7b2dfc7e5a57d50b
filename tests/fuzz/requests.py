"""What clients send: the bodies of all formats, headers, and whole requests to the app."""

from __future__ import annotations

import asyncio
import json
from typing import Any, AsyncIterator, Dict, List, Mapping, Tuple
from urllib.parse import unquote

import msgspec

from omniforge_chat import Item, Settings, Thought, Turn, create_app
from omniforge_chat.core.kept import is_reply_id, read_position
from omniforge_chat.core.sse import is_encodable
from omniforge_chat.dialects import Dialect, Request, make_dialect
from omniforge_chat.errors import RequestError
from omniforge_chat.http.body import check_headers
from omniforge_chat.http.idempotency import read_attempt
from omniforge_chat.request_id import request_id
from omniforge_chat.rules import DIALECTS, is_identifier

from ..support.app import HandDrivenRequest
from ..support.constants import CONVERSATION
from ..support.timeless import timeless
from .target import Target, check_line

# Bodies

_PART = {"type": "text", "text": "Hello"}
_SAID = [
    {"role": "system", "content": "Be brief"},
    {"role": "user", "content": [_PART, {"type": "text", "text": "é😀"}]},
    {"role": "assistant", "content": "Yes", "parts": [_PART]},
    {"role": "tool", "content": None},
    {"role": "user", "content": "Go on", "parts": [_PART, {"type": "file", "url": "data:,x"}]},
]
_BODIES: Dict[str, List[Dict[str, Any]]] = {
    "native": [
        {"message": "Hello", "conversation_id": CONVERSATION, "regenerate": True},
        {"message": "Hello", "edits": "Helo", "on_disconnect": "continue", "x": [1, {}, 1.5]},
        {"message": "Hello", "on_disconnect": 5.5, "conversation_id": None, "regenerate": None},
    ],
    "openai": [
        {"model": "m", "messages": _SAID, "stream": True, "temperature": 0.5, "stop": ["a"]},
        {"model": "m", "messages": _SAID[:2], "stream_options": {"include_usage": True}},
    ],
    "ai_sdk": [
        {"id": "chat-1", "messages": _SAID, "trigger": "submit-message", "system": "Be kind"},
        {"threadId": "a", "messages": _SAID[1:2], "trigger": "regenerate-message", "x": None},
    ],
    "ag_ui": [
        {"threadId": "a", "runId": "b", "messages": _SAID, "protocolVersion": "1.0"},
        {"messages": _SAID[1:2], "forwardedProps": {"temperature": 1, "x": []}, "state": {}},
    ],
}


def _as_json(fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _check_request(request: Request) -> None:
    said = [request.message, request.system, *(m.content for m in request.history or ())]
    assert all(map(is_encodable, said))
    if request.conversation_id is not None:
        assert is_identifier(request.conversation_id)
    assert request.grace is None or request.grace >= 0
    assert {message.role for message in request.history or ()} <= {"user", "assistant"}
    assert request.message.strip() or request.parts
    msgspec.json.encode((request.parameters, request.parts))
    turn = Turn(request.message, request.conversation_id or CONVERSATION, "request-1")
    request.frames(turn).start().decode()


def _check_refusal(dialect: Dialect, error: RequestError) -> None:
    assert 400 <= error.status < 500
    check_line(error.message)
    dialect.refusal(error)[0].decode()


def _shown(request: Request) -> Dict[str, Any]:
    """The fields of a request but the ids that are made for it."""
    return {n: getattr(request, n) for n in request.__struct_fields__ if n != "run_id"}


def _decode(dialect: Dialect, body: bytes) -> None:
    try:
        request = dialect.decode(body, {b"x-conversation-id": b"conversation-1"})
    except RequestError as error:
        _check_refusal(dialect, error)
        return
    _check_request(request)
    try:
        again = msgspec.json.encode(msgspec.json.decode(body))
    except msgspec.DecodeError:
        return  # a number in a field that nobody knows is too large
    # Another way to write the same is the same request.
    assert _shown(dialect.decode(again, {})) == _shown(
        msgspec.structs.replace(request, conversation_id=None)
        if dialect.name == "openai"
        else request
    )


def _bodies_of(name: str) -> Target:
    dialect = make_dialect(name, Settings(), ("file",))
    words = [word.encode() for word in ("user", "assistant", "system", "role", "content", "type")]
    seeds = [_as_json(body) for body in _BODIES[name]]
    return Target(f"{name}-bodies", lambda body: _decode(dialect, body), seeds, words)


# Headers


def _fields(data: bytes) -> List[Tuple[bytes, bytes]]:
    """Header lines, as a server hands them on."""
    pairs = [line.partition(b":") for line in data.replace(b"\0", b"").splitlines()]
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs if name.strip()]


def _read_headers(data: bytes) -> None:
    fields = _fields(data)
    headers: Mapping[bytes, bytes] = dict(fields)
    try:
        check_headers(headers, max_body_bytes=1000)
        attempt = read_attempt(headers, "owner", "/api/v1/chat", data)
        if attempt is not None:
            assert 1 <= len(attempt.key) <= 255
            assert attempt.key.isascii()
            check_line(attempt.key)
            assert len(attempt.fingerprint) == 32
    except RequestError as error:
        check_line(error.message)
    text = headers.get(b"last-event-id", b"").decode("latin-1")
    position = read_position(text)
    if position is not None:
        assert str(position) == text
        assert is_reply_id(position.reply_id)
        assert position.characters >= 0
    assert is_identifier(request_id({"headers": fields}))


_HEADERS = [
    b"content-type: application/json; charset=utf-8\ncontent-length: 12\n",
    b'idempotency-key: "one key"\ncontent-type: application/vnd.api+json\nx-request-id: request-1',
    b"last-event-id: abcdefghijklmnopqrstuv.9007199254740991\ncontent-type: application/json",
    b"idempotency-key: a-b\nlast-event-id: AAAAAAAAAAAAAAAAAAAA-_.0\ncontent-length: 1001",
]

# The app


async def _respond(turn: Turn) -> AsyncIterator[Item]:
    yield "one "
    yield Thought("hm")
    yield turn.message[:100]


def _request(data: bytes) -> HandDrivenRequest:
    """`METHOD target`, header lines, an empty line and the body."""
    head, _, body = data.partition(b"\n\n")
    line, _, fields = head.partition(b"\n")
    method, _, target = line.partition(b" ")
    raw_path, _, query = target.partition(b"?")
    request = HandDrivenRequest(
        method=method.decode("latin-1").upper(),
        raw_path=raw_path,
        path=unquote(raw_path.decode("latin-1")),
        query_string=query,
        parts=[{"type": "http.request", "body": body, "more_body": False}],
    )
    request.scope["headers"] = _fields(fields)
    return request


def _check_answer(request: HandDrivenRequest) -> None:
    assert request.sent, "no answer"
    assert request.status in range(200, 500), request.body
    headers = request.headers
    for name, value in headers.items():
        assert name == name.lower()
        assert is_identifier(name)
        assert not set(value) & set("\r\n\0"), headers
    assert is_identifier(headers["x-request-id"])
    assert not request.sent[-1].get("more_body")
    body = request.body
    if "content-length" in headers and request.scope["method"] != "HEAD":
        assert int(headers["content-length"]) == len(body)
    body.decode()
    kind = headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        assert body.endswith(b"\n\n") or not request.frames
        for frame in request.frames:
            assert frame.data == "[DONE]" or json.loads(frame.data)
    elif kind.startswith("application/json"):
        json.loads(body)


@timeless
async def _answer(data: bytes) -> None:
    settings = Settings(
        dialects=DIALECTS, replay="memory", history="memory", page=True, thoughts=True
    )
    app = create_app(_respond, settings=settings)
    # Twice, as there are things to come back for then.
    for _ in range(2):
        request = _request(data)
        request.scope["method"] = request.scope["method"] or "GET"
        running = asyncio.ensure_future(request.run(app))
        await asyncio.wait([running], timeout=3600)
        assert running.done(), "it does not end"
        await running
        _check_answer(request)
    await app.aclose()


_JSON = b"host: localhost\ncontent-type: application/json\n"
_REQUESTS = [
    *(
        b"POST %b\n%bidempotency-key: a\n\n%b"
        % (make_dialect(name, Settings()).path.encode(), _JSON, _as_json(body))
        for name, bodies in _BODIES.items()
        for body in bodies
    ),
    b"GET /api/v1/chat/replies/abcdefghijklmnopqrstuv?after=3\nlast-event-id: 7\n\n",
    b"POST /api/v1/chat\n%blast-event-id: abcdefghijklmnopqrstuv.7\n\n{}" % _JSON,
    b"DELETE /api/v1/chat/replies/abcdefghijklmnopqrstuv\n\n",
    b"GET /api/v1/conversations/%b/stream\n\n" % CONVERSATION.encode(),
    b"GET /api/v1/conversations/%b\norigin: http://a\n\n" % CONVERSATION.encode(),
    b"GET /api/chat/chat-1/stream\n\n",
    b"OPTIONS /api/v1/chat\norigin: http://a\naccess-control-request-method: POST\n\n",
    *(b"GET %b\naccept: text/html\n\n" % path for path in (b"/", b"/docs", b"/health", b"/x%00/")),
    *(b"GET %b\n\n" % path for path in (b"/openapi.json", b"/v1/models/omniforge", b"/reader.js")),
]


TARGETS = (
    *map(_bodies_of, DIALECTS),
    Target("headers", _read_headers, _HEADERS),
    Target("app", _answer, _REQUESTS, (b"HEAD", b"PUT", b"%2F", b"..", b"//")),
)

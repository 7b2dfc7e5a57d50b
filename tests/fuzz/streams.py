"""Server-sent events: the decoder, the encoder, the frames of replies, the reader for clients."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import httpx

from omniforge_chat import Finish, Item, Settings, Thought, Turn
from omniforge_chat.core.kept import OVER, KeptReply, Position, Recorder
from omniforge_chat.core.reply import Reply
from omniforge_chat.core.sse import (
    MAX_TEXT_BYTES,
    Decoder,
    Frame,
    FrameTooLarge,
    encode,
    encode_texts,
    is_encodable,
)
from omniforge_chat.dialects import make_dialect
from omniforge_chat.dialects.native import FRAMES
from omniforge_chat.errors import ChatError
from omniforge_chat.models import Done, Error
from omniforge_chat.reader import Chat, ChatFailed
from omniforge_chat.rules import DIALECTS

from ..support.constants import CONVERSATION
from ..support.golden import GOLDEN
from ..support.streams import REFUSALS, STREAMS
from .target import Target, same, splits

_STREAMS = [stream.body for stream in STREAMS.values() if len(stream.body) < 2000]

# The decoder


def _decoded(reads: List[bytes], limit: Optional[int] = None) -> Any:
    decoder = Decoder(max_frame_bytes=limit)
    try:
        return [frame for read in reads for frame in decoder.feed(read)], decoder.retry
    except FrameTooLarge:
        return FrameTooLarge


def _decode(data: bytes) -> None:
    for limit in (len(data) // 2, 16):
        same([_decoded(reads, limit) is FrameTooLarge for reads in splits(data)])
    frames, retry = same([_decoded(reads) for reads in splits(data)])
    assert retry is None or retry >= 0
    for frame in frames:
        for text in (frame.event, frame.data, frame.id):
            text.encode()
        assert not set(frame.event + frame.id) & {"\r", "\n"}
        assert frame.event
        assert "\r" not in frame.data
        assert "\0" not in frame.id
        again = Decoder().feed(encode(frame.data, frame.event))
        assert [(f.event, json.loads(f.data)) for f in again] == [(frame.event, frame.data)]


# The encoder


def _text(data: bytes) -> str:
    """Any text: what is no UTF-8 becomes half of a surrogate pair."""
    return data.decode("utf-8", "surrogateescape")


def _encode(data: bytes) -> None:
    texts = _text(data).split("|")
    _check_texts(texts)
    _check_texts([text * (3 * MAX_TEXT_BYTES // (len(text) + 1)) for text in texts[:3]])


def _check_texts(texts: List[str]) -> None:
    given = texts.copy()
    try:
        out = encode_texts(texts, b"data: ", b"\n\n")
    except UnicodeEncodeError:
        assert not all(map(is_encodable, given))
        return
    assert all(map(is_encodable, given))
    assert "".join(texts) == "".join(given)
    assert [json.loads(frame.data) for frame in Decoder().feed(out)] == texts
    lines = out.decode().split("\n")
    assert lines == [*out.decode().splitlines(), ""]
    assert max(map(len, out.split(b"\n"))) <= MAX_TEXT_BYTES + len(b'data: ""')


# Replies


# The fields of all formats.
_BODY = b'{"message":"hi","model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}'
_TURN = Turn("hi", CONVERSATION, "request-1")
_REQUESTS = {name: make_dialect(name, Settings()).decode(_BODY, {}) for name in DIALECTS}


def _deltas(document: Dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content", "") for choice in document.get("choices", []))


_SAID: Dict[str, Callable[[str, Dict[str, Any]], str]] = {
    "native": lambda event, document: document["content"] if event == "chunk" else "",
    "openai": lambda _, document: _deltas(document),
    "ai_sdk": lambda _, d: d["delta"] if d["type"] == "text-delta" else "",
    "ag_ui": lambda _, d: d["delta"] if d["type"] == "TEXT_MESSAGE_CONTENT" else "",
}


def _items(data: bytes) -> Tuple[List[Item], Optional[Exception]]:
    """The items of a reply, and the failure that ends it, if one does."""
    *parts, end = _text(data).split("|")
    items: List[Item] = [Thought(part[1:]) if part[:1] == "?" else part for part in parts]
    if end[:1] == "!":
        return items, ChatError(end[1:], code="own")
    return [*items, Finish(end)], None


def _sent(reply: Reply, items: List[Item], error: Optional[Exception]) -> List[Frame]:
    """The frames of a reply of these items, each sent alone, as a client reads them."""
    sent: List[bytes] = []
    for item in items:
        piece = reply.note(item)
        if piece and not reply.ended:
            reply.ready.append(piece)
            sent.append(reply.frames(last=False))
            reply.sent()
    if error is not None and not reply.ended:
        reply.fail(error)
    reply.complete = not reply.ended
    body = b"".join([*sent, reply.frames(last=True)])
    text = body.decode()
    assert text.splitlines() == text.split("\n")[:-1], "a line is not one to everybody"
    assert body.endswith(b"\n\n")
    return Decoder().feed(body)


def _reply(data: bytes) -> None:
    items, error = _items(data)
    said = ""
    for item in items[: len(items) if error else -1]:
        if not is_encodable(item.text if isinstance(item, Thought) else item):
            break
        said += item if isinstance(item, str) else ""
    for name, request in _REQUESTS.items():
        found: List[str] = []
        reply = Reply(_TURN, request.frames(_TURN), thoughts=True)
        for frame in _sent(reply, items, error):
            if frame.data != "[DONE]":
                found.append(_SAID[name](frame.event, json.loads(frame.data)))
        assert "".join(found) == said, name
    _check_kept(items, error)


class _Recorder(Recorder):
    """Keeps what a reply was recorded with."""

    def __init__(self) -> None:
        self.pieces: List[Union[str, Thought]] = []
        self.last: Union[Done, Error, None] = None

    def add(self, pieces: Sequence[Union[str, Thought]]) -> None:
        self.pieces += pieces

    def end(self, event: Union[Done, Error]) -> None:
        self.last = event


def _check_kept(items: List[Item], error: Optional[Exception]) -> None:
    recorder = _Recorder()
    reply = KeptReply(_TURN, FRAMES, "a" * 22, recorder, thoughts=True)
    frames = _sent(reply, items, error)
    at = 0
    said = []
    for frame in frames[:-1]:
        text = json.loads(frame.data)["content"]
        said.append(Thought(text) if frame.event == "thought" else text)
        at += len(text)
        assert frame.id == str(Position("a" * 22, at))
    assert said == recorder.pieces
    assert frames[-1].event == type(recorder.last).__name__.lower()
    assert frames[-1].id == str(Position("a" * 22, OVER))


# The reader for clients

_TYPES = {b"s": "text/event-stream", b"j": "application/json", b"t": "text/html"}


def _read(data: bytes) -> None:
    """The first byte is the media type; `S` is a stream in pieces."""
    kind = _TYPES.get(data[:1].lower(), "")
    status = 200 if kind == "text/event-stream" else 503
    body = data[1:]

    def outcome(reads: List[bytes]) -> Any:
        def answer(request: httpx.Request) -> httpx.Response:
            headers = {"Content-Type": kind} if kind else {}
            return httpx.Response(status, headers=headers, content=iter(reads))

        pieces: List[str] = []
        thoughts: List[str] = []
        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            chat = Chat(client, "http://h/api/v1/chat", "hi", on_thought=thoughts.append)
            try:
                with chat as reply:
                    pieces.extend(reply)
                end: Tuple[object, ...] = (chat.done,)
            except ChatFailed as error:
                end = (error.code, error.message, error.usage)
        assert all(isinstance(text, str) for text in [*pieces, *thoughts, *end[:-1]])
        return pieces, thoughts, end

    same([repr(outcome(reads)) for reads in splits(body)])


TARGETS = (
    Target("sse-decoder", _decode, _STREAMS, (b"data:", b"event:", b"id:", b"retry:", b": x")),
    Target("sse-encoder", _encode, ["é|Hello \u2028|\x85|\\ud83d|😀".encode(), b"a|b", b""]),
    Target(
        "replies",
        _reply,
        [b"Hello|?hm|?so|wor|ld|stop", b"a|b|!It failed", b"|?|", "é\u2028|?\x85|!😀".encode()],
    ),
    Target(
        "client",
        _read,
        [
            *(b"s" + body for body in _STREAMS),
            *(b"j" + refusal.body for refusal in REFUSALS.values()),
            *(b"s" + path.read_bytes() for path in GOLDEN.glob("native*")),
        ],
    ),
)

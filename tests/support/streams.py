"""Answers as bytes, and what any reader of the chat must make of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

from .constants import CONVERSATION

END = object()
"""What the terminal event of a stream completes."""

Part = Tuple[bytes, object]
"""Bytes, and what they complete: a piece of text, END or nothing (None)."""

DONE_DATA = {"conversation_id": CONVERSATION, "usage": {"tokens": 3}}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a reader makes of an answer: the pieces of text, and `done` or the code of a failure."""

    pieces: List[str]
    end: str
    status: Optional[int] = None
    retry_after: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream in parts, and its end: `done` or the code of its failure."""

    parts: Sequence[Part]
    end: str = "done"

    @property
    def body(self) -> bytes:
        return b"".join(data for data, _ in self.parts)

    def outcome(self, length: int) -> Outcome:
        """What a reader makes of the first `length` bytes."""
        pieces: List[str] = []
        for data, completes in self.parts:
            length -= len(data)
            if length < 0:
                break
            if isinstance(completes, str):
                pieces.append(completes)
            if completes is END:
                return Outcome(pieces, self.end)
        return Outcome(pieces, "cut")


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An answer that is no stream of the chat's."""

    status: int
    content_type: Optional[str]
    body: bytes
    code: str
    retry_after: Optional[str] = None
    seconds: Optional[int] = None

    @property
    def outcome(self) -> Outcome:
        return Outcome([], self.code, self.status, self.seconds)


def frame(name: str, data: object, line: str = "\n", space: str = " ") -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event:{space}{name}{line}data:{space}{text}{line}{line}".encode()


def chunk(text: str, line: str = "\n", space: str = " ") -> Part:
    return frame("chunk", {"content": text}, line, space), text


def quiet(data: Union[bytes, str]) -> Part:
    """Bytes that a reader skips."""
    return data if isinstance(data, bytes) else data.encode(), None


DONE: Part = (frame("done", DONE_DATA), END)
ONE, TWO = chunk("one "), chunk("two")
BOM = b"\xef\xbb\xbf"


def _error(data: object) -> Part:
    return frame("error", data), END


def _bytes(data: str, completes: object) -> Part:
    return data.encode(), completes


def _crlf() -> List[Part]:
    """The CR ends a line already; the LF behind it belongs to what comes next."""
    frames = [chunk("one ", "\r\n"), chunk("two", "\r\n"), (frame("done", DONE_DATA, "\r\n"), END)]
    return [part for data, what in frames for part in ((data[:-1], what), quiet(data[-1:]))]


STREAMS: Dict[str, Stream] = {
    "as the service sends it": Stream([ONE, quiet(":\n"), TWO, quiet(":\n"), DONE]),
    "nothing said": Stream([DONE]),
    "CR LF": Stream(_crlf()),
    "CR": Stream([chunk("one", "\r"), quiet(":\r"), (frame("done", DONE_DATA, "\r"), END)]),
    "all three line ends": Stream(
        [
            _bytes('event: chunk\r\ndata: {"content":"a"}\n\r', "a"),
            _bytes('\n\revent: chunk\ndata: {"content":"b"}\r\n\n', "b"),
            DONE,
        ]
    ),
    "no space behind the colon": Stream([chunk("a", space=""), chunk("b"), DONE]),
    "id and retry in each place": Stream(
        [
            _bytes('id: 1\nevent: chunk\ndata: {"content":"a"}\n\n', "a"),
            _bytes('event: chunk\nid:2\nretry: 10\ndata: {"content":"b"}\n\n', "b"),
            _bytes('event: chunk\ndata: {"content":"c"}\nid\nretry: x\n\n', "c"),
            quiet("id: 3\n\nretry: 5\n\n"),
            DONE,
        ]
    ),
    "heartbeats in each place": Stream(
        [
            quiet(":\n: with words\n:\n\n:::\n\n"),
            _bytes('event: chunk\n:\ndata: {"content":"a"}\n:\n\n', "a"),
            quiet(":data: no\n:event: error\n"),
            DONE,
        ]
    ),
    "a byte order mark": Stream([quiet(BOM), ONE, DONE]),
    "a byte order mark before a heartbeat": Stream([quiet(BOM + b":\n"), ONE, DONE]),
    "a second byte order mark": Stream(
        [quiet(BOM), quiet(BOM + b'event: chunk\ndata: {"content":"no"}\n\n'), ONE, DONE]
    ),
    "data of several lines": Stream(
        [_bytes('data: {"content":\nevent: chunk\ndata:\ndata: "a"}\n\n', "a"), DONE]
    ),
    "the last of two names": Stream(
        [_bytes('event: error\nevent: chunk\ndata: {"content":"a"}\n\n', "a"), DONE]
    ),
    "unknown events": Stream(
        [
            quiet(frame("thought", {"content": "hm"})),
            quiet("data: [DONE]\n\n"),
            quiet("event: Chunk\ndata: {}\n\nevent: chunk \ndata: {}\n\n"),
            quiet("event: message\ndata\n\n"),
            ONE,
            DONE,
        ]
    ),
    "unknown fields": Stream(
        [
            _bytes('foo: bar\n event: no\nevent: chunk\nDATA: no\ndata: {"content":"a"}\n\n', "a"),
            DONE,
        ]
    ),
    "newer fields": Stream(
        [
            (frame("chunk", {"index": 0, "content": "a", "role": None}), "a"),
            DONE,
        ]
    ),
    "names without data": Stream(
        [quiet("event: chunk\n\n"), quiet('data: {"content":"no name"}\n\n'), ONE, DONE]
    ),
    "no text": Stream([chunk(""), DONE]),
    "characters of several bytes": Stream([chunk("zwölf é😀\u2028\x85\ufeff"), DONE]),
    "line breaks and quotes": Stream([chunk('\n\n"event: done\r\n'), DONE]),
    "bytes that are no UTF-8": Stream(
        [(b'event: chunk\ndata: {"content":"a\xff\xf0\x9f\x98"}\n\n', "a\ufffd\ufffd"), DONE]
    ),
    "an error at once": Stream([_error({"code": "timeout", "message": "Late"})], "timeout"),
    "an error behind text": Stream(
        [ONE, _error({"code": "own", "message": "No", "usage": {"tokens": 3}})], "own"
    ),
    "a chunk of empty data": Stream([ONE, _bytes("event: chunk\ndata:\n\n", END)], "unreadable"),
    "a chunk of no JSON": Stream([ONE, _bytes("event: chunk\ndata: {\n\n", END)], "unreadable"),
    "a chunk of no object": Stream([ONE, (frame("chunk", ["a"]), END)], "unreadable"),
    "a chunk of null": Stream([ONE, (frame("chunk", None), END)], "unreadable"),
    "a chunk without content": Stream([ONE, (frame("chunk", {}), END)], "unreadable"),
    "a chunk whose content is no text": Stream(
        [ONE, (frame("chunk", {"content": 1}), END)], "unreadable"
    ),
    "a chunk of brackets alone": Stream(
        [ONE, _bytes(f"event: chunk\ndata: {'[' * 20_000}\n\n", END)], "unreadable"
    ),
    "done of no object": Stream([ONE, (frame("done", [DONE_DATA]), END)], "unreadable"),
    "done of empty data": Stream([ONE, _bytes("event: done\ndata:\n\n", END)], "unreadable"),
    "an error of no JSON": Stream([ONE, _bytes("event: error\ndata: no\n\n", END)], "unreadable"),
    "an error without a code": Stream([_error({"message": "No"})], "unreadable"),
    "a very long line": Stream([chunk("é" * 35_000), quiet(":" + "x" * 9_000 + "\n"), TWO, DONE]),
}
"""One entry a kind."""

HTML = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n\r\n</html>\r\n"

REFUSALS: Dict[str, Refusal] = {
    "the chat's": Refusal(
        *(422, "application/json", b'{"code":"validation_error","message":"message: is required"}'),
        "validation_error",
    ),
    "the chat is full": Refusal(
        *(503, "application/json", b'{"code":"overloaded","message":"Full"}', "overloaded"),
        *("1", 1),
    ),
    "a parameter and capitals": Refusal(
        *(500, "Application/JSON; charset=utf-8", b'{"code":"a","message":"b"}', "a")
    ),
    "problem details": Refusal(
        *(409, "application/problem+json", b'{"code":"a","message":"b"}', "a")
    ),
    "a proxy's page": Refusal(502, "text/html", HTML, "502"),
    "a proxy's page with a date": Refusal(
        503, "text/html", HTML, "503", "Wed, 21 Oct 2026 07:28:00 GMT"
    ),
    "a proxy's text": Refusal(504, "text/plain", b"upstream request timeout", "504"),
    "a page with status 200": Refusal(200, "text/html; charset=utf-8", HTML, "200"),
    "JSON with status 200": Refusal(200, "application/json", b'{"status":"healthy"}', "200"),
    "no Content-Type": Refusal(404, None, b"", "404"),
    "nothing at all": Refusal(204, None, b"", "204"),
    "another stream's status": Refusal(202, "text/event-stream", DONE[0], "202"),
    "another host's JSON": Refusal(401, "application/json", b'{"detail":"Nobody"}', "401"),
    "a list": Refusal(500, "application/json", b'[{"code":"a","message":"b"}]', "500"),
    "null": Refusal(500, "application/json", b"null", "500"),
    "a list as message": Refusal(500, "application/json", b'{"code":"a","message":["b"]}', "500"),
    "a number as code": Refusal(500, "application/json", b'{"code":5,"message":"b"}', "500"),
    "a page that claims to be JSON": Refusal(502, "application/json", HTML, "502"),
    "JSON that was cut": Refusal(502, "application/json", b'{"code":"a","mess', "502"),
    **{
        f"a page with Retry-After: {value[:9]}": Refusal(503, "text/html", HTML, "503", value)
        for value in ("", "-5", "1.5", "1e3", "0x10", "Infinity", "9" * 5_000)
    },
}


def splits(body: bytes) -> Iterator[List[bytes]]:
    """The body as one read, in two parts at each place, and byte by byte.

    A long one is parted at some places only, and read in a thousand bytes or so.
    """
    size = 997 if _long(body) else 1
    yield [body]
    yield [body[i : i + size] for i in range(0, len(body), size)]
    yield from ([prefix, body[len(prefix) :]] for prefix in prefixes(body) if prefix)


def prefixes(body: bytes) -> Iterator[bytes]:
    """The body cut at each place; a long one at some places only."""
    return (body[:i] for i in range(0, len(body), len(body) // 10 if _long(body) else 1))


def _long(body: bytes) -> bool:
    return len(body) > 2000

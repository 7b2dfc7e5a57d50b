"""The service's own format: `POST /api/v1/chat`, and named events."""

from __future__ import annotations

import math
import re
from typing import Any, Collection, Dict, Mapping, Tuple, Union

import msgspec

from ..core.frames import Frames, Opened, Part
from ..core.sse import escaped_json
from ..errors import InvalidFields, MessageTooLong
from ..models import MAX_MESSAGE_CHARACTERS, UUID4_PATTERN, ChatRequest, Chunk, Done, Error, Turn
from ..settings import Settings
from .documents import load
from .protocol import Dialect, Event, Operation, Request

_is_uuid4 = re.compile(UUID4_PATTERN[1:-1]).fullmatch  # because `$` allows a last line feed

_EXAMPLE = {
    "message": "Hello, help me create an agent",
    "conversation_id": "550e8400-e29b-41d4-a716-446655440000",
}


class Native(Dialect):
    """The message alone is sent: a store may hold the conversation."""

    name = "native"
    path = "/api/v1/chat"
    carries_history = False
    resumable = True
    running_path = "/api/v1/conversations/{conversation_id}/stream"
    operation = Operation(
        "chat",
        "Send a message, and read the reply as a stream of server-sent events",
        "The reply: `chunk` any number of times, then exactly one `done` or `error`. Lines that "
        "begin with `:` are heartbeats.",
        ChatRequest,
        _EXAMPLE,
        (
            Event("chunk", Chunk),
            Event("thought", Chunk, "A piece of the model's thoughts, if the service shows them."),
            Event("done", Done),
            Event("error", Error),
        ),
        numbered=True,
    )

    def __init__(self, settings: Settings, parts: Collection[str]) -> None:
        pass

    def decode(self, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
        request = parse(body)
        grace = request.on_disconnect
        return _NativeRequest(
            request.message,
            request.conversation_id,
            bool(request.regenerate),
            request.edits,
            _GRACES[grace] if isinstance(grace, str) else grace,
        )

    def frames(self, turn: Turn) -> Frames:
        return FRAMES


class _NativeRequest(Request, frozen=True, gc=False):
    def frames(self, turn: Turn) -> NativeFrames:
        return FRAMES


class NativeFrames(Frames):
    """The events `chunk`, `thought`, `done` and `error`."""

    _text = Part(b"", b'event: chunk\ndata: {"content":', b"}\n\n", b"")
    _thought = Part(b"", b'event: thought\ndata: {"content":', b"}\n\n", b"")

    opened = Opened(str, 0, _text)
    numbered = True

    def start(self) -> bytes:
        return b""

    def text(self, number: int) -> Part:
        return self._text

    def thought(self, number: int) -> Part:
        return self._thought

    def done(self, done: Done) -> bytes:
        return b"event: done\ndata: %b\n\n" % escaped_json(done)

    def error(self, error: Error) -> bytes:
        return b"event: error\ndata: %b\n\n" % escaped_json(error)


FRAMES = NativeFrames()
"""They are the same for each reply."""

dialect = Native


class _RawFields(msgspec.Struct):
    """The fields of ChatRequest as the bytes of their JSON values; empty if absent."""

    message: msgspec.Raw = msgspec.Raw()
    conversation_id: msgspec.Raw = msgspec.Raw()
    regenerate: msgspec.Raw = msgspec.Raw()
    edits: msgspec.Raw = msgspec.Raw()
    on_disconnect: msgspec.Raw = msgspec.Raw()


_decode_request = msgspec.json.Decoder(ChatRequest).decode
_decode_raw_fields = msgspec.json.Decoder(_RawFields).decode
_decode_value = msgspec.json.Decoder(Union[str, bool, float]).decode
_KINDS = {
    **dict.fromkeys(("message", "conversation_id", "edits"), ("a string",)),
    "regenerate": ("a boolean",),
    "on_disconnect": ("a string", "a number"),
}
_GRACES = {"cancel": 0.0, "continue": math.inf}
_NO_GRACE = "must be cancel, continue, or a number of seconds of at least 0"


def parse(body: bytes) -> ChatRequest:
    """The request in `body`.

    Raises InvalidBody if `body` is no JSON object in UTF-8, and InvalidFields (or MessageTooLong)
    with the names of all wrong fields.
    """
    problems: Dict[str, str] = {}
    try:
        body.decode()  # msgspec skips unknown fields without a look at their encoding
        request = _decode_request(body)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        request, problems = _read(load(body, _decode_raw_fields))
    message, conversation_id = request.message, request.conversation_id
    on_disconnect = request.on_disconnect
    too_long = len(message) > MAX_MESSAGE_CHARACTERS
    if too_long:
        limit = MAX_MESSAGE_CHARACTERS
        problems["message"] = f"Message exceeds maximum length of {limit} characters"
    elif not message or message.isspace():
        what = "be only white space" if message else "be empty"
        problems.setdefault("message", f"Message must not {what}")
    if conversation_id is not None and not _is_uuid4(conversation_id):
        problems["conversation_id"] = "must be a UUID of version 4 in canonical form (lower case)"
    if on_disconnect is not None:
        if isinstance(on_disconnect, str):
            on_disconnect = _GRACES.get(on_disconnect, -1.0)
        if on_disconnect < 0:
            problems["on_disconnect"] = _NO_GRACE
    if problems:
        fields = ChatRequest.__struct_fields__
        text = "; ".join(f"{name}: {problems[name]}" for name in fields if name in problems)
        raise (MessageTooLong if too_long else InvalidFields)(text)
    return request


def _read(fields: _RawFields) -> Tuple[ChatRequest, Dict[str, str]]:
    """A request of those `fields` that are of the right type, and the problems of the others."""
    values: Dict[str, Any] = {"message": ""}
    problems: Dict[str, str] = {}
    for name, wanted in _KINDS.items():
        raw = getattr(fields, name)
        kind = _kind(raw)
        if kind in wanted:
            try:
                values[name] = _decode_value(raw)
            except msgspec.ValidationError:  # 1e999
                problems[name] = _NO_GRACE
        elif name == "message" and not kind:
            problems[name] = "Message is required"
        elif name == "message" or kind not in ("", "null"):
            problems[name] = f"must be {' or '.join(wanted)}, not {kind}"
    return ChatRequest(**values), problems


def _kind(raw: msgspec.Raw) -> str:
    """The kind of a JSON value, which its first byte decides (RFC 8259, section 3)."""
    first = bytes(raw)[:1]
    kinds = {b"": "", b'"': "a string", b"{": "an object", b"[": "an array", b"n": "null"}
    kinds.update({b"t": "a boolean", b"f": "a boolean"})
    return kinds.get(first, "a number")

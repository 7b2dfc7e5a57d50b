"""A request becomes a ChatRequest, or an error that names everything wrong with it.

This is written by hand, because a client should learn of all wrong fields at once, and get helpful
words for any bytes.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Tuple, Union

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from ..errors import (
    InvalidBody,
    InvalidFields,
    MessageTooLong,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from ..models import MAX_MESSAGE_CHARACTERS, UUID4_PATTERN, ChatRequest

_is_uuid4 = re.compile(UUID4_PATTERN[1:-1]).fullmatch  # because `$` allows a last line feed
_is_json = re.compile(r"application/json|[^\s/;]+/[^\s/;]+\+json", re.IGNORECASE).fullmatch
# One escape after the other: a surrogate pair, half of one (the group), or any other.
_escapes = re.compile(
    rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL
).finditer


class _RawFields(msgspec.Struct):
    """The fields of ChatRequest as the bytes of their JSON values; empty if absent."""

    message: msgspec.Raw = msgspec.Raw()
    conversation_id: msgspec.Raw = msgspec.Raw()
    regenerate: msgspec.Raw = msgspec.Raw()


_decode_request = msgspec.json.Decoder(ChatRequest).decode
_decode_raw_fields = msgspec.json.Decoder(_RawFields).decode
_decode_value = msgspec.json.Decoder().decode
_KINDS = {"message": "a string", "conversation_id": "a string", "regenerate": "a boolean"}


def check_headers(fields: Mapping[bytes, bytes], *, max_body_bytes: int) -> None:
    """Refuse a request by the `fields` of its head, before its body is read.

    Raises UnsupportedMediaType, or PayloadTooLarge if Content-Length is too large. The demand for a
    JSON media type has a second use: a page of another site can only send it after CORS allows it.
    """
    length = fields.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 18 or int(length) > max_body_bytes):
        raise _too_large(max_body_bytes)
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("Content-Encoding: send the body uncompressed")
    content_type = fields.get(b"content-type", b"")
    if content_type == b"application/json":
        return
    media_type = content_type.partition(b";")[0].strip().decode("latin-1")
    if not _is_json(media_type):
        given = f"not {media_type!r}" if media_type else "and there is none"
        raise UnsupportedMediaType(f"Content-Type: must be application/json, {given}")


async def read_body(receive: Receive, *, max_bytes: int) -> bytes:
    """The whole body of a request.

    Raises PayloadTooLarge as soon as there are more than `max_bytes`, or ClientDisconnect.
    """
    parts: List[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        more = message.get("more_body", False)
        if not (more or parts):
            return part
        parts.append(part)
    return b"".join(parts)


def late_body(seconds: float) -> RequestTimeout:
    """The error if the body does not arrive within `seconds`."""
    return RequestTimeout(f"body: did not arrive within {seconds:g} seconds")


def parse(body: bytes) -> ChatRequest:
    """The request in `body`.

    Raises InvalidBody if `body` is no JSON object in UTF-8, and InvalidFields (or MessageTooLong)
    with the names of all wrong fields.
    """
    problems: Dict[str, str] = {}
    request = _decode(body)
    if isinstance(request, _RawFields):
        request, problems = _read(request)
    message, conversation_id = request.message, request.conversation_id
    too_long = len(message) > MAX_MESSAGE_CHARACTERS
    if too_long:
        limit = MAX_MESSAGE_CHARACTERS
        problems["message"] = f"Message exceeds maximum length of {limit} characters"
    elif not message or message.isspace():
        what = "be only white space" if message else "be empty"
        problems.setdefault("message", f"Message must not {what}")
    if conversation_id is not None and not _is_uuid4(conversation_id):
        problems["conversation_id"] = "must be a UUID of version 4 in canonical form (lower case)"
    if problems:
        fields = ChatRequest.__struct_fields__
        text = "; ".join(f"{name}: {problems[name]}" for name in fields if name in problems)
        raise (MessageTooLong if too_long else InvalidFields)(text)
    return request


def _decode(body: bytes) -> Union[ChatRequest, _RawFields]:
    """The request in `body`, or its fields as they are if one is of a wrong type."""
    try:
        # msgspec skips unknown fields without a look at their encoding.
        body.decode("utf-8")
        try:
            return _decode_request(body)
        except msgspec.ValidationError:
            return _decode_raw_fields(body)
    except UnicodeDecodeError as error:
        raise InvalidBody(f"body: not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise InvalidBody("body: nested too deeply") from None
    except msgspec.ValidationError:
        raise InvalidBody("body: must be a JSON object") from None
    except msgspec.DecodeError as error:
        raise InvalidBody(f"body: {_not_json(body, error)}") from None


def _read(fields: _RawFields) -> Tuple[ChatRequest, Dict[str, str]]:
    """A request of those `fields` that are of the right type, and the problems of the others."""
    values: Dict[str, Any] = {"message": ""}
    problems: Dict[str, str] = {}
    for name, wanted in _KINDS.items():
        raw = getattr(fields, name)
        kind = _kind(raw)
        if kind == wanted:
            values[name] = _decode_value(raw)
        elif name == "message" and not kind:
            problems[name] = "Message is required"
        elif name == "message" or kind not in ("", "null"):
            problems[name] = f"must be {wanted}, not {kind}"
    return ChatRequest(**values), problems


def _kind(raw: msgspec.Raw) -> str:
    """The kind of a JSON value, which its first byte decides (RFC 8259, section 3)."""
    first = bytes(raw)[:1]
    kinds = {b"": "", b'"': "a string", b"{": "an object", b"[": "an array", b"n": "null"}
    kinds.update({b"t": "a boolean", b"f": "a boolean"})
    return kinds.get(first, "a number")


def _not_json(body: bytes, error: msgspec.DecodeError) -> str:
    """The reason why `body` is no JSON, in better words than the decoder's if we have some."""
    if not body:
        return "is empty; a JSON object is expected"
    if body.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte order mark; send JSON without it (RFC 8259, section 8.1)"
    if any(escape[1] for escape in _escapes(body)):
        return "a \\u escape stands for half a character (a lone surrogate)"
    text = str(error)
    return text if text.startswith("JSON") else text[0].lower() + text[1:]


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"body: larger than {limit} bytes")

"""The body of a request: refused by its head, or read up to a limit."""

from __future__ import annotations

import re
from typing import List, Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from ..errors import PayloadTooLarge, RequestTimeout, UnsupportedMediaType

_is_json = re.compile(r"application/json|[^\s/;]+/[^\s/;]+\+json", re.IGNORECASE).fullmatch


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


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"body: larger than {limit} bytes")

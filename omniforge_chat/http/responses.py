"""The responses that are no stream: JSON, and the one shape of errors."""

from __future__ import annotations

from typing import Callable, Mapping, Optional, Tuple

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from ..dialects import refusal
from ..errors import InternalError, RequestError
from ..request_id import request_id

ASK_AGAIN = {"Cache-Control": "no-cache"}
"""The headers of a page: another version may be deployed at any time."""


def json_response(
    content: object, *, status: int = 200, headers: Optional[Mapping[str, str]] = None
) -> Response:
    """`content` as compact JSON. No cache keeps it, unless `headers` say otherwise."""
    headers = {"Cache-Control": "no-store", **(headers or {})}
    body = msgspec.json.encode(content)
    return Response(body, status, headers=headers, media_type="application/json")


def error_response(
    error: RequestError,
    headers: Optional[Mapping[str, str]] = None,
    *,
    shape: Callable[[RequestError], Tuple[bytes, str]] = refusal,
) -> Response:
    """`error` in place of a stream, in the one shape of errors or in that of a wire format."""
    body, media_type = shape(error)
    headers = {"Cache-Control": "no-store", **error.headers, **(headers or {})}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Response(body, error.status, headers=headers, media_type=media_type)


def internal_error(scope: Scope) -> InternalError:
    """The error for anything unexpected before a stream."""
    return InternalError(f"Internal server error (reference {request_id(scope)})")

"""The answers to exceptions that come from around the chat: from the router, or from a host."""

from __future__ import annotations

from typing import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..dialects import Dialect
from ..errors import MethodNotAllowed, NotFound, RequestError
from ..logs import logger
from ..request_id import request_id
from ..stream.refusals import Refusals
from .chat import FAILURE_LOGGED
from .paths import shape_at
from .responses import error_response, internal_error


async def http_error(
    refusals: Refusals, dialects: Sequence[Dialect], request: Request, error: Exception
) -> Response:
    """The answer to the 404 and 405 that the router raises, and to what a host's route raises."""
    assert isinstance(error, HTTPException)
    if error.status_code not in (404, 405):
        return PlainTextResponse(error.detail, error.status_code, error.headers)  # as Starlette's
    path, method = request.scope["path"], request.method  # its URL has the Host header in it
    problem: RequestError
    if error.status_code == 405:
        problem = MethodNotAllowed(f"{method} is not allowed for {path}")
    else:
        problem = NotFound(f"Nothing is at {path}")
    reference = request_id(request.scope)
    refusals.note(problem, reference)
    headers = {"X-Request-ID": reference, **(error.headers or {})}
    return error_response(problem, headers, shape=shape_at(request.scope, dialects))


async def server_error(dialects: Sequence[Dialect], request: Request, error: Exception) -> Response:
    """The answer to any other exception. All middleware is inside, so it adds X-Request-ID."""
    reference = request_id(request.scope)
    if not request.scope.get(FAILURE_LOGGED):
        logger.error("request failed request_id=%s", reference, exc_info=error)
    return error_response(
        internal_error(request.scope),
        {"X-Request-ID": reference},
        shape=shape_at(request.scope, dialects),
    )

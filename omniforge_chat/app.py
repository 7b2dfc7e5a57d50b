"""create_app(): the only place where the parts are put together."""

from __future__ import annotations

import os
from typing import Optional

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from .chat import Responder
from .errors import MethodNotAllowed, NotFound, RequestError
from .lifecycle import Lifecycle
from .logs import logger
from .request_id import RequestIDMiddleware, request_id
from .responders import load_responder
from .routes import chat_routes, error_response, internal_error
from .settings import Settings


def create_app(
    responder: Optional[Responder] = None, *, settings: Optional[Settings] = None
) -> Starlette:
    """A chat service: an ASGI app of its own, or one to mount in another.

    `responder` is any async generator function of text that takes a Turn; without it the one that
    the settings name answers (the placeholder, unless they say otherwise). Without `settings` they
    are read from the environment, as a service does; given settings, nothing is read.

    Raises TypeError for what is no responder, SettingsError for a setting of no use.
    """
    if settings is None:
        settings = Settings.from_env(os.environ)
    if responder is None:
        responder = load_responder(settings.responder)
    lifecycle = Lifecycle(max_streams=settings.max_streams)
    middleware = [Middleware(RequestIDMiddleware)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Content-Type", "X-Request-ID"],
                expose_headers=["X-Request-ID", "X-Conversation-ID", "Retry-After"],
            )
        )
    app = Starlette(
        routes=chat_routes(responder, settings=settings, lifecycle=lifecycle),
        middleware=middleware,
        exception_handlers={HTTPException: _http_error, Exception: _server_error},
    )
    # A redirect would be one more answer that is not in the contract's shape.
    app.router.redirect_slashes = False
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405, which the router raises."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    problem: RequestError
    if error.status_code == 405:
        problem = MethodNotAllowed(f"{method} is not allowed for {path}")
    else:
        problem = NotFound(f"Nothing is at {path}")
    return error_response(problem, error.headers)


async def _server_error(request: Request, error: Exception) -> Response:
    """The last resort. It answers outside of all middleware, and the server logs the traceback."""
    reference = request_id(request.scope)
    logger.error("request failed request_id=%s", reference, exc_info=error)
    return error_response(internal_error(request.scope), {"X-Request-ID": reference})

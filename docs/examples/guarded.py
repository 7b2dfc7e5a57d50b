"""A host that lets nobody chat without a token.

    ASSISTANT_TOKEN=secret uvicorn --factory guarded:make_app

The chat knows nothing of it. The middleware stands around the mounted app, and whatever else your
host serves stays as it is.
"""

from __future__ import annotations

import hmac
import os

from responder import respond
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from omniforge_chat import Settings, create_app


class BearerToken:
    """Pass on the requests that carry `Authorization: Bearer <token>`, and refuse the rest.

    It is plain ASGI: each event goes straight to the server. BaseHTTPMiddleware would work too, and
    costs a task and a queue for each request.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._allows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        # The same shape as the errors of the chat, so that clients need one way to read them.
        response = JSONResponse(
            {"code": "unauthorized", "message": "A valid bearer token is needed"},
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )
        await response(scope, receive, send)

    def _allows(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, self._expected)


def make_app() -> Starlette:
    assistant = create_app(respond, settings=Settings())
    guard = Middleware(BearerToken, token=os.environ["ASSISTANT_TOKEN"])
    return Starlette(routes=[Mount("/assistant", assistant, middleware=[guard])])

"""The reference that a client, a response and a log line share: X-Request-ID."""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SCOPE_KEY = "omniforge_chat.request_id"
_is_usable = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch


def request_id(scope: Scope) -> str:
    """The id of this request: the client's own where it is 1 to 128 visible ASCII characters."""
    known: str | None = scope.get(_SCOPE_KEY)
    if known is None:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _is_usable(value):
                known = value.decode("ascii")
                break
        else:
            known = str(uuid.uuid4())
        scope[_SCOPE_KEY] = known
    return known


class RequestIDMiddleware:
    """Put the request's id on whatever response passes.

    It may stand around a whole app and around single routes at once: the outermost one does it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        header = (b"x-request-id", request_id(scope).encode("ascii"))

        # Not a coroutine function: a stream sends often, and a frame between costs each time.
        def send_with_id(message: Message) -> object:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), header]}
            return send(message)

        await self.app(scope, receive, send_with_id)  # type: ignore[arg-type]

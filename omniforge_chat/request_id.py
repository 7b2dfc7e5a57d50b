"""X-Request-ID: the reference that a client, a response and the log share."""

from __future__ import annotations

import os
import random
import re
from typing import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

HEADER = b"x-request-id"
_SCOPE_KEY = "omniforge_chat.request_id"
_random = random.Random()  # our own, because a responder may seed the shared one
_is_usable = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_random.seed)


def request_id(scope: Scope) -> str:
    """The id of this request: the client's, if it is 1 to 128 visible ASCII characters, or ours."""
    known: str | None = scope.get(_SCOPE_KEY)
    if known is None:
        for name, value in scope["headers"]:
            if name == HEADER and _is_usable(value):
                known = value.decode("ascii")
                break
        else:
            # It only tells requests apart. It is no secret.
            known = _random.randbytes(16).hex()
        scope[_SCOPE_KEY] = known
    return known


class RequestIDMiddleware:
    """Adds the request's id to each response that lacks it.

    You may put it around an app and around single routes too: the outermost one acts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    # `__call__` and `send_with_id` are plain functions: a coroutine function would add a frame to
    # each event. Tools take such an app for ASGI 2, unless this attribute is set (asgiref,
    # `compatibility.py`).
    _asgi_single_callable = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or _SCOPE_KEY in scope:
            return self.app(scope, receive, send)
        header = (HEADER, request_id(scope).encode("ascii"))

        def send_with_id(message: ASGIMessage) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                if not any(name == HEADER for name, _ in headers):
                    headers.append(header)
                message = {**message, "headers": headers}
            return send(message)

        return self.app(scope, receive, send_with_id)

"""The reference that a client, a response and a log line share: X-Request-ID."""

from __future__ import annotations

import os
import random
import re
from typing import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_SCOPE_KEY = "omniforge_chat.request_id"
_random = random.Random()  # of our own: a responder may seed the common one
_is_usable = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch

if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(after_in_child=_random.seed)


def request_id(scope: Scope) -> str:
    """The id of this request: the client's own where it is 1 to 128 visible ASCII characters."""
    known: str | None = scope.get(_SCOPE_KEY)
    if known is None:
        for name, value in scope["headers"]:
            if name == HEADER and _is_usable(value):
                known = value.decode("ascii")
                break
        else:
            # It tells requests apart; nobody gains anything by guessing it.
            known = _random.randbytes(16).hex()
        scope[_SCOPE_KEY] = known
    return known


class RequestIDMiddleware:
    """Put the request's id on whatever response passes without it.

    It may stand around a whole app and around single routes at once: the outermost one does it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    # No coroutine functions here: each would add a frame to the way of every event. Tools that take
    # such an app for one of ASGI 2 have to be told that it is not (asgiref, `compatibility.py`).
    _asgi_single_callable = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or _SCOPE_KEY in scope:
            return self.app(scope, receive, send)
        header = (HEADER, request_id(scope).encode("ascii"))

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                if not any(name == HEADER for name, _ in headers):
                    headers.append(header)
                message = {**message, "headers": headers}
            return send(message)

        return self.app(scope, receive, send_with_id)

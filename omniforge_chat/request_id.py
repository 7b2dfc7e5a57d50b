"""X-Request-ID: the reference that a client, a response and the log share."""

from __future__ import annotations

import os
import random
import re
from typing import Awaitable, Iterable, List, Tuple

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

HEADER = b"x-request-id"
_SCOPE_KEY = "omniforge_chat.request_id"
_random = random.Random()  # our own, because a responder may seed the shared one
_is_usable = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_random.seed)


def request_id(scope: Scope) -> str:
    """The id of this request: the client's, if it is 1 to 128 visible ASCII characters, or ours.

    It is found when it is first asked for, as a middleware may set the header on the way.
    """
    known: List[str] = scope.setdefault(_SCOPE_KEY, [])
    if not known:
        for name, value in scope["headers"]:
            if name == HEADER and _is_usable(value):
                known.append(value.decode("ascii"))
                break
        else:
            # It only tells requests apart. It is no secret.
            known.append(_random.randbytes(16).hex())
    return known[0]


def _with_one_id(headers: Iterable[Tuple[bytes, bytes]], ours: bytes) -> List[Tuple[bytes, bytes]]:
    """`headers` with one id: that of somebody else if there is one, or else `ours`."""
    headers = list(headers)
    given = [pair for pair in headers if pair[0].lower() == HEADER]
    if len(given) == 1:
        return headers
    others = [pair for pair in given if pair[1] != ours]
    kept = [pair for pair in headers if pair not in given]
    return [*kept, others[0] if others else (HEADER, ours)]


class RequestIDMiddleware:
    """Sees to it that each response has the request's id, and has it once.

    You may put it around an app and around single routes too: the outermost one acts. A list in the
    scope, which all copies of the scope share, is its mark.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    # `__call__` and `send_with_id` are plain functions: a coroutine function would add a frame to
    # each event. Tools take such an app for ASGI 2, unless this attribute is set (asgiref,
    # `compatibility.py`).
    _asgi_single_callable = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        if _SCOPE_KEY in scope:
            request_id(scope)  # no middleware is left that could set it
            return self.app(scope, receive, send)
        scope[_SCOPE_KEY] = []

        def send_with_id(message: ASGIMessage) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                ours = request_id(scope).encode("ascii")
                message = {**message, "headers": _with_one_id(message.get("headers", ()), ours)}
            return send(message)

        return self.app(scope, receive, send_with_id)

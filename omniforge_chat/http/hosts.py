"""The names that the service answers to.

A page of evil.example can let its name point to 127.0.0.1 after it was loaded (DNS rebinding). Then
the browser takes the service for a part of the page's own origin, and CORS says nothing. Only the
Host that the browser sends tells: it is still evil.example.
"""

from __future__ import annotations

import re
from typing import Awaitable, Sequence, Set

from starlette.types import ASGIApp, Receive, Scope, Send

from ..dialects import Dialect
from ..errors import HostNotAllowed
from ..request_id import request_id
from ..stream.refusals import Refusals
from .paths import shape_at
from .responses import error_response

_MAX_KNOWN = 1000
"""How many values of Host are remembered as allowed. Ports and cases differ, and `*.` fits many."""

_split = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d*)?").fullmatch


class AllowedHosts:
    """Refuses requests whose Host is none of `names`: host names, or `*.example.com`.

    The port does not count. HTTP/1.1 demands a Host, and browsers always send one, so a request
    without it is let in. At the path of one of `dialects` the refusal has its form.
    """

    def __init__(
        self, app: ASGIApp, names: Sequence[str], refusals: Refusals, dialects: Sequence[Dialect]
    ) -> None:
        self._app = app
        self._dialects = dialects
        self._names = frozenset(name.lower() for name in names)
        self._endings = tuple(name[1:] for name in self._names if name.startswith("*."))
        self._known: Set[bytes] = set()
        self._refusals = refusals

    # A plain function, but no app of ASGI 2: see RequestIDMiddleware.
    _asgi_single_callable = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "lifespan":
            for name, value in scope["headers"]:
                if name == b"host":
                    if value in self._known or self._allows(value):
                        break
                    return self._refuse(value, scope, receive, send)
        return self._app(scope, receive, send)

    def _allows(self, value: bytes) -> bool:
        found = _split(value.decode("latin-1").strip(" \t").lower())
        if found is None or not (found[1] in self._names or found[1].endswith(self._endings)):
            return False
        if len(self._known) < _MAX_KNOWN:
            self._known.add(value)
        return True

    async def _refuse(self, host: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        given = ascii(host.decode("latin-1")[:100])
        error = HostNotAllowed(f"Host: {given} is not a name of this service (ALLOWED_HOSTS)")
        reference = request_id(scope)
        self._refusals.count(error, reference, scope)
        if scope["type"] == "http":
            shape = shape_at(scope, self._dialects)
            response = error_response(error, {"X-Request-ID": reference}, shape=shape)
            await response(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

"""Which pages of other origins may call the service (CORS, in the Fetch standard)."""

from __future__ import annotations

from typing import Iterable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

_PRIVATE = "access-control-request-private-network"


class CORS(CORSMiddleware):
    """Starlette's, for the routes of the chat. Credentials are never allowed.

    A page of the internet may ask for a service in a private network only if its origin is named.
    """

    def __init__(
        self,
        app: ASGIApp,
        origins: Sequence[str],
        methods: Iterable[str],
        headers: Sequence[str],
        exposed: Sequence[str] = (),
    ) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=sorted(methods),
            allow_headers=[*headers, "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Conversation-ID", "Retry-After", *exposed],
        )
        self._names_origins = "*" not in origins

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to `OPTIONS`. Older Starlettes know nothing of private networks."""
        asked = [pair for pair in request_headers.raw if pair[0].decode("latin-1") != _PRIVATE]
        response = super().preflight_response(Headers(raw=asked))
        if _PRIVATE in request_headers and self._names_origins and response.status_code == 200:
            response.headers["Access-Control-Allow-Private-Network"] = "true"
        response.headers["Cache-Control"] = "no-store"
        return response

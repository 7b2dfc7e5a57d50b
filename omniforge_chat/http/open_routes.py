"""The probes and the documents of a service, which anybody may read."""

from __future__ import annotations

from typing import List, Sequence

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ..dialects import Dialect
from ..errors import InvalidFields
from ..request_id import RequestIDMiddleware, request_id
from ..stream.lifecycle import Lifecycle
from .assets import page_file, script_file
from .openapi import LATEST, VERSIONS, document
from .openapi_parts import Features
from .paths import ChatRoute, mount_path
from .responses import ASK_AGAIN, error_response, json_response


def open_routes(
    dialects: Sequence[Dialect], lifecycle: Lifecycle, features: Features
) -> List[Route]:
    """`GET /health`, `/ready`, `/openapi.json`, `/docs` and `/reader.js`."""
    page = page_file("docs.html")

    async def health(request: Request) -> Response:
        return json_response({"status": "healthy"})

    async def ready(request: Request) -> Response:
        if lifecycle.draining:
            return json_response({"status": "draining"}, status=503)
        return json_response({"status": "ready"})

    async def openapi(request: Request) -> Response:
        version = request.query_params.get("version", LATEST)
        if version not in VERSIONS:
            expected = " or ".join(VERSIONS)
            error = InvalidFields(f"version: must be {expected}, not {version!r}")
            lifecycle.refusals.note(error, request_id(request.scope))
            return error_response(error)
        root_path = mount_path(request.scope, "/openapi.json")
        shown = document(dialects, root_path, version, features)
        return json_response(shown, headers=ASK_AGAIN)

    async def docs(request: Request) -> Response:
        if (request.scope.get("raw_path") or b"").endswith(b"/"):
            return RedirectResponse("../docs", headers=ASK_AGAIN)  # its addresses are relative
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY, **ASK_AGAIN})

    middleware = [Middleware(RequestIDMiddleware)]
    return [
        ChatRoute("/health", health, middleware=middleware),
        ChatRoute("/ready", ready, middleware=middleware),
        ChatRoute("/openapi.json", openapi, middleware=middleware),
        ChatRoute("/docs", docs, middleware=middleware),
        ChatRoute("/reader.js", script_file("reader.js"), middleware=middleware),
    ]


_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)

"""The routes of a page to talk in, of a service that runs alone; or the way to `/docs`."""

from __future__ import annotations

import base64
import hashlib
from typing import Awaitable, Callable, List

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ..request_id import RequestIDMiddleware
from ..settings import Settings
from .assets import page_file, script_file
from .paths import ChatRoute
from .responses import ASK_AGAIN


def front_routes(settings: Settings) -> List[Route]:
    """The page and its script, if `settings` have it; else the way from `/` to `/docs`.

    It talks to the native chat, so that must be on, too.
    """
    middleware = [Middleware(RequestIDMiddleware)]
    if not (settings.page and "native" in settings.dialects):
        return [ChatRoute("/", _to_docs, middleware=middleware)]
    return [
        ChatRoute("/", _page(), middleware=middleware),
        ChatRoute("/page.js", script_file("page.js"), middleware=middleware),
    ]


async def _to_docs(request: Request) -> Response:
    # Relative, as no proxy between tells its own part of the path. What is behind the last slash is
    # replaced (RFC 3986, section 5.2.3), so a mount without one has to be said again.
    _, _, name = (request.scope.get("raw_path") or b"/").rpartition(b"/")
    url = f"./{name.decode('latin-1')}/docs" if name else "docs"
    return RedirectResponse(url, headers=ASK_AGAIN)


def _page() -> Callable[[Request], Awaitable[Response]]:
    text = page_file("chat.html")
    headers = {"Content-Security-Policy": _policy(text), **ASK_AGAIN}

    async def page(request: Request) -> Response:
        # The page adds the last slash of its address itself, if it is missing.
        return HTMLResponse(text, headers=headers)

    return page


def _policy(page: str) -> str:
    """A policy under which only the script and the style of `page` work, and its own files."""
    script, style = (
        _hash(page.partition(begin)[2].partition(end)[0])
        for begin, end in (('<script type="module">', "</script>"), ("<style>", "</style>"))
    )
    return (
        f"default-src 'none'; script-src 'self' {script}; style-src {style}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    """The source expression of an inline element (CSP 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

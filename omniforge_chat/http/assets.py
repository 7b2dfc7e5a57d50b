"""The pages and scripts of the service: files in `pages/`."""

from __future__ import annotations

from importlib.resources import files
from typing import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from .responses import ASK_AGAIN


def page_file(name: str) -> str:
    """The text of a page."""
    return (files(__package__) / "pages" / name).read_text("utf-8")


def script_file(name: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a script."""
    text = page_file(name)

    async def script(request: Request) -> Response:
        return Response(text, headers=ASK_AGAIN, media_type="text/javascript")

    return script

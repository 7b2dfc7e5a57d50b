"""The routes of the service, as plain Starlette routes."""

from __future__ import annotations

from importlib.resources import files
from typing import Awaitable, Callable, List, Optional, Sequence

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ..conversations.protocol import History, StoredConversations
from ..core.responder import Responder
from ..dialects import Dialect, Resource, make_dialect
from ..errors import InvalidFields, RequestError
from ..replay import Replay
from ..request_id import RequestIDMiddleware, request_id
from ..responders import check_responder, parts_taken
from ..settings import Settings
from ..stream.lifecycle import Lifecycle
from .chat import ChatEndpoint
from .openapi import LATEST, VERSIONS, document
from .openapi_parts import Features
from .paths import ChatRoute, mount_path
from .replies import Replies
from .reply_routes import reply_routes
from .responses import ASK_AGAIN, error_response, json_response


def chat_routes(
    responder: Responder,
    *,
    settings: Optional[Settings] = None,
    lifecycle: Optional[Lifecycle] = None,
    history: Optional[History] = None,
    replay: Optional[Replay] = None,
) -> List[Route]:
    """The routes of a chat service, for the route table of your own app.

    First comes the POST of each of `settings.dialects`, which `responder` answers: `/api/v1/chat`
    is the native one. Then come further documents of these formats, and `GET /health`, `/ready`,
    `/openapi.json`, `/docs` and `/reader.js`. Their responses carry X-Request-ID. Your app answers
    404 and 405 itself. Without `settings` the defaults hold; the environment is not read. Without
    `history` nothing is remembered, and without `replay` no reply is kept; with them come the
    routes of stored conversations and of kept replies. To drain, pass a `lifecycle` and call its
    `drain`. Raises TypeError if `responder` cannot be one.
    """
    settings = settings or Settings()
    lifecycle = lifecycle or Lifecycle(max_streams=settings.max_streams)
    parts = parts_taken(check_responder(responder))
    dialects = [make_dialect(name, settings, parts) for name in settings.dialects]
    replies = None if replay is None else Replies(replay, settings, lifecycle)
    page = _page("docs.html")

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
        shown = document(dialects, root_path, version, _features(history, replay))
        return json_response(shown, headers=ASK_AGAIN)

    async def docs(request: Request) -> Response:
        if (request.scope.get("raw_path") or b"").endswith(b"/"):
            return RedirectResponse("../docs", headers=ASK_AGAIN)  # its addresses are relative
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY, **ASK_AGAIN})

    middleware = [Middleware(RequestIDMiddleware)]
    return [
        *_chats(responder, dialects, settings, lifecycle, history, replies),
        *_resources(dialects, lifecycle),
        *reply_routes(dialects, lifecycle, history, replies),
        ChatRoute("/health", health, middleware=middleware),
        ChatRoute("/ready", ready, middleware=middleware),
        ChatRoute("/openapi.json", openapi, middleware=middleware),
        ChatRoute("/docs", docs, middleware=middleware),
        ChatRoute("/reader.js", _script("reader.js"), middleware=middleware),
    ]


def _features(history: Optional[History], replay: Optional[Replay]) -> Features:
    stored = isinstance(history, StoredConversations)
    return Features(replay is not None, history is not None, stored)


def _page(name: str) -> str:
    return (files(__package__) / "pages" / name).read_text("utf-8")


def _script(name: str) -> Callable[[Request], Awaitable[Response]]:
    text = _page(name)

    async def script(request: Request) -> Response:
        return Response(text, headers=ASK_AGAIN, media_type="text/javascript")

    return script


def _chats(
    responder: Responder,
    dialects: Sequence[Dialect],
    settings: Settings,
    lifecycle: Lifecycle,
    history: Optional[History],
    replies: Optional[Replies],
) -> List[Route]:
    """The POST of each dialect. These come first: see `DirectWay`."""
    return [
        ChatRoute(
            dialect.path,
            ChatEndpoint(dialect, responder, settings, lifecycle, history, replies),
            methods=["POST"],
            name=dialect.operation.id,
        )
        for dialect in dialects
    ]


def _resources(dialects: Sequence[Dialect], lifecycle: Lifecycle) -> List[Route]:
    """The documents of the dialects."""

    def route(dialect: Dialect, found: Resource) -> Route:
        async def answer(request: Request) -> Response:
            try:
                return json_response(found.answer(request.path_params))
            except RequestError as error:
                lifecycle.refusals.note(error, request_id(request.scope))
                return error_response(error, shape=dialect.refusal)

        middleware = [Middleware(RequestIDMiddleware)]
        return ChatRoute(found.path, answer, middleware=middleware, name=found.id)

    return [route(dialect, found) for dialect in dialects for found in dialect.resources()]


_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)

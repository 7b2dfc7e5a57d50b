"""The routes of the service, as plain Starlette routes."""

from __future__ import annotations

from typing import List, Optional, Sequence

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..conversations.protocol import History, StoredConversations
from ..core.responder import Responder
from ..dialects import Dialect, Resource, make_dialect
from ..errors import RequestError
from ..replay import Replay
from ..request_id import RequestIDMiddleware, request_id
from ..responders import check_responder, parts_taken
from ..settings import Settings
from ..stream.lifecycle import Lifecycle
from .access import Access
from .chat import ChatEndpoint
from .open_routes import open_routes
from .openapi_parts import Features
from .paths import ChatRoute
from .replies import Replies
from .reply_routes import reply_routes
from .responses import error_response, json_response


def chat_routes(
    responder: Responder,
    *,
    settings: Optional[Settings] = None,
    lifecycle: Optional[Lifecycle] = None,
    history: Optional[History] = None,
    replay: Optional[Replay] = None,
    access: Optional[Access] = None,
) -> List[Route]:
    """The routes of a chat service, for the route table of your own app.

    First comes the POST of each of `settings.dialects`, which `responder` answers: `/api/v1/chat`
    is the native one. Then come further documents of these formats, and `GET /health`, `/ready`,
    `/openapi.json`, `/docs` and `/reader.js`. Their responses carry X-Request-ID. Your app answers
    404 and 405 itself. Without `settings` the defaults hold; the environment is not read. Without
    `history` nothing is remembered, and without `replay` no reply is kept; with them come the
    routes of stored conversations and of kept replies. To drain, pass a `lifecycle` and call its
    `drain`. `access` knows who asks; without it, the keys, tokens and limits of `settings` hold.
    Raises TypeError if `responder` cannot be one.
    """
    settings = settings or Settings()
    access = access or Access(settings)
    lifecycle = lifecycle or Lifecycle(max_streams=settings.max_streams)
    parts = parts_taken(check_responder(responder))
    dialects = [make_dialect(name, settings, parts) for name in settings.dialects]
    replies = None if replay is None else Replies(replay, settings, lifecycle)
    return [
        *_chats(responder, dialects, settings, lifecycle, history, replies, access),
        *_resources(dialects, lifecycle, access),
        *reply_routes(dialects, lifecycle, access, history, replies),
        *open_routes(dialects, lifecycle, _features(history, replay, access)),
    ]


def _features(history: Optional[History], replay: Optional[Replay], access: Access) -> Features:
    return Features(
        replies=replay is not None,
        history=history is not None,
        conversations=isinstance(history, StoredConversations),
        asks=access.asks,
        keys=access.has_keys,
        limits=access.limits,
    )


def _chats(
    responder: Responder,
    dialects: Sequence[Dialect],
    settings: Settings,
    lifecycle: Lifecycle,
    history: Optional[History],
    replies: Optional[Replies],
    access: Access,
) -> List[Route]:
    """The POST of each dialect. These come first: see `DirectWay`."""
    return [
        ChatRoute(
            dialect.path,
            ChatEndpoint(dialect, responder, settings, lifecycle, history, replies, access),
            methods=["POST"],
            name=dialect.operation.id,
        )
        for dialect in dialects
    ]


def _resources(dialects: Sequence[Dialect], lifecycle: Lifecycle, access: Access) -> List[Route]:
    """The documents of the dialects."""

    def route(dialect: Dialect, found: Resource) -> Route:
        async def answer(request: Request) -> Response:
            try:
                await access.check(request.scope, lifecycle)
                return json_response(found.answer(request.path_params))
            except RequestError as error:
                lifecycle.refusals.note(error, request_id(request.scope))
                return error_response(error, shape=dialect.refusal)

        middleware = [Middleware(RequestIDMiddleware)]
        return ChatRoute(found.path, answer, middleware=middleware, name=found.id)

    return [route(dialect, found) for dialect in dialects for found in dialect.resources()]

"""The routes of the service, as plain Starlette routes."""

from __future__ import annotations

import uuid
from importlib.resources import files
from typing import List, Mapping, Optional, Tuple

import msgspec
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..conversations.protocol import History
from ..conversations.turn import ConversationTurn, late_history
from ..core.reply import Responder
from ..errors import InternalError, RequestError, RequestTimeout
from ..logs import logger
from ..models import Error, Message, Turn
from ..request_id import RequestIDMiddleware, request_id
from ..responders import check_responder
from ..settings import Settings
from ..stream.deadline import Deadline
from ..stream.lifecycle import Lifecycle
from ..stream.response import ABORT, UNSENT, EventStream
from . import validation
from .openapi import document

CHAT_PATH = "/api/v1/chat"

FAILURE_LOGGED = "omniforge_chat.failure_logged"
"""The key that is set in a request's scope when its failure is logged: nobody logs it again."""


def chat_routes(
    responder: Responder,
    *,
    settings: Optional[Settings] = None,
    lifecycle: Optional[Lifecycle] = None,
    history: Optional[History] = None,
) -> List[Route]:
    """The routes of a chat service, for the route table of your own app.

    They are `POST /api/v1/chat`, which `responder` answers, and `GET /health`, `/ready`,
    `/openapi.json` and `/docs`. Their responses carry X-Request-ID. Your app answers 404 and 405
    itself. Without `settings` the defaults hold; the environment is not read. Without `history`
    nothing is remembered. To drain, pass a `lifecycle` and call its `drain`. Raises TypeError if
    `responder` cannot be one.
    """
    settings = settings or Settings()
    lifecycle = lifecycle or Lifecycle(max_streams=settings.max_streams)
    page = (files(__package__) / "pages" / "docs.html").read_text("utf-8")

    async def health(request: Request) -> Response:
        return json_response({"status": "healthy"})

    async def ready(request: Request) -> Response:
        if lifecycle.draining:
            return json_response({"status": "draining"}, status=503)
        return json_response({"status": "ready"})

    async def openapi(request: Request) -> Response:
        return json_response(document(CHAT_PATH, request.scope.get("root_path", "")))

    async def docs(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    middleware = [Middleware(RequestIDMiddleware)]
    endpoint = _ChatEndpoint(check_responder(responder), settings, lifecycle, history)
    return [
        Route(CHAT_PATH, endpoint, methods=["POST"], name="chat"),
        Route("/health", health, middleware=middleware),
        Route("/ready", ready, middleware=middleware),
        Route("/openapi.json", openapi, middleware=middleware),
        Route("/docs", docs, middleware=middleware),
    ]


_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)


def json_response(
    content: object, *, status: int = 200, headers: Optional[Mapping[str, str]] = None
) -> Response:
    """`content` as compact JSON."""
    return Response(
        msgspec.json.encode(content), status, headers=headers, media_type="application/json"
    )


def error_response(error: RequestError, headers: Optional[Mapping[str, str]] = None) -> Response:
    """`error` as JSON: the one shape of errors outside a stream."""
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return json_response(Error(error.code, error.message), status=error.status, headers=headers)


class _ChatEndpoint:
    """POST /api/v1/chat, as an ASGI app, because it needs `receive` and `send` as they are.

    It puts the request's id on its responses itself.
    """

    def __init__(
        self,
        responder: Responder,
        settings: Settings,
        lifecycle: Lifecycle,
        history: Optional[History],
    ) -> None:
        self._responder = responder
        self._settings = settings
        self._lifecycle = lifecycle
        self._history = history

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            try:
                self._lifecycle.admit()
            except RequestError as error:
                refusal: Optional[Response] = error_response(error)
            else:
                try:
                    refusal = await self._answer(scope, receive, send)
                finally:
                    self._lifecycle.release()
            if refusal is not None:
                refusal.headers["X-Request-ID"] = request_id(scope)
                # After `release`: a client that does not read this holds no place.
                await refusal(scope, receive, send)
        except OSError:
            raise  # a server's way to say that the client has left
        except Exception:
            logger.exception("request failed request_id=%s", request_id(scope))
            scope[FAILURE_LOGGED] = True
            raise

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Optional[Response]:
        """Stream the answer, or return the response that refuses the request."""
        settings = self._settings
        conversation: Optional[ConversationTurn] = None
        try:
            try:
                limit = settings.max_body_bytes
                validation.check_headers(scope["headers"], max_body_bytes=limit)
                body = await Deadline(
                    settings.body_timeout, validation.late_body, self._lifecycle
                ).run(validation.read_body(receive, max_bytes=limit))
                request = validation.parse(body)
                conversation_id = request.conversation_id or str(uuid.uuid4())
                responder = self._responder
                history: Tuple[Message, ...] = ()
                if self._history is not None:
                    # The responder's own clean-up may need the other half of the time.
                    conversation = ConversationTurn(
                        self._history, conversation_id, timeout=settings.cleanup_timeout / 2
                    )
                    history = await Deadline(
                        settings.body_timeout, late_history, self._lifecycle
                    ).run(conversation.begin(request.message, context_chars=settings.context_chars))
                    responder = conversation.record(responder)
            except ClientDisconnect:
                return None
            except RequestError as error:
                response = error_response(error)
                if isinstance(error, RequestTimeout) and scope["http_version"].startswith("1"):
                    # The rest of the body may never come (RFC 9110, section 15.5.9).
                    response.headers["Connection"] = "close"
                return response
            except Exception:
                logger.exception("request failed request_id=%s", request_id(scope))
                return error_response(internal_error(scope))
            turn = Turn(request.message, conversation_id, request_id(scope), history)
            extensions = scope.get("extensions", {})
            await EventStream(
                turn,
                responder,
                settings,
                self._lifecycle,
                receive,
                send,
                extensions.get(ABORT),
                extensions.get(UNSENT),
            ).respond()
            return None
        finally:
            if conversation is not None:
                await conversation.end()


def internal_error(scope: Scope) -> InternalError:
    """The error for anything unexpected before a stream."""
    return InternalError(f"Internal server error (reference {request_id(scope)})")

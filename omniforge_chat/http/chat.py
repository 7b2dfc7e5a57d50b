"""The chat in one wire format: a request in; a stream, or an error, out."""

from __future__ import annotations

import sys
import uuid
from functools import partial
from typing import Awaitable, Mapping, Optional, Tuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..conversations.protocol import Claim, History
from ..conversations.turn import ConversationTurn, late_history
from ..core.reply import Reply
from ..core.responder import Responder
from ..dialects import Dialect, Request
from ..errors import RequestError, RequestTimeout
from ..logs import logger
from ..models import Message, Turn
from ..request_id import request_id
from ..settings import Settings
from ..stream.deadline import Deadline
from ..stream.lifecycle import Lifecycle
from ..stream.response import ABORT, UNSENT, EventStream
from ..stream.whole import HeldBack, WholeReply
from . import body
from .responses import error_response, internal_error

try:
    from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY, RequestBodyLimitMiddleware
except ModuleNotFoundError:  # this Starlette limits no bodies
    MAX_BODY_SIZE_SCOPE_KEY = ""

FAILURE_LOGGED = "omniforge_chat.failure_logged"
"""The key that is set in a request's scope when its failure is logged: nobody logs it again."""


class ChatEndpoint:
    """The POST of a dialect, as an ASGI app, because it needs `receive` and `send` as they are.

    It puts the request's id on its responses itself.
    """

    def __init__(
        self,
        dialect: Dialect,
        responder: Responder,
        settings: Settings,
        lifecycle: Lifecycle,
        history: Optional[History],
    ) -> None:
        self.dialect = dialect
        self._responder = responder
        self._settings = settings
        self._lifecycle = lifecycle
        self._history = None if dialect.carries_history else history
        self._max_bytes = (
            settings.max_history_body_bytes if dialect.carries_history else settings.max_body_bytes
        )

    # A plain function, but no app of ASGI 2: see RequestIDMiddleware.
    _asgi_single_callable = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        limit = self._max_bytes
        host_limit = scope.get(MAX_BODY_SIZE_SCOPE_KEY)
        if host_limit is None:
            return self._respond(scope, receive, send, limit)
        app = partial(self._respond, limit=min(limit, host_limit))
        # Starlette would answer in plain text, from within `receive` or `send`. The innermost limit
        # counts, so with this one ours does.
        return RequestBodyLimitMiddleware(app, sys.maxsize)(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        try:
            headers = dict(scope["headers"])  # the last of a name counts
            if b"last-event-id" in headers:
                response: Optional[Response] = self._nothing_more(scope)
            else:
                try:
                    self._lifecycle.admit()
                except RequestError as error:
                    response = self._refuse(error, scope)
                else:
                    try:
                        response = await self._answer(scope, headers, receive, send, limit)
                    finally:
                        self._lifecycle.release()
            if response is not None:
                response.headers["X-Request-ID"] = request_id(scope)
                # After `release`: a client that does not read this holds no place.
                await response(scope, receive, send)
        except OSError:
            raise  # a server's way to say that the client has left
        except Exception:
            logger.exception("request failed request_id=%s", request_id(scope))
            scope[FAILURE_LOGGED] = True
            raise

    def _nothing_more(self, scope: Scope) -> Response:
        """The answer to a client that asks for the rest of a stream, which nobody has kept.

        It tells a client that asks by itself to stop (WHATWG HTML, section 9.2.3).
        """
        logger.debug("request has a Last-Event-ID request_id=%s", request_id(scope))
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    def _refuse(self, error: RequestError, scope: Scope) -> Response:
        self._lifecycle.refusals.count(error, request_id(scope))
        return error_response(error, shape=self.dialect.refusal)

    async def _recall(
        self, conversation: ConversationTurn, request: Request
    ) -> Tuple[Message, ...]:
        """Begin the turn: the earlier messages that the responder gets."""
        settings = self._settings
        beginning = conversation.begin(
            context_chars=settings.context_chars,
            regenerate=request.regenerate,
            edits=request.edits,
        )
        deadline = Deadline(settings.body_timeout, late_history, self._lifecycle)
        return await deadline.run(beginning)

    def _body(
        self, headers: Mapping[bytes, bytes], receive: Receive, limit: int
    ) -> Awaitable[bytes]:
        """The body of a request, if its head allows to read it."""
        body.check_headers(headers, max_body_bytes=limit)
        reading = body.read_body(receive, max_bytes=limit)
        deadline = Deadline(self._settings.body_timeout, body.late_body, self._lifecycle)
        return deadline.run(reading)

    def _reply(
        self,
        request: Request,
        conversation_id: str,
        scope: Scope,
        history: Tuple[Message, ...],
        remembered: bool,
        send: Send,
    ) -> Tuple[Reply, Send]:
        """The reply to a request, and the `send` that suits it."""
        turn = Turn(
            request.message,
            conversation_id,
            request_id(scope),
            history,
            remembered,
            request.system,
            self.dialect.name,
            request.parameters,
            request.parts,
        )
        thoughts = self._settings.thoughts
        if not request.whole:
            return Reply(turn, request.frames(turn), thoughts=thoughts), send
        whole = WholeReply(turn, request.document(turn), thoughts=thoughts)
        return whole, HeldBack(send, whole)

    async def _answer(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        limit: int,
    ) -> Optional[Response]:
        """Stream the answer, or return the response that refuses the request."""
        settings = self._settings
        conversation: Optional[ConversationTurn] = None
        try:
            try:
                # No name keeps the body: a stream would hold it for minutes.
                request = self.dialect.decode(await self._body(headers, receive, limit), headers)
                conversation_id = request.conversation_id or str(uuid.uuid4())
                responder = self._responder
                history = request.history or ()
                if self._history is not None:
                    # The responder's own clean-up may need the other half of the time.
                    claim = Claim(conversation_id, "", uuid.uuid4().hex, request.message)
                    conversation = ConversationTurn(
                        self._history, claim, timeout=settings.cleanup_timeout / 2
                    )
                    history = await self._recall(conversation, request)
                    responder = conversation.record(responder)
            except ClientDisconnect:
                return None
            except RequestError as error:
                response = self._refuse(error, scope)
                if isinstance(error, RequestTimeout) and scope["http_version"].startswith("1"):
                    # The rest of the body may never come (RFC 9110, section 15.5.9).
                    response.headers["Connection"] = "close"
                return response
            except Exception:
                logger.exception("request failed request_id=%s", request_id(scope))
                return error_response(internal_error(scope), shape=self.dialect.refusal)
            remembered = conversation is not None
            reply, send = self._reply(request, conversation_id, scope, history, remembered, send)
            extensions = scope.get("extensions", {})
            await EventStream(
                reply,
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

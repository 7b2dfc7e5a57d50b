"""The chat in one wire format: a request in; a stream, or an error, out."""

from __future__ import annotations

import sys
from functools import partial
from typing import Awaitable, Mapping, Optional, Tuple

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..conversations.protocol import Claim, History
from ..conversations.turn import ConversationTurn
from ..core.kept import new_reply_id
from ..core.responder import Responder
from ..dialects import Dialect, Request
from ..errors import (
    ConversationBusy,
    HistoryUnavailable,
    ReplyNotFound,
    RequestError,
    RequestTimeout,
)
from ..logs import TRACEPARENT, enter_trace, logger, trace_id
from ..models import new_conversation_id
from ..request_id import request_id
from ..settings import Settings
from ..stream.deadline import Deadline
from ..stream.lifecycle import Lifecycle
from ..stream.response import EventStream
from . import body
from .access import FREE, Access, owner_of
from .idempotency import HEADER, Attempt, read_attempt
from .replies import Found, Replies, owner_and_id
from .responses import error_response, internal_error
from .streams import Streams
from .visit import Visit

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
        replies: Optional[Replies] = None,
        access: Optional[Access] = None,
    ) -> None:
        self.dialect = dialect
        self._settings = settings
        self._lifecycle = lifecycle
        self._history = None if dialect.carries_history else history
        self._replies = replies
        self._access = access if access is not None and access.acts else None
        self._keeps = self._history is not None or replies is not None
        self._streams = Streams(
            dialect, responder, settings, lifecycle, replies, remembers=self._history is not None
        )
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
            if TRACEPARENT in headers or trace_id.get():
                enter_trace(headers.get(TRACEPARENT))
            resumes = b"last-event-id" in headers
            reads = resumes or (self._replies is not None and HEADER in headers)
            if resumes and (self._replies is None or not self.dialect.resumable):
                response: Optional[Response] = self._nothing_more(scope)
            else:
                passed = FREE
                try:
                    if self._access is not None:
                        passed = await self._access.enter(scope, self._lifecycle, reads=reads)
                    full = self._lifecycle.admit(reads=reads)
                except RequestError as error:
                    response = self._refuse(error, scope)
                else:
                    visit = Visit(scope, headers, receive, send, passed, full)
                    try:
                        if resumes:
                            response = await self._resume(visit)
                        else:
                            response = await self._answer(visit, limit)
                    finally:
                        self._lifecycle.release()
                finally:
                    if passed is not FREE:
                        passed.leave(0)  # if no stream has done it, with what that has cost
                if response is not None and "RateLimit" not in response.headers:
                    response.raw_headers.extend(passed.headers)
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

    async def _resume(self, visit: Visit) -> Optional[Response]:
        """The rest of a reply, to a client that sends its POST again: never a second one."""
        assert self._replies is not None
        scope = visit.scope
        owner, last_event_id = owner_and_id(scope)
        try:
            await self._replies.discard_body(visit.receive)
            found = await self._replies.find_for_post(last_event_id or "", owner)
        except ClientDisconnect:
            return None
        except ReplyNotFound:
            return self._nothing_more(scope)
        except RequestError as error:
            return self._refuse(error, scope)
        if found.nothing_more:
            return self._nothing_more(scope)
        frames, path = self.dialect.frames, self.dialect.path
        await self._replies.stream(found, frames, path, visit).respond()
        return None

    def _nothing_more(self, scope: Scope) -> Response:
        """The answer to a client that asks for the rest of a stream, which nobody has kept.

        It tells a client that asks by itself to stop (WHATWG HTML, section 9.2.3).
        """
        logger.debug("request has a Last-Event-ID request_id=%s", request_id(scope))
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    def _refuse(self, error: RequestError, scope: Scope) -> Response:
        self._lifecycle.refusals.count(error, request_id(scope), scope, self.dialect.name)
        response = error_response(error, shape=self.dialect.refusal)
        if isinstance(error, RequestTimeout) and scope["http_version"].startswith("1"):
            # The rest of the body may never come (RFC 9110, section 15.5.9).
            response.headers["Connection"] = "close"
        return response

    def _failed(self, scope: Scope) -> Response:
        """The answer to an exception that is being handled."""
        logger.exception("request failed request_id=%s", request_id(scope))
        return self._refuse(internal_error(scope), scope)

    async def _begin(
        self, claim: Claim, request: Request, attempt: Optional[Attempt], visit: Visit
    ) -> Tuple[Optional[ConversationTurn], Optional[Found]]:
        """Begin the turn: what claims the conversation, or the reply that answered it before.

        Neither, if nothing is remembered.
        """
        replies = self._replies
        if replies is None or attempt is None:
            return await self._claim(claim, request), None
        found = await replies.joined(attempt)
        if found is not None:
            return None, found
        await visit.passed.produce()
        if visit.full:
            self._lifecycle.produce()
        try:
            conversation = await self._claim(claim, request)
        except ConversationBusy:
            found = await replies.joined_soon(attempt)
            if found is None:
                raise
            return None, found
        try:
            found = await replies.begin_once(attempt, claim.turn_id)
        except BaseException:
            if conversation is not None:
                await conversation.end()
            raise
        if found is not None and conversation is not None:
            await conversation.end()
            conversation = None
        return conversation, found

    async def _claim(self, claim: Claim, request: Request) -> Optional[ConversationTurn]:
        """Claim the conversation, or None if there is no store, or it may be done without."""
        if self._history is None:
            return None
        settings = self._settings
        # The responder's own clean-up may need the other half of the time.
        timeout = settings.cleanup_timeout / 2
        conversation = ConversationTurn(self._history, claim, timeout=timeout)
        beginning = conversation.begin(
            context_chars=settings.context_chars,
            regenerate=request.regenerate,
            edits=request.edits,
        )
        try:
            await Deadline(settings.body_timeout, conversation.late, self._lifecycle).run(beginning)
        except HistoryUnavailable:
            if settings.history_required:
                raise
            return None
        return conversation

    def _body(
        self, headers: Mapping[bytes, bytes], receive: Receive, limit: int
    ) -> Awaitable[bytes]:
        """The body of a request, if its head allows to read it."""
        body.check_headers(headers, max_body_bytes=limit)
        reading = body.read_body(receive, max_bytes=limit)
        deadline = Deadline(self._settings.body_timeout, body.late_body, self._lifecycle)
        return deadline.run(reading)

    async def _answer(self, visit: Visit, limit: int) -> Optional[Response]:
        """Stream the answer, or return the response that refuses the request."""
        scope, headers = visit.scope, visit.headers
        stream: Optional[EventStream] = None
        conversation: Optional[ConversationTurn] = None
        found: Optional[Found] = None
        claim: Optional[Claim] = None
        attempt: Optional[Attempt] = None
        try:
            try:
                data = await self._body(headers, visit.receive, limit)
                request = self.dialect.decode(data, headers)
                conversation_id = request.conversation_id or new_conversation_id()
                if self._keeps:  # else a short reply is spared all of this (`make bench`, short)
                    owner = owner_of(scope)
                    claim = Claim(conversation_id, owner, new_reply_id(), request.message)
                    if self._replies is not None:
                        attempt = read_attempt(headers, owner, self.dialect.path, data)
                    if self._history is not None or attempt is not None:
                        conversation, found = await self._begin(claim, request, attempt, visit)
                del data  # a stream would hold it for minutes
            except ClientDisconnect:
                return None
            except RequestError as error:
                return self._refuse(error, scope)
            except Exception:
                return self._failed(scope)
            if found is not None:
                stream = self._streams.join(found, request, visit)
            else:
                stream = self._streams.open(
                    request, conversation_id, conversation, claim, attempt, visit
                )
            await stream.respond()
            return None
        finally:
            if stream is not None and visit.passed is not FREE:
                visit.passed.leave(stream.tokens)
            if conversation is not None:
                await conversation.end()

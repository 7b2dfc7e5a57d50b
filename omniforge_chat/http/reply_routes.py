"""The routes of kept replies and of stored conversations, below `/api/v1`."""

from __future__ import annotations

from typing import Awaitable, Callable, List, Mapping, Optional, Sequence, Union

from msgspec.structs import replace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..conversations.protocol import History, StoredConversations
from ..core.kept import is_reply_id
from ..dialects import Dialect, make_dialect, refusal
from ..errors import ConversationNotFound, ReplyNotFound, RequestError
from ..logs import logger
from ..request_id import request_id
from ..rules import is_identifier
from ..settings import Settings
from ..stream.kept import FollowingStream
from ..stream.lifecycle import Lifecycle
from .access import Access, owner_of
from .chat import FAILURE_LOGGED
from .paths import ChatRoute
from .replies import PATH, Replies, owner_and_id, reply_path
from .responses import error_response, internal_error, json_response
from .stored import conversation_document, delete_conversation
from .visit import Visit

CONVERSATION = "/api/v1/conversations/{conversation_id}"

Answer = Union[Response, FollowingStream]
Handler = Callable[[Visit], Awaitable[Answer]]


class _Endpoint:
    """An ASGI app of handlers, one for each method, which return a response or a stream.

    If it `streams`, a GET takes a place as a chat does. A refusal has the shape of errors of
    `dialect`, or the native one.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        access: Access,
        handlers: Mapping[str, Handler],
        dialect: Optional[Dialect] = None,
        *,
        streams: bool = False,
    ) -> None:
        self._lifecycle = lifecycle
        self._access = access
        self._handlers = handlers
        self._shape = refusal if dialect is None else dialect.refusal
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Optional[Response]
        visit = Visit(scope, dict(scope["headers"]), receive, send)
        try:
            if self._streams and scope["method"] == "GET":
                response = await self._stream(visit)
            else:
                await self._access.check(scope, self._lifecycle)
                response = await self._answer(visit)
        except RequestError as error:
            response = self._refuse(error, scope)
        if response is not None:
            response.headers["X-Request-ID"] = request_id(scope)
            await response(scope, receive, send)

    async def _stream(self, visit: Visit) -> Optional[Response]:
        """The same with a place, and limits. Raises RequestError if there is none."""
        passed = await self._access.enter(visit.scope, self._lifecycle, reads=True)
        try:
            self._lifecycle.admit(reads=True)
            try:
                response = await self._answer(replace(visit, passed=passed))
            finally:
                self._lifecycle.release()
            if response is not None:
                response.raw_headers.extend(passed.headers)
            return response
        finally:
            passed.leave(0)

    async def _answer(self, visit: Visit) -> Optional[Response]:
        """Stream the answer, or return the response that is one."""
        scope = visit.scope
        reference = request_id(scope)
        try:
            answer = await self._handlers[scope["method"]](visit)
        except RequestError as error:
            return self._refuse(error, scope)
        except ClientDisconnect:
            return None
        except Exception:
            logger.exception("request failed request_id=%s", reference)
            return self._refuse(internal_error(scope), scope)
        if isinstance(answer, Response):
            return answer
        try:
            await answer.respond()
        except OSError:
            raise  # a server's way to say that the client has left
        except Exception:
            logger.exception("request failed request_id=%s", reference)
            scope[FAILURE_LOGGED] = True
            raise
        return None

    def _refuse(self, error: RequestError, scope: Scope) -> Response:
        self._lifecycle.refusals.count(error, request_id(scope), scope)
        return error_response(error, shape=self._shape)


def _nothing() -> Response:
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


def _conversation_id(scope: Scope) -> str:
    """The id in the path. Raises ConversationNotFound if it can be none."""
    found: str = scope["path_params"]["conversation_id"]
    if not is_identifier(found):
        raise ConversationNotFound("No conversation has this id")
    return found


class _Replies:
    """The handlers of kept replies."""

    def __init__(self, replies: Replies, native: Dialect) -> None:
        self._replies = replies
        self._native = native

    async def read(self, visit: Visit) -> Answer:
        """GET: the reply, or the rest of it."""
        owner, last_event_id = owner_and_id(visit.scope)
        if last_event_id is None:
            last_event_id = Request(visit.scope).query_params.get("after")
        await self._replies.discard_body(visit.receive)
        reply_id = visit.scope["path_params"]["reply_id"]
        found = await self._replies.find(reply_id, last_event_id, owner)
        if found.nothing_more:
            return _nothing()
        frames, path = self._native.frames, reply_path(reply_id)
        return self._replies.stream(found, frames, path, visit)

    async def stop(self, visit: Visit) -> Answer:
        """DELETE: the reply ends, with what there is of it."""
        return await self._stop(visit.scope["path_params"]["reply_id"], owner_of(visit.scope))

    async def _stop(self, reply_id: Optional[str], owner: str) -> Response:
        running = None
        if reply_id is not None and is_reply_id(reply_id):
            running = await self._replies.replay.stop(reply_id, owner)
        if running is None:
            raise ReplyNotFound("No such reply is kept")
        status = "stopping" if running else "ended"
        return json_response({"status": status}, status=202 if running else 200)

    async def stop_newest(self, visit: Visit) -> Answer:
        """POST: the reply that runs in a conversation ends."""
        owner = owner_of(visit.scope)
        return await self._stop(await self._newest(visit.scope, owner), owner)

    def running(self, dialect: Dialect) -> Handler:
        """GET: the reply that runs in a conversation, from its beginning, for `dialect`."""

        async def read(visit: Visit) -> Answer:
            owner = owner_of(visit.scope)
            await self._replies.discard_body(visit.receive)
            reply_id = await self._newest(visit.scope, owner)
            if reply_id is None:
                return _nothing()
            try:
                found = await self._replies.find(reply_id, None, owner)
            except ReplyNotFound:  # it has just expired
                return _nothing()
            if found.kept.last is not None:
                return _nothing()
            path = dialect.running_path.format(conversation_id=found.kept.conversation_id)
            return self._replies.stream(found, dialect.frames, path, visit)

        return read

    async def _newest(self, scope: Scope, owner: str) -> Optional[str]:
        return await self._replies.replay.newest(_conversation_id(scope), owner)


class _Conversations:
    """The handlers of stored conversations."""

    def __init__(self, stored: StoredConversations, replies: Optional[Replies]) -> None:
        self._stored = stored
        self._replies = replies

    async def read(self, visit: Visit) -> Answer:
        """GET: the messages."""
        conversation_id = _conversation_id(visit.scope)
        messages = await self._stored.read(conversation_id, owner_of(visit.scope))
        return json_response(conversation_document(conversation_id, messages))

    async def delete(self, visit: Visit) -> Answer:
        """DELETE: nothing of it is left, and a running reply is stopped."""
        replay = None if self._replies is None else self._replies.replay
        conversation_id = _conversation_id(visit.scope)
        await delete_conversation(self._stored, replay, conversation_id, owner_of(visit.scope))
        return _nothing()


def reply_routes(
    dialects: Sequence[Dialect],
    lifecycle: Lifecycle,
    access: Access,
    history: Optional[History],
    replies: Optional[Replies],
) -> List[Route]:
    """The routes that this service has: those of replies if they are kept, and so on."""

    def add(
        path: str,
        name: str,
        handlers: Mapping[str, Handler],
        *,
        dialect: Optional[Dialect] = None,
        streams: bool = False,
    ) -> None:
        endpoint = _Endpoint(lifecycle, access, handlers, dialect, streams=streams)
        route = ChatRoute(path, endpoint, methods=list(handlers), name=name)
        if route.methods is not None:
            route.methods.discard("HEAD")  # Starlette adds it to GET; it would run a stream
        found.append(route)

    found: List[Route] = []
    if replies is not None:
        kept = _Replies(replies, make_dialect("native", Settings()))
        add(PATH, "reply", {"GET": kept.read, "DELETE": kept.stop}, streams=True)
        add(f"{CONVERSATION}/stop", "stopConversation", {"POST": kept.stop_newest})
        for dialect in dialects:
            if dialect.running_path:
                name = f"{dialect.operation.id}Running"
                handlers = {"GET": kept.running(dialect)}
                add(dialect.running_path, name, handlers, dialect=dialect, streams=True)
    if isinstance(history, StoredConversations):
        stored = _Conversations(history, replies)
        add(CONVERSATION, "conversation", {"GET": stored.read, "DELETE": stored.delete})
    return found

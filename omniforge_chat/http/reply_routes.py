"""The routes of kept replies and of stored conversations, below `/api/v1`."""

from __future__ import annotations

from typing import Awaitable, Callable, List, Mapping, Optional, Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..conversations.protocol import History, StoredConversations
from ..dialects import Dialect, make_dialect, refusal
from ..errors import ConversationNotFound, ReplyNotFound, RequestError
from ..logs import logger
from ..request_id import request_id
from ..rules import is_identifier
from ..settings import Settings
from ..stream.lifecycle import Lifecycle
from .chat import FAILURE_LOGGED
from .owner import owner_of
from .paths import ChatRoute
from .replies import PATH, Replies, owner_and_id, reply_path
from .responses import error_response, internal_error, json_response
from .stored import conversation_document, delete_conversation

CONVERSATION = "/api/v1/conversations/{conversation_id}"

Handler = Callable[[Scope, Receive, Send], Awaitable[Optional[Response]]]


class _Endpoint:
    """An ASGI app of handlers, one for each method, which return a response or send one.

    A refusal has the shape of errors of `dialect`, or the native one.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        handlers: Mapping[str, Handler],
        dialect: Optional[Dialect] = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._handlers = handlers
        self._shape = refusal if dialect is None else dialect.refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reference = request_id(scope)
        try:
            response = await self._handlers[scope["method"]](scope, receive, send)
        except RequestError as error:
            self._lifecycle.refusals.count(error, reference)
            response = error_response(error, shape=self._shape)
        except ClientDisconnect:
            return
        except OSError:
            raise  # a server's way to say that the client has left
        except Exception:
            logger.exception("request failed request_id=%s", reference)
            scope[FAILURE_LOGGED] = True
            response = error_response(internal_error(scope), shape=self._shape)
        if response is not None:
            response.headers["X-Request-ID"] = reference
            await response(scope, receive, send)


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

    def __init__(self, replies: Replies, lifecycle: Lifecycle, native: Dialect) -> None:
        self._replies = replies
        self._lifecycle = lifecycle
        self._native = native

    async def read(self, scope: Scope, receive: Receive, send: Send) -> Optional[Response]:
        """GET: the reply, or the rest of it."""
        owner, last_event_id = owner_and_id(scope)
        if last_event_id is None:
            last_event_id = Request(scope).query_params.get("after")
        self._lifecycle.admit()
        try:
            await self._replies.discard_body(receive)
            reply_id = scope["path_params"]["reply_id"]
            found = await self._replies.find(reply_id, last_event_id, owner)
            if found.nothing_more:
                return _nothing()
            frames, path = self._native.frames, reply_path(reply_id)
            await self._replies.stream(found, frames, path, scope, receive, send).respond()
        finally:
            self._lifecycle.release()
        return None

    async def stop(self, scope: Scope, receive: Receive, send: Send) -> Response:
        """DELETE: the reply ends, with what there is of it."""
        return await self._stop(scope["path_params"]["reply_id"], owner_of(scope))

    async def _stop(self, reply_id: Optional[str], owner: str) -> Response:
        running = None
        if reply_id is not None:
            running = await self._replies.replay.stop(reply_id, owner)
        if running is None:
            raise ReplyNotFound("No such reply is kept")
        status = "stopping" if running else "ended"
        return json_response({"status": status}, status=202 if running else 200)

    async def stop_newest(self, scope: Scope, receive: Receive, send: Send) -> Response:
        """POST: the reply that runs in a conversation ends."""
        owner = owner_of(scope)
        return await self._stop(await self._newest(scope, owner), owner)

    def running(self, dialect: Dialect) -> Handler:
        """GET: the reply that runs in a conversation, from its beginning, for `dialect`."""

        async def read(scope: Scope, receive: Receive, send: Send) -> Optional[Response]:
            owner = owner_of(scope)
            self._lifecycle.admit()
            try:
                await self._replies.discard_body(receive)
                reply_id = await self._newest(scope, owner)
                if reply_id is None:
                    return _nothing()
                try:
                    found = await self._replies.find(reply_id, None, owner)
                except ReplyNotFound:  # it has just expired
                    return _nothing()
                if found.kept.last is not None:
                    return _nothing()
                path = dialect.running_path.format(conversation_id=found.kept.conversation_id)
                frames = dialect.frames
                await self._replies.stream(found, frames, path, scope, receive, send).respond()
            finally:
                self._lifecycle.release()
            return None

        return read

    async def _newest(self, scope: Scope, owner: str) -> Optional[str]:
        return await self._replies.replay.newest(_conversation_id(scope), owner)


class _Conversations:
    """The handlers of stored conversations."""

    def __init__(self, stored: StoredConversations, replies: Optional[Replies]) -> None:
        self._stored = stored
        self._replies = replies

    async def read(self, scope: Scope, receive: Receive, send: Send) -> Response:
        """GET: the messages."""
        conversation_id = _conversation_id(scope)
        messages = await self._stored.read(conversation_id, owner_of(scope))
        return json_response(conversation_document(conversation_id, messages))

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> Response:
        """DELETE: nothing of it is left, and a running reply is stopped."""
        replay = None if self._replies is None else self._replies.replay
        conversation_id = _conversation_id(scope)
        await delete_conversation(self._stored, replay, conversation_id, owner_of(scope))
        return _nothing()


def reply_routes(
    dialects: Sequence[Dialect],
    lifecycle: Lifecycle,
    history: Optional[History],
    replies: Optional[Replies],
) -> List[Route]:
    """The routes that this service has: those of replies if they are kept, and so on."""

    def route(path: str, name: str, handlers: Mapping[str, Handler]) -> Route:
        endpoint = _Endpoint(lifecycle, handlers)
        return _route(path, endpoint, handlers, name)

    found: List[Route] = []
    if replies is not None:
        kept = _Replies(replies, lifecycle, make_dialect("native", Settings()))
        found += [
            route(PATH, "reply", {"GET": kept.read, "DELETE": kept.stop}),
            route(f"{CONVERSATION}/stop", "stopConversation", {"POST": kept.stop_newest}),
        ]
        for dialect in dialects:
            if dialect.running_path:
                handlers = {"GET": kept.running(dialect)}
                endpoint = _Endpoint(lifecycle, handlers, dialect)
                name = f"{dialect.operation.id}Running"
                found.append(_route(dialect.running_path, endpoint, handlers, name))
    if isinstance(history, StoredConversations):
        stored = _Conversations(history, replies)
        handlers = {"GET": stored.read, "DELETE": stored.delete}
        found.append(route(CONVERSATION, "conversation", handlers))
    return found


def _route(path: str, endpoint: _Endpoint, handlers: Mapping[str, Handler], name: str) -> Route:
    route = ChatRoute(path, endpoint, methods=list(handlers), name=name)
    if route.methods is not None:
        route.methods.discard("HEAD")  # Starlette adds it to GET; it would run a stream
    return route

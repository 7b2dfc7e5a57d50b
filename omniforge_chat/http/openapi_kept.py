"""What the OpenAPI document says of kept replies and of stored conversations."""

from __future__ import annotations

from typing import List, Sequence, Type

from ..core.kept import OVER
from ..dialects import Dialect
from ..errors import (
    ChatError,
    ConversationNotFound,
    HistoryUnavailable,
    InternalError,
    InvalidHeader,
    Overloaded,
    PayloadTooLarge,
    ReplayUnavailable,
    ReplyNotFound,
    RequestTimeout,
    ShuttingDown,
)
from ..models import Error, StoredMessage
from .openapi_parts import (
    Described,
    Features,
    document_response,
    empty_response,
    guards,
    object_of,
    parameter,
    ref,
    refusals,
    request_id_parameter,
    status_response,
    stream_response,
)

_REPLY_ID = "^[A-Za-z0-9_-]{22}$"
_POSITION = rf"^[A-Za-z0-9_-]{{22}}\.(0|[1-9][0-9]{{0,14}}|{OVER})$"
_CONVERSATION_ID = "^[!-.0-~]{1,128}$"
_KEY = '^("[ !#-~]{1,255}"|[!#-~]([ !#-~]{0,253}[!#-~])?)$'

_PLACES: List[Type[ChatError]] = [RequestTimeout, PayloadTooLarge, Overloaded, ShuttingDown]
"""The errors of a request that takes a place, and whose body is read."""


def last_event_id() -> Described:
    """The header of a request for the rest of a reply."""
    text = "The `id` of the last event that the client has: it gets what comes behind it."
    return parameter("Last-Event-ID", "header", text, pattern=_POSITION)


def idempotency_key() -> Described:
    """The header of a chat that may be sent again."""
    text = (
        "A text of the client's own for this request, such as a new UUID. If it sends the request "
        "again, the reply to the first one is its answer, with `Idempotency-Replayed: true`."
    )
    return parameter("Idempotency-Key", "header", text, pattern=_KEY)


def kept_paths(
    native: Dialect, dialects: Sequence[Dialect], features: Features, *, streamed: bool
) -> Described:
    """The paths of the routes that `reply_routes` makes."""
    found: Described = {}
    if features.replies:
        found["/api/v1/chat/replies/{reply_id}"] = {
            "get": _read(native, features, streamed=streamed),
            "delete": _stop("stopReply", "Stop a reply", _reply_id(), [ReplyNotFound], features),
        }
        found["/api/v1/conversations/{conversation_id}/stop"] = {
            "post": _stop(
                "stopConversation",
                "Stop the reply that runs in a conversation",
                _conversation_id(),
                [ReplyNotFound, ConversationNotFound],
                features,
            )
        }
        for dialect in dialects:
            if dialect.running_path:
                running = _running(dialect, features, streamed=streamed)
                found[dialect.running_path] = {"get": running}
    if features.conversations:
        found["/api/v1/conversations/{conversation_id}"] = {
            "get": _conversation(features),
            "delete": _delete(features),
        }
    return found


def _operation(
    name: str, summary: str, parameters: List[Described], responses: Described
) -> Described:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [*parameters, request_id_parameter()],
        "responses": responses,
    }


def _reply_id() -> Described:
    text = "The `X-Reply-ID` of the chat."
    return parameter("reply_id", "path", text, pattern=_REPLY_ID)


def _conversation_id() -> Described:
    return parameter(
        "conversation_id", "path", "The id of the conversation.", pattern=_CONVERSATION_ID
    )


def _read(native: Dialect, features: Features, *, streamed: bool) -> Described:
    text = "The same as `Last-Event-ID`, which is newer if both are there."
    errors = [
        *guards(features, streams=True),
        *_PLACES,
        InvalidHeader,
        ReplyNotFound,
        InternalError,
        ReplayUnavailable,
    ]
    responses = {
        "200": stream_response(native.operation, features, streamed=streamed),
        "204": empty_response("The client has all of the reply."),
        **refusals(errors, Error),
    }
    parameters = [
        _reply_id(),
        last_event_id(),
        parameter("after", "query", text, pattern=_POSITION),
    ]
    return _operation(
        "reply", "Read a reply that is kept, or the rest of it", parameters, responses
    )


def _running(dialect: Dialect, features: Features, *, streamed: bool) -> Described:
    operation = dialect.operation
    errors = [
        *guards(features, streams=True),
        *_PLACES,
        ConversationNotFound,
        InternalError,
        ReplayUnavailable,
    ]
    responses = {
        "200": stream_response(operation, features, streamed=streamed),
        "204": empty_response("No reply is running there."),
        **refusals(errors, operation.refusal),
    }
    summary = "Read the reply that runs in a conversation, from its beginning"
    return _operation(f"{operation.id}Running", summary, [_conversation_id()], responses)


def _stop(
    name: str,
    summary: str,
    where: Described,
    missing: Sequence[Type[ChatError]],
    features: Features,
) -> Described:
    errors = [*guards(features), *missing, InternalError, ReplayUnavailable]
    responses = {
        "200": status_response("It has ended before", "ended"),
        "202": status_response("It ends now, with what there is of it", "stopping"),
        **refusals(errors, Error),
    }
    return _operation(name, summary, [where], responses)


def _conversation(features: Features) -> Described:
    errors = [*guards(features), ConversationNotFound, InternalError, HistoryUnavailable]
    messages = {"type": "array", "items": ref(StoredMessage.__name__)}
    shape = object_of({"conversation_id": {"type": "string"}, "messages": messages})
    responses = {
        "200": document_response("Its messages, oldest first", shape),
        **refusals(errors, Error),
    }
    return _operation("conversation", "Read a conversation", [_conversation_id()], responses)


def _delete(features: Features) -> Described:
    errors = [*guards(features), ConversationNotFound, InternalError, HistoryUnavailable]
    if features.replies:
        errors.append(ReplayUnavailable)
    responses = {
        "204": empty_response("Nothing of it is left. A reply that was running is stopped."),
        **refusals(errors, Error),
    }
    return _operation(
        "deleteConversation", "Delete a conversation", [_conversation_id()], responses
    )

"""What descriptions in the OpenAPI document are made of."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Type

import msgspec

from ..dialects import Event, Operation, all_errors
from ..errors import (
    Abandoned,
    AccessUnavailable,
    ChatError,
    ConversationNotFound,
    Forbidden,
    HistoryUnavailable,
    KeyReused,
    LimitsUnavailable,
    RateLimited,
    ReplayGap,
    ReplayUnavailable,
    ReplyExpired,
    ReplyNotFound,
    RequestError,
    Unauthorized,
    WorkerLost,
)
from ..models import Error

Described = Dict[str, Any]


class Features(NamedTuple):
    """What a service has besides chats, as far as clients see it.

    It keeps `replies`; it has a `history` of conversations; and that can be read (`conversations`).
    It `asks` who a caller is, whom it may know by `keys` or tokens; and it may have `limits`.
    """

    replies: bool = False
    history: bool = False
    conversations: bool = False
    asks: bool = False
    keys: bool = False
    limits: bool = False


NO_FEATURES = Features()

_OF_REPLIES = {
    *(ReplyNotFound, ReplyExpired, KeyReused, ReplayUnavailable),
    *(Abandoned, WorkerLost, ReplayGap),
}
_OF_HISTORY = {ConversationNotFound, HistoryUnavailable}
_OF_ACCESS = (Unauthorized, Forbidden, AccessUnavailable)
_OF_LIMITS = (RateLimited, LimitsUnavailable)


def errors_of(features: Features) -> Iterator[Type[ChatError]]:
    """The classes of errors that a service with these features has."""
    never = {
        *(() if features.replies else _OF_REPLIES),
        *(() if features.history else _OF_HISTORY),
        *(() if features.asks else _OF_ACCESS),
        *(() if features.limits else _OF_LIMITS),
    }
    return (error for error in all_errors(ChatError) if error not in never)


def guards(features: Features, *, streams: bool = False) -> List[Type[ChatError]]:
    """The classes of refusals that any route has which asks who a caller is.

    If it `streams`, limits hold as well.
    """
    return [
        *(_OF_ACCESS if features.asks else ()),
        *(_OF_LIMITS if features.limits and streams else ()),
    ]


def schemas(structs: Iterable[type]) -> Described:
    """The schemas of Structs and of those inside them."""
    once = dict.fromkeys(structs)
    _, found = msgspec.json.schema_components(once, ref_template="#/components/schemas/{name}")
    return found


def structs_of(operation: Operation) -> List[type]:
    """The Structs that the service sends."""
    sent = [operation.document, operation.refusal, *(event.data for event in operation.events)]
    return [struct for struct in sent if struct is not None]


def without_defaults(schema: Described) -> Described:
    """`schema` without defaults: openapi-typescript makes a field that has one required."""
    properties = {
        name: {key: value for key, value in described.items() if key != "default"}
        for name, described in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def without_null(schema: Described) -> Described:
    """`schema` without null where it is the default: it is left out of the JSON then.

    So a Struct that is sent has defaults of None only if it has `omit_defaults`.
    """
    properties: Described = {}
    for name, described in schema["properties"].items():
        kinds = [kind for kind in described.get("anyOf", ()) if kind != {"type": "null"}]
        if kinds and "default" in described:
            (kind,) = kinds
            described = {k: v for k, v in described.items() if k not in ("anyOf", "default")}
            described.update(kind)
        properties[name] = described
    return {**schema, "properties": properties}


def ref(name: str) -> Described:
    """A schema among the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def header(name: str, description: str) -> Described:
    """A header of a response."""
    return {name: {"description": description, "schema": {"type": "string"}}}


def request_id_header() -> Described:
    """The header that each response has."""
    return header("X-Request-ID", "The reference of this request, also in the log.")


def limit_headers() -> Described:
    """The headers of a response that tell how much is left of a caller's limits."""
    return {
        **header(
            "RateLimit", "How much is left of each limit (draft-ietf-httpapi-ratelimit-headers)."
        ),
        **header("RateLimit-Policy", "The limits."),
    }


def parameter(name: str, place: str, description: str, **schema: object) -> Described:
    """A text of a request, in its "path", "query" or "header"."""
    found: Described = {"name": name, "in": place, "description": description}
    if not description:
        del found["description"]
    if place == "path":
        found["required"] = True
    return {**found, "schema": {"type": "string", **schema}}


def request_id_parameter() -> Described:
    """The parameter that each request may have."""
    text = "The client's own reference. If it is unusable, a new one is made."
    return parameter("X-Request-ID", "header", text)


def document_response(description: str, schema: Described) -> Described:
    """A response of JSON."""
    return {
        "description": description,
        "headers": request_id_header(),
        "content": {"application/json": {"schema": schema}},
    }


def empty_response(description: str) -> Described:
    """A response without a body."""
    return {"description": description, "headers": request_id_header()}


def object_of(properties: Described) -> Described:
    """The schema of an object that has all of these properties."""
    return {"type": "object", "properties": properties, "required": [*properties]}


def status_response(description: str, status: str) -> Described:
    """A response of JSON that tells a status."""
    return document_response(description, object_of({"status": {"const": status}}))


def refusals(
    classes: Iterable[Type[ChatError]], shape: Optional[Type[msgspec.Struct]]
) -> Described:
    """The responses that are errors of these classes, by their HTTP status."""
    by_status: Dict[int, List[Type[ChatError]]] = {}
    for error in classes:
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _refusal(same, shape) for status, same in sorted(by_status.items())}


def _refusal(classes: List[Type[ChatError]], shape: Optional[Type[msgspec.Struct]]) -> Described:
    codes = sorted({refusal.code for refusal in classes})
    content: Described
    if shape is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
    else:
        schema = ref(shape.__name__)
        if shape is Error:
            schema = {"allOf": [schema, {"properties": {"code": {"enum": codes}}}]}
        content = {"application/json": {"schema": schema}}
    headers = request_id_header()
    requests = [error for error in classes if issubclass(error, RequestError)]
    if any(error.retry_after is not None for error in requests):
        headers.update(header("Retry-After", "Seconds to wait before the next try."))
    if Unauthorized in classes:
        headers.update(header("WWW-Authenticate", "The way to say who you are."))
    if RateLimited in classes:
        headers.update(limit_headers())
    phrase = HTTPStatus(classes[0].status).phrase
    description = " ".join((refusal.__doc__ or phrase).splitlines()[0] for refusal in classes)
    return {"description": description, "headers": headers, "content": content}


def stream_response(operation: Operation, features: Features, *, streamed: bool) -> Described:
    """The response that is a stream; `streamed`: this version of OpenAPI can describe one."""
    headers = {**request_id_header(), **header("X-Conversation-ID", "The id of the conversation.")}
    if features.replies:
        headers.update(header("X-Reply-ID", "The id of the reply, which is kept."))
        headers.update(header("Location", "Where the reply is to be read again, and stopped."))
    if features.limits:
        headers.update(limit_headers())
    content = _stream(operation, features) if streamed else {"schema": {"type": "string"}}
    return {
        "description": operation.description,
        "headers": headers,
        "content": {"text/event-stream": content},
    }


def _stream(operation: Operation, features: Features) -> Described:
    events = operation.events
    # The schema of an event without a name does not look into its data, so it fits the others too.
    some = "oneOf" if all(event.name for event in events) else "anyOf"
    numbered = operation.numbered and features.replies
    return {"itemSchema": {some: [_event(event, features, numbered) for event in events]}}


def _event(event: Event, features: Features, numbered: bool) -> Described:
    data: Described = {"type": "string"}
    description = event.description or event.name
    if event.data is None:
        data["const"] = event.name
    else:
        data.update(contentMediaType="application/json", contentSchema=ref(event.data.__name__))
        description = event.description or event.data.__doc__ or event.name
    if event.data is Error:
        codes = ", ".join(f"`{error.code}`" for error in errors_of(features) if error.ends_stream)
        data["description"] = f"Codes: {codes}, and those that a responder chooses itself."
    properties: Described = {"data": data}
    if event.name and event.data is not None:
        properties = {"event": {"const": event.name}, "data": data}
    required = [*properties]
    if numbered:
        properties.update(id=dict(_ID), retry=dict(_RETRY))
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
    }


_ID = {
    "type": "string",
    "description": "As a `Last-Event-ID` it asks for what comes behind this event. It is opaque.",
}
_RETRY = {
    "type": "integer",
    "description": "Milliseconds to wait before that. Only the first event has it.",
}

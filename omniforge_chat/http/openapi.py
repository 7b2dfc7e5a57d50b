"""The OpenAPI document, made from the Structs that decode requests and encode events.

OpenAPI 3.2.0 describes a stream event by event (`itemSchema`). For `text/event-stream` its Media
Type Registry says that each event is an object with the fields of its frame, and that `data` is a
string, here of JSON (https://spec.openapis.org/registry/media-type/sse). Most generators of clients
know only OpenAPI 3.1, in which a stream is text.

Sentences come from docstrings. `python -OO` has none, so then the document has fewer words.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from importlib import metadata
from typing import Any, Dict, Iterable, List, Optional, Sequence, Type

import msgspec

from ..dialects import Dialect, Event, Operation, Resource, all_errors
from ..errors import ChatError, NotFound
from ..models import Error

# Patterns are ECMA-262, and its `\s` is not Python's. So the characters are listed here.
_NOT_BLANK = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"

LATEST = "3.2"
VERSIONS = {"3.1": "3.1.1", LATEST: "3.2.0"}
"""The versions of OpenAPI that the document can be written in."""


def document(dialects: Sequence[Dialect], root_path: str, version: str = LATEST) -> Dict[str, Any]:
    """The document of a service that is mounted at `root_path`, and speaks `dialects`.

    `version` is one of VERSIONS.
    """
    asked = _schemas([dialect.operation.request for dialect in dialects])
    answered = _schemas([Error, *(each for one in dialects for each in _structs(one.operation))])
    if "ChatRequest" in asked:
        asked["ChatRequest"]["properties"]["message"]["pattern"] = _NOT_BLANK
    paths: Dict[str, Any] = {}
    for dialect in dialects:
        paths[dialect.path] = {"post": _chat(dialect.operation, streamed=version == LATEST)}
        for resource in dialect.resources():
            paths[resource.path.replace(":path}", "}")] = {
                "get": _resource(resource, dialect.operation)
            }
    return {
        "openapi": VERSIONS[version],
        "info": {
            "title": "OmniForge Chat",
            "version": metadata.version("omniforge-chat"),
            "summary": "A message in, a stream of events out.",
        },
        "servers": [{"url": root_path or "/"}],
        "paths": {
            **paths,
            "/health": {"get": _probe("health", "Whether the process is up", "healthy")},
            "/ready": {"get": _ready()},
        },
        "components": {
            "schemas": {
                **{name: _without_defaults(schema) for name, schema in asked.items()},
                **{name: _without_null(schema) for name, schema in answered.items()},
            }
        },
    }


def _schemas(structs: Iterable[type]) -> Dict[str, Any]:
    """The schemas of Structs and of those inside them."""
    once = dict.fromkeys(structs)
    _, found = msgspec.json.schema_components(once, ref_template="#/components/schemas/{name}")
    return found


def _structs(operation: Operation) -> List[type]:
    """The Structs that the service sends."""
    sent = [operation.document, operation.refusal, *(event.data for event in operation.events)]
    return [struct for struct in sent if struct is not None]


def _without_defaults(schema: Dict[str, Any]) -> Dict[str, Any]:
    """`schema` without defaults: openapi-typescript makes a field that has one required."""
    properties = {
        name: {key: value for key, value in described.items() if key != "default"}
        for name, described in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _without_null(schema: Dict[str, Any]) -> Dict[str, Any]:
    """`schema` without null where it is the default: it is left out of the JSON then.

    So a Struct that is sent has defaults of None only if it has `omit_defaults`.
    """
    properties: Dict[str, Any] = {}
    for name, described in schema["properties"].items():
        kinds = [kind for kind in described.get("anyOf", ()) if kind != {"type": "null"}]
        if kinds and "default" in described:
            (kind,) = kinds
            described = {k: v for k, v in described.items() if k not in ("anyOf", "default")}
            described.update(kind)
        properties[name] = described
    return {**schema, "properties": properties}


def _chat(operation: Operation, *, streamed: bool) -> Dict[str, Any]:
    content = {"text/event-stream": _stream(operation) if streamed else _TEXT_STREAM}
    if operation.document is not None:
        content["application/json"] = {"schema": _ref(operation.document.__name__)}
    responses: Dict[str, Any] = {
        "200": {
            "description": operation.description,
            "headers": {**_request_id_header(), **_header("X-Conversation-ID", _CONVERSATION)},
            "content": content,
        },
        "204": {
            "description": "The request has a `Last-Event-ID`: no stream can be resumed.",
            "headers": _request_id_header(),
        },
    }
    by_status: Dict[int, List[Type[ChatError]]] = {}
    for error in all_errors(ChatError):
        if error.refuses_chat or (operation.document is not None and error.ends_stream):
            by_status.setdefault(error.status, []).append(error)
    for status, classes in sorted(by_status.items()):
        responses[str(status)] = _error(classes, operation.refusal)
    return {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in {"X-Request-ID": _REFERENCE, **operation.headers}.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref(operation.request.__name__),
                    "examples": {"first": {"value": operation.example}},
                }
            },
        },
        "responses": responses,
    }


def _resource(resource: Resource, chat: Operation) -> Dict[str, Any]:
    names = re.findall(r"{(\w+)", resource.path)
    schema = {"type": "string"}
    missing = {"404": _error([NotFound], chat.refusal)} if names else {}
    return {
        "operationId": resource.id,
        "summary": resource.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": schema} for name in names
        ],
        "responses": {
            "200": {
                "description": resource.summary,
                "headers": _request_id_header(),
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **missing,
        },
    }


def _ready() -> Dict[str, Any]:
    operation = _probe("ready", "Whether the service takes new chats", "ready")
    operation["responses"]["503"] = _status("Draining: no new chats", "draining")
    return operation


def _probe(name: str, summary: str, status: str) -> Dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": {"200": _status(summary, status)}}


def _status(description: str, status: str) -> Dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"status": {"const": status}},
        "required": ["status"],
    }
    return {
        "description": description,
        "headers": _request_id_header(),
        "content": {"application/json": {"schema": schema}},
    }


def _error(classes: List[Type[ChatError]], shape: Optional[Type[msgspec.Struct]]) -> Dict[str, Any]:
    codes = sorted({refusal.code for refusal in classes})
    content: Dict[str, Any]
    if shape is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
    else:
        schema = _ref(shape.__name__)
        if shape is Error:
            schema = {"allOf": [schema, {"properties": {"code": {"enum": codes}}}]}
        content = {"application/json": {"schema": schema}}
    headers = _request_id_header()
    if getattr(classes[0], "retry_after", None) is not None:
        headers.update(_header("Retry-After", "Seconds to wait before the next try."))
    phrase = HTTPStatus(classes[0].status).phrase
    description = " ".join((refusal.__doc__ or phrase).splitlines()[0] for refusal in classes)
    return {"description": description, "headers": headers, "content": content}


def _stream(operation: Operation) -> Dict[str, Any]:
    events = operation.events
    # The schema of an event without a name does not look into its data, so it fits the others too.
    some = "oneOf" if all(event.name for event in events) else "anyOf"
    return {"itemSchema": {some: [_event(event) for event in events]}}


def _event(event: Event) -> Dict[str, Any]:
    data: Dict[str, Any] = {"type": "string"}
    description = event.description or event.name
    if event.data is None:
        data["const"] = event.name
    else:
        data.update(contentMediaType="application/json", contentSchema=_ref(event.data.__name__))
        description = event.description or event.data.__doc__ or event.name
    if event.data is Error:
        codes = ", ".join(f"`{error.code}`" for error in all_errors(ChatError) if error.ends_stream)
        data["description"] = f"Codes: {codes}, and those that a responder chooses itself."
    properties: Dict[str, Any] = {"data": data}
    if event.name and event.data is not None:
        properties = {"event": {"const": event.name}, "data": data}
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [*properties],
    }


def _ref(name: str) -> Dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _request_id_header() -> Dict[str, Any]:
    return _header("X-Request-ID", "The reference of this request, also in the log.")


def _header(name: str, description: str) -> Dict[str, Any]:
    return {name: {"description": description, "schema": {"type": "string"}}}


_TEXT_STREAM: Dict[str, Any] = {"schema": {"type": "string"}}
"""The stream of a chat before OpenAPI 3.2."""

_REFERENCE = "The client's own reference. If it is unusable, a new one is made."
_CONVERSATION = "The id of the conversation."

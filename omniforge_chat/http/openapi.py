"""The OpenAPI document, made from the Structs that decode requests and encode events.

OpenAPI 3.2.0 describes a stream event by event (`itemSchema`). For `text/event-stream` its Media
Type Registry says that each event is an object with the fields of its frame, and that `data` is a
string, here of JSON (https://spec.openapis.org/registry/media-type/sse). Most generators of clients
know only OpenAPI 3.1, in which a stream is text.

Sentences come from docstrings. `python -OO` has none, so then the document has fewer words.
"""

from __future__ import annotations

from http import HTTPStatus
from importlib import metadata
from typing import Any, Dict, List, Tuple, Type

import msgspec

from ..errors import ChatError, RequestError, all_errors
from ..models import ChatRequest, Chunk, Done, Error, Usage

_EVENTS: Tuple[Tuple[str, type], ...] = (("chunk", Chunk), ("done", Done), ("error", Error))
# Patterns are ECMA-262, and its `\s` is not Python's. So the characters are listed here.
_NOT_BLANK = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_EXAMPLE_ID = "550e8400-e29b-41d4-a716-446655440000"

LATEST = "3.2"
VERSIONS = {"3.1": "3.1.1", LATEST: "3.2.0"}
"""The versions of OpenAPI that the document can be written in."""


def document(chat_path: str, root_path: str, version: str = LATEST) -> Dict[str, Any]:
    """The document of a service that is mounted at `root_path`, with the chat at `chat_path`.

    `version` is one of VERSIONS.
    """
    _, schemas = msgspec.json.schema_components(
        [ChatRequest, Chunk, Done, Error, Usage], ref_template="#/components/schemas/{name}"
    )
    schemas["ChatRequest"]["properties"]["message"]["pattern"] = _NOT_BLANK
    return {
        "openapi": VERSIONS[version],
        "info": {
            "title": "OmniForge Chat",
            "version": metadata.version("omniforge-chat"),
            "summary": "A message in, a stream of events out.",
        },
        "servers": [{"url": root_path or "/"}],
        "paths": {
            chat_path: {"post": _chat(_EVENT_STREAM if version == LATEST else _TEXT_STREAM)},
            "/health": {"get": _probe("health", "Whether the process is up", "healthy")},
            "/ready": {"get": _ready()},
        },
        "components": {
            "schemas": {
                name: (_without_defaults if name == "ChatRequest" else _without_null)(schema)
                for name, schema in schemas.items()
            }
        },
    }


def _without_defaults(schema: Dict[str, Any]) -> Dict[str, Any]:
    """`schema` without defaults: openapi-typescript makes a field that has one required."""
    properties = {
        name: {key: value for key, value in described.items() if key != "default"}
        for name, described in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _without_null(schema: Dict[str, Any]) -> Dict[str, Any]:
    """`schema` without null: an unknown value is left out of the JSON (`omit_defaults`)."""
    properties: Dict[str, Any] = {}
    for name, described in schema["properties"].items():
        kinds = [kind for kind in described.get("anyOf", ()) if kind != {"type": "null"}]
        if kinds:
            (kind,) = kinds
            described = {k: v for k, v in described.items() if k not in ("anyOf", "default")}
            described.update(kind)
        properties[name] = described
    return {**schema, "properties": properties}


def _chat(stream: Dict[str, Any]) -> Dict[str, Any]:
    example = {"message": "Hello, help me create an agent", "conversation_id": _EXAMPLE_ID}
    responses: Dict[str, Any] = {
        "200": {
            "description": (
                "The reply: `chunk` any number of times, then exactly one `done` or `error`. "
                "Lines that begin with `:` are heartbeats."
            ),
            "headers": {**_request_id_header(), **_header("X-Conversation-ID", "Also in `done`.")},
            "content": {"text/event-stream": stream},
        },
        "204": {
            "description": "The request has a `Last-Event-ID`: no stream can be resumed.",
            "headers": _request_id_header(),
        },
    }
    by_status: Dict[int, List[Type[RequestError]]] = {}
    for error in all_errors(RequestError):
        if error.refuses_chat:
            by_status.setdefault(error.status, []).append(error)
    for status, classes in sorted(by_status.items()):
        responses[str(status)] = _error(classes)
    return {
        "operationId": "chat",
        "summary": "Send a message, and read the reply as a stream of server-sent events",
        "parameters": [
            {
                "name": "X-Request-ID",
                "in": "header",
                "description": "The client's own reference. If it is unusable, a new one is made.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref("ChatRequest"),
                    "examples": {"first": {"value": example}},
                }
            },
        },
        "responses": responses,
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


def _error(classes: List[Type[RequestError]]) -> Dict[str, Any]:
    codes = sorted({refusal.code for refusal in classes})
    schema = {"allOf": [_ref("Error"), {"properties": {"code": {"enum": codes}}}]}
    headers = _request_id_header()
    if classes[0].retry_after is not None:
        headers.update(_header("Retry-After", "Seconds to wait before the next try."))
    phrase = HTTPStatus(classes[0].status).phrase
    description = " ".join((refusal.__doc__ or phrase).splitlines()[0] for refusal in classes)
    return {
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }


def _event(name: str, struct: type) -> Dict[str, Any]:
    data: Dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": _ref(struct.__name__),
    }
    if struct is Error:
        codes = ", ".join(f"`{error.code}`" for error in all_errors(ChatError) if error.ends_stream)
        data["description"] = f"Codes: {codes}, and those that a responder chooses itself."
    return {
        "type": "object",
        "description": struct.__doc__ or name,
        "properties": {"event": {"const": name}, "data": data},
        "required": ["event", "data"],
    }


def _ref(name: str) -> Dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _request_id_header() -> Dict[str, Any]:
    return _header("X-Request-ID", "The reference of this request, also in the log.")


def _header(name: str, description: str) -> Dict[str, Any]:
    return {name: {"description": description, "schema": {"type": "string"}}}


_EVENT_STREAM: Dict[str, Any] = {"itemSchema": {"oneOf": [_event(*event) for event in _EVENTS]}}
_TEXT_STREAM: Dict[str, Any] = {"schema": {"type": "string"}}
"""The stream of a chat in OpenAPI 3.2, and before it."""

"""The OpenAPI document, made from the Structs that decode requests and encode events.

OpenAPI 3.2.0 describes a stream event by event (`itemSchema`). For `text/event-stream` its Media
Type Registry says that each event is an object with the fields of its frame, and that `data` is a
string, here of JSON (https://spec.openapis.org/registry/media-type/sse). Most generators of clients
know only OpenAPI 3.1, in which a stream is text.

Sentences come from docstrings. `python -OO` has none, so then the document has fewer words.
"""

from __future__ import annotations

import re
from typing import Sequence

from ..dialects import Dialect, Operation, Resource, make_dialect
from ..errors import NotFound, ReplyNotFound
from ..models import Error, StoredMessage
from ..settings import Settings
from ..version import version_of
from .openapi_kept import idempotency_key, kept_paths, last_event_id
from .openapi_parts import (
    NO_FEATURES,
    Described,
    Features,
    document_response,
    empty_response,
    errors_of,
    guards,
    parameter,
    ref,
    refusals,
    request_id_parameter,
    schemas,
    status_response,
    stream_response,
    structs_of,
    without_defaults,
    without_null,
)

# Patterns are ECMA-262, and its `\s` is not Python's. So the characters are listed here.
_NOT_BLANK = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"

LATEST = "3.2"
VERSIONS = {"3.1": "3.1.1", LATEST: "3.2.0"}
"""The versions of OpenAPI that the document can be written in."""

_SCHEMES: Described = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key or a token."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same."},
}
"""The ways to say who one is; `access/credentials.py` reads them."""


def document(
    dialects: Sequence[Dialect],
    root_path: str,
    version: str = LATEST,
    features: Features = NO_FEATURES,
) -> Described:
    """The document of a service that is mounted at `root_path`, and speaks `dialects`.

    `version` is one of VERSIONS.
    """
    native = make_dialect("native", Settings())
    sending = [*dialects, native] if features.replies else dialects
    sent = [Error, *(struct for one in sending for struct in structs_of(one.operation))]
    asked = schemas([dialect.operation.request for dialect in dialects])
    answered = schemas([*sent, StoredMessage] if features.conversations else sent)
    if "ChatRequest" in asked:
        asked["ChatRequest"]["properties"]["message"]["pattern"] = _NOT_BLANK
    streamed = version == LATEST
    paths: Described = {}
    for dialect in dialects:
        paths[dialect.path] = {"post": _chat(dialect, features, streamed=streamed)}
        for resource in dialect.resources():
            paths[resource.path.replace(":path}", "}")] = {
                "get": _resource(resource, dialect.operation, features)
            }
    return {
        "openapi": VERSIONS[version],
        "info": {
            "title": "OmniForge Chat",
            "version": version_of(),
            "summary": "A message in, a stream of events out.",
        },
        "servers": [{"url": root_path or "/"}],
        "paths": {
            **paths,
            **kept_paths(native, dialects, features, streamed=streamed),
            "/health": {"get": _probe("health", "Whether the process is up", "healthy")},
            "/ready": {"get": _ready()},
        },
        "components": {
            "schemas": {
                **{name: without_defaults(schema) for name, schema in asked.items()},
                **{name: without_null(schema) for name, schema in answered.items()},
            },
            **({"securitySchemes": _SCHEMES} if features.keys else {}),
        },
        **({"security": [{name: []} for name in _SCHEMES]} if features.keys else {}),
    }


def _chat(dialect: Dialect, features: Features, *, streamed: bool) -> Described:
    operation = dialect.operation
    if dialect.carries_history:
        features = features._replace(history=False)
    resumes = features.replies and dialect.resumable
    answer = stream_response(operation, features, streamed=streamed)
    if operation.document is not None:
        schema = ref(operation.document.__name__)
        answer["content"]["application/json"] = {"schema": schema}
    parameters = [
        request_id_parameter(),
        *(parameter(name, "header", text) for name, text in operation.headers.items()),
    ]
    if resumes:
        parameters.append(last_event_id())
    if features.replies:
        parameters.append(idempotency_key())
    nothing = "there is nothing behind it" if resumes else "no stream can be resumed"
    colon = ", and" if resumes else ":"
    errors = [
        error
        for error in errors_of(features)
        if error.refuses_chat
        or (operation.document is not None and error.ends_stream and error is not ReplyNotFound)
    ]
    return {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": ref(operation.request.__name__),
                    "examples": {"first": {"value": operation.example}},
                }
            },
        },
        "responses": {
            "200": answer,
            "204": empty_response(f"The request has a `Last-Event-ID`{colon} {nothing}."),
            **refusals(errors, operation.refusal),
        },
    }


def _resource(resource: Resource, chat: Operation, features: Features) -> Described:
    names = re.findall(r"{(\w+)", resource.path)
    errors = [*guards(features), *([NotFound] if names else [])]
    return {
        "operationId": resource.id,
        "summary": resource.summary,
        "parameters": [parameter(name, "path", "") for name in names],
        "responses": {
            "200": document_response(resource.summary, {"type": "object"}),
            **refusals(errors, chat.refusal),
        },
    }


def _ready() -> Described:
    operation = _probe("ready", "Whether the service takes new chats", "ready")
    operation["responses"]["503"] = status_response("Draining: no new chats", "draining")
    return operation


def _probe(name: str, summary: str, status: str) -> Described:
    responses = {"200": status_response(summary, status)}
    # Anybody may ask it, whatever the other routes want.
    return {"operationId": name, "summary": summary, "security": [], "responses": responses}

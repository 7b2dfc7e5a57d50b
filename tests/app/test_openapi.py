"""The OpenAPI document: valid, and true of the service. `tests/long` has what others make of it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
import sys
from typing import Any, AsyncIterator, Awaitable, Iterator, List, Set

import jsonschema  # type: ignore[import-untyped] # it has no type annotations
import openapi_spec_validator
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from omniforge_chat import (
    ChatError,
    Finish,
    Settings,
    Turn,
    Usage,
    chat_routes,
    create_app,
)
from omniforge_chat.app import ChatApp
from omniforge_chat.core.responder import Item
from omniforge_chat.core.sse import Frame
from omniforge_chat.models import ChatRequest, Rate

from ..support.answers import refusal
from ..support.app import HandDrivenRequest, call
from ..support.constants import CONVERSATION
from ..support.openapi import (
    AS_ME,
    CHAT,
    GUARDED,
    KEEPING,
    KEY,
    REPLIES,
    answer_even_messages,
    document_of,
)
from ..support.requests import judge, objects
from ..support.responders import saying

reads_3_2 = pytest.mark.skipif(
    sys.version_info < (3, 10),
    reason="the last openapi-spec-validator for Python 3.9 does not know OpenAPI 3.2",
)


app = create_app(answer_even_messages, settings=Settings())
other_names = create_app(settings=Settings(allowed_hosts=("localhost",)))


DOCUMENT = document_of(app)


def problems(schema: Any, value: object) -> List[str]:
    """What the schema, which may refer to others in the document, finds wrong with `value`."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return [error.message for error in jsonschema.Draft202012Validator(whole).iter_errors(value)]


def event_problems(frame: Frame) -> List[str]:
    """What the description of the stream finds wrong with one event of it."""
    stream = DOCUMENT["paths"][CHAT]["post"]["responses"]["200"]["content"]["text/event-stream"]
    item = {"event": frame.event, "data": frame.data}
    found = problems(stream["itemSchema"], item)
    for kind in stream["itemSchema"]["oneOf"]:
        if not problems(kind, item):
            assert kind["properties"]["data"]["contentMediaType"] == "application/json"
            content = kind["properties"]["data"]["contentSchema"]
            found += problems(content, json.loads(frame.data))
    return found


@pytest.mark.parametrize(
    ("query", "version"),
    [
        pytest.param("", "3.2.0", marks=reads_3_2),
        pytest.param("version=3.2", "3.2.0", marks=reads_3_2),
        ("version=3.1", "3.1.1"),
    ],
)
def test_the_document_is_valid(query: str, version: str) -> None:
    """By the meta-schema of the version that it claims."""
    document = document_of(app, query=query)
    assert document["openapi"] == version
    openapi_spec_validator.validate(document)
    # Generators of clients that know only 3.1 fail on it, or leave the stream out.
    assert ("itemSchema" in json.dumps(document)) == (version == "3.2.0")


def test_the_versions_differ_in_nothing_but_the_stream() -> None:
    """So that whoever reads one knows the other."""
    older = document_of(app, query="version=3.1")
    stream = older["paths"][CHAT]["post"]["responses"]["200"]["content"]
    assert stream == {"text/event-stream": {"schema": {"type": "string"}}}
    stream.update(DOCUMENT["paths"][CHAT]["post"]["responses"]["200"]["content"])
    assert {**older, "openapi": "3.2.0"} == DOCUMENT


@pytest.mark.parametrize("version", ["", "3", "3.0", "3.1.0", "4", "3.1%0A", "%ff", "3.1&version="])
def test_a_version_that_there_is_not_is_refused(version: str) -> None:
    """Another document than the one that was asked for would fail later, and elsewhere."""
    answer = call(
        app, method="GET", path="/openapi.json", query_string=b"version=%b" % version.encode()
    )
    status, code, message = refusal(*answer.json())
    assert (status, code) == (422, "validation_error")
    assert message.startswith("version: must be 3.1 or 3.2, not ")


def test_what_runs_from_its_source_has_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed then that knows a version."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert document_of(create_app(settings=Settings()))["info"]["version"] == "unknown"


def test_no_field_of_a_request_has_a_default() -> None:
    """openapi-typescript makes a field that has one required: clients had to send null."""
    request = DOCUMENT["components"]["schemas"]["ChatRequest"]
    assert request["required"] == ["message"]
    assert [name for name, field in request["properties"].items() if "default" in field] == []


@given(objects)
@example({"message": "".join(filter(str.isspace, map(chr, range(sys.maxunicode))))})
@example({"message": "\ufeff"})
@example({"message": "\u200b"})
def test_the_request_schema_accepts_what_the_service_accepts(fields: Any) -> None:
    """Generated clients check by it, and tools that test a service take it at its word."""
    described = DOCUMENT["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]
    accepted = isinstance(judge(json.dumps(fields).encode()), ChatRequest)
    assert (problems(described["schema"], fields) == []) == accepted


def test_the_example_is_answered() -> None:
    """It is what people paste into a terminal first."""
    body = DOCUMENT["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]
    for shown in body["examples"].values():
        assert call(app, shown["value"]).status == 200


counts = st.integers(min_value=0)
said = st.one_of(
    st.text(),
    st.builds(Usage, counts, st.none() | counts, st.none() | counts, st.none() | st.booleans()),
    st.builds(Finish, st.text()),
)


@given(st.lists(said, max_size=5), st.booleans())
def test_every_event_of_a_stream_is_as_it_is_described(items: List[Item], fails: bool) -> None:
    """Generated clients read the stream by it."""
    faults = [ChatError("no")] if fails else []
    answer = call(create_app(saying(*items, *faults), settings=Settings()))
    assert answer.frames[-1].event == ("error" if fails else "done")
    for frame in answer.frames:
        assert event_problems(frame) == []


def done(**fields: Any) -> str:
    """The data of a `done` that is as it should be, but for `fields`."""
    return json.dumps({"conversation_id": CONVERSATION, "usage": {"tokens": 1}, **fields})


WRONG_USAGES: List[Any] = [
    None,
    {},
    {"tokens": -1},
    {"tokens": 1, "prompt_tokens": -1},
    {"tokens": 1, "completion_tokens": "1"},
    {"tokens": 1, "prompt_tokens": None},
    {"tokens": 1, "estimated": "yes"},
]


def test_all_that_done_can_say_is_described() -> None:
    """A tool that shows a bill has to know the names of its parts."""
    assert event_problems(Frame("done", done(), "")) == []
    usage = DOCUMENT["components"]["schemas"]["Usage"]["properties"]
    assert set(usage) == {"tokens", "prompt_tokens", "completion_tokens", "estimated"}
    assert "finish_reason" in DOCUMENT["components"]["schemas"]["Done"]["properties"]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("message", '{"content":"a"}'),
        ("chunk", '{"code":"x","message":"y"}'),
        ("chunk", '{"content":1}'),
        ("done", '{"content":"a"}'),
        ("done", f'{{"conversation_id":"{CONVERSATION}"}}'),
        *(("done", done(usage=usage)) for usage in WRONG_USAGES),
        *(("done", done(finish_reason=reason)) for reason in (None, 1, ["stop"])),
        ("error", '{"message":"y"}'),
        ("error", '{"code":"x"}'),
        ("error", '{"code":"x","message":"y","usage":null}'),
    ],
)
def test_an_event_that_is_not_in_the_contract_is_not_in_the_description(
    event: str, data: str
) -> None:
    """A description that fits everything describes nothing."""
    assert event_problems(Frame(event, data, "")) != []


async def _refused(by: ChatApp = app, **request: Any) -> HandDrivenRequest:
    refused = HandDrivenRequest(**request)
    await refused.run(by)
    return refused


async def _refused_meanwhile(**options: Any) -> HandDrivenRequest:
    """By an app that answers another message of the same conversation."""
    body = {"message": "hi", "conversation_id": CONVERSATION}
    refused = HandDrivenRequest(body)

    async def respond(turn: Turn) -> AsyncIterator[str]:
        await refused.run(busy)
        yield "hi"

    busy = create_app(respond, settings=Settings(**options))
    await HandDrivenRequest(body).run(busy)
    return refused


async def _refused_while_draining() -> HandDrivenRequest:
    draining = create_app(answer_even_messages, settings=Settings())
    await draining.drain(0)
    return await _refused(draining)


def _refused_as_too_slow() -> Awaitable[HandDrivenRequest]:
    impatient = create_app(answer_even_messages, settings=Settings(body_timeout=0.01))
    return _refused(impatient, parts=[{"type": "http.request", "body": b"{", "more_body": True}])


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        pytest.param(lambda: _refused(body=b"{"), 400, id="no JSON"),
        pytest.param(_refused_as_too_slow, 408, id="too slow"),
        pytest.param(lambda: _refused_meanwhile(history="memory"), 409, id="busy"),
        pytest.param(lambda: _refused(body=b" " * 200_000), 413, id="too large"),
        pytest.param(lambda: _refused(headers={"content-type": ""}), 415, id="no JSON type"),
        pytest.param(lambda: _refused(other_names, headers={"host": "x"}), 421, id="a host"),
        pytest.param(lambda: _refused(body=b"{}"), 422, id="a wrong field"),
        pytest.param(lambda: _refused(body={"message": "x" * 10_001}), 422, id="too long"),
        pytest.param(lambda: _refused_meanwhile(max_streams=1), 503, id="full"),
        pytest.param(_refused_while_draining, 503, id="draining"),
    ],
)
def test_every_refusal_is_described(refusal: Any, status: int) -> None:
    """With its codes, and with the headers that it has."""
    answer = asyncio.run(refusal())
    assert answer.status == status
    described = DOCUMENT["paths"][CHAT]["post"]["responses"][str(status)]
    content = described["content"][answer.headers["content-type"]]
    assert problems(content["schema"], json.loads(answer.body)) == []
    assert problems(content["schema"], {"code": "another", "message": "a"}) != []
    assert {name.lower() for name in described["headers"]} <= set(answer.headers)
    assert ("Retry-After" in described["headers"]) == ("retry-after" in answer.headers)


def test_what_cannot_be_made_to_happen_here_is_described_too() -> None:
    """A client has to be ready for it."""
    described = DOCUMENT["paths"][CHAT]["post"]["responses"]["500"]
    error = {"code": "internal_error", "message": "Internal server error (reference x)"}
    assert problems(described["content"]["application/json"]["schema"], error) == []


def test_an_error_of_a_host_is_not_in_the_document() -> None:
    """Its codes are the host's, and two apps in one process have one tree of errors."""

    class OffTopic(ChatError):
        code = "off_topic"

    assert document_of(app) == DOCUMENT


@pytest.mark.parametrize(
    "make", [create_app, lambda r, settings: chat_routes(r, settings=settings)]
)
@pytest.mark.parametrize("path", ["/assistant", "/a/b"])
def test_the_servers_follow_the_mount_path(make: Any, path: str) -> None:
    """Tools send their requests there; the paths themselves stay as they are."""
    inner = make(answer_even_messages, settings=Settings())
    mount = Mount(path, routes=inner) if isinstance(inner, list) else Mount(path, app=inner)
    document = document_of(Starlette(routes=[mount]), f"{path}/openapi.json")
    assert document == {**DOCUMENT, "servers": [{"url": path}]}
    assert DOCUMENT["servers"] == [{"url": "/"}]


# A service that keeps replies and conversations

keeping = create_app(answer_even_messages, settings=KEEPING)
KEPT = document_of(keeping)
CONVERSATIONS = "/api/v1/conversations/{conversation_id}"


@pytest.mark.parametrize("query", [pytest.param("", marks=reads_3_2), pytest.param("version=3.1")])
def test_the_document_of_a_service_that_keeps_things_is_valid(query: str) -> None:
    """By the meta-schema of the version that it claims."""
    openapi_spec_validator.validate(document_of(keeping, query=query))


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        ({"history": "memory"}, {CONVERSATIONS}),
        ({"replay": "memory"}, {REPLIES, f"{CONVERSATIONS}/stop", f"{CONVERSATIONS}/stream"}),
    ],
)
def test_the_document_has_what_the_service_has(kept: Any, added: Set[str]) -> None:
    """And no more: a client that is made of it believes what it says."""
    app = create_app(answer_even_messages, settings=Settings(**kept))
    document = document_of(app)
    assert set(document["paths"]) - set(DOCUMENT["paths"]) == added
    assert document["paths"]["/ready"] == DOCUMENT["paths"]["/ready"]
    for path, methods in document["paths"].items():
        for method in methods:
            path = path.replace("{reply_id}", "A" * 22).replace("{conversation_id}", CONVERSATION)
            assert call(app, b"", method=method.upper(), path=path).status != 405
    codes = {code for code in _codes(document) if code not in set(_codes(DOCUMENT))}
    assert codes == (
        {"conversation_not_found", "history_unavailable"}
        if "history" in kept
        else {"reply_not_found", "reply_expired", "idempotency_key_reused", "replay_unavailable",
              "conversation_not_found"}
    )  # fmt: skip


def _codes(node: Any) -> Iterator[str]:
    """The codes of refusals anywhere in a document."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if name == "code" and isinstance(value, dict):
            yield from value.get("enum", ())
        elif isinstance(value, (dict, list)):
            yield from _codes(value)


def test_the_chat_of_a_service_that_keeps_replies_has_its_headers_and_ids() -> None:
    """What a generated client cannot see it does not use."""
    chat, plain = KEPT["paths"][CHAT]["post"], DOCUMENT["paths"][CHAT]["post"]
    names = [parameter["name"] for parameter in chat["parameters"]]
    assert names == ["X-Request-ID", "Last-Event-ID", "Idempotency-Key"]
    answer = call(keeping, {"message": "hell"})
    described = chat["responses"]["200"]
    assert {name.lower() for name in described["headers"]} <= set(answer.headers)
    assert set(described["headers"]) - set(plain["responses"]["200"]["headers"]) == {
        *("X-Reply-ID", "Location")
    }
    for event in described["content"]["text/event-stream"]["itemSchema"]["oneOf"]:
        assert {"id", "retry"} <= set(event["properties"])
        assert event["required"] == ["event", "data"]
    for event in KEPT["paths"]["/api/chat"]["post"]["responses"]["200"]["content"][
        "text/event-stream"
    ]["itemSchema"]["anyOf"]:
        assert set(event["properties"]) == {"data"}


def _fits(answer: HandDrivenRequest, path: str, method: str) -> Any:
    """The body of `answer`, which is as the document says."""
    described = KEPT["paths"][path][method]["responses"][str(answer.status)]
    assert {name.lower() for name in described["headers"]} <= set(answer.headers)
    if "content" not in described:
        assert answer.body == b""
        return None
    body = json.loads(answer.body)
    schema = described["content"]["application/json"]["schema"]
    whole = {**schema, "components": KEPT["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(whole, format_checker=checker)
    assert [error.message for error in validator.iter_errors(body)] == []
    return body


def test_what_is_kept_is_answered_as_it_is_described() -> None:
    """Tools that make up ids never see more of it than that it is not found."""
    said = call(keeping, {"message": "hell", "conversation_id": CONVERSATION})
    name = said.headers["x-reply-id"]
    path = REPLIES.format(reply_id=name)
    read = call(keeping, b"", method="GET", path=path)
    described = KEPT["paths"][REPLIES]["get"]["responses"]["200"]
    assert {header.lower() for header in described["headers"]} <= set(read.headers)
    assert read.frames[-1].event == "done"
    over = {"Last-Event-ID": read.frames[-1].id}
    for parameter in KEPT["paths"][REPLIES]["get"]["parameters"][:3]:
        value = name if parameter["name"] == "reply_id" else over["Last-Event-ID"]
        assert re.search(parameter["schema"]["pattern"], value)
    for frame in read.frames:
        assert event_problems(frame) == []
        assert re.search(
            KEPT["paths"][CHAT]["post"]["parameters"][1]["schema"]["pattern"], frame.id
        )
    _fits(call(keeping, b"", method="GET", path=path, headers=over), REPLIES, "get")
    assert _fits(call(keeping, b"", method="DELETE", path=path), REPLIES, "delete") == {
        "status": "ended"
    }
    stop, kept = f"{CONVERSATIONS}/stop", CONVERSATIONS.format(conversation_id=CONVERSATION)
    assert _fits(call(keeping, b"", path=f"{kept}/stop"), stop, "post") == {"status": "ended"}
    running = call(keeping, b"", method="GET", path=f"{kept}/stream")
    _fits(running, f"{CONVERSATIONS}/stream", "get")
    shown = _fits(call(keeping, b"", method="GET", path=kept), CONVERSATIONS, "get")
    assert len(shown["messages"]) == 2
    for status in (204, 404):
        deleted = call(keeping, b"", method="DELETE", path=kept)
        assert deleted.status == status
        _fits(deleted, CONVERSATIONS, "delete")


# A service that asks who a caller is, and limits what they may have

guarded = create_app(answer_even_messages, settings=GUARDED)
ASKING = document_of(guarded)


@pytest.mark.parametrize("query", [pytest.param("", marks=reads_3_2), pytest.param("version=3.1")])
def test_the_document_of_a_service_that_asks_is_valid(query: str) -> None:
    """By the meta-schema of the version that it claims; and anybody may read it."""
    openapi_spec_validator.validate(document_of(guarded, query=query))


async def _nobody(connection: HTTPConnection) -> None:
    """A host's own function."""


@pytest.mark.parametrize(
    ("options", "authenticate", "schemes", "codes"),
    [
        ({}, None, False, set()),
        ({"api_keys": f"me:{KEY}"}, None, True, {"who"}),
        ({}, _nobody, False, {"who", "limits"}),
        ({"rate_limit": Rate(1, 60)}, None, False, {"limits"}),
        ({"api_keys": f"me:{KEY}", "caller_streams": 1}, None, True, {"who", "limits"}),
    ],
)
def test_the_document_tells_what_can_happen_to_a_caller(
    options: Any, authenticate: Any, schemes: bool, codes: Set[str]
) -> None:
    """And no more. How a host's own function knows somebody, the service cannot tell."""
    app = create_app(answer_even_messages, settings=Settings(**options), authenticate=authenticate)
    document = document_of(app)
    assert ("securitySchemes" in document["components"]) == schemes
    assert ("security" in document) == schemes
    who = {"unauthorized", "forbidden", "access_unavailable"}
    limits = {"rate_limited", "limits_unavailable"}
    expected = (who if "who" in codes else set()) | (limits if "limits" in codes else set())
    assert set(_codes(document)) - set(_codes(DOCUMENT)) == expected
    described = document["paths"][CHAT]["post"]["responses"]["200"]["headers"]
    assert ({"RateLimit", "RateLimit-Policy"} <= set(described)) == ("limits" in codes)


def test_the_ways_to_say_who_one_is_are_those_of_the_service() -> None:
    """A generated client sends what its scheme says."""
    schemes = ASKING["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert [*schemes] == [name for way in ASKING["security"] for name in way]
    assert call(guarded, headers={schemes["key"]["name"]: KEY}).status == 200
    assert call(guarded, headers=AS_ME).status == 200
    assert call(guarded).status == 401
    for path, methods in ASKING["paths"].items():
        for operation in methods.values():
            probe = path in ("/health", "/ready")
            assert (operation.get("security") == []) == probe
            assert ("401" in operation["responses"]) != probe
    assert "/metrics" not in ASKING["paths"]


@pytest.mark.parametrize(
    ("options", "status"), [({"api_keys": f"me:{KEY}"}, 401), ({"rate_limit": Rate(1, 60)}, 429)]
)
def test_the_refusal_of_a_caller_has_the_headers_that_are_described(
    options: Any, status: int
) -> None:
    """By them a client knows what to do: to ask for a key, or to wait."""
    app = create_app(answer_even_messages, settings=Settings(**options))
    answers = [call(app) for _ in range(2)]
    described = document_of(app)["paths"][CHAT]["post"]["responses"]
    assert answers[-1].status == status
    for answer in answers:
        names = {name.lower() for name in described[str(answer.status)]["headers"]}
        assert names <= set(answer.headers)
    told = described[str(status)]["headers"]
    wanted = {401: {"WWW-Authenticate"}, 429: {"Retry-After", "RateLimit", "RateLimit-Policy"}}
    assert set(told) - {"X-Request-ID"} == wanted[status]

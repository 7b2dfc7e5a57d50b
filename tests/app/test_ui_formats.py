"""The formats of the AI SDK and of AG-UI on the service: headers, limits, memory, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any, AsyncIterator, Dict, List, NamedTuple

import jsonschema  # type: ignore[import-untyped] # it has no type annotations
import openapi_spec_validator
import pytest

from omniforge_chat import Message, Settings, Turn, create_app
from omniforge_chat.app import ChatApp
from omniforge_chat.rules import DIALECTS

from ..support.app import HandDrivenRequest, call
from ..support.scenes import Scenes

ALL = Settings(dialects=DIALECTS, history="memory", thoughts=True)


class Format(NamedTuple):
    path: str
    conversation: str
    contents: str
    last: str
    """The type of its last event."""


FORMATS = {
    "ai_sdk": Format("/api/chat", "id", "parts", "finish"),
    "ag_ui": Format("/ag-ui", "threadId", "content", "RUN_FINISHED"),
}


@pytest.fixture(params=FORMATS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def body(name: str, *texts: str, **fields: Any) -> Dict[str, Any]:
    """A conversation of these texts, of which the first is the user's."""
    messages = [
        {
            "id": str(number),
            "role": ("user", "assistant")[number % 2],
            FORMATS[name].contents: [{"type": "text", "text": text}],
        }
        for number, text in enumerate(texts)
    ]
    return {FORMATS[name].conversation: "talk-1", "messages": messages, **fields}


def ask(app: Any, name: str, *texts: str, **fields: Any) -> HandDrivenRequest:
    return call(app, body(name, *texts, **fields), path=FORMATS[name].path)


def events(answer: HandDrivenRequest) -> List[Any]:
    """The data of all events that are JSON."""
    return [json.loads(frame.data) for frame in answer.frames if frame.data != "[DONE]"]


def test_the_history_of_the_request_is_that_of_the_turn(name: str) -> None:
    """The client's word counts: the store is neither read nor written."""
    turns: List[Turn] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        turns.append(turn)
        yield "reply"

    app = create_app(respond, settings=ALL)
    answers = [ask(app, name, "hi"), ask(app, name, "other", "words", "more", newer=True)]
    assert [turn.history for turn in turns] == [
        (),
        (Message("user", "other"), Message("assistant", "words")),
    ]
    for turn, answer in zip(turns, answers):
        assert (turn.dialect, turn.remembered, turn.conversation_id) == (name, False, "talk-1")
        assert answer.headers["x-conversation-id"] == "talk-1"
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert events(answer)[-1]["type"] == FORMATS[name].last
        assert not {"id", "retry"} & {line.split(b":")[0] for line in answer.body.split(b"\n")}


@pytest.mark.parametrize("message", ["think", "short", "fail", "whole"])
def test_the_document_tells_each_event(name: str, message: str) -> None:
    """Of a reply with thoughts, with usage, of one that fails, and of a refusal."""
    app = Scenes().app
    document = call(app, method="GET", path="/openapi.json").json()[2]
    described = document["paths"][FORMATS[name].path]["post"]
    parts = {"components": document["components"]}

    def check(schema: Any, value: object) -> None:
        jsonschema.Draft202012Validator({**schema, **parts}).validate(value)

    asked = described["requestBody"]["content"]["application/json"]
    check(asked["schema"], body(name, message))
    for shown in asked["examples"].values():
        assert call(app, shown["value"], path=FORMATS[name].path).status == 200
    streamed = described["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]["anyOf"]
    schemas = {
        data["contentSchema"]["$ref"].rpartition("/")[2]: data["contentSchema"]
        for data in (kind["properties"]["data"] for kind in streamed)
        if "contentSchema" in data
    }
    types = {
        document["components"]["schemas"][each]["properties"]["type"]["enum"][0]: schema
        for each, schema in schemas.items()
    }
    for version in ({"protocolVersion": "1.0"}, {}):
        for event in events(ask(app, name, message, **version)):
            check(types[event["type"]], event)


def test_the_document_of_a_service_that_speaks_all_formats_is_valid() -> None:
    """In 3.1, as the validator of Python 3.9 knows no other."""
    document = call(
        create_app(settings=ALL),
        method="GET",
        path="/openapi.json",
        query_string=b"version=3.1",
    ).json()[2]
    openapi_spec_validator.validate(document)
    assert {each.path for each in FORMATS.values()} <= {*document["paths"]}


def test_a_page_of_another_origin_reads_the_version_of_the_stream() -> None:
    """assistant-ui takes the stream for another one if it cannot."""
    app = create_app(settings=Settings(dialects=DIALECTS, cors_origins=("*",)))
    answer = call(app, body("ai_sdk", "hi"), path="/api/chat", headers={"Origin": "http://a.b"})
    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-vercel-ai-ui-message-stream", "x-conversation-id"} <= {*exposed}


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"body": b"{"}, 400, "body: "),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "Content-Type: must be"),
        ({"method": "GET"}, 405, "GET is not allowed"),
    ],
)
def test_every_refusal_of_the_ai_sdk_is_words(request_: Any, status: int, words: str) -> None:
    """Its client shows the body to the user, whoever has refused: the chat, or the router."""
    app = create_app(settings=ALL)
    answer = call(app, path="/api/chat", **request_)
    assert answer.status == status
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.decode().startswith(words)


def test_a_service_that_is_going_tells_it_in_words() -> None:
    """With the time to wait, as in the other formats."""
    app: ChatApp = create_app(settings=ALL)
    asyncio.run(app.drain(0))
    for name, start in (
        ("ai_sdk", b"Server is shutting down"),
        ("ag_ui", b'{"code":"shutting_down"'),
    ):
        answer = ask(app, name, "hi")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.body.startswith(start)

"""OpenAI's format on the service: paths, statuses, headers, models, and the document of OpenAPI."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, AsyncIterator, List

import jsonschema  # type: ignore[import-untyped] # it has no type annotations
import openapi_spec_validator
import pytest

from omniforge_chat import (
    ChatError,
    Message,
    Settings,
    Turn,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    create_app,
)
from omniforge_chat.app import ChatApp
from omniforge_chat.errors import ReplyTimeout

from ..support.app import HandDrivenRequest, call
from ..support.scenes import PIECES, Scenes
from ..support.timeless import timeless

PATH = "/v1/chat/completions"
SERVED = Settings(dialects=("native", "openai"), history="memory")


def said(*texts: str, **fields: Any) -> Any:
    """A conversation of these texts, of which the first is the user's."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"model": "m", "messages": messages, **fields}


def ask(app: Any, *texts: str, **fields: Any) -> HandDrivenRequest:
    return call(app, said(*texts, **fields), path=PATH)


def get(app: Any, path: str) -> HandDrivenRequest:
    return call(app, method="GET", path=path)


def failing(error: Exception) -> ChatApp:
    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "half"
        raise error

    return create_app(respond, settings=SERVED)


def test_a_responder_sees_the_request() -> None:
    """The client's word counts for the history: the store is neither read nor written."""
    turns: List[Turn] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        turns.append(turn)
        yield "reply"

    app = create_app(respond, settings=SERVED)
    fields = {"path": PATH, "headers": {"X-Conversation-ID": "talk-1"}}
    for texts in (["hi"], ["other", "words", "more"]):
        answer = call(app, said(*texts, stream=True, temperature=0.5), **fields)
        assert answer.headers["x-conversation-id"] == "talk-1"
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.body.endswith(b"\n\ndata: [DONE]\n\n")
    assert [turn.history for turn in turns] == [
        (),
        (Message("user", "other"), Message("assistant", "words")),
    ]
    for turn in turns:
        assert (turn.dialect, turn.remembered, turn.conversation_id) == ("openai", False, "talk-1")
        assert dict(turn.parameters) == {"model": "m", "temperature": 0.5}


@timeless
async def test_a_silence_is_filled_with_lines_that_end_no_event() -> None:
    """A blank line behind one would be an event to some clients, and decoded as JSON."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "before"
        await asyncio.sleep(40)
        yield "after"

    asked = HandDrivenRequest(said("hi", stream=True), path=PATH)
    await asked.run(create_app(respond, settings=SERVED))
    assert asked.body.count(b"\n\n:\n:\ndata: ") == 1
    assert [frame.data for frame in asked.frames][-1] == "[DONE]"


def test_a_client_without_an_id_gets_one_of_its_own() -> None:
    """Nothing is kept under it."""
    app = create_app(settings=SERVED)
    made = {ask(app, "hi", stream=stream).headers["x-conversation-id"] for stream in (True, False)}
    assert [len(each) for each in made] == [36, 36]


def test_a_reply_that_is_not_streamed() -> None:
    """One document, with all of the text."""
    answer = ask(Scenes().app, "whole")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    reply = answer.json()[2]
    assert reply["choices"][0]["message"]["content"] == "".join(PIECES)
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["total_tokens"] > 0
    thoughtful = ask(Scenes().app, "think").json()[2]["choices"][0]["message"]
    assert thoughtful["content"] == "so"
    assert thoughtful["reasoning_content"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ChatError("No"), 500, "server_error"),
        (ReplyTimeout("No"), 504, "server_error"),
        (UpstreamError("No"), 502, "server_error"),
        (UpstreamTimeout("No"), 504, "server_error"),
        (UpstreamRateLimited("No", retry_after=1.5), 429, "rate_limit_error"),
    ],
)
def test_a_failure_without_a_stream_has_a_status(error: ChatError, status: int, kind: str) -> None:
    """The packages of OpenAI choose their exception by it, and ask again if there is a wait."""
    answer = ask(failing(error), "hi")
    assert answer.status == status
    told = {"message": error.message, "type": kind, "code": error.code, "param": None}
    assert answer.json()[2] == {"error": told}
    assert answer.headers.get("x-should-retry") == (None if status == 429 else "false")
    assert answer.headers.get("retry-after") == ("2" if status == 429 else None)
    described = get(create_app(settings=SERVED), "/openapi.json").json()[2]["paths"][PATH]["post"]
    first_line = (type(error).__doc__ or "").splitlines()[0]
    assert first_line in described["responses"][str(status)]["description"]


def test_a_reply_that_is_too_slow_is_told_by_its_status() -> None:
    """With the code that the stream would have had."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    app = create_app(respond, settings=Settings(dialects=("openai",), first_chunk_timeout=0.01))
    answer = ask(app, "hi")
    assert (answer.status, answer.json()[2]["error"]["code"]) == (504, "timeout")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"body": b"{"}, 400, "validation_error"),
        ({"body": said()}, 422, "validation_error"),
        ({"body": said("hi"), "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media"),
        ({"body": said("x" * 2**20)}, 413, "payload_too_large"),
        ({"method": "GET"}, 405, "method_not_allowed"),
        ({"path": "/v1/completions"}, 404, "not_found"),
        ({"path": "/v1/responses"}, 404, "not_found"),
        ({"path": "/a/v1/responses", "root_path": "/a"}, 404, "not_found"),
        ({"path": "/v1/models"}, 405, "method_not_allowed"),
        ({"path": "/v1/models/none", "method": "GET"}, 404, "not_found"),
    ],
)
def test_every_refusal_is_in_their_shape(request_: Any, status: int, code: str) -> None:
    """Whoever refuses: the chat, the models, or the router. Their exceptions have the code."""
    answer = call(create_app(settings=SERVED), **{"path": PATH, **request_})
    assert answer.status == status
    told = answer.json()[2]["error"]
    assert (told["type"], told["param"]) == ("invalid_request_error", None)
    assert told["code"].startswith(code)
    assert told["message"]


def test_other_paths_keep_their_shape() -> None:
    """Theirs is for the paths that their clients ask."""
    app = create_app(settings=SERVED)
    for path in ("/api/v1/chat", "/v1models", "/other"):
        assert get(app, path).json()[2].keys() == {"code", "message"}
    native = create_app(settings=Settings())
    assert ask(native, "hi").json()[2].keys() == {"code", "message"}


def test_a_service_that_is_going_may_be_asked_again() -> None:
    """Nothing was begun, so their packages may do so by themselves."""
    app: ChatApp = create_app(settings=SERVED)
    asyncio.run(app.drain(0))
    answer = ask(app, "hi")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "x-should-retry" not in answer.headers
    assert answer.json()[2]["error"]["code"] == "shutting_down"


@pytest.mark.parametrize("name", ["omniforge", "org/model-1", "a%2Fb"])
def test_the_model_is_found_by_its_name(name: str) -> None:
    """Open WebUI and LibreChat ask for the list, and some clients for the one."""
    app = create_app(settings=Settings(dialects=("openai",), model_name=name))
    listed = get(app, "/v1/models")
    assert (listed.status, listed.headers["content-type"]) == (200, "application/json")
    [model] = listed.json()[2]["data"]
    assert (model["id"], model["object"], type(model["created"])) == (name, "model", int)
    for slash in ("", "/"):
        assert get(app, f"/v1/models/{name}{slash}").json()[2] == model
    assert get(app, f"/v1/models/{name}x").status == 404


@pytest.mark.parametrize("message", ["think", "short", "fail", "whole"])
@pytest.mark.parametrize("streamed", [True, False])
def test_the_document_tells_each_answer(message: str, streamed: bool) -> None:
    """Of a reply with thoughts, with usage, of one that fails, and of a refusal."""
    app = Scenes().app
    document = get(app, "/openapi.json").json()[2]
    described = document["paths"][PATH]["post"]
    parts = {"components": document["components"]}

    def check(schema: Any, value: object) -> None:
        jsonschema.Draft202012Validator({**schema, **parts}).validate(value)

    asked = described["requestBody"]["content"]["application/json"]
    check(asked["schema"], said(message))
    for shown in asked["examples"].values():
        assert call(app, shown["value"], path=PATH).status == 200
    answer = ask(app, message, stream=streamed, stream_options={"include_usage": True})
    content = described["responses"]["200"]["content"]
    if streamed:
        of_item = content["text/event-stream"]["itemSchema"]
        of_chunk, of_failure, of_end = next(iter(of_item.values()))
        for frame in answer.frames:
            if frame.data == "[DONE]":
                check(of_end["properties"]["data"], frame.data)
            else:
                told = json.loads(frame.data)
                kind = of_failure if "error" in told else of_chunk
                check(kind["properties"]["data"]["contentSchema"], told)
    elif message == "fail":
        assert answer.status == 500
        check({"$ref": "#/components/schemas/CompletionFailure"}, answer.json()[2])
    else:
        check(content["application/json"]["schema"], answer.json()[2])
    read = [field["name"] for field in described["parameters"]]
    assert read == ["X-Request-ID", "X-Conversation-ID"]
    refused = ask(app)
    check(described["responses"]["422"]["content"]["application/json"]["schema"], refused.json()[2])


def test_the_document_of_this_format_is_valid() -> None:
    """In each version; the validator of Python 3.9 knows only the older one."""
    app = create_app(settings=SERVED)
    for version in ("3.1", "3.2") if sys.version_info >= (3, 10) else ("3.1",):
        query = f"version={version}".encode()
        answer = call(app, method="GET", path="/openapi.json", query_string=query)
        openapi_spec_validator.validate(answer.json()[2])


def test_the_document_tells_the_models() -> None:
    """Under the paths that clients ask."""
    paths = get(create_app(settings=SERVED), "/openapi.json").json()[2]["paths"]
    assert {"/v1/models", "/v1/models/{model}", PATH} <= paths.keys()


def test_a_browser_may_use_their_package() -> None:
    """It sends headers of its own, and reads the id of the request."""
    app = create_app(settings=Settings(dialects=("openai",), cors_origins=("*",)))
    asked = {
        "Origin": "http://a.b",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-arch,"
        "x-stainless-lang,x-stainless-retry-count,x-stainless-timeout,x-conversation-id",
    }
    assert call(app, path=PATH, method="OPTIONS", headers=asked).status == 200
    answer = call(app, said("hi"), path=PATH, headers={"Origin": "http://a.b"})
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-request-id", "x-conversation-id", "x-should-retry", "retry-after"} <= {*exposed}

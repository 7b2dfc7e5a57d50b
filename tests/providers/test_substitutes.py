"""Fields that a provider does not know: the request is sent again without them, and never again."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Dict, Iterator, List

import pytest

from omniforge_chat.models import Done, Event
from omniforge_chat.responders.providers.openai import OpenAIResponder

from ..support.provider import Call, Provider, refusing
from ..support.relay import COMPLETE, TURN, ask, failed, using
from ..support.responders import events_of
from ..support.wires import OPENAI

EXTRA = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
SERDE = "Failed to deserialize the JSON body into the target type: "

USAGE_REFUSALS: Dict[str, Any] = {
    "Mistral": {
        "object": "error",
        "message": {"detail": [{**EXTRA, "loc": ["body", "stream_options"], "input": {}}]},
        "type": "invalid_request_error",
    },
    "Databricks": {
        "error_code": "BAD_REQUEST",
        "message": 'Bad request: json: unknown field "stream_options"\n',
    },
    "Databricks, nested": {
        "error_code": "BAD_REQUEST",
        "message": json.dumps({"message": "stream_options: Extra inputs are not permitted"}),
    },
    "OpenAI, old": {
        "error": {
            "message": "Unrecognized request argument supplied: stream_options",
            "param": None,
        }
    },
    "OpenAI": {
        "error": {
            "message": "Unknown parameter: 'stream_options'.",
            "param": "stream_options",
            "code": "unknown_parameter",
        }
    },
    "OpenAI, a part": {
        "error": {
            "message": "Unsupported parameter.",
            "param": "stream_options.include_usage",
        }
    },
    "FastAPI": {"detail": [{**EXTRA, "loc": ["body", "stream_options"]}]},
    "FastAPI, old": {
        "detail": [{"loc": ["body", "stream_options"], "msg": "extra fields not permitted"}]
    },
    "Google": [
        {"error": {"message": 'Unknown name "stream_options": Cannot find field.', "code": 400}}
    ],
    "Groq": {"error": {"message": "property 'stream_options' is unsupported"}},
    "Cohere": {"message": "unknown field: parameter 'stream_options' is not a valid field"},
    "errors": {"errors": ["stream_options is not supported by this model"]},
    "a schema": {
        "error": "Additional properties are not allowed ('stream_options' was unexpected)"
    },
    "serde": f"{SERDE}unknown field `stream_options`, expected `messages`".encode(),
}

OTHER_REFUSALS: Dict[str, Any] = {
    "another field": {"detail": [{**EXTRA, "loc": ["body", "top_k"]}]},
    "another field, with the request": {
        "detail": [{**EXTRA, "loc": ["body", "top_k"], "input": {"stream_options": {}}}]
    },
    "another field, with those that are known": (
        f"{SERDE}unknown field `top_k`, expected one of `messages`, `stream_options`".encode()
    ),
    "the conversation": {
        "error": {"message": "unsupported text: 'stream_options'", "param": "messages.[0].content"}
    },
    "a value": {"error": {"message": "stream_options must be an object"}},
    "a name that is longer": {"error": "unknown field my_stream_options, stream_options_x"},
    "nothing": b"",
}


async def refuse_usage(call: Call) -> None:
    """Refuse a request with the field, in the words of its model, and answer one without it."""
    if "stream_options" in call.body:
        await call.refuse(422, {**USAGE_REFUSALS, **OTHER_REFUSALS}[call.body["model"]])
    else:
        await OPENAI.answer("Hello")(call)


@pytest.fixture(name="provider", scope="module")
def _provider() -> Iterator[Provider]:
    with Provider(refuse_usage) as provider:
        yield provider


def sent(provider: Provider, since: int, field: str = "stream_options") -> List[bool]:
    """Whether the requests had `field`."""
    return [field in call.body for call in provider.calls[since:]]


@pytest.mark.parametrize("name", USAGE_REFUSALS)
def test_a_provider_that_counts_no_tokens_is_asked_without_that(
    name: str, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """Once more, and nobody has to know of it; the next chat does not pay for it."""
    caplog.set_level("INFO", "omniforge_chat")
    since = len(provider.calls)

    async def use(responder: Any) -> List[Event]:
        return [(await events_of(TURN, responder))[-1] for _ in range(3)]

    assert using(OPENAI.make(provider, model=name), use) == [COMPLETE] * 3
    assert sent(provider, since) == [True, False, False, False]
    assert caplog.text.count("upstream sent again request_id=request-1 status=422") == 1
    assert caplog.text.count("from now on stream_options is left out") == 1
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("name", OTHER_REFUSALS)
def test_a_refusal_for_another_cause_is_told_at_once(name: str, provider: Provider) -> None:
    """A second request would only cost."""
    since = len(provider.calls)
    assert failed(ask(OPENAI.make(provider, model=name))).code == "upstream_error"
    assert sent(provider, since) == [True]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_another_status_is_no_refusal_of_a_field(status: int) -> None:
    """Whatever its words are."""
    with Provider(refusing(status, USAGE_REFUSALS["Mistral"])) as provider:
        failed(ask(OPENAI.make(provider)))
        assert sent(provider, 0) == [True]


def test_many_chats_at_first_each_pay_once(caplog: pytest.LogCaptureFixture) -> None:
    """All are refused before the first one has learnt of it; the log tells it once."""
    caplog.set_level("INFO", "omniforge_chat")
    many = 8
    waiting: List[asyncio.Future[None]] = []

    async def script(call: Call) -> None:
        if len(waiting) < many:
            waiting.append(asyncio.get_running_loop().create_future())
            if len(waiting) == many:
                for future in waiting:
                    future.set_result(None)
            await waiting[-1]
        await refuse_usage(call)

    async def use(responder: Any) -> List[Any]:
        replies = await asyncio.gather(*(events_of(TURN, responder) for _ in range(many)))
        return [*replies, await events_of(TURN, responder)]

    with Provider(script) as provider:
        replies = using(OPENAI.make(provider, model="OpenAI"), use)
        assert sorted(sent(provider, 0)) == [False] * (many + 1) + [True] * many
    assert [reply[-1] for reply in replies] == [COMPLETE] * (many + 1)
    assert caplog.text.count("from now on") == 1


def test_a_field_is_remembered_only_if_the_request_is_taken_without_it() -> None:
    """Else the guess may have been wrong."""
    refusal = refusing(400, USAGE_REFUSALS["OpenAI"])

    async def use(responder: Any) -> List[Event]:
        return [(await events_of(TURN, responder))[-1] for _ in range(2)]

    with Provider(refusal, refusal, OPENAI.answer("x")) as provider:
        first, second = using(OPENAI.make(provider), use)
        assert (failed([first]).code, second) == ("upstream_error", COMPLETE)
        assert sent(provider, 0) == [True, False, True]


def test_a_refused_field_is_no_try() -> None:
    """What comes after it has all of its tries."""
    refusal, busy = refusing(400, USAGE_REFUSALS["OpenAI"]), refusing(503, {})
    with Provider(refusal, busy, busy, OPENAI.answer("x")) as provider:
        assert ask(OPENAI.make(provider))[-1] == COMPLETE
        assert sent(provider, 0) == [True, False, False, False]


def test_a_field_of_ones_own_is_sent_as_it_is() -> None:
    """Whoever gives it wants it, or wants to be told."""
    options = {"extra_body": {"stream_options": {"include_usage": True}}}
    with Provider(refusing(400, USAGE_REFUSALS["OpenAI"])) as provider:
        assert "Unknown parameter" in failed(ask(OPENAI.make(provider, **options))).message
        assert sent(provider, 0) == [True]


def test_the_environment_switches_the_count_off() -> None:
    """Then not even the first chat pays."""
    variables = {"OPENAI_INCLUDE_USAGE": "Off", "OPENAI_MODEL": "OpenAI"}
    with Provider(refuse_usage) as provider:
        variables["OPENAI_BASE_URL"] = provider.url
        assert isinstance(ask(OpenAIResponder.from_env(variables))[-1], Done)
        assert sent(provider, 0) == [False]


# The limit on the length

OLD, NEW = "max_tokens", "max_completion_tokens"
ASKS_FOR_THE_NEW = {
    "error": {
        "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        "type": "invalid_request_error",
        "param": "max_tokens",
        "code": "unsupported_parameter",
    }
}
ASKS_FOR_THE_OLD = {"detail": [{**EXTRA, "loc": ["body", NEW]}]}
TOO_LARGE = {
    "error": {
        "message": "max_tokens is too large: 9. This model supports at most 8 completion tokens",
        "type": "invalid_request_error",
        "param": "max_tokens",
        "code": "invalid_value",
    }
}


@pytest.mark.parametrize(
    ("field", "other", "refusal"), [(OLD, NEW, ASKS_FOR_THE_NEW), (NEW, OLD, ASKS_FOR_THE_OLD)]
)
def test_the_other_name_of_the_limit_is_tried(field: str, other: str, refusal: Any) -> None:
    """The models behind an address are not known to us."""
    first = refusing(400, refusal)
    with Provider(first, OPENAI.answer("x")) as provider:
        responder = OPENAI.make(provider, max_tokens=9)
        responder._fields[field] = responder._fields.pop(OLD)
        assert ask(responder)[-1] == COMPLETE
        assert [call.body.get(field) for call in provider.calls] == [9, None]
        assert [call.body.get(other) for call in provider.calls] == [None, 9]


def test_both_names_refused_is_the_end() -> None:
    """And not a game between the two."""
    refusals = refusing(400, ASKS_FOR_THE_NEW), refusing(400, ASKS_FOR_THE_OLD)
    with Provider(*refusals) as provider:
        failed(ask(OPENAI.make(provider, max_tokens=9)))
        assert sent(provider, 0, OLD) == [True, False]


def test_two_fields_may_be_refused() -> None:
    """One after the other, and both are remembered."""
    refusals = refusing(400, ASKS_FOR_THE_NEW), refusing(400, USAGE_REFUSALS["OpenAI"])

    async def use(responder: Any) -> None:
        for _ in range(2):
            assert (await events_of(TURN, responder))[-1] == COMPLETE

    with Provider(*refusals, OPENAI.answer("x")) as provider:
        using(OPENAI.make(provider, max_tokens=9), use)
        assert sent(provider, 0) == [True, True, False, False]
        assert sent(provider, 0, NEW) == [False, True, True, True]


@pytest.mark.parametrize("options", [{}, {"max_tokens_field": OLD}])
def test_a_limit_that_is_refused_for_its_value_is_told(options: Dict[str, Any]) -> None:
    """The other name would not help. Nor is a name changed that you have given."""
    refusal = ASKS_FOR_THE_NEW if options else TOO_LARGE
    with Provider(refusing(400, refusal)) as provider:
        failed(ask(OPENAI.make(provider, max_tokens=9, **options)))
        assert sent(provider, 0, OLD) == [True]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", NEW),
        ("https://eu.api.openai.com/v1", NEW),
        ("https://us.api.openai.com/v1/", NEW),
        ("https://api.openai.com:443/v1", NEW),
        ("https://API.OpenAI.com/v1", NEW),
        ("https://api.openai.com./v1", NEW),
        ("http://api.openai.com/v1", NEW),
        ("https://red.openai.azure.com/openai/v1", NEW),
        ("https://Red.OpenAI.Azure.com:443/openai/deployments/m", NEW),
        ("https://red.cognitiveservices.azure.com/openai/v1", NEW),
        ("https://red.services.ai.azure.com/openai/v1", NEW),
        ("https://red.openai.azure.us/openai/v1", NEW),
        ("https://api.openai.com.example.com/v1", OLD),
        ("https://notapi.openai.com/v1", OLD),
        ("https://example.com/api.openai.com/v1", OLD),
        ("https://redopenai.azure.com/openai/v1", OLD),
        ("https://red.azure.com/v1", OLD),
        ("http://127.0.0.1:8080/v1", OLD),
        ("http://[::1]:8080/v1", OLD),
    ],
)
def test_the_host_tells_the_name_of_the_limit(url: str, name: str) -> None:
    """OpenAI's newer models refuse the old name; most other servers know no other."""
    fields = OpenAIResponder(base_url=url, api_key="sk-0123456789", max_tokens=9).fields()
    assert fields[name] == 9
    assert not {OLD, NEW} - {name} & set(fields)
    chosen = OLD if name == NEW else NEW
    variables = {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "sk-0123456789",
        "CHAT_MAX_TOKENS": "9",
        "OPENAI_MAX_TOKENS_FIELD": chosen,
    }
    assert OpenAIResponder.from_env(variables).fields()[chosen] == 9

"""What a client sends besides its messages: what goes on to the provider, and what never does."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, List, Tuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniforge_chat import (
    AnthropicResponder,
    OpenAIResponder,
    Settings,
    SettingsError,
    Turn,
    create_app,
)
from omniforge_chat.errors import InvalidParameter
from omniforge_chat.responders.providers.parameters import RULES, allowed
from omniforge_chat.rules import DIALECTS

from ..support.app import HandDrivenRequest
from ..support.constants import CONVERSATION
from ..support.provider import Call, Provider
from ..support.relay import COMPLETE, ask, failed, using
from ..support.wires import ANTHROPIC, KEY, OPENAI, Wire

SENT: Dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 1,
    "top_k": 40,
    "min_p": 0.1,
    "max_tokens": 9,
    "max_completion_tokens": 9,
    "stop": ["END", "\n"],
    "seed": -1,
    "presence_penalty": -2,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.1,
    "reasoning_effort": "low",
    "verbosity": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "model": "vendor/model:free",
    "user": "Ada",
}
"""A value for each parameter that can be allowed."""

OTHERS: Dict[str, Any] = {
    "messages": [{"role": "system", "content": "Obey."}],
    "system": "Obey.",
    "stream": False,
    "stream_options": {"include_usage": False},
    "n": 5,
    "tools": [{"type": "function"}],
    "tool_choice": "required",
    "functions": [],
    "thinking": {"type": "enabled", "budget_tokens": 10**6},
    "store": True,
    "service_tier": "priority",
    "logprobs": True,
    "extra_body": {"x": 1},
    "unknown": 1,
}
"""Fields of requests that no operator can allow."""


def turn(**parameters: Any) -> Turn:
    return Turn("hi", CONVERSATION, "request-1", parameters=parameters)


def sent_by(responder: Any, **parameters: Any) -> Dict[str, Any]:
    """The fields that differ from a request without parameters."""
    usual, found = responder.request(turn()), responder.request(turn(**parameters))
    assert not set(usual) - set(found)
    return {name: found[name] for name in found if found[name] != usual.get(name)}


def test_every_parameter_is_tried() -> None:
    """One that is not in these tables may be passed on in the wrong form."""
    assert set(SENT) == set(RULES)
    assert not set(OTHERS) & set(RULES)


# What goes on


def test_nothing_goes_on_unless_it_is_allowed(wire: Wire) -> None:
    """A client could spend what it likes, or choose a model that is not for it."""
    everything = {**SENT, **OTHERS}
    assert sent_by(wire.responder(base_url="http://h"), **everything) == {}
    responder = wire.responder(base_url="http://h", allow_parameters=("top_p",))
    assert sent_by(responder, **everything) == {"top_p": 1}
    assert sent_by(responder, **{**OTHERS, **dict.fromkeys(SENT)}) == {}


def test_each_goes_on_in_the_words_of_openais_format() -> None:
    """They are its own words, so only the longest reply has another name in some places."""
    for name, value in SENT.items():
        responder = OpenAIResponder(base_url="http://h", allow_parameters=(name,))
        other = {"max_completion_tokens": "max_tokens"}.get(name, name)
        assert sent_by(responder, **SENT) == {other: value}


def test_each_goes_on_in_the_words_of_anthropics_format() -> None:
    """A client need not know which provider answers."""
    theirs = {
        **{name: {name: SENT[name]} for name in ("temperature", "top_p", "top_k", "model")},
        "max_tokens": {"max_tokens": 9},
        "max_completion_tokens": {"max_tokens": 9},
        "stop": {"stop_sequences": ["END", "\n"]},
        "user": {"metadata": {"user_id": "Ada"}},
    }
    for name, fields in theirs.items():
        responder = AnthropicResponder(base_url="http://h", allow_parameters=(name,))
        assert sent_by(responder, **SENT) == fields
    responder = AnthropicResponder(
        base_url="http://h", allow_parameters=("stop", "user"), extra_body={"metadata": {"a": 1}}
    )
    assert sent_by(responder, stop="END", user="Ada") == {
        "stop_sequences": ["END"],
        "metadata": {"a": 1, "user_id": "Ada"},
    }


def test_a_client_replaces_what_the_operator_has_set(wire: Wire) -> None:
    """Allowing it means that; null and nothing to stop at are no values."""
    responder = wire.responder(
        base_url="http://h",
        model="m",
        temperature=0.2,
        extra_body={"top_p": 0.1},
        allow_parameters=("temperature", "top_p", "model", "stop"),
    )
    fields = responder.request(turn())
    assert (fields["model"], fields["temperature"], fields["top_p"]) == ("m", 0.2, 0.1)
    assert sent_by(responder, temperature=0, top_p=0.9, model="other") == {
        "temperature": 0,
        "top_p": 0.9,
        "model": "other",
    }
    assert sent_by(responder, temperature=None, top_p=None, model=None, stop=[]) == {}


def test_the_name_of_the_services_own_model_stands_for_yours(wire: Wire) -> None:
    """Clients find that name in the list of models, and the provider does not know it."""
    make = wire.responder
    options: Dict[str, Any] = {"base_url": "http://h", "allow_parameters": ("model",)}
    assert sent_by(make(model="m", **options), model="omniforge") == {}
    assert sent_by(make(**options), model="omniforge") == {}
    own = make(model="m", model_name="ours", **options)
    assert sent_by(own, model="ours") == {}
    assert sent_by(own, model="omniforge") == {"model": "omniforge"}


@pytest.mark.parametrize(
    ("options", "given", "sent"),
    [
        ({}, {"max_tokens": 9}, {"max_tokens": 9}),
        ({}, {"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({}, {"max_tokens": 9, "max_completion_tokens": 8}, {"max_tokens": 8}),
        ({}, {"max_tokens": 2**31 - 1}, {"max_tokens": 2**31 - 1}),
        ({"max_tokens": 10}, {"max_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": 8}, {"max_tokens": 9}, {}),
        ({"max_tokens": 8}, {"max_completion_tokens": 9}, {}),
        ({"extra_body": {"max_tokens": 8}}, {"max_tokens": 9}, {}),
        ({"extra_body": {"max_tokens": 8e0}}, {"max_tokens": 9}, {}),
        ({"extra_body": {"max_tokens": 10}}, {"max_tokens": 9}, {"max_tokens": 9}),
        ({"extra_body": {"max_tokens": 8}, "max_tokens": 7}, {"max_tokens": 9}, {"max_tokens": 7}),
    ],
)
def test_your_own_limit_is_the_highest_for_a_client(
    wire: Wire, options: Dict[str, Any], given: Dict[str, int], sent: Dict[str, int]
) -> None:
    """A client may ask for less. The limit that Anthropic's format has to have is none of yours."""
    limits = ("max_tokens", "max_completion_tokens")
    responder = wire.responder(base_url="http://h", allow_parameters=limits, **options)
    assert sent_by(responder, **given) == sent


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"api_key": KEY}, "max_completion_tokens"),
        ({"base_url": "https://x.openai.azure.com/openai/v1"}, "max_completion_tokens"),
        ({"api_key": KEY, "max_tokens_field": "max_tokens"}, "max_tokens"),
        (
            {"base_url": "http://h", "max_tokens_field": "max_completion_tokens"},
            "max_completion_tokens",
        ),
        (
            {"base_url": "http://h", "extra_body": {"max_completion_tokens": 99}},
            "max_completion_tokens",
        ),
    ],
)
@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
def test_a_clients_limit_has_the_name_that_yours_has(
    options: Dict[str, Any], name: str, given: str
) -> None:
    """Whichever name the client knows: there is one limit, and no provider gets two."""
    responder = OpenAIResponder(**options, allow_parameters=(given,))
    assert sent_by(responder, **{given: 9}) == {name: 9}


def test_a_clients_limit_is_sent_under_the_name_that_the_provider_knows() -> None:
    """As with your own, the provider's refusal of one name teaches the other."""

    async def script(call: Call) -> None:
        if "max_tokens" in call.body:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model."
            await call.refuse(400, {"error": {"message": text, "param": "max_tokens"}})
        else:
            await OPENAI.answer("Hello")(call)

    with Provider(script) as provider:
        responder = OPENAI.make(provider, allow_parameters=("max_tokens",))
        assert ask(responder, turn(max_tokens=9))[-1] == COMPLETE
        assert ask(responder, turn(max_tokens=8))[-1] == COMPLETE
        bodies = [call.body for call in provider.calls]
    limits = [(b.get("max_tokens"), b.get("max_completion_tokens")) for b in bodies]
    assert limits == [(9, None), (None, 9), (None, 8)]


# What is wrong

WRONG: Dict[str, List[Any]] = {
    "temperature": ["hot", "0.5", -0.1, 2.1, float("nan"), float("inf"), True, [0.5], {}, 10**400],
    "top_p": ["x", 1.1, -1, False],
    "top_k": [1.5, -2, "40", 2**31],
    "min_p": [2, "x"],
    "max_tokens": [0, -1, 1.5, "9", True, 2**31, 10**30],
    "max_completion_tokens": [0, "x"],
    "stop": ["", [""], [5], [None], {"a": 1}, 5, True, ["a", ["b"]]],
    "seed": [1.5, "x", 2**63, True],
    "presence_penalty": [3, "x"],
    "frequency_penalty": [-3, "x"],
    "repetition_penalty": [-1, "x"],
    "reasoning_effort": ["", "so much", "x" * 129, 5, {}],
    "verbosity": ["", 5],
    "response_format": ["json", {}, {"type": 5}, ["json_object"]],
    "model": ["", "x" * 257, 5, ["m"]],
    "user": ["", "x" * 513, 5, {"id": 5}],
}


@pytest.fixture(name="provider", scope="module")
def _provider() -> Iterator[Provider]:
    async def unasked(call: Call) -> None:
        await call.refuse(500, {"error": f"asked with {call.body}"})

    with Provider(unasked) as provider:
        yield provider
        assert provider.calls == []


@pytest.mark.parametrize("name", RULES)
def test_a_wrong_value_is_told_and_costs_no_request(name: str, provider: Provider) -> None:
    """The client is told its own mistake; what its neighbour has is no concern."""
    responder = OPENAI.make(provider, allow_parameters=(name, "temperature"))
    for value in WRONG[name]:
        with pytest.raises(InvalidParameter, match=f"^{name}: must be [a-z1]"):
            responder.request(turn(**{**SENT, name: value}))
    error = failed(ask(responder, turn(**{**SENT, name: WRONG[name][0]})))
    assert error.code == "invalid_parameter"
    assert error.message == f"{name}: must be {RULES[name].expected}"
    assert error.usage is None
    unaffected = OPENAI.make(provider, allow_parameters=tuple(n for n in SENT if n != name))
    assert name not in sent_by(unaffected, **{name: WRONG[name][0]})


def test_all_wrong_values_are_named_at_once(wire: Wire, provider: Provider) -> None:
    """Or a client would mend one, and then learn of the next."""
    responder = wire.make(provider, allow_parameters=("temperature", "top_p", "stop", "top_k"))
    error = failed(ask(responder, turn(stop=5, temperature="hot", top_p=0.5, top_k=0.5)))
    assert error.message == (
        "temperature: must be a number from 0 to 2; "
        "stop: must be a text, or an array of texts, none of them empty; "
        "top_k: must be a whole number from -1 to 2147483647"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*SENT, *OTHERS]), JSON))
def test_any_json_is_sent_as_json_or_refused(parameters: Dict[str, Any]) -> None:
    """Nothing that a client sends is an exception."""
    for responder in EVERYTHING:
        with contextlib.suppress(InvalidParameter):
            fields = responder.request(turn(**parameters))
            assert msgspec.json.decode(msgspec.json.encode(fields))["stream"] is True


EVERYTHING: Tuple[Any, ...] = (
    OpenAIResponder(base_url="http://h", allow_parameters=tuple(RULES)),
    AnthropicResponder(
        base_url="http://h", allow_parameters=AnthropicResponder.options_type.parameters
    ),
)


MESSAGES = [
    {"id": "1", "role": "system", "content": "Be kind."},
    {"id": "2", "role": "user", "content": "hi"},
]


def through_the_service(
    path: str, **parameters: Any
) -> Tuple[List[Dict[str, Any]], HandDrivenRequest]:
    """The requests that the provider gets for one in another format, and its answer."""
    with Provider(OPENAI.answer("Hello")) as provider:
        options = {"system_prompt": "Be brief.", "allow_parameters": ("temperature", "model")}
        responder = OPENAI.make(provider, model="m", **options)

        async def run(responder: Any) -> HandDrivenRequest:
            request = HandDrivenRequest({"messages": MESSAGES, **parameters}, path=path)
            await request.run(create_app(responder, settings=Settings(dialects=DIALECTS)))
            return request

        answer = using(responder, run)
        return [call.body for call in provider.calls], answer


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_what_a_client_sends_comes_all_the_way(path: str) -> None:
    """From the body of another format, through the service, to the provider."""
    bodies, _ = through_the_service(path, model="omniforge", temperature=0.5, top_p="x", n=3)
    assert bodies == [
        {
            "model": "m",
            "temperature": 0.5,
            "messages": [
                {"role": "system", "content": "Be brief.\n\nBe kind."},
                {"role": "user", "content": "hi"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_a_client_of_another_format_is_told_of_its_mistake() -> None:
    """In the form of that format, with the status of its own mistake if it has one."""
    problem = "temperature: must be a number from 0 to 2"
    bodies, answer = through_the_service("/api/chat", temperature="hot")
    assert f'"errorText":"{problem}"'.encode() in answer.body
    more, answer = through_the_service("/v1/chat/completions", model="m", temperature="hot")
    assert answer.status == 422
    error = msgspec.json.decode(answer.body)["error"]
    assert (error["message"], error["code"]) == (problem, "invalid_parameter")
    assert error["type"] == "invalid_request_error"
    assert bodies == more == []


# What an operator may allow


@pytest.mark.parametrize("name", OTHERS)
def test_what_belongs_to_the_service_cannot_be_allowed(wire: Wire, name: str) -> None:
    """At the start, in one line that has the names that can be."""
    prefix = wire.name.upper()
    for names, shown in [((name,), name), (("temperature", name), name)]:
        with pytest.raises(SettingsError) as raised:
            wire.responder(base_url="http://h", allow_parameters=names)
        assert str(raised.value).startswith(
            f"allow_parameters={shown!r}: expected names among temperature, top_p, top_k, "
        )
    variables = {f"{prefix}_BASE_URL": "http://h", "CHAT_ALLOW_PARAMETERS": f"temperature,{name}"}
    for limits in (None, Settings(allow_parameters=(name,))):
        with pytest.raises(SettingsError, match=f"^CHAT_ALLOW_PARAMETERS='{name}': expected names"):
            wire.responder.from_env(variables, limits=limits)


def test_what_a_format_does_not_have_cannot_be_allowed() -> None:
    """It would be left out, and nobody would know why it has no effect."""
    for name in set(RULES) - set(AnthropicResponder.options_type.parameters):
        with pytest.raises(SettingsError, match=f"^allow_parameters='{name}': expected names"):
            AnthropicResponder(base_url="http://h", allow_parameters=(name,))


@pytest.mark.parametrize("names", ["temperature", ["temperature"], None, 5, ("Temperature",), (5,)])
def test_names_of_no_use_are_told(wire: Wire, names: Any) -> None:
    """A text would allow its letters."""
    with pytest.raises(SettingsError, match=r"^allow_parameters="):
        wire.responder(base_url="http://h", allow_parameters=names)


def test_the_environment_and_the_settings_allow_them(wire: Wire) -> None:
    """As with the other settings of the service, those that are passed in win."""
    environ = {f"{wire.name.upper()}_BASE_URL": "http://h"}
    given = {**environ, "CHAT_ALLOW_PARAMETERS": " temperature, stop ", "CHAT_MODEL_NAME": "ours"}

    def chosen(responder: Any) -> Tuple[Tuple[str, ...], str]:
        return responder._options.allow_parameters, responder._options.model_name

    make = wire.responder.from_env
    assert chosen(make(environ)) == ((), "omniforge")
    assert chosen(make(given)) == (("temperature", "stop"), "ours")
    limits = Settings(allow_parameters=("top_p",), model_name="theirs")
    assert chosen(make(given, limits=limits)) == (("top_p",), "theirs")
    with pytest.raises(SettingsError, match="CHAT_MODEL_NAME='a b'"):
        make({**environ, "CHAT_MODEL_NAME": "a b"})
    for name in ("", "a b", None):
        with pytest.raises(SettingsError, match="model_name="):
            wire.responder(base_url="http://h", model_name=name)  # type: ignore[arg-type]


def test_what_is_not_asked_for_is_not_looked_at() -> None:
    """A mapping of your own may be anything."""
    assert allowed((), {"temperature": "hot"}) == {}


# Instructions


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        ("Be brief.", "Be kind.", "Be brief.\n\nBe kind."),
        ("Be brief.", "", "Be brief."),
        ("Be brief.", " \n", "Be brief."),
        (None, "Be kind.\n", "Be kind.\n"),
        (None, " ", None),
        (None, "", None),
    ],
)
def test_the_instructions_of_a_request_follow_yours(
    wire: Wire, own: Any, theirs: str, expected: Any
) -> None:
    """They are a client's text: they may add to yours, and never take their place."""
    responder = wire.responder(base_url="http://h", system_prompt=own)
    for _ in range(2):  # nothing of one request is left for the next one
        fields = responder.request(Turn("hi", CONVERSATION, "r", system=theirs))
        if wire is ANTHROPIC:
            assert fields.get("system") == expected
            system: List[Any] = []
        else:
            system = [{"role": "system", "content": expected}] if expected else []
        assert fields["messages"] == [*system, {"role": "user", "content": "hi"}]


def test_instructions_in_blocks_stay_in_front() -> None:
    """Anthropic's format has marks for the cache in them."""
    cached = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    responder = AnthropicResponder(base_url="http://h", extra_body={"system": [cached]})
    assert responder.request(turn())["system"] == [cached]
    fields = responder.request(Turn("hi", CONVERSATION, "r", system="Be kind."))
    assert fields["system"] == [cached, {"type": "text", "text": "Be kind."}]
    responder = AnthropicResponder(base_url="http://h", extra_body={"system": "Be brief."})
    fields = responder.request(Turn("hi", CONVERSATION, "r", system="Be kind."))
    assert fields["system"] == "Be brief.\n\nBe kind."

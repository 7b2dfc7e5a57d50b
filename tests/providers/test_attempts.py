"""What observers hear of the requests to a provider: each that begins ends once."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, List

import pytest

from omniforge_chat import Settings, Turn, UpstreamError, Usage, create_app
from omniforge_chat.observer import Observers, UpstreamEnd

from ..support.app import HandDrivenRequest
from ..support.logs import Records
from ..support.provider import Call, Provider, hang_up, opening, refusing
from ..support.relay import TURN, UpstreamWitness
from ..support.wires import OPENAI, Wire


def heard(responder: Any, *, leaves: bool = False, want_text: bool = False) -> List[UpstreamEnd]:
    """How the requests for one turn have ended, which the client `leaves` after the first text."""
    witness = UpstreamWitness()
    witness.wants_text = want_text

    async def main() -> None:
        Observers([witness]).enter()
        reply = responder(TURN)
        try:
            async for item in reply:
                if leaves and isinstance(item, str):
                    break
        except UpstreamError:
            pass
        finally:
            await reply.aclose()
            await responder.aclose()

    asyncio.run(main())
    assert [end.call for end in witness.ended] == witness.began
    assert [began.attempt for began in witness.began] == [*range(1, len(witness.began) + 1)]
    return witness.ended


def chat(responder: Any, observers: List[UpstreamWitness], *, closing: Any) -> None:
    """A chat with an app that has these observers."""

    async def main() -> None:
        request = HandDrivenRequest()
        await request.run(create_app(responder, settings=Settings(), observers=observers))
        await closing.aclose()
        assert b"event: done" in request.body

    asyncio.run(main())


def test_a_reply_is_told_with_all_that_is_known_of_it(wire: Wire) -> None:
    """A bill, a span and a histogram are made of it."""
    with Provider(wire.answer("one", "two")) as provider:
        responder = wire.make(provider, model="m-1", temperature=0.5, max_tokens=20)
        (end,) = heard(responder)
        port = int(provider.url.rpartition(":")[2])
    began = end.call
    assert (began.provider, began.model) == (wire.name, "m-1")
    assert (began.address, began.port, began.turn) == ("127.0.0.1", port, TURN)
    assert began.parameters == {
        "temperature": 0.5,
        "max_tokens": 20,
        **({"stream_options": {"include_usage": True}} if wire is OPENAI else {}),
    }
    assert (end.result, end.status, end.finish_reason) == ("done", 200, "stop")
    assert end.usage == Usage(12, 7, 5)
    assert end.first_chunk is not None
    assert 0 <= end.first_chunk <= end.seconds
    identity = ("chatcmpl-1", "m") if wire is OPENAI else ("m", "")
    assert (end.response_id, end.response_model) == identity
    assert end.text == ""


def test_the_text_is_told_only_to_whom_wants_it(wire: Wire) -> None:
    """A reply is not gathered for nothing, and nobody gets it who did not ask."""
    with Provider(wire.answer("one", " two")) as provider:
        (end,) = heard(wire.make(provider), want_text=True)
    assert end.text == "one two"


def test_each_try_is_a_request_of_its_own(wire: Wire) -> None:
    """Else the second one would hide that the provider was overloaded."""
    with Provider(refusing(503, {}), wire.answer("x")) as provider:
        first, second = heard(wire.make(provider))
    assert (first.result, first.status, first.first_chunk) == ("upstream_error", 503, None)
    assert (second.result, second.status) == ("done", 200)


def test_a_field_that_is_refused_makes_one_more_request() -> None:
    """It has cost the time of a request."""
    document = {"error": {"message": "unknown parameter: stream_options"}}
    with Provider(refusing(400, document), OPENAI.answer("x")) as provider:
        first, second = heard(OPENAI.make(provider))
    assert (first.result, first.status) == ("upstream_error", 400)
    assert "stream_options" not in second.call.parameters


def test_a_reply_that_fails_or_is_left_ends_with_the_reason(wire: Wire) -> None:
    """These are the ones to look for."""

    async def cut(call: Call) -> None:
        await call.head()
        await call.part(b"".join([*wire.opening(), wire.text("x")]))
        call.reset()

    with Provider(cut) as provider:
        (end,) = heard(wire.make(provider))
        assert (end.result, end.status, end.usage is None) == (
            "upstream_error",
            200,
            wire is OPENAI,
        )
        assert end.first_chunk is not None
    with Provider(opening(*wire.opening(), wire.text("x"))) as provider:
        (end,) = heard(wire.make(provider), leaves=True)
        assert (end.result, end.finish_reason) == ("cancelled", None)


def test_a_provider_that_never_answers_is_a_timeout() -> None:
    """It is told as the client is told, though the request was cancelled within."""
    with Provider(Call.left) as provider:
        (end,) = heard(OPENAI.make(provider, first_chunk_timeout=0.05))
    assert (end.result, end.status) == ("upstream_timeout", None)


def test_a_connection_that_ends_without_an_answer_has_no_status() -> None:
    """There was none."""
    with Provider(hang_up) as provider:
        assert {(end.result, end.status) for end in heard(OPENAI.make(provider))} == {
            ("upstream_error", None)
        }


def test_a_try_has_no_status_of_the_one_before() -> None:
    """A server that is restarted refuses first, and is gone then."""
    with Provider(refusing(503, {}), hang_up) as provider:
        first, *others = heard(OPENAI.make(provider))
    assert first.status == 503
    assert {end.status for end in others} == {None}


def test_the_headers_of_an_observer_go_along_and_replace_none() -> None:
    """A trace goes on at the provider; what the operator sets is not undone."""
    further = {"traceparent": "ours", "tracestate": "a=1", "authorization": "Bearer wrong"}
    witness = UpstreamWitness(further)
    with Provider(OPENAI.answer("x")) as provider:
        responder = OPENAI.make(provider, extra_headers={"TraceParent": "theirs"})
        chat(responder, [witness], closing=responder)
        headers = provider.call().headers
    assert (headers["traceparent"], headers["tracestate"]) == ("theirs", "a=1")
    assert "wrong" not in headers["authorization"]


@pytest.mark.parametrize(
    "further",
    [{"x": "a\r\nb: c"}, {"x": "\u20ac"}, {"x": 1}, {"Content-Length": "3"}, {"a b": "c"}, "x: y"],
)
def test_headers_that_cannot_be_sent_harm_no_request(further: Any) -> None:
    """An observer that fails disturbs nobody, also by its result."""
    with Provider(OPENAI.answer("x")) as provider, Records() as records:
        responder = OPENAI.make(provider)
        chat(responder, [UpstreamWitness(further), UpstreamWitness({"y": "z"})], closing=responder)
        headers = provider.call().headers
    assert headers["y"] == "z"
    assert "x" not in headers
    [failed] = [record.getMessage() for record in records.all if record.levelname == "ERROR"]
    assert failed.startswith("an observer failed: upstream_began")


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_observers_of_an_app_hear_also_what_its_own_responder_asks(wrapped: bool) -> None:
    """Most apps call a provider from a responder of their own; and no other app hears of it."""
    witness, other = UpstreamWitness(), UpstreamWitness()

    async def own(turn: Turn) -> AsyncIterator[Any]:
        async for item in relaying(turn):
            yield item

    with Provider(OPENAI.answer("x")) as provider:
        relaying = OPENAI.make(provider)
        responder = own if wrapped else relaying
        for watching in ([other], [witness], []):
            chat(responder, watching, closing=relaying)
    assert len(witness.began) == len(witness.ended) == len(other.ended) == 1
    assert witness.began[0].turn.message == "hi"


def test_an_app_without_observers_tells_those_of_no_other_one() -> None:
    """Some servers run the next request of a connection in the context of the one before."""
    witness = UpstreamWitness()

    async def main(relaying: Any) -> None:
        for watching in ([witness], []):
            app = create_app(relaying, settings=Settings(), observers=watching)
            await HandDrivenRequest().run(app)
        await relaying.aclose()

    with Provider(OPENAI.answer("x")) as provider:
        asyncio.run(main(OPENAI.make(provider)))
        assert len(provider.calls) == 2
    assert len(witness.began) == len(witness.ended) == 1

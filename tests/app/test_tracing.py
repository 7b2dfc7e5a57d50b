"""Spans of chats and of requests to a provider, and the trace that a request brings along."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import weakref
from typing import Any, AsyncIterator, Dict, List, Optional

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.routing import Mount

from omniforge_chat import ChatError, Settings, Tracing, Turn, create_app
from omniforge_chat.core.responder import Responder
from omniforge_chat.models import Message
from omniforge_chat.observer import UpstreamCall, UpstreamEnd

from ..support.app import HandDrivenRequest, call
from ..support.constants import CONVERSATION
from ..support.logs import Records
from ..support.provider import Call, Provider, refusing
from ..support.responders import saying
from ..support.traces import NOT_SAMPLED, PARENT, SAMPLED, TRACE, Spans, attributes, ids
from ..support.wires import OPENAI

CANARY = "the canary sings"


def traced(
    responder: Responder,
    spans: Spans,
    *,
    headers: Optional[Dict[str, str]] = None,
    closing: Any = None,
    message: str = "hi",
    **options: Any,
) -> HandDrivenRequest:
    """A chat with an app that traces."""

    async def main() -> HandDrivenRequest:
        tracing = Tracing(spans.provider, **options)
        app = create_app(responder, settings=Settings(), observers=[tracing])
        body = {"message": message, "conversation_id": CONVERSATION}
        request = HandDrivenRequest(body, headers=headers)
        await request.run(app)
        if closing is not None:
            await closing.aclose()
        return request

    return asyncio.run(main())


def test_a_chat_is_a_span_of_a_server() -> None:
    """With the names that tools for HTTP and for models look for."""
    spans = Spans()
    headers = {"Host": "bots.example:8080", "User-Agent": "a tool", "X-Request-ID": "ref-1"}
    traced(saying("one", "two"), spans, headers=headers)
    (span,) = spans.ended
    assert (span.name, span.kind, span.parent) == ("POST /api/v1/chat", SpanKind.SERVER, None)
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/api/v1/chat",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/api/v1/chat",
        "server.address": "bots.example",
        "server.port": 8080,
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "a tool",
        "gen_ai.conversation.id": CONVERSATION,
        "omniforge.request_id": "ref-1",
        "omniforge.dialect": "native",
        "omniforge.chunks": 2,
        "omniforge.outcome": "done",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["first chunk sent"]


def test_the_route_has_the_path_of_the_mount() -> None:
    """Two chats in one app are told apart."""
    spans = Spans()
    chat = create_app(saying("x"), settings=Settings(), observers=[Tracing(spans.provider)])
    call(Starlette(routes=[Mount("/bots", chat)]), path="/bots/api/v1/chat/")
    (span,) = spans.ended
    assert span.name == "POST /bots/api/v1/chat"


def test_a_failed_chat_is_an_error_without_the_words_of_its_exception() -> None:
    """They may quote a message."""
    spans = Spans()
    traced(saying("x", RuntimeError(CANARY)), spans)
    traced(saying("x", ChatError(CANARY, code="no_agent")), spans)
    for span, code in zip(spans.ended, ("processing_error", "no_agent")):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == attributes(span)["omniforge.outcome"] == code
        assert CANARY not in span.to_json()


def test_a_refused_chat_is_a_span_too() -> None:
    """A mistake of the client is no error of the server; a full server is one."""
    spans = Spans()
    settings = Settings(max_streams=1)

    async def main() -> None:
        asked = asyncio.Event()

        async def respond(turn: Turn) -> AsyncIterator[str]:
            asked.set()
            await asyncio.Event().wait()
            yield "x"

        app = create_app(respond, settings=settings, observers=[Tracing(spans.provider)])
        holding = HandDrivenRequest()
        task = asyncio.ensure_future(holding.run(app))
        await asked.wait()
        await HandDrivenRequest(headers={"traceparent": SAMPLED}).run(app)
        holding.gone.set()
        await task
        await HandDrivenRequest({"message": ""}).run(app)
        await HandDrivenRequest(path="/nothing").run(app)

    asyncio.run(main())
    full, left, wrong = spans.ended
    assert (attributes(full)["http.response.status_code"], full.kind) == (503, SpanKind.SERVER)
    assert attributes(full)["error.type"] == "overloaded"
    assert full.status.status_code is StatusCode.ERROR
    assert ids(full)[::2] == (TRACE, PARENT)
    assert attributes(left)["omniforge.outcome"] == "disconnected"
    assert left.status.status_code is StatusCode.UNSET
    assert attributes(wrong)["http.response.status_code"] == 422
    assert attributes(wrong)["omniforge.outcome"] == "validation_error"
    assert "error.type" not in attributes(wrong)


def test_a_chat_goes_on_with_the_trace_of_its_request() -> None:
    """The page, the gateway and the chat are one picture."""
    spans = Spans()
    headers = {"traceparent": SAMPLED, "tracestate": "a=1"}
    traced(saying("x"), spans, headers=headers)
    (span,) = spans.ended
    assert ids(span)[::2] == (TRACE, PARENT)
    assert span.kind is SpanKind.SERVER
    context = span.get_span_context()
    assert context is not None
    assert context.trace_state.to_header() == "a=1"


def test_the_state_of_a_trace_may_come_in_parts() -> None:
    """Each tool on the way may add a field of its own."""
    spans = Spans()
    fields = [("traceparent", SAMPLED), ("tracestate", "a=1"), ("tracestate", "b=2")]

    async def main() -> None:
        app = create_app(saying("x"), settings=Settings(), observers=[Tracing(spans.provider)])
        request = HandDrivenRequest()
        request.scope["headers"] += [(name.encode(), value.encode()) for name, value in fields]
        await request.run(app)

    asyncio.run(main())
    context = spans.ended[0].get_span_context()
    assert context is not None
    assert context.trace_state.to_header() == "a=1,b=2"


def test_the_log_names_the_trace() -> None:
    """From a line to the picture, and back. Without OpenTelemetry, from what the client sent."""
    for observers in ([], [Tracing(Spans().provider)]):
        app = create_app(saying("x"), settings=Settings(), observers=observers)
        with Records() as records:
            call(app, headers={"X-Request-ID": "ref-1", "traceparent": SAMPLED})
            assert list(records.chat("ref-1").items())[-1] == ("trace_id", TRACE)
            call(app, headers={"X-Request-ID": "ref-2", "traceparent": "00-none"})
            assert ("trace_id" in records.chat("ref-2")) is bool(observers)


def test_the_next_request_is_in_no_trace_of_the_one_before() -> None:
    """Some servers run the next request of a connection in the context of the one before."""

    async def main() -> None:
        app = create_app(saying("x"), settings=Settings())
        await HandDrivenRequest(headers={"traceparent": SAMPLED}).run(app)
        await HandDrivenRequest(headers={"X-Request-ID": "ref-2"}).run(app)

    with Records() as records:
        asyncio.run(main())
        assert "trace_id" not in records.chat("ref-2")


def test_a_trace_that_begins_here_is_named_too() -> None:
    """Its id is known nowhere else."""
    spans = Spans()
    with Records() as records:
        traced(saying("x"), spans, headers={"X-Request-ID": "ref-1"})
        assert records.chat("ref-1")["trace_id"] == ids(spans.ended[0])[0]


def test_spans_of_a_responder_are_within_that_of_its_chat() -> None:
    """A host sees its search, its tools and its prompts in place."""
    spans = Spans()
    tracer = spans.provider.get_tracer("host")
    current: List[bool] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        with tracer.start_as_current_span("search"):
            await asyncio.sleep(0)
        yield "x"

    async def main() -> None:
        app = create_app(respond, settings=Settings(), observers=[Tracing(spans.provider)])
        await HandDrivenRequest().run(app)
        current.append(trace.get_current_span().get_span_context().is_valid)

    asyncio.run(main())
    search, chat = spans.ended
    assert search.name == "search"
    assert ids(search)[2] == ids(chat)[1]
    assert current == [False]


def test_within_a_tool_around_the_app_a_chat_is_a_part_of_its_span() -> None:
    """Else there would be two servers in the picture."""
    spans = Spans()

    async def main() -> None:
        app = create_app(saying("x"), settings=Settings(), observers=[Tracing(spans.provider)])
        with spans.provider.get_tracer("tool").start_as_current_span("outer"):
            await HandDrivenRequest(headers={"traceparent": SAMPLED}).run(app)

    asyncio.run(main())
    chat, outer = spans.ended
    assert ids(chat)[2] == ids(outer)[1]
    assert chat.kind is SpanKind.INTERNAL


def asked(
    spans: Spans, *scripts: Any, headers: Optional[Dict[str, str]] = None, **options: Any
) -> List[Call]:
    """The requests of a chat to a provider that answers as the scripts say."""
    given = {"model": "m-1", "temperature": 0.5, "max_tokens": 20}
    with Provider(*scripts) as provider:
        model = OPENAI.make(provider, **given, system_prompt=CANARY)
        traced(model, spans, headers=headers, closing=model, message=CANARY, **options)
        return provider.calls


def test_a_request_to_a_provider_is_a_span_of_a_client() -> None:
    """By the conventions for generative AI: what was asked, what came, and what it cost."""
    spans = Spans()
    asked(spans, OPENAI.answer("one", CANARY))
    request, chat = spans.ended
    assert (request.name, request.kind) == ("chat m-1", SpanKind.CLIENT)
    assert ids(request)[2] == ids(chat)[1]
    found = attributes(request)
    assert isinstance(found.pop("server.port"), int)
    assert found.pop("gen_ai.response.time_to_first_chunk") >= 0
    assert found.pop("omniforge.request_id") == attributes(chat)["omniforge.request_id"]
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.conversation.id": CONVERSATION,
        "gen_ai.request.model": "m-1",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "omniforge.outcome": "done",
    }
    assert not any(CANARY in span.to_json() for span in spans.ended)


def test_the_latest_names_come_in_place_of_the_older_ones() -> None:
    """As OpenTelemetry's plan for the change has it."""
    spans = Spans()
    asked(spans, OPENAI.answer("x"), gen_ai_names="latest")
    found = attributes(spans.ended[0])
    assert found["gen_ai.provider.name"] == "openai"
    assert "gen_ai.system" not in found


def test_the_trace_goes_on_at_the_provider() -> None:
    """A gateway or a model server of one's own tells the rest."""
    spans = Spans()
    headers = {"traceparent": SAMPLED, "tracestate": "a=1", "baggage": "user=secret"}
    (request,) = asked(spans, OPENAI.answer("x"), headers=headers)
    span = spans.ended[0]
    assert request.headers["traceparent"] == f"00-{TRACE}-{ids(span)[1]}-01"
    assert request.headers["tracestate"] == "a=1"
    assert "baggage" not in request.headers


def test_each_try_has_a_span_and_the_failed_one_an_error() -> None:
    """The time between them is seen, too."""
    spans = Spans()
    first, second = asked(spans, refusing(503, {}), OPENAI.answer("x"))
    failed, answered, chat = spans.ended
    assert failed.status.status_code is StatusCode.ERROR
    assert attributes(failed)["error.type"] == "upstream_error"
    assert attributes(failed)["http.response.status_code"] == 503
    assert "http.request.resend_count" not in attributes(failed)
    assert answered.status.status_code is StatusCode.UNSET
    assert attributes(answered)["http.request.resend_count"] == 1
    assert ids(failed)[2] == ids(answered)[2] == ids(chat)[1]
    told = [request.headers["traceparent"].split("-")[2] for request in (first, second)]
    assert told == [ids(failed)[1], ids(answered)[1]]


def test_the_client_of_http_works_within_the_span_of_its_request() -> None:
    """Tools for httpx have spans, too: those of one try are parts of it."""
    spans = Spans()
    tracer = spans.provider.get_tracer("httpx")

    class Client(httpx.AsyncClient):
        async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
            with tracer.start_as_current_span("POST"):
                return await super().send(request, **options)

    async def main() -> None:
        with Provider(refusing(503, {}), OPENAI.answer("x")) as provider:
            async with Client() as client:
                model = OPENAI.make(provider, client=client)
                tracing = Tracing(spans.provider)
                app = create_app(model, settings=Settings(), observers=[tracing])
                await HandDrivenRequest().run(app)

    asyncio.run(main())
    by_id = {ids(span)[1]: span for span in spans.ended}
    sent = [span for span in spans.ended if span.name == "POST"]
    assert len(sent) == 2
    around = [by_id[ids(span)[2]] for span in sent]
    assert [span.kind for span in around] == [SpanKind.CLIENT] * 2
    assert around[0] is not around[1]
    assert {by_id[ids(span)[2]].name for span in around} == {"POST /api/v1/chat"}


def test_text_is_told_only_if_that_is_wanted() -> None:
    """In the form of the conventions, as JSON."""
    spans = Spans()
    asked(spans, OPENAI.answer("one", " two"), content=True)
    request, chat = spans.ended
    found = attributes(request)
    part = {"type": "text", "content": CANARY}
    assert json.loads(found["gen_ai.input.messages"]) == [{"role": "user", "parts": [part]}]
    part = {"type": "text", "content": "one two"}
    assert json.loads(found["gen_ai.output.messages"]) == [{"role": "assistant", "parts": [part]}]
    assert CANARY not in chat.to_json()


def test_a_parameter_that_is_no_number_is_not_told() -> None:
    """It may be text that a user has written."""
    spans = Spans()
    tracing = Tracing(spans.provider)
    given = {"temperature": CANARY, "seed": [CANARY], "top_p": True, "top_k": 5, "user": CANARY}
    call = UpstreamCall("openai", "m", "h", 80, 1, given, Turn("hi", CONVERSATION, "ref-1"))
    contextvars.copy_context().run(tracing.upstream_began, call)
    tracing.upstream_ended(UpstreamEnd(call, "done", 200, 1.0))
    (span,) = spans.ended
    assert CANARY not in span.to_json()
    told = {name for name in attributes(span) if name.startswith("gen_ai.request.")}
    assert told == {"gen_ai.request.model", "gen_ai.request.stream", "gen_ai.request.top_k"}


def test_nothing_of_a_span_that_has_ended_is_kept() -> None:
    """A service runs for months, and some clients leave before the end."""
    spans = Spans()
    begun: List[weakref.ref[Any]] = []

    class Begun(SpanProcessor):
        def on_start(self, span: Any, parent_context: Optional[Context] = None) -> None:
            begun.append(weakref.ref(span))

    spans.provider.add_span_processor(Begun())
    tracing = Tracing(spans.provider)

    async def main() -> None:
        with Provider(OPENAI.answer("x"), refusing(400, {}), OPENAI.answer("x")) as provider:
            model = OPENAI.make(provider)
            app = create_app(model, settings=Settings(), observers=[tracing])
            for leaves in (False, False, True):
                request = HandDrivenRequest()
                if leaves:
                    request.gone.set()
                await asyncio.ensure_future(request.run(app))
            await model.aclose()

    asyncio.run(main())
    gc.collect()
    assert len(begun) == len(spans.ended) >= 5
    assert [span for span in begun if span() is not None] == []


def test_earlier_messages_and_instructions_are_told_then_too() -> None:
    """Half a character in them, which no format of spans can have, does no harm."""
    spans = Spans()
    history = (Message("user", "one"), Message("assistant", "\ud800"))
    turn = Turn("hi", CONVERSATION, "ref-1", history=history, system="Be kind")
    tracing = Tracing(spans.provider, content=True)
    asking = UpstreamCall("openai", "m\ud800", "h", 80, 1, {}, turn)
    headers = contextvars.copy_context().run(tracing.upstream_began, asking)
    assert headers is not None
    assert list(headers) == ["traceparent"]
    (span,) = tracing._calls.values()
    assert isinstance(span, ReadableSpan)
    found = attributes(span)
    messages = json.loads(found["gen_ai.input.messages"])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    instructions = json.loads(found["gen_ai.system_instructions"])
    assert instructions == [{"type": "text", "content": "Be kind"}]
    assert found["gen_ai.request.model"] == "m?"


@pytest.mark.parametrize("with_sdk", [False, True])
def test_a_trace_that_is_not_sampled_is_passed_on_all_the_same(with_sdk: bool) -> None:
    """Whoever began it has decided. Without an SDK there is nothing but to pass it on."""
    spans = Spans()
    headers = {"traceparent": NOT_SAMPLED if with_sdk else SAMPLED}
    if not with_sdk:
        spans.provider = trace.NoOpTracerProvider()  # type: ignore[assignment] # has what is used
    (request,) = asked(spans, OPENAI.answer("x"), headers=headers)
    assert spans.ended == ()
    version, trace_id, _, flags = request.headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "00" if with_sdk else "01")

"""Spans by OpenTelemetry: one for each chat, and one for each request to a model provider.

Only its API is imported here. Somebody else chooses the SDK: a host, `opentelemetry-instrument`, or
`export`. Without any the spans go nowhere, and only the headers of a trace are passed on.
"""

from __future__ import annotations

import json
import re
from contextvars import Token
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

import msgspec

try:
    from opentelemetry import baggage, context, propagate, trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        "opentelemetry is missing: pip install 'omniforge-chat[otel]'", name="opentelemetry"
    ) from None

from ..logs import TRACEPARENT, trace_id
from ..models import Turn
from ..observer import ChatEnd, Observer, Refusal, Scope, UpstreamCall, UpstreamEnd
from . import conventions as names

_NO_ERRORS = {"done", "cancelled", "disconnected", "stalled", "abandoned"}
"""Outcomes that nobody has to look after: the client has left, or somebody has stopped it."""

_AROUND = context.create_key("omniforge_chat.around")
"""The context around the requests to a provider that are made in one task."""

_authority = re.compile(r"(\[[^\]]*\]|[^:\[\]]+)(?::(\d+))?").fullmatch

_encode = msgspec.json.Encoder().encode

Attributes = Dict[str, Any]


class _Chat(NamedTuple):
    span: Span
    token: Token[context.Context]


class Tracing(Observer):
    """Makes the spans, by `tracer_provider`, or by that of the process if you pass none.

    A chat continues the trace that is current when it begins, or else that of its request. Its span
    is current while its responder runs, and that of a request to a provider while that is sent. The
    provider gets the headers of the trace.

    - `content`: whether the text of messages and replies is in the spans of requests to a provider.
    - `gen_ai_names`: "older" or "latest", see `conventions`.
    """

    def __init__(
        self,
        tracer_provider: Optional[TracerProvider] = None,
        *,
        content: bool = False,
        gen_ai_names: str = "older",
    ) -> None:
        self.wants_text = content
        self._provider_name = names.PROVIDER[gen_ai_names]
        self._tracer: Tracer = trace.get_tracer("omniforge_chat", tracer_provider=tracer_provider)
        self._chats: Dict[int, _Chat] = {}
        self._calls: Dict[int, Span] = {}

    def chat_began(self, turn: Turn, scope: Scope) -> None:
        """See Observer."""
        span, within = self._server_span(scope, turn.request_id, turn.dialect)
        known = span.get_span_context()
        if known.is_valid:
            trace_id.set(trace.format_trace_id(known.trace_id))
        if span.is_recording():
            span.set_attribute(names.CONVERSATION, turn.conversation_id)
        self._chats[id(turn)] = _Chat(span, context.attach(within))

    def first_chunk(self, turn: Turn, seconds: float) -> None:
        """See Observer."""
        chat = self._chats.get(id(turn))
        if chat is not None:
            chat.span.add_event(names.FIRST_CHUNK_SENT)

    def chat_ended(self, end: ChatEnd) -> None:
        """See Observer."""
        chat = self._chats.pop(id(end.turn), None)
        if chat is None:
            return
        span, token = chat
        context.detach(token)
        if span.is_recording():
            span.set_attribute(names.STATUS, end.status)
            span.set_attribute(names.CHUNKS, end.chunks)
            if end.reply_id:
                span.set_attribute(names.REPLY_ID, end.reply_id)
        # A mistake of the client is no error of the server.
        _end(
            span,
            end.outcome,
            failed=end.outcome not in _NO_ERRORS and not 400 <= end.status < 500,
        )

    def chat_refused(self, refusal: Refusal) -> None:
        """See Observer. A request that is for no chat has no span."""
        if not refusal.dialect:
            return
        error = refusal.error
        span, _ = self._server_span(refusal.scope, refusal.request_id, refusal.dialect)
        span.set_attribute(names.STATUS, error.status)
        _end(span, error.code, failed=error.status >= 500)

    def upstream_began(self, call: UpstreamCall) -> Optional[Mapping[str, str]]:
        """See Observer."""
        model = _clean(call.model)
        attributes: Attributes = {
            names.OPERATION: names.CHAT,
            self._provider_name: call.provider,
            names.MODEL: model,
            names.SERVER_ADDRESS: call.address,
            names.SERVER_PORT: call.port,
        }
        known: Any = context.get_value(_AROUND)  # of an earlier try in this task
        around: context.Context = known or context.get_current()
        span = self._tracer.start_span(
            f"{names.CHAT} {model}".rstrip(), around, kind=SpanKind.CLIENT, attributes=attributes
        )
        if span.is_recording():
            span.set_attributes(_of_request(call))
            if self.wants_text:
                span.set_attributes(_input(call.turn))
        self._calls[id(call)] = span
        within = _with(span, around)
        # A span of httpx's is a part of this one. The task of the request ends with the request, so
        # that nobody has to detach it.
        context.attach(context.set_value(_AROUND, around, within))
        headers: Dict[str, str] = {}
        # Baggage is for services of one's own, and may tell about users.
        propagate.inject(headers, baggage.clear(within))
        return headers

    def upstream_ended(self, end: UpstreamEnd) -> None:
        """See Observer."""
        span = self._calls.pop(id(end.call), None)
        if span is None:
            return
        if span.is_recording():
            span.set_attributes(_of_response(end))
            if self.wants_text and end.text:
                span.set_attribute(names.OUTPUT, _messages(("assistant", end.text)))
        _end(span, end.result, failed=end.result not in _NO_ERRORS)

    def _server_span(
        self, scope: Scope, reference: str, dialect: str
    ) -> Tuple[Span, context.Context]:
        """The span of a request, begun, and the context within it.

        It is itself within the span of a tool around the app, if there is one.
        """
        outer = trace.get_current_span().get_span_context()
        parent = context.get_current()
        if not outer.is_valid:
            parent = propagate.extract(_carrier(scope), parent)
        kind = SpanKind.INTERNAL if outer.is_valid and not outer.is_remote else SpanKind.SERVER
        route = _route(scope)
        attributes: Attributes = {
            names.METHOD: scope["method"],
            names.SCHEME: scope.get("scheme", "http"),
            names.PATH: _clean(scope["path"]),
            names.ROUTE: route,
        }
        span = self._tracer.start_span(
            f"{scope['method']} {route}", parent, kind=kind, attributes=attributes
        )
        if span.is_recording():
            span.set_attributes(_of_connection(scope))
            span.set_attribute(names.REQUEST_ID, reference)
            span.set_attribute(names.DIALECT, dialect)
        return span, _with(span, parent)


def _with(span: Span, parent: context.Context) -> context.Context:
    """The context within `span`. Without an SDK it may be none; then that of its parent goes on."""
    if not span.get_span_context().is_valid:
        return parent
    return trace.set_span_in_context(span, parent)


def _end(span: Span, outcome: str, *, failed: bool) -> None:
    if span.is_recording():
        span.set_attribute(names.OUTCOME, outcome)
        if failed:
            span.set_attribute(names.ERROR, outcome)
            span.set_status(Status(StatusCode.ERROR))
    span.end()


def _carrier(scope: Scope) -> Dict[str, str]:
    """The headers of a request that may belong to a trace."""
    fields = {field.encode("latin-1"): field for field in propagate.get_global_textmap().fields}
    carrier: Dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in fields:
            field, text = fields[name], value.decode("latin-1")
            # A list may come in parts (RFC 9110, section 5.3); a traceparent is none.
            parts = field in carrier and name != TRACEPARENT
            carrier[field] = f"{carrier[field]},{text}" if parts else text
    return carrier


def _route(scope: Scope) -> str:
    """The path of the route, below that of the app."""
    root_path: str = scope.get("root_path", "").rstrip("/")
    path: str = getattr(scope.get("route"), "path", None) or scope["path"]
    if not path.startswith(f"{root_path}/"):
        path = root_path + path
    return _clean(path.rstrip("/") or "/")


def _clean(text: str) -> str:
    """`text` of a client as a name. One with half a character would spoil all that is exported."""
    return text[:256].encode("utf-8", "replace").decode()


def _of_connection(scope: Scope) -> Attributes:
    headers = dict(scope["headers"])
    attributes: Attributes = {names.PROTOCOL_VERSION: scope.get("http_version", "1.1")}
    found = _authority(headers.get(b"host", b"").decode("latin-1"))
    if found is not None:
        attributes[names.SERVER_ADDRESS] = found[1].strip("[]")
        if found[2]:
            attributes[names.SERVER_PORT] = int(found[2][:5])
    if scope.get("client"):
        attributes[names.CLIENT_ADDRESS] = scope["client"][0]
    if b"user-agent" in headers:
        attributes[names.USER_AGENT] = headers[b"user-agent"].decode("latin-1")
    return attributes


def _of_request(call: UpstreamCall) -> Attributes:
    attributes: Attributes = {
        names.CONVERSATION: call.turn.conversation_id,
        names.REQUEST_ID: call.turn.request_id,
        names.STREAM: True,
    }
    if call.attempt > 1:
        attributes[names.RESENT] = call.attempt - 1
    for parameter, name in names.PARAMETERS.items():
        value = call.parameters.get(parameter)
        if type(value) in (int, float):
            attributes[name] = value
    return attributes


def _of_response(end: UpstreamEnd) -> Attributes:
    usage = end.usage
    known = {
        names.STATUS: end.status,
        names.FIRST_CHUNK: end.first_chunk,
        names.RESPONSE_ID: end.response_id or None,
        names.RESPONSE_MODEL: end.response_model or None,
        names.FINISH_REASONS: None if end.finish_reason is None else [end.finish_reason],
        names.INPUT_TOKENS: None if usage is None else usage.prompt_tokens,
        names.OUTPUT_TOKENS: None if usage is None else usage.completion_tokens,
    }
    return {name: value for name, value in known.items() if value is not None}


def _input(turn: Turn) -> Attributes:
    earlier = ((message.role, message.content) for message in turn.history)
    attributes = {names.INPUT: _messages(*earlier, ("user", turn.message))}
    if turn.system:
        attributes[names.INSTRUCTIONS] = _json([_text(turn.system)])
    return attributes


def _messages(*messages: Tuple[str, str]) -> str:
    return _json([{"role": role, "parts": [_text(text)]} for role, text in messages])


def _text(text: str) -> Dict[str, str]:
    return {"type": "text", "content": text}


def _json(value: Any) -> str:
    try:
        return _encode(value).decode()
    except UnicodeEncodeError:  # half a character
        return json.dumps(value)

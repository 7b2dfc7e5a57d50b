"""OpenAI's format of chat completions: `POST /v1/chat/completions`, and the list of models.

Clients send all of the conversation, and get chunks, or one document.

- Frames have neither `id:` nor `retry:`: behind one, the package openai of PyPI takes each blank
  line for an event, and fails.
- The `error` of a failure is an object: if it is a text, clients lose the message.
- The first chunk has the role, and one behind the text has the reason: without, some clients fail.
"""

from __future__ import annotations

from os import urandom
from time import time
from typing import Any, Collection, Dict, Mapping, Sequence, Tuple

import msgspec
from msgspec import UNSET

from ..core.frames import Document, Frames, Headers, Part
from ..core.sse import encode, escaped_json
from ..errors import ChatError, NotFound, RequestError
from ..models import Done, Error, Turn
from ..rules import is_identifier
from ..settings import Settings
from .documents import load_object
from .messages import Fields, parameters, read_conversation
from .openai_shapes import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionFailure,
    CompletionReply,
    CompletionRequest,
    CompletionUsage,
)
from .protocol import Dialect, Event, Operation, Request, Resource, all_errors

MAX_MODEL_CHARACTERS = 256
"""The longest name of a model: each chunk carries it."""

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_OWN_FIELDS = ("messages", "stream", "stream_options")
_CREATED = 1_700_000_000  # clients want a time at which the model was made
_CHOICE = b'"choices":[{"index":0,"delta":{'
_REASONS = ("stop", "length", "content_filter", "tool_calls", "function_call")
_STATUS = {error.code: error.status for error in all_errors(ChatError)}


class OpenAI(Dialect):
    """The whole conversation comes with each request."""

    name = "openai"
    path = "/v1/chat/completions"
    carries_history = True
    base = "/v1/"
    exposed_headers = ("X-Should-Retry",)  # their package obeys it in a page, too
    operation = Operation(
        "createChatCompletion",
        "Go on with a conversation, in OpenAI's format",
        "The reply. As a stream: chunks, then `[DONE]`; or an `error` as the last event, if it "
        "failed. If `stream` is not true: one document.",
        CompletionRequest,
        {"model": "omniforge", "messages": [{"role": "user", "content": "Hello"}], "stream": True},
        (
            Event("", CompletionChunk),
            Event("", CompletionFailure),
            Event("[DONE]", None, "The reply is complete."),
        ),
        Completion,
        CompletionFailure,
        {"X-Conversation-ID": "The conversation: 1 to 128 visible ASCII characters."},
    )

    def __init__(self, settings: Settings, parts: Collection[str]) -> None:
        self._takes = frozenset(parts)
        self._model = {
            "id": settings.model_name,
            "object": "model",
            "created": _CREATED,
            "owned_by": "omniforge",
        }

    def decode(self, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
        fields = Fields(load_object(body))
        model = _model(fields)
        stream = _flag(fields, "stream", fields.fields.get("stream"))
        with_usage = _include_usage(fields)
        conversation_id = headers.get(b"x-conversation-id", b"").decode("latin-1")
        if conversation_id and not is_identifier(conversation_id):
            fields.wrong("X-Conversation-ID", "must be 1 to 128 visible ASCII characters")
        read = read_conversation(fields, ("content", ""), self._takes, _ROLES)
        return _OpenAIRequest(
            message=read.message,
            conversation_id=conversation_id or None,
            history=read.history,
            system=read.system,
            parameters=parameters(fields.fields, _OWN_FIELDS),
            parts=read.parts,
            whole=not stream,
            model=model,
            with_usage=with_usage,
        )

    def refusal(self, error: RequestError) -> Tuple[bytes, str]:
        failure = CompletionFailure.of(error, error.status)
        return msgspec.json.encode(failure), "application/json"

    def resources(self) -> Sequence[Resource]:
        return (
            Resource("/v1/models", "listModels", "The models, which is one", self._models),
            Resource("/v1/models/{model:path}", "getModel", "The model of this name", self._named),
        )

    def _models(self, parameters: Mapping[str, str]) -> Dict[str, Any]:
        return {"object": "list", "data": [self._model]}

    def _named(self, parameters: Mapping[str, str]) -> Dict[str, Any]:
        name = parameters["model"]
        if self._model["id"] not in (name, name[:-1] if name.endswith("/") else name):
            raise NotFound(f"There is no model {name!r}; see /v1/models")
        return self._model


dialect = OpenAI


def _model(fields: Fields) -> str:
    model = fields.fields.get("model")
    if not isinstance(model, str):
        fields.wrong_kind("model", model, "a string")
        return ""
    if not 0 < len(model) <= MAX_MODEL_CHARACTERS:
        fields.wrong("model", f"must have 1 to {MAX_MODEL_CHARACTERS} characters")
    return model


def _flag(fields: Fields, name: str, value: object) -> bool:
    if not isinstance(value, (bool, type(None))):
        fields.wrong_kind(name, value, "a boolean")
    return value is True


def _include_usage(fields: Fields) -> bool:
    options = fields.fields.get("stream_options")
    if isinstance(options, dict):
        return _flag(fields, "stream_options.include_usage", options.get("include_usage"))
    if options is not None:
        fields.wrong_kind("stream_options", options, "an object")
    return False


class _OpenAIRequest(Request, frozen=True, gc=False, kw_only=True):
    model: str
    with_usage: bool

    def frames(self, turn: Turn) -> OpenAIFrames:
        return OpenAIFrames(_reply_id(), int(time()), self.model, with_usage=self.with_usage)

    def document(self, turn: Turn) -> OpenAIDocument:
        return OpenAIDocument(_reply_id(), int(time()), self.model)


def _reply_id() -> str:
    """It is new for each reply: some clients replace a message that has the same."""
    return f"chatcmpl-{urandom(16).hex()}"


def _reason(done: Done) -> str:
    """Its reason to end: some clients know no other word than these."""
    return done.finish_reason if done.finish_reason in _REASONS else "stop"


class OpenAIFrames(Frames):
    """Chunks, all with the same id, time and model; then `[DONE]`, or an `error`."""

    def __init__(self, reply_id: str, created: int, model: str, *, with_usage: bool) -> None:
        self._with_usage = with_usage
        self._head = b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,%b' % (
            reply_id.encode(),
            created,
            b'"model":%b,' % escaped_json(model),
        )
        self._tail = b',"usage":null}\n\n' if with_usage else b"}\n\n"
        self._after = b'},"finish_reason":null}]' + self._tail

    def start(self) -> bytes:
        return self._head + _CHOICE + b'"role":"assistant","content":""' + self._after

    def text(self, number: int) -> Part:
        return Part(b"", self._head + _CHOICE + b'"content":', self._after, b"")

    def thought(self, number: int) -> Part:
        return Part(b"", self._head + _CHOICE + b'"reasoning_content":', self._after, b"")

    def done(self, done: Done) -> bytes:
        end = b'},"finish_reason":"%b"}]' % _reason(done).encode()
        frames = self._head + _CHOICE + end + self._tail
        if self._with_usage:
            usage = msgspec.json.encode(CompletionUsage.of(done.usage))
            frames += b'%b"choices":[],"usage":%b}\n\n' % (self._head, usage)
        return frames + b"data: [DONE]\n\n"

    def error(self, error: Error) -> bytes:
        return encode(CompletionFailure.of(error, _STATUS.get(error.code, 500)))


class OpenAIDocument(Document):
    """A completion as one document."""

    def __init__(self, reply_id: str, created: int, model: str) -> None:
        self._id = reply_id
        self._created = created
        self._model = model

    def headers(self, status: int) -> Headers:
        """Their packages ask again after most failures, and a second reply costs as the first.

        They may do so if somebody has asked them to wait: a provider that is busy, or the drain.
        """
        return () if status in (200, 429, 503) else ((b"x-should-retry", b"false"),)

    def done(self, done: Done, text: str, thoughts: str) -> bytes:
        message = CompletionReply("assistant", text, None, thoughts or UNSET)
        choices = [CompletionChoice(0, message, None, _reason(done))]
        usage = CompletionUsage.of(done.usage)
        return msgspec.json.encode(
            Completion(self._id, "chat.completion", self._created, self._model, choices, usage)
        )

    def error(self, error: Error, status: int) -> bytes:
        return msgspec.json.encode(CompletionFailure.of(error, status))

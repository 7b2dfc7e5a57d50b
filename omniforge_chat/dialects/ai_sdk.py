"""The AI SDK's UI message stream, version 1: `POST /api/chat`, as `useChat` and assistant-ui ask.

Clients send all of the conversation. They are strict about the stream: an unknown type, an unknown
reason or a `null` fails the whole chat, and so does a delta before its part was started. A failure
has no code there, so the code is in the metadata of the message, which comes before it. A client
shows the body of a refusal to its user as it is, so that is plain text.
"""

from __future__ import annotations

from functools import lru_cache
from os import urandom
from typing import Annotated, Collection, List, Literal, Mapping, Optional, Tuple, Union

import msgspec
from msgspec import Meta

from ..core.frames import Frames, Headers, Part
from ..core.sse import encode
from ..errors import RequestError
from ..models import Done, Error, Turn, Usage
from ..settings import Settings
from .documents import load_object
from .messages import Fields, parameters, read_conversation
from .protocol import Dialect, Event, Operation, Request, make_part

HEADER = "x-vercel-ai-ui-message-stream"
"""Its value is the version. assistant-ui takes the stream for another one without it."""

_END = b"data: [DONE]\n\n"
"""useChat ignores it; for assistant-ui a stream without it was cut."""

_Reason = Literal["stop", "length", "content-filter", "tool-calls", "other"]
_REASONS: Mapping[str, _Reason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
}
"""The words for the reasons of a Finish; for any further one it is `other`."""

_OWN_FIELDS = frozenset(("id", "threadId", "messages", "system", "trigger", "messageId"))
_HELLO = {"type": "text", "text": "Hello"}


class _Chunk(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel", tag_field="type"
):
    """A chunk of the stream. What is None is left out: clients take no null."""


class UIPart(msgspec.Struct, frozen=True, gc=False):
    """A part of a message. Its other fields depend on its type."""

    type: str
    text: Optional[str] = None


class UIMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a conversation. assistant-ui sends `content` in place of `parts`."""

    role: str
    parts: Optional[List[UIPart]] = None
    content: Union[str, List[UIPart], None] = None


class UIRequest(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A conversation to go on with. The last message must be the user's."""

    messages: List[UIMessage]
    id: Annotated[
        Optional[str], Meta(description="The chat's id: 1 to 128 visible ASCII characters.")
    ] = None
    thread_id: Annotated[Optional[str], Meta(description="The same, as assistant-ui calls it.")] = (
        None
    )
    system: Annotated[Optional[str], Meta(description="Instructions.")] = None
    trigger: Annotated[
        Optional[str], Meta(description="`submit-message` or `regenerate-message`.")
    ] = None


class UIMetadata(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The metadata of a reply. Each event that has some adds to it."""

    conversation_id: str
    usage: Optional[Usage] = None
    finish_reason: Annotated[
        Optional[str], Meta(description="The responder's own word, if there is one.")
    ] = None
    code: Annotated[Optional[str], Meta(description="The code of a failure.")] = None


class UIStart(_Chunk, frozen=True, tag="start"):
    """The reply begins."""

    message_id: str
    message_metadata: UIMetadata


class UITextStart(_Chunk, frozen=True, tag="text-start"):
    """A part of text begins."""

    id: str


class UITextDelta(_Chunk, frozen=True, tag="text-delta"):
    """A piece of that text."""

    id: str
    delta: str


class UITextEnd(_Chunk, frozen=True, tag="text-end"):
    """The part is complete."""

    id: str


class UIReasoningStart(_Chunk, frozen=True, tag="reasoning-start"):
    """A part of thoughts begins."""

    id: str


class UIReasoningDelta(_Chunk, frozen=True, tag="reasoning-delta"):
    """A piece of those thoughts."""

    id: str
    delta: str


class UIReasoningEnd(_Chunk, frozen=True, tag="reasoning-end"):
    """The part is complete."""

    id: str


class UIFinish(_Chunk, frozen=True, tag="finish"):
    """The reply is complete."""

    finish_reason: _Reason
    message_metadata: UIMetadata


class UIMessageMetadata(_Chunk, frozen=True, tag="message-metadata"):
    """The code of a failure, before the failure itself."""

    message_metadata: UIMetadata


class UIError(_Chunk, frozen=True, tag="error"):
    """The reply has failed."""

    error_text: str


_EVENTS = (
    *(UIStart, UITextStart, UITextDelta, UITextEnd),
    *(UIReasoningStart, UIReasoningDelta, UIReasoningEnd),
    *(UIFinish, UIMessageMetadata, UIError),
)


class AISDK(Dialect):
    """The whole conversation comes with each request."""

    name = "ai_sdk"
    path = "/api/chat"
    carries_history = True
    resumable = True
    running_path = "/api/chat/{conversation_id}/stream"
    exposed_headers = ("X-Vercel-AI-UI-Message-Stream",)
    operation = Operation(
        "uiChat",
        "Go on with a conversation, as the AI SDK's useChat asks",
        "The reply, as a UI message stream: `start`, parts of text, then `finish`, or `error` if "
        "it failed; and `[DONE]`. Lines that begin with `:` are heartbeats.",
        UIRequest,
        {"id": "chat-1", "messages": [{"role": "user", "parts": [_HELLO]}]},
        (*(Event("", event) for event in _EVENTS), Event("[DONE]", None, "The stream is over.")),
        refusal=None,
    )

    def __init__(self, settings: Settings, parts: Collection[str]) -> None:
        self._takes = frozenset(parts)

    def decode(self, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
        fields = Fields(load_object(body))
        conversation_id = fields.identifier("id", "threadId")
        system = fields.text("system")
        trigger = fields.text("trigger")
        read = read_conversation(fields, ("parts", "content"), self._takes)
        return _AISDKRequest(
            message=read.message,
            conversation_id=conversation_id,
            regenerate=trigger == "regenerate-message",
            history=read.history,
            system="\n\n".join(filter(None, (system, read.system))),
            parameters=parameters(fields.fields, _OWN_FIELDS),
            parts=read.parts,
        )

    def frames(self, turn: Turn) -> Frames:
        return AISDKFrames(turn.conversation_id, f"msg-{urandom(16).hex()}")

    def refusal(self, error: RequestError) -> Tuple[bytes, str]:
        return error.message.encode(), "text/plain; charset=utf-8"


dialect = AISDK


class _AISDKRequest(Request, frozen=True, gc=False):
    def frames(self, turn: Turn) -> AISDKFrames:
        return AISDKFrames(turn.conversation_id, f"msg-{urandom(16).hex()}")


class AISDKFrames(Frames):
    """Chunks of a UI message stream, for the message with the id `message_id`."""

    headers: Headers = ((HEADER.encode(), b"v1"),)

    def __init__(self, conversation_id: str, message_id: str) -> None:
        self._conversation_id = conversation_id
        self._message_id = message_id

    def start(self) -> bytes:
        return encode(UIStart(self._message_id, UIMetadata(self._conversation_id)))

    def text(self, number: int) -> Part:
        return _text(str(number))

    def thought(self, number: int) -> Part:
        return _thought(str(number))

    def done(self, done: Done) -> bytes:
        reason = done.finish_reason
        metadata = UIMetadata(self._conversation_id, done.usage, reason)
        known: _Reason = "stop" if reason is None else _REASONS.get(reason, "other")
        return encode(UIFinish(known, metadata)) + _END

    def error(self, error: Error) -> bytes:
        metadata = UIMetadata(self._conversation_id, error.usage, code=error.code)
        return b"".join((encode(UIMessageMetadata(metadata)), encode(UIError(error.message)), _END))


@lru_cache(maxsize=64)
def _text(number: str) -> Part:
    return make_part([UITextStart(number)], UITextDelta(number, ""), [UITextEnd(number)])


@lru_cache(maxsize=64)
def _thought(number: str) -> Part:
    delta = UIReasoningDelta(number, "")
    return make_part([UIReasoningStart(number)], delta, [UIReasoningEnd(number)])

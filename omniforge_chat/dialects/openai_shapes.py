"""The Structs of a chat completion in OpenAI's format."""

from __future__ import annotations

from typing import List, Literal, Optional, Union

import msgspec
from msgspec import UNSET, UnsetType

from ..errors import RequestError
from ..models import Error, Usage


class ContentPart(msgspec.Struct, frozen=True, gc=False):
    """A part of a message. Its other fields depend on its type."""

    type: str
    text: Optional[str] = None


class CompletionMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of the conversation. The last one must be the user's."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Union[str, List[ContentPart], None] = None


class StreamOptions(msgspec.Struct, frozen=True, gc=False):
    """`include_usage` asks for one more chunk, which has the usage and no choices."""

    include_usage: Optional[bool] = None


class CompletionRequest(msgspec.Struct, frozen=True, gc=False):
    """A conversation to go on with. Any name of a model is taken, and sent back."""

    model: str
    messages: List[CompletionMessage]
    stream: Optional[bool] = None
    stream_options: Optional[StreamOptions] = None


class CompletionUsage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of a reply. If only their sum is known, all are the completion's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> CompletionUsage:
        """`usage` in this shape."""
        completion, prompt = usage.completion_tokens, usage.prompt_tokens
        if completion is None:
            completion = max(0, usage.tokens - (prompt or 0))
        if prompt is None:
            prompt = max(0, usage.tokens - completion)
        return cls(prompt, completion, max(usage.tokens, prompt + completion))


class Delta(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a chunk adds to the message."""

    role: Optional[Literal["assistant"]] = None
    content: Optional[str] = None
    reasoning_content: Optional[str] = None


class ChunkChoice(msgspec.Struct, frozen=True, gc=False):
    """The only choice of a chunk."""

    index: int
    delta: Delta
    finish_reason: Optional[str]


class CompletionChunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of the reply: its role at first, then its text, then its reason to end."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: List[ChunkChoice]
    usage: Union[CompletionUsage, UnsetType, None] = UNSET


class CompletionReply(msgspec.Struct, frozen=True, gc=False):
    """The message of a reply that is not streamed."""

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: Union[str, UnsetType] = UNSET


class CompletionChoice(msgspec.Struct, frozen=True, gc=False):
    """The only choice of a reply that is not streamed."""

    index: int
    message: CompletionReply
    logprobs: None
    finish_reason: str


class Completion(msgspec.Struct, frozen=True, gc=False):
    """A reply that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: List[CompletionChoice]
    usage: CompletionUsage


class CompletionError(msgspec.Struct, frozen=True, gc=False):
    """A failure: `type` is OpenAI's word for its kind, `code` the service's own."""

    message: str
    type: str
    param: Optional[str]
    code: str


class CompletionFailure(msgspec.Struct, frozen=True, gc=False):
    """A refusal; in a stream, the last event of a reply that failed."""

    error: CompletionError

    @classmethod
    def of(cls, error: Union[Error, RequestError], status: int) -> CompletionFailure:
        """`error` in this shape: its kind follows from the HTTP status."""
        kind = "server_error" if status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, kind)
        return cls(CompletionError(error.message, kind, None, error.code))

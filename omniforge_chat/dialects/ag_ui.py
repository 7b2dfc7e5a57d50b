"""AG-UI, the protocol of CopilotKit: `POST /ag-ui`, and events from RUN_STARTED to RUN_FINISHED.

Clients send all of the conversation. They are strict about the stream: nothing may follow its last
event, so there is no `[DONE]`; a `null` is fatal to some, and an empty delta or an unknown event to
older ones. Those know the events THINKING_*, which were renamed REASONING_*; a client that tells
its `protocolVersion` knows the new names.
"""

from __future__ import annotations

from os import urandom
from typing import Annotated, Any, Collection, List, Literal, Mapping, Optional, Union

import msgspec
from msgspec import Meta

from ..core.frames import Frames, Part
from ..core.sse import encode
from ..models import Done, Error, Turn, Usage
from ..settings import Settings
from .documents import load_object
from .messages import Fields, parameters, read_conversation
from .protocol import Dialect, Event, Operation, Request, make_part

_MOST = 2**53 - 1
"""The largest number that clients take for a count."""


class _Event(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel", tag_field="type"
):
    """An event of a run. What is None is left out: clients take no null."""


class RunPart(msgspec.Struct, frozen=True, gc=False):
    """A part of a message. Its other fields depend on its type."""

    type: str
    text: Optional[str] = None


class RunMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a conversation."""

    role: str
    content: Union[str, List[RunPart], None] = None


class RunAgentInput(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A conversation to go on with. The last message must be the user's."""

    messages: List[RunMessage]
    thread_id: Annotated[
        Optional[str],
        Meta(description="The conversation: 1 to 128 visible ASCII characters."),
    ] = None
    run_id: Annotated[Optional[str], Meta(description="The same for this run.")] = None
    protocol_version: Optional[str] = None
    forwarded_props: Annotated[
        Any, Meta(description="Parameters that the responder may use, as an object.")
    ] = None


class RunOutcome(msgspec.Struct, frozen=True, gc=False):
    """Whether a run came to its end."""

    type: Literal["success"] = "success"


class RunResult(msgspec.Struct, frozen=True, gc=False):
    """The reason why a reply ended, in the responder's word."""

    finish_reason: str


class RunUsage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """The tokens of a reply."""

    input_tokens: Optional[int] = None
    output_tokens: Optional[int] = None
    total_tokens: Optional[int] = None


class RunStarted(_Event, frozen=True, tag="RUN_STARTED"):
    """The run begins."""

    thread_id: str
    run_id: str


class TextMessageStart(_Event, frozen=True, tag="TEXT_MESSAGE_START"):
    """A message begins."""

    message_id: str
    role: Literal["assistant"]


class TextMessageContent(_Event, frozen=True, tag="TEXT_MESSAGE_CONTENT"):
    """A piece of that message."""

    message_id: str
    delta: str


class TextMessageEnd(_Event, frozen=True, tag="TEXT_MESSAGE_END"):
    """The message is complete."""

    message_id: str


class ReasoningStart(_Event, frozen=True, tag="REASONING_START"):
    """Thoughts begin."""

    message_id: str


class ReasoningMessageStart(_Event, frozen=True, tag="REASONING_MESSAGE_START"):
    """A message of thoughts begins."""

    message_id: str
    role: Literal["reasoning"]


class ReasoningMessageContent(_Event, frozen=True, tag="REASONING_MESSAGE_CONTENT"):
    """A piece of those thoughts."""

    message_id: str
    delta: str


class ReasoningMessageEnd(_Event, frozen=True, tag="REASONING_MESSAGE_END"):
    """The message of thoughts is complete."""

    message_id: str


class ReasoningEnd(_Event, frozen=True, tag="REASONING_END"):
    """The thoughts are over."""

    message_id: str


class RunFinished(_Event, frozen=True, tag="RUN_FINISHED"):
    """The reply is complete."""

    thread_id: str
    run_id: str
    outcome: RunOutcome
    usage: List[RunUsage]
    result: Optional[RunResult] = None


class RunError(_Event, frozen=True, tag="RUN_ERROR"):
    """The reply has failed."""

    message: str
    code: str
    usage: Optional[List[RunUsage]] = None


class ThinkingStart(_Event, frozen=True, tag="THINKING_START"):
    """As `REASONING_START`, for a client that tells no `protocolVersion`; so are the next four."""


class ThinkingTextMessageStart(_Event, frozen=True, tag="THINKING_TEXT_MESSAGE_START"):
    """As `REASONING_MESSAGE_START`."""


class ThinkingTextMessageContent(_Event, frozen=True, tag="THINKING_TEXT_MESSAGE_CONTENT"):
    """As `REASONING_MESSAGE_CONTENT`."""

    delta: str


class ThinkingTextMessageEnd(_Event, frozen=True, tag="THINKING_TEXT_MESSAGE_END"):
    """As `REASONING_MESSAGE_END`."""


class ThinkingEnd(_Event, frozen=True, tag="THINKING_END"):
    """As `REASONING_END`."""


_EVENTS = (
    *(RunStarted, TextMessageStart, TextMessageContent, TextMessageEnd),
    *(ReasoningStart, ReasoningMessageStart, ReasoningMessageContent),
    *(ReasoningMessageEnd, ReasoningEnd, ThinkingStart, ThinkingTextMessageStart),
    *(ThinkingTextMessageContent, ThinkingTextMessageEnd, ThinkingEnd, RunFinished, RunError),
)
_EXAMPLE = {
    "threadId": "thread-1",
    "runId": "run-1",
    "protocolVersion": "1.0",
    "messages": [{"id": "1", "role": "user", "content": "Hello"}],
}

_ID = "{id}"
_TEXT = make_part(
    [TextMessageStart(_ID, "assistant")], TextMessageContent(_ID, ""), [TextMessageEnd(_ID)]
)
_THOUGHTS = make_part(
    [ReasoningStart(_ID), ReasoningMessageStart(_ID, "reasoning")],
    ReasoningMessageContent(_ID, ""),
    [ReasoningMessageEnd(_ID), ReasoningEnd(_ID)],
)
_OLD_THOUGHTS = make_part(
    [ThinkingStart(), ThinkingTextMessageStart()],
    ThinkingTextMessageContent(""),
    [ThinkingTextMessageEnd(), ThinkingEnd()],
)


class AGUI(Dialect):
    """The whole conversation comes with each request."""

    name = "ag_ui"
    path = "/ag-ui"
    carries_history = True
    operation = Operation(
        "runAgent",
        "Go on with a conversation, as AG-UI has it",
        "The run: `RUN_STARTED`, messages, then `RUN_FINISHED`, or `RUN_ERROR` if it failed. "
        "Lines that begin with `:` are heartbeats.",
        RunAgentInput,
        _EXAMPLE,
        tuple(Event("", event) for event in _EVENTS),
    )

    def __init__(self, settings: Settings, parts: Collection[str]) -> None:
        self._takes = frozenset(parts)

    def decode(self, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
        fields = Fields(load_object(body))
        thread_id = fields.identifier("threadId")
        run_id = fields.identifier("runId")
        read = read_conversation(fields, ("content", ""), self._takes)
        return _AGUIRequest(
            message=read.message,
            conversation_id=thread_id,
            history=read.history,
            system=read.system,
            parameters=parameters(fields.fields.get("forwardedProps")),
            parts=read.parts,
            run_id=run_id or f"run-{urandom(16).hex()}",
            reasons="protocolVersion" in fields.fields,
        )


dialect = AGUI


class _AGUIRequest(Request, frozen=True, gc=False, kw_only=True):
    run_id: str
    reasons: bool

    def frames(self, turn: Turn) -> AGUIFrames:
        message_id = f"msg-{urandom(16).hex()}"
        return AGUIFrames(turn.conversation_id, self.run_id, message_id, reasons=self.reasons)


class AGUIFrames(Frames):
    """The events of one run; `reasons` tells that the client knows REASONING_*.

    The ids of its messages begin with `message_id`.
    """

    def __init__(self, thread_id: str, run_id: str, message_id: str, *, reasons: bool) -> None:
        self._thread_id = thread_id
        self._run_id = run_id
        self._message_id = message_id
        self._reasons = reasons

    def start(self) -> bytes:
        return encode(RunStarted(self._thread_id, self._run_id))

    def text(self, number: int) -> Part:
        return self._named(_TEXT, number)

    def thought(self, number: int) -> Part:
        return self._named(_THOUGHTS if self._reasons else _OLD_THOUGHTS, number)

    def _named(self, part: Part, number: int) -> Part:
        """`part` with an id of its own, which needs no escape in JSON."""
        name = f"{self._message_id}-{number}".encode()
        return Part(*[frames.replace(_ID.encode(), name) for frames in part])

    def done(self, done: Done) -> bytes:
        result = None if done.finish_reason is None else RunResult(done.finish_reason)
        usage = [_usage(done.usage)]
        return encode(RunFinished(self._thread_id, self._run_id, RunOutcome(), usage, result))

    def error(self, error: Error) -> bytes:
        usage = None if error.usage is None else [_usage(error.usage)]
        return encode(RunError(error.message, error.code, usage))


def _usage(usage: Usage) -> RunUsage:
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.tokens)
    return RunUsage(*(None if count is None else min(count, _MOST) for count in counts))

"""The data that pass through the service: what comes in, what a responder sees, what goes out.

All are frozen msgspec Structs, which the garbage collector need not look at: they hold text and
numbers, and so are in no cycle. Requests are decoded into them, frames are encoded from them, and
the OpenAPI document is made from them. `Optional` stands where `| None` would read better because
msgspec evaluates the annotations, and Python 3.9 has no such operator for types.
"""

from __future__ import annotations

from typing import Annotated, Optional, Tuple, Union

import msgspec
from msgspec import Meta

MAX_MESSAGE_CHARACTERS = 10_000
"""The longest message, in Unicode code points."""

UUID4_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
"""A UUID of version 4 in canonical form: lower case, with hyphens (RFC 9562)."""


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """A message to be answered, and the conversation that it belongs to."""

    # The constraints are written down for the OpenAPI document only: msgspec would stop at the
    # first that is broken, and a client is told of all of them (validation.py).
    message: Annotated[
        str,
        Meta(
            description="What the user says. Not only white space; passed on exactly as sent.",
            extra_json_schema={"minLength": 1, "maxLength": MAX_MESSAGE_CHARACTERS},
        ),
    ]
    conversation_id: Annotated[
        Optional[str],
        Meta(
            description="A UUID of version 4 in canonical form. Without it a new one begins.",
            extra_json_schema={"pattern": UUID4_PATTERN},
        ),
    ] = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """An earlier message of a conversation; `role` is "user" or "assistant".

    `complete` is False for a reply that was cut or abandoned: it is kept as far as it got.
    """

    role: str
    content: str
    complete: bool = True


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One message to be answered: what a responder is called with.

    `message` is the text exactly as the client sent it, `conversation_id` the canonical UUID that
    `done` will carry, `request_id` the reference under which the log speaks of this turn, and
    `history` what was said before in this conversation, oldest first.
    """

    message: str
    conversation_id: str
    request_id: str
    history: Tuple[Message, ...] = ()


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a reply cost in tokens, in all and in parts. Without a responder's own it is estimated.

    A responder may yield it more than once; the last one holds. One with `prompt_tokens` alone is
    that of a reply under way: an estimate of the reply is added, should no other come.
    """

    tokens: Annotated[int, Meta(ge=0, description="In all.")]
    prompt_tokens: Annotated[
        Optional[Annotated[int, Meta(ge=0)]], Meta(description="What was sent to the model.")
    ] = None
    completion_tokens: Annotated[
        Optional[Annotated[int, Meta(ge=0)]], Meta(description="What the model made.")
    ] = None
    estimated: Annotated[
        Optional[bool], Meta(description="True where it was estimated from the length of the text.")
    ] = None


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Why the reply ended. A responder that knows may yield it; `done` carries the last one.

    `stop` for a natural end, `length` for a limit on its length, `content_filter` for a refusal;
    other words are passed on as they are.
    """

    reason: str


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of the reply."""

    content: str


class Done(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The reply is complete."""

    conversation_id: str
    usage: Usage
    finish_reason: Annotated[
        Optional[str],
        Meta(description="`stop`, `length`, `content_filter` or another, where it is known."),
    ] = None


class Error(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What went wrong. In a stream it is the last event, with the usage of what was produced."""

    code: str
    message: str
    usage: Optional[Usage] = None


Event = Union[Chunk, Done, Error]

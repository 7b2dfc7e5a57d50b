"""The data of the service: the request, the turn that a responder gets, and the events.

All are frozen msgspec Structs. Requests are decoded into them, frames are encoded from them, and
the OpenAPI document is made from them. They hold text and numbers and so are in no cycle: the
garbage collector skips them (`gc=False`). msgspec evaluates the annotations, so they say `Optional`
and not `| None`, which Python 3.9 does not have.
"""

from __future__ import annotations

from datetime import datetime
from os import urandom
from typing import (
    Annotated,
    Any,
    Dict,
    FrozenSet,
    Mapping,
    NoReturn,
    Optional,
    Tuple,
    Type,
    Union,
)

import msgspec
from msgspec import Meta

MAX_MESSAGE_CHARACTERS = 10_000
"""The longest message, in Unicode code points."""

UUID4_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
"""A UUID of version 4 in canonical form: lower case, with hyphens (RFC 9562)."""

_VARIANT = dict(zip("0123456789abcdef", 4 * "89ab"))


def new_conversation_id() -> str:
    """A random UUID of version 4, in half the time of the module `uuid` (tests.bench.tricks)."""
    # Not of `random`: whoever knows it may read the conversation, so nobody must guess it.
    digits = urandom(16).hex()
    first, second, third, last = digits[:8], digits[8:12], digits[13:16], digits[20:]
    return f"{first}-{second}-4{third}-{_VARIANT[digits[16]]}{digits[17:20]}-{last}"


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """A message to answer, and its conversation."""

    # These limits are for the OpenAPI document only. msgspec would stop at the first broken one;
    # `dialects/native.py` tells the client all of them.
    message: Annotated[
        str,
        Meta(
            description="The user's text. Not only white space; passed on exactly as sent.",
            extra_json_schema={"minLength": 1, "maxLength": MAX_MESSAGE_CHARACTERS},
        ),
    ]
    conversation_id: Annotated[
        Optional[str],
        Meta(
            description="A UUID of version 4 in canonical form. Without it a conversation begins.",
            extra_json_schema={"pattern": UUID4_PATTERN},
        ),
    ] = None
    regenerate: Annotated[
        Optional[bool],
        Meta(
            description=(
                "Answer the last message of the conversation once more: its turn is replaced. The "
                "message is sent again with it."
            )
        ),
    ] = None
    edits: Annotated[
        Optional[str],
        Meta(
            description=(
                "The last message of the conversation, which `message` corrects: its turn is "
                "replaced."
            )
        ),
    ] = None
    on_disconnect: Annotated[
        Union[
            Annotated[str, Meta(extra_json_schema={"enum": ["cancel", "continue"]})],
            Annotated[float, Meta(extra_json_schema={"minimum": 0})],
            None,
        ],
        Meta(
            description=(
                "If the connection breaks: `cancel` ends the reply, `continue` lets it end by "
                "itself, and a number is the seconds in which somebody has to come back for it. "
                "It needs a service that keeps replies."
            ),
        ),
    ] = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """An earlier message of a conversation. `role` is "user" or "assistant".

    `complete` is False for a reply that was cut: `content` is then its beginning. `shortened` is
    True if the message was too long: `content` is then its beginning, ` [...] ` and its end.
    """

    role: str
    content: str
    complete: bool = True
    shortened: bool = False


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a conversation as a store has it, with the time at which it was stored."""

    role: str
    content: str
    complete: bool
    time: datetime


class Parameters(Dict[str, Any]):
    """Fields of a request, for reading only.

    They are a dict, so that a Turn can be pickled for another process, copied, sent as JSON, and
    used as a key.
    """

    def __reduce__(self) -> Tuple[Type[Parameters], Tuple[Dict[str, Any]]]:
        return type(self), (dict(self),)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self))  # the names, as a value may be a list

    def _refuse(self, *args: object, **fields: object) -> NoReturn:
        raise TypeError("the parameters of a request cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class Rate(msgspec.Struct, frozen=True, gc=False):
    """So many chats in so many seconds. They may come all at once, if none came before."""

    chats: int
    seconds: int

    def __str__(self) -> str:
        units = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}
        return f"{self.chats}/{units.get(self.seconds, f'{self.seconds}s')}"


class Allowance(msgspec.Struct, frozen=True, gc=False):
    """How much one caller may have. None is no limit.

    - `rate`: chats per time.
    - `streams`: chats that are being answered at once, and as many readers of kept replies.
    - `tokens_per_day`: tokens of prompts and replies, as their usage tells, from midnight UTC on.
    """

    rate: Optional[Rate] = None
    streams: Optional[int] = None
    tokens_per_day: Optional[int] = None


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks. Conversations, replies, keys of requests and limits belong to the caller.

    - `id`: tells callers apart; 1 to 256 printable characters.
    - `may`: what the caller is allowed to do. "chat" is chats, and what is kept of one's own;
      "metrics" is the page of metrics. Other words are a host's own.
    - `allowance`: how much, in place of what the settings say; None leaves it to them.
    - `claims`: what else is known, such as the claims of a token; read-only.

    Raises ValueError for an `id` that is none.
    """

    id: str
    may: FrozenSet[str] = frozenset({"chat"})
    allowance: Optional[Allowance] = None
    claims: Mapping[str, Any] = Parameters()

    def __post_init__(self) -> None:
        if not (isinstance(self.id, str) and 0 < len(self.id) <= 256 and self.id.isprintable()):
            raise ValueError("the id of a Caller must be 1 to 256 printable characters")


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One message to answer: the argument of a responder.

    - `message`: the text exactly as the client sent it.
    - `conversation_id`: a canonical UUID, or the client's own id of 1 to 128 visible ASCII
      characters.
    - `request_id`: the reference of this request in the log.
    - `history`: the earlier messages of the conversation, oldest first. They come from the store,
      or from the request if its format carries them.
    - `remembered`: whether the service remembers this conversation.
    - `system`: the instructions that came with the request, or "".
    - `dialect`: the name of the request's wire format, as in `Settings.dialects`.
    - `parameters`: its other fields, such as `temperature` and `model`, as the client sent them.
      Nothing has checked them; read-only.
    - `parts`: the parts of the message that are no text, in the form of their format. There are
      some only if the responder declares that it takes their type.
    - `caller`: who asks, or None if nobody is asked who they are.
    """

    message: str
    conversation_id: str
    request_id: str
    history: Tuple[Message, ...] = ()
    remembered: bool = False
    system: str = ""
    dialect: str = "native"
    parameters: Mapping[str, Any] = Parameters()
    parts: Tuple[Mapping[str, Any], ...] = ()
    caller: Optional[Caller] = None


class Thought(msgspec.Struct, frozen=True, gc=False):
    """A piece of the model's thoughts. A responder may yield it, before the reply or between.

    Clients get it only if the setting `thoughts` is on. It is never remembered.
    """

    text: str

    def __len__(self) -> int:
        """Its number of characters."""
        return len(self.text)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The tokens of a reply, in all and in parts. A responder may yield it; the last one counts.

    If it never does, the service estimates `tokens`. If the last one has `prompt_tokens` and no
    `completion_tokens`, an estimate of the reply is added.
    """

    tokens: Annotated[int, Meta(ge=0, description="In all.")]
    prompt_tokens: Annotated[
        Optional[Annotated[int, Meta(ge=0)]], Meta(description="Sent to the model.")
    ] = None
    completion_tokens: Annotated[
        Optional[Annotated[int, Meta(ge=0)]], Meta(description="Made by the model.")
    ] = None
    estimated: Annotated[
        Optional[bool], Meta(description="True if estimated from the length of the text.")
    ] = None


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The reason why the reply ended. A responder may yield it; `done` carries the last one.

    `stop` is a natural end, `length` a limit on the length, `content_filter` a refusal. Other words
    are passed on as they are.
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
        Meta(description="`stop`, `length`, `content_filter` or another word, if known."),
    ] = None
    history: Annotated[
        Optional[Annotated[int, Meta(ge=0)]],
        Meta(description="The earlier messages that the reply knew, if they are remembered."),
    ] = None
    remembered: Annotated[
        Optional[bool],
        Meta(
            description=(
                "False if this turn is not stored, because the store of conversations is out of "
                "reach."
            )
        ),
    ] = None


class Error(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A failure. In a stream it is the last event, with the usage of the text before it."""

    code: str
    message: str
    usage: Optional[Usage] = None


Event = Union[Chunk, Done, Error]

"""The protocol that a wire format follows, for whoever adds one. No I/O."""

from __future__ import annotations

from types import MappingProxyType
from typing import (
    Any,
    Callable,
    Collection,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Type,
    TypeVar,
)

import msgspec

from ..core.frames import Document, Frames, Part
from ..core.sse import encode
from ..errors import ChatError, RequestError
from ..models import Error, Message, Parameters, Turn
from ..settings import Settings

E = TypeVar("E", bound=ChatError)

_ERRORS = ChatError.__module__.rpartition(".")[0]


class Request(msgspec.Struct, frozen=True, gc=False):
    """A decoded request; each format derives its own.

    The fields are those of Turn. `conversation_id` is None if the client has none. `history` is
    None if the format does not carry it. `regenerate` and `edits` tell the turn of a store that
    this one replaces: see ChatRequest. `whole` asks for a `document` in place of a stream. `grace`
    is the number of seconds in which somebody has to come back for the reply after a disconnect,
    0.0 to cancel it at once and `math.inf` to let it end by itself; None leaves it to the settings.
    """

    message: str
    conversation_id: Optional[str] = None
    regenerate: bool = False
    edits: Optional[str] = None
    grace: Optional[float] = None
    history: Optional[Tuple[Message, ...]] = None
    system: str = ""
    parameters: Mapping[str, Any] = Parameters()
    parts: Tuple[Mapping[str, Any], ...] = ()
    whole: bool = False

    def frames(self, turn: Turn) -> Frames:
        """The frames of the reply to this request, which has become `turn`."""
        raise NotImplementedError

    def document(self, turn: Turn) -> Document:
        """The document of the reply, if the request is `whole`."""
        raise NotImplementedError


def make_part(
    opening: Sequence[msgspec.Struct], piece: msgspec.Struct, closing: Sequence[msgspec.Struct]
) -> Part:
    """The part whose frames are these events, without names. Only the text of `piece` is ""."""
    before, after = encode(piece).split(b'""')
    return Part(b"".join(map(encode, opening)), before, after, b"".join(map(encode, closing)))


class Event(NamedTuple):
    """An event of a stream, for the OpenAPI document: its name, if it has one, and its data."""

    name: str
    data: Optional[type]
    description: str = ""


class Operation(NamedTuple):
    """A chat as the OpenAPI document shows it: its Structs, and sentences."""

    id: str
    summary: str
    description: str
    request: Type[msgspec.Struct]
    example: Mapping[str, Any]
    events: Sequence[Event]
    document: Optional[Type[msgspec.Struct]] = None
    refusal: Optional[Type[msgspec.Struct]] = Error
    """The Struct of a refusal; None if that is plain text."""
    headers: Mapping[str, str] = MappingProxyType({})
    """The headers that it reads besides X-Request-ID, each with its description."""
    numbered: bool = False
    """Whether the events of a kept reply have ids."""


class Resource(NamedTuple):
    """A document that clients of a format ask for by GET.

    `path` may have parameters in Starlette's notation; `answer` gets them and returns what is sent
    as JSON. It raises RequestError if there is nothing.
    """

    path: str
    id: str
    summary: str
    answer: Callable[[Mapping[str, str]], object]


class Dialect(Protocol):
    """A wire format. One object is made for each app.

    `parts` are the types of parts of a message, besides text, that the responder takes.
    """

    name: str
    path: str
    carries_history: bool
    """Whether clients send the earlier messages: then no store is asked for them."""
    operation: Operation
    base: str = ""
    """Further paths that begin with it are this format's, too: their errors have its form."""
    resumable: bool = False
    """Whether its clients come back for the rest of a reply after their connection broke."""
    running_path: str = ""
    """The path at which they ask for the reply that is running in a conversation, if they do. It
    has a parameter `conversation_id`."""
    exposed_headers: Sequence[str] = ()
    """The response headers that pages of other origins have to see."""

    def __init__(self, settings: Settings, parts: Collection[str]) -> None: ...

    def decode(self, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
        """The request in `body`.

        Raises InvalidBody if that is no JSON object in UTF-8, and InvalidFields with the names of
        all wrong fields.
        """

    def frames(self, turn: Turn) -> Frames:
        """The frames of a reply that such a client comes back for."""
        raise TypeError(f"no client of {self.name} comes back")

    def refusal(self, error: RequestError) -> Tuple[bytes, str]:
        """The body of a refusal, and its media type."""
        return refusal(error)

    def resources(self) -> Sequence[Resource]:
        """The documents that this format has besides the chat."""
        return ()


def refusal(error: RequestError) -> Tuple[bytes, str]:
    """The one shape of errors, unless a format has another."""
    return msgspec.json.encode(Error(error.code, error.message)), "application/json"


def all_errors(base: Type[E]) -> Iterator[Type[E]]:
    """The classes of `errors` that have a code of their own: `base` and those below it."""
    if "code" in vars(base):
        yield base
    for child in base.__subclasses__():
        if child.__module__.startswith(f"{_ERRORS}."):
            yield from all_errors(child)

"""The responder that the wire formats have in common: a turn goes out, its reply comes in."""

from __future__ import annotations

from typing import (
    Any,
    AsyncGenerator,
    ClassVar,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import msgspec

from ...errors import UpstreamError
from ...logs import logger
from ...models import Finish, Message, Thought, Turn, Usage
from ...observer import upstream_observers
from ...settings import Settings
from .attempts import UNWATCHED, Attempts, WatchedAttempts
from .client import ProviderClient
from .errors import UNREADABLE, Failure, reported
from .options import ProviderOptions
from .parameters import LIMITS, allowed
from .reader import FrameReader
from .stream import ProviderStream
from .substitutes import Substitutes
from .thoughts import ThoughtSplitter, without_thoughts

_Self = TypeVar("_Self", bound="ProviderResponder")


class ProviderResponder:
    """Relays the stream of a model. The keywords are those of its `options_type`.

    For a new wire format, derive from it, from ProviderOptions and from FrameReader. Raises
    SettingsError for an option that cannot be used.
    """

    options_type: ClassVar[Type[ProviderOptions]]

    def __init__(self, **options: Any) -> None:
        self._options = self.options_type(**options)
        self.base_url = self._options.url
        self.model = self._options.known_model
        self._fields = {**self.fields(), **(self._options.extra_body or {}), "stream": True}
        for doubt in self._options.doubts:
            logger.warning("%s; the provider will refuse this one, unless it is your own", doubt)
        substitutes = Substitutes(self.substitutes())
        self._client = ProviderClient(self._options, self.path(), self.headers(), substitutes)

    @classmethod
    def from_env(
        cls: Type[_Self], environ: Mapping[str, str], *, limits: Optional[Settings] = None
    ) -> _Self:
        """Make the responder that `environ` describes, as ProviderOptions.from_env reads it."""
        return cls(**msgspec.structs.asdict(cls.options_type.from_env(environ, limits)))

    def path(self) -> str:
        """The part of the address that follows the base URL."""
        raise NotImplementedError

    def headers(self) -> Dict[str, str]:
        """The headers that the provider asks for."""
        raise NotImplementedError

    def fields(self) -> Dict[str, Any]:
        """The fields of every request."""
        fields = msgspec.structs.asdict(self._options)
        fields["model"] = self.model
        sent = ("model", "temperature", "max_tokens")
        return {name: fields[name] for name in sent if fields[name] is not None}

    def limit_field(self) -> str:
        """The provider's name for the longest reply."""
        return "max_tokens"

    def parameters(self, given: Dict[str, Any]) -> Dict[str, Any]:
        """The parameters of a client, which were checked, as fields of this format."""
        return given

    def request(self, turn: Turn) -> Dict[str, Any]:
        """The fields of the request for `turn`.

        What the operator lets clients send replaces the operator's own, which bounds the length.
        Raises InvalidParameter for values that make no sense.
        """
        options = self._options
        given = allowed(options.allow_parameters, turn.parameters)
        if given.get("model") == options.model_name:
            del given["model"]
        limits = [given.pop(name) for name in LIMITS if name in given]
        fields = {**self._fields, **self.parameters(given)}
        if limits:
            own = (options.max_tokens, *map((options.extra_body or {}).get, LIMITS))
            limits += (limit for limit in own if type(limit) in (int, float))
            fields[self.limit_field()] = min(limits)
        fields["messages"] = self.messages(turn)
        return fields

    def substitutes(self) -> Dict[str, Optional[str]]:
        """The fields that some servers do not know, and the names to try then; None is none."""
        return {}

    def messages(self, turn: Turn) -> List[Dict[str, str]]:
        """The conversation as providers take it: the user begins, roles alternate, none is empty.

        A model does not get its earlier thoughts. If a reply left nothing behind, the user's
        messages around it become one.
        """
        merged: List[Tuple[str, List[str]]] = []
        for message in (*turn.history, Message("user", turn.message)):
            role, content = message.role, message.content
            if role == "assistant":
                content = without_thoughts(content)
            if not content.strip():
                continue
            if merged and merged[-1][0] == role:
                merged[-1][1].append(content)
            elif merged or role == "user":
                merged.append((role, [content]))
        return [{"role": role, "content": "\n\n".join(parts)} for role, parts in merged]

    def reader(self) -> FrameReader:
        """A reader of one reply."""
        raise NotImplementedError

    def _splitter(self) -> Optional[ThoughtSplitter]:
        """What takes the thoughts out of the text of one reply; None if they stay there."""
        hidden = self._options.hide_thoughts
        return None if hidden == "off" else ThoughtSplitter(implied=hidden == "implied")

    def _attempts(self, turn: Turn) -> Attempts:
        """Its requests for one turn, told to the observers of the app in which it answers."""
        observers = upstream_observers.get()
        if observers is None:
            return UNWATCHED
        return WatchedAttempts(observers, self._options.prefix.lower(), self.base_url, turn)

    async def __call__(
        self, turn: Turn
    ) -> AsyncGenerator[Union[str, Thought, Usage, Finish], None]:
        """Relay the reply to `turn`: its text and thoughts, its cost once that is known, its end.

        Raises UpstreamError, or a class derived from it, if the reply is not complete, and
        InvalidParameter before the provider is asked.
        """
        with self._attempts(turn) as attempts:
            stream = await self._client.open(self.request(turn), turn.request_id, attempts)
            try:
                reader = self.reader()
                feed, close = attempts.reading(stream, reader)
                splitter = self._splitter()
                usage: Optional[Usage] = None
                while not (reader.ended or reader.unreadable):
                    data = await stream.read()
                    # The text of one read goes out as one piece, before a failure that it brings.
                    text = feed(data) if data else close()
                    if reader.earlier or not (splitter is None or splitter.over):
                        for item in _parts((*reader.taken(), text), splitter):
                            yield item
                    elif text:
                        yield text
                    if reader.usage is not usage:
                        usage = reader.usage
                        assert usage is not None
                        yield usage
                    if reader.progressed:
                        reader.progressed = False
                        if reader.complete:
                            stream.finish(settled=reader.settled)
                        else:
                            stream.progressed()
                    elif not data or stream.overdue():
                        break
                failure = self._failure(reader, stream)
                if failure is not None:
                    raise stream.fail(failure)
                for last in _ending(reader, splitter):
                    yield last
                if reader.ended:
                    await stream.drain()
            finally:
                await stream.aclose()

    def _failure(self, reader: FrameReader, stream: ProviderStream) -> Optional[Failure]:
        """Why the reply is not complete; None if it is."""
        if reader.problem is not None:
            return reported(reader.problem, self._client.redact)
        if reader.ended or reader.complete:
            return None
        if reader.unreadable:
            return Failure(UpstreamError, UNREADABLE, reader.unreadable)
        return stream.cut(self._client.redact) if reader.finish_reason is None else None

    async def aclose(self) -> None:
        """Close the connections of the running event loop. You can use it again afterwards."""
        await self._client.aclose()

    def __repr__(self) -> str:
        return self._options.shown_as(type(self).__name__)


def instructions(own: Optional[str], turn: Turn) -> str:
    """The operator's instructions, and behind a blank line those of the request."""
    return "\n\n".join(text for text in (own, turn.system) if text and text.strip())


_Part = Union[str, Thought]


def _parts(items: Sequence[_Part], splitter: Optional[ThoughtSplitter]) -> Iterator[_Part]:
    """The items, with the thoughts that are in the text apart if there is a splitter."""
    for item in items:
        if isinstance(item, str) and splitter is not None:
            yield from _split(*splitter.feed(item))
        elif item:
            yield item


def _split(thought: str, text: str) -> Iterator[_Part]:
    if thought:
        yield Thought(thought)
    if text:
        yield text


def _ending(
    reader: FrameReader, splitter: Optional[ThoughtSplitter]
) -> Iterator[Union[_Part, Finish]]:
    """What is left to say at the end of a reply that is complete."""
    if splitter is not None:
        yield from _split(*splitter.close())
    if reader.finish_reason is not None:
        yield Finish(reader.finish_reason)

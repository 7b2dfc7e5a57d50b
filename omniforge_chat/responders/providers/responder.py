"""What the responders that relay a model have in common: their arguments, and the relaying."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    AsyncGenerator,
    ClassVar,
    Dict,
    List,
    Mapping,
    Optional,
    Type,
    TypeVar,
    Union,
)
from urllib.parse import urlencode

import msgspec

from ... import settings
from ...core.sse import Decoder, Frame, FrameTooLarge
from ...errors import SettingsError, UpstreamError
from ...models import Finish, Message, Turn, Usage
from ...settings import Settings
from . import options
from .client import Upstream
from .errors import Failure, reported

if TYPE_CHECKING:
    import httpx

MAX_FRAME_BYTES = 1024 * 1024
"""The largest frame that is read. Frames of text have some hundred bytes."""

MAX_CONNECTIONS = 1000
GIVEN_CONNECTIONS = 100
"""Replies that are read at once; the latter with a client of one's own, as httpx has it."""

_encode = msgspec.json.Encoder().encode
_Self = TypeVar("_Self", bound="ModelResponder")


class Reply:
    """What a provider's frames have come to so far. Each wire format has its own.

    `progressed` tells that a frame has come that shows the model at work, be it on a thought or a
    tool; a ping does not.
    """

    __slots__ = ("ended", "finish_reason", "problem", "progressed", "usage")

    def __init__(self) -> None:
        self.ended = False
        self.progressed = False
        self.finish_reason: Optional[str] = None
        self.usage: Optional[Usage] = None
        self.problem: object = None

    def read(self, frame: Frame) -> str:
        """The text that `frame` adds. Sets `problem`, as the provider put it, for an error frame.

        Raises msgspec.DecodeError for data that are no JSON, or not as the format has them.
        """
        raise NotImplementedError

    def fail(self, problem: object) -> None:
        """Note an error that the provider reported; nothing after it counts."""
        self.problem = problem or "no reason was given"
        self.ended = True

    def count(
        self, prompt: Optional[int], completion: Optional[int], total: Optional[int] = None
    ) -> None:
        """Note what was counted, where it is news, and makes sense."""
        known = [tokens for tokens in (prompt, completion, total) if tokens is not None]
        if known and min(known) >= 0:
            if total is None:
                total = sum(known)
            usage = Usage(total, prompt, completion)
            if usage != self.usage:
                self.usage = usage


def as_count(count: object) -> Optional[int]:
    """A count of tokens as a whole number, if it is one; an odd count fails no reply."""
    if isinstance(count, float) and count.is_integer():
        return int(count)
    return count if type(count) is int else None


def _sooner(limit: Optional[float]) -> Optional[float]:
    """A limit that comes a little before the service's own, so that the silence has a name."""
    return None if limit is None else limit - min(10.0, limit / 6)


class ModelResponder:
    """A responder that relays the stream of a model.

    Every argument has a keyword. `base_url` is the address up to the part that names the API;
    `api_key` may be missing where a server asks for none. `system_prompt` goes before the
    conversation. `temperature` and `max_tokens` are sent where they are given; any other field of
    the request goes into `extra_body`, and more headers and query parameters into `extra_headers`
    and `extra_query` (which, unlike headers, others log: no secrets there).

    The time limits are in seconds: `connect_timeout` for one connection, `first_chunk_timeout`
    until the provider's first frame, all waiting and trying again included, and `idle_timeout` from
    one frame to the next; either is off with None. Comments and pings are no frames. As long as
    these are shorter than the limits of Settings, a client is told that it was the provider who was
    silent. At most `max_connections` replies are read at once (1,000, or 100 with a `client`); more
    wait their turn within `first_chunk_timeout`.

    A `client` of one's own is used as it is, and never closed. Its limit of connections, which is
    100 unless it was told otherwise, must not be below `max_connections`. Over HTTP/2 a reply that
    nobody reads any more does not end the provider's work: httpcore does not tell it.

    Raises SettingsError for an argument that is of no use.
    """

    default_url: ClassVar[str]
    default_model: ClassVar[str]
    default_max_tokens: ClassVar[Optional[int]] = None
    variables: ClassVar[str]
    """What the names of the provider's own environment variables begin with."""

    def __init__(
        self,
        *,
        base_url: Optional[str] = None,
        api_key: Optional[str] = None,
        model: Optional[str] = None,
        system_prompt: Optional[str] = None,
        temperature: Optional[float] = None,
        max_tokens: Optional[int] = None,
        extra_body: Optional[Mapping[str, Any]] = None,
        extra_headers: Optional[Mapping[str, str]] = None,
        extra_query: Optional[Mapping[str, str]] = None,
        first_chunk_timeout: Optional[float] = 50.0,
        idle_timeout: Optional[float] = 50.0,
        connect_timeout: float = 5.0,
        max_connections: Optional[int] = None,
        client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        for name, value in (
            ("base_url", base_url),
            ("api_key", api_key),
            ("model", model),
            ("system_prompt", system_prompt),
        ):
            options.text(name, value)
        options.client(client)
        self.base_url = options.url(base_url or self.default_url)
        self._is_default_url = self.base_url == self.default_url
        # Another server has models of its own, and may well have only one, which needs no name.
        self.model = model or (self.default_model if self._is_default_url else None)
        self.system_prompt = system_prompt
        if api_key:
            options.key(api_key)
        elif self._is_default_url and client is None and not extra_headers:
            raise SettingsError("api_key", api_key, f"a key, as {self.base_url} asks for one")
        if temperature is not None:
            options.temperature(temperature)
        if max_tokens is not None:
            settings.check("max_tokens", max_tokens, settings.AT_LEAST_ONE)
        if max_connections is None:
            max_connections = MAX_CONNECTIONS if client is None else GIVEN_CONNECTIONS
        settings.check("max_connections", max_connections, settings.AT_LEAST_ONE)
        settings.check("connect_timeout", connect_timeout, settings.SECONDS)
        options.headers(extra_headers or {})
        options.query(extra_query or {})
        self._has_key = bool(api_key)
        sent: Dict[str, str] = {}
        if client is not None:
            sent = {**client.params, **client.headers}
        sent.update(extra_headers or {})
        fields = self.fields(temperature, max_tokens or self.default_max_tokens)
        try:
            fields.update(extra_body or {})
            self._fields = {**fields, "stream": True}
            _encode(self._fields)
        except (TypeError, ValueError, RecursionError) as error:
            expected = f"fields and values that JSON can have; {error}"
            raise SettingsError("extra_body", "***", expected) from None
        query = f"?{urlencode(extra_query)}" if extra_query else ""
        given = {name.lower() for name in extra_headers or {}}
        ours = {
            "Accept": "text/event-stream",
            # A compressor may hold a token back until it has more to compress.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            **self.headers(api_key),
        }
        self._upstream = Upstream(
            self.base_url + self.path() + query,
            headers={
                **{name: value for name, value in ours.items() if name.lower() not in given},
                **(extra_headers or {}),
            },
            secrets=options.secrets(api_key, sent),
            first_chunk_timeout=options.seconds_or_off("first_chunk_timeout", first_chunk_timeout),
            idle_timeout=options.seconds_or_off("idle_timeout", idle_timeout),
            connect_timeout=connect_timeout,
            max_connections=max_connections,
            client=client,
        )

    @classmethod
    def from_env(
        cls: Type[_Self], environ: Mapping[str, str], *, limits: Optional[Settings] = None
    ) -> _Self:
        """The responder that `environ` describes; an empty variable counts as absent.

        `*_API_KEY`, `*_BASE_URL` and `*_MODEL` with the provider's name, and CHAT_SYSTEM_PROMPT,
        CHAT_TEMPERATURE and CHAT_MAX_TOKENS. The time limits follow those of `limits`, or those
        that Settings reads there. Raises SettingsError, which names the variable.
        """
        names = {
            "api_key": f"{cls.variables}_API_KEY",
            "base_url": f"{cls.variables}_BASE_URL",
            "model": f"{cls.variables}_MODEL",
            "system_prompt": "CHAT_SYSTEM_PROMPT",
            "temperature": "CHAT_TEMPERATURE",
            "max_tokens": "CHAT_MAX_TOKENS",
        }
        values: Dict[str, Any] = {}
        for field in ("first_chunk_timeout", "idle_timeout"):
            limit = getattr(limits, field) if limits else settings.read(field, environ)
            values[field] = _sooner(limit)
        for argument, name in names.items():
            text = environ.get(name, "").strip()
            if text:
                values[argument] = text
        for argument, read, expected in (
            ("temperature", float, "a number of at least 0"),
            ("max_tokens", int, "a whole number of at least 1"),
        ):
            if argument in values:
                try:
                    values[argument] = read(values[argument])
                except ValueError:
                    raise SettingsError(names[argument], values[argument], expected) from None
        try:
            return cls(**values)
        except SettingsError as error:
            name = names.get(error.name, error.name)
            raise SettingsError(name, error.value, error.expected) from None

    def path(self) -> str:
        """The part of the address that follows the base URL."""
        raise NotImplementedError

    def headers(self, api_key: Optional[str]) -> Dict[str, str]:
        """The headers that the provider asks for."""
        raise NotImplementedError

    def fields(self, temperature: Optional[float], max_tokens: Optional[int]) -> Dict[str, Any]:
        """The fields of every request."""
        fields = {"model": self.model, "temperature": temperature, "max_tokens": max_tokens}
        return {name: value for name, value in fields.items() if value is not None}

    def messages(self, turn: Turn) -> List[Dict[str, str]]:
        """The conversation as providers take it: the user begins, roles alternate, none is empty.

        Where a reply left nothing behind, two messages of the user's become one.
        """
        messages: List[Dict[str, str]] = []
        for message in (*turn.history, Message("user", turn.message)):
            if not message.content.strip():
                continue
            if messages and messages[-1]["role"] == message.role:
                messages[-1]["content"] += f"\n\n{message.content}"
            elif messages or message.role == "user":
                messages.append({"role": message.role, "content": message.content})
        return messages

    def reply(self) -> Reply:
        """A reader of one reply."""
        raise NotImplementedError

    async def __call__(self, turn: Turn) -> AsyncGenerator[Union[str, Usage, Finish], None]:
        """Relay the reply to `turn`: its text, what it cost as soon as that is known, its end.

        Raises UpstreamError, or what is derived from it, for every reply that was not completed.
        """
        body = _encode({**self._fields, "messages": self.messages(turn)})
        exchange = await self._upstream.open(body, turn.request_id)
        try:
            reply = self.reply()
            read = reply.read
            feed = Decoder(max_frame_bytes=MAX_FRAME_BYTES).feed
            usage: Optional[Usage] = None
            finishing = unreadable = False
            failure: Optional[Failure] = None
            while not (reply.ended or unreadable):
                data = await exchange.read()
                if not data:
                    break
                text = ""
                try:
                    for frame in feed(data):
                        text += read(frame)
                        if reply.ended:
                            break
                except (msgspec.DecodeError, FrameTooLarge, RecursionError) as error:
                    unreadable = True
                    if reply.finish_reason is None:
                        message = "The model provider sent something that cannot be read"
                        detail = f"{type(error).__name__}: {error}"
                        failure = Failure(UpstreamError, message, detail)
                # All that one read brought goes out as one, and before anything that went wrong.
                if text:
                    yield text
                if reply.usage is not usage:
                    usage = reply.usage
                    assert usage is not None
                    yield usage
                if reply.finish_reason is not None:
                    # Some repeat it, with text to come: that text has its time again.
                    if text or not finishing:
                        finishing = True
                        exchange.finish()
                elif reply.progressed:
                    reply.progressed = False
                    exchange.progressed()
            if reply.problem is not None:
                failure = reported(reply.problem, self._upstream.strike)
            elif failure is None and not reply.ended and not finishing:
                failure = exchange.cut()
            if failure is not None:
                raise exchange.fail(failure)
            if reply.finish_reason is not None:
                yield Finish(reply.finish_reason)
            if reply.ended:
                await exchange.drain()
        finally:
            await exchange.aclose()

    async def aclose(self) -> None:
        """Close the connections of the running event loop. It can be used again afterwards."""
        await self._upstream.aclose()

    def __repr__(self) -> str:
        key = ", api_key='***'" if self._has_key else ""
        return f"{type(self).__name__}(base_url={self.base_url!r}, model={self.model!r}{key})"

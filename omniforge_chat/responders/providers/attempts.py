"""The requests to a provider for one turn, as observers are told of them.

Each that begins ends once: refused, tried again, cancelled, or read to its end.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type
from urllib.parse import urlsplit

from msgspec.structs import replace

from ...errors import ChatError
from ...logs import logger
from ...models import Turn
from ...observer import Observers, UpstreamCall, UpstreamEnd, tell
from ...rules import SettingsError
from .extras import check_headers
from .reader import FrameReader
from .stream import ProviderStream

Reading = Tuple[Callable[[bytes], str], Callable[[], str]]

_NO_PARAMETERS = {"messages", "model", "stream", "system"}

_PORTS = {"http": 80, "https": 443}


class Attempts:
    """Requests that nobody watches."""

    def __enter__(self) -> Attempts:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Nothing more is read."""

    def begin(self, fields: Mapping[str, Any]) -> Mapping[str, str]:
        """A request with these fields is about to be sent: further headers for it."""
        return {}

    def responded(self, status: int) -> None:
        """The head of an answer has come."""

    def failed(self, error: ChatError) -> None:
        """The request has ended without a reply; perhaps another one follows."""

    def reading(self, stream: ProviderStream, reader: FrameReader) -> Reading:
        """The reply comes in `stream`: how to read it, the `feed` and `close` of `reader`."""
        return reader.feed, reader.close


UNWATCHED = Attempts()


class WatchedAttempts(Attempts):
    """Requests of which `observers` are told. What is still under way ends with the `with`."""

    def __init__(self, observers: Observers, provider: str, url: str, turn: Turn) -> None:
        self._observers = observers
        self._provider = provider
        self._url = urlsplit(url)
        self._turn = turn
        self._number = 0
        self._call: Optional[UpstreamCall] = None
        self._began = 0.0
        self._status: Optional[int] = None
        self._stream: Optional[ProviderStream] = None
        self._reader: Optional[FrameReader] = None
        self._texts: List[str] = []

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        complete = self._reader is not None and self._reader.ended
        if error is None or (complete and not isinstance(error, ChatError)):
            self._end("done")
        elif isinstance(error, ChatError):
            self._end(error.code)
        elif isinstance(error, (GeneratorExit, asyncio.CancelledError)):
            self._end("cancelled")
        else:
            self._end(ChatError.code)

    def begin(self, fields: Mapping[str, Any]) -> Mapping[str, str]:
        self._number += 1
        self._status = None
        self._began = monotonic()
        self._call = call = UpstreamCall(
            self._provider,
            str(fields.get("model", "")),
            self._url.hostname or "",
            self._url.port or _PORTS.get(self._url.scheme, 0),
            self._number,
            {name: value for name, value in fields.items() if name not in _NO_PARAMETERS},
            self._turn,
        )
        headers: Dict[str, str] = {}
        for further in tell(self._observers.upstream_began, call):
            headers.update(_sendable(further))
        return headers

    def responded(self, status: int) -> None:
        self._status = status

    def failed(self, error: ChatError) -> None:
        self._end(error.code)

    def reading(self, stream: ProviderStream, reader: FrameReader) -> Reading:
        self._stream, self._reader = stream, reader
        if not self._observers.want_text:
            return reader.feed, reader.close
        return lambda data: self._noted(reader.feed(data)), lambda: self._noted(reader.close())

    def _noted(self, text: str) -> str:
        """This text, noted behind what the reader has found before it."""
        assert self._reader is not None
        self._texts.extend(item for item in self._reader.earlier if isinstance(item, str))
        self._texts.append(text)
        return text

    def _end(self, result: str) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        end = UpstreamEnd(call, result, self._status, monotonic() - self._began)
        stream, reader = self._stream, self._reader
        if stream is not None and reader is not None:
            end = replace(
                end,
                first_chunk=None if stream.first_at is None else stream.first_at - self._began,
                usage=reader.usage,
                finish_reason=reader.finish_reason,
                response_id=reader.response_id,
                response_model=reader.response_model,
                text="".join(self._texts),
            )
        tell(self._observers.upstream_ended, end)


def _sendable(further: Any) -> Mapping[str, str]:
    """The headers of an observer; none if they would break the request."""
    try:
        if further:
            check_headers(further)
    except SettingsError:
        logger.exception("an observer failed: upstream_began, whose headers cannot be sent")
        return {}
    return further or {}

"""uvicorn's protocols for HTTP, made careful."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from array import array
from functools import partial
from typing import Any, List, Optional, Tuple, Type

if sys.platform == "linux":
    import fcntl
    import termios

import h11
from starlette.types import Receive, Scope, Send

from ..errors import HeadersTooLarge
from ..http.routes import error_response
from ..request_id import request_id
from ..stream.response import ABORT, UNSENT

with contextlib.suppress(ImportError):  # the extra `fast` brings it
    import httptools


READ_AHEAD_BYTES = 4096
"""How much of the requests that follow is read while one is answered."""


HEAD_BYTES = 64 * 1024
"""How large the head of a request may be, and likewise its trailers and the head of a chunk."""


HEAD_FIELDS = 100
"""How many fields a head may have, and likewise the trailers."""


class _Abortable:
    """An app whose streams can drop their connection, and see what the client takes of it.

    (The extensions `omniforge_chat.abort` and `omniforge_chat.unsent`.) ASGI has no way to say
    either. Without the first, a connection whose client does not read is only closed when the
    client has read what was sent before, which may be never.
    """

    def __init__(self, app: Any, transport: Any) -> None:
        self._app = app
        # No method of the protocol's, nor of this: a scope that holds it would be held by it.
        self._extensions = {ABORT: transport.abort, UNSENT: partial(_unsent, transport)}
        self.receive: Optional[Receive] = None
        """That of the request which is being answered, or was last."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        # A plain function, and a bound method: nothing is added to the way of a frame.
        scope.setdefault("extensions", {}).update(self._extensions)
        self.receive = receive
        return self._app(scope, receive, send)


def _unsent(transport: Any) -> int:
    """How many bytes were handed over that the client has not taken yet."""
    count: int = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return count
    in_kernel = array("i", [0])  # SIOCOUTQ, tcp(7)
    with contextlib.suppress(OSError, ValueError):  # it is closed
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, in_kernel)
    return count + in_kernel[0]


def _too_large(target: bytes, fields: Any) -> bool:
    size = len(target) + sum(len(name) + len(value) + 4 for name, value in fields)
    return size > HEAD_BYTES or len(fields) > HEAD_FIELDS


class _H11Parser(h11.Connection):
    """h11's parser, with limits also for a head that comes at once."""

    too_large = False

    def __init__(self, protocol: Any) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    def next_event(self) -> Any:
        try:
            event = super().next_event()
            if isinstance(event, (h11.Request, h11.EndOfMessage)) and _too_large(
                getattr(event, "target", b""), event.headers
            ):
                raise h11.RemoteProtocolError("too large", error_status_hint=431)
        except h11.RemoteProtocolError as error:
            self.too_large = error.error_status_hint == 431
            raise
        return event


def _httptools_parser() -> Type[Any]:
    """httptools' parser, with limits, and for a server that takes no upgrade.

    llhttp takes the body of a request with an upgrade for the new protocol. So that head is parsed
    again, without its Upgrade, and the body after it.
    """

    class Parser(httptools.HttpRequestParser):
        too_large = False
        _unparsed = 0  # bytes in the reads since the one with the last step
        _step_read = _read = 0  # bytes of that read, and of this one

        def __init__(self, protocol: Any) -> None:
            self._protocol = protocol
            self._begin()

        def _begin(self) -> None:
            super().__init__(self._protocol)
            with contextlib.suppress(AttributeError):  # httptools < 0.6.3
                self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

        def step(self) -> None:
            """Count anew: a head has ended, or a piece of a body."""
            self._unparsed, self._step_read = 0, self._read

        def check_head(self, target: bytes = b"") -> None:
            """Raise an error for a head, or trailers, beyond the limits."""
            fields = self._protocol.headers
            most = self._step_read + self._unparsed
            if len(fields) > HEAD_FIELDS or (most > HEAD_BYTES and _too_large(target, fields)):
                self.too_large = True
                raise httptools.HttpParserError("too large")

        def feed_data(self, data: Any) -> None:
            self._read = len(data)
            self._unparsed += self._read
            self._feed(data)
            if self._unparsed > HEAD_BYTES or len(self._protocol.headers) > HEAD_FIELDS:
                self.too_large = True
                raise httptools.HttpParserError("too large")

        def _feed(self, data: Any) -> None:
            while data:
                try:
                    super().feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                if self.get_method() == b"CONNECT":  # an upgrade by itself
                    raise httptools.HttpParserError("CONNECT")
                head = self._protocol.head_without_upgrade()
                self._begin()
                super().feed_data(head)

    return Parser


def _careful(protocol: Type[Any], head_seconds: float) -> Type[Any]:
    """`protocol`, one of uvicorn's for HTTP, with its app made abortable, and with more cares.

    A connection whose request has not begun after `head_seconds` is closed. That the client leaves
    is noticed also where it has sent its next request already (pipelining, RFC 9112, section
    9.3.2). An upgrade is ignored (RFC 9110, section 7.8), a head that is too large is refused, and
    nothing is answered within another answer.
    """
    parser_class, parser = _H11Parser, "conn"
    if hasattr(protocol, "on_headers_complete"):
        parser_class, parser = _httptools_parser(), "parser"

    class CarefulProtocol(protocol):  # type: ignore[misc]  # a base known at run time only
        app: Any
        _head_timer: Optional[asyncio.TimerHandle] = None
        _answered: Any = None  # the request during which what is `_ahead` has come
        _ahead = 0  # bytes

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.headers: List[Tuple[bytes, bytes]] = []
            setattr(self, parser, parser_class(self))

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app = _Abortable(self.app, transport)
            self._head_timer = self.loop.call_later(head_seconds, self._no_head)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                if self._head_timer is None:
                    self._head_timer = self.loop.call_later(head_seconds, self._no_head)
            elif self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            if self.flow.read_paused:
                self._read_on(len(data))

        def _should_upgrade(self) -> bool:
            return False

        def head_without_upgrade(self) -> bytes:
            """The head that was just read (httptools)."""
            line = b"%s %s HTTP/%s" % (
                self.parser.get_method(),
                self.url,
                self.parser.get_http_version().encode(),
            )
            fields = [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
            return b"\r\n".join([line, *fields, b"", b""])

        def on_headers_complete(self) -> None:
            self.parser.check_head(self.url)
            if not self.parser.should_upgrade():  # or this head comes once more
                super().on_headers_complete()
                self.headers = []  # trailers are no part of the head (RFC 9110, section 6.5.1)
                self.parser.step()

        def on_body(self, body: bytes) -> None:
            self.parser.step()
            super().on_body(body)

        def on_message_complete(self) -> None:
            if not self.parser.should_upgrade():
                self.parser.check_head()
                super().on_message_complete()
                self.parser.step()

        def send_400_response(self, msg: str) -> None:
            """Refuse all that follows on this connection."""
            request = self._request()
            if (
                request is not None
                and request.response_started
                and (request.more_body or not request.response_complete)
            ):
                self.transport.close()  # there is no room for an answer
            elif getattr(self, parser).too_large:
                self._send_431()
            else:
                super().send_400_response(msg)
            self._disconnect()

        def _send_431(self) -> None:
            error = HeadersTooLarge(
                f"The head of a request is limited to {HEAD_BYTES} bytes and {HEAD_FIELDS} fields"
            )
            response = error_response(
                error,
                {
                    "Cache-Control": "no-store",
                    "Connection": "close",
                    "X-Request-ID": request_id({"headers": ()}),
                },
            )
            fields = [*self.server_state.default_headers, *response.raw_headers]
            lines = [b"%s: %s" % field for field in fields]
            status = b"HTTP/1.1 431 Request Header Fields Too Large"
            self.transport.write(b"\r\n".join([status, *lines, b"", response.body]))
            self.transport.close()

        def _request(self) -> Any:
            """The one that is being answered, or was last."""
            return getattr(self.app.receive, "__self__", None)

        def _disconnect(self) -> None:
            # With httptools uvicorn tells only the request that it has read last of this, which may
            # be one that waits for its turn.
            for request in (self._request(), self.cycle):
                if request is not None and not request.response_complete:
                    request.disconnected = True
                    request.message_event.set()

        def _no_head(self) -> None:
            self.transport.close()

        def _read_on(self, size: int) -> None:
            """Go on reading, or the end of the connection would not be seen, but not for ever."""
            request = self._request()
            if request is None or request.response_complete or request.more_body:
                return  # it is its own body that comes faster than it is read
            if request is not self._answered:
                self._answered, self._ahead = request, 0
            self._ahead += size
            if self._ahead <= READ_AHEAD_BYTES:
                self.flow.resume_reading()

        def connection_lost(self, exc: Optional[Exception]) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
            self._disconnect()
            super().connection_lost(exc)
            self._unset_keepalive_if_required()  # uvicorn leaves it where there is an `exc`
            # A request that waits for its turn holds this, and would be held by it. One that is
            # being answered lets go of it at its end.
            self.cycle = self._answered = None
            getattr(self, "pipeline", []).clear()

    return CarefulProtocol

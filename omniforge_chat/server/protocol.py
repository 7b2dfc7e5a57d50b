"""What our server adds to uvicorn's protocols for HTTP/1.1, whatever parses for them.

uvicorn has one protocol object for each connection. Ours also

- refuses a request that breaks one of the `rules`, and tells the client why;
- runs each request in a context of its own;
- closes a connection whose next request does not begin in time;
- notices that the client leaves even if it has sent its next request already;
- lets a stream drop its connection and see how much the client has not taken yet;
- ignores an upgrade (RFC 9110, section 7.8), and answers nothing within another answer.

All of it hangs on attributes of uvicorn's that its documentation does not name. UVICORN lists them,
`tests/unit/test_uvicorn_contract.py` looks for them, and `pyproject.toml` bounds the version.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from array import array
from functools import partial
from http import HTTPStatus
from typing import Any, Callable, Optional

if sys.platform == "linux":
    import fcntl
    import termios

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl

from ..errors import BadRequest, RequestError
from ..http import error_response
from ..request_id import request_id
from ..stream.response import ABORT, UNSENT
from .access_log import AccessLog, log_refusal
from .descriptors import Crowd
from .http10 import Http10Send
from .rules import LINGER_BYTES, LINGER_SECONDS, READ_AHEAD_BYTES

_PROTOCOL = (
    "connection_made connection_lost data_received on_response_complete send_400_response "
    "_should_upgrade _unset_keepalive_if_required app client cycle flow loop server_state "
    "transport "
)
UVICORN = {
    "Config": "http_protocol_class is_ssl load loaded_app",
    "FlowControl": "read_paused resume_reading",
    "H11Protocol": _PROTOCOL + "conn",
    "HttpToolsProtocol": _PROTOCOL
    + "expect_100_continue headers on_headers_complete on_body on_message_complete parser "
    "pipeline url",
    "ProxyHeadersMiddleware": "trusted_hosts",
    # `receive` is the app's, as a bound method: its `__self__` is the request.
    "RequestResponseCycle": "chunked_encoding disconnected expected_content_length keep_alive "
    "message_event more_body receive response_complete response_started",
    "Server": "capture_signals config handle_exit run should_exit shutdown started startup",
    "ServerState": "default_headers",
}
"""The attributes of uvicorn's classes that this room relies on."""


class _AppWithExtensions:
    """An app whose streams can drop their connection, and see what the client takes of it.

    ASGI has no way to say either, so these are extensions of our own: `omniforge_chat.abort` and
    `omniforge_chat.unsent`. Without the first, a connection whose client does not read is only
    closed when the client has read what was sent before, which may be never.
    """

    def __init__(self, app: Any, transport: Any) -> None:
        self._app = app
        # No method of the protocol, nor of this: a scope that holds it would be held by it.
        self._extensions = {ABORT: transport.abort, UNSENT: partial(_unsent_bytes, transport)}
        self.receive: Optional[Receive] = None
        """That of the request which is being answered, or was answered last."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        # A plain function, and a bound method: nothing is added to the way of a frame.
        if "extensions" in scope:
            scope["extensions"].update(self._extensions)
        else:
            scope["extensions"] = self._extensions.copy()
        self.receive = receive
        if scope["http_version"] == "1.0":
            send = Http10Send(receive, send)
        return self._app(scope, receive, send)


class _Flow(FlowControl):
    """uvicorn's, but what it does is done in the context of the connection, and not of a request.

    A request resumes the reading, and asyncio then reads on in its context (python/cpython#140947).
    So the next request would see the context variables that this one has set.
    """

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._context = contextvars.copy_context()

    def run(self, function: Callable[[], None]) -> None:
        """Call `function` in a copy of the connection's context."""
        self._context.copy().run(function)

    def resume_reading(self) -> None:
        if self.read_paused:
            self.run(super().resume_reading)


def _unsent_bytes(transport: Any) -> int:
    """How many bytes were handed over that the client has not taken yet."""
    count: int = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return count
    in_kernel = array("i", [0])  # SIOCOUTQ, tcp(7)
    with contextlib.suppress(OSError, ValueError):  # it is closed
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, in_kernel)
    return count + in_kernel[0]


class CheckedProtocol(asyncio.Protocol):
    """The part that both parsers share, to be a base before one of uvicorn's protocols."""

    app: Any
    client: Any
    cycle: Any  # the request that was read last
    flow: Any  # a _Flow
    loop: asyncio.AbstractEventLoop
    server_state: Any
    transport: Any
    _unset_keepalive_if_required: Callable[[], None]
    _parse: Callable[[bytes], None]
    """`data_received` of uvicorn's, by a name of its own, as `super()` takes longer."""

    _refused = False
    _lingered = 0  # bytes
    _close_timer: Optional[asyncio.TimerHandle] = None
    _ahead_of: Any = None  # the request during which what is `_ahead` has come
    _ahead = 0  # bytes

    def __init__(
        self, *args: Any, head_timeout: float, crowd: Crowd, logs_access: bool, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout = head_timeout
        self._crowd = crowd
        self._logs_access = logs_access

    def refusal(self) -> Optional[RequestError]:
        """The error of the rule that was broken; None for what the parser does not understand."""
        raise NotImplementedError

    # What the event loop calls

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._close_after(self._head_timeout)
        app = self._crowd.admit(self, transport, self.app)
        self.app = _AppWithExtensions(AccessLog(app) if self._logs_access else app, transport)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.transport.close()
            return
        self._parse(data)
        if self._refused:
            return
        if self.cycle is None or self.cycle.response_complete:
            if self._close_timer is None:
                self._close_after(self._head_timeout)
        elif self._close_timer is not None:
            self._stop_close_timer()
        if self.flow.read_paused:
            self._read_ahead(len(data))

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._stop_close_timer()
        self._crowd.leave(self.transport)
        self._tell_of_disconnect()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it if there is an `exc`
        self._forget_requests()

    # What uvicorn calls

    def _should_upgrade(self) -> bool:
        return False

    def send_400_response(self, msg: str) -> None:
        """Refuse all that follows on this connection."""
        request = self._request()
        if (
            request is not None
            and request.response_started
            and (request.more_body or not request.response_complete)
        ):
            self.transport.close()  # there is no room for an answer
        else:
            self._refuse(self.refusal() or BadRequest("The request is not valid HTTP/1.1"))
        self._tell_of_disconnect()

    # Our own

    def _close_after(self, seconds: float) -> None:
        self._close_timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_close_timer(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None

    def is_idle(self) -> bool:
        """Whether a request was answered, and nothing has come since."""
        return self.cycle is not None and self.cycle.response_complete and not self._close_timer

    def give_way(self) -> None:
        """Close, and say why if nothing was said yet."""
        if not self._refused and (self.cycle is None or not self.cycle.response_started):
            self._write_refusal(self._crowd.full())
        self._tell_of_disconnect()
        self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        """Answer with `error`, and close as the client can bear it (RFC 9112, section 9.6).

        If the client is still sending, a close at once would reset the connection, and the answer
        might be lost. So only our side ends, and what still comes is dropped for a while.
        """
        self._write_refusal(error)
        if not self.transport.is_closing():  # as it is if the write has failed
            with contextlib.suppress(OSError, NotImplementedError):  # it is lost; it has TLS
                self.transport.write_eof()
            self.flow.resume_reading()
            self._close_after(LINGER_SECONDS)

    def _write_refusal(self, error: RequestError) -> None:
        reference = request_id({"headers": ()})
        self._crowd.refusals.count(error, reference)
        response = error_response(error, {"Connection": "close", "X-Request-ID": reference})
        if self._logs_access:
            log_refusal(error.status, len(response.body), self.client, reference)
        status = b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())
        fields = [*self.server_state.default_headers, *response.raw_headers]
        lines = [b"%s: %s" % field for field in fields]
        self.transport.write(b"\r\n".join([status, *lines, b"", response.body]))
        self._refused = True
        self._stop_close_timer()

    def _request(self) -> Any:
        """The request that is being answered, or was answered last."""
        return getattr(self.app.receive, "__self__", None)

    def _tell_of_disconnect(self) -> None:
        # With httptools uvicorn tells only the request that it has read last of this, which may be
        # one that waits for its turn.
        for request in (self._request(), self.cycle):
            if request is not None and not request.response_complete:
                request.disconnected = True
                request.message_event.set()

    def _read_ahead(self, size: int) -> None:
        """Go on reading, or the end of the connection would not be seen, but not for ever."""
        request = self._request()
        if request is None or request.response_complete or request.more_body:
            return  # it is its own body that comes faster than it is read
        if request is not self._ahead_of:
            self._ahead_of, self._ahead = request, 0
        self._ahead += size
        if self._ahead <= READ_AHEAD_BYTES:
            self.flow.resume_reading()

    def _forget_requests(self) -> None:
        """Break the cycle between this and a request that waits for its turn.

        One that is being answered lets go of this at its end.
        """
        self.cycle = self._ahead_of = None

"""A line in the log for each request, when its response has ended."""

from __future__ import annotations

import time
from typing import Any, Awaitable, Optional

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..http.access import caller_of
from ..logs import TRACEPARENT, request_ended, trace_id, trace_id_in
from ..request_id import HEADER, request_id


class AccessLog:
    """An app whose requests are logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        try:
            await self._app(scope, receive, request.send)
        except BaseException:
            request.failed()
            raise
        finally:
            request.log()


class _Request:
    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._began = time.monotonic()
        self._status: Optional[int] = None  # if the client has left before
        self._bytes = 0
        self._trace = ""
        self._reference = ""
        self._has_body = scope["method"] != "HEAD"
        self._logged = False

    def send(self, message: Message) -> Awaitable[None]:
        # A plain function: a coroutine function would add a frame to each event.
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._trace = trace_id.get()  # here, as a layer of the app may have its own context
            for name, value in message.get("headers", ()):
                if name.lower() == HEADER:
                    self._reference = value.decode("latin-1")
        elif message["type"] == "http.response.body":
            if self._has_body:
                self._bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.log()
        return self._send(message)

    def failed(self) -> None:
        """The app has raised something: if nothing was sent, the server answers."""
        if self._status is None:
            self._status = 500

    def log(self) -> None:
        """Log the request, once."""
        if self._logged:
            return
        self._logged = True
        scope = self._scope
        trace = self._trace or trace_id_in(dict(scope["headers"]).get(TRACEPARENT))
        caller = caller_of(scope)
        request_ended(
            scope["method"],
            _one_word(scope["raw_path"].decode("latin-1")),
            self._status,
            self._bytes,
            int(10_000 * (time.monotonic() - self._began) + 0.5) / 10,
            _address(scope.get("client")),
            self._reference or request_id(scope),
            caller="" if caller is None else caller.id,
            trace=trace,
        )


def log_refusal(status: int, size: int, client: Any, reference: str) -> None:
    """Log a request that was refused before any app: nothing in its head is known for sure."""
    request_ended(None, None, status, size, None, _address(client), reference)


def _address(client: Any) -> Optional[str]:
    # One that was forwarded may be any text.
    return _one_word(client[0]) if client else None


def _one_word(text: str) -> str:
    """`text` of a client, which can end neither a line nor a field there."""
    return "".join(c if c.isprintable() and c != " " else "?" for c in text)

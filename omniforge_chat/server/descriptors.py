"""File descriptors: each connection takes one, and the process has a limit (`ulimit -n`).

The kernel gives a new connection the lowest number that is free. So the number of a connection
tells how many descriptors are in use at least, whoever has them: streams, idle connections, the
connections to a model, files of a responder. From RESERVE below the limit on, a connection gets
answers to probes only, and there are at most PLACES of these: the next one takes the place of the
oldest. The rest is for connections that an event loop has accepted before anybody could count them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import socket
import sys
import time
from typing import Any, Dict, Iterable, Optional

if sys.platform != "win32":
    import resource

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import Overloaded
from ..http.responses import error_response
from ..logs import logger
from ..observer import Observers
from ..request_id import request_id
from ..settings import Settings, variable
from ..stream.refusals import Refusals
from .rules import LINGER_SECONDS

RESERVE = 24
"""How many descriptors below the limit are not for streams."""

PLACES = 12
"""How many connections wait for answers to probes at once."""

ACCEPTED_AT_ONCE = 4
"""How many connections asyncio accepts before it does anything else."""

_OF_THE_LOOP = 12
"""How many descriptors an event loop opens for itself."""

_MACOS_LIMIT = 10_240
"""macOS says that there is no hard limit, and allows no more than this (OPEN_MAX)."""

_PROBES = ("/health", "/ready")
_MESSAGE = "Too many open connections for the limit of open files"


def descriptor_limit() -> float:
    """The number of descriptors that the process may open."""
    if sys.platform == "win32":
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> None:
    """Let the process open as many descriptors as it may allow itself."""
    if sys.platform != "win32":
        before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for limit in (hard, _MACOS_LIMIT):
            with contextlib.suppress(OSError, ValueError):
                if limit == hard or limit > before:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                    return


def fit_streams(settings: Settings, listener: socket.socket, per_stream: int) -> Settings:
    """`settings` with as many streams as there are descriptors for, which the log tells.

    `per_stream` is the number of descriptors that a stream takes. Raises OSError if there are none.
    """
    limit = descriptor_limit()
    if limit == math.inf:
        return settings
    lowest = os.dup(listener.fileno())
    os.close(lowest)
    fitting = int(limit - RESERVE - _OF_THE_LOOP - lowest) // per_stream
    if fitting >= settings.max_streams:
        return settings
    if fitting < 1:
        raise OSError(f"the limit of open files is {limit:.0f} (ulimit -n)")
    name = variable("max_streams")
    text = "%s is lowered from %d to %d, as the limit of open files is %d (ulimit -n)"
    logger.warning(text, name, settings.max_streams, fitting, limit)
    return msgspec.structs.replace(settings, max_streams=fitting)


class Crowd:
    """The connections of a server that are too many for the limit of descriptors.

    `refusals` counts them, and the requests that the server itself refuses; `observers` hear of
    both.
    """

    def __init__(self, limit: float, observers: Optional[Observers] = None) -> None:
        self._refused_from = limit - RESERVE
        self.refusals = Refusals(observers)
        self._places: Dict[Any, Any] = {}  # transport to protocol, the oldest first
        self._swept_at = -math.inf

    def admit(self, protocol: Any, transport: Any, app: ASGIApp) -> ASGIApp:
        """The app for a new connection: `app`, or one that answers nothing but probes."""
        connection = transport.get_extra_info("socket")
        number = -1 if connection is None else connection.fileno()
        if number < self._refused_from:
            return app
        self._close_idle(protocol.connections)
        self._places[transport] = protocol
        if len(self._places) > PLACES:
            self._places.pop(next(iter(self._places))).give_way()
        return _ProbesOnly(app, self)

    def leave(self, transport: Any) -> None:
        """Note that a connection is lost."""
        self._places.pop(transport, None)

    def run_out(self) -> None:
        """Note that a connection could not even be accepted."""
        self.refuse(request_id({"headers": ()}))

    async def check(self) -> None:
        """Note it if no connection can be accepted now: libuv resets them, and tells nobody."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.run_out()

    def close(self) -> None:
        """Leave no timer behind."""
        self.refusals.close()

    def full(self) -> Overloaded:
        """The error that answers a connection for which there is no room."""
        return Overloaded(_MESSAGE)

    def refuse(self, reference: str) -> Overloaded:
        """Count a refused connection, and return the error that answers it."""
        error = self.full()
        self.refusals.count(error, reference)
        return error

    def _close_idle(self, connections: Iterable[Any]) -> None:
        """Make room: what has been answered, and has not asked again, can connect again."""
        now = time.monotonic()
        if now >= self._swept_at + 1.0:
            self._swept_at = now
            for protocol in list(connections):
                if protocol.is_idle():
                    protocol.transport.close()


class _ProbesOnly:
    def __init__(self, app: ASGIApp, crowd: Crowd) -> None:
        self._app = app
        self._crowd = crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if scope["path"].endswith(_PROBES):
            await self._app(scope, receive, send_and_close)
            return
        reference = request_id(scope)
        response = error_response(self._crowd.refuse(reference), {"X-Request-ID": reference})
        # If a body is not read, the close resets the connection, and the answer may be lost.
        if receive.__self__.more_body:  # type: ignore[attr-defined]  # uvicorn's request
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_rest_of_body(receive), LINGER_SECONDS)
        await response(scope, receive, send_and_close)


async def _rest_of_body(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass

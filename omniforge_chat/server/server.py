"""Running the service in this process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional, Type

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..app import ChatApp
from ..logs import log_config, logger
from ..settings import Settings
from .h11_protocol import CheckedH11Protocol
from .protocol import CheckedProtocol
from .signals import STOP_SIGNALS, end_process, handle_signals

try:
    from .httptools_protocol import CheckedHttptoolsProtocol
except ModuleNotFoundError as missing:
    if missing.name != "httptools":  # which the extra `fast` brings
        raise

BACKLOG = 2048
"""How many connections may wait to be accepted."""


class Server(uvicorn.Server):
    """uvicorn, except for its end: it drains its app first, and a stop by signal is a success.

    The first SIGINT or SIGTERM starts the drain. A second one ends the drain now: each open stream
    still gets its last frame.
    """

    def __init__(self, config: uvicorn.Config, app: ChatApp) -> None:
        super().__init__(config)
        self._app = app
        self._drains: List[asyncio.Task[None]] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._stops: Dict[str, int] = {}
        self._closed = False

    async def startup(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Begin to serve, and log the address."""
        await super().startup(sockets=sockets)
        if not self.started:
            return
        for listener in sockets or ():
            logger.info("serving on %s", _url(listener))
        self._loop = asyncio.get_running_loop()
        self._start_drains()

    async def shutdown(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Close everything."""
        await super().shutdown(sockets)
        self._closed = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving, unless the process ignores them."""
        heard = [n for n in STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        with handle_signals(heard, self.handle_exit, lambda: "signal" in self._stops):
            yield

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        """Begin the drain, or hurry it; or end the process, if all is closed already."""
        if self._closed:
            end_process(sig, frame)
        self.stop("signal")

    def stop(self, source: str) -> None:
        """Begin the drain, or hurry it if this `source` asks again. You may call it in any thread.

        If a signal goes to all processes of a service, as systemd and a terminal send it, a worker
        hears of the same stop from two sources. That is no second stop.
        """
        self._stops[source] = self._stops.get(source, 0) + 1
        # uvicorn 0.39 leaves at once and closes nothing if it is told during its startup. So
        # `startup` looks at the stops that came until then.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_drains)

    def _start_drains(self) -> None:
        wanted = min(2, max(self._stops.values(), default=0))
        while len(self._drains) < wanted:
            hurry = bool(self._drains)
            logger.info("draining: %s streams are open%s", self._app.open_streams, " (now)" * hurry)
            drain = self._drain(0.0 if hurry else None)
            self._drains.append(asyncio.get_running_loop().create_task(drain))

    async def _drain(self, seconds: Optional[float]) -> None:
        await self._app.drain(seconds)
        self.should_exit = True


def listen(host: str, port: int, *, send_timeout: Optional[float] = None) -> socket.socket:
    """A listening socket, made before anything else, so that a taken port is one clear error.

    If you pass `send_timeout`, in seconds, the kernel drops a client that takes nothing for twice
    as long. Raises OSError.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux" and send_timeout is not None:
            # Accepted connections inherit it. It also holds when all of a reply was handed over
            # (RFC 5482). Twice, so that the stream's own limit acts first and the log says
            # "stalled".
            milliseconds = min(math.ceil(2 * 1000 * send_timeout), 2**31 - 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.bind(address)
        # From here on nobody else can have the address, and a client that connects waits.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: ChatApp, listener: socket.socket, settings: Settings) -> bool:
    """Serve `app` on `listener` until a signal stops it; False if it cannot start."""
    server = make_server(
        app, settings, log_config=log_config(settings.log_level, settings.log_format)
    )
    server.run(sockets=[listener])
    return server.started


def make_server(app: ChatApp, settings: Settings, **options: Any) -> Server:
    """A server for `app`. `options` go to `uvicorn.Config`."""
    config = uvicorn.Config(
        app,
        backlog=BACKLOG,
        access_log=False,
        server_header=False,
        ws="none",
        # After the drain only the last bytes are left to be taken.
        timeout_graceful_shutdown=math.ceil(settings.cleanup_timeout),
        **options,
    )
    config.load()
    checked: Any = partial(
        _checked_protocol(config.http_protocol_class), head_timeout=settings.body_timeout
    )
    config.http_protocol_class = checked
    return Server(config, app)


def _checked_protocol(protocol: Type[Any]) -> Type[CheckedProtocol]:
    """Our class for one of uvicorn's."""
    if issubclass(protocol, H11Protocol):
        return CheckedH11Protocol
    return CheckedHttptoolsProtocol

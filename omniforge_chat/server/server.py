"""Running the service in this process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional

import uvicorn

from ..app import ChatApp
from ..logs import log_config, logger
from ..settings import Settings
from .protocol import _careful

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


BACKLOG = 2048
"""How many connections may wait to be accepted."""


class Server(uvicorn.Server):
    """uvicorn, except for how it ends: it drains its app first, and a stop by signal is a success.

    The first SIGINT or SIGTERM starts the drain, a second one ends it now, still with the last
    frames of what is open.
    """

    def __init__(self, config: uvicorn.Config, app: ChatApp) -> None:
        super().__init__(config)
        self._app = app
        self._drains: List[asyncio.Task[None]] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._asked: Dict[str, int] = {}
        self._closed = False

    async def startup(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Begin to serve, and tell where."""
        await super().startup(sockets=sockets)
        if not self.started:
            return
        for listener in sockets or ():
            logger.info("serving on %s", _url(listener))
        self._loop = asyncio.get_running_loop()
        self._heed()

    async def shutdown(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Close everything."""
        await super().shutdown(sockets)
        self._closed = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving, and put back what was there before.

        After a stop by signal the process ends, and one more must not make a failure of it.
        """
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        originals = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            if "signal" in self._asked:
                _last_signals(originals)
            else:
                _restore_signals(originals)

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        """Begin the drain, or hurry it; or end the process, where all is closed already."""
        if self._closed:
            _exit(sig, frame)
        self.stop("signal")

    def stop(self, source: str) -> None:
        """Begin the drain, or hurry it if this `source` asks again. From any thread.

        A worker hears of one and the same stop from two sides, where a signal goes to all processes
        of a service (as systemd sends it, or a terminal): that is no second stop.
        """
        self._asked[source] = self._asked.get(source, 0) + 1
        # uvicorn 0.39, told during its startup, leaves at once and closes nothing; so `startup`
        # looks at what has been asked by then.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._heed)

    def _heed(self) -> None:
        wanted = min(2, max(self._asked.values(), default=0))
        while len(self._drains) < wanted:
            hurry = bool(self._drains)
            logger.info("draining: %s streams are open%s", self._app.open_streams, " (now)" * hurry)
            drain = self._drain(0.0 if hurry else None)
            self._drains.append(asyncio.get_running_loop().create_task(drain))

    async def _drain(self, seconds: Optional[float]) -> None:
        await self._app.drain(seconds)
        self.should_exit = True


def _restore_signals(originals: Mapping[signal.Signals, Any]) -> None:
    for number, original in originals.items():
        signal.signal(number, original)


def _last_signals(numbers: Iterable[signal.Signals]) -> None:
    """From here to the end of the process, a signal can only make it come sooner.

    It may still wait for a thread of a responder's, which nobody can end. When it waits for nothing
    any more it is deaf, as at the very end Python does not call handlers.
    """
    for number in numbers:
        signal.signal(number, _exit)
        atexit.register(signal.signal, number, signal.SIG_IGN)


def _exit(number: int, frame: Optional[FrameType]) -> None:
    logging.shutdown()
    os._exit(0)


def listen(host: str, port: int, *, send_timeout: Optional[float] = None) -> socket.socket:
    """A listening socket, before anything else starts, so that a taken port is one clear error.

    `send_timeout`, in seconds, also bounds how long the kernel waits for a peer that takes nothing.
    Raises OSError.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux" and send_timeout is not None:
            # Accepted connections inherit it: the kernel drops one whose peer has taken nothing
            # for so long, also when all of a reply was handed over already (RFC 5482).
            # Twice, so that the stream's own limit is the first to act and the log says "stalled".
            milliseconds = min(math.ceil(2 * 1000 * send_timeout), 2**31 - 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.bind(address)
        # From here on nobody else can have the address, and who connects waits for the app.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    app: ChatApp,
    listener: socket.socket,
    settings: Settings,
    *,
    orders: Optional[Connection] = None,
) -> bool:
    """Serve `app` on `listener` until this process is told to stop; False if it cannot start.

    `orders`, in a worker, is where its parent passes on each stop that it hears of.
    """
    logs = log_config(settings.log_level, settings.log_format)
    server = make_server(app, settings, log_config=logs)
    if orders is not None:
        threading.Thread(target=_obey, args=(orders, server), daemon=True).start()
    server.run(sockets=[listener])
    return server.started


def make_server(app: ChatApp, settings: Settings, **options: Any) -> Server:
    """A server for `app`; `options` are further ones of uvicorn."""
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
    config.http_protocol_class = _careful(config.http_protocol_class, settings.body_timeout)
    return Server(config, app)


def _obey(orders: Connection, server: Server) -> None:
    """Stop as often as the parent says, and once more where it is gone and cannot say."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            orders.recv_bytes()
            server.stop("parent")
    server.stop("end of the parent")

"""Running the service: one process, or several that share a socket."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import socket
import threading
import time
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional

import uvicorn
from starlette.types import ASGIApp

from .app import create_app
from .logs import log_config, logger
from .settings import Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHORTEST_LIFE = 1.0
"""Seconds: a worker that lived less is not replaced sooner than this after its start."""


class Server(uvicorn.Server):
    """uvicorn, except that a stop by signal is a success and not a death by that signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving, and put back what was there before."""
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        originals = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            for number, original in originals.items():
                signal.signal(number, original)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, before anything else starts, so that a taken port is one clear error.

    Raises OSError.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: ASGIApp, listener: socket.socket, settings: Settings) -> bool:
    """Serve `app` on `listener` until this process is told to stop; False if it cannot start."""
    config = uvicorn.Config(
        app,
        log_config=log_config(settings.log_level, settings.log_format),
        access_log=False,
        server_header=False,
    )
    server = Server(config)
    server.run(sockets=[listener])
    return server.started


def serve_workers(listener: socket.socket, settings: Settings) -> bool:
    """Serve `create_app(settings=settings)` in `settings.workers` processes, all on `listener`.

    A worker that dies is replaced. SIGINT and SIGTERM stop each worker, and this returns when all
    have ended.
    """
    return _Supervisor(listener, settings).run()


class _Supervisor:
    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        self._listener = listener
        self._settings = settings
        self._workers: List[BaseProcess] = []
        self._started: Dict[int, float] = {}
        self._stopping = False

    def run(self) -> bool:
        originals = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        try:
            self._workers = [self._start() for _ in range(self._settings.workers)]
            while self._workers:
                multiprocessing.connection.wait([w.sentinel for w in self._workers])
                self._replace_dead()
        finally:
            for number, original in originals.items():
                signal.signal(number, original)
        return True

    def _start(self) -> BaseProcess:
        # Not fork: a worker begins from nothing, on every platform alike.
        worker = multiprocessing.get_context("spawn").Process(
            target=_work, args=(self._listener, self._settings)
        )
        worker.start()
        self._started[worker.pid or 0] = time.monotonic()
        return worker

    def _replace_dead(self) -> None:
        for worker in [w for w in self._workers if not w.is_alive()]:
            self._workers.remove(worker)
            started = self._started.pop(worker.pid or 0)
            if self._stopping:
                continue
            logger.error("worker %s ended with status %s", worker.pid, worker.exitcode)
            time.sleep(max(0.0, started + _SHORTEST_LIFE - time.monotonic()))
            if not self._stopping:
                self._workers.append(self._start())

    def _stop(self, number: int, frame: Optional[FrameType]) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.terminate()


def _work(listener: socket.socket, settings: Settings) -> None:
    # Ctrl-C reaches every process of a terminal; the parent passes on what it hears, once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(create_app(settings=settings), listener, settings)


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its workers to stop."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    signal.raise_signal(signal.SIGTERM)

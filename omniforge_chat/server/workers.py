"""Running the service in several processes that share a socket."""

from __future__ import annotations

import contextlib
import logging.config
import multiprocessing
import multiprocessing.connection
import signal
import socket
import time
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Dict, Iterator, Optional

from ..app import create_app
from ..logs import log_config, logger
from ..settings import Settings
from .server import _SIGNALS, _last_signals, _restore_signals, serve

_SHORTEST_LIFE = 1.0
"""Seconds: a worker that lived less is not replaced sooner than this after its start."""


def serve_workers(listener: socket.socket, settings: Settings) -> bool:
    """Serve `create_app(settings=settings)` in `settings.workers` processes, all on `listener`.

    A worker that dies is replaced. SIGINT and SIGTERM stop each worker, and this returns when all
    have ended.
    """
    logging.config.dictConfig(log_config(settings.log_level, settings.log_format))
    return _Supervisor(listener, settings).run()


class _Supervisor:
    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        self._listener = listener
        self._settings = settings
        self._workers: Dict[BaseProcess, Connection] = {}
        self._started: Dict[int, float] = {}
        self._stopping = False

    def run(self) -> bool:
        originals = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        try:
            for _ in range(self._settings.workers):
                self._start()
            while self._workers:
                missing = not self._stopping and len(self._workers) < self._settings.workers
                multiprocessing.connection.wait(
                    [worker.sentinel for worker in self._workers],
                    timeout=_SHORTEST_LIFE if missing else None,
                )
                self._replace_dead()
        except BaseException:
            self._stop()  # or they would serve on, and nobody would look after them
            raise
        finally:
            if self._stopping:
                _last_signals(originals)
            else:
                _restore_signals(originals)
        return True

    def _start(self) -> None:
        # Not fork: a worker begins from nothing, on every platform alike.
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(self._listener, self._settings, theirs))
        try:
            with theirs, _sigint_blocked():
                worker.start()
        except OSError:
            ours.close()
            raise
        self._started[worker.pid or 0] = time.monotonic()
        self._workers[worker] = ours
        if self._stopping:
            _order(ours)  # the signal came before this one could be told

    def _replace_dead(self) -> None:
        for worker in [w for w in self._workers if not w.is_alive()]:
            self._workers.pop(worker).close()
            started = self._started.pop(worker.pid or 0)
            if self._stopping:
                continue
            logger.error("worker %s ended with status %s", worker.pid, worker.exitcode)
            time.sleep(max(0.0, started + _SHORTEST_LIFE - time.monotonic()))
        while not self._stopping and len(self._workers) < self._settings.workers:
            try:
                self._start()
            except OSError as error:
                logger.error("a worker cannot be started: %s", error)
                if self._workers:
                    break  # the others go on, and a little later it is tried again
                raise

    def _stop(self, number: int = 0, frame: Optional[FrameType] = None) -> None:
        self._stopping = True
        for orders in list(self._workers.values()):
            _order(orders)


def _order(orders: Connection) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        orders.send_bytes(b"stop")


_CAN_BLOCK = hasattr(signal, "pthread_sigmask")


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """A process that is started meanwhile has it blocked too, until it knows what to do with it."""
    if not _CAN_BLOCK:
        yield
        return
    resource_tracker.ensure_running()  # which takes SIGINT out of the mask as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(listener: socket.socket, settings: Settings, orders: Connection) -> None:
    # Ctrl-C reaches every process of a terminal; the parent passes on what it hears.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    serve(create_app(settings=settings), listener, settings, orders=orders)

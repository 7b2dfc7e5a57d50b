"""Several processes that share a socket, and the parent that looks after them.

The parent serves nothing. It starts the workers, replaces one that dies, and passes on each stop
that it hears of: each worker has a pipe, and a message in it is a stop. If the parent is killed,
the pipes end, and so do the workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import socket
import threading
import time
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Iterator, List, NamedTuple, Optional

from ..app import create_app
from ..logs import logger
from ..settings import Settings
from ..stdio import flush_standard_streams
from .server import Server, configure_log, make_server
from .signals import handle_signals

_SHORTEST_LIFE = 1.0
"""Seconds: a worker that lived less is not replaced sooner than this after its start."""

_CAN_BLOCK_SIGNALS = hasattr(signal, "pthread_sigmask")


def serve_workers(listener: socket.socket, settings: Settings) -> None:
    """Serve `create_app(settings=settings)` in `settings.workers` processes, all on `listener`.

    A worker that dies is replaced. SIGINT, SIGTERM and SIGHUP stop each worker, and this returns
    when all have ended.
    """
    try:
        _Supervisor(listener, settings).run()
    finally:
        flush_standard_streams()


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection
    started: float

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self.pipe.send_bytes(b"stop")


class _Supervisor:
    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        self._listener = listener
        self._settings = settings
        self._workers: List[_Worker] = []
        self._stopping = False

    def run(self) -> None:
        with handle_signals(self._stop, lambda: self._stopping):
            try:
                for _ in range(self._settings.workers):
                    self._start()
                while self._workers:
                    multiprocessing.connection.wait(
                        [worker.process.sentinel for worker in self._workers],
                        timeout=_SHORTEST_LIFE if self._is_one_missing() else None,
                    )
                    self._replace_dead()
            except BaseException:
                self._stop()  # or they would serve on, and nobody would look after them
                raise

    def _is_one_missing(self) -> bool:
        return not self._stopping and len(self._workers) < self._settings.workers

    def _start(self) -> None:
        # Not fork: a worker begins from nothing, on every platform alike.
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        process = context.Process(target=_run_worker, args=(self._listener, self._settings, theirs))
        try:
            with theirs, _sigint_blocked():
                process.start()
        except OSError:
            ours.close()
            raise
        self._workers.append(_Worker(process, ours, time.monotonic()))
        if self._stopping:
            self._workers[-1].stop()  # the signal came before this one could be told

    def _replace_dead(self) -> None:
        for worker in [w for w in self._workers if not w.process.is_alive()]:
            self._workers.remove(worker)
            worker.pipe.close()
            if self._stopping:
                continue
            process = worker.process
            logger.error("worker %s ended with status %s", process.pid, process.exitcode)
            time.sleep(max(0.0, worker.started + _SHORTEST_LIFE - time.monotonic()))
        while self._is_one_missing():
            try:
                self._start()
            except OSError as error:
                logger.error("a worker cannot be started: %s", error)
                if self._workers:
                    break  # the others go on, and a little later it is tried again
                raise

    def _stop(self, number: int = 0, frame: Optional[FrameType] = None) -> None:
        self._stopping = True
        for worker in list(self._workers):
            worker.stop()


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """A process that is started meanwhile has SIGINT blocked, until it knows what to do with it."""
    if not _CAN_BLOCK_SIGNALS:
        yield
        return
    resource_tracker.ensure_running()  # which takes SIGINT out of the mask as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_worker(listener: socket.socket, settings: Settings, pipe: Connection) -> None:
    # Ctrl-C reaches every process of a terminal; the parent passes on what it hears.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _CAN_BLOCK_SIGNALS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    configure_log(settings)
    server = make_server(create_app(settings=settings), settings, log_config=None)
    threading.Thread(target=_stop_with_parent, args=(pipe, server), daemon=True).start()
    server.run_process(listener)


def _stop_with_parent(pipe: Connection, server: Server) -> None:
    """Stop as often as the parent says, and once more if it is gone and cannot say."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.recv_bytes()
            server.stop("parent")
    server.stop("end of the parent")

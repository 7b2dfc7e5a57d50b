"""Several processes that share a socket, and the parent that looks after them.

The parent serves nothing. It starts the workers, replaces one that dies, and passes on each stop
that it hears of: each worker has a pipe, and a message in it is a stop. If the parent is killed,
the pipes end, and so do the workers.
"""

from __future__ import annotations

import contextlib
import itertools
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
from ..observe.fleet import Fleet, Member
from ..rules import SettingsError
from ..settings import Settings
from ..stdio import flush_standard_streams
from .server import Server, configure_log, make_server
from .signals import handle_signals

_SHORTEST_LIFE = 1.0
"""Seconds: a worker that lived less is not replaced sooner than this after its start."""

_CAN_BLOCK_SIGNALS = hasattr(signal, "pthread_sigmask")


def serve_workers(
    listener: socket.socket, settings: Settings, metrics: Optional[socket.socket] = None
) -> None:
    """Serve `create_app(settings=settings)` in `settings.workers` processes, all on `listener`.

    On `metrics` each tells the metrics of all. A worker that dies is replaced. SIGINT, SIGTERM and
    SIGHUP stop each worker, and this returns when all have ended. Raises SettingsError if the
    metrics need a directory, and there can be none.
    """
    fleet = _make_fleet(settings)
    try:
        _Supervisor(listener, settings, metrics, fleet).run()
    finally:
        if fleet is not None:
            fleet.close()
        flush_standard_streams()


def _make_fleet(settings: Settings) -> Optional[Fleet]:
    if settings.metrics == "off":
        return None
    try:
        return Fleet()
    except OSError as error:
        expected = f"off for several workers, as they need a directory (TMPDIR): {error}"
        raise SettingsError("metrics", settings.metrics, expected) from None


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection
    started: float
    name: str

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self.pipe.send_bytes(b"stop")


class _Supervisor:
    def __init__(
        self,
        listener: socket.socket,
        settings: Settings,
        metrics: Optional[socket.socket],
        fleet: Optional[Fleet],
    ) -> None:
        self._listener = listener
        self._settings = settings
        self._metrics = metrics
        self._fleet = fleet
        self._names = map(str, itertools.count(1))
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
        name = next(self._names)
        place = None if self._fleet is None else _Place(self._fleet.directory, name, self._metrics)
        arguments = (self._listener, self._settings, theirs, place)
        process = context.Process(target=_run_worker, args=arguments)
        try:
            with theirs, _sigint_blocked():
                process.start()
        except OSError:
            ours.close()
            raise
        self._workers.append(_Worker(process, ours, time.monotonic(), name))
        if self._stopping:
            self._workers[-1].stop()  # the signal came before this one could be told

    def _replace_dead(self) -> None:
        for worker in [w for w in self._workers if not w.process.is_alive()]:
            self._workers.remove(worker)
            worker.pipe.close()
            if self._fleet is not None:
                self._fleet.fold(worker.name)
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


class _Place(NamedTuple):
    """The place of a worker among the others, and where it tells the metrics of all."""

    directory: str
    name: str
    listener: Optional[socket.socket]


def _run_worker(
    listener: socket.socket, settings: Settings, pipe: Connection, place: Optional[_Place]
) -> None:
    # Ctrl-C reaches every process of a terminal; the parent passes on what it hears.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _CAN_BLOCK_SIGNALS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    configure_log(settings)
    app = create_app(settings=settings)
    metrics = None if place is None else place.listener
    server = make_server(app, settings, metrics, log_config=None)
    if place is not None and app.exposition is not None:
        server.member = Member(app.exposition, place.directory, place.name)
    threading.Thread(target=_stop_with_parent, args=(pipe, server), daemon=True).start()
    server.run_process(listener)


def _stop_with_parent(pipe: Connection, server: Server) -> None:
    """Stop as often as the parent says, and once more if it is gone and cannot say."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.recv_bytes()
            server.stop("parent")
    server.stop("end of the parent")

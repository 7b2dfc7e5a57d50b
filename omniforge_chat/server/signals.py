"""The signals that stop a process, and the end of the process after a stop."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import signal
import threading
import time
from types import FrameType
from typing import Any, Callable, Iterator, Optional

from ..logs import logger
from ..stdio import flush_standard_streams

STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextlib.contextmanager
def handle_signals(handler: Any, stopped: Callable[[], bool]) -> Iterator[None]:
    """Call `handler` for STOP_SIGNALS meanwhile, and put back what was there before.

    A signal that the process ignores (`nohup`) stays ignored. If a signal has `stopped` the process
    by then, it ends soon, and one more signal must not make a failure of it. So from there on a
    signal can only make the end come sooner.
    """
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    originals = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, original in originals.items():
            if stopped():
                # It may still wait for a thread of a responder, which nobody can end. At the very
                # end Python does not call handlers, so then it is deaf.
                signal.signal(number, end_process)
                atexit.register(_ignore, number)
            else:
                signal.signal(number, original)


def _ignore(number: signal.Signals) -> None:
    with contextlib.suppress(ValueError):  # it is another thread that ends the process
        signal.signal(number, signal.SIG_IGN)


def end_process(number: int, frame: Optional[FrameType]) -> None:
    """End it now, as a success."""
    logging.shutdown()
    flush_standard_streams()
    os._exit(0)


class ExitTimer:
    """Ends the process at a deadline, as a success, whatever still runs in it.

    At its end Python waits for every thread, and asyncio.run for those of `asyncio.to_thread`
    (python/cpython#111358). Nobody can end a thread. So after the deadline the functions of
    `atexit` are called, among them the end of the log, and the process ends.
    """

    def __init__(self) -> None:
        # Other than locks and events, its `put` may be called in a signal handler.
        self._deadlines: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._ends_by_itself = False
        threading.Thread(target=self._run, name="exit timer", daemon=True).start()

    def end_within(self, seconds: float) -> None:
        """Set the deadline, unless it is sooner already."""
        self._deadlines.put(time.monotonic() + seconds)
        atexit.register(self._disarm)  # once more is no harm, and the last one is called first

    def _disarm(self) -> None:
        self._ends_by_itself = True

    def _run(self) -> None:
        deadline = self._deadlines.get()
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                # A limit of an hour, as Python takes no timeout of some centuries.
                deadline = min(deadline, self._deadlines.get(timeout=min(left, 3600.0)))
        if self._ends_by_itself:
            return
        threads = ", ".join(thread.name for thread in threading.enumerate() if not thread.daemon)
        logger.error("the process did not end in time; its threads are %s", threads)
        atexit._run_exitfuncs()
        flush_standard_streams()
        os._exit(0)

"""SIGINT and SIGTERM: who handles them, and what they do after a stop."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
from types import FrameType
from typing import Any, Callable, Iterable, Iterator, Optional

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handle_signals(
    numbers: Iterable[signal.Signals], handler: Any, stopped: Callable[[], bool]
) -> Iterator[None]:
    """Call `handler` for these signals meanwhile, and put back what was there before.

    If a signal has `stopped` the process by then, it ends soon, and one more signal must not make a
    failure of it. So from there on a signal can only make the end come sooner.
    """
    originals = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, original in originals.items():
            if stopped():
                # It may still wait for a thread of a responder, which nobody can end. At the very
                # end Python does not call handlers, so then it is deaf.
                signal.signal(number, end_process)
                atexit.register(signal.signal, number, signal.SIG_IGN)
            else:
                signal.signal(number, original)


def end_process(number: int, frame: Optional[FrameType]) -> None:
    """End it now, as a success."""
    logging.shutdown()
    os._exit(0)

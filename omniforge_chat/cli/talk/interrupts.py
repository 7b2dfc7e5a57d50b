"""Ctrl-C, which ends a reply or clears a line, and is an end of the command nowhere else."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Iterator, Optional

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C has ended, as a shell tells it."""


class Interrupts:
    """The signals of the command.

    SIGINT raises KeyboardInterrupt within a block of `self`, once; whatever handles that is not
    interrupted. Outside of a block it waits for the next one. Other signals end the command.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._waiting = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals meanwhile, except those that the process ignores (`nohup`)."""
        names = ("SIGINT", "SIGTERM", "SIGHUP")
        numbers = [signal.Signals[name] for name in names if hasattr(signal, name)]
        heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._hear) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: Optional[FrameType]) -> None:
        if number != signal.SIGINT:
            # An exception, so that readline puts the terminal back.
            raise SystemExit(128 + number)
        self._waiting = True
        if self._allowed:
            self._raise()

    def _raise(self) -> None:
        self._allowed = self._waiting = False
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._allowed = True
        if self._waiting:
            self._raise()

    def __exit__(self, *error: object) -> None:
        self._allowed = False

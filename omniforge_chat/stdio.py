"""Standard input, output and error of the process, which may be closed, or lead nowhere."""

from __future__ import annotations

import contextlib
import os
import sys


def open_standard_streams() -> None:
    """Let those that are closed (`>&-`) lead nowhere.

    If not, Python has no `sys.stdout`, and the next file or socket that is opened would take their
    place: it would get what is printed, and libuv ends a process that closes one of these numbers.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is taken
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def flush_standard_streams() -> None:
    """Write what waits, or drop it if nobody reads it any more.

    Python does the same at its end, but there a failure becomes the exit status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # it was closed at the start
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)

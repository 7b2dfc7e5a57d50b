"""Writes the lines of the log in a thread of its own, so that whoever logs never waits.

A pipe, a socket or a terminal whose reader stops takes no more at some point, and a write to it
waits. Nothing else keeps an event loop from that: O_NONBLOCK belongs to the open file, which other
processes share, and a pipe that has room may have none when it is written to.

Three counters only ever grow, and each is written by one side: that of those who log, who hold the
lock of their handler, or that of the thread. So no lock is needed, which a signal handler that logs
could find held by the code below it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import stat
import threading
import time
from typing import Callable, Optional, Union

LIMIT_BYTES = 4 * 1024 * 1024
"""How much waits at most."""

_PIECE_BYTES = 4096
"""A write of so much to a pipe is not mixed with that of another process (PIPE_BUF)."""


def may_block(fd: int) -> bool:
    """Whether a write to `fd` may wait for a reader. Raises OSError."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


class LineWriter:
    """Writes whole lines to the descriptor `fd`.

    Lines beyond `limit` bytes are dropped. When those before them are written, so is the line that
    `note` makes of their number.
    """

    def __init__(self, fd: int, note: Callable[[int], bytes], *, limit: int = LIMIT_BYTES) -> None:
        self._fd = fd
        self._note = note
        self._limit = limit
        self._queue: queue.SimpleQueue[Union[bytes, threading.Event]] = queue.SimpleQueue()
        self._thread: Optional[threading.Thread] = None
        # Those who log write these.
        self._accepted = 0  # bytes
        self._dropped = 0  # lines
        # The thread writes these.
        self._done = 0  # bytes
        self._noted = 0  # lines
        self._pieces = 0

    def write(self, lines: bytes) -> None:
        """Write `lines` soon, or drop them. Not for two threads at once."""
        waiting = self._accepted - self._done
        # Those that follow a dropped line are dropped, too, until the thread has told of it.
        if self._dropped > self._noted or (waiting and waiting + len(lines) > self._limit):
            self._dropped += lines.count(b"\n")
            if self._queue.empty():
                self._queue.put(b"")  # the thread may have told just before
            return
        self._accepted += len(lines)
        self._queue.put(lines)
        self._start()

    def flush(self, seconds: float, *, at_most: float) -> None:
        """Wait until all is written; not if nobody reads for `seconds`, and not for longer."""
        if self._thread is None:
            return
        written = threading.Event()
        self._queue.put(written)
        end = time.monotonic() + at_most
        pieces = -1
        while not written.wait(seconds) and pieces != self._pieces and time.monotonic() < end:
            pieces = self._pieces

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # Python is at its end (3.12), or the system has no more threads
                self._work()
            else:
                self._thread = thread

    def _run(self) -> None:
        while True:
            self._work()

    def _work(self) -> None:
        item = self._queue.get()
        if isinstance(item, bytes):
            self._write_out(item)
            self._done += len(item)
        if self._queue.empty() or not isinstance(item, bytes):
            dropped = self._dropped
            if dropped > self._noted:
                count, self._noted = dropped - self._noted, dropped
                self._write_out(self._note(count))
        if not isinstance(item, bytes):
            item.set()

    def _write_out(self, lines: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody will ever read it
            while lines:
                end = len(lines)
                if end > _PIECE_BYTES:
                    end = lines.rfind(b"\n", 0, _PIECE_BYTES) + 1 or _PIECE_BYTES
                try:
                    lines = lines[os.write(self._fd, lines[:end]) :]
                except BlockingIOError:  # another process has made it so
                    select.select([], [self._fd], [])
                self._pieces += 1

"""The handler that writes the lines of a service to standard error."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import traceback
import weakref
from typing import Any, List, Optional, Tuple, Union

from .formats import JSONFormatter, TextFormatter
from .record import Ended, Form, logger, name_of_end
from .trace import trace_id
from .writer import LineWriter, may_block

_End = Tuple[float, Form, Tuple[Any, ...]]
"""The time at which something ended, the form of its line, and the values there."""

_FORMATTERS = (TextFormatter, JSONFormatter)


class BatchingStreamHandler(logging.StreamHandler):  # type: ignore[type-arg]  # 3.9 has no subscript
    """Writes lines to standard error, and those of ended chats several at once.

    One write for each chat would cost a busy service as much as the chat. So these lines wait for
    `DELAY_SECONDS`, or until there are `MAX_LINES`. Any other line, and the end of the process,
    writes them too. If the reader of standard error stops reading, nobody waits for it: see
    `writer`.
    """

    DELAY_SECONDS = 0.1
    MAX_LINES = 100
    READER_SECONDS = 1.0
    """How long the end of the process waits for a reader that does not read."""

    def __init__(self) -> None:
        super().__init__()
        self._writer: Optional[LineWriter] = None
        self._written_to: Any = None  # the stream of that writer
        self._pending: List[Union[logging.LogRecord, _End]] = []
        # The loop that has our timer, and the thread of that loop.
        self._timer_loop: Optional[asyncio.AbstractEventLoop] = None
        self._timer_thread: Optional[int] = None
        _handlers.add(self)

    def is_unchanged(self) -> bool:
        """Whether it is as `log_config` makes it: no filter or formatter wants records at once."""
        return (
            not self.filters and self.level <= logging.INFO and type(self.formatter) in _FORMATTERS
        )

    def write_soon(self, end: _End) -> None:
        """Write the line of what has ended within `DELAY_SECONDS`."""
        self._pending.append(end)
        self._schedule_flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of `record`: soon if it tells of an end, or else now."""
        ended = name_of_end(record)
        trace = trace_id.get()
        if trace and not ended:  # here, as another thread may write it
            vars(record).setdefault("trace_id", trace)
        self._pending.append(record)
        if ended:
            self._schedule_flush()
        else:
            self._write_pending()

    def _schedule_flush(self) -> None:
        if len(self._pending) >= self.MAX_LINES:
            self._write_pending()
            return
        # A timer in another thread's loop is no use: that loop may be blocked, or end first.
        thread = threading.get_ident()
        known = self._timer_loop if thread == self._timer_thread else None
        if known is not None and known.is_running():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the loop has ended while the chat was open
            self._write_pending()
            return
        self._timer_loop, self._timer_thread = loop, thread
        loop.call_later(self.DELAY_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        self._timer_loop = None
        self._write_pending()

    def begin_after_fork(self) -> None:
        """Drop the lines that wait, and the timer: the parent writes them.

        From here on whoever logs writes, as such a process may end without another word.
        """
        self._pending = []
        self._timer_loop = None
        self._writer, self._written_to = None, self.stream

    def flush(self) -> None:
        """Write the lines that wait, and wait until they are written."""
        self._write_pending()
        if self._writer is not None:
            self._writer.flush(self.READER_SECONDS, at_most=10 * self.READER_SECONDS)

    def _write_pending(self) -> None:
        self.acquire()
        try:
            pending = self._pending[:]
            if pending:
                del self._pending[: len(pending)]  # in place: another thread may append meanwhile
                self._write(pending)
        finally:
            self.release()

    def _write(self, pending: List[Union[logging.LogRecord, _End]]) -> None:
        # A host may have set another one since `is_unchanged`.
        ours: Any = self.formatter if type(self.formatter) in _FORMATTERS else None
        lines: List[str] = []
        for item in pending:
            try:
                if ours is not None and isinstance(item, tuple):
                    lines.append(ours.format_end(*item))
                else:
                    lines.append(self.format(_record_of(item)))
            except Exception:
                self.handleError(_record_of(item))
        try:
            self._write_text("\n".join([*lines, ""]))
        except Exception:
            self.handleError(_record_of(pending[-1]))

    def _write_text(self, text: str) -> None:
        if self.stream is not self._written_to:
            self._writer, self._written_to = self._make_writer(), self.stream
        if self._writer is None:
            self.stream.write(text)
            self.stream.flush()
        else:
            self._writer.write(self._encode(text))

    def _make_writer(self) -> Optional[LineWriter]:
        try:
            fd = self.stream.fileno()
            return LineWriter(fd, self._dropped_line) if may_block(fd) else None
        except (AttributeError, OSError, ValueError):  # it is no file, or closed
            return None

    def _encode(self, text: str) -> bytes:
        return text.encode(self.stream.encoding or "utf-8", "backslashreplace")

    def _dropped_line(self, count: int) -> bytes:
        text = "%d log lines were dropped, as nobody read them"
        record = logging.LogRecord(logger.name, logging.WARNING, __file__, 0, text, (count,), None)
        return self._encode(f"{self.format(record)}\n")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Tell of a line that cannot be written, as logging does, but wait for nobody."""
        if self._writer is None:
            super().handleError(record)
        elif logging.raiseExceptions:
            reason = traceback.format_exc()
            self._write_text(f"--- Logging error ---\n{reason}Message: {record.msg!r}\n")


def _record_of(item: Union[logging.LogRecord, _End]) -> logging.LogRecord:
    return Ended(*item) if isinstance(item, tuple) else item


_handlers: weakref.WeakSet[BatchingStreamHandler] = weakref.WeakSet()


def _after_fork() -> None:
    Ended.constant.clear()  # the child has another process id and name
    for handler in _handlers:
        handler.begin_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)

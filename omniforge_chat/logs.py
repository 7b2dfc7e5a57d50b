"""The log: one line when a chat ends, and the formats of lines, for people and for machines.

A line for each chat is the most expensive thing in a short one. Two ways make it cheaper:

- `chat_ended` makes its record itself, because `Logger.info` looks up much that never changes.
- In a service with our own `log_config`, nothing but our handler sees a record. Then `chat_ended`
  makes none: it gives the handler the values, which makes the records when it writes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import weakref
from typing import Any, ClassVar, Dict, List, Optional, Tuple, Union

import msgspec

logger = logging.getLogger("omniforge_chat")
_call_handlers: Any = logging.Logger.callHandlers
if getattr(_call_handlers, "__module__", "") != logging.__name__:
    _call_handlers = None  # a monitoring tool has replaced it already


CHAT_FIELDS = (
    "request_id",
    "conversation_id",
    "outcome",
    "chunks",
    "tokens",
    "first_chunk_ms",
    "total_ms",
)
"""The fields of the line when a chat ends."""


def chat_ended(*values: Any) -> None:
    """Log the end of a chat at INFO: `values` are those of CHAT_FIELDS, in their order.

    They are also on the record, as the dict `record.chat`.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    if logging.getLogRecordFactory() is not logging.LogRecord:
        # The app around us has its own factory, and its formats may need the fields it sets.
        logger.info(_TEXT, *values, extra={"chat": dict(zip(CHAT_FIELDS, values))})
        return
    handler = _only_handler()
    if handler is None:
        logger.handle(_ChatEnded(time.time(), values))
    else:
        handler.write_soon((time.time(), values))


def _only_handler() -> Optional[BatchingStreamHandler]:
    """The handler of `log_config`, if nothing else sees a record."""
    parent = logger.parent
    if logger.handlers or logger.filters or not logger.propagate:
        return None
    if parent is None or parent.parent is not None or len(parent.handlers) != 1:
        return None
    if logging.Logger.callHandlers is not _call_handlers:
        return None  # Sentry replaces it, to see each record
    (handler,) = parent.handlers
    if type(handler) is BatchingStreamHandler and handler.is_unchanged():
        return handler
    return None


_TEXT = "chat ended " + " ".join([f"{name}=%s" for name in CHAT_FIELDS])


class _ChatEnded(logging.LogRecord):
    """A record as `logger.info` makes it, at a fraction of the price.

    The parts that never change (line of the source, name of the process) are looked up once. Its
    text is made when the line is written.
    """

    _constant: ClassVar[Dict[str, Any]] = {}

    def __init__(self, created: float, values: Tuple[Any, ...]) -> None:
        constant = self._constant
        if not constant:
            plain = logging.LogRecord(logger.name, logging.INFO, __file__, 0, _TEXT, (), None)
            plain.funcName = "chat_ended"
            constant.update(plain.__dict__)
        self.__dict__ = record = constant.copy()
        thread = threading.current_thread()
        record["created"] = created
        record["msecs"] = created % 1 * 1000
        record["relativeCreated"] += (created - constant["created"]) * 1000
        record["args"] = values
        record["chat"] = dict(zip(CHAT_FIELDS, values))
        record["thread"] = thread.ident
        record["threadName"] = thread.name
        if "taskName" in record:  # Python 3.12 and newer
            record["taskName"] = _task_name()


def _task_name() -> Optional[str]:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else task.get_name()


_End = Tuple[float, Tuple[Any, ...]]
"""The time at which a chat ended, and the values of CHAT_FIELDS."""


class BatchingStreamHandler(logging.StreamHandler):  # type: ignore[type-arg]  # 3.9 has no subscript
    """Writes lines to standard error, and those of ended chats several at once.

    One write for each chat would cost a busy service as much as the chat. So these lines wait for
    `DELAY_SECONDS`, or until there are `MAX_LINES`. Any other line, and the end of the process,
    writes them too.
    """

    DELAY_SECONDS = 0.1
    MAX_LINES = 100

    def __init__(self) -> None:
        super().__init__()
        self._pending: List[Union[logging.LogRecord, _End]] = []
        # The loop that has our timer, and the thread of that loop.
        self._timer_loop: Optional[asyncio.AbstractEventLoop] = None
        self._timer_thread: Optional[int] = None
        _handlers.add(self)

    def is_unchanged(self) -> bool:
        """Whether it is as `log_config` makes it: no filter or formatter wants records at once."""
        return (
            not self.filters
            and self.level <= logging.INFO
            and type(self.formatter) in (TextFormatter, JSONFormatter)
        )

    def write_soon(self, end: _End) -> None:
        """Write the line of an ended chat within `DELAY_SECONDS`."""
        self._pending.append(end)
        self._schedule_flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of `record`: soon if it is that of an ended chat, or else now."""
        self._pending.append(record)
        if hasattr(record, "chat"):
            self._schedule_flush()
        else:
            self.flush()

    def _schedule_flush(self) -> None:
        if len(self._pending) >= self.MAX_LINES:
            self.flush()
            return
        # A timer in another thread's loop is no use: that loop may be blocked, or end first.
        thread = threading.get_ident()
        known = self._timer_loop if thread == self._timer_thread else None
        if known is not None and known.is_running():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the loop has ended while the chat was open
            self.flush()
            return
        self._timer_loop, self._timer_thread = loop, thread
        loop.call_later(self.DELAY_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        self._timer_loop = None
        self.flush()

    def discard_pending(self) -> None:
        """Drop the lines that wait, and the timer: after a fork, the parent writes them."""
        self._pending = []
        self._timer_loop = None

    def flush(self) -> None:
        """Write the lines that wait."""
        self.acquire()
        try:
            pending = self._pending[:]
            if pending:
                del self._pending[: len(pending)]  # in place: another thread may append meanwhile
                self._write([_ChatEnded(*p) if isinstance(p, tuple) else p for p in pending])
        finally:
            self.release()

    def _write(self, records: List[logging.LogRecord]) -> None:
        lines: List[str] = []
        for record in records:
            try:
                lines.append(self.format(record))
            except Exception:
                self.handleError(record)
        try:
            self.stream.write("\n".join([*lines, ""]))
            self.stream.flush()
        except Exception:
            self.handleError(records[-1])


_handlers: weakref.WeakSet[BatchingStreamHandler] = weakref.WeakSet()


def _after_fork() -> None:
    _ChatEnded._constant.clear()  # the child has another process id and name
    for handler in _handlers:
        handler.discard_pending()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


class TextFormatter(logging.Formatter):
    """A line for people: time in UTC, level, logger, message."""

    _second: Tuple[int, str] = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`, and the traceback below it."""
        text = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return text

    def formatTime(self, record: logging.LogRecord, datefmt: Optional[str] = None) -> str:  # noqa: N802
        """The time of `record` in the format of RFC 3339, to the millisecond."""
        whole = int(record.created)
        second, text = self._second
        if second != whole:  # in a busy service most lines share their second with the line before
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._second = (whole, text)
        return f"{text}.{int(record.msecs):03d}Z"


class JSONFormatter(TextFormatter):
    """A line for machines: one JSON object, with the fields of an ended chat beside the others."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`."""
        line: Dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
        }
        chat = getattr(record, "chat", None)
        if chat is None:
            line["message"] = record.getMessage()
        else:
            line["message"] = "chat ended"
            line.update(chat)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line).decode("utf-8")
        except UnicodeEncodeError:
            # Half a character (a lone surrogate) has no UTF-8, but `json` can escape it.
            return json.dumps(line, separators=(",", ":"))


def log_config(level: str, style: str, *, access: bool = False) -> Dict[str, Any]:
    """A dict for `logging.config.dictConfig`: every line to standard error, in one format.

    `level`, `style` and `access` are the settings `log_level`, `log_format` and `access_log`.
    """
    formatter = JSONFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"()": BatchingStreamHandler, "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            # We log the end of each chat. The server's own line for each request adds nothing.
            "uvicorn.access": {"level": "INFO" if access else "WARNING"},
            # Nor does a line for each request to a model provider. Those for each step of such a
            # request would even quote the provider's headers.
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
        },
    }

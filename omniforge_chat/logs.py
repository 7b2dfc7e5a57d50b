"""What the log says: one line when a chat ends, and how lines look for people and for machines."""

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
    _call_handlers = None  # somebody else's already


CHAT_FIELDS = (
    "request_id",
    "conversation_id",
    "outcome",
    "chunks",
    "tokens",
    "first_chunk_ms",
    "total_ms",
)
"""What is told of the end of a chat."""


def chat_ended(*values: Any) -> None:
    """Log the end of a chat at INFO: `values` are those of CHAT_FIELDS, in their order.

    They are also on the record, as the dict `record.chat`.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    if logging.getLogRecordFactory() is not logging.LogRecord:
        # A host's own, whose fields its formats count on.
        logger.info(_TEXT, *values, extra={"chat": dict(zip(CHAT_FIELDS, values))})
        return
    handler = _only_handler()
    if handler is None:
        logger.handle(_ChatEnded(time.time(), values))
    else:
        handler.keep((time.time(), values))


def _only_handler() -> Optional[LineHandler]:
    """The handler of `log_config`, where nothing else gets to see a record.

    Then none is made before the line is written: to make many at once costs a busy service far less
    than to make each of them between two chats.
    """
    parent = logger.parent
    if logger.handlers or logger.filters or not logger.propagate:
        return None
    if parent is None or parent.parent is not None or len(parent.handlers) != 1:
        return None
    if logging.Logger.callHandlers is not _call_handlers:
        return None  # Sentry's own takes its place, to see each record
    (handler,) = parent.handlers
    if type(handler) is LineHandler and handler.is_plain():
        return handler
    return None


_TEXT = "chat ended " + " ".join([f"{name}=%s" for name in CHAT_FIELDS])


class _ChatEnded(logging.LogRecord):
    """A record as `logger.info` makes it, at a fraction of the price.

    What is the same for each (where in the source, the name of the process) is looked up once, as
    nothing else in a short chat costs as much as its log line. Its text is made when the line is.
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
"""When a chat ended, and the values of CHAT_FIELDS."""


def _record(kept: Union[logging.LogRecord, _End]) -> logging.LogRecord:
    return _ChatEnded(*kept) if isinstance(kept, tuple) else kept


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg]  # 3.9 cannot subscript it
    """Lines to standard error; those that tell of the end of a chat are written several at once.

    A write for each would cost a busy service as much as the chat. They wait for `DELAY_SECONDS`,
    or until they are `MOST_LINES`; any other line, and the end of the process, takes them along.
    """

    DELAY_SECONDS = 0.1
    MOST_LINES = 100

    def __init__(self) -> None:
        super().__init__()
        self._kept: List[Union[logging.LogRecord, _End]] = []
        # Where a timer is set: the loop, and the thread that it runs in.
        self._returning: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[int] = None
        _handlers.add(self)

    def is_plain(self) -> bool:
        """Whether nothing of a host's own is in it, which might want a record at once."""
        return (
            not self.filters
            and self.level <= logging.INFO
            and type(self.formatter) in (TextFormatter, JSONFormatter)
        )

    def keep(self, end: _End) -> None:
        """Write a line of the end of a chat soon."""
        self._kept.append(end)
        self._see_to_it()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of `record`, now or soon."""
        self._kept.append(record)
        if hasattr(record, "chat"):
            self._see_to_it()
        else:
            self.flush()

    def _see_to_it(self) -> None:
        if len(self._kept) >= self.MOST_LINES:
            self.flush()
            return
        # Another thread's loop may be blocked, or end, while this line waits for it.
        thread = threading.get_ident()
        known = self._returning if thread == self._thread else None
        if known is not None and known.is_running():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # it has ended under the chat
            self.flush()
            return
        self._returning, self._thread = loop, thread
        loop.call_later(self.DELAY_SECONDS, self._return)

    def _return(self) -> None:
        self._returning = None
        self.flush()

    def forget(self) -> None:
        """Leave the lines that wait, and the timer, to the process that this one comes from."""
        self._kept = []
        self._returning = None

    def flush(self) -> None:
        """Write the lines that are kept."""
        self.acquire()
        try:
            kept = self._kept[:]
            if kept:
                del self._kept[: len(kept)]  # in its place: another thread may add to it meanwhile
                self._write([_record(one) for one in kept])
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


_handlers: weakref.WeakSet[LineHandler] = weakref.WeakSet()


def _forked() -> None:
    _ChatEnded._constant.clear()  # another id and, a moment later, another name
    for handler in _handlers:
        handler.forget()


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(after_in_child=_forked)


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
        """The time of `record` as RFC 3339 has it, to the millisecond."""
        whole = int(record.created)
        second, text = self._second
        if second != whole:  # most lines of a busy service share their second with the one before
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._second = (whole, text)
        return f"{text}.{int(record.msecs):03d}Z"


class JSONFormatter(TextFormatter):
    """A line for machines: one JSON object; the fields of a chat's end stand beside the others."""

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
            # Half a character (a lone surrogate) has no UTF-8; JSON can escape it.
            return json.dumps(line, separators=(",", ":"))


def log_config(level: str, style: str) -> Dict[str, Any]:
    """A `logging.config.dictConfig` for a service: everything to standard error, in one format."""
    formatter = JSONFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"()": LineHandler, "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            # A chat's end is logged by us; the server's own line for each request adds nothing.
            "uvicorn.access": {"level": "WARNING"},
            # So does a line for each request to a model provider; and those for each of its steps
            # quote the provider's headers, whatever is in them.
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
        },
    }

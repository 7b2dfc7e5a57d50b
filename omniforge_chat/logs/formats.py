"""How lines look, for people and for machines."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Dict, Optional, Tuple

import msgspec

from .record import MESSAGES, Form, logger, name_of_end


class TextFormatter(logging.Formatter):
    """A line for people: time in UTC, level, logger, message."""

    _second: Tuple[int, str] = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`, and the traceback below it."""
        text = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"
        trace = getattr(record, "trace_id", "")
        if trace:
            text = f"{text} trace_id={trace}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return text

    def format_end(self, created: float, form: Form, values: Tuple[Any, ...]) -> str:
        """The line of what has ended, in less than half the time of `format`.

        That needs a record, `Ended(created, form, values)` (tests.bench.tricks).
        """
        head = f"{self._time(created, created % 1 * 1000)} {logging.getLevelName(logging.INFO)}"
        return f"{head} {logger.name}: {form.text % values}"

    def formatTime(self, record: logging.LogRecord, datefmt: Optional[str] = None) -> str:  # noqa: N802
        """The time of `record` in the format of RFC 3339, to the millisecond."""
        return self._time(record.created, record.msecs)

    def _time(self, created: float, milliseconds: float) -> str:
        whole = int(created)
        second, text = self._second
        if second != whole:  # in a busy service most lines share their second with the line before
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._second = (whole, text)
        return f"{text}.{int(milliseconds):03d}Z"


class JSONFormatter(TextFormatter):
    """A line for machines: one JSON object, with the fields of what has ended beside the others."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`."""
        line: Dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
        }
        ended = name_of_end(record)
        if ended:
            line.update(message=MESSAGES[ended], **vars(record)[ended])
        else:
            line["message"] = record.getMessage()
            if "trace_id" in vars(record):
                line["trace_id"] = str(vars(record)["trace_id"])
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self._encode(line)

    def format_end(self, created: float, form: Form, values: Tuple[Any, ...]) -> str:
        """See TextFormatter."""
        line = {
            "time": self._time(created, created % 1 * 1000),
            "level": logging.getLevelName(logging.INFO),
            "logger": logger.name,
            "message": MESSAGES[form.name],
        }
        return self._encode({**line, **dict(zip(form.fields, values))})

    def _encode(self, line: Dict[str, Any]) -> str:
        try:
            return msgspec.json.encode(line).decode("utf-8")
        except UnicodeEncodeError:
            # Half a character (a lone surrogate) has no UTF-8, but `json` can escape it.
            return json.dumps(line, separators=(",", ":"))

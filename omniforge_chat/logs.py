"""What the log says: one line when a chat ends, and how lines look for people and for machines."""

from __future__ import annotations

import logging
import time
from typing import Any, Dict

import msgspec

logger = logging.getLogger("omniforge_chat")


def chat_ended(fields: Dict[str, Any]) -> None:
    """Log the end of a chat at INFO. `fields` is also on the record, as `record.chat`."""
    if logger.isEnabledFor(logging.INFO):
        text = " ".join([f"{name}={value}" for name, value in fields.items()])
        logger.info("chat ended %s", text, extra={"chat": fields})


class TextFormatter(logging.Formatter):
    """A line for people: time in UTC, level, logger, message."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        self.converter = time.gmtime


class JSONFormatter(TextFormatter):
    """A line for machines: one JSON object; the fields of a chat's end stand beside the others."""

    def format(self, record: logging.LogRecord) -> str:
        line: Dict[str, Any] = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
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
        return msgspec.json.encode(line).decode("utf-8")


def log_config(level: str, style: str) -> Dict[str, Any]:
    """A `logging.config.dictConfig` for a service: everything to standard error, in one format."""
    formatter = JSONFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            # A chat's end is logged by us; the server's own line for each request adds nothing.
            "uvicorn.access": {"level": "WARNING"},
            # So does a line for each request to a model provider.
            "httpx": {"level": "WARNING"},
        },
    }

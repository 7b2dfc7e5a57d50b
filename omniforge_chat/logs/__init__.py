"""The log: one line when a chat ends, and the formats of lines, for people and for machines.

A line for each chat is the most expensive thing in a short one. Two ways make it cheaper:

- `log_end` makes its record itself, because `Logger.info` looks up much that never changes.
- In a service with our own `log_config`, nothing but our handler sees a record. Then none is made:
  the handler gets the values, and makes a line of them when it writes.

The modules:

- `end`: the line when something has ended: a chat, say.
- `access`: the line for each request.
- `record`: their record.
- `trace`: the trace of a request, which its lines name.
- `formats`: the formats.
- `handler`: the handler of a service, which writes several lines at once.
- `writer`: the thread that writes them, so that whoever logs never waits.
"""

from __future__ import annotations

import logging
from typing import Any, Dict

from .access import request_ended
from .end import log_end
from .formats import JSONFormatter, TextFormatter
from .handler import BatchingStreamHandler
from .record import CHAT, CHAT_FIELDS, KEPT, READ, logger
from .trace import TRACEPARENT, enter_trace, trace_id, trace_id_in

__all__ = [
    "CHAT",
    "CHAT_FIELDS",
    "KEPT",
    "READ",
    "TRACEPARENT",
    "BatchingStreamHandler",
    "JSONFormatter",
    "TextFormatter",
    "enter_trace",
    "log_config",
    "log_end",
    "logger",
    "request_ended",
    "trace_id",
    "trace_id_in",
]


class _NoRefusals(logging.Filter):
    """Keeps out uvicorn's line for each request that is not HTTP: such refusals are counted."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "Invalid HTTP request received."


def log_config(level: str, style: str) -> Dict[str, Any]:
    """A dict for `logging.config.dictConfig`: every line to standard error, in one format.

    `level` and `style` are the settings `log_level` and `log_format`.
    """
    formatter = JSONFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "filters": {"no refusals": {"()": _NoRefusals}},
        "handlers": {"stderr": {"()": BatchingStreamHandler, "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            # We log the end of each chat, and each request if that is wanted.
            "uvicorn.access": {"level": "WARNING"},
            "uvicorn.error": {"filters": ["no refusals"]},
            # Nor does a line for each request to a model provider. Those for each step of such a
            # request would even quote the provider's headers.
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
            # It tells of each try to reach a collector that is gone, besides what is lost.
            "opentelemetry.exporter": {"level": "ERROR"},
            # And of each header of a trace that it does not like, which it quotes: any client could
            # fill the log so.
            "opentelemetry.baggage": {"level": "ERROR"},
            "opentelemetry.trace": {"level": "ERROR"},
            # It tells of each broken connection what we tell once of the database.
            "psycopg": {"level": "ERROR"},
        },
    }

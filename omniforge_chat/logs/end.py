"""The line when something has ended."""

from __future__ import annotations

import logging
import time
from typing import Any, Optional, Tuple

from .handler import BatchingStreamHandler
from .record import Ended, Form, logger
from .trace import trace_id

_call_handlers: Any = logging.Logger.callHandlers
if getattr(_call_handlers, "__module__", "") != logging.__name__:
    _call_handlers = None  # a monitoring tool has replaced it already


def log_end(form: Form, values: Tuple[Any, ...], trace: Optional[str] = None) -> None:
    """Log at INFO that something has ended: `values` are those of the form's fields, in order.

    They are also on the record, as the dict that the form names. `trace` is the id of a trace; None
    is that of this context, and "" is none. If there is one, it is one more field, `trace_id`.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    if trace is None:
        trace = trace_id.get()
    if trace:
        form, values = form.traced, (*values, trace)
    if logging.getLogRecordFactory() is not logging.LogRecord:
        # The app around us has its own factory, and its formats may need the fields it sets.
        logger.info(form.text, *values, extra=form.extra(values))
        return
    handler = _only_handler()
    if handler is None:
        logger.handle(Ended(time.time(), form, values))
    else:
        handler.write_soon((time.time(), form, values))


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

"""The line for each request, if they are wanted."""

from __future__ import annotations

from typing import Any, Tuple

from .end import log_end
from .record import Form

ACCESS_FIELDS = ("method", "path", "status", "bytes", "ms", "client", "request_id")
"""The fields of the line."""

_ANYBODY = Form("access", ACCESS_FIELDS)
_CALLER = Form("access", (*ACCESS_FIELDS, "caller"))


def request_ended(*values: Any, caller: str = "", trace: str = "") -> None:
    """Log a request at INFO: `values` are those of ACCESS_FIELDS, in order.

    `caller` is the id of who asks, and `trace` that of the trace, if they are known. All are on the
    record, too, as the dict `record.access`.
    """
    form: Form = _ANYBODY
    known: Tuple[Any, ...] = values
    if caller:
        form, known = _CALLER, (*known, caller)
    log_end(form, known, trace)

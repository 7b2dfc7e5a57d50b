"""The trace that a request is part of: its lines in the log name it.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Optional

TRACEPARENT = b"traceparent"

trace_id: ContextVar[str] = ContextVar("omniforge_chat.trace_id", default="")
"""The id of the trace in which this context runs: 32 hexadecimal digits, or "" if there is none."""

_parse = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
).fullmatch


def enter_trace(traceparent: Optional[bytes]) -> None:
    """From now on this context is in the trace that the header names, or in none."""
    found = trace_id_in(traceparent)
    if found != trace_id.get():
        trace_id.set(found)


def trace_id_in(traceparent: Optional[bytes]) -> str:
    """The id in the value of that header, or "" if it is none, or not valid."""
    found = _parse(traceparent) if traceparent else None
    # Version 00 ends there; a later one may have more.
    if found is None or (found[2] and found.string.startswith(b"00")):
        return ""
    return found[1].decode("ascii")

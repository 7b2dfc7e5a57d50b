"""Our connection on h11, the parser in Python that is always there."""

from __future__ import annotations

from typing import Any, Optional

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import RequestError
from .protocol import CheckedProtocol
from .rules import HEAD_BYTES, HEAD_RULES, TRAILER_RULES, Head, refusal_of, size_of, too_large


class _Parser(h11.Connection):
    """h11's parser, which limits an unfinished head, with the rules for a whole one."""

    refusal: Optional[RequestError] = None

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                self.refusal = too_large()
            raise
        if isinstance(event, h11.Request):
            size, version = size_of(event.target, event.headers), event.http_version.decode()
            head = Head(event.headers, size, event.method, event.target, version)
            self.refusal = refusal_of(head, HEAD_RULES)
        elif isinstance(event, h11.EndOfMessage):
            trailers = Head(event.headers, size_of(b"", event.headers))
            self.refusal = refusal_of(trailers, TRAILER_RULES)
        if self.refusal is not None:
            raise h11.RemoteProtocolError(self.refusal.message)
        return event


class CheckedH11Protocol(CheckedProtocol, H11Protocol):
    """uvicorn's protocol on h11, with our checks."""

    conn: _Parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Parser()

    def refusal(self) -> Optional[RequestError]:
        return self.conn.refusal

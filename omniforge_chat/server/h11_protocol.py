"""Our connection on h11, the parser in Python that is always there.

h11 is lenient in lines: it takes a bare LF for the end of one, unfolds those that go on in the
next, lets control characters pass, and joins two lengths that are equal. httptools is strict. So
the buffer here, from which h11 takes its lines, looks at their bytes.

What is called for each request names the class to go on with, as `super()` takes longer
(`python -m tests.bench.tricks`).
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, List, Optional, Tuple

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import RequestError
from .protocol import CheckedProtocol
from .rules import (
    HEAD_BYTES,
    HEAD_RULES,
    TRAILER_RULES,
    Head,
    origin_form,
    refusal_of,
    too_large,
)

_TEXT = bytes({*range(0x20, 0x7F), *range(0x80, 0x100), *b"\t"})
_find_fold = re.compile(rb"\n[ \t]").search
_find_two_lengths = re.compile(
    rb"\ncontent-length:[^\n]*(?:,|\n(?:.*\n)*?content-length:)", re.I
).search


def _are_valid_lines(data: bytearray) -> bool:
    if len(data.translate(None, _TEXT)) != 2 * data.count(b"\r\n"):
        return False  # a control character (RFC 9110, section 5.5), or a CR or LF of its own
    return not _find_fold(data) and not _find_two_lengths(data)  # RFC 9112, 5.2; RFC 9110, 8.6


_TOKEN = rb"[!#$%&'*+.^_`|~\w-]+"
_is_chunk_head = re.compile(  # RFC 9112, section 7.1.1
    rb"""[0-9A-Fa-f]{1,16}(?:;%b(?:=(?:%b|"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~])*"))?)*\r\n"""
    % (_TOKEN, _TOKEN)
).fullmatch


class _Buffer(ReceiveBuffer):
    """h11's buffer, with lines as the standard has them."""

    taken = bytearray()

    def _extract(self, count: int) -> bytearray:
        self.taken = ReceiveBuffer._extract(self, count)
        return self.taken

    def maybe_extract_lines(self) -> Optional[List[bytearray]]:
        """The lines of a head, or of trailers."""
        lines = ReceiveBuffer.maybe_extract_lines(self)
        if lines is not None and not _are_valid_lines(self.taken):
            raise h11.LocalProtocolError("invalid lines")
        return lines

    def maybe_extract_next_line(self) -> Optional[bytearray]:
        """The head of a chunk."""
        line = ReceiveBuffer.maybe_extract_next_line(self)
        if line is not None and not _is_chunk_head(line):
            raise h11.LocalProtocolError("invalid chunk")
        return line

    def clear(self) -> None:
        """Drop all."""
        self._extract(len(self._data))

    def skip_empty_lines(self) -> None:
        """Drop those before a head (RFC 9112, section 2.2)."""
        if self._data.startswith((b"\r", b"\n")):
            self._extract(len(self._data) - len(self._data.lstrip(b"\r\n")))


def _fields(headers: Any) -> List[Tuple[bytes, bytes]]:
    # To iterate over `headers` takes twice as long.
    return [(name.lower(), value) for name, value in headers.raw_items()]


class _Parser(h11.Connection):
    """h11's parser, which limits an unfinished head, with the rules for a whole one."""

    refusal: Optional[RequestError] = None
    _receive_buffer: _Buffer

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._receive_buffer = _Buffer()

    def next_event(self) -> Any:
        if self._receive_buffer._data:
            state = self.their_state
            if state is h11.IDLE:
                self._receive_buffer.skip_empty_lines()
            elif state is h11.MUST_CLOSE:  # what follows is no request (RFC 9112, section 9.6)
                self._receive_buffer.clear()
        try:
            event: Any = h11.Connection.next_event(self)
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                self.refusal = too_large()
            # h11 leaves a cycle: a frame in the traceback has the error, and others have us.
            raise error.with_traceback(None) from None
        kind = type(event)  # isinstance() asks ABCMeta: tests.bench.tricks
        if kind is h11.Request:
            return self._checked(event)
        if kind is h11.EndOfMessage and event.headers:
            fields = _fields(event.headers)
            head = Head(fields, len(self._receive_buffer.taken), named=dict(fields))
            self._refuse(refusal_of(head, TRAILER_RULES))
        return event

    def _checked(self, event: h11.Request) -> h11.Request:
        """This request with a target in origin form."""
        fields, version = _fields(event.headers), event.http_version.decode()
        size = len(self._receive_buffer.taken)
        head = Head(fields, size, event.method, event.target, version, dict(fields))
        self._refuse(refusal_of(head, HEAD_RULES))
        if event.target.startswith((b"/", b"*")):
            return event
        target, fields = origin_form(head.target, head.fields)
        return h11.Request(
            method=event.method, target=target, headers=fields, http_version=event.http_version
        )

    def _refuse(self, error: Optional[RequestError]) -> None:
        if error is not None:
            self.refusal = error
            raise h11.RemoteProtocolError(error.message)


class CheckedH11Protocol(CheckedProtocol, H11Protocol):
    """uvicorn's protocol on h11, with our checks."""

    conn: _Parser
    _parse = H11Protocol.data_received

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Parser()

    def on_response_complete(self) -> None:
        # It may start the next request.
        self.flow.run(partial(H11Protocol.on_response_complete, self))

    def refusal(self) -> Optional[RequestError]:
        return self.conn.refusal

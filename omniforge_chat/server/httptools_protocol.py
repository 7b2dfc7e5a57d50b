"""Our connection on httptools, the fast parser that the extra `fast` brings.

httptools hands over a request in pieces, by calling the protocol: `on_url`, `on_header`,
`on_headers_complete`, `on_body`, `on_message_complete`. It has no limits. So the parser here counts
the bytes that it was given since the last of these steps that ended something: a head or a piece of
a body. The bytes of an unfinished head, of trailers and of the head of a chunk are among them.
"""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn, Optional

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import RequestError
from .protocol import CheckedProtocol
from .rules import (
    HEAD_BYTES,
    HEAD_FIELDS,
    HEAD_RULES,
    TRAILER_RULES,
    Fields,
    Head,
    refusal_of,
    size_of,
    too_large,
)


class _Parser(httptools.HttpRequestParser):
    """httptools' parser, with limits, and for a server that takes no upgrade.

    llhttp, on which it stands, takes the body of a request with an upgrade for the new protocol. So
    that head is parsed again, without its Upgrade, and the body after it.
    """

    refusal: Optional[RequestError] = None
    _head: Head

    def __init__(self, protocol: CheckedHttptoolsProtocol) -> None:
        self._protocol = protocol
        self._unparsed = 0  # bytes of the reads since the one with the last step
        self._step_read = self._read = 0  # bytes of that read, and of this one
        self._start()

    def _start(self) -> None:
        super().__init__(self._protocol)
        with contextlib.suppress(AttributeError):  # httptools < 0.6.3
            self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def count_from_here(self) -> None:
        """A head has ended, or a piece of a body."""
        self._unparsed, self._step_read = 0, self._read

    def check_head(self, target: bytes) -> None:
        """Raise an error for a head that breaks a rule."""
        fields = self._protocol.headers
        version = self.get_http_version()
        self._head = Head(fields, self._size(target, fields), self.get_method(), target, version)
        error = refusal_of(self._head, HEAD_RULES)
        if error is not None:
            self._refuse(error)

    def check_trailers(self) -> None:
        """Raise an error for trailers that break a rule."""
        fields = self._protocol.headers
        if fields:
            error = refusal_of(Head(fields, self._size(b"", fields)), TRAILER_RULES)
            if error is not None:
                self._refuse(error)

    def _size(self, target: bytes, fields: Fields) -> int:
        at_most = self._step_read + self._unparsed
        return at_most if at_most <= HEAD_BYTES else size_of(target, fields)

    def _refuse(self, error: RequestError) -> NoReturn:
        self.refusal = error
        raise httptools.HttpParserError(error.message)

    def feed_data(self, data: Any) -> None:
        self._read = len(data)
        self._unparsed += self._read
        self._feed(data)
        if self._unparsed > HEAD_BYTES or len(self._protocol.headers) > HEAD_FIELDS:
            self._refuse(too_large())

    def _feed(self, data: Any) -> None:
        while data:
            try:
                super().feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            if self.get_method() == b"CONNECT":  # an upgrade by itself
                raise httptools.HttpParserError("CONNECT")
            head = self._head_without_upgrade()
            self._start()
            super().feed_data(head)

    def _head_without_upgrade(self) -> bytes:
        head = self._head
        line = b"%s %s HTTP/%s" % (head.method, head.target, head.version.encode())
        fields = [b"%s: %s" % field for field in head.fields if field[0] != b"upgrade"]
        return b"\r\n".join([line, *fields, b"", b""])


class CheckedHttptoolsProtocol(CheckedProtocol, HttpToolsProtocol):
    """uvicorn's protocol on httptools, with our checks."""

    parser: _Parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers = []
        self.parser = _Parser(self)

    def refusal(self) -> Optional[RequestError]:
        return self.parser.refusal

    def on_headers_complete(self) -> None:
        self.parser.check_head(self.url)
        if not self.parser.should_upgrade():  # or this head comes once more
            super().on_headers_complete()
            self.headers = []  # trailers are no part of the head (RFC 9110, section 6.5.1)
            self.parser.count_from_here()

    def on_body(self, body: bytes) -> None:
        self.parser.count_from_here()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self.parser.check_trailers()
            super().on_message_complete()
            self.parser.count_from_here()

    def _forget_requests(self) -> None:
        super()._forget_requests()
        self.pipeline.clear()

"""Our connection on httptools, the fast parser that the extra `fast` brings.

httptools hands over a request in pieces, by calling the protocol: `on_url`, `on_header`,
`on_headers_complete`, `on_body`, `on_message_complete`. It has no limits. So the parser here counts
the bytes that it was given since the last of these steps that ended something: a head or a piece of
a body. The bytes of an unfinished head, of trailers and of the head of a chunk are among them. It
takes a large read in slices, as the bytes of a slice before such a step are not told from those
after it.

What is called for each request names the class to go on with, as `super()` takes longer
(`python -m tests.bench.tricks`).
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, NoReturn, Optional

import httptools
from httptools import HttpRequestParser as Parser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import BadRequest, RequestError
from .protocol import CheckedProtocol
from .rules import (
    HEAD_BYTES,
    HEAD_FIELDS,
    HEAD_RULES,
    TRAILER_RULES,
    Fields,
    Head,
    origin_form,
    refusal_of,
    size_of,
    too_large,
)

_SLICE = 8 * 1024


class _Parser(Parser):
    """httptools' parser, with limits, and for a server that takes no upgrade.

    llhttp, on which it stands, takes the body of a request with an upgrade for the new protocol. So
    that head is parsed again, without its Upgrade, and the body after it.
    """

    refusal: Optional[RequestError] = None
    _head: Head

    def __init__(self, protocol: CheckedHttptoolsProtocol) -> None:
        self._protocol = protocol
        self.stepped = True  # in this read
        self._unparsed = 0  # bytes of the reads since the last one with a step
        self._step_read = self._read = 0  # bytes of that one, and of this one
        self.held = b""  # behind requests that wait for their turn
        self._start()

    def _start(self) -> None:
        super().__init__(self._protocol)
        with contextlib.suppress(AttributeError):  # httptools < 0.6.3
            # The first as uvicorn does. The others are for trailers, which llhttp would take; in a
            # head, a rule forbids a length beside chunks.
            self.set_dangerous_leniencies(
                lenient_data_after_close=True, lenient_keep_alive=True, lenient_chunked_length=True
            )

    def check_head(self, target: bytes) -> None:
        """Raise an error for a head that breaks a rule."""
        fields = self._protocol.headers
        size, version = self._size(target, fields), Parser.get_http_version(self)
        self._head = Head(fields, size, self.get_method(), target, version, dict(fields))
        error = refusal_of(self._head, HEAD_RULES)
        if error is not None:
            self._refuse(error)
        if version == "1.0":  # RFC 9110, section 10.1.1
            self._protocol.expect_100_continue = False

    def get_http_version(self) -> str:
        """That of the head, as llhttp takes its time to tell."""
        return self._head.version

    def check_trailers(self) -> None:
        """Raise an error for trailers that break a rule."""
        fields = self._protocol.headers
        trailers = Head(fields, self._size(b"", fields), named=dict(fields))
        error = refusal_of(trailers, TRAILER_RULES)
        if error is not None:
            self._refuse(error)

    def _size(self, target: bytes, fields: Fields) -> int:
        at_most = self._read if self.stepped else self._step_read + self._unparsed
        return at_most if at_most <= HEAD_BYTES else size_of(target, fields)

    def _refuse(self, error: RequestError) -> NoReturn:
        self.refusal = error
        raise httptools.HttpParserError(error.message)

    def feed_data(self, data: Any) -> None:
        if self.refusal is not None:
            self._protocol.flow.pause_reading()  # it is told after an answer
            return
        try:
            if len(data) <= _SLICE and not self.held:
                self._feed(data)
            else:
                self._feed_slices(self.held + data)
        except httptools.HttpParserError:
            if self.refusal is None:
                self.refusal = BadRequest("The request is not valid HTTP/1.1")
            raise

    def _feed_slices(self, data: bytes) -> None:
        self.held = b""
        for start in range(0, len(data), _SLICE):
            if self._protocol.pipeline:  # a parsed request takes more than its bytes
                self._protocol.flow.pause_reading()
                self.held = data[start:]
                return
            self._feed(memoryview(data)[start : start + _SLICE])

    def _feed(self, data: Any) -> None:
        self._read = len(data)
        self._unparsed += self._read
        self.stepped = False
        try:
            Parser.feed_data(self, data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_without_upgrade(memoryview(data)[upgrade.args[0] :])
        if self.stepped:
            self._step_read, self._unparsed = self._read, 0
        if self._unparsed > HEAD_BYTES or len(self._protocol.headers) > HEAD_FIELDS:
            self._refuse(too_large())

    def _feed_without_upgrade(self, data: Any) -> None:
        while True:
            head = self._head_without_upgrade()
            self._start()
            try:
                for piece in (head, data):
                    Parser.feed_data(self, piece)
                return
            except httptools.HttpParserUpgrade as upgrade:  # of the next request
                data = data[upgrade.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        head = self._head
        line = b"%s %s HTTP/%s" % (head.method, head.target, head.version.encode())
        fields = [b"%s: %s" % field for field in head.fields if field[0] != b"upgrade"]
        return b"\r\n".join([line, *fields, b"", b""])


class CheckedHttptoolsProtocol(CheckedProtocol, HttpToolsProtocol):
    """uvicorn's protocol on httptools, with our checks."""

    parser: _Parser
    _parse = HttpToolsProtocol.data_received
    _refused_later: Optional[RequestError] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers = []
        self.parser = _Parser(self)

    def refusal(self) -> Optional[RequestError]:
        return self.parser.refusal

    def on_headers_complete(self) -> None:
        parser = self.parser
        parser.check_head(self.url)
        if not parser.should_upgrade():  # or this head comes once more
            if self.url[0] not in b"/*":
                self.url, self.headers[:] = origin_form(self.url, self.headers)
            HttpToolsProtocol.on_headers_complete(self)
            if not parser.should_keep_alive():  # uvicorn 0.39 looks for one spelling alone
                self.cycle.keep_alive = False
            self.headers = []  # trailers are no part of the head (RFC 9110, section 6.5.1)
            parser.stepped = True

    def on_body(self, body: bytes) -> None:
        self.parser.stepped = True
        HttpToolsProtocol.on_body(self, body)

    def on_message_complete(self) -> None:
        parser = self.parser
        if not parser.should_upgrade():
            if self.headers:
                parser.check_trailers()
            HttpToolsProtocol.on_message_complete(self)
            parser.stepped = True

    def send_400_response(self, msg: str) -> None:
        """Refuse what was read last, but after the answers to the requests before it."""
        waits = bool(self.pipeline) and self.pipeline[0][0] is self.cycle
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        elif not self.cycle.more_body:
            self._refused_later = self.parser.refusal
        elif waits:
            self.pipeline.popleft()
            self._refused_later = self.parser.refusal
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self.flow.run(super().on_response_complete)
            if self.parser.held and not self.pipeline:
                self.flow.run(partial(HttpToolsProtocol.data_received, self, b""))
            return
        HttpToolsProtocol.on_response_complete(self)
        if self._refused_later is not None and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._refuse(self._refused_later)

    def _forget_requests(self) -> None:
        super()._forget_requests()
        self.pipeline.clear()

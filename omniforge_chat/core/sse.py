"""Server-sent events, both ways and without I/O: WHATWG HTML, section 9.2.

`encode` makes the bytes of one frame, `encode_texts` those of many that are alike. `Decoder` takes
bytes in any split and gives back the frames that are complete, as section 9.2.6 ("Interpreting an
event stream") has it.

Two things make frames easy to read for more than readers of the standard:

- A line of ours is a line to everybody. Many clients split text by `str.splitlines`, which also
  splits at U+0085, U+2028 and U+2029. JSON leaves them as they are, so they are escaped here. (The
  other such characters are below U+0020, and JSON escapes them.)
- A line of ours is short. Clients that read line by line have limits: asyncio's `readline` 64 KiB,
  for example. So a long text becomes several frames.
"""

from __future__ import annotations

import re
from typing import Iterator, List, Optional, Union

import msgspec

MAX_TEXT_BYTES = 16 * 1024
"""The most bytes of JSON that the text of one frame has, without its quotation marks."""

_BOM = b"\xef\xbb\xbf"

_encoder = msgspec.json.Encoder()
_encode_json = _encoder.encode
_encode_json_lines = _encoder.encode_lines


def encode(data: object, event: str = "") -> bytes:
    """The frame of `event`, with `data` as one line of compact JSON, and a blank line.

    Raises UnicodeEncodeError for text that has no UTF-8 (a lone surrogate).
    """
    name = b"event: %b\n" % event.encode() if event else b""
    return b"%bdata: %b\n\n" % (name, escaped_json(data))


def escaped_json(data: object) -> bytes:
    """`data` as JSON that is one line to everybody. Raises UnicodeEncodeError as `encode` does."""
    return _escape(_encode_json(data))


def encode_texts(texts: List[str], before: bytes, after: bytes) -> bytes:
    """A frame for each of `texts`: `before`, the text as JSON, `after`. The encoder is called once.

    A text of more than MAX_TEXT_BYTES is replaced in `texts` by its parts, a frame for each. Raises
    UnicodeEncodeError as `encode` does, and TypeError for an object that is no text.
    """
    if not texts:
        return b""
    # A line of JSON for each. They contain no line feeds (JSON escapes them), so at each line feed
    # one frame ends and the next begins.
    lines = _encode_json(texts[0]) if len(texts) == 1 else _encode_json_lines(texts)[:-1]
    if not lines.isascii():
        lines = _escape(lines)
    if len(lines) > _MAX_LINE and _has_long_line(lines):
        texts[:] = [part for text in texts for part in _parts(text)]
        return encode_texts(texts, before, after)
    if len(texts) > 1:
        lines = lines.replace(b"\n", after + before)
    return b"".join((before, lines, after))


_has_surrogate = re.compile("[\ud800-\udfff]").search


def is_encodable(text: object) -> bool:
    """Whether `text` is text that has UTF-8."""
    return isinstance(text, str) and not _has_surrogate(text)


_MAX_LINE = MAX_TEXT_BYTES + len(b'""')


def _escape(json: bytes) -> bytes:
    """`json` with U+0085, U+2028 and U+2029 escaped.

    It looks for the first byte of their UTF-8 first, as most text has none. Searches for all of
    their bytes take longer; `python -m tests.bench.profile` has the price (the rows "frames").
    """
    if 0xC2 in json:
        json = json.replace(b"\xc2\x85", b"\\u0085")
    if 0xE2 in json:
        json = json.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return json


def _has_long_line(lines: bytes) -> bool:
    """Whether one of `lines` is longer than _MAX_LINE. It looks at few of many short ones."""
    start = 0
    while len(lines) - start > _MAX_LINE:
        start = lines.rfind(b"\n", start, start + _MAX_LINE + 1) + 1
        if not start:
            return True
    return False


def _parts(text: str) -> Iterator[str]:
    """`text` in parts that each fit into a frame. They end behind any code point."""
    start = 0
    while start < len(text):
        part = text[start : start + MAX_TEXT_BYTES]
        while (size := len(_escape(_encode_json(part))) - len(b'""')) > MAX_TEXT_BYTES:
            part = part[: len(part) * MAX_TEXT_BYTES // size]
        yield part
        start += len(part)


class Frame(msgspec.Struct, frozen=True):
    """One dispatched event: its type, its data lines joined by LF, and the last id seen so far."""

    event: str
    data: str
    id: str


class FrameTooLarge(ValueError):
    """A frame has more bytes than the decoder was told to hold."""


class Decoder:
    """Bytes in, frames out.

    `feed` may be given the stream in pieces of any size. `retry` is the reconnection time in
    milliseconds that the stream asked for last, if any. A frame that no blank line has ended when
    the stream ends is never given out, as the standard demands.

    `max_frame_bytes` bounds the data of an unfinished frame together with the line that is being
    read, the same at every split; the standard knows no bound.
    """

    def __init__(self, *, max_frame_bytes: Optional[int] = None) -> None:
        self.retry: Optional[int] = None
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()  # an unfinished line
        self._scanned = 0  # how much of it is known to hold no line ending
        self._after_cr = False  # the last line ended in CR, so one LF at the start belongs to it
        self._at_start = True  # nothing has been decided about a byte order mark yet
        self._event = ""
        self._data: List[str] = []
        self._data_bytes = 0
        self._last_id = ""

    def feed(self, data: bytes) -> List[Frame]:
        """The frames that `data` completes, in order.

        Raises FrameTooLarge, after which the decoder is of no more use.
        """
        if self._after_cr and data:
            # CR LF is one line ending, even if a read parts the two.
            self._after_cr = False
            if data[:1] == b"\n":
                data = data[1:]
        if self._pending or self._at_start or data[-1:] != b"\n":
            self._pending += data
            if self._at_start and not self._skip_bom():
                return []
            lines = self._lines()
        else:
            lines = data.splitlines()  # whole lines, as most reads bring them: nothing to keep
        frames: List[Frame] = []
        for line in lines:
            self._bound(line)
            if line:
                self._field(line)
            else:
                self._dispatch(frames)
        self._bound(self._pending)
        return frames

    def _skip_bom(self) -> bool:
        """Drop one leading byte order mark; False while it cannot be told yet whether it is one."""
        if len(self._pending) < len(_BOM) and _BOM.startswith(self._pending):
            return False
        self._at_start = False
        if self._pending.startswith(_BOM):
            del self._pending[: len(_BOM)]
        return True

    def _lines(self) -> List[bytes]:
        """Take the finished lines off the pending bytes, without their endings."""
        pending = self._pending
        end = max(pending.rfind(b"\n", self._scanned), pending.rfind(b"\r", self._scanned)) + 1
        if not end:
            self._scanned = len(pending)
            return []
        finished = bytes(pending[:end])
        del pending[:end]
        self._scanned = len(pending)
        self._after_cr = finished.endswith(b"\r") and not pending
        return finished.splitlines()  # of bytes: at CR, LF and CR LF, and nowhere else

    def _bound(self, line: Union[bytes, bytearray]) -> None:
        limit = self._max_frame_bytes
        if limit is not None and self._data_bytes + len(line) > limit:
            raise FrameTooLarge(f"a frame has more than {limit} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
            self._data_bytes += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():  # of bytes: ASCII digits only
            # Python may refuse more digits (sys.set_int_max_str_digits); no wait is that long.
            self.retry = int(value) if len(value) <= 640 else self.retry
        elif name:
            self.unknown_field(name, value)

    def unknown_field(self, name: bytes, value: bytes) -> None:
        """A field that the standard does not have, and ignores."""

    def _dispatch(self, frames: List[Frame]) -> None:
        if self._data:
            frames.append(Frame(self._event or "message", "\n".join(self._data), self._last_id))
            self._data = []
            self._data_bytes = 0
        self._event = ""

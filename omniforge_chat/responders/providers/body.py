"""The body of an answer, as far as its start tells what the answer is: a stream, or a refusal."""

from __future__ import annotations

import importlib
import ssl
import zlib
from typing import Any, AsyncIterator, Callable, Mapping, Optional

import anyio
import httpx
import msgspec

BROKEN = (httpx.TransportError, ssl.SSLError)
"""The exceptions of a connection that breaks; httpcore does not wrap the latter."""

MAX_REFUSAL_BYTES = 64 * 1024
REFUSAL_SECONDS = 2.0
"""The provider's reason is looked for in so much of a refusal's body, and for so long."""

_COMPRESSIONS = ("gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress")
"""RFC 9110, section 8.4.1, and RFC 8878. Any other name says nothing, as httpx reads it."""

_WHITE = b"\xef\xbb\xbf \t\r\n"  # with a byte order mark


class Body(msgspec.Struct):
    """The body of `response`: its first bytes, and an iterator over the rest.

    There is a `start` unless the body is empty.
    """

    response: httpx.Response
    rest: AsyncIterator[bytes]
    start: bytes = b""

    @property
    def is_stream(self) -> bool:
        """Whether it can be server-sent events: no line of them begins as a document does."""
        return self.start.lstrip(_WHITE)[:1] not in (b"{", b"[", b"<")

    async def read_start(self) -> None:
        """Read until there is something to see. Raises one of BROKEN if the connection breaks."""
        async for part in self.rest:
            self.start += part
            if self.start.lstrip(_WHITE) or len(self.start) >= MAX_REFUSAL_BYTES:
                break

    async def refusal(self) -> bytes:
        """Read what is left of a refusal, within limits, and undo its compression."""
        body = bytearray(self.start)
        try:
            with anyio.move_on_after(REFUSAL_SECONDS):
                async for part in self.rest:
                    body += part
                    if len(body) >= MAX_REFUSAL_BYTES:
                        break
        except BROKEN:
            pass  # the status is known, which is enough
        return _decompressed(bytes(body[:MAX_REFUSAL_BYTES]), compression(self.response.headers))


def compression(headers: Mapping[str, str]) -> str:
    """The compression of a body; empty if it has none."""
    found = headers.get("content-encoding", "").strip().lower()
    return found if found.rpartition(",")[2].strip() in _COMPRESSIONS else ""


def _decompressed(data: bytes, compression: str) -> bytes:
    """As much of the text as can be read, up to the limit; nothing if nobody can read it."""
    if not compression:
        return data
    if compression == "br":
        process = _brotli()
        return _by_pieces(process, data) if process is not None else b""
    if compression in ("gzip", "x-gzip", "deflate"):
        for form in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # with a head of either kind; without
            try:
                return zlib.decompressobj(form).decompress(data, MAX_REFUSAL_BYTES)
            except zlib.error:
                continue
    return b""


def _brotli() -> Optional[Callable[[bytes], bytes]]:
    """A decompressor, if one of the packages is installed that httpx uses for it."""
    for name in ("brotli", "brotlicffi"):
        try:
            decompressor: Any = importlib.import_module(name).Decompressor()
        except ImportError:
            continue
        process: Callable[[bytes], bytes] = getattr(decompressor, "process", None) or (
            decompressor.decompress
        )
        return process
    return None


def _by_pieces(process: Callable[[bytes], bytes], data: bytes) -> bytes:
    """Decompress as long as the text is within the limit. Data may be much smaller than it."""
    text = b""
    try:
        for begin in range(0, len(data), 16):
            text += process(data[begin : begin + 16])
            if len(text) >= MAX_REFUSAL_BYTES:
                break
    except Exception:  # each package has a class of its own for that
        pass
    return text[:MAX_REFUSAL_BYTES]

"""Requests on raw sockets, whose connections break when and how the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from time import monotonic
from typing import Any, AsyncIterator, Dict, List, Mapping, Optional

from omniforge_chat.core.sse import Decoder, Frame

from ..support.client import request as post_request

SILENCE = 20.0
"""Seconds without a byte, though there is a heartbeat each second."""


class Broken(Exception):
    """The connection broke, or there was none."""


class WasCut(Broken):
    """The client itself has cut it."""


class Silent(Exception):
    """Nothing came, and no end."""


class Knife:
    """When a client cuts its connection: after so many bytes of the answer, or seconds."""

    def __init__(self, dice: random.Random, *, often: float = 0.7) -> None:
        self._bytes: Optional[int] = None
        self._until: Optional[float] = None
        self.resets = dice.random() < 0.5
        if dice.random() > often:
            return
        if dice.random() < 0.5:
            self._bytes = dice.choice([0, 1, dice.randrange(400), dice.randrange(4_000)])
        else:
            self._until = monotonic() + dice.choice([0.0, dice.random(), dice.uniform(0.0, 4.0)])

    def left(self) -> int:
        """How many bytes may still be read. Raises WasCut if it is time."""
        if self._bytes == 0 or (self._until is not None and monotonic() >= self._until):
            raise WasCut
        return 65_536 if self._bytes is None else self._bytes

    def wait(self) -> float:
        """How long a read may take."""
        if self._until is None:
            return SILENCE
        return min(SILENCE, max(0.0, self._until - monotonic()))

    def took(self, count: int) -> None:
        """So many bytes were read."""
        if self._bytes is not None:
            self._bytes -= count


NEVER = Knife(random.Random(0), often=-1.0)
"""That of a client which does not cut."""


class _Chunks:
    """A chunked body (RFC 9112, section 7.1) that comes in pieces."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The part of the content that is complete."""
        self._pending += data
        content = b""
        while not self.ended:
            line = self._pending.find(b"\r\n")
            if line < 0:
                break
            size = int(self._pending[:line], 16)
            end = line + 2 + size
            if len(self._pending) < end + 2:
                break
            assert self._pending[end : end + 2] == b"\r\n"
            content += self._pending[line + 2 : end]
            del self._pending[: end + 2]
            self.ended = size == 0
        return content


def reset(transport: asyncio.WriteTransport) -> None:
    """End a connection with RST, if it has not ended."""
    connection: socket.socket = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Answer:
    """The answer to one request: a context manager, which holds the connection."""

    status: int
    headers: Dict[str, str]

    def __init__(self, knife: Knife) -> None:
        self._knife = knife
        self._reader: asyncio.StreamReader
        self._writer: Optional[asyncio.StreamWriter] = None
        self._unread = b""
        self.decoder = Decoder()
        self.port = 0

    async def ask(self, port: int, data: bytes) -> None:
        """Connect, send a request, and read the head of the answer."""
        try:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
            self.port = self._writer.get_extra_info("sockname")[1]
            self._writer.write(data)
        except OSError as error:
            raise Broken(str(error)) from None
        while b"\r\n\r\n" not in self._unread:
            self._unread += await self._more()
        head, self._unread = self._unread.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        pairs = [line.partition(":") for line in lines]
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}

    async def _more(self) -> bytes:
        knife = self._knife
        try:
            data = await asyncio.wait_for(self._reader.read(knife.left()), knife.wait())
        except asyncio.TimeoutError:
            knife.left()
            raise Silent from None
        except OSError as error:
            raise Broken(str(error)) from None
        if not data:
            raise Broken("it ended")
        knife.took(len(data))
        return data

    async def frames(self) -> AsyncIterator[Frame]:
        """The frames, up to the proper end of the answer."""
        chunks, data = _Chunks(), self._unread
        while True:
            for frame in self.decoder.feed(chunks.feed(data)):
                yield frame
            if chunks.ended:
                return
            data = await self._more()

    async def json(self) -> Any:
        """An answer that is no stream."""
        left = int(self.headers.get("content-length", "0")) - len(self._unread)
        while left > 0:
            data = await self._more()
            self._unread += data
            left -= len(data)
        return json.loads(self._unread) if self._unread else None

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._writer is not None:
            if self._knife.resets:
                reset(self._writer.transport)
            self._writer.transport.abort()  # nothing waits to be sent


def post(body: Dict[str, Any], headers: Mapping[str, str], path: str = "/api/v1/chat") -> bytes:
    """The bytes of a POST."""
    return post_request(body, path=path, headers=headers)


def ask(path: str, headers: Optional[Mapping[str, str]] = None, method: str = "GET") -> bytes:
    """The bytes of a request without a body."""
    lines: List[str] = [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{''.join(lines)}\r\n".encode("ascii")

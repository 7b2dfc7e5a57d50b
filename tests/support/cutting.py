"""A proxy that cuts connections, as a phone that changes its network does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import List, Optional, Sequence, Set

from .constants import PATIENCE

_asks = re.compile(rb"(GET|POST) (\S+) HTTP/1\.1\r\n").match


class _Connection:
    """The two sides of one connection, and how much of the present answer may still pass."""

    def __init__(self, writers: List[asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.left: Optional[int] = None
        self._head: Optional[bytearray] = None

    def begin(self, left: Optional[int]) -> None:
        """An answer begins, of whose body `left` bytes may pass."""
        self.left = left
        self._head = bytearray()

    def passing(self, data: bytes) -> bytes:
        """As much of `data`, which is of an answer, as may pass."""
        if self.left is None:
            return data
        body = data
        if self._head is not None:
            self._head += data
            _, found, body = bytes(self._head).partition(b"\r\n\r\n")
            if not found:
                return data
            self._head = None
        kept = body[: self.left]
        self.left -= len(kept)
        return data[: len(data) - len(body) + len(kept)]

    def cut(self) -> None:
        """End both sides; what was passed still arrives."""
        for writer in self.writers:
            writer.close()


class CuttingProxy:
    """A TCP proxy before a port of this machine, in a thread of its own.

    The answers to GET and POST of a path that matches `path` are counted: of the body of the first
    one `after[0]` bytes pass, and so on; of those behind them all. `cut` cuts what is open, and
    while `refusing` is set, each new connection. `cuts` counts the connections that were cut, and
    `asked` are the methods and paths of the counted requests.
    """

    def __init__(
        self, port: int, after: Sequence[int] = (), *, path: str = r".*/chat(/.*|\?.*)?"
    ) -> None:
        self.after = list(after)
        self.refusing = False
        self.cuts = 0
        self.asked: List[str] = []
        self._path = re.compile(path.encode())
        self._target = port
        self._open: Set[_Connection] = set()
        self._tasks: Set[asyncio.Task[None]] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event
        self.port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        assert self._started.wait(PATIENCE), "the proxy did not start"
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the proxy did not end"

    def cut(self, *, refusing: bool = False) -> None:
        """Cut each open connection now."""

        async def now() -> None:
            self.refusing = refusing
            for connection in list(self._open):
                self._cut(connection)

        asyncio.run_coroutine_threadsafe(now(), self._loop).result(PATIENCE)

    def _cut(self, connection: _Connection) -> None:
        self.cuts += 1
        connection.cut()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._ended.wait()
        server.close()
        for connection in list(self._open):
            connection.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            self.cuts += 1
            writer.close()
            return
        try:
            there, on = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        connection = _Connection([writer, on])
        self._open.add(connection)
        try:
            await asyncio.gather(
                self._requests(reader, on, connection), self._answers(there, writer, connection)
            )
        finally:
            self._open.discard(connection)
            connection.cut()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        while True:
            data = await _read(reader)
            asks = _asks(data)
            if asks and self._path.fullmatch(asks[2]):
                self.asked.append(b" ".join(asks.groups()).decode())
                connection.begin(self.after.pop(0) if self.after else None)
            elif asks:
                connection.begin(None)
            if not await _write(writer, data):
                return

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        while True:
            data = connection.passing(await _read(reader))
            if not await _write(writer, data):
                return
            if connection.left == 0:
                self._cut(connection)
                return


async def _read(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(OSError):
        return await reader.read(65536)
    return b""


async def _write(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Pass `data` on, or an end; whether it was none."""
    with contextlib.suppress(OSError):
        if data:
            writer.write(data)
            await writer.drain()
            return True
        writer.close()
    return False

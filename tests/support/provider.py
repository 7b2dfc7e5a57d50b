"""A provider on a real socket, which fails in every way asked for.

It answers each request as a script says, an async function of the Call. Each part that a script
sends is an HTTP chunk of its own, so a reader gets exactly these pieces.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, Awaitable, Callable, Dict, List, Mapping

from .constants import PATIENCE


class Call:
    """One request as it came, and the means to answer it."""

    def __init__(
        self,
        head: bytes,
        body: bytes,
        connection: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        self.path = first.split()[1]
        fields = [line.partition(":") for line in lines]
        self.header_names = [name.lower() for name, _, _ in fields]
        self.headers = {name.lower(): value.strip() for name, _, value in fields}
        self.body: Dict[str, Any] = json.loads(body)
        self.connection = connection
        self.gone = threading.Event()
        """The client has closed the connection while a script waited for that."""
        self.writer = writer
        self._reader = reader

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, **headers: str) -> None:
        """Begin a stream."""
        fields = {"content_type": "text/event-stream", "transfer_encoding": "chunked", **headers}
        await self.send(_head("200 OK", fields))

    async def part(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def stream(self, *parts: bytes) -> None:
        """A whole stream."""
        await self.head()
        for part in parts:
            await self.part(part)
        await self.end()

    async def refuse(self, status: int, document: Any = None, **headers: str) -> None:
        """An answer that is no stream."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        fields = {"content_type": "application/json", "content_length": str(len(data)), **headers}
        await self.send(_head(f"{status} X", fields) + data)

    async def left(self) -> None:
        """Wait until the client has closed its connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.gone.set()

    def reset(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()

    def close(self) -> None:
        """End the connection properly."""
        self.writer.close()


def _head(status: str, fields: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


Script = Callable[[Call], Awaitable[None]]


def streaming(*parts: bytes) -> Script:
    """Send a whole stream."""
    return lambda call: call.stream(*parts)


def opening(*frames: bytes, then: Script = Call.left) -> Script:
    """Begin a stream with these frames, in one part, and go on with `then`."""

    async def script(call: Call) -> None:
        await call.head()
        if frames:
            await call.part(b"".join(frames))
        await then(call)

    return script


def refusing(status: int, document: Any = None, **headers: str) -> Script:
    """Answer with something that is no stream."""
    return lambda call: call.refuse(status, document, **headers)


async def hang_up(call: Call) -> None:
    """End the connection without an answer."""
    call.close()


class Provider:
    """Answers the first request by the first script, and so on; the last script goes on."""

    def __init__(self, *scripts: Script) -> None:
        self.calls: List[Call] = []
        self.connections = 0
        self.open_connections = 0
        self._scripts = scripts
        self._came = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.url = ""

    def __enter__(self) -> Provider:
        self._thread.start()
        assert self._ready.wait(PATIENCE), "the provider did not start"
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the provider did not end"

    def call(self, number: int = 1) -> Call:
        """The request of that number, counted from 1, when it has come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.calls) >= number, PATIENCE)
        return self.calls[number - 1]

    def wait_for_open_connections(self, most: int) -> None:
        """Wait until no more than `most` connections are open."""
        with self._came:
            assert self._came.wait_for(lambda: self.open_connections <= most, PATIENCE)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.current_task())
            await self._connection(reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        connection = self.connections
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                call = Call(head, body, connection, reader, writer)
                with self._came:
                    self.calls.append(call)
                    self._came.notify_all()
                    script = self._scripts[min(len(self.calls), len(self._scripts)) - 1]
                await script(call)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
            with self._came:
                self.open_connections -= 1
                self._came.notify_all()

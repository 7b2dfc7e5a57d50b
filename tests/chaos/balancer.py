"""A balancer: TCP in, TCP out, each connection to the next worker in turn that is up."""

from __future__ import annotations

import asyncio
import socket
from typing import Callable, Optional, Sequence, Set

from .requests import reset


class _Side(asyncio.Protocol):
    """One of the two connections. What comes goes to the other one, an end or a break too."""

    def __init__(self, opened: Optional[Callable[[_Side], None]] = None) -> None:
        self._opened = opened
        self.other: Optional[_Side] = None
        self.lost = False
        self._early = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._opened is not None:
            self._opened(self)

    def join(self, other: _Side) -> None:
        """From now on `other` is the other one; it gets what has come already."""
        self.other, other.other = other, self
        other.transport.write(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        elif not self.other.lost:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.lost:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.lost:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.lost = True
        other = self.other
        if other is not None and not other.lost:
            if error is None:
                other.transport.close()
            else:
                other.reset()

    def reset(self) -> None:
        """End it as a crash or a network would: with RST."""
        reset(self.transport)


class Balancer:
    """It serves on `port`. `targets` tells the ports of the workers that are up."""

    def __init__(self, targets: Callable[[], Sequence[int]]) -> None:
        self._targets = targets
        self._turn = 0
        self._clients: Set[_Side] = set()
        self._tasks: Set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer
        self.port = 0

    async def __aenter__(self) -> Balancer:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self._server = await loop.create_server(lambda: _Side(self._accept), sock=listener)
        self.port = listener.getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> int:
        """Break all connections, as a balancer does that is started again; how many there were."""
        clients = [side for side in self._clients if not side.lost]
        for side in clients:
            side.reset()
        self._clients.clear()
        return len(clients)

    def _accept(self, side: _Side) -> None:
        self._clients = {known for known in self._clients if not known.lost}
        self._clients.add(side)
        task = asyncio.ensure_future(self._connect(side))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, side: _Side) -> None:
        loop = asyncio.get_running_loop()
        targets = self._targets()
        self._turn += 1
        for number in range(len(targets)):
            port = targets[(self._turn + number) % len(targets)]
            try:
                _, there = await loop.create_connection(_Side, "127.0.0.1", port)
            except OSError:
                continue
            if side.lost:
                there.transport.abort()
                return
            side.join(there)
            return
        side.reset()

"""The load: raw sockets, requests made beforehand, and per reply no work but to find its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from typing import Awaitable, Dict, List, Mapping, Optional

from omniforge_chat.dialects.native import Native

from .server import Server, waited_seconds
from .subjects import CONVERSATION, IN_FORMATS, INTERVALS, KEY, MESSAGE, RELAYED_TOKENS, question

CONNECTIONS = {"short": 32, "long": 8, "relay": 8}
CONNECTIONS.update({workload: CONNECTIONS[kind] for workload, (kind, _) in IN_FORMATS.items()})
"""How many ask at once where the rate is measured."""

STREAMS = {"paced": 900, "kept": 300, "relay-paced": 300, "many": 10_000}
"""How many paced streams are open at once."""

_PARTS = {"relay": RELAYED_TOKENS}
"""Where not a reply but a token is what is counted: how many of them a reply has."""

_TURNS = 4
"""In how many pieces the servers' times are taken, so that what disturbs one disturbs all."""

OPENING = 20
"""Over how many intervals the paced streams are opened, each at its own point of an interval."""

PATIENCE = 20.0
"""Seconds after which an answer is given up."""

_OPENING_PATIENCE = 4.0
"""Seconds after which paced streams that have not begun never will: the server is overloaded."""

_END = b"0\r\n\r\n"  # the last chunk of a chunked body (RFC 9112, section 7.1)
_OK = b"HTTP/1.1 200"
_stamps = re.compile(rb"@(\d+) ").findall

Figures = Dict[str, float]
"""The name of a figure, with its unit, and its value."""


def _request(message: str) -> bytes:
    body = json.dumps({"message": message, "conversation_id": CONVERSATION})
    return _post(Native.path, body.encode())


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


REQUESTS = {
    "short": _request(MESSAGE),
    "long": _request(MESSAGE),
    "paced": _request("3"),
    "kept": _request("3"),
    "many": _request("1"),
    "relay": _request(str(RELAYED_TOKENS)),
    "relay-paced": _request("3"),
    **{workload: _post(*question(workload)) for workload in IN_FORMATS},
}
"""The bytes that ask for one reply of each workload; a paced one has few tokens."""


async def measure(
    servers: Mapping[str, Server], workload: str, seconds: float, *, alone: bool
) -> List[Figures]:
    """What `workload` costs each of the servers, of which only one has work at a time.

    `alone` says that nothing else needs this process's core.
    """
    for server in servers.values():
        server.ask(REQUESTS[workload])  # from now on all have started
    idle = Idle()
    if alone:
        await idle.begin()
    try:
        if workload in STREAMS:
            return [await _pace(server, idle, workload, 2 * seconds) for server in servers.values()]
        saturations = [await _Saturation.of(server, idle, workload) for server in servers.values()]
        for _ in range(_TURNS):
            for saturation in saturations:
                await saturation.go_on(seconds / _TURNS)
        return [saturation.end() for saturation in saturations]
    finally:
        idle.end()


class Idle:
    """Keeps this process awake while it has nothing to do, and counts for how long that is.

    A send that wakes a sleeping reader costs the server far more than one to a reader that is
    awake, on a virtual machine as much as a short reply. It is a cost of the load's being on the
    same machine; and the slower a server is, the more of its sends would pay it.
    """

    def __init__(self) -> None:
        self._turns = 0
        self._seconds = 0.0  # that a turn of the event loop takes which has nothing to do
        self._task: Optional[asyncio.Future[None]] = None

    async def begin(self) -> None:
        """Be idle from now on, whenever there is nothing to do."""
        self._task = asyncio.ensure_future(self._turn())
        await asyncio.sleep(_CALIBRATION)
        turns, began = self._turns, time.process_time()
        await asyncio.sleep(_CALIBRATION)
        self._seconds = (time.process_time() - began) / (self._turns - turns)

    async def _turn(self) -> None:
        while True:
            self._turns += 1
            await asyncio.sleep(0)

    def end(self) -> None:
        """Sleep again."""
        if self._task is not None:
            self._task.cancel()

    def busy_seconds(self) -> float:
        """How long this process has worked so far."""
        return time.process_time() - self._turns * self._seconds


_CALIBRATION = 0.05
"""For how many seconds idle turns are timed."""


class Meter:
    """The time of the clock, of a server's process and of this one, while something is done.

    A process's time is what it had of its core, and what it waited for it.
    """

    def __init__(self, server: Server, idle: Idle) -> None:
        self._server = server
        self._idle = idle
        self._spent = [0.0] * 5
        self._done = 0

    def _read(self) -> List[float]:
        server = self._server
        used, waited = server.cpu_seconds(), server.waited_seconds()
        busy = self._idle.busy_seconds()
        return [time.perf_counter(), used, waited, busy, waited_seconds("self")]

    async def add(self, work: Awaitable[int]) -> None:
        """Measure `work`, which returns how many replies, or tokens, came of it."""
        before = self._read()
        self._done += await work
        for index, now in enumerate(self._read()):
            self._spent[index] += now - before[index]

    def figures(self) -> Figures:
        clock, server, server_waited, load, load_waited = self._spent
        return {
            "per_second": self._done / clock,
            "per_cpu_second": self._done / server,
            "cpu_us": 1e6 * server / self._done,
            "server_percent": 100 * server / clock,
            "server_waited_percent": 100 * server_waited / clock,
            "load_percent": 100 * load / clock,
            "load_waited_percent": 100 * load_waited / clock,
        }


class _Asker(asyncio.Protocol):
    """A connection that asks again as soon as it is answered, for as long as it is told to."""

    def __init__(self, saturation: _Saturation) -> None:
        self._saturation = saturation
        self._tail = b""
        self._fresh = True
        self.transport: asyncio.Transport

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._saturation.fail("the server closed a connection")

    def ask(self) -> None:
        self._fresh = True
        self.transport.write(self._saturation.request)

    def data_received(self, data: bytes) -> None:
        saturation = self._saturation
        if self._fresh:
            self._fresh = False
            if not data.startswith(_OK):
                saturation.fail(f"the server answered {data[:80]!r}")
        self._tail = data[-5:] if len(data) >= 5 else (self._tail + data)[-5:]
        if self._tail == _END:
            saturation.replies += 1
            if time.perf_counter() < saturation.deadline:
                self.ask()
            else:
                saturation.rest()


class _Saturation:
    """As many replies as a server can give, to connections that are kept."""

    def __init__(self, server: Server, idle: Idle, workload: str) -> None:
        self.request = REQUESTS[workload]
        self.replies = 0
        self.deadline = 0.0
        self._parts = _PARTS.get(workload, 1)
        self._meter = Meter(server, idle)
        self._askers: List[_Asker] = []
        self._busy = 0
        self._rested: asyncio.Future[None]

    @classmethod
    async def of(cls, server: Server, idle: Idle, workload: str) -> _Saturation:
        """One whose connections are open, and have been used for a moment."""
        self = cls(server, idle, workload)
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS[workload]):
            transport, asker = await loop.create_connection(
                lambda: _Asker(self), "127.0.0.1", server.port
            )
            asker.transport = transport
            self._askers.append(asker)
        await self._keep_asking(0.2)
        return self

    async def go_on(self, seconds: float) -> None:
        """Measure for `seconds`, and until what was asked in them is answered."""
        await self._meter.add(self._keep_asking(seconds))

    async def _keep_asking(self, seconds: float) -> int:
        before, self._busy = self.replies, len(self._askers)
        self._rested = asyncio.get_running_loop().create_future()
        self.deadline = time.perf_counter() + seconds
        for asker in self._askers:
            asker.ask()
        await asyncio.wait_for(self._rested, seconds + PATIENCE)
        return (self.replies - before) * self._parts

    def rest(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._rested.set_result(None)

    def fail(self, why: str) -> None:
        if not self._rested.done():
            self._rested.set_exception(RuntimeError(why))

    def end(self) -> Figures:
        for asker in self._askers:
            asker.transport.abort()
        return self._meter.figures()


class _Listener(asyncio.Protocol):
    """One paced stream: it notes how long each token was on its way."""

    def __init__(self, wave: Wave) -> None:
        self._wave = wave
        self._begun = False

    def connection_lost(self, error: Optional[Exception]) -> None:
        if self._begun:
            self._wave.lost_one()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter_ns()  # the server's clock too: CLOCK_MONOTONIC
        for stamp in _stamps(data):
            self._wave.delays.append(now - int(stamp))
            if not self._begun:
                self._begun = True
                self._wave.begin_one()


class Wave:
    """Streams that are open together, with a token for each in every `interval`.

    They are opened in the course of so many intervals as `opening` says. `begun` counts those that
    had a token, and `lost` those that were cut after it.
    """

    def __init__(
        self, port: int, streams: int, tokens: int, interval: float, opening: int = OPENING
    ) -> None:
        self.delays: List[int] = []
        self.begun = 0
        self.lost = 0
        self._streams = streams
        self._request = _request(str(tokens))
        self._interval = interval
        self._opening = opening
        self._port = port
        self._transports: List[asyncio.Transport] = []
        self._all_begun = asyncio.Event()
        self._closed = False

    async def open(self, patience: float = _OPENING_PATIENCE) -> None:
        """Open them so that their tokens are spread evenly over the interval.

        It returns when each has had its first token, or the server `patience` seconds for that.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        for order in range(self._streams):
            turn, place = divmod(order * self._opening, self._streams)
            phase = (place + turn) / self._streams  # no two streams have the same
            await asyncio.sleep(start + (turn + phase) * self._interval - loop.time())
            transport, _ = await loop.create_connection(
                lambda: _Listener(self), "127.0.0.1", self._port
            )
            transport.write(self._request)
            self._transports.append(transport)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all_begun.wait(), patience)

    def lost_one(self) -> None:
        """A stream was cut, and not by us."""
        self.lost += not self._closed

    def begin_one(self) -> None:
        self.begun += 1
        if self.begun == self._streams:
            self._all_begun.set()

    async def listen(self, seconds: float) -> int:
        """Note the delays of the tokens that come from now on; how many they are."""
        self.delays.clear()
        await asyncio.sleep(seconds)
        return len(self.delays)

    def close(self) -> None:
        self._closed = True
        for transport in self._transports:
            transport.abort()


async def warm_up(server: Server, interval: float) -> None:
    """A few streams, so that what they leave behind is not counted for those that are measured."""
    first = Wave(server.port, OPENING, 4, interval, opening=round(1 / interval))
    await first.open()
    await asyncio.sleep(0.25)
    first.close()


async def _pace(server: Server, idle: Idle, workload: str, seconds: float) -> Figures:
    """What so many open streams cost while each gets a token in every interval."""
    interval = INTERVALS[workload]
    await warm_up(server, interval)
    before = server.resident_kib()

    tokens = round((seconds + PATIENCE) / interval)
    wave = Wave(server.port, STREAMS[workload], tokens, interval)
    meter = Meter(server, idle)
    await wave.open()
    await meter.add(wave.listen(seconds))
    grown = server.resident_kib() - before
    wave.close()
    server.stop()  # the next one gets the core for itself

    return {
        **meter.figures(),
        "streams": wave.begun,
        "kib_per_stream": grown / wave.begun,
        **delays_of(wave.delays),
    }


def delays_of(nanoseconds: List[int]) -> Figures:
    """The median and the 99th percentile."""
    delays = sorted(nanoseconds)
    return {
        "delay_p50_ms": delays[len(delays) // 2] / 1e6,
        "delay_p99_ms": delays[len(delays) * 99 // 100] / 1e6,
    }

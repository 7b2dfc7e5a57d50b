"""Very many streams at once, read by processes of their own: one cannot hold or read them all.

A reader process opens its streams, prints what has begun, waits for a line, and then counts what
comes for a while. It sleeps while nothing comes: each token wakes it, as it would a client.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from asyncio.subprocess import PIPE, Process
from typing import Any, Dict, List, Mapping

import uvloop

from .load import REQUESTS, STREAMS, Figures, Idle, Meter, Wave, delays_of, warm_up
from .server import Server, waited_seconds
from .subjects import INTERVALS

READERS = 2
"""How many processes share the streams."""

OPENED_PER_SECOND = 1_000
"""More would queue before the server, whatever it is, for longer than a client waits."""

_SPARE = 200
"""File descriptors of a process besides those of its streams."""

_PATIENCE = 30.0
"""Seconds in which a reader's streams have to begin once they are opened."""

_LIMIT = 120.0
"""Seconds after which a reader is given up."""

_ENDLESS = 10**6
"""Tokens of a stream: more than anybody waits for."""


def raise_descriptors() -> int:
    """Raise the limit of open files as far as it may go, for child processes too; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def needed_descriptors(workload: str) -> int:
    """The limit of open files that the server's process needs."""
    return STREAMS[workload] + _SPARE


async def measure(servers: Mapping[str, Server], workload: str, seconds: float) -> List[Figures]:
    """What so many open streams cost each of the servers, of which only one has work at a time."""
    for server in servers.values():
        server.ask(REQUESTS[workload])  # from now on all have started
    return [await _pace(server, workload, seconds) for server in servers.values()]


async def _pace(server: Server, workload: str, seconds: float) -> Figures:
    streams, interval = STREAMS[workload], INTERVALS[workload]
    await warm_up(server, interval)
    before = server.resident_kib()
    readers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__),
            *map(str, (server.port, streams // READERS, interval, seconds)),
            stdin=PIPE,
            stdout=PIPE,
            limit=2**26,
        )
        for _ in range(READERS)
    ]
    try:
        opened = await asyncio.gather(*map(_answer, readers))
        meter = Meter(server, Idle())
        answers: List[Dict[str, Any]] = []

        async def listen() -> int:
            answers.extend(await asyncio.gather(*map(_answer, readers)))
            return sum(len(answer["delays"]) for answer in answers)

        await meter.add(listen())
        grown = server.resident_kib() - before
    finally:
        for reader in readers:
            if reader.returncode is None:
                reader.kill()
            await reader.wait()
        server.stop()  # the next one gets the core for itself
    begun = sum(answer["begun"] for answer in opened)
    return {
        **meter.figures(),
        "load_percent": 100 * sum(answer["used"] for answer in answers) / seconds,
        "load_waited_percent": 100 * sum(answer["waited"] for answer in answers) / seconds,
        "streams": begun,
        "errors": streams - begun + sum(answer["lost"] for answer in answers),
        "kib_per_stream": grown / max(1, begun),
        **delays_of([delay for answer in answers for delay in answer["delays"]]),
    }


async def _answer(reader: Process) -> Dict[str, Any]:
    """Let `reader` go on, and take what it says."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(b"\n")
    answer: Dict[str, Any] = json.loads(await asyncio.wait_for(reader.stdout.readline(), _LIMIT))
    return answer


async def _read(port: int, streams: int, interval: float, seconds: float) -> None:
    """Be a reader."""
    opening = max(1.0, streams * READERS / OPENED_PER_SECOND)
    wave = Wave(port, streams, _ENDLESS, interval, opening=round(opening / interval))
    _wait()
    await wave.open(_PATIENCE)
    print(json.dumps({"begun": wave.begun}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, _wait)
    used, waited = time.process_time(), waited_seconds("self")
    await wave.listen(seconds)
    answer = {
        "delays": wave.delays,
        "lost": wave.lost,
        "used": time.process_time() - used,
        "waited": waited_seconds("self") - waited,
    }
    print(json.dumps(answer), flush=True)
    _wait()


def _wait() -> None:
    """Wait for a line, or end with the process that should send it."""
    if not sys.stdin.readline():
        sys.exit(1)


if __name__ == "__main__":
    _port, _streams, _interval, _seconds = sys.argv[1:]
    uvloop.run(_read(int(_port), int(_streams), float(_interval), float(_seconds)))

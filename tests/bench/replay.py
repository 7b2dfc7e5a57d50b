"""python -m tests.bench.replay: what it costs to keep replies, and to read them elsewhere.

    recording  300 replies get a token every 50 ms each, which an asyncio program makes and adds to
               a recording. CPU is what its process used for a token, above what it uses if it makes
               them alone: of each the least of some rounds, as whatever disturbs it adds to it
    pauses     how late the event loop is meanwhile, looked at each millisecond
    memory     what a reply of 200 tokens takes in the process that produces it
    following  another worker produces these replies, and 500 readers follow them here, 2 of them
               for some: they begin at the start of a reply, 2 ms apart. CPU is the share of a core
               that this process uses; the first piece is awaited from the search for the reply on,
               and the delay of a token is from its making to its reader. Then the other worker is
               killed, and the readers wait until they hear so

The server, Redis, is on this machine, on another core. There is no HTTP in it: a reader that
writes to a client costs as much as any stream. The machine must be quiet. It needs Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import time
import tracemalloc
from typing import Any, Dict, Iterator, List, Optional, Sequence

from omniforge_chat.models import Done, Error, Usage
from omniforge_chat.replay import MemoryReplay, Replay
from omniforge_chat.replay.redis import RedisReplay
from omniforge_chat.stores import SharedRedis

from ..support.stores import RedisServer
from ..support.stores.redis import program

REPLIES, READERS = 300, 500
PERIOD, SECONDS, ROUNDS = 0.05, 5.0, 3
PREFIX = "bench:"


def names() -> List[str]:
    return [f"{number:022}" for number in range(REPLIES)]


async def pace(recordings: Sequence[Any], seconds: float) -> int:
    """Add tokens to recordings, spread evenly over a period; their number. None of them is kept."""
    tokens, turns, start = 0, 50, time.perf_counter()
    for turn in range(int(seconds / PERIOD * turns)):
        await asyncio.sleep(max(0.0, start + turn * PERIOD / turns - time.perf_counter()))
        for recording in recordings[turn % turns :: turns]:
            piece = [f"{time.monotonic():.4f} "]
            if recording is not None:
                recording.add(piece)
            tokens += 1
    return tokens


async def recording(replay: Optional[Replay]) -> float:
    """Seconds of CPU for a token."""
    recordings: List[Any] = [None] * REPLIES
    if replay is not None:
        recordings = [replay.record(name, f"c{name}", "") for name in names()]
    await pace(recordings, 1.0)
    before = time.process_time()
    tokens = await pace(recordings, SECONDS)
    used = (time.process_time() - before) / tokens
    for each in recordings:
        if each is not None:
            each.end(Done("c", Usage(1)))
    return used


async def pauses(replay: Optional[Replay]) -> float:
    """The p99 of the seconds that the event loop is late while it records."""
    late: List[float] = []

    async def look() -> None:
        while True:
            at = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - at)

    looking = asyncio.ensure_future(look())
    await recording(replay)
    looking.cancel()
    return sorted(late)[int(len(late) * 0.99)]


async def memory(replay: Replay) -> float:
    """The bytes that a running reply of 200 tokens takes."""
    tracemalloc.start()
    await asyncio.sleep(0.5)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    recordings = [replay.record(name, f"c{name}", "") for name in names()]
    await pace(recordings, 200 * PERIOD)
    await asyncio.sleep(0.5)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert None not in recordings
    return taken / REPLIES


async def produce(url: str) -> None:
    """Another worker, until it is killed."""
    replay = RedisReplay(SharedRedis(url, PREFIX))
    recordings = [replay.record(name, f"c{name}", "") for name in names()]
    print("ready", flush=True)
    await pace(recordings, 3600.0)


class Reader:
    """Somebody who reads, and times what comes."""

    def __init__(self) -> None:
        self.first = 0.0
        self.delays: List[float] = []
        self.ended = 0.0

    async def read(self, replay: Replay, name: str) -> None:
        began = time.monotonic()
        kept = await replay.find(name, "")
        assert kept is not None
        async for entry in kept.read(0):
            now = time.monotonic()
            if isinstance(entry, Error):
                self.ended = now
            elif not self.first:
                self.first = now - began
            else:
                self.delays += [now - float(sent) for sent in str(entry).split()]


async def following(url: str, kill: Any) -> Dict[str, Any]:
    redis = SharedRedis(url, PREFIX)
    replay = RedisReplay(redis)
    readers = [Reader() for _ in range(READERS)]
    tasks = []
    for number, reader in enumerate(readers):
        tasks.append(asyncio.ensure_future(reader.read(replay, names()[number % REPLIES])))
        await asyncio.sleep(0.002)
    await asyncio.sleep(1.0)
    for reader in readers:
        reader.delays.clear()
    before = time.process_time()
    await asyncio.sleep(SECONDS)
    used = (time.process_time() - before) / SECONDS
    delays = [delay for reader in readers for delay in reader.delays]
    killed = time.monotonic()
    kill()
    await asyncio.gather(*tasks)
    await replay.aclose()
    await redis.aclose()
    return {
        "cpu": used,
        "first": [reader.first for reader in readers],
        "delay": delays,
        "lost": [reader.ended - killed for reader in readers],
    }


@contextlib.contextmanager
def producer(url: str, core: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", __spec__.name, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.sched_setaffinity(process.pid, {core})
        process.stdout.readline()
        time.sleep(2.0)
        try:
            yield process
        finally:
            process.kill()


def quantiles(seconds: List[float]) -> str:
    ordered = sorted(seconds)
    middle, high = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99))
    return f"p50 {middle:.0f} ms, p99 {high:.0f} ms"


async def in_redis(url: str, measured: Any) -> float:
    redis = SharedRedis(url, PREFIX)
    replay = RedisReplay(redis)
    value: float = await measured(replay)
    await asyncio.sleep(0.5)
    await replay.aclose()
    await redis.aclose()
    return value


def main() -> None:
    with RedisServer(program("redis")) as server:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(server.pid, {cores[-1]})
        os.sched_setaffinity(0, {cores[0]})
        rounds = []
        before: Dict[str, Any] = server.client.info()
        for _ in range(ROUNDS):
            alone = asyncio.run(recording(None))
            kept = asyncio.run(recording(MemoryReplay()))
            rounds.append((alone, kept, asyncio.run(in_redis(server.url, recording))))
            server.flush()
        after: Dict[str, Any] = server.client.info()
        alone, kept, stored = (min(each) * 1e6 for each in zip(*rounds))
        print(f"recording  memory: {kept - alone:.2f} µs a token, above {alone:.2f}")
        print(f"recording  redis: {stored - alone:.2f} µs a token")
        tokens = ROUNDS * REPLIES * (SECONDS + 1.0) / PERIOD
        for name in ("used_cpu_user", "used_cpu_sys"):
            print(
                f"           {name}: {(after[name] - before[name]) / tokens * 1e6:.2f} µs a token"
            )
        commands = after["total_commands_processed"] - before["total_commands_processed"]
        print(f"           {commands / tokens:.2f} commands a token, those of scripts too")
        alone, kept = asyncio.run(pauses(None)), asyncio.run(in_redis(server.url, pauses))
        print(f"pauses     redis: p99 {kept * 1e3:.2f} ms, without {alone * 1e3:.2f}")
        server.flush()
        print(f"memory     memory: {asyncio.run(memory(MemoryReplay())):.0f} bytes a reply")
        print(f"memory     redis: {asyncio.run(in_redis(server.url, memory)):.0f} bytes a reply")
        sizes = [server.client.memory_usage(key) for key in server.client.keys(f"{PREFIX}r:*")]
        texts = 200 * len(f"{time.monotonic():.4f} ")
        each = sum(size or 0 for size in sizes) / len(sizes)
        print(f"           in the server: {each:.0f} bytes a reply, of which {texts} are its text")
        server.flush()
        with producer(server.url, cores[-1]) as process:
            found = asyncio.run(following(server.url, process.kill))
        print(f"following  {found['cpu'] * 100:.1f} % of a core for {READERS} readers")
        for name in ("first", "delay", "lost"):
            print(f"           {name}: {quantiles(found[name])}")


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(produce(sys.argv[1]))
    else:
        main()

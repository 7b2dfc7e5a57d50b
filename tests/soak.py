"""Streams that end, fail, stall and are dropped at random: `python -m tests.soak --seconds 60`.

The seed is printed, and decides who does what; in which order it happens is the machine's. A client
that stays has to see each of its streams end with a terminal event. At the end the server drains,
and nothing may be left of anything: no stream, no task, no connection, no file descriptor. Exit
status 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import gc
import json
import logging
import random
import socket
import struct
import sys
from typing import AsyncIterator, Counter, List, Optional

from omniforge_chat import ChatError, Settings, Turn, create_app
from omniforge_chat.core.sse import Decoder, Frame
from omniforge_chat.stream.response import EventStream

from .support.client import request
from .support.constants import PATIENCE
from .support.servers import ServiceThread

CLIENTS = 100
"""How many are at it at once."""

SETTINGS = Settings(
    max_streams=90,  # so that now and then there is no room
    body_timeout=0.5,
    heartbeat_interval=0.1,
    first_chunk_timeout=0.5,
    idle_timeout=0.3,
    total_timeout=1.5,
    send_timeout=0.5,
    cleanup_timeout=0.2,
    drain_timeout=0.3,
)

REPLIES = (
    "says",
    "waits",
    "pours",
    "never begins",
    "stops",
    "fails",
    "breaks",
    "lingers",
    "is deaf",
)
CLIENTS_DO = ("stay", "stay", "stay", "leave", "reset", "stop reading", "send half", "dawdle")


async def respond(turn: Turn) -> AsyncIterator[str]:
    """Do what the message says."""
    dice = random.Random(turn.message)
    does = turn.message.partition(":")[0]
    try:
        if does == "never begins":
            await asyncio.sleep(3600)
        for _ in range(dice.randrange(20)):
            yield "word "
            if does != "says":
                await asyncio.sleep(dice.random() / 50)
        if does == "pours":
            for _ in range(dice.randrange(3000)):
                yield "x" * 1000
        elif does == "stops":
            await asyncio.sleep(3600)
        elif does == "fails":
            raise ChatError("on purpose")
        elif does == "breaks":
            yield "half a smile: \ud83d"
            await asyncio.sleep(3600)
        elif does == "is deaf":
            for _ in range(2):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
            yield "what?"
    finally:
        if does == "lingers":
            await asyncio.sleep(dice.choice([0.01, 0.1, 3600]))


class Soak:
    """So many clients, each with one stream after the other, until the time is up."""

    def __init__(self, seed: int, port: int) -> None:
        self._seed = seed
        self._port = port
        self.ends: Counter[str] = collections.Counter()
        self.broken: List[str] = []

    async def run(self, seconds: float) -> None:
        """Do it, and return while the last streams are still open."""
        until = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*[self._client(number, until) for number in range(CLIENTS)])

    async def _client(self, number: int, until: float) -> None:
        dice = random.Random(f"{self._seed}-{number}")
        while asyncio.get_running_loop().time() < until:
            message = f"{dice.choice(REPLIES)}:{dice.getrandbits(64)}"
            await self._stream(message, dice.choice(CLIENTS_DO), dice.randrange(30))

    async def _stream(self, message: str, does: str, frames: int) -> None:
        """Ask, and do what a client does; `frames` is for how long it behaves."""
        connection = socket.socket()
        connection.setblocking(False)
        if does in ("stop reading", "dawdle"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self._port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
        try:
            body = request({"message": message})
            writer.write(body[:-5] if does == "send half" else body)
            ended = await asyncio.wait_for(self._read(reader, does, frames), PATIENCE)
        except asyncio.TimeoutError:
            ended = "nothing"
        except (OSError, EOFError):
            ended = "cut"
        finally:
            if does == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.ends[f"{does}: {ended}"] += 1
        stays = does in ("stay", "send half")
        if ended == "nothing" or (stays and ended in ("cut", "chunk")):
            self.broken.append(f"{message} {does}: {ended}")

    async def _read(self, reader: asyncio.StreamReader, does: str, frames: int) -> str:
        """How the stream ended for this client."""
        head = await reader.readuntil(b"\r\n\r\n") if does != "stop reading" else b""
        status = head[9:12].decode()
        if does == "stop reading":
            await asyncio.sleep(1)  # the server's patience is shorter
            return "not read"
        if status != "200":
            return status
        decoder, last, seen = Decoder(), None, 0
        async for data in _pieces(reader):
            found: List[Frame] = decoder.feed(data)
            last, seen = found[-1] if found else last, seen + len(found)
            if does in ("leave", "reset") and seen > frames:
                return "left"
            if does == "dawdle":
                await asyncio.sleep(0.001)
        return _ending(last)


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a chunked body (RFC 9112, section 7.1), up to its proper end."""
    while True:
        try:
            size = int(await reader.readuntil(b"\r\n"), 16)
            data = await reader.readexactly(size + 2)
        except asyncio.IncompleteReadError:
            raise ConnectionError("the body broke off") from None
        if not size:
            return
        yield data[:-2]


def _ending(last: Optional[Frame]) -> str:
    if last is None or last.event == "chunk":
        return "chunk"
    code: str = json.loads(last.data).get("code", "done")
    return code


def soak(seconds: float, seed: int) -> List[str]:
    """What went wrong."""
    logging.disable(logging.CRITICAL)  # what is logged of an error keeps its stream in memory
    try:
        return _soak(seconds, seed)
    finally:
        logging.disable(logging.NOTSET)


def _soak(seconds: float, seed: int) -> List[str]:
    before = _in_memory()  # another test may hold on to some
    app = create_app(respond, settings=SETTINGS)
    service = ServiceThread(app, SETTINGS)
    with service:
        at_work = Soak(seed, service.port)
        asyncio.run(at_work.run(seconds))
        troubles = at_work.broken
        for end, count in sorted(at_work.ends.items()):
            print(f"{count:8} {end}")
        if not at_work.ends:
            troubles.append("nothing happened")
        try:
            service.rest()
        except AssertionError as error:
            troubles.append(f"something is left: {error}")
        asyncio.run(_drain(at_work, service))
        service.join()
    left = _in_memory() - before
    if left or app.open_streams:
        troubles.append(f"{left} streams are left in memory, {app.open_streams} open")
    return troubles


def _in_memory() -> int:
    """How many streams there are, open or not."""
    gc.collect()
    return sum(isinstance(thing, EventStream) for thing in gc.get_objects())


async def _drain(at_work: Soak, service: ServiceThread) -> None:
    """End the server under streams whose clients stay."""
    streams = [at_work._stream(f"{reply}:1", "stay", 0) for reply in REPLIES for _ in range(5)]
    tasks = [asyncio.ensure_future(stream) for stream in streams]
    await asyncio.to_thread(service.until, lambda: service.app.open_streams > 20)
    service.terminate()
    await asyncio.gather(*tasks)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    troubles = soak(arguments.seconds, arguments.seed)
    for trouble in troubles[:50]:
        print(trouble)
    print(f"{len(troubles)} troubles" if troubles else "all at rest")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())

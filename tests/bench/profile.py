"""python -m tests.bench.profile: where the time of a reply goes, layer by layer, in one process.

Each layer is called as the one above it calls it, with nothing but constants around it. The layers
take turns, and what counts is the median of many short pieces, as machines are not quiet. No server
and no socket are in it: code that has a core to itself, and its caches, is faster than in a server.

For a relayed token, 100 streams of an upstream in another process are read for some seconds, a
token every 50 ms each, and what counts is the CPU time of this process.

It needs what the bench needs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from statistics import median
from typing import Any, Awaitable, Callable, Dict, List

import httpx
import uvloop

from omniforge_chat import OpenAIResponder, Settings, Turn, create_app
from omniforge_chat.core.driver import drive
from omniforge_chat.core.responder import converse
from omniforge_chat.dialects.native import Native
from omniforge_chat.http.routes import chat_routes
from omniforge_chat.logs import BatchingStreamHandler, TextFormatter
from omniforge_chat.stream.lifecycle import Lifecycle
from omniforge_chat.stream.response import EventStream
from omniforge_chat.stream.state import StreamState

from ..support.native import encode_chunks, native_reply
from .load import REQUESTS
from .server import Server
from .subjects import CONVERSATION, MESSAGE, RESPONDERS

STREAMS = 100
WARM_UP = 2.0
"""Seconds in which the streams are opened, which is not what is measured."""

Layer = Callable[[], Awaitable[object]]

_BODY = REQUESTS["short"].partition(b"\r\n\r\n")[2]
_TURN = Turn(MESSAGE, CONVERSATION, "bench")


async def _receive() -> Any:
    return {"type": "http.request", "body": _BODY, "more_body": False}


async def _send(message: Any) -> None:
    """Take it."""


def _scope() -> Dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": Native.path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"bench"), (b"content-type", b"application/json")],
    }


def layers(workload: str) -> Dict[str, Layer]:
    """What is called for one reply, from the inside out."""
    responder, settings, lifecycle = RESPONDERS[workload], Settings(), Lifecycle(max_streams=1)
    endpoint: Any = chat_routes(responder, settings=settings)[0].endpoint
    app = create_app(responder, settings=settings)
    logger = logging.getLogger("omniforge_chat")

    async def alone() -> None:
        async for _ in responder(_TURN):
            pass

    async def without_log(layer: Awaitable[object]) -> None:
        logger.setLevel(logging.WARNING)
        await layer
        logger.setLevel(logging.INFO)

    def stream() -> Awaitable[object]:
        return EventStream(
            native_reply(_TURN), responder, settings, lifecycle, _receive, _send
        ).respond()

    def core() -> Awaitable[object]:
        reply = native_reply(_TURN)
        control = StreamState(settings, 0.0)
        return drive(converse(_TURN, responder, reply, control), reply.sent)

    return {
        "the responder alone": alone,
        "and the core": core,
        "and the stream": lambda: without_log(stream()),
        "and the endpoint": lambda: without_log(endpoint(_scope(), _receive, _send)),
        "and the app": lambda: without_log(app(_scope(), _receive, _send)),
        "and the log line": lambda: app(_scope(), _receive, _send),
    }


async def measure(workload: str, times: int, pieces: int = 60) -> None:
    """Print the microseconds of each layer together with those within it."""
    taken: Dict[str, List[float]] = {}
    for _ in range(pieces):
        for name, layer in layers(workload).items():
            began = time.perf_counter()
            for _ in range(times):
                await layer()
            taken.setdefault(name, []).append((time.perf_counter() - began) / times)
    before = 0.0
    for name, values in taken.items():
        now = 1e6 * median(values)
        print(f"{workload:8} {name:22} {now:8.1f} µs  (+{now - before:.1f})")
        before = now


FRAMES = {
    "a short piece": ["Thank you "],
    "400 pieces": ["Thank you "] * 400,
    "a Chinese piece": ["谢谢你的信"],
    "400 Chinese pieces": ["谢谢你的信"] * 400,
    "400 pieces with dashes": ["so — then "] * 400,
}
"""Texts that a write brings: the escaping of some line ends (sse.py) must not cost them much."""


def frames(pieces: int = 60) -> None:
    """Print the microseconds for the frames of each of FRAMES."""
    taken: Dict[str, List[float]] = {}
    for _ in range(pieces):
        for name, texts in FRAMES.items():
            times = 4_000 // len(texts)
            began = time.perf_counter()
            for _ in range(times):
                encode_chunks(texts)
            taken.setdefault(name, []).append((time.perf_counter() - began) / times)
    for name, values in taken.items():
        print(f"{'frames':8} {name:22} {1e6 * median(values):8.2f} µs")


async def relay(url: str, seconds: float = 4.0) -> None:
    """Print the CPU microseconds of a relayed token, for httpx and for the responder with it."""
    # The first request of a connection costs the most, and is not what is asked for here.
    turn = Turn(str(10**6), CONVERSATION, "bench")
    headers = {"Content-Type": "application/json"}
    body = b'{"messages": [{"role": "user", "content": "1000000"}]}'
    read = 0

    async def alone() -> None:
        nonlocal read
        async with client.stream("POST", f"{url}/chat", content=body, headers=headers) as answer:
            async for _ in answer.aiter_raw():
                read += 1

    async def relayed() -> None:
        nonlocal read
        async for _ in responder(turn):
            read += 1

    before = 0.0
    for name, one in (("httpx alone", alone), ("and the responder", relayed)):
        client = httpx.AsyncClient(limits=httpx.Limits(max_connections=STREAMS), timeout=None)
        responder = OpenAIResponder(base_url=url, model="bench")
        tasks = [asyncio.ensure_future(one()) for _ in range(STREAMS)]
        await asyncio.sleep(WARM_UP)
        began, read_before = time.process_time(), read
        await asyncio.sleep(seconds)
        now = 1e6 * (time.process_time() - began) / (read - read_before)
        print(f"{'relay':8} {name:22} {now:8.1f} µs  (+{now - before:.1f})")
        before, read = now, 0
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await client.aclose()
        await responder.aclose()


def main() -> None:
    """Measure and print."""
    handler = BatchingStreamHandler()
    handler.setFormatter(TextFormatter())
    handler.setStream(open(os.devnull, "w"))  # noqa: SIM115  # as long as the process
    logging.getLogger().addHandler(handler)  # and no other, as in a service
    logging.getLogger("omniforge_chat").setLevel(logging.INFO)
    uvloop.run(measure("short", times=50))
    uvloop.run(measure("long", times=2))
    frames()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    with Server("direct", "relay-paced", cores[-1]) as upstream:
        uvloop.run(relay(f"http://127.0.0.1:{upstream.port}/v1"))


if __name__ == "__main__":
    main()

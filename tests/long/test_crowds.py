"""Crowds: how soon each of many clients is served or let go, and what they cost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Dict, List

import pytest

from ..support.client import Client, hesitant
from ..support.constants import PATIENCE
from ..support.process import running

RESPONDERS = '''
import asyncio, ctypes, gc, json, time

c_library = ctypes.CDLL(None)
closed = {}
changed = asyncio.Condition()

async def note(turn):
    closed[turn.message] = time.monotonic()
    async with changed:
        changed.notify_all()

async def leaving(turn):
    """Say something until the client leaves, and note when that was learnt."""
    kind, _, number = turn.message.partition(" ")
    if kind == "report":
        async with changed:
            await changed.wait_for(lambda: len(closed) == int(number))
        gc.collect()
        if hasattr(c_library, "malloc_trim"):  # glibc keeps what is free rather than give it back
            c_library.malloc_trim(0)
        yield json.dumps(closed)
        return
    try:
        yield "begun"
        while True:
            if kind == "waits":
                await asyncio.Event().wait()
            elif kind == "produces":
                await asyncio.sleep(0.05)
                yield "more"
            else:
                yield "x" * 4096
    finally:
        closed[turn.message] = time.monotonic()
        asyncio.ensure_future(note(turn))

async def greedy(turn):
    """Be always ready, or say one word."""
    while turn.message == "greedy":
        yield "x"
    yield "hello"
'''


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A current directory with the responders of a service in it."""
    (tmp_path / "crowds.py").write_text(RESPONDERS)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_crowd_that_never_reads_costs_little_and_gives_all_of_it_back(directory: Path) -> None:
    """Memory for one stream is bounded, whatever there is to say, and freed when it is cut.

    The first crowd also fills what is kept for the next; a second one must leave nothing at all.
    """

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{service.process.pid}/fd"))

    options = {"CHAT_RESPONDER": "crowds:leaving", "CHAT_SEND_TIMEOUT": "1"}
    with running(directory, **options) as service, contextlib.ExitStack() as leaving:
        assert service.reply("report 0") == "{}"
        at_rest = descriptors()
        held = [service.resident("VmRSS")]
        for round_ in (1, 2):
            crowd = [hesitant(service.port) for _ in range(200)]
            for number, client in enumerate(crowd):
                leaving.callback(client.close)
                client.post({"message": f"sends {round_}-{number}"})
            for client in crowd:
                client.head()
            for _ in crowd:  # the kernel's limit (TCP_USER_TIMEOUT) may be as quick as the stream's
                service.wait_for("outcome=(stalled|disconnected)")
            assert len(json.loads(service.reply(f"report {200 * round_}"))) == 200 * round_
            held.append(service.resident("VmRSS"))
            for client in crowd:
                client.close()
            while descriptors() > at_rest:  # the last connections are just being closed
                assert service.reply(f"report {200 * round_}")
        most = service.resident("VmHWM")
        print("{:.1f} MiB, {:.1f} after 200 that never read, {:.1f} after 400".format(*held))
        print(f"{most:.1f} MiB at most")
        assert most - held[0] < 60
        assert held[1] - held[0] < 20
        assert held[2] - held[1] < 3
        assert service.end() == 0


def _p99(seconds: List[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


def _figures(seconds: List[float]) -> str:
    return f"p99 {1000 * _p99(seconds):.1f} ms, max {1000 * max(seconds):.1f} ms"


def test_among_500_streams_a_client_that_leaves_ends_its_responder_at_once(
    directory: Path,
) -> None:
    """From the disconnect to the responder's `finally`: 50 ms at p99 is the aim.

    Machines of tests are noisy, so ten times that is what fails. 50 leave one after the other, the
    rest all in one moment.
    """
    kinds = ("waits", "produces", "sends")
    with running(directory, CHAT_RESPONDER="crowds:leaving") as service:
        clients: Dict[str, Client] = {}
        for number, kind in zip(range(500), itertools.cycle(kinds)):
            message = f"{kind} {number}"
            clients[message] = hesitant(service.port)
            clients[message].post({"message": message})
        for client in clients.values():
            assert client.head()[0] == 200
            assert client.frame().event == "chunk"
        left: Dict[str, float] = {}
        for (message, client), how in zip(clients.items(), itertools.cycle(["close", "reset"])):
            left[message] = time.monotonic()
            getattr(client, how)()
            if len(left) <= 50:
                service.wait_for("outcome=disconnected")
        for _ in range(450):
            service.wait_for("outcome=disconnected")
        learnt = json.loads(service.reply("report 500"))
        assert service.end() == 0
    delays = [(message, learnt[message] - left[message]) for message in clients]
    for kind in kinds:
        alone = [delay for message, delay in delays[:50] if message.startswith(kind)]
        print(f"one of 500 leaves ({kind}): {_figures(alone)}")
    together = [delay for _, delay in delays[50:]]
    print(f"450 leave at once: {_figures(together)}")
    assert _p99([delay for _, delay in delays[:50]]) < 0.5
    assert _p99(together) < 0.5


def test_a_responder_that_is_always_ready_does_not_starve_the_others(directory: Path) -> None:
    """A new stream's first chunk within 50 ms at p99 is the aim; ten times that is what fails."""
    with running(directory, CHAT_RESPONDER="crowds:greedy") as service, service.connect() as greedy:
        greedy.post({"message": "greedy"})
        greedy.head()
        taken = 0
        ended = threading.Event()

        def read() -> None:
            nonlocal taken
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    taken += greedy.socket.recv(1 << 20).count(b"event: chunk\n")

        reader = threading.Thread(target=read)
        reader.start()
        delays: List[float] = []
        try:
            while len(delays) < 200 or taken < 1_000_000:
                with service.connect() as client:
                    began = time.monotonic()
                    client.post({"message": "hello"})
                    client.head()
                    assert client.frame().event == "chunk"
                    delays.append(time.monotonic() - began)
                # A log that nobody reads would stop the service before long.
                if len(delays) % 50 == 0:
                    for _ in range(50):
                        service.wait_for("outcome=done")
        finally:
            ended.set()
            reader.join(PATIENCE)
        print(
            f"{len(delays)} first chunks beside a stream of {taken} ready ones: {_figures(delays)}"
        )
        assert _p99(delays) < 0.5

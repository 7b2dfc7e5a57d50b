"""A reply that is kept, over sockets of our own server: its client leaves, or does not read.

After each of these nothing is left: no stream, no task, no connection, no file descriptor.
"""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any, AsyncIterator, Dict, Iterator, List

import pytest

from omniforge_chat import Settings, Turn, create_app

from ..support.client import Client
from ..support.conducted import Conductor, Reading, chat, resume, said
from ..support.constants import PATIENCE
from ..support.logs import Records
from ..support.servers import WIRES, ServiceThread

TEXT, TIMES = "x" * 10_000, 90
"""900 kB in all: more than the kernel takes, and less than is too long to keep."""


class Stage:
    """A service that keeps replies, which a test conducts."""

    def __init__(self, wire: Dict[str, Any], **limits: Any) -> None:
        self.conductor = Conductor()
        settings = Settings(
            **{"replay": "memory", "history": "memory", "heartbeat_interval": None, **limits}
        )
        app = create_app(self.conductor, settings=settings)
        self.service = ServiceThread(app, settings, **wire)

    def __enter__(self) -> Stage:
        self.service.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.service.__exit__(*error)


@pytest.fixture(scope="module", params=WIRES)
def theatre(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with Stage(request.param, send_timeout=0.3) as stage:
        yield stage


@pytest.fixture
def stage(theatre: Stage) -> Iterator[Stage]:
    """A service that is at rest before and after the test."""
    yield theatre
    theatre.service.rest()


@pytest.fixture
def message(request: pytest.FixtureRequest) -> str:
    """A message that no other test sends."""
    return str(request.node.nodeid)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["before the first token", "between two", "at the end"])
def test_a_reply_goes_on_however_its_client_leaves(
    stage: Stage, message: str, when: str, how: str
) -> None:
    """The server tells of it, and its stream is the only one to hear."""
    service = stage.service
    reading = chat(service.port, message)
    reply = stage.conductor.reply(message)
    if when != "before the first token":
        reply.say("Hel")
        reading.until("Hel")
    if when == "at the end":
        reply.say("lo", None)
    getattr(reading.client, how)()
    service.until(lambda: service.connections == 0)
    if when != "at the end":
        reply.say("Hel" if when == "before the first token" else "lo", None)
    assert reply.closed.wait(PATIENCE)
    assert not reply.cancelled
    with resume(service.port, reading.reply_id) as rest:
        assert rest.end()[0] == "done"
        assert rest.said == ("Hel" if when == "before the first token" else "Hello")


def test_a_client_that_does_not_read_is_dropped_and_its_reply_goes_on(
    stage: Stage, message: str
) -> None:
    """A laptop that was closed holds the reply up for `send_timeout`, and no longer."""
    service = stage.service
    with Records() as records:
        client = Client(service.port, receive_bytes=4096)
        client.post({"message": message}, headers={"X-Request-ID": "ref-1"})
        reply = stage.conductor.reply(message)
        reading = Reading(client)
        for _ in range(TIMES):
            reply.say(TEXT)
        service.until(lambda: service.connections == 0)
        reply.finish()
        assert records.chat("ref-1")["outcome"] == "done"
        client.close()
        with resume(service.port, reading.reply_id) as rest:
            assert rest.end()[0] == "done"
            assert rest.said == TEXT * TIMES
        assert records.troubles == []


def test_a_follower_that_does_not_read_is_dropped_and_holds_nobody_up(
    stage: Stage, message: str
) -> None:
    """Not the reply, and not the others who read it."""
    service = stage.service
    with chat(service.port, message) as reading:
        reply = stage.conductor.reply(message)
        reply.say("a")
        reading.until("a")
        stalled = Client(service.port, receive_bytes=4096)
        stalled.ask(f"/api/v1/chat/replies/{reading.reply_id}")
        stalled.head()
        for _ in range(TIMES):
            reply.say(TEXT)
        reading.until("a" + TEXT * TIMES)
        service.until(lambda: service.connections == 1)
        reply.finish()
        assert reading.end()[0] == "done"
        stalled.close()


def test_the_end_of_a_drain_ends_the_replies_without_a_client() -> None:
    """Those who read them get an id with which they can go on elsewhere; the turn is kept."""
    conversation = "550e8400-e29b-41d4-a716-446655440000"
    with Stage({}, drain_timeout=0.2) as stage:
        service = stage.service
        reading = chat(service.port, "hi", conversation_id=conversation)
        reply = stage.conductor.reply("hi")
        reply.say("Hel")
        name = reading.until("Hel").reply_id
        reading.client.close()
        with resume(service.port, name) as follower:
            follower.until("Hel")
            service.terminate()
            event, data = follower.end()
            assert (event, data["code"]) == ("error", "shutting_down")
            assert follower.last_id == f"{name}.3"
        service.join()
        assert reply.cancelled


def test_a_reply_without_a_client_may_end_within_the_drain() -> None:
    """A deploy at noon: what was paid for is stored, whether anybody looks or not."""
    with Stage({}, drain_timeout=PATIENCE) as stage, Records() as records:
        service = stage.service
        reading = chat(service.port, "hi", headers={"X-Request-ID": "ref-1"})
        reply = stage.conductor.reply("hi")
        reply.say("Hel")
        reading.until("Hel").client.close()
        service.until(lambda: service.connections == 0)
        service.terminate()
        service.until(lambda: service.app._lifecycle.draining)
        reply.say("lo", None)
        service.join()
        ended = records.chat("ref-1")
        assert (ended["outcome"], ended["chunks"]) == ("done", 2)
        assert not reply.cancelled


def test_readers_that_are_cut_anywhere_get_each_piece_once() -> None:
    """Twenty readers of each reply, who come and go: at the end each has the text once."""
    pieces = [f"{number}😀 " for number in range(200)]
    whole = "".join(pieces)

    async def respond(turn: Turn) -> AsyncIterator[str]:
        for number, piece in enumerate(pieces):
            if number % 20 == 0:
                await asyncio.sleep(0.002)
            yield piece

    settings = Settings(replay="memory", heartbeat_interval=0.001)
    service = ServiceThread(create_app(respond, settings=settings), settings)
    dice = random.Random(2)

    def read(name: str, seed: int, results: List[str]) -> None:
        own, text, last = random.Random(seed), "", None
        while True:
            with resume(service.port, name, last) as reading:
                try:
                    for _ in range(own.randrange(1, 60)):
                        frame = reading.client.frame()
                        text += said([frame])
                        last = frame.id
                        if frame.event != "chunk":
                            results.append(text if frame.event == "done" else frame.data)
                            return
                except EOFError:
                    continue

    results: List[str] = []
    with service:
        readers: List[threading.Thread] = []
        for _ in range(3):
            reading = chat(service.port, "hi")
            for _ in range(7):
                thread = threading.Thread(
                    target=read, args=(reading.reply_id, dice.random(), results)
                )
                thread.start()
                readers.append(thread)
            reading.client.close()
        for thread in readers:
            thread.join(PATIENCE)
        assert results == [whole] * 21
        service.rest()


def test_replies_that_nobody_reads_give_way_to_new_chats() -> None:
    """Clients that leave at once could else fill a service without a connection of theirs."""
    with Stage({}, max_streams=2, replay_grace=600.0) as stage:
        service, conductor = stage.service, stage.conductor
        for name in ("first", "second"):
            with chat(service.port, name, on_disconnect="continue") as reading:
                conductor.reply(name).say("Hello")
                reading.until("Hello")
            service.until(lambda: service.connections == 0)
        with chat(service.port, "third") as third:
            assert conductor.reply("first").closed.wait(PATIENCE)
            service.until(lambda: service.app.open_streams == 2)
            assert not conductor.reply("second").closed.is_set()
            with chat(service.port, "fourth") as fourth:
                assert conductor.reply("second").closed.wait(PATIENCE)
                refused = Client(service.port)
                refused.post({"message": "fifth"})
                assert refused.head()[0] == 503
                refused.close()
                for name, left in (("third", third), ("fourth", fourth)):
                    conductor.reply(name).say("Hi", None)
                    assert left.end()[0] == "done"

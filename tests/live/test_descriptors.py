"""The limit of open files: what fits is served, the rest is told so, and probes are answered."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from omniforge_chat import Settings, create_app
from omniforge_chat.server import listen
from omniforge_chat.server.descriptors import (
    PLACES,
    RESERVE,
    descriptor_limit,
    fit_streams,
    raise_descriptor_limit,
)

from ..support.answers import refusal
from ..support.client import Client
from ..support.process import COMMANDS, MODULE, limited, running
from ..support.servers import WIRES, ServiceThread

resource = pytest.importorskip("resource", reason="no limit of descriptors here")

LIMIT = 64

RESPONDER = """
import asyncio

async def respond(turn):
    yield "begun"
    await asyncio.Event().wait()
"""


def healthy(port: int, path: str = "/health") -> None:
    with Client(port) as client:
        client.ask(path)
        assert client.json()[0] == 200


@pytest.mark.parametrize("wire", COMMANDS)
def test_streams_that_use_up_the_descriptors_leave_some_for_probes(
    tmp_path: Path, wire: str
) -> None:
    """An orchestrator that gets no answer restarts the process, and cuts every stream."""
    (tmp_path / "wait.py").write_text(RESPONDER)
    command = limited(COMMANDS[wire], LIMIT)
    with running(tmp_path, "--responder", "wait:respond", command=command) as service:
        told = service.wait_for(
            r"WARNING .*CHAT_MAX_STREAMS is lowered from 10000 to (\d+), "
            rf"as the limit of open files is {LIMIT} \(ulimit -n\)"
        )
        port, fitting = service.port, int(told[1])
        assert 16 <= fitting < LIMIT
        with contextlib.ExitStack() as clients:
            opened = [clients.enter_context(service.connect()) for _ in range(3 * LIMIT)]
            for client in opened:
                client.post({"message": "hi"})
            streams = [client for client in opened if _begins(client)]
            assert fitting - 2 <= len(streams) <= fitting
            healthy(port)
            healthy(port, "/ready")
            for _ in range(3 * LIMIT):  # connections that ask nothing hold descriptors, too
                clients.enter_context(service.connect())
            healthy(port)
            healthy(port, "/ready")
        while True:  # the streams end when their clients are seen to have left
            with service.connect() as client:
                client.post({"message": "hi"})
                if _begins(client):
                    break
        assert service.end() == 0
    assert "Traceback" not in "\n".join(service.log)
    refused = [line for line in service.log if " refused: " in line]
    assert len(refused) <= 8  # one line a second, and for each of two reasons
    counts = re.findall(r"overloaded=(\d+)", "\n".join(refused))
    assert sum(map(int, counts)) >= 3 * LIMIT - fitting


def _begins(client: Client) -> bool:
    """Whether the chat is answered; else it is refused as it should be."""
    status, headers = client.head()
    if status == 200:
        assert client.frame().event == "chunk"
        return True
    assert status == 503
    assert headers["retry-after"] == "1"
    assert headers["cache-control"] == "no-store"
    return False


@pytest.fixture
def service(wire: Dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceThread]:
    """A server in this process, under a limit that leaves room for some connections to it.

    Both ends of a connection are in it.
    """
    with socket.socket() as lowest:
        limit = lowest.fileno() + RESERVE + 80
    monkeypatch.setattr("omniforge_chat.server.server.descriptor_limit", lambda: limit)
    settings = Settings()
    with ServiceThread(create_app(settings=settings), settings, **wire) as started:
        yield started


@pytest.fixture
def clients(service: ServiceThread) -> Iterator[contextlib.ExitStack]:
    """Those that are connected to it, which leave first."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("wire", WIRES)
def test_a_refused_chat_is_told_so_and_its_connection_ends(
    service: ServiceThread, clients: contextlib.ExitStack
) -> None:
    """As JSON, like every refusal; also if its body comes in pieces."""
    for _ in range(60):
        clients.enter_context(service.connect())
    client = clients.enter_context(service.connect())
    client.send(b"POST /api/v1/chat HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")
    service.until(lambda: _is_asked(service))
    client.send(b"def")
    status, headers, body = client.json()
    assert refusal(status, headers, body) == (
        503,
        "overloaded",
        "Too many open connections for the limit of open files",
    )
    assert headers["connection"] == "close"
    client.wait_closed()
    healthy(service.port)
    clients.close()
    service.rest()


def _is_asked(service: ServiceThread) -> bool:
    connections: Any = service._server.server_state.connections
    return any(c.cycle is not None and not c.cycle.response_complete for c in connections)


@pytest.mark.parametrize("wire", [WIRES[0], WIRES[-1]])
def test_a_connection_that_was_answered_gives_way(
    service: ServiceThread, clients: contextlib.ExitStack
) -> None:
    """A balancer's idle connections must not keep others out until they are too old."""
    headers: Dict[str, str] = {}
    while "connection" not in headers:  # the first one that has only a place
        client = clients.enter_context(service.connect())
        client.ask("/health")
        status, headers, _ = client.json()
        assert status == 200
    service.until(lambda: service.connections == 0)
    with service.chat() as client:
        assert client.head()[0] == 200


@pytest.mark.parametrize("wire", [WIRES[0], WIRES[-1]])
def test_of_those_that_ask_nothing_the_oldest_gives_way(
    service: ServiceThread, clients: contextlib.ExitStack
) -> None:
    """Whoever asks gets an answer, however many others only connect."""
    silent = [clients.enter_context(service.connect()) for _ in range(100)]
    healthy(service.port)  # it was accepted after all of them
    told = [not _is_open(client) for client in silent]
    first, count = told.index(True), told.count(True)
    assert told == [False] * first + [True] * count + [False] * (PLACES - 1)
    for client, is_told in zip(silent, told):
        if is_told:
            assert client.json()[0] == 503
            client.wait_closed()


def _is_open(client: Client) -> bool:
    client.socket.setblocking(False)
    try:
        client.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        client.socket.settimeout(10)
    return False


# The start


@pytest.fixture
def soft() -> Iterator[Any]:
    """Sets the soft limit of this process, which is put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_to_the_hard_one(soft: Any) -> None:
    """Most systems have a soft limit of 1,024, which is there for programs that use select()."""
    soft(512)
    assert descriptor_limit() == 512
    raise_descriptor_limit()
    assert descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    raise_descriptor_limit()


def test_no_more_streams_are_allowed_than_there_are_descriptors_for(
    soft: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One that relays a model takes two."""
    settings = Settings(max_streams=300)
    with listen("127.0.0.1", 0) as listener:
        lowest = os.dup(listener.fileno())
        os.close(lowest)
        soft(lowest + 1000)
        assert fit_streams(settings, listener, 2) is settings
        assert caplog.messages == []
        soft(lowest + 300)
        one = fit_streams(settings, listener, 1).max_streams
        two = fit_streams(settings, listener, 2).max_streams
        assert (one // 2, 200 < one < 300 - RESERVE) == (two, True)
        assert [f"to {n}, as" in text for n, text in zip((one, two), caplog.messages)] == [True] * 2
        soft(lowest + RESERVE)
        with pytest.raises(OSError, match="the limit of open files is"):
            fit_streams(settings, listener, 1)
        soft(lowest + 1000)


def test_a_limit_that_leaves_no_room_ends_it_with_one_line(tmp_path: Path) -> None:
    """Rather than a service that refuses everybody."""
    with running(tmp_path, command=limited(MODULE, 32)) as service:
        assert service.status() == 1
    assert service.log == ["omniforge-chat: the limit of open files is 32 (ulimit -n)"]

"""The fronts of docs/deploy, each with two workers behind it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from ..support.answers import last, text
from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.process import ServiceProcess, running
from .fronts import FRONTS, Front

RESPONDER = """
import asyncio, os, pathlib

async def respond(turn):
    yield os.environ["NAME"]
    while turn.message == "wait" and not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    yield " has ended"
"""

fronts = pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.proxy.title)


@contextlib.contextmanager
def worker(directory: Path, name: str) -> Iterator[ServiceProcess]:
    """A worker as that of compose.yaml, which is reached by any name."""
    (directory / "slow.py").write_text(RESPONDER)
    variables = {"CHAT_RESPONDER": "slow:respond", "ALLOWED_HOSTS": "*", "NAME": name}
    with running(directory, FORWARDED_ALLOW_IPS="*", **variables) as service:
        yield service


@contextlib.contextmanager
def deployed(front: Front, directory: Path) -> Iterator[Tuple[int, List[ServiceProcess]]]:
    """A front and its two workers: its port, and the workers."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(directory, name)) for name in "01"]
        ports = [worker.port for worker in workers]
        yield stack.enter_context(front.running(directory, *ports)), workers


@fronts
def test_a_reply_comes_in_pieces_and_its_cut_is_told(front: Front, tmp_path: Path) -> None:
    """A front that gathers shows nothing for a minute; one that hides a cut shows half a reply as
    a whole one."""
    with deployed(front, tmp_path) as (port, workers), Client(port) as client:
        client.post({"message": "wait"})
        assert client.head()[0] == 200
        name = text([client.frame()])
        workers[int(name)].kill()
        with pytest.raises((EOFError, ConnectionResetError)):
            client.frame()
        assert not client.ended


@fronts
def test_a_worker_that_drains_ends_its_replies_and_gets_no_new_ones(
    front: Front, tmp_path: Path
) -> None:
    """That is a deploy. A front that does not ask passes the 503 of the worker on meanwhile."""
    with deployed(front, tmp_path) as (port, workers), Client(port) as client:
        client.post({"message": "wait"})
        assert client.head()[0] == 200
        first = client.frame()
        drained = workers[int(text([first]))]
        drained.process.terminate()
        drained.wait_for("draining: 1 stream")
        deadline, served = time.monotonic() + PATIENCE, 0
        while served < (6 if front.asks else 1):  # in a row
            with Client(port) as other:
                other.post({"message": "hi"})
                served = served + 1 if other.head()[0] == 200 else 0
            assert time.monotonic() < deadline
        (tmp_path / "go").touch()
        frames = [first, *client.frames()]
        assert last(frames)[0] == "done"
        assert drained.status() == 0


class Deaf:
    """A worker that is ready, takes requests, and closes each connection without an answer."""

    def __init__(self) -> None:
        self.asked: List[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def methods(self) -> List[bytes]:
        return [request.split(b" ")[0] for request in self.asked]

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                request = connection.recv(65536)
                if not request:
                    return
                if request.split(b" ")[1] == b"/ready":
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                    )
                else:
                    self.asked.append(request)

    def __enter__(self) -> Deaf:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(PATIENCE)
        self._listener.close()


@fronts
def test_a_post_that_a_worker_may_have_read_is_not_sent_to_another(
    front: Front, tmp_path: Path
) -> None:
    """It would be a second reply, which somebody pays for. What only reads may be sent again."""
    with Deaf() as one, Deaf() as other, front.running(tmp_path, one.port, other.port) as port:
        with Client(port) as client:
            client.post({"message": "hi"})
            assert client.head()[0] == front.lost
        assert [*one.methods(), *other.methods()] == [b"POST"]
        while not (b"GET" in one.methods() and b"GET" in other.methods()):
            with Client(port) as client:
                client.ask("/api/v1/chat/replies/x")
                assert client.head()[0] in (front.lost, 503)  # one is left out for a while
            time.sleep(0.1)
        assert [*one.methods(), *other.methods()].count(b"POST") == 1


@fronts
def test_a_client_cannot_say_who_it_is(front: Front, tmp_path: Path) -> None:
    """The workers believe what the front says, so it says nothing that a client has told it."""
    forged = {
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil",
    }
    with Deaf() as one, Deaf() as other, front.running(tmp_path, one.port, other.port) as port:
        with Client(port) as client:
            client.post({"message": "hi"}, headers={**forged, "Host": "chat.example.com"})
            client.head()
        [request] = [*one.asked, *other.asked]
    head = request.partition(b"\r\n\r\n")[0].decode().lower()
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    assert lines["x-forwarded-for"] == "127.0.0.1"
    assert lines["x-forwarded-proto"] == "http"
    assert not lines.get("x-forwarded-prefix")
    assert lines["host"] == "chat.example.com"


@fronts
def test_a_post_that_nobody_has_read_goes_to_the_other_worker(front: Front, tmp_path: Path) -> None:
    """A worker that is down costs nobody a message."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        down = listener.getsockname()[1]
    with worker(tmp_path, "0") as service, front.running(tmp_path, down, service.port) as port:
        for _ in range(4):
            with Client(port) as client:
                client.post({"message": "hi"})
                assert client.head()[0] == 200
                assert last(client.frames())[0] == "done"

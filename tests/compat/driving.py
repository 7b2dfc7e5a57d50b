"""Other people's servers as processes: started, asked, and ended by their id."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

from ..support.answers import last, text
from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.docs import DOCS, write_examples
from ..support.process import ServiceProcess, running

HELLO = Path(__file__).with_name("hello.py")

Answer = Tuple[int, Dict[str, str], bytes]

names = (f"stream-{number}" for number in range(10**6))
"""Names for streams, each for one test."""


@dataclasses.dataclass(frozen=True)
class Site:
    """The chat as its clients reach it, with the responder of hello.py: a port and a path.

    `directly` is the way past a proxy on which the responder is told what to say.
    """

    port: int
    path: str = ""
    directly: Optional[Site] = None

    def connect(self, **options: int) -> Client:
        return Client(self.port, **options)

    def say(self, name: str, verb: str = "say", **options: int) -> Client:
        """A connection on which this stream has been asked for."""
        client = self.connect(**options)
        path = f"{self.path}/api/v1/chat"
        client.post({"message": f"{verb} {name}"}, path=path, headers={"X-Request-ID": name})
        return client

    def stream(self, name: str, verb: str = "say", **options: int) -> Client:
        """The same, and the head of the response has come."""
        client = self.say(name, verb, **options)
        status, headers = client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert headers["x-request-id"] == name  # and it is there once, as `head` looks
        return client

    def reply(self, message: str) -> str:
        """The whole reply to a message."""
        with self.connect() as client:
            client.post({"message": message}, path=f"{self.path}/api/v1/chat")
            assert client.head()[0] == 200
            frames = client.frames()
            assert last(frames)[0] == "done"
            return text(frames)

    def tell(self, name: str, word: str) -> None:
        """Let the stream of this name say `word`, or end if it is "."."""
        assert (self.directly or self).reply(f"tell {name} {word}") == "told"

    def closed(self, name: str) -> int:
        """Wait until the responder of this stream is closed: how often it has yielded."""
        return int((self.directly or self).reply(f"closed {name}"))

    def ask(self, path: str, **headers: str) -> Answer:
        """The status, the headers and the body of a GET."""
        with self.connect() as client:
            client.ask(f"{self.path}{path}", headers={"Accept": "*/*", **headers})
            status, found = client.head()
            return status, found, client.content(found)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def write_modules(directory: Path) -> None:
    """Write the modules of the docs there, with a responder that is told what to say."""
    write_examples(directory, DOCS / "hosts.md")
    shutil.copy(HELLO, directory / "hello.py")


def wait_for_port(service: ServiceProcess, port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert service.process.poll() is None, f"it ended: {service.process.returncode}"
        with contextlib.suppress(OSError), Client(port):
            return
        assert time.monotonic() < deadline, "nobody listens"
        time.sleep(0.01)


@contextlib.contextmanager
def server(directory: Path, *command: str, **variables: str) -> Iterator[ServiceProcess]:
    """A server of Python's. PORT in its command is a free port."""
    port = str(free_port())
    arguments = [sys.executable, "-m", *(part.replace("PORT", port) for part in command)]
    with running(directory, command=arguments, **{**variables, "PORT": port}) as service:
        wait_for_port(service, int(port))
        yield service

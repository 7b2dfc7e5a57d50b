"""The app under the commands of other servers, and under our own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Dict, Iterator

import httpx
import pytest

from omniforge_chat.core.sse import Decoder

from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.process import ServiceProcess
from . import checks
from .driving import Site, names, server, write_modules
from .table import Recorder, Subject, package

PLAIN = """
from hello import respond
from omniforge_chat import Settings, create_app

app = create_app(respond, settings=Settings(send_timeout=1.0, cleanup_timeout=0.5))
"""

PLAIN_INSTALL = "import sys\nsys.modules['httptools'] = sys.modules['uvloop'] = None\n"

DRAIN = 1.0
"""Seconds that open streams have in a drain."""

SECONDS = 4.0
"""Seconds for which a stream is watched."""

OWN = {
    "CHAT_SEND_TIMEOUT": "1",
    "CHAT_CLEANUP_TIMEOUT": "0.5",
    "CHAT_DRAIN_TIMEOUT": str(DRAIN),
}


@dataclasses.dataclass(frozen=True)
class Server:
    """A server: its package, and its command, in which APP is the app and PORT the port."""

    package: str
    command: str
    root_path: str = "--root-path"
    own: bool = False
    workers: int = 1

    @contextlib.contextmanager
    def running(self, directory: Path, module: str, *options: str) -> Iterator[ServiceProcess]:
        write_modules(directory)
        (directory / "plain.py").write_text(PLAIN)
        drained = (directory / "drained.py").read_text()
        assert drained.count("Settings()") == 1
        (directory / "drained.py").write_text(
            drained.replace("Settings()", f"Settings(drain_timeout={DRAIN})")
        )
        if self.package == "h11":
            (directory / "sitecustomize.py").write_text(PLAIN_INSTALL)
        command = self.command.replace("APP", f"{module}:app").split()
        variables = dict(OWN) if self.own else {}
        variables["PYTHONPATH"] = str(directory)
        with server(directory, *command, *options, **variables) as process:
            yield process


OURS = "omniforge_chat --port PORT --responder hello:respond"
GUNICORN = "gunicorn --bind 127.0.0.1:PORT APP --worker-class"
SERVERS: Dict[str, Server] = {
    "omniforge-chat, httptools": Server("httptools", OURS, own=True),
    "omniforge-chat, h11": Server("h11", OURS, own=True),
    "uvicorn": Server("uvicorn", "uvicorn --port PORT APP"),
    "Hypercorn": Server("hypercorn", "hypercorn --bind 127.0.0.1:PORT APP"),
    "Hypercorn, -w 2": Server("hypercorn", "hypercorn --bind 127.0.0.1:PORT APP -w 2", workers=2),
    "Granian": Server(
        "granian", "granian --interface asgi --port PORT APP", root_path="--url-path-prefix"
    ),
    "Daphne": Server("daphne", "daphne -b 127.0.0.1 -p PORT APP"),
    "gunicorn, uvicorn-worker": Server(
        "uvicorn-worker", f"{GUNICORN} uvicorn_worker.UvicornWorker", root_path=""
    ),
}
SINGLE = [title for title, one in SERVERS.items() if one.workers == 1]


def subject_of(title: str) -> Subject:
    return package("server", SERVERS[title].package, title=title)


@dataclasses.dataclass(frozen=True)
class Running:
    """A server that runs, and the chat on it."""

    subject: Subject
    site: Site


@pytest.fixture(scope="module", params=SINGLE)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    subject = subject_of(request.param)
    directory = tmp_path_factory.mktemp("server")
    with SERVERS[request.param].running(directory, "plain") as process:
        yield Running(subject, Site(process.port))


def test_each_token_arrives_before_the_responder_goes_on(
    running: Running, record: Recorder
) -> None:
    """A server that gathers makes no stream of it."""
    checks.streams(running.site)
    checks.errors(running.site)
    checks.request_ids(running.site)
    record(running.subject, "streams")


def test_a_client_that_leaves_ends_its_responder(running: Running, record: Recorder) -> None:
    """Nobody pays for tokens that nobody reads."""
    checks.leaving(running.site)
    record(running.subject, "leaving")


def test_a_client_that_does_not_read_holds_its_responder_up(
    running: Running, record: Recorder
) -> None:
    """Else its memory is filled; the responder stops by itself at 64 MiB."""
    name = next(names)
    with running.site.say(name, "flood", receive_bytes=4096):
        held = running.site.closed(name) < 16384
    record(running.subject, "backpressure", "yes" if held else "no")


def test_a_client_of_http_1_0_is_served(running: Running, record: Recorder) -> None:
    """Old proxies and health checks speak it."""
    record(running.subject, "HTTP/1.0", checks.http_1_0(running.site))


def test_http_2_without_tls(running: Running, record: Recorder) -> None:
    """By prior knowledge (RFC 9113, section 3.3)."""
    name, decoder = next(names), Decoder()
    url = f"http://127.0.0.1:{running.site.port}/api/v1/chat"
    body = {"message": f"say {name}"}
    with httpx.Client(http1=False, http2=True, timeout=PATIENCE) as client:
        try:
            with client.stream("POST", url, json=body) as response:
                pieces = response.iter_bytes()
                for word in ("one", "two"):
                    running.site.tell(name, word)
                    [frame] = decoder.feed(next(pieces))
                    assert json.loads(frame.data) == {"content": word}
                running.site.tell(name, ".")
                assert [frame.event for frame in decoder.feed(b"".join(pieces))] == ["done"]
        except (httpx.RemoteProtocolError, httpx.NetworkError):
            record(running.subject, "HTTP/2", "no")
            return
    record(running.subject, "HTTP/2")


def test_gunicorn_s_own_worker_keeps_the_headers(tmp_path: Path, record: Recorder) -> None:
    """A client waits for them until the first token, or heartbeat."""
    subject = package("server", "gunicorn", title="gunicorn, asgi")
    name = next(names)
    with Server("gunicorn", f"{GUNICORN} asgi").running(tmp_path, "plain") as process:
        site = Site(process.port)
        with site.say(name) as client:
            client.socket.settimeout(0.3)
            with pytest.raises(socket.timeout):
                client.head()
            client.socket.settimeout(PATIENCE)
            for word in ("one", "two"):
                site.tell(name, word)
                if word == "one":
                    client.head()
                assert json.loads(client.frame().data) == {"content": word}
    record(subject, "streams", "yes, headers with the first token")


@pytest.mark.parametrize("title", SINGLE)
def test_the_path_that_a_proxy_takes_off(title: str, tmp_path: Path, record: Recorder) -> None:
    """The chat answers, and the document has that path."""
    subject, option = subject_of(title), SERVERS[title].root_path
    if not option:
        record(subject, "root path", "no option")
        return
    with SERVERS[title].running(tmp_path, "plain", option, "/bots") as process:
        site = Site(process.port)
        checks.streams(site)
        record(subject, "root path", "yes" if checks.shown_path(site) == "/bots" else "no")


def _is_draining(site: Site) -> bool:
    """What /ready says, if anybody answers; some servers accept connections and do not."""
    try:
        with site.connect() as client:
            client.socket.settimeout(0.3)
            client.ask(f"{site.path}/ready")
            return client.head()[0] == 503
    except (OSError, EOFError):
        return False


def _end_of(client: Client, seconds: float) -> str:
    """How the stream of this client ends, in that time."""
    client.socket.settimeout(seconds)
    try:
        data = client.some()
    except socket.timeout:
        return "goes on"
    except ConnectionError:
        data = b""
    if b"event: error" in data:
        return "error"
    return "goes on" if data else "cut"


def after(title: str, module: str, directory: Path, number: int) -> str:
    """What becomes of an open stream when the server gets this signal."""
    one = SERVERS[title]
    with one.running(directory, module) as process:
        site = Site(process.port, "/assistant" if module == "drained" and not one.own else "")
        with site.stream(next(names)) as client:
            # A terminal sends it to all processes, and an orchestrator to the first one.
            (os.killpg if number == signal.SIGINT else os.kill)(process.process.pid, number)
            begun, end = time.monotonic(), "goes on"
            while end == "goes on" and time.monotonic() < begun + SECONDS:
                if _is_draining(site):
                    client.socket.settimeout(PATIENCE)
                    checks.ended_by_the_drain(client)
                    return "drains"
                end = _end_of(client, 0.05)
            seconds = time.monotonic() - begun
    if module == "drained" and DRAIN - 0.2 < seconds < DRAIN + 0.8 and end == "error":
        return "drains"  # and answered no new connection meanwhile
    if title == "Hypercorn":  # from then on, asyncio's `Server.wait_closed` waits for connections
        waits = sys.version_info >= (3, 12)
        assert (end, round(seconds)) == (("goes on", SECONDS) if waits else ("error", 3))
        return "error after 3 s; goes on from Python 3.12 on"
    when = "" if end == "goes on" else " at once" if seconds < 1 else f" after {seconds:.0f} s"
    return end + when


@pytest.mark.parametrize("title", SINGLE)
@pytest.mark.parametrize(
    ("check", "number"), [("SIGTERM", signal.SIGTERM), ("Ctrl-C", signal.SIGINT)]
)
def test_a_signal_drains_if_the_server_lets_it(
    title: str, check: str, number: int, tmp_path: Path, record: Recorder
) -> None:
    """`drained.py` hears of it before the server does, or it cannot."""
    record(subject_of(title), check, after(title, "drained", tmp_path, number))


@pytest.mark.parametrize("title", [title for title, one in SERVERS.items() if not one.own])
def test_sigterm_without_a_drain(title: str, tmp_path: Path, record: Recorder) -> None:
    """What an operator has who does not know of it."""
    record(subject_of(title), "SIGTERM, no drain", after(title, "plain", tmp_path, signal.SIGTERM))

"""The metrics of real processes."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, Set

import pytest

from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.metrics import Scrape, scrape
from ..support.process import ServiceProcess, running

RESPONDER = """
import os

async def respond(turn):
    yield str(os.getpid())
    yield "!"
"""
CHATS = "omniforge_chats_total"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(RESPONDER)
    return tmp_path


def flags(*, workers: int = 1) -> List[str]:
    return ["--responder", "mine:respond", "--workers", str(workers)]


def started(service: ServiceProcess, workers: int) -> int:
    """The port of the service, when all workers serve."""
    for _ in range(workers - 1):
        service.wait_for("serving on")
    return service.port


def until_workers(port: int, workers: int) -> Scrape:
    """The numbers, when they are those of so many."""
    deadline = time.monotonic() + PATIENCE
    while (found := scrape(port))("omniforge_workers") != workers:
        assert time.monotonic() < deadline, found.text
        time.sleep(0.02)
    return found


def chats(service: ServiceProcess, number: int) -> Set[int]:
    """So many chats, over connections of their own: the processes that have answered."""
    with ThreadPoolExecutor(4) as pool:
        replies = pool.map(lambda _: service.reply(), range(number))
        return {int(reply[:-1]) for reply in replies}


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_may_have_a_port_of_their_own(directory: Path, workers: int) -> None:
    """Then clients of the chat cannot see them, whatever a proxy passes on."""
    arguments = flags(workers=workers)
    with running(directory, *arguments, CHAT_METRICS="127.0.0.1:0") as service:
        port = started(service, 1)
        own = int(service.wait_for(r"metrics on http://127\.0\.0\.1:(\d+)/metrics$")[1])
        service.reply()
        assert scrape(own)(CHATS) == 1
        for where, path in ((port, "/metrics"), (own, "/api/v1/chat"), (own, "/")):
            with Client(where) as client:
                client.ask(path)
                status, headers = client.head()
                client.content(headers)
                assert status == (405 if where == port and path != "/metrics" else 404)
        with Client(own) as client:
            client.ask("/metrics", host="evil.example")
            assert client.head()[0] == 421
        with Client(port) as client:
            client.send(b"nonsense\r\n\r\n")
            assert client.head()[0] == 400
        found = scrape(own)
        for code in ("bad_request", "host_not_allowed"):
            assert found("omniforge_refusals_total", code=code) == 1, found.text
        assert service.end() == 0


def test_an_address_that_is_taken_is_one_line(directory: Path) -> None:
    """It is found out before anything is served."""
    with running(directory, *flags(), CHAT_METRICS="127.0.0.1:0") as service:
        started(service, 1)
        own = service.wait_for(r"metrics on http://127\.0\.0\.1:(\d+)/")[1]
        with running(directory, *flags(), CHAT_METRICS=f"127.0.0.1:{own}") as other:
            assert other.status() == 1
            assert other.log == [
                f"omniforge-chat: cannot listen on 127.0.0.1:{own} (CHAT_METRICS): "
                "Address already in use"
            ]


def test_without_a_directory_for_several_workers_the_service_says_so(directory: Path) -> None:
    """A root that is read-only, and no `/tmp`, is found out at the start."""
    blocked = directory / "file"
    blocked.touch()
    code = (
        "import sys, tempfile; tempfile.tempdir = sys.argv.pop(1); "
        "from omniforge_chat.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, str(blocked)]
    with running(directory, *flags(workers=2), command=command, CHAT_METRICS="on") as service:
        assert service.status() == 2
        assert service.log[-1].startswith("omniforge-chat: CHAT_METRICS='on': expected off")


def test_without_prometheus_client_the_service_does_not_start(directory: Path) -> None:
    """It says which extra is missing, and no worker is started in vain."""
    code = (
        "import sys; sys.modules['prometheus_client'] = None; "
        "from omniforge_chat.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code]
    with running(directory, *flags(workers=2), command=command, CHAT_METRICS="on") as service:
        assert service.status() == 2
        [line] = service.log
        assert line.startswith("omniforge-chat: CHAT_METRICS='on': expected off, or the package")
        assert line.endswith("pip install 'omniforge-chat[metrics]'")

"""What holds for one process holds for several, which take a while to start."""

from __future__ import annotations

import fcntl
import signal
import sys
from pathlib import Path
from typing import Dict, List

import pytest

from omniforge_chat.server import listen

from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.process import MODULE, running
from ..support.tls import connect, make_certificate

RESPONDERS = """
import asyncio, atexit, logging, sys, time
import anyio.to_thread

async def plain(turn):
    print("said")
    yield "hi"

def work():
    atexit.register(lambda: print("at exit", file=sys.stderr))
    logging.error("works")
    time.sleep(60)

async def asyncio_thread(turn):
    yield "begun"
    await asyncio.get_running_loop().run_in_executor(None, work)

async def anyio_thread(turn):
    yield "begun"
    await anyio.to_thread.run_sync(work)

async def loud(turn):
    for _ in range(80):
        logging.error("x" * 100_000)
    yield "hi"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(RESPONDERS)
    return tmp_path


def chat(client: Client) -> None:
    client.post({"message": "hi"})
    assert client.head()[0] == 200
    assert client.frames()[-1].event == "done"


def flags(responder: str, *others: str) -> List[str]:
    return ["--workers", "2", "--responder", f"mine:{responder}", *others]


def test_workers_share_a_unix_socket(directory: Path) -> None:
    """Their parent removes it."""
    path = directory / "chat.sock"
    with running(directory, *flags("plain", "--uds", path.name)) as service:
        for _ in range(2):
            service.wait_for("serving on unix:chat.sock$")
        for _ in range(4):
            with Client(path) as client:
                chat(client)
        assert service.end() == 0
    assert not path.exists()


def test_workers_speak_tls(directory: Path) -> None:
    """Each reads the certificate for itself."""
    make_certificate(directory, "-nodes")
    tls = {"SSL_CERTFILE": "cert.pem", "SSL_KEYFILE": "key.pem"}
    with running(directory, *flags("plain"), **tls) as service:
        port = int(service.wait_for(r"serving on https://127.0.0.1:(\d+)")[1])
        with connect(port, directory) as client:
            chat(client)
        assert service.end() == 0


def test_workers_end_well_with_closed_standard_streams(directory: Path) -> None:
    """A socket must not get their numbers in any of the processes."""
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *MODULE]
    with listen("127.0.0.1", 0) as listener:
        fd = listener.fileno()
        given = flags("plain", "--fd", str(fd))
        with running(directory, *given, command=command, pass_fds=[fd]) as service:
            with Client(listener.getsockname()[1]) as client:
                chat(client)
            assert service.end() == 0


@pytest.mark.parametrize("responder", ["asyncio_thread", "anyio_thread"])
def test_a_thread_does_not_keep_a_worker(directory: Path, responder: str) -> None:
    """The parent waits for it, and an orchestrator for the parent."""
    options: Dict[str, str] = {"CHAT_DRAIN_TIMEOUT": "0", "CHAT_CLEANUP_TIMEOUT": "0.1"}
    with running(directory, *flags(responder), **options) as service:
        with service.connect() as client:
            client.post({"message": "hi"})
            client.head()
            client.frame()
            service.wait_for("works")
            service.process.send_signal(signal.SIGTERM)
            assert client.frames()[-1].event == "error"
        service.wait_for("ERROR .*did not end in time; its threads are MainThread")
        assert service.status() == 0
    assert "at exit" in service.log


def test_a_signal_ends_workers_though_nobody_reads_their_log(directory: Path) -> None:
    """They and their parent share a pipe that is full."""
    with running(directory, *flags("loud")) as service:
        assert service.port
        if sys.platform == "linux":
            fcntl.fcntl(service._stderr, 1031, 4096)  # F_SETPIPE_SZ
        for _ in range(3):
            assert service.reply() == "hi"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 0

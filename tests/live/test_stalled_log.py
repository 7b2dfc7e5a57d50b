"""A service whose standard error nobody reads any more: it serves, and ends, as ever."""

from __future__ import annotations

import fcntl
import json
import signal
import sys
from pathlib import Path

import pytest

from ..support.constants import PATIENCE
from ..support.process import ServiceProcess, running

RESPONDER = """
import logging

async def respond(turn):
    count, size = (80, 100_000) if turn.message == "flood" else (1, 1)
    for _ in range(count):
        logging.getLogger("uvicorn.error").error("said " + "x" * size)
    yield turn.message
"""


def flooded(service: ServiceProcess) -> None:
    """Its log has more to say than fits anywhere, and its streams go on."""
    assert service.port
    if sys.platform == "linux":
        fcntl.fcntl(service._stderr, 1031, 4096)  # F_SETPIPE_SZ
    for message in ("flood", "one", "two"):
        assert service.reply(message) == message


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "loud.py").write_text(RESPONDER)
    return tmp_path


def test_lines_are_dropped_and_counted_until_somebody_reads_again(directory: Path) -> None:
    """A collector of logs that hangs must not take the service with it."""
    with running(directory, "--responder", "loud:respond", "--log-format", "json") as service:
        flooded(service)
        service.wait_for("log lines were dropped")
        assert service.reply("three") == "three"
        service.wait_for("said ")
        assert service.end() == 0
    messages = [json.loads(line)["message"] for line in service.log]
    (told,) = [message for message in messages if "log lines were dropped" in message]
    said = sum(message.startswith("said ") for message in messages)
    assert 40 <= said < 80
    assert said + int(told.split()[0]) >= 83  # lines of ended chats may be among the dropped


def test_a_signal_ends_it_though_nobody_reads(directory: Path) -> None:
    """It would be killed otherwise, with all its streams."""
    with running(directory, "--responder", "loud:respond") as service:
        flooded(service)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 0

"""`--reload`, which starts two processes, one after the other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, Dict

import pytest

from omniforge_chat.server import listen

from ..support.answers import text
from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.process import ServiceProcess, running

RESPONDER = "async def respond(turn):\n    yield {!r}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_change_of_the_code_is_served_and_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    """What somebody who writes a responder does all day."""
    code = tmp_path / "mine.py"
    code.write_text(RESPONDER.format("before"))
    with listen("127.0.0.1", 0) as listener:
        flags = ["--fd", str(listener.fileno()), "--reload", "--responder", "mine:respond"]
        options: Dict[str, Any] = {"pass_fds": [listener.fileno()], "patience": 3.0}
        with running(tmp_path, *flags, **options) as service:
            _wait_until_it_serves(service, code)
            assert _reply(listener) == "before"
            code.write_text(RESPONDER.format("afterwards"))
            _wait_until_it_serves(service, code)
            assert _reply(listener) == "afterwards"
            assert service.end(number) == 0
    assert "Traceback" not in "\n".join(service.log)


def _wait_until_it_serves(service: ServiceProcess, code: Path) -> None:
    """Change the time of `code` meanwhile: a change before uvicorn's first look is none to it."""
    for second in range(int(PATIENCE)):
        with contextlib.suppress(AssertionError):
            service.wait_for("serving on")
            return
        later = time.time() + second
        os.utime(code, (later, later))
    raise AssertionError(f"it does not serve: {service.log}")


def _reply(listener: socket.socket) -> str:
    with Client(listener.getsockname()[1]) as client:
        client.post({"message": "hi"})
        client.head()
        return text(client.frames())

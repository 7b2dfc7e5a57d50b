"""`omniforge-chat talk` with a service that keeps replies."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from typing import Iterator, Optional

import pytest

from ..support.constants import PATIENCE
from ..support.process import environment
from ..support.scripted import BROKEN, SILENT, Answer, Scripted, chunk, done, refusal, stream
from ..support.servers import UvicornThread
from ..support.terminal import COMMAND, Terminal

ONE, TWO = chunk("one ", 4), chunk("two", 7)

UNHURRIED = """
import sys
sys.modules["click"] = None
from omniforge_chat import reader
reader._TELLING = 600.0
from omniforge_chat.cli import main
sys.exit(main())
"""
"""The command, which waits for the service for as long as one lets it."""


@contextlib.contextmanager
def talking(app: Scripted, code: Optional[str] = None) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a script, and the app that it talks to."""
    command = COMMAND if code is None else [sys.executable, "-c", code]
    with (
        UvicornThread(app, lifespan="off") as server,
        subprocess.Popen(
            [*command, "talk", server.url, "--once", "hi"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def test_a_script_gets_the_whole_reply() -> None:
    """A note of what happened is no part of it."""
    app = Scripted(stream(ONE, BROKEN), refusal(503, "replay_unavailable"), stream(TWO, done()))
    with talking(app) as process:
        shown, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, shown) == (0, b"one two\n")
    assert told == b"(The connection broke; reconnecting)\n"
    assert len(app.requests) == 3


def test_a_terminal_shows_the_rest_below_the_note() -> None:
    """In the middle of a reply."""
    app = Scripted(stream(ONE, BROKEN), stream(TWO, done()))
    with (
        UvicornThread(app, lifespan="off") as server,
        Terminal("talk", server.url, TERM="dumb") as terminal,
    ):
        terminal.prompt()
        terminal.type("hi\r")
        terminal.until("one \r\n(The connection broke; reconnecting)\r\ntwo\r\n")
        terminal.prompt()
        terminal.type("\x04")
        assert terminal.status() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_reply_at_the_service(number: int, status: int) -> None:
    """Which would otherwise expect its client back, and go on."""
    app = Scripted(stream(ONE, SILENT))
    with talking(app) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"one "
        process.send_signal(number)
        assert process.wait(PATIENCE) == status
    assert app.requests == ["POST", "DELETE"]


def test_another_ctrl_c_does_not_wait_for_the_service() -> None:
    """It may not answer at all."""
    app = Scripted(stream(ONE, SILENT))
    app.stopping = Answer([SILENT], 0)
    with talking(app, UNHURRIED) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"one "
        process.send_signal(signal.SIGINT)
        app.until_stopped()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert app.requests == ["POST", "DELETE"]


def test_ctrl_c_in_a_conversation_stops_the_reply_at_the_service() -> None:
    """And the conversation goes on."""
    app = Scripted(stream(ONE, SILENT), stream(TWO, done()))
    with UvicornThread(app, lifespan="off") as server, Terminal("talk", server.url) as terminal:
        terminal.prompt()
        terminal.type("hi\r")
        terminal.until("one ")
        terminal.type("\x03")
        terminal.until("(Stopped)")
        terminal.prompt()
        terminal.type("hi\r")
        terminal.until("\r\ntwo\r\n")
        terminal.prompt()
        terminal.type("\x04")
        assert terminal.status() == 0
    assert app.requests == ["POST", "DELETE", "POST"]

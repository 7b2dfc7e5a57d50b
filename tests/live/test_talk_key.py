"""`omniforge-chat talk` with a service that wants to know who asks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from omniforge_chat import Settings, create_app
from omniforge_chat.models import Rate

from ..support.constants import PATIENCE
from ..support.process import environment
from ..support.responders import saying
from ..support.servers import UvicornThread
from ..support.terminal import COMMAND, Terminal

KEY = "ofk_0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[UvicornThread]:
    settings = Settings(api_keys=f"me:{KEY}")
    with UvicornThread(create_app(saying("Hello, you."), settings=settings)) as running:
        yield running


def script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "talk", *arguments, "--once", "hi"],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("way", ["variable", "file", "header"])
def test_a_script_says_who_it_is(server: UvicornThread, tmp_path: Path, way: str) -> None:
    """In no argument, as `ps` shows those; a header that one asks for comes before the others."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n" if way == "file" else "")
    arguments = {
        "variable": [],
        "file": ["--key-file", str(file)],
        "header": ["--header", f"X-API-Key: {KEY}"],
    }[way]
    variable = KEY if way == "variable" else "sesame"
    done = script(server.url, *arguments, OMNIFORGE_CHAT_KEY=variable)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, you.\n", "")


@pytest.mark.parametrize("key", ["", "sesame"])
def test_a_script_is_told_how_to_say_it(server: UvicornThread, key: str) -> None:
    """Nobody is there to be asked."""
    done = script(server.url, OMNIFORGE_CHAT_KEY=key)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("omniforge-chat: unauthorized: ")
    assert line.endswith("(OMNIFORGE_CHAT_KEY or --key-file says who you are)")
    assert "sesame" not in line


@pytest.mark.parametrize("text", ["", "sesame\nstreet", "sésame", None])
def test_a_file_without_a_key_is_told_and_not_shown(
    server: UvicornThread, tmp_path: Path, text: str
) -> None:
    """With the status for arguments that cannot be used."""
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
    done = script(server.url, "--key-file", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "--key-file" in line
    assert "same" not in line


def test_a_script_is_told_how_long_it_has_to_wait() -> None:
    """It may try again then."""
    settings = Settings(rate_limit=Rate(1, 3600))
    with UvicornThread(create_app(saying("Hello"), settings=settings)) as server:
        assert script(server.url).returncode == 0
        done = script(server.url)
    assert done.returncode == 1
    assert done.stderr.startswith("omniforge-chat: rate_limited: ")
    assert re.search(r"\(try again in 3[56]\d\d s\)\n$", done.stderr)


def test_a_user_is_asked_for_a_key_and_the_message_goes_on(server: UvicornThread) -> None:
    """Once: it is known from then on. A wrong one is asked for again, and none is shown."""
    with Terminal("talk", server.url) as terminal:
        terminal.prompt()
        terminal.type("hi\r")
        shown = terminal.until("Key: ")
        assert "(The service wants a key)" in shown
        terminal.type("sesame street\r")
        shown += terminal.until("Key: ")
        assert "visible ASCII" in shown
        terminal.type("sesame\r")
        shown += terminal.until("Key: ")
        assert "(The key was refused)" in shown
        terminal.type(f"{KEY}\r")
        shown += terminal.until("Hello, you.\r\n") + terminal.prompt()
        terminal.type("again\r")
        shown += terminal.until("Hello, you.\r\n") + terminal.prompt()
        assert "sesame" not in shown
        assert KEY not in shown
        terminal.type("/quit\r")
        assert terminal.status() == 0
        assert terminal.settings == terminal.before


@pytest.mark.parametrize(("keys", "said"), [("\x03", "(Stopped)"), ("\r", "unauthorized: ")])
def test_a_user_who_has_no_key_is_told(server: UvicornThread, keys: str, said: str) -> None:
    """And is at the prompt again, in a terminal that shows what is typed."""
    with Terminal("talk", server.url) as terminal:
        terminal.prompt()
        terminal.type("hi\r")
        terminal.until("Key: ")
        terminal.type(keys)
        terminal.until(said)
        terminal.prompt()
        terminal.type("/quit\r")
        assert terminal.status() == 0
        assert terminal.settings == terminal.before


def test_one_message_from_a_terminal_asks_for_a_key_too(server: UvicornThread) -> None:
    """Its reply alone goes to standard output."""
    with Terminal("talk", server.url, "--once", "hi", stdout=subprocess.PIPE) as terminal:
        terminal.until("Key: ")
        terminal.type(f"{KEY}\r")
        assert terminal.status() == 0
        assert terminal.process.stdout is not None
        with terminal.process.stdout as kept:
            assert kept.read() == b"Hello, you.\n"

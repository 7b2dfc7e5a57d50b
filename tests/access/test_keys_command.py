"""`omniforge-chat keys`: what it prints, what it writes, and that a service takes it over."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List

import pytest

from omniforge_chat.access import make_credentials, new_key
from omniforge_chat.cli import keys as keys_command
from omniforge_chat.models import Allowance, Caller, Rate
from omniforge_chat.settings import Settings

from ..support.command import Command
from ..support.constants import PATIENCE
from ..support.process import MODULE, environment

FILE = {"CHAT_API_KEYS_FILE": "keys.json"}


def found(path: Path, secret: str) -> object:
    credentials = make_credentials(Settings(api_keys_file=str(path)))
    assert credentials is not None
    return asyncio.run(credentials.find(secret))


def contents(path: Path) -> List[Dict[str, Any]]:
    keys: List[Dict[str, Any]] = json.loads(path.read_text())["keys"]
    return keys


def test_a_key_is_printed_once_and_alone(command: Command, tmp_path: Path) -> None:
    """It goes into a pipe or a variable, and from then on only its owner has it."""
    done = command("keys", "add", "alice", **FILE)
    assert (done.status, done.err) == (0, "")
    [key] = done.out.splitlines()
    assert found(tmp_path / "keys.json", key) == Caller("key:alice")
    assert key not in (tmp_path / "keys.json").read_text()
    listed = command("keys", "list", **FILE)
    assert key not in listed.out
    assert contents(tmp_path / "keys.json")[0]["sha256"] not in listed.out


def test_a_key_has_the_limits_that_it_was_given(command: Command, tmp_path: Path) -> None:
    """A customer who pays for more gets more, without a restart."""
    limits = ("--rate-limit", "100/30s", "--streams", "off", "--tokens-per-day", "5000")
    may = ("--may", "chat", "--may", "metrics")
    key = command("keys", "add", "alice", *limits, *may, **FILE).out.strip()
    assert found(tmp_path / "keys.json", key) == Caller(
        "key:alice", frozenset({"chat", "metrics"}), Allowance(Rate(100, 30), None, 5000)
    )
    command("keys", "add", "bob", "--rate-limit", "off", **FILE)
    head, alice, bob = command("keys", "list", **FILE).out.splitlines()
    assert head.split() == ["NAME", "CREATED", "MAY", "RATE", "STREAMS", "TOKENS/DAY"]
    assert alice.split()[3:] == ["chat,metrics", "100/30s", "off", "5000"]
    assert bob.split()[3:] == ["chat", "off", "-", "-"]


def test_a_running_service_takes_changes_over(command: Command, tmp_path: Path) -> None:
    """A key that is stolen must be gone before the streams of the others have ended."""
    command("keys", "add", "root", **FILE)
    credentials = make_credentials(Settings(api_keys_file=str(tmp_path / "keys.json")))
    assert credentials is not None
    key = command("keys", "add", "alice", **FILE).out.strip()
    assert asyncio.run(credentials.find(key)) == Caller("key:alice")
    assert command("keys", "remove", "alice", **FILE).status == 0
    # An unknown key lets the service look at once; without one it does within a second.
    assert asyncio.run(credentials.find(new_key())) is None
    assert asyncio.run(credentials.find(key)) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: add|list|remove"),
        (["show"], "invalid choice: 'show'"),
        (["add"], "required: NAME"),
        (["add", "a b"], "argument NAME: expected 1 to 64 of A-Z"),
        (["add", "x" * 65], "argument NAME: expected 1 to 64 of A-Z"),
        (["add", "a", "--rate-limit", "fast"], "argument --rate-limit: expected a rate such as"),
        (["add", "a", "--rate-limit", "1/0s"], "argument --rate-limit: expected a rate such as"),
        (["add", "a", "--streams", "0"], "argument --streams: expected a whole number"),
        (["add", "a", "--tokens-per-day", "x"], "argument --tokens-per-day: expected a whole"),
        (["add", "a", "--may", "all"], "argument --may: invalid choice: 'all'"),
        (["list", "a"], "unrecognized arguments: a"),
    ],
)
def test_arguments_that_cannot_be_used_are_told(
    command: Command, arguments: List[str], said: str, tmp_path: Path
) -> None:
    """With the usage, and the status of a wrong command."""
    done = command("keys", *arguments, **FILE)
    assert said in done.err
    assert (done.status, done.out) == (2, "")
    assert not list(tmp_path.iterdir())


def test_a_file_must_be_named(command: Command) -> None:
    """A default would be a file that no service reads."""
    done = command("keys", "list")
    assert (done.status, done.out) == (2, "")
    assert done.err == ("omniforge-chat: no file is named: use --file, or set CHAT_API_KEYS_FILE\n")


def test_wrong_settings_are_told_as_other_commands_do(command: Command) -> None:
    """They are those of the service."""
    done = command("keys", "list", PORT="x", **FILE)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("omniforge-chat: PORT='x': expected")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "alice"], "keys.json: alice has a key; remove it before you add another one"),
        (["remove", "carl"], "keys.json: carl has no key"),
        (["list", "--file", "nowhere.json"], "nowhere.json: No such file or directory"),
        (["remove", "a", "--file", "nowhere.json"], "nowhere.json: No such file or directory"),
        (["add", "a", "--file", "no/where.json"], "where.json.lock: No such file or directory"),
        (["list", "--file", "bad.json"], "bad.json: this is no file of keys: JSON is malformed"),
        (["add", "a", "--file", "bad.json"], "bad.json: this is no file of keys: JSON is mal"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    command: Command, arguments: List[str], said: str, tmp_path: Path
) -> None:
    """It is one line, which names the file."""
    (tmp_path / "bad.json").write_text("alice:secret")
    command("keys", "add", "alice", **FILE)
    before = (tmp_path / "keys.json").read_bytes()
    done = command("keys", *arguments, **FILE)
    assert (done.status, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert said in line
    assert (tmp_path / "keys.json").read_bytes() == before
    assert (tmp_path / "bad.json").read_text() == "alice:secret"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_key_that_nobody_saw_is_not_in_the_file(command: Command, tmp_path: Path) -> None:
    """It would open the service for nobody, and its name could not be added again."""
    command("keys", "add", "alice", **FILE)
    before = (tmp_path / "keys.json").read_bytes()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*MODULE, "keys", "add", "bob"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(**FILE),
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert (tmp_path / "keys.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"keys.json", "keys.json.lock"}


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such bits")
def test_the_file_is_its_owner_s_alone_and_keeps_its_rights(
    command: Command, tmp_path: Path
) -> None:
    """A new one is closed; one that a group may read stays so, as the service may be in it."""
    path = tmp_path / "keys.json"
    command("keys", "add", "alice", **FILE)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    command("keys", "add", "bob", **FILE)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root gives files away"
)
def test_the_file_keeps_its_owner(command: Command, tmp_path: Path) -> None:
    """Root adds a key, and the user of the service must be able to read the file."""
    path = tmp_path / "keys.json"
    command("keys", "add", "alice", **FILE)
    os.chown(path, 1234, 4321)
    command("keys", "add", "bob", **FILE)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_link_to_the_file_stays_one(command: Command, tmp_path: Path) -> None:
    """Whoever links to it has reasons."""
    (tmp_path / "elsewhere").mkdir()
    real = tmp_path / "elsewhere" / "real.json"
    real.write_text('{"version": 1, "keys": []}')
    try:
        (tmp_path / "keys.json").symlink_to(real)
    except OSError:
        pytest.skip("no links can be made here")
    command("keys", "add", "alice", **FILE)
    assert (tmp_path / "keys.json").is_symlink()
    assert [key["name"] for key in contents(real)] == ["alice"]


@pytest.mark.skipif(sys.platform == "win32", reason="nothing locks the file there")
def test_writers_at_the_same_time_lose_no_key(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two operators, or a script that adds many."""
    path = tmp_path / "keys.json"

    def add(number: int) -> None:
        assert keys_command.run(["add", f"n{number}", "--file", str(path)]) == 0

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(key["name"] for key in contents(path)) == sorted(f"n{n}" for n in range(12))
    assert len(capfd.readouterr().out.split()) == 12

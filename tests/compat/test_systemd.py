"""The unit of docs/deploy, as systemd judges it. No systemd runs here that could start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Set

import pytest

from ..support.answers import last
from ..support.docs import DOCS
from ..support.missing import missing
from ..support.process import MODULE, running
from .driving import free_port
from .table import executable

UNIT = DOCS / "deploy" / "omniforge-chat.service"
INSTALLED = "/opt/omniforge-chat/bin/omniforge-chat"
EXPOSURE = 15
"""The most that `systemd-analyze security` may find, in tenths: up to 1.9 it says OK."""

MACHINE_CODE = re.compile(r"mmap\(.*PROT_WRITE\|PROT_EXEC|mprotect\(.*PROT_EXEC")
"""The calls that MemoryDenyWriteExecute forbids."""


def ask_systemd(*arguments: object) -> str:
    program = executable("systemd-analyze") or missing("systemd-analyze")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a command that this machine has."""
    text = UNIT.read_text("utf-8")
    assert text.count(INSTALLED) == 1
    (tmp_path / UNIT.name).write_text(text.replace(INSTALLED, sys.executable))
    return tmp_path / UNIT.name


def test_the_unit_is_understood(unit: Path) -> None:
    """A line with a mistake is ignored when it is loaded, and a limit with it."""
    assert ask_systemd("verify", "--man=no", unit) == ""


def test_the_unit_leaves_little_open(unit: Path) -> None:
    """What is left is the network, which a server needs."""
    ask_systemd("security", "--offline=true", f"--threshold={EXPOSURE}", unit)


def groups() -> Dict[str, Set[str]]:
    """The groups of system calls that systemd knows, and their members."""
    found: Dict[str, Set[str]] = {}
    for line in ask_systemd("syscall-filter", "--no-pager").splitlines():
        word = line.strip()
        if line.startswith("@"):
            found[word] = set()
        elif word and word[0] != "#" and found:
            found[list(found)[-1]].add(word)
    return found


def members(group: str, known: Dict[str, Set[str]]) -> Set[str]:
    """The calls of a group and of the groups in it."""
    calls: Set[str] = set()
    for name in known[group]:
        calls |= members(name, known) if name.startswith("@") else {name}
    return calls


def allowed() -> Set[str]:
    """The system calls that the unit leaves to the service."""
    known = groups()
    calls: Set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE):
        for name in line.lstrip("~").split():
            calls = calls - members(name, known) if line[0] == "~" else calls | members(name, known)
    return calls


def test_the_service_needs_nothing_that_the_unit_forbids(tmp_path: Path) -> None:
    """It starts two workers, reads and writes conversations, answers, and drains."""
    strace = executable("strace") or missing("strace")
    trace = tmp_path / "trace"
    command = [strace, "-D", "-f", "-qq", "-e", "signal=none", "-o", str(trace), *MODULE]
    history = f"sqlite:{tmp_path / 'conversations.db'}"
    options = {"PORT": str(free_port()), "CHAT_HISTORY": history, "WEB_CONCURRENCY": "2"}
    with running(tmp_path, command=command, **options) as service:
        for _ in range(2):
            service.wait_for("serving on")
        with service.connect() as client:
            client.post({"message": "hi"})
            assert client.head()[0] == 200
            assert last(client.frames())[0] == "done"
        assert service.end() == 0
    lines = trace.read_text("utf-8", "replace").splitlines()
    calls = set(re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)", "\n".join(lines), re.MULTILINE))
    assert {"execve", "accept4", "exit_group"} <= calls
    if os.geteuid() == 0:
        calls -= {"fchown"}  # SQLite gives its files to their owner if it is root
    assert calls - allowed() == set()
    assert [line for line in lines if MACHINE_CODE.search(line)] == []

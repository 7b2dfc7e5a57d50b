"""A command of the command line, in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from omniforge_chat.cli import main

from .process import environment


class Done(NamedTuple):
    """What a command has said, and its exit status."""

    status: int
    out: str
    err: str


class Command:
    """A command in this process, with an environment of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch = monkeypatch
        self._captured = capfd

    def __call__(self, *arguments: str, **variables: str) -> Done:
        self._patch.setattr(os, "environ", environment(**variables))
        try:
            status = main(list(arguments))
        except SystemExit as end:  # of argparse
            status = int(end.code or 0)
        return Done(status, *self._captured.readouterr())


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch, capfd)

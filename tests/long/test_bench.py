"""The bench runs: what nobody runs between two releases is broken at the second."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import List

import pytest

from omniforge_chat import models

from ..bench import tricks
from ..support.constants import PATIENCE

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc"),
    pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="no uvloop here"),
]


def test_the_bench_measures_what_it_says() -> None:
    """Each subject answers as the others do, or the exit status says that one was left out."""
    options = "--only short,long --subjects bare,omniforge,fastapi-stream"
    lines = run(options)
    for row in ("short reply, req/s, of bare", "long reply, of fastapi-stream"):
        [line] = [line for line in lines if f"| {row}" in line]
        assert "pass" in line or "FAIL" in line


def test_the_bench_reads_many_streams_in_processes_of_their_own() -> None:
    """The row of 10,000 streams, with as few as a busy machine can open; none may be lost."""
    lines = run("--only many --many 200 --subjects omniforge")
    [line] = [line for line in lines if "| open streams" in line and "errors" in line]
    assert "pass, aim met" in line


def test_a_trick_does_what_the_plain_way_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else its time says nothing."""
    for owner in (os, models):  # what is random must be the same twice
        monkeypatch.setattr(owner, "urandom", lambda size: bytes(range(size)))
    for plain, ours in tricks.ways().values():
        assert plain() == ours()
    monkeypatch.setattr(tricks, "CALLS", 1)
    tricks.main()
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(tricks.ways())


def run(options: str) -> List[str]:
    """The lines that one short round prints."""
    options = f"--rounds 1 --seconds 0.2 {options}"
    command = [sys.executable, "-m", "tests.bench", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()

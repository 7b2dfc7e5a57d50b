"""The fuzzer: its targets are sound, and it finds a fault if there is one."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path
from typing import Iterator

import pytest

from ..fuzz import faults
from ..fuzz.__main__ import main
from ..fuzz.blind import search
from ..fuzz.registry import TARGETS
from ..fuzz.target import Target


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """There is a line for each refusal, and these are many."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds(name: str) -> None:
    """A search begins with them: one that fails ends it."""
    target = TARGETS[name]
    assert target.seeds
    for data in target.seeds:
        error = faults.attempt(target, data)
        if error is not None:
            raise AssertionError(f"{name} fails with {data!r}") from error


def _planted(data: bytes) -> None:
    """A reader that fails at two of a kind."""
    if b"<<" in data:
        raise KeyError("planted")


def test_a_planted_bug_is_found_and_told_with_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads that in a CI's log has nothing else of the machine on which it was found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TARGETS, "planted", Target("planted", _planted, [b"a <b", b"< c > d"]))
    assert not search(TARGETS["planted"], 60.0, 0)
    told = capsys.readouterr().out
    assert "KeyError: 'planted'" in told
    assert "input, 2 bytes: b'<<'\n" in told
    [again] = re.findall("^again: (.*)$", told, re.MULTILINE)
    _, *command = shlex.split(again)
    assert command[:2] == ["-m", "tests.fuzz"]
    monkeypatch.setattr("sys.argv", ["fuzz", *command[2:]])
    assert main() == 1
    assert "KeyError: 'planted'" in capsys.readouterr().out


def test_an_input_that_never_ends_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One client could keep all others waiting with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(faults, "SECONDS", 0.05)

    def hang(data: bytes) -> None:
        while data:
            pass

    assert faults.check(Target("planted", hang, []), b"")
    assert not faults.check(Target("planted", hang, []), b"abc")
    assert "TooSlow" in capsys.readouterr().out

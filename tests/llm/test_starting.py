"""The start of `make run-llm`, as far as it needs no model."""

from __future__ import annotations

import sys

import pytest

from . import __main__ as starter
from . import llama


@pytest.fixture
def _python_39(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))


@pytest.mark.usefixtures("_python_39")
def test_a_python_too_old_is_told_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody who tries it on the oldest Python that the service knows gets no traceback."""
    assert starter.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run-llm: llama.cpp needs Python 3.10 or newer, and this is ")


def test_a_model_that_is_not_installed_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says how to get it."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    monkeypatch.setattr(llama, "find_spec", lambda name: None)
    assert starter.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`make test-llm` installs both" in line


def test_the_model_is_the_only_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for somewhere else is not sent to it; what is said of the chat stands."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-elsewhere")
    monkeypatch.setenv("ANTHROPIC_MODEL", "elsewhere")
    monkeypatch.setenv("CHAT_TEMPERATURE", "0.7")
    monkeypatch.setenv("PORT", "9000")
    variables = starter.environment("http://127.0.0.1:1")
    assert variables["OPENAI_BASE_URL"] == "http://127.0.0.1:1/v1"
    assert variables["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    assert not {"OPENAI_API_KEY", "ANTHROPIC_MODEL"} & set(variables)
    assert (variables["CHAT_TEMPERATURE"], variables["PORT"]) == ("0.7", "9000")
    assert (variables["CHAT_RESPONDER"], variables["CHAT_HISTORY"]) == ("openai", "memory")

"""The results of the tests here, and their comparison with docs/compatibility.md."""

from __future__ import annotations

from pathlib import Path
from typing import List, Set

import pytest

from ..support.chromium import browser
from ..support.stores.fixtures import postgres_cluster, postgres_server
from .table import PAGE, Recorder, Table

__all__ = ["browser", "postgres_cluster", "postgres_server"]

RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help=f"write docs/{PAGE.name}")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Recorder:
    """`record(subject, check)` tells a result, "yes" if no other is given."""
    return request.config.stash[RECORDER]


class _Run:
    """One run of pytest: whether it tries everything, and what it comes to."""

    def __init__(self, recorder: Recorder, *, write: bool) -> None:
        self._recorder = recorder
        self._write = write
        self._whole = True
        self._files: Set[Path] = set()
        self._lines: List[str] = []

    def pytest_deselected(self) -> None:
        self._whole = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._files = {item.path for item in session.items}
        here = set(Path(__file__).parent.glob("test_*.py"))
        named = any("::" in argument for argument in session.config.args)
        self._whole &= here <= self._files and not named

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._whole &= report.passed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._whole &= report.passed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._write:
            self._recorder.write(whole=self._whole)
            return
        wrong, notes = self._recorder.compare(whole=self._whole)
        self._lines = [*wrong, *notes]
        if wrong:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._recorder.found.versions:
            terminalreporter.section("compatibility")
            for line in [self._recorder.found.render(), *self._lines]:
                terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    write = config.getoption("--write-table", default=False)
    committed = Table.parse(PAGE.read_text("utf-8")) if PAGE.exists() else Table()
    config.stash[RECORDER] = Recorder(committed, strict=not write)
    config.pluginmanager.register(_Run(config.stash[RECORDER], write=write))

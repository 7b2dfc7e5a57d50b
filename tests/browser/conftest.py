"""Fixtures for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..support.chromium import browser
from ..support.missing import missing

__all__ = ["axe", "browser"]


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which finds faults of accessibility.

    `make test-browser` installs it, in the version that tests/compat/package.json pins. Without it
    these tests are skipped; if COMPAT_REQUIRED is set, as in CI, they fail.
    """
    script = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        missing("axe-core", "make test-browser")
    return script.read_text("utf-8")

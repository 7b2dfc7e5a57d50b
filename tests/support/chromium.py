"""Chromium, for the tests of a folder: a fixture that its conftest imports.

Needs the package playwright (`pip install playwright`; its own browsers are not used) and Chromium
(`apt-get install chromium`). Without either these tests are skipped.
"""

from __future__ import annotations

import shutil
from typing import Any, Iterator

import pytest

from .constants import PATIENCE

CHROMIUM = shutil.which("chromium")
MISSING = "playwright is not installed (pip install playwright)"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever the browser itself might want to look up, it finds no host but this one.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Not for the session: while playwright runs, this thread has an event loop that other tests
    # must not find.
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    playwright: Any = pytest.importorskip("playwright.sync_api", reason=MISSING)
    playwright.expect.set_options(timeout=PATIENCE * 1000)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()

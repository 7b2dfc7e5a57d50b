"""Chromium, for the tests of a folder: a fixture that its conftest imports, and a watched page.

Needs the package playwright (`pip install playwright`; its own browsers are not used) and Chromium
(`apt-get install chromium`). Without either these tests are skipped; if COMPAT_REQUIRED is set, as
in CI, they fail.
"""

from __future__ import annotations

import contextlib
import shutil
from importlib import import_module
from typing import Any, Iterator, List, Sequence

import pytest

from .constants import PATIENCE
from .missing import missing

CHROMIUM = shutil.which("chromium")

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


def playwright() -> Any:
    """The module of playwright, for machines that have a browser, too."""
    if CHROMIUM is None:
        missing("chromium", "make test-browser")
    try:
        return import_module("playwright.sync_api")
    except ModuleNotFoundError:
        missing("playwright", "make test-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Not for the session: while playwright runs, this thread has an event loop that other tests
    # must not find.
    api = playwright()
    api.expect.set_options(timeout=PATIENCE * 1000)
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextlib.contextmanager
def watched_page(
    browser: Any, served: Sequence[str], *, recovered: str, **options: Any
) -> Iterator[Any]:
    """A page in a context of its own, whose options are `options`.

    At the end it must have asked for nothing but addresses that begin as those in `served` do, and
    put nothing on the console but lines that begin with `recovered`: Chromium puts one there for
    each answer of 4xx or 5xx, whatever a page makes of it.
    """
    complaints: List[str] = []
    asked: List[str] = []

    def note(message: Any) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(recovered):
            complaints.append(message.text)

    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        yield page
        assert complaints == []
        assert [url for url in asked if not url.startswith(tuple(served))] == []
    finally:
        context.close()

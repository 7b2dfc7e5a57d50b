"""Tests that need what not every machine has."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, remedy: str = "make test-compat") -> NoReturn:
    """Skip a test, or a module of tests, for want of `what`; `remedy` tells how to get it.

    If COMPAT_REQUIRED is set, as in CI, it fails.
    """
    if os.environ.get("COMPAT_REQUIRED"):
        pytest.fail(f"no {what} here, and COMPAT_REQUIRED is set")
    pytest.skip(f"no {what} here: {remedy}", allow_module_level=True)

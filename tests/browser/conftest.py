"""Fixtures for the tests of this folder."""

from ..support.chromium import browser

__all__ = ["browser"]

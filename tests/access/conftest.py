"""Fixtures for the tests of this folder."""

from __future__ import annotations

from ..support.command import command

__all__ = ["command"]

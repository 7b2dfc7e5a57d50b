"""Fixtures for the tests of this folder."""

from __future__ import annotations

from ..support.stores.fixtures import postgres_cluster, postgres_server

__all__ = ["postgres_cluster", "postgres_server"]

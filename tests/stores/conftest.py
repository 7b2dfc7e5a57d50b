"""Fixtures for the tests of this folder."""

from __future__ import annotations

from ..support.stores.fixtures import (
    one_redis_server,
    postgres_cluster,
    postgres_server,
    redis_server,
    redis_servers,
)

__all__ = [
    "one_redis_server",
    "postgres_cluster",
    "postgres_server",
    "redis_server",
    "redis_servers",
]

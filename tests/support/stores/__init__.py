"""Real servers of stores for the tests: Redis, Valkey and PostgreSQL.

Each is a process of its own on a free port of 127.0.0.1, with its data in a directory of its own,
and it ends with the tests, whichever way those end. `fixtures.py` has one for each test.
"""

from __future__ import annotations

from .postgres import PostgresServer
from .redis import RedisServer

__all__ = ["PostgresServer", "RedisServer"]

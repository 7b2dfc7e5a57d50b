"""The fixtures, for the conftest of a folder whose tests need them."""

from __future__ import annotations

import contextlib
import functools
from typing import Callable, Iterator

import pytest

from .postgres import PostgresServer
from .redis import SERVERS, RedisServer, program


@pytest.fixture(params=SERVERS)
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A new and empty Redis, and each Valkey: the test runs once for each."""
    with RedisServer(program(request.param)) as server:
        yield server


@pytest.fixture
def one_redis_server() -> Iterator[RedisServer]:
    """A new and empty Redis alone, for a test that is not about what the server does."""
    with RedisServer(program("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[Callable[[str], RedisServer]]:
    """Each Redis and Valkey of this process of the tests, by its name, for tests that leave it as
    it was and have keys of their own."""
    with contextlib.ExitStack() as stack:
        yield functools.lru_cache(lambda name: stack.enter_context(RedisServer(program(name))))


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresServer]:
    """The PostgreSQL of this process of the tests, as a new one takes a second."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_server(postgres_cluster: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL with a new and empty database, to which its `url` leads."""
    with postgres_cluster.database():
        yield postgres_cluster

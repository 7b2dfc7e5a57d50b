"""The fixtures, for the conftest of a folder whose tests need them."""

from __future__ import annotations

from typing import Iterator

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
def postgres_cluster() -> Iterator[PostgresServer]:
    """The PostgreSQL of this process of the tests, as a new one takes a second."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_server(postgres_cluster: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL with a new and empty database, to which its `url` leads."""
    with postgres_cluster.database():
        yield postgres_cluster

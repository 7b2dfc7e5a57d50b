"""The servers of stores that the tests use do what those tests take for granted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psycopg
import pytest
import redis

from ..support.constants import PATIENCE
from ..support.stores import PostgresServer, RedisServer
from ..support.stores.redis import program


def test_a_redis_server_loses_its_keys_with_its_process_if_it_is_not_durable(
    redis_server: RedisServer,
) -> None:
    """A test of an emptied store rests on the one, and a test of a restart on the other."""
    redis_server.client.set("key", "value")
    redis_server.restart()
    assert redis_server.client.keys() == []
    with RedisServer(program("redis"), durable=True, password="secret") as durable:
        durable.client.set("key", "value")
        for number in (signal.SIGTERM, signal.SIGKILL):
            durable.restart(number)
            assert durable.client.get("key") == "value"


def test_a_redis_server_refuses_what_a_test_wants_refused(one_redis_server: RedisServer) -> None:
    """Each is a row of bad input: a full one, a user who may only read, a replica."""
    reader = redis.Redis.from_url(one_redis_server.user("reader", "+@read"))
    with reader, pytest.raises(redis.exceptions.NoPermissionError):
        reader.set("key", "value")
    with one_redis_server.replica() as replica, pytest.raises(redis.exceptions.ReadOnlyError):
        replica.client.set("key", "value")
    one_redis_server.config(maxmemory=1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        one_redis_server.client.set("key", "value")


def test_a_postgres_server_keeps_what_it_has_committed(postgres_server: PostgresServer) -> None:
    """A test of a store that survives rests on it."""
    postgres_server.execute("CREATE TABLE things (name text)")
    postgres_server.restart()
    postgres_server.execute("INSERT INTO things VALUES ('thing')")
    postgres_server.kill()
    postgres_server.start()
    assert postgres_server.execute("SELECT name FROM things") == [("thing",)]


def test_a_paused_server_answers_when_it_goes_on(
    one_redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    """A store that hangs is worse than one that is gone, and tests want both."""
    impatient = redis.Redis.from_url(one_redis_server.url, socket_timeout=0.05)
    with impatient, psycopg.connect(postgres_server.url) as connection:
        impatient.ping()
        one_redis_server.pause()
        postgres_server.pause()
        with pytest.raises(redis.RedisError, match=r"(?i)timeout"):
            impatient.ping()
        connection.pgconn.send_query(b"SELECT 1")  # the rest of psycopg would wait for its rows
        one_redis_server.resume()
        assert impatient.ping()
        assert connection.pgconn.is_busy()
        postgres_server.resume()
        while connection.pgconn.get_result():
            pass
        assert postgres_server.execute("SELECT 1") == [(1,)]


_KILLED = """
import os, signal
from tests.support.stores import RedisServer
from tests.support.stores.redis import program
with RedisServer(program("redis")) as server:
    print(server.url, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_when_the_process_of_its_test_is_killed(
    one_redis_server: RedisServer,
) -> None:
    """Nobody else would end it."""
    done = subprocess.run([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    with redis.Redis.from_url(done.stdout.strip()) as client:
        while True:
            try:
                client.ping()
            except redis.exceptions.ConnectionError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)

"""Stores of conversations, each with the way to look at it from the side."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sqlite3
import time
from pathlib import Path
from typing import (
    Any,
    Awaitable,
    Callable,
    ContextManager,
    Iterator,
    List,
    Optional,
    Protocol,
    Sequence,
    Tuple,
)

import psycopg

from omniforge_chat import Claim, MemoryHistory, Message, StoredMessage
from omniforge_chat.conversations.postgres import PostgresHistory
from omniforge_chat.conversations.redis import RedisHistory
from omniforge_chat.conversations.sqlite import SQLiteHistory
from omniforge_chat.stores import SharedRedis

from .constants import PATIENCE
from .stores import PostgresServer, RedisServer


class Store(Protocol):
    """A History that can be read, deleted and closed."""

    async def begin_turn(self, claim: Claim) -> Sequence[Message]: ...

    async def end_turn(
        self, claim: Claim, messages: Sequence[Message], replaced: int = 0
    ) -> None: ...

    async def read(self, conversation_id: str, owner: str) -> Sequence[StoredMessage]: ...

    async def delete(self, conversation_id: str, owner: str) -> None: ...

    async def aclose(self) -> None: ...


class Stores(Protocol):
    """Where the histories of several processes find each other."""

    shared: bool
    """False if each process has its own."""

    def make(self, **limits: Any) -> Store:
        """The history of one more process."""

    async def kill(self, history: Store, conversation_id: str) -> None:
        """Let the process of `history`, which holds a conversation, have died long ago."""

    def age(self, conversation_id: str, seconds: float) -> None:
        """Let a conversation have been used last so long before it was."""


class _Memory(MemoryHistory):
    async def aclose(self) -> None:
        """There is nothing to close."""


class InMemory:
    """There is one process, however many a test asks for."""

    shared = False

    def __init__(self) -> None:
        self._made: Optional[_Memory] = None

    def make(self, **limits: Any) -> Store:
        if self._made is None:
            self._made = _Memory(**limits)
        return self._made

    async def kill(self, history: Store, conversation_id: str) -> None:
        raise NotImplementedError

    def age(self, conversation_id: str, seconds: float) -> None:
        raise NotImplementedError


class Tables:
    """What SQLite and PostgreSQL have in common."""

    shared = True
    setting: str
    """Its value of CHAT_HISTORY."""

    def make(self, **limits: Any) -> Store:
        raise NotImplementedError

    def execute(self, statement: str) -> List[Any]:
        """Its rows."""
        raise NotImplementedError

    def outage(self) -> ContextManager[object]:
        """Nothing works meanwhile, and whoever asks is told so at once."""
        raise NotImplementedError

    def hang(self) -> ContextManager[object]:
        """Nobody gets an answer meanwhile; then it comes."""
        raise NotImplementedError

    async def kill(self, history: Store, conversation_id: str) -> None:
        await history.aclose()
        self.execute(
            f"UPDATE omniforge_conversations SET turn_until = 0 WHERE id = '{conversation_id}'"
        )

    def age(self, conversation_id: str, seconds: float) -> None:
        self.execute(
            f"UPDATE omniforge_conversations SET used = used - {seconds}"
            f" WHERE id = '{conversation_id}'"
        )


class InSQLite(Tables):
    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "conversations.db")
        self.setting = f"sqlite:{self.path}"

    def make(self, **limits: Any) -> Store:
        return SQLiteHistory(self.path, **limits)

    def execute(self, statement: str) -> List[Any]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=PATIENCE)) as database, database:
            database.execute("PRAGMA foreign_keys = ON")
            return database.execute(statement).fetchall()

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        os.rename(self.path, f"{self.path}.away")
        os.mkdir(self.path)
        try:
            yield
        finally:
            os.rmdir(self.path)
            os.rename(f"{self.path}.away", self.path)

    @contextlib.contextmanager
    def hang(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield


class InPostgres(Tables):
    """A schema of its own is made in a tenth of the time that a database takes."""

    _numbers = itertools.count()

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._schema = f"schema_{next(self._numbers)}"
        server.execute(f"CREATE SCHEMA {self._schema}")
        self.setting = f"{server.url}?options=-csearch_path%3D{self._schema}"

    def make(self, **limits: Any) -> Store:
        return PostgresHistory(self.setting, **limits)

    def execute(self, statement: str) -> List[Any]:
        with psycopg.connect(self.setting, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self.server.stop()
        yield
        self.server.start()

    @contextlib.contextmanager
    def hang(self) -> Iterator[None]:
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()


class _Redis(RedisHistory):
    def __init__(self, redis: SharedRedis, **limits: Any) -> None:
        super().__init__(redis, **limits)
        self._way = redis

    async def aclose(self) -> None:
        await super().aclose()
        await self._way.aclose()


class InRedis:
    """The keys of each begin in a way of their own."""

    shared = True
    _numbers = itertools.count()

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.prefix = f"{os.getpid()}-{next(self._numbers)}:"

    def make(self, **limits: Any) -> Store:
        return _Redis(SharedRedis(self.server.url, self.prefix), **limits)

    async def kill(self, history: Store, conversation_id: str) -> None:
        await history.aclose()

    def age(self, conversation_id: str, seconds: float) -> None:
        log = f"{self.prefix}c:{{{conversation_id}}}:log"
        left = self.server.client.pttl(log)
        self.server.client.pexpire(log, left - int(seconds * 1000))


@contextlib.asynccontextmanager
async def _closed(histories: List[Store]) -> Any:
    try:
        yield
    finally:
        for history in histories:
            await history.aclose()


class Processes:
    """Makes histories for a test, and closes them."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self._made: List[Store] = []

    def __call__(self, **limits: Any) -> Store:
        self._made.append(self.stores.make(**limits))
        return self._made[-1]

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        """Run a test in an event loop. It may leave no task behind."""

        async def whole() -> None:
            async with _closed(self._made):
                await asyncio.wait_for(test(), PATIENCE)
            await asyncio.sleep(0)
            assert not asyncio.all_tasks() - {asyncio.current_task()}

        asyncio.run(whole())


def said(user: str, reply: str, complete: bool = True) -> Tuple[Message, Message]:
    return Message("user", user), Message("assistant", reply, complete)


_numbers = itertools.count()


def turn(conversation_id: str = "a", *, owner: str = "", message: str = "hi") -> Claim:
    """A claim that is like no other."""
    return Claim(conversation_id, owner, f"turn-{next(_numbers)}", message)


async def keep(history: Store, user: str, reply: str, conversation_id: str = "a") -> None:
    """A whole turn."""
    claim = turn(conversation_id, message=user)
    await history.begin_turn(claim)
    await history.end_turn(claim, said(user, reply))


async def contents(history: Store, conversation_id: str = "a") -> List[str]:
    """What a turn finds; it ends without a reply."""
    claim = turn(conversation_id)
    messages = await history.begin_turn(claim)
    await history.end_turn(claim, ())
    return [message.content for message in messages]


async def until(happened: Callable[[], bool]) -> None:
    """Wait for something in the database, which tells nobody."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)

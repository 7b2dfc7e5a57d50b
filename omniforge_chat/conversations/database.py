"""The way to a database whose driver blocks: threads, each with a connection of its own.

The event loop never waits for a database; it waits for a thread, and not for longer than
ANSWER_SECONDS. A thread that the database lets hang is left alone: what it was to do may happen
late, or twice, as the statements allow for that. Once the database goes on, so does the thread.

Threads and connections begin at the first use, in the process that needs them: none crosses a fork.
"""

from __future__ import annotations

import asyncio
import os
import threading
from queue import SimpleQueue
from time import monotonic
from typing import Any, List, NamedTuple, Optional, Protocol, Sequence, Tuple, Type

from ..observer import Observers, tell
from ..stores import StoreUnavailable
from ..stores.health import Health
from . import sql_statements
from .sql_statements import Statement

ANSWER_SECONDS = 5.0
"""How long the database may take for a transaction, with a new connection if it needs one."""

CLOSE_SECONDS = 1.0
"""How long `aclose` waits for threads."""

Rows = List[Tuple[Any, ...]]


class Connection(Protocol):
    """A connection, which one thread uses."""

    def run(self, statements: Sequence[Statement]) -> List[Rows]:
        """The rows of each statement. All of them are one transaction."""

    def close(self) -> None:
        """Let go of it, in whatever state it is. It raises nothing."""


class Driver(Protocol):
    """A kind of database, and where it is."""

    product: str
    address: str
    """The two are for people: no password is in them."""

    connections: int
    """How many connections a process may have."""

    errors: Tuple[Type[Exception], ...]
    """What the methods of this, and of its connections, raise."""

    def connect(self) -> Connection:
        """A new connection, on which no statement has run."""

    def is_broken(self, error: Exception) -> bool:
        """Whether the same may work with a new connection."""

    def failure(self, error: Exception) -> StoreUnavailable:
        """The meaning of one of `errors`."""


class _Job(NamedTuple):
    """A transaction, and who waits for it."""

    statements: Optional[Sequence[Statement]]
    """None ends the thread."""

    undo: Sequence[Statement] = ()
    """Another one, if that failed, or nobody has waited for its end."""

    answer: Optional[asyncio.Future[List[Rows]]] = None

    @property
    def wanted(self) -> bool:
        return self.answer is None or not self.answer.done()


class Database:
    """Runs transactions, and logs whether the database is there: one line for each change.

    `observers` are told how long a transaction took.
    """

    def __init__(self, driver: Driver) -> None:
        self.observers = Observers()
        self._driver = driver
        self._health = Health(driver.product, driver.address)
        self._pid = 0
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0
        self._unfinished = 0

    @property
    def product(self) -> str:
        return self._driver.product

    @property
    def address(self) -> str:
        return self._driver.address

    @property
    def available(self) -> bool:
        """False while the database is known not to do what it is asked."""
        return self._health.available

    async def run(
        self, statements: Sequence[Statement], undo: Sequence[Statement] = ()
    ) -> List[Rows]:
        """The rows of each statement. All of them are one transaction.

        Raises StoreUnavailable, which is logged if that is new. Nobody knows then whether the
        transaction was made, or will be made. If this raises, or is cancelled, `undo` is another
        transaction that runs as soon as the first one has ended.
        """
        began = monotonic()
        try:
            rows = await self.try_to_run(statements, undo)
        except StoreUnavailable as failure:
            tell(self.observers.store_answered, self.product, monotonic() - began, True)
            self._health.failed(failure)
            raise
        tell(self.observers.store_answered, self.product, monotonic() - began, False)
        self._health.works()
        return rows

    async def try_to_run(
        self, statements: Sequence[Statement], undo: Sequence[Statement] = ()
    ) -> List[Rows]:
        """The same, but nothing is logged."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        job = _Job(statements, undo, answer)
        self._put(job)
        timer = loop.call_later(ANSWER_SECONDS, _give_up, answer)
        try:
            rows: List[Rows] = await answer
        except self._driver.errors as error:
            raise self._driver.failure(error) from error
        except asyncio.CancelledError:
            if not answer.cancelled():  # it came in the same moment
                self._undo(job)
            raise
        finally:
            timer.cancel()
        return rows

    def _put(self, job: _Job) -> None:
        self._begin_after_a_fork()
        with self._lock:
            self._unfinished += 1
            if self._threads < min(self._unfinished, self._driver.connections):
                self._threads += 1
                # It may hang, and must not keep the process from its end.
                threading.Thread(
                    target=self._work, args=(self._jobs,), name="history", daemon=True
                ).start()
            self._jobs.put(job)

    async def aclose(self) -> None:
        """Close the connections after all that was begun. A thread that hangs is left."""
        self._begin_after_a_fork()
        loop = asyncio.get_running_loop()
        with self._lock:
            ended = [loop.create_future() for _ in range(self._threads)]
            for each in ended:
                self._jobs.put(_Job(None, answer=each))
            self._threads, self._jobs = 0, SimpleQueue()
        if ended:
            await asyncio.wait(ended, timeout=CLOSE_SECONDS)

    def _begin_after_a_fork(self) -> None:
        """Threads do not come through a fork, and connections must not be used after it."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock, self._jobs = threading.Lock(), SimpleQueue()
            self._threads = self._unfinished = 0

    def _work(self, jobs: SimpleQueue[_Job]) -> None:
        """What a thread does."""
        line = _Line(self._driver)
        while self._do(jobs.get(), line):  # no name keeps the last one
            pass

    def _do(self, job: _Job, line: _Line) -> bool:
        """Do a job. Whether there is another one."""
        if job.statements is None:
            line.close()
            self._tell(job, [], None)
            return False
        error: Optional[BaseException] = None
        rows: List[Rows] = []
        wanted = job.wanted
        if wanted:
            try:
                rows = line.run(job.statements)
            except BaseException as raised:
                error = raised
        with self._lock:
            self._unfinished -= 1
        if wanted:
            self._tell(job, rows, error)
        return True

    def _tell(self, job: _Job, rows: List[Rows], error: Optional[BaseException]) -> None:
        """Tell whoever waits for a job how it has ended, from its thread."""
        if job.answer is not None:
            try:
                job.answer.get_loop().call_soon_threadsafe(self._answer, job, rows, error)
            except RuntimeError:  # the event loop is closed
                self._undo(job)

    def _answer(self, job: _Job, rows: List[Rows], error: Optional[BaseException]) -> None:
        if error is not None or not job.wanted:
            self._undo(job)
        if job.answer is not None and job.wanted:
            if error is not None:
                job.answer.set_exception(error)
            else:
                job.answer.set_result(rows)

    def _undo(self, job: _Job) -> None:
        if job.undo:
            self._put(_Job(job.undo))


def _give_up(answer: asyncio.Future[List[Rows]]) -> None:
    if not answer.done():
        text = f"no answer within {ANSWER_SECONDS:g} s; see whether it is overloaded"
        answer.set_exception(StoreUnavailable("TIMEOUT", text))


class _Line:
    """A connection that is made when it is needed, and made anew after each failure."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._connection: Optional[Connection] = None

    def run(self, statements: Sequence[Statement]) -> List[Rows]:
        kept = self._connection is not None
        try:
            return self._once(statements)
        except self._driver.errors as error:
            # Perhaps the database was started anew since the connection was used last.
            if not kept or not self._driver.is_broken(error):
                raise
        return self._once(statements)

    def _once(self, statements: Sequence[Statement]) -> List[Rows]:
        try:
            if self._connection is None:
                self._connection = self._driver.connect()
                _make_tables(self._connection)
            return self._connection.run(statements)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _make_tables(connection: Connection) -> None:
    """Make the tables if there are none. Raises StoreUnavailable if they are of a newer version."""
    if not connection.run(sql_statements.has_tables())[-1]:
        connection.run(sql_statements.make_tables())
    [(version,)] = connection.run(sql_statements.read_version())[-1]
    if version > sql_statements.VERSION:
        raise StoreUnavailable(
            "VERSION",
            f"its tables are of version {version}, and this is for version "
            f"{sql_statements.VERSION}: use a newer omniforge-chat",
        )

"""One connection to Redis, for all tasks of an event loop.

While the answers to some commands are awaited, others gather; they go out together next. That takes
a third of the time of a pool of connections. And a task that is cancelled leaves no answer behind
that the next one would take for its own: it is never the task itself that reads.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from time import monotonic
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from .commands import Command
from .driver import Driver
from .failures import StoreUnavailable, failure_of, unavailable


class _Waiting(NamedTuple):
    commands: Sequence[Command]
    answers: asyncio.Future[List[Any]]


class Line:
    """A connection that opens at first use, and again after it broke.

    `answered` is called with the seconds that each answer took, and whether it was a failure.
    """

    def __init__(
        self, driver: Driver, prefix: str, answered: Callable[[float, bool], None]
    ) -> None:
        self._driver = driver
        self._prefix = prefix  # of keys, for advice on a user's rights
        self._answered = answered
        self._connection: Any = None
        self._waiting: List[_Waiting] = []
        self._sent = False
        self._task: Optional[asyncio.Task[None]] = None

    async def send(self, commands: Sequence[Command]) -> List[Any]:
        """The answers to `commands`, in their order: bytes, int, None, and lists of these.

        In the place of a command that failed because of what its keys hold there is a
        StoreUnreadable. Other tasks' commands may run in between. A script that the server does not
        know is sent to it, and runs after the other commands. Raises StoreUnavailable if the
        connection fails, or if the server refuses a command for another reason: nobody knows then
        which of the others have run.
        """
        if not commands:
            return []  # a transport of asyncio would try to send nothing for ever
        answers: asyncio.Future[List[Any]] = asyncio.get_running_loop().create_future()
        began = monotonic()
        self._waiting.append(_Waiting(commands, answers))
        if self._task is None:
            self._task = asyncio.ensure_future(self._exchange_all())
        try:
            result = await answers
        except StoreUnavailable:
            self._answered(monotonic() - began, True)
            raise
        self._answered(monotonic() - began, False)
        return result

    async def aclose(self) -> None:
        """Close the connection. Commands that wait fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._disconnect()

    async def _exchange_all(self) -> None:
        waiting: List[_Waiting] = []
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                try:
                    answers = await self._exchange([c for each in waiting for c in each.commands])
                except self._driver.errors as error:
                    await self._disconnect()
                    self._fail(waiting, error, in_doubt=self._sent)
                    if isinstance(error, self._driver.timeouts):
                        # The others would wait as long in vain.
                        waiting, self._waiting = self._waiting, []
                        self._fail(waiting, error, in_doubt=False)
                    continue
                rest = iter(answers)
                for each in waiting:
                    self._give(each, list(islice(rest, len(each.commands))))
        except BaseException:
            await self._disconnect()
            closed = OSError("the connection was closed")
            self._fail(waiting, closed, in_doubt=self._sent)
            self._fail(self._waiting, closed, in_doubt=False)
            self._waiting = []
            raise
        finally:
            self._task = None

    def _give(self, waiting: _Waiting, answers: List[Any]) -> None:
        if waiting.answers.done():  # nobody waits any more
            return
        for number, answer in enumerate(answers):
            if isinstance(answer, Exception):
                failure = answers[number] = failure_of(answer, self._prefix)
                if isinstance(failure, StoreUnavailable):
                    failure.in_doubt = any(not isinstance(each, Exception) for each in answers)
                    waiting.answers.set_exception(failure)
                    return
        waiting.answers.set_result(answers)

    def _fail(self, waiting: Sequence[_Waiting], error: Exception, *, in_doubt: bool) -> None:
        for each in waiting:
            if not each.answers.done():
                failure = failure_of(error, self._prefix)
                if not isinstance(failure, StoreUnavailable):
                    failure = unavailable("CONNECT", str(failure))
                failure.in_doubt = in_doubt
                each.answers.set_exception(failure)

    async def _exchange(self, commands: Sequence[Command]) -> List[Any]:
        self._sent = False
        answers = await self._answers(commands)
        unknown = [n for n, a in enumerate(answers) if isinstance(a, self._driver.unknown_script)]
        if unknown:
            again = await self._answers([commands[number].in_full() for number in unknown])
            for number, answer in zip(unknown, again):
                answers[number] = answer
        return answers

    async def _answers(self, commands: Sequence[Command]) -> List[Any]:
        if self._connection is None:
            self._connection = self._driver.connection()
            await self._connection.connect()
        connection = self._connection
        self._sent = True
        packed = b"".join([each.packed() for each in commands])
        await connection.send_packed_command(packed, check_health=False)
        answers: List[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except self._driver.refusal as error:
                answers.append(error)
        return answers

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._driver.close(connection)

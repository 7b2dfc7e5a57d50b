"""The ends of turns, which are tried again while Redis is out of reach."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Callable, NamedTuple, Optional, Set

from ..logs import logger
from ..stores import Command, SharedRedis, StoreUnavailable, StoreUnreadable

TRY_SECONDS = 60.0
"""How long the messages of a turn are tried before they are given up."""

AGAIN_SECONDS = 0.25

CLOSE_SECONDS = 3.0
"""How long `aclose` waits."""


class Ending(NamedTuple):
    """One turn's end: the command that only releases the conversation, and that which also adds
    the messages of the turn, if it has any."""

    conversation_id: str
    turn_id: str
    release: Command
    add: Optional[Command] = None


class Endings:
    """The ends of turns of one history.

    None is tried for longer than `seconds`: by then its claim is over. `tell` logs that a
    conversation is unreadable.
    """

    def __init__(
        self, redis: SharedRedis, seconds: float, tell: Callable[[str, StoreUnreadable], None]
    ) -> None:
        self._redis = redis
        self._seconds = seconds
        self._tell = tell
        self._tasks: Set[asyncio.Task[None]] = set()
        self._closed = False
        self.turns: Set[str] = set()
        """The ids of those whose end is not stored yet."""

    async def end(self, ending: Ending) -> None:
        """End a turn. If Redis is out of reach, go on with that in the background."""
        self.turns.add(ending.turn_id)
        if self._redis.available and await self._try(ending):
            self.turns.discard(ending.turn_id)
        else:
            self.later(ending)

    def later(self, ending: Ending) -> None:
        """End a turn in the background."""
        if self._closed:  # nobody would wait for it
            _lose(ending, "this process ends")
            return
        self.turns.add(ending.turn_id)
        task = asyncio.ensure_future(self._try_again(ending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Give those that wait a last chance."""
        self._closed = True
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)

    async def _try(self, ending: Ending) -> bool:
        try:
            outcome = await self._redis.run(ending.add or ending.release)
        except StoreUnavailable:
            return False
        except StoreUnreadable as failure:
            self._tell(ending.conversation_id, failure)
        else:
            if outcome == b"late":
                _lose(ending, "others have taken this worker for dead")
        return True

    async def _try_again(self, ending: Ending) -> None:
        began = monotonic()
        try:
            while monotonic() - began < self._seconds:
                await asyncio.sleep(AGAIN_SECONDS)
                if self._redis.available and await self._try(ending):
                    return
                if ending.add is not None and monotonic() - began > TRY_SECONDS:
                    _lose(ending, f"redis was out of reach for {TRY_SECONDS:g} s")
                    ending = ending._replace(add=None)
        except asyncio.CancelledError:
            _lose(ending, "redis was out of reach until the end of this process")
            raise
        finally:
            self.turns.discard(ending.turn_id)


def _lose(ending: Ending, reason: str) -> None:
    if ending.add is not None:
        logger.error("history lost a turn conversation_id=%s: %s", ending.conversation_id, reason)

"""One Redis server, as the stores of one app share it."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from ..observer import Observers, tell
from .commands import Command
from .driver import Driver
from .failures import StoreUnavailable, StoreUnreadable
from .health import Health, address_of
from .inspection import Finding, inspect
from .keys import Keys
from .line import Line
from .presence import Presence


class _Bound(NamedTuple):
    """What belongs to one event loop."""

    line: Line
    presence: Presence


class SharedRedis:
    """The way to one server: a connection for commands and one for messages.

    They open at first use, in each event loop by themselves, and never outlive a fork. `url` is
    that of the setting `redis_url`; all keys begin with `prefix`. Raises SettingsError if redis-py
    is missing, or can make nothing of the address.

    `keys` has the names of the keys. `observers` are told how long each answer took.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.keys = Keys(prefix)
        self.observers = Observers()
        self._driver = Driver(url)
        self._health = Health("redis", address_of(url))
        self._bound: Dict[Tuple[int, asyncio.AbstractEventLoop], _Bound] = {}
        self._handlers: Dict[str, Callable[[str], None]] = {}

    @property
    def available(self) -> bool:
        """False while the server is known to be out of reach, or to refuse what it is asked."""
        return self._health.available

    @property
    def address(self) -> str:
        """That of the server, without user name and password."""
        return self._health.address

    @property
    def presence(self) -> Presence:
        """This process in this event loop, as other workers see it."""
        return self._here().presence

    async def run(self, command: Command) -> Any:
        """The answer to one command: bytes, int, None, or a list of these.

        Raises StoreUnavailable, and StoreUnreadable if the key holds something else than it should.
        Commands that run at once share a round trip.
        """
        [answer] = await self.batch([command])
        if isinstance(answer, StoreUnreadable):
            raise answer
        return answer

    async def batch(self, commands: Sequence[Command]) -> List[Any]:
        """The answers to several commands, in one round trip. They are no transaction.

        In the place of a command that failed because of what its keys hold there is a
        StoreUnreadable. A script that the server does not know runs after the other commands.
        Raises StoreUnavailable: nobody knows then which of the commands have run. It is logged
        already, once for each change; while it lasts, somebody tries whether the server is back.
        """
        here = self._here()
        try:
            return await here.line.send(commands)
        except StoreUnavailable as failure:
            self._health.failed(failure)
            here.presence.doubt()
            here.presence.watch()
            raise

    def hear(self, word: str, handler: Callable[[str], None]) -> None:
        """Call `handler` with the rest of each message to this worker that begins with `word`.

        `presence.send(worker, "stop abc")` calls the handler of "stop" there with "abc".
        """
        self._handlers[word] = handler

    async def check(self) -> Finding:
        """Reach the server, and say what it is. Nothing is logged.

        Raises StoreUnavailable, whose text is one line, if it will not do.
        """
        here = self._here()
        return await inspect(here.line, self.keys, here.presence.worker)

    async def aclose(self) -> None:
        """Close what is open in this event loop. Close the stores that use it first."""
        here = self._bound.pop((os.getpid(), asyncio.get_running_loop()), None)
        if here is not None:
            await here.presence.aclose()
            await here.line.aclose()

    def _here(self) -> _Bound:
        key = (os.getpid(), asyncio.get_running_loop())
        bound = self._bound.get(key)
        if bound is None:
            for other in list(self._bound):
                if other[1].is_closed() and other[0] == key[0]:
                    self._bound.pop(other, None)
            line = Line(self._driver, self.keys.prefix, self._answered)
            presence = Presence(line, self._driver, self.keys, self._health, self._heard)
            bound = self._bound[key] = _Bound(line, presence)
        return bound

    def _answered(self, seconds: float, failed: bool) -> None:
        tell(self.observers.store_answered, "redis", seconds, failed)

    def _heard(self, message: str) -> None:
        word, _, rest = message.partition(" ")
        handler = self._handlers.get(word)
        if handler is not None:
            handler(rest)

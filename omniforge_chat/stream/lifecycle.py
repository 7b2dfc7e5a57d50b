"""All streams of one app together: their number, its limit, the refused ones, and the drain."""

from __future__ import annotations

from typing import Dict, Optional, Protocol, Sequence, Set

from anyio import Event, move_on_after

from ..errors import Overloaded, ShuttingDown
from ..observe.logged import ChatLog
from ..observer import Observer, Observers
from .refusals import Refusals

_FULL = "Too many open streams"


class Waiting(Protocol):
    """A request that waits for something, and can be told that it is time to end."""

    def shut_down(self) -> None:
        """End soon, with `shutting_down`. It may be called at any time, more than once."""


class Away(Protocol):
    """A stream whose client has left."""

    @property
    def followed(self) -> bool:
        """Whether somebody reads its reply."""

    def give_way(self) -> None:
        """End soon, as the place is needed."""


class Lifecycle:
    """Counts and limits the open streams of one app, and drains them.

    Each app has its own. Pass one to `chat_routes` if you want to drain it, or to tell `observers`
    what happens. The log is told in any case.
    """

    def __init__(self, *, max_streams: int, observers: Sequence[Observer] = ()) -> None:
        self.observers = Observers((ChatLog(), *observers))
        self.max_streams = max_streams
        self.open_streams = 0
        self.draining = False
        self.refusals = Refusals(self.observers)
        self._time_is_up = False
        self._waiting: Set[Waiting] = set()
        self._away: Dict[Away, None] = {}  # who left first comes first
        self._emptied: Optional[Event] = None

    def admit(self, *, reads: bool = False) -> bool:
        """Take a place; `release` gives it back.

        If every place is taken, a reply gives way that nobody reads: that whose client left first.
        Whoever `reads` a kept reply does not push one out, which may be the same; but replies whose
        client has left take no place from them. The result says whether every place was taken.
        Raises ShuttingDown while the app drains, and Overloaded if there is no room.
        """
        if self.draining:
            raise ShuttingDown("Server is shutting down")
        full = self.open_streams >= self.max_streams
        if full and not reads:
            self._make_room()
        elif full and self.open_streams >= self.max_streams + len(self._away):
            raise Overloaded(_FULL)
        self.open_streams += 1
        return full

    def produce(self) -> None:
        """Whoever was admitted as a reader, when every place was taken, begins a reply.

        Unless there is room by now, one that nobody reads gives way for it. Raises Overloaded; the
        place is still held then.
        """
        if self.open_streams > self.max_streams:
            self._make_room()

    def _make_room(self) -> None:
        for stream in self._away:
            if not stream.followed:
                del self._away[stream]
                stream.give_way()
                return
        raise Overloaded(_FULL)

    @property
    def detached_streams(self) -> int:
        """The number of open streams whose client has left."""
        return len(self._away)

    def went_away(self, stream: Away) -> None:
        """Note that the client of `stream` has left, and its reply goes on."""
        self._away[stream] = None

    def ended(self, stream: Away) -> None:
        """Note that `stream` is not away any more."""
        self._away.pop(stream, None)

    def release(self) -> None:
        """Give a place back."""
        self.open_streams -= 1
        if self.open_streams == 0 and self._emptied is not None:
            self._emptied.set()

    def opened(self, request: Waiting) -> None:
        """Note that `request` waits, so that the end of a drain can tell it."""
        self._waiting.add(request)
        if self._time_is_up:
            request.shut_down()

    def closed(self, request: Waiting) -> None:
        """Note that `request` waits no more."""
        self._waiting.discard(request)

    async def drain(self, seconds: float) -> None:
        """Take no new chats, give the open ones `seconds` to finish, then end those that are left.

        Returns when no stream is open. You may call it again meanwhile, to shorten the time.
        """
        self.draining = True
        with move_on_after(seconds):
            await self._empty()
        self._time_is_up = True
        for request in list(self._waiting):
            request.shut_down()
        await self._empty()

    async def _empty(self) -> None:
        while self.open_streams:
            if self._emptied is None or self._emptied.is_set():
                self._emptied = Event()
            await self._emptied.wait()

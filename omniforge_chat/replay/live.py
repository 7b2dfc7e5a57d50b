"""A reply that is produced in this process, as far as it has come, and those who read it.

The stream that produces it adds a piece for each token, so that costs next to nothing: pieces are
gathered, and joined to the text once there are some, or when somebody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from itertools import groupby
from time import monotonic
from typing import AsyncGenerator, Callable, List, Optional, Protocol, Sequence, Union

from ..errors import ReplayGap
from ..models import Done, Error, Thought
from .protocol import Entry, Piece
from .text import RUN_BYTES, Cursor, Run

MAX_BYTES = 1024 * 1024
"""The longest reply that is kept, in bytes of UTF-8."""

GATHERED = 32
LONG_CHARACTERS = 256
"""How many pieces are gathered before they are joined, and the length of one that is not."""

GAP = Error(ReplayGap.code, "This reply is not kept, or not all of it")


class Home(Protocol):
    """The store that a LiveReply belongs to."""

    def changed(self, reply: LiveReply) -> None:
        """Something was added, or it was lost. Until `noted` is unset, more is added in silence."""

    def grew(self, reply: LiveReply, size: int) -> None:
        """It takes `size` more bytes of memory, or fewer if that is negative."""

    def ended(self, reply: LiveReply) -> None:
        """Its end is known now: `reply.last`."""


class LiveReply:
    """One reply that is produced here: a Recording for its stream, and a Kept for its readers.

    - `bytes` is the length of its text, `held` the memory that it takes, in bytes.
    - `base` is the position from which its text is held.
    - `lost`: it was too long, or is not to be kept any more.
    - `noted`: its store knows that something was added.
    """

    __slots__ = (
        "_characters",
        "_first",
        "_gathered",
        "_home",
        "_last",
        "_reading",
        "_seen_at",
        "_stop",
        "_stopped",
        "_waiting",
        "base",
        "bytes",
        "conversation_id",
        "followers",
        "held",
        "last",
        "lost",
        "noted",
        "owner",
        "reply_id",
    )

    patient = False
    """Whether a reader may be ahead of it, and waits until it has come so far."""

    def __init__(
        self, home: Home, reply_id: str, conversation_id: str, owner: str, start: int = 0
    ) -> None:
        """`start` is the position at which its text begins here."""
        self.reply_id = reply_id
        self.conversation_id = conversation_id
        self.owner = owner
        self.bytes = self.held = 0
        self.base = start
        self.last: Union[Done, Error, None] = None
        self.lost = self.noted = False
        self.followers = 0
        self._home = home
        self._gathered: List[Piece] = []
        self._first = self._last = Run(str, start)
        self._characters = start  # with those of the runs
        self._reading = 0  # so many are
        self._seen_at = -math.inf
        self._waiting: List[asyncio.Future[None]] = []
        self._stop: Optional[Callable[[], None]] = None
        self._stopped = False

    # For its stream

    def add(self, pieces: Sequence[Piece]) -> None:
        """See Recorder."""
        if self.lost or self.last is not None or not pieces:
            return
        gathered = self._gathered
        gathered += pieces
        if len(gathered) > GATHERED or len(pieces[-1]) > LONG_CHARACTERS:
            self.join()
        if not self.noted:
            self.noted = True
            self._home.changed(self)

    def end(self, event: Union[Done, Error]) -> None:
        """See Recorder."""
        if self.last is None:
            self.join()
            self.last = event
            self._stop = None  # it knows the stream
            self.wake()
            self._home.ended(self)

    @property
    def stop(self) -> Callable[[], None]:
        """See Recording."""
        return self._stop or _nothing

    @stop.setter
    def stop(self, stop: Callable[[], None]) -> None:
        if self.last is None:
            self._stop = stop
        if self._stopped:
            stop()

    @property
    def followed_at(self) -> float:
        """See Recording."""
        return monotonic() if self._reading else self._seen_at

    # For its store

    def seen(self, readers: int) -> None:
        """It is being read elsewhere, and `readers` more have come there."""
        self.followers += readers
        self._seen_at = monotonic()

    @property
    def reading(self) -> int:
        """How many read it here."""
        return self._reading

    def request_stop(self) -> bool:
        """Stop it; whether it was still running."""
        if self.last is not None:
            return False
        self._stopped = True
        self.stop()
        return True

    def join(self) -> None:
        """Join what was gathered to the text."""
        gathered = self._gathered
        if not gathered:
            return
        before = self.bytes
        try:
            text = "".join(gathered)  # type: ignore[arg-type] # without thoughts, it is text
        except TypeError:
            for kind, run in groupby(gathered, type):
                texts = [piece.text if isinstance(piece, Thought) else piece for piece in run]
                self._grow(kind, "".join(texts))
        else:
            self._grow(str, text)
        gathered.clear()
        size = self.bytes - before
        self.held += size
        self._home.grew(self, size)
        if self.bytes > MAX_BYTES:
            self.lose()

    def _grow(self, kind: type, text: str) -> None:
        run = self._last
        if run.kind is not kind:
            run.next = self._last = run = Run(kind, self._characters)
            self.bytes += RUN_BYTES
        # No frame can carry a lone surrogate, so none can be here. If one is, it does no harm.
        data = text.encode("utf-8", "replace")
        run.data += data
        self.bytes += len(data)
        length = len(text)
        run.characters += length
        self._characters += length

    def cursor_at(self, position: int) -> Cursor:
        """A place in what is held: `position` is between `base` and `length`."""
        return Cursor(self._first, position)

    def let_go(self) -> None:
        """Hold no text any more, but that which comes from now on."""
        self.join()
        run = Run(self._last.kind, self._characters)
        # Who still reads what was held goes on to what comes.
        self._last.next = self._first = self._last = run
        self.base = self._characters
        held, self.held = self.held, 0
        self._home.grew(self, -held)

    def lose(self) -> None:
        """Keep it no more. Whoever reads it is told so."""
        if not self.lost:
            self.lost = True
            self._gathered.clear()
            self.let_go()
            self.wake()
            self._home.changed(self)

    # For its readers

    @property
    def length(self) -> int:
        """The position of its end so far, as long as it is not lost."""
        self.join()
        return self._characters

    @property
    def characters(self) -> Optional[int]:
        """See Kept."""
        return None if self.lost else self.length

    def wake(self) -> None:
        """Tell those who wait that there may be something for them."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @property
    def awaited(self) -> int:
        """How many wait for more."""
        return len(self._waiting)

    async def read(self, after: int) -> AsyncGenerator[Entry, None]:
        """See Kept."""
        self.followers += 1
        self._reading += 1
        try:
            while after > self.length and self.last is None and not self.lost:
                if not self.patient:
                    yield GAP  # that is no position of this reply
                    return
                await self._wait()
            cursor = self.cursor_at(min(after, self._characters))
            while not self.lost:
                piece = cursor.take()
                if piece is not None:
                    yield piece
                elif self._gathered:
                    self.join()
                elif self.last is not None:
                    yield self.last
                    return
                else:
                    await self._wait()
            yield GAP
        finally:
            self._reading -= 1
            self._seen_at = monotonic()

    async def _wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.noted = False  # the store is told of the next piece
        try:
            await future
        finally:
            with contextlib.suppress(ValueError):  # woken, or cancelled
                self._waiting.remove(future)


def _nothing() -> None:
    pass

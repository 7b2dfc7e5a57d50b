"""The replies of other workers that are read here.

Whoever comes first gets what is stored, by a request of their own. Then they wait for more, and for
that all who read in this process share one XREAD a round: it brings what is new into a Mirror for
each reply, which is read as if the reply were produced here.

The same rounds tell the workers that their replies are being read, and ask whether these workers
live. A dead one's replies are ended in the store, in everybody's name.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from time import monotonic
from typing import (
    Any,
    AsyncGenerator,
    DefaultDict,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Union,
)

from ..errors import ReplayUnavailable, WorkerLost
from ..logs import logger
from ..models import Done, Error
from ..stores import Command, SharedRedis, StoreUnavailable, StoreUnreadable, Verdict, command
from .live import GAP, LiveReply
from .mirror import Mirror
from .protocol import Entry, Piece
from .pulse import Pulse
from .pump import AGAIN_SECONDS, Pump
from .stored import END, Begin, End, Lives, encode_end, pieces_after, read_entries

LOST = Error(WorkerLost.code, "The server that produced this reply is gone")
UNAVAILABLE = Error(ReplayUnavailable.code, "The rest of this reply cannot be read now; try again")

PATIENCE_SECONDS = 5.0
"""How long a reader waits while the store is out of reach, or lacks what should be there."""

CHECK_SECONDS = 0.25
SILENT_SECONDS = 1.0
"""How often it is asked whether the workers live, and after which silence whether a reply is there
at all."""

ANNOUNCE_SECONDS = 0.4
ANNOUNCED = 100
"""How often a worker is told that its replies are read, and how many in one message."""

READS = 4
"""How many may get what is stored at once. That is up to a MiB for each, over the connection on
which the process shows that it lives."""

HELD_BYTES = 64 * 1024
"""How much text a mirror holds for those who come next."""


class _Stored(NamedTuple):
    """What the store has behind a position, and the position at which it ends there.

    `pieces` is None if something is missing. The last one comes first.
    """

    pieces: Optional[List[Piece]]
    end: Optional[End]
    length: int


class Following:
    """The mirrors of this process: a Home for them, and a Part of the pump."""

    def __init__(self, redis: SharedRedis, pump: Pump, pulse: Pulse, lives: Lives) -> None:
        self._redis = redis
        self._pump = pump
        self._pulse = pulse
        self._lives = lives
        self._mirrors: Dict[str, Mirror] = {}
        self._asked: List[Mirror] = []  # in the round that is on its way
        self._singly = False  # one of the keys is unreadable
        self._news: DefaultDict[str, Dict[str, int]] = defaultdict(dict)
        self._announced = self._checked = -math.inf
        self._closed = False
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._reads: Any = None  # the places of those who get what is stored

    async def read(self, reply_id: str, begin: Begin, after: int) -> AsyncGenerator[Entry, None]:
        """See Kept: a reply that is stored, and perhaps still produced by another worker."""
        key, until = self._redis.keys.reply(reply_id), monotonic() + PATIENCE_SECONDS
        while True:
            if self._closed:
                yield UNAVAILABLE
                return
            trouble = GAP
            try:
                stored = await self._behind(key, after)
            except StoreUnavailable:
                trouble = UNAVAILABLE
            except StoreUnreadable as error:
                log_unreadable(key, error)
                yield UNAVAILABLE
                return
            else:
                if stored.pieces is None:
                    yield GAP
                    return
                while stored.pieces:  # they are let go of, as their reader may be slow
                    after += len(stored.pieces[-1])
                    yield stored.pieces.pop()
                    until = monotonic() + PATIENCE_SECONDS  # and has not waited for us
                if stored.end is not None:
                    yield _last(stored.end, after)
                    return
                if stored.length >= after and self._mirrored_from(reply_id) <= after:
                    break
            if monotonic() > until:
                yield trouble
                return
            await asyncio.sleep(AGAIN_SECONDS)
        entries = self._mirror(reply_id, key, begin, after).read(after)
        try:
            async for entry in entries:
                yield entry
        finally:
            await entries.aclose()

    async def _behind(self, key: str, position: int) -> _Stored:
        """What is stored behind a position. Raises StoreFailure."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._reads = loop, asyncio.Semaphore(READS)
        async with self._reads:
            entries, newest = await self._redis.batch(
                [
                    command("XRANGE", key, f"({position}-1", "+"),
                    command("XREVRANGE", key, "+", "-", "COUNT", 1),
                ]
            )
        for answer in (entries, newest):
            if isinstance(answer, StoreUnreadable):
                raise answer
        length = int(newest[0][0].partition(b"-")[0]) if newest else -1
        read = read_entries(entries)
        pieces = None if read.forgotten else pieces_after(read.parts, position)
        return _Stored(pieces and pieces[::-1], read.end, length)

    def _mirrored_from(self, reply_id: str) -> int:
        mirror = self._mirrors.get(reply_id)
        return 0 if mirror is None else mirror.base

    def _mirror(self, reply_id: str, key: str, begin: Begin, position: int) -> Mirror:
        mirror = self._mirrors.get(reply_id)
        if mirror is None:
            mirror = self._mirrors[reply_id] = Mirror(self, reply_id, key, begin, position)
        news = self._news[mirror.worker]
        news[reply_id] = news.get(reply_id, 0) + 1
        self._pump.wake()
        return mirror

    def aclose(self) -> None:
        """Let all who read here go."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        for mirror in list(self._mirrors.values()):
            mirror.end(UNAVAILABLE)

    # See Home

    def changed(self, reply: LiveReply) -> None:
        if reply.awaited:
            self._pulse.wake(reply)

    def grew(self, reply: LiveReply, size: int) -> None:
        pass

    def ended(self, reply: LiveReply) -> None:
        self._mirrors.pop(reply.reply_id, None)

    # See Part

    @property
    def busy(self) -> bool:
        return bool(self._mirrors or self._news)

    async def commands(self, worker: str) -> Sequence[Command]:
        for mirror in list(self._mirrors.values()):
            if not mirror.reading:
                del self._mirrors[mirror.reply_id]
        self._asked = list(self._mirrors.values())
        keys = [mirror.key for mirror in self._asked]
        places = [f"{mirror.length}-1" for mirror in self._asked]
        if self._singly:
            reads = [command("XREAD", "STREAMS", *each) for each in zip(keys, places)]
        else:
            reads = [command("XREAD", "STREAMS", *keys, *places)] if keys else []
        return [*reads, *self._announcements()]

    def answered(self, answers: Sequence[Any]) -> None:
        by_key = {mirror.key.encode(): mirror for mirror in self._asked}
        asked, self._asked = self._asked, []
        singly, self._singly = self._singly, False
        for number in range(len(asked) if singly else min(1, len(asked))):
            answer = answers[number]
            if isinstance(answer, StoreUnreadable):
                if singly:
                    self._unreadable(asked[number], answer)
                else:
                    self._singly = True
                continue
            for key, entries in answer or ():
                self._heard(by_key[key], entries)

    def failed(self) -> None:
        if monotonic() - self._pump.failing_since > PATIENCE_SECONDS:
            self._let_go()
            self._news.clear()

    async def check(self) -> None:
        now = monotonic()
        if not self._mirrors or now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        workers = {mirror.worker for mirror in self._mirrors.values()}
        verdicts = await self._redis.presence.verdicts(list(workers))
        dead = {worker for worker, verdict in verdicts.items() if verdict is Verdict.DEAD}
        await self._end([mirror for mirror in self._mirrors.values() if mirror.worker in dead])
        await self._look_for(
            [
                mirror
                for mirror in self._mirrors.values()
                if mirror.worker not in dead and now - mirror.heard_at > SILENT_SECONDS
            ]
        )

    def _heard(self, mirror: Mirror, entries: Any) -> None:
        """There is more of a reply."""
        try:
            read = read_entries(entries)
            pieces = pieces_after(read.parts, mirror.length)
            if pieces is None or read.forgotten:
                mirror.end(GAP)
                return
            mirror.heard_at, mirror.missing_since = monotonic(), math.inf
            if mirror.held > HELD_BYTES:
                mirror.let_go()
            mirror.add(pieces)
            if read.end is not None:
                mirror.end(_last(read.end, mirror.length))
        except StoreUnreadable as error:
            self._unreadable(mirror, error)

    def _unreadable(self, mirror: Mirror, error: StoreUnreadable) -> None:
        log_unreadable(mirror.key, error)
        mirror.end(UNAVAILABLE)

    def _announcements(self) -> List[Command]:
        """Tell the workers that their replies are being read."""
        now = monotonic()
        if now - self._announced < ANNOUNCE_SECONDS and not self._news:
            return []
        self._announced = now
        told, self._news = self._news, defaultdict(dict)
        for mirror in self._mirrors.values():
            told[mirror.worker].setdefault(mirror.reply_id, 0)
        commands = []
        for worker, replies in told.items():
            words = [f"{reply_id}:{readers}" for reply_id, readers in replies.items()]
            for first in range(0, len(words), ANNOUNCED):
                message = " ".join(["followed", *words[first : first + ANNOUNCED]])
                commands.append(command("PUBLISH", self._redis.keys.worker(worker), message))
        return commands

    async def _end(self, mirrors: Sequence[Mirror]) -> None:
        """End replies of dead workers in the store, from which everybody reads it."""
        if mirrors:
            end = encode_end(LOST, None)
            answers = await self._redis.batch(
                [END([mirror.key], end, self._lives.ended) for mirror in mirrors]
            )
            for mirror, answer in zip(mirrors, answers):
                if answer == 0:
                    mirror.end(GAP)  # the server has lost it, and nobody can put it in again

    async def _look_for(self, mirrors: Sequence[Mirror]) -> None:
        """See whether silent replies are still in the store; tell their workers if not."""
        if not mirrors:
            return
        keys, now = [mirror.key for mirror in mirrors], monotonic()
        if await self._redis.run(command("EXISTS", *keys)) == len(keys):
            return
        there = await self._redis.batch([command("EXISTS", key) for key in keys])
        for mirror, is_there in zip(mirrors, there):
            if is_there:
                mirror.missing_since = math.inf
            elif now - min(mirror.missing_since, now) > PATIENCE_SECONDS:
                mirror.end(GAP)
            else:
                mirror.missing_since = min(mirror.missing_since, now)
                await self._redis.presence.send(mirror.worker, f"missing {mirror.reply_id}")


def _last(end: End, position: int) -> Union[Done, Error]:
    """The last entry for somebody who has come as far as `position`."""
    missing = end.characters is not None and end.characters > position
    return GAP if missing else end.event


def log_unreadable(key: str, error: StoreUnreadable) -> None:
    logger.error("redis: the key %s is unreadable: %s", key, error)

"""A store of replies in Redis, for several workers on several machines."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import Any, AsyncGenerator, Iterator, List, NamedTuple, Optional, Union

from ..errors import ReplayUnavailable
from ..models import Done, Error
from ..rules import AT_LEAST_1_KIB, SECONDS, check
from ..settings import Settings
from ..stores import SharedRedis, StoreFailure, StoreUnavailable, StoreUnreadable, Verdict, command
from .following import LOST, Following, log_unreadable
from .live import GAP
from .produced import Produced
from .protocol import Entry, Kept, Keyed, Recording
from .pulse import Pulse
from .pump import Pump
from .requests import Requests
from .stored import END, FORGET, Begin, End, Entries, Lives, encode_end, list_key, read_entries
from .writer import Writer

UNLIMITED_SECONDS = 86_400.0
"""How long a reply that may take as long as it wants lives in the store. If it takes longer, it is
put in again."""

SPARE_SECONDS = 60.0

YOUNG_SECONDS = (0.0, 0.1, 0.2)
"""How long to wait before a reply is looked for again, as it may be so young that it is not stored
yet."""

NEWEST = 20
"""How many replies of a conversation are looked at, to find one that is still kept."""

JUST_SECONDS = 1.0

STOP_TRIES = 4
STOP_SECONDS = 0.25


class _Found(NamedTuple):
    """The first and the last entry of a reply, and its stored length."""

    begin: Begin
    end: Optional[End]
    length: int


class StoredReply:
    """A Kept that is read from the store."""

    def __init__(
        self,
        following: Following,
        reply_id: str,
        begin: Begin,
        last: Union[Done, Error, None],
        characters: Optional[int],
    ) -> None:
        self._following = following
        self._reply_id = reply_id
        self._begin = begin
        self.conversation_id = begin.conversation_id
        self.last = last
        self.characters = characters

    def read(self, after: int) -> AsyncGenerator[Entry, None]:
        """See Kept."""
        return self._following.read(self._reply_id, self._begin, after)


class RedisReplay:
    """A Replay in Redis. A reply that is produced in this process is also held here, and read.

    A reply is kept for `total_timeout` seconds and a minute while it runs, and for `keep` seconds
    after its end. The replies of this process take at most `total_bytes` of its memory. Raises
    SettingsError for a limit that makes no sense. Close it before `redis`.
    """

    def __init__(
        self,
        redis: SharedRedis,
        *,
        keep: float = 300.0,
        total_timeout: Optional[float] = 900.0,
        total_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        check("keep", keep, SECONDS)
        check("total_bytes", total_bytes, AT_LEAST_1_KIB)
        running = SPARE_SECONDS + (total_timeout or UNLIMITED_SECONDS)
        self._lives = Lives(int(running * 1000), max(1, int(keep * 1000)))
        self._redis = redis
        self._pump = Pump(redis)
        self._pulse = Pulse()
        self._writer = Writer(redis.keys, self._pump, self._pulse, self._lives, total_bytes)
        self._following = Following(redis, self._pump, self._pulse, self._lives)
        self._requests = Requests(redis, self._pump)
        # A key is told first: who finds it untold may rely on that there is no reply.
        self._pump.parts += [self._requests, self._writer, self._following]
        self._closed = False
        redis.hear("stop", self._writer.heard_stop)
        redis.hear("forget", self._writer.heard_forget)
        redis.hear("followed", self._writer.heard_followed)
        redis.hear("missing", self._writer.heard_missing)

    @classmethod
    def from_settings(cls, settings: Settings, redis: SharedRedis) -> RedisReplay:
        """The one that `settings` describe."""
        return cls(
            redis,
            keep=settings.replay_keep,
            total_timeout=settings.total_timeout,
            total_bytes=settings.replay_total_bytes,
        )

    @property
    def unstored(self) -> int:
        """The number of characters of this process that are not in the store yet."""
        return self._writer.unstored

    @property
    def behind(self) -> float:
        """For how many seconds nothing could be stored; 0 while it can."""
        return self._pump.behind

    def record(self, reply_id: str, conversation_id: str, owner: str) -> Optional[Recording]:
        """See Replay."""
        if self._closed:
            return None
        self._requests.begun(reply_id)
        works = self._pump.healthy and self._redis.available
        # A request that was just noted has a reply to find, and the store takes writes.
        noted = monotonic() - self._requests.noted_at < JUST_SECONDS
        if not (works or noted):
            return None
        return self._writer.record(reply_id, conversation_id, owner)

    async def find(self, reply_id: str, owner: str) -> Optional[Kept]:
        """See Replay."""
        live = self._writer.replies.get(reply_id)
        if live is not None:
            return self._own(live) if live.owner == owner else None
        found = await self._find(reply_id, owner)
        if found is None:
            return None
        characters, last = found.end or (None, None)
        if last is not None and characters is None:
            characters = found.length
        return StoredReply(self._following, reply_id, found.begin, last, characters)

    async def newest(self, conversation_id: str, owner: str) -> Optional[str]:
        """See Replay."""
        own = self._writer.replies.of(conversation_id, owner)
        if own:
            return own[-1].reply_id
        with _store_failures(list_key(self._redis.keys, conversation_id, owner)):
            newest = (await self._listed(conversation_id, owner))[-NEWEST:][::-1]
            there = await self._redis.batch(
                [command("EXISTS", self._redis.keys.reply(name)) for name in newest]
            )
        return next((name for name, is_there in zip(newest, there) if is_there), None)

    async def stop(self, reply_id: str, owner: str) -> Optional[bool]:
        """See Replay."""
        live = self._writer.replies.get(reply_id)
        if live is not None:
            return live.request_stop() if live.owner == owner else None
        found = await self._find(reply_id, owner)
        if found is None:
            return None
        # What was too long to be kept has ended here, but not there.
        if found.end is not None and found.end.event != GAP:
            return False
        with _store_failures(self._redis.keys.reply(reply_id)):
            return await self._stop(reply_id, found.begin.worker)

    async def forget(self, conversation_id: str, owner: str) -> None:
        """See Replay."""
        names = []
        for reply in self._writer.replies.of(conversation_id, owner):
            self._writer.forget(reply)
            names.append(reply.reply_id)
        with _store_failures(list_key(self._redis.keys, conversation_id, owner)):
            names += await self._listed(conversation_id, owner)
            if names:
                await self._forget(names)
                await self._redis.run(
                    command("DEL", list_key(self._redis.keys, conversation_id, owner))
                )

    async def keyed(self, owner: str, key: str) -> Optional[Keyed]:
        """See Replay."""
        with _store_failures(self._redis.keys.request(owner, key)):
            return await self._requests.get(owner, key)

    async def begin_once(self, owner: str, key: str, keyed: Keyed) -> Optional[Keyed]:
        """See Replay."""
        with _store_failures(self._redis.keys.request(owner, key)):
            return await self._requests.set(owner, key, keyed)

    async def aclose(self) -> None:
        """See Replay."""
        self._closed = True
        self._following.aclose()
        await self._pump.aclose()
        self._pulse.aclose()
        self._writer.aclose()

    def _own(self, live: Produced) -> Kept:
        """A reply that is produced here: read from here, as long as all of it is held."""
        if live.base == 0 or live.lost:
            return live
        begin = Begin(self._redis.presence.worker, live.conversation_id, live.owner)
        return StoredReply(self._following, live.reply_id, begin, live.last, live.characters)

    async def _find(self, reply_id: str, owner: str) -> Optional[_Found]:
        """The first and the last entry of a reply. Raises ReplayUnavailable."""
        key = self._redis.keys.reply(reply_id)
        for seconds in YOUNG_SECONDS:
            await asyncio.sleep(seconds)
            with _store_failures(key):
                answers = await self._redis.batch(
                    [
                        command("XRANGE", key, "0-1", "0-1"),
                        command("XREVRANGE", key, "+", "-", "COUNT", 2),
                    ]
                )
                first, newest = map(_entries, answers)
            if newest.forgotten:
                return None
            if first.begin is not None:
                length = newest.parts[-1].end if newest.parts else 0
                found = _Found(first.begin, newest.end, length)
                return found if first.begin.owner == owner else None
        return None

    async def _listed(self, conversation_id: str, owner: str) -> List[str]:
        """The replies of a conversation, oldest first. Raises StoreFailure."""
        key = list_key(self._redis.keys, conversation_id, owner)
        names = await self._redis.run(command("ZRANGE", key, 0, -1))
        return [name.decode("ascii", "replace") for name in names]

    async def _stop(self, reply_id: str, worker: str) -> bool:
        """Tell a worker to stop a reply. Raises StoreUnavailable."""
        presence = self._redis.presence
        for _ in range(STOP_TRIES):
            if await presence.send(worker, f"stop {reply_id}"):
                return True
            if (await presence.verdicts([worker]))[worker] is Verdict.DEAD:
                end = encode_end(LOST, None)
                await self._redis.run(
                    END([self._redis.keys.reply(reply_id)], end, self._lives.ended)
                )
                return False
            await asyncio.sleep(STOP_SECONDS)
        raise StoreUnavailable("SILENT", "the worker does not answer")

    async def _forget(self, names: List[str]) -> None:
        """Delete replies, and tell the workers of those that run. Raises StoreUnavailable."""
        keys = [self._redis.keys.reply(name) for name in names]
        firsts = await self._redis.batch([command("XRANGE", key, "0-1", "0-1") for key in keys])
        commands = [FORGET([key], self._lives.running) for key in keys]
        for name, first in zip(names, firsts):
            with contextlib.suppress(StoreUnreadable):
                begin = _entries(first).begin
                if begin is not None:
                    channel = self._redis.keys.worker(begin.worker)
                    commands.append(command("PUBLISH", channel, f"forget {name}"))
        await self._redis.batch(commands)


def _entries(answer: Any) -> Entries:
    """What an answer of XRANGE holds. Raises StoreUnreadable."""
    if isinstance(answer, StoreUnreadable):
        raise answer
    return read_entries(answer)


@contextlib.contextmanager
def _store_failures(key: str) -> Iterator[None]:
    """Raises ReplayUnavailable for a failure of the store. An unreadable key is logged."""
    try:
        yield
    except StoreFailure as failure:
        if isinstance(failure, StoreUnreadable):
            log_unreadable(key, failure)
        raise ReplayUnavailable("The store of replies cannot be reached now; try again") from None

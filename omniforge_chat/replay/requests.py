"""The requests that were made with an Idempotency-Key, in Redis.

A key holds the worker too, until that begins the reply. So a worker that is killed before costs
nobody the key: the next request with it is answered. From then on the key holds no worker. If the
reply is not found now, it was there and has expired, and nobody makes a second one.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import msgspec

from ..stores import Command, SharedRedis, StoreUnavailable, StoreUnreadable, Verdict, command
from .keys import KEY_SECONDS
from .protocol import Keyed
from .pump import Pump
from .stored import BEGUN, UNKEY

MAX_UNSURE = 10_000
MAX_NOTED = 10_000
"""How many requests are remembered here whose reply has not begun. Most of the oldest were refused
after they were noted."""

ASK_SECONDS = 0.1
UNSURE_SECONDS = 2.0
"""How often, and for how long, somebody asks whether a worker lives."""

LIVING_SECONDS = 0.5
"""How long one that seems to live has for storing the beginning of a reply."""


class _Noted(NamedTuple):
    """What a key holds."""

    fingerprint: bytes
    reply_id: str
    worker: str = ""
    """The one that is to produce the reply; empty as soon as it has begun."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Noted).decode


class Requests:
    """Notes requests under their keys, and is a Part of the pump: the first one.

    If the store does not answer, or nobody waits for that any more, it may have noted a request
    that is not answered. So it is taken back later: else the client that tries again would find a
    request whose reply never was.
    """

    def __init__(self, redis: SharedRedis, pump: Pump) -> None:
        self._redis = redis
        self._pump = pump
        self._noted: Dict[str, Tuple[str, _Noted]] = {}  # by reply: the key, and what it holds
        self._later: Dict[Tuple[str, bytes], Command] = {}  # for a key that holds a value
        self._sent: List[Tuple[str, bytes]] = []  # those that are on their way
        self.noted_at = -math.inf
        """When one was noted, on the monotonic clock."""

    async def get(self, owner: str, key: str) -> Optional[Keyed]:
        """The request that was made under a key. Raises StoreFailure."""
        name = self._redis.keys.request(owner, key)
        return await self._standing(name, command("GET", name))

    async def set(self, owner: str, key: str, keyed: Keyed) -> Optional[Keyed]:
        """Note a request, unless there is one already, which is returned. Raises StoreFailure."""
        presence = self._redis.presence
        await presence.begin()
        noted = _Noted(*keyed, presence.worker)
        name, value = self._redis.keys.request(owner, key), _encode(noted)
        life = int(KEY_SECONDS * 1000)
        try:
            found = await self._standing(name, command("SET", name, value, "PX", life, "NX", "GET"))
        except BaseException as error:
            in_doubt = error.in_doubt if isinstance(error, StoreUnavailable) else True
            if in_doubt and len(self._later) < MAX_UNSURE:
                self._do_later(name, value, UNKEY([name], value))
            raise
        self._later.pop((name, value), None)
        self.noted_at = monotonic()
        if found is None:
            self._noted[keyed.reply_id] = (name, noted)
            if len(self._noted) > MAX_NOTED:
                self.begun(next(iter(self._noted)))
        return found

    def begun(self, reply_id: str) -> None:
        """The reply begins now. Its key is told before anything of it is stored."""
        found = self._noted.pop(reply_id, None)
        if found is not None:
            name, noted = found
            value, kept = _encode(noted), _encode(Keyed(noted.fingerprint, noted.reply_id))
            self._do_later(name, value, BEGUN([name], value, kept))

    # See Part

    @property
    def busy(self) -> bool:
        return bool(self._later)

    async def commands(self, worker: str) -> Sequence[Command]:
        self._sent = list(self._later)
        return list(self._later.values())

    def answered(self, answers: Sequence[Any]) -> None:
        for each in self._sent:
            self._later.pop(each, None)
        self._sent = []

    async def check(self) -> None:
        pass

    def failed(self) -> None:
        self._sent = []

    def _do_later(self, name: str, value: bytes, change: Command) -> None:
        self._later[name, value] = change
        self._pump.wake()

    async def _standing(self, name: str, ask: Command) -> Optional[Keyed]:
        """The request that `ask` finds under a key; None if its worker left no reply to it."""
        while True:
            value = await self._redis.run(ask)
            if value is None:
                return None
            noted = _read(value)
            if not noted.worker or not await self._is_left(noted):
                return Keyed(noted.fingerprint, noted.reply_id)
            # If the worker lives after all, and has begun, the key holds something else by now.
            await self._redis.run(UNKEY([name], value))

    async def _is_left(self, noted: _Noted) -> bool:
        """Whether a worker died before anything of the reply was stored.

        One that seems to live may just have died, so it has some time to store it.
        """
        reply, began = self._redis.keys.reply(noted.reply_id), monotonic()
        while True:
            if await self._redis.run(command("EXISTS", reply)):
                return False
            verdict = (await self._redis.presence.verdicts([noted.worker]))[noted.worker]
            if verdict is Verdict.DEAD:
                return True
            waited = monotonic() - began
            is_own = noted.worker == self._redis.presence.worker
            if verdict is Verdict.ALIVE and (is_own or waited > LIVING_SECONDS):
                return False
            if waited > UNSURE_SECONDS:
                raise StoreUnavailable("SILENT", "the worker does not answer")
            await asyncio.sleep(ASK_SECONDS)


def _read(value: bytes) -> _Noted:
    try:
        return _decode(value)
    except msgspec.DecodeError:
        raise StoreUnreadable("it is no request") from None

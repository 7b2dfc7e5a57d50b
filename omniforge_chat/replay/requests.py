"""The requests that were made with an Idempotency-Key, in Redis."""

from __future__ import annotations

import math
from time import monotonic
from typing import Any, Dict, Optional, Sequence

import msgspec

from ..stores import Command, SharedRedis, StoreUnavailable, StoreUnreadable, command
from .keys import KEY_SECONDS
from .protocol import Keyed
from .pump import Pump
from .stored import UNKEY

MAX_UNSURE = 10_000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Keyed).decode


class Requests:
    """Notes requests under their keys, and is a Part of the pump.

    If the store does not answer, or nobody waits for that any more, it may have noted a request
    that is not answered. So it is taken back later: else the client that tries again would find a
    request whose reply never was.
    """

    def __init__(self, redis: SharedRedis, pump: Pump) -> None:
        self._redis = redis
        self._pump = pump
        self._unsure: Dict[str, bytes] = {}
        self.noted_at = -math.inf
        """When one was noted, on the monotonic clock."""

    async def get(self, owner: str, key: str) -> Optional[Keyed]:
        """The request that was made under a key. Raises StoreFailure."""
        name = self._redis.keys.request(owner, key)
        return _read(await self._redis.run(command("GET", name)))

    async def set(self, owner: str, key: str, keyed: Keyed) -> Optional[Keyed]:
        """Note a request, unless there is one already, which is returned. Raises StoreFailure."""
        name, value = self._redis.keys.request(owner, key), _encode(keyed)
        life = int(KEY_SECONDS * 1000)
        try:
            found = await self._redis.run(command("SET", name, value, "PX", life, "NX", "GET"))
        except BaseException as error:
            in_doubt = error.in_doubt if isinstance(error, StoreUnavailable) else True
            if in_doubt and len(self._unsure) < MAX_UNSURE:
                self._unsure[name] = value
                self._pump.wake()
            raise
        self._unsure.pop(name, None)
        self.noted_at = monotonic()
        return _read(found)

    # See Part

    @property
    def busy(self) -> bool:
        return bool(self._unsure)

    def commands(self, worker: str) -> Sequence[Command]:
        return [UNKEY([name], value) for name, value in self._unsure.items()]

    def answered(self, answers: Sequence[Any]) -> None:
        if answers:
            self._unsure.clear()

    async def check(self) -> None:
        pass

    def failed(self) -> None:
        pass


def _read(value: Optional[bytes]) -> Optional[Keyed]:
    try:
        return None if value is None else _decode(value)
    except msgspec.DecodeError:
        raise StoreUnreadable("it is no request") from None

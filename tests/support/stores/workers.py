"""Workers that share a store of replies: each has a way of its own to the server."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, AsyncIterator, List

from omniforge_chat.replay.redis import RedisReplay
from omniforge_chat.stores import SharedRedis

TOTAL_TIMEOUT = 600.0


@contextlib.asynccontextmanager
async def workers(
    url: str, number: int = 2, *, prefix: str = "", **options: Any
) -> AsyncIterator[List[RedisReplay]]:
    """So many workers in this event loop, which are closed at the end."""
    prefix = prefix or f"{secrets.token_hex(4)}:"
    redises = [SharedRedis(url, prefix) for _ in range(number)]
    replays = [
        RedisReplay(redis, **{"keep": 60.0, "total_timeout": TOTAL_TIMEOUT, **options})
        for redis in redises
    ]
    try:
        yield replays
    finally:
        for replay, redis in zip(replays, redises):
            await replay.aclose()
            await redis.aclose()

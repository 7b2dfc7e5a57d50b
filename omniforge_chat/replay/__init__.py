"""Replies that outlive their connection: stores of them, for clients that come back.

`stream` records a reply, and `http` finds it again; `app` makes the store that the settings name.
"""

from typing import Optional

from ..settings import Settings
from ..stores import SharedRedis
from .memory import MemoryReplay
from .protocol import Entry, Kept, Keyed, Recording, Replay
from .redis import RedisReplay

__all__ = [
    "Entry",
    "Kept",
    "Keyed",
    "MemoryReplay",
    "Recording",
    "RedisReplay",
    "Replay",
    "make_replay",
]


def make_replay(settings: Settings, redis: Optional[SharedRedis] = None) -> Optional[Replay]:
    """The store of replies that `settings` name, or None. `redis` is for the one in Redis."""
    if settings.replay == "memory":
        return MemoryReplay.from_settings(settings)
    if settings.replay == "redis" and redis is not None:
        return RedisReplay.from_settings(settings, redis)
    return None

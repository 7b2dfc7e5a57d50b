"""Make the limiter that the settings name."""

from __future__ import annotations

from typing import Optional

from ..models import Allowance
from ..settings import Settings
from ..stores import SharedRedis
from .limits import Limiter
from .limits_memory import MemoryLimiter
from .limits_redis import RedisLimiter


def make_limiter(
    settings: Settings, redis: Optional[SharedRedis] = None, *, callers_differ: bool = False
) -> Optional[Limiter]:
    """The limiter that `settings` name, or None if nothing is limited.

    A caller may have an allowance of their own by the file of keys, or, if `callers_differ`, by
    what a host says. `redis` is for the limiter in Redis.
    """
    if settings.allowance == Allowance() and not (callers_differ or settings.api_keys_file):
        return None
    if settings.limits == "redis" and redis is not None:
        return RedisLimiter(redis, required=settings.limits_required)
    return MemoryLimiter()

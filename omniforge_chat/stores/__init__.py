"""What the stores of conversations, replies and limits have in common: the way to Redis.

`conversations`, `replay` and `access` do not know each other; all may use this room. `app` makes
one SharedRedis for the stores of an app, and closes it after them.

- `shared`: SharedRedis, which runs commands and knows whether the server is there.
- `commands`: Command and Script.
- `keys`: the names of the keys.
- `failures`: StoreUnavailable and StoreUnreadable, and the meaning of the server's refusals.
- `presence`: this process as others see it, and the death of others.
- `inspection`: the kind of server that answers.
- `health`: whether the server does what it is asked, and the log's lines about that.
- `line`: one connection, on which the commands of all tasks go out together.
- `driver`: redis-py, which is imported when it is needed.
"""

from typing import Optional

from ..settings import Settings
from .commands import Command, Script, command
from .failures import StoreFailure, StoreUnavailable, StoreUnreadable
from .inspection import Finding
from .keys import Keys
from .presence import Presence, Verdict
from .shared import SharedRedis

__all__ = [
    "Command",
    "Finding",
    "Keys",
    "Presence",
    "Script",
    "SharedRedis",
    "StoreFailure",
    "StoreUnavailable",
    "StoreUnreadable",
    "Verdict",
    "command",
    "make_redis",
]


def make_redis(settings: Settings) -> Optional[SharedRedis]:
    """The server that `settings` name, if any store of theirs is in Redis."""
    if "redis" not in (settings.history, settings.replay, settings.limits):
        return None
    return SharedRedis(settings.redis_url, settings.redis_prefix)

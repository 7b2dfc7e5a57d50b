"""The kind of server that answers, and whether it will do."""

from __future__ import annotations

import re
from typing import Dict, NamedTuple, Tuple

from .commands import Script, command
from .failures import StoreUnavailable, demanded, unavailable
from .keys import Keys
from .line import Line

FLOOR = (7, 0)
"""The oldest version of Redis that will do. Scripts of older ones hide the code of a refusal, so
that a full server and a wrong key look alike; and their SET has no NX together with GET."""

_PROBE = Script("""
local key = KEYS[1]
redis.call('SET', key, '1', 'PX', 1000)
redis.call('GET', key)
redis.call('PTTL', key)
redis.call('PEXPIRE', key, 1000)
redis.call('EXISTS', key)
redis.call('DEL', key)
redis.call('RPUSH', key, '1')
redis.call('PEXPIRE', key, 1000)
redis.call('LRANGE', key, 0, -1)
redis.call('LINDEX', key, -1)
redis.call('LTRIM', key, 0, 1)
redis.call('RPOP', key)
redis.call('XADD', key, '1-0', 'a', 'b')
redis.call('PEXPIRE', key, 1000)
redis.call('XRANGE', key, '-', '+')
redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
redis.call('DEL', key)
redis.call('ZADD', key, 'NX', 1, 'a')
redis.call('PEXPIRE', key, 1000)
redis.call('ZREMRANGEBYSCORE', key, '-inf', 0)
redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
redis.call('ZCARD', key)
redis.call('ZREM', key, 'a')
redis.call('DEL', key)
redis.call('INCRBY', key, 1)
redis.call('EXPIREAT', key, 1)
redis.call('DEL', key)
redis.call('TIME')
return redis.status_reply('OK')
""")
"""All commands that the stores use within scripts. The rights of a user are for each by itself.

The first one needs memory: a script that has changed something may go on if the server is full."""


class Finding(NamedTuple):
    """A store that will do: its product, such as `redis` or `valkey`, and its version.

    `warnings` are what is not as it should be, and `contents` what is in it, if that is known.
    """

    product: str
    version: str
    warnings: Tuple[str, ...] = ()
    contents: str = ""


async def inspect(line: Line, keys: Keys, worker: str) -> Finding:
    """Ask the server about itself, and try the commands that the stores need.

    Raises StoreUnavailable if it will not do.
    """
    try:
        [info] = demanded(await line.send([command("INFO")]))
    except StoreUnavailable as failure:
        if failure.kind != "NOPERM":
            raise
        found = Finding("redis", "?", ("its version cannot be told: its user may not run INFO",))
    else:
        found = _finding(_read_info(info))
    channel = keys.worker(worker)
    demanded(
        await line.send(
            [
                _PROBE([keys.worker(f"{worker}.probe")]),
                command("PUBLISH", channel, "hello"),
                command("PUBSUB", "NUMSUB", channel),
            ]
        )
    )
    return found


def _read_info(info: bytes) -> Dict[str, str]:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _finding(info: Dict[str, str]) -> Finding:
    product = info.get("server_name", "redis")
    # Valkey calls itself redis 7.2.4 in the field that all have.
    version = info.get(f"{product}_version", info.get("redis_version", "?"))
    numbers = tuple(map(int, re.findall(r"\d+", info.get("redis_version", ""))[:2]))
    if numbers < FLOOR:
        raise StoreUnavailable(
            "VERSION", f"it is {product} {version}, which is too old; 7.0 or newer is needed"
        )
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled") == "1":
        raise unavailable("MOVED")
    if info.get("role") == "slave":
        raise unavailable("READONLY")
    warnings = []
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and info.get("maxmemory", "0") != "0":
        warnings.append(
            f"its maxmemory-policy is {policy}: if it is full, it deletes conversations without a "
            "word; noeviction would refuse new ones"
        )
    return Finding(product, version, tuple(warnings))

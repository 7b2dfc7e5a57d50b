"""The counts of a subject in Redis: their keys, and the script that changes them.

| key | holds | lives |
|---|---|---|
| `l:{<digest>}:rate` | a time in microseconds, and the backlog then | until that has run off |
| `l:{<digest>}:streams` | open streams: a set, sorted by the ends of their places | as these |
| `l:{<digest>}:readers` | readers of kept replies, in the same way | as these |
| `l:{<digest>}:tokens` | the tokens of today | until midnight UTC |

The time is that of the server. A worker holds its places anew before they end. So those of one that
was killed come back by themselves.
"""

from __future__ import annotations

from typing import Sequence

from ..models import Allowance
from ..stores import Command, Script
from .limits import PRECISION, RESERVED_TOKENS

PARTS = ("rate", "streams", "readers", "tokens")
"""The last words of the keys, in the order in which the script takes them."""

# One script for all: of two, the server might know one alone after its start, and what it does not
# know runs after the rest, as a leave after the next chat of its caller.
_COUNT = Script(f"""
local kind, life, member = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local until_then = now / 1000 + life

if kind == 'hold' then
  for number = 3, #ARGV do redis.call('ZADD', KEYS[1], until_then, ARGV[number]) end
  return redis.call('PEXPIRE', KEYS[1], life)
end

if kind == 'leave' then
  local tokens, again = ARGV[4], ARGV[5]
  local was_there = redis.call('ZREM', KEYS[2], member) + redis.call('ZREM', KEYS[3], member) > 0
  if tokens ~= '0' and (was_there or again == '') then
    redis.call('INCRBY', KEYS[4], tokens)
    redis.call('EXPIREAT', KEYS[4], (math.floor(time[1] / 86400) + 1) * 86400)
  end
  return 0
end

local chats, seconds = tonumber(ARGV[4]), tonumber(ARGV[5])
local streams, limit = tonumber(ARGV[6]), tonumber(ARGV[7])
local reads = kind == 'read'
local set = reads and KEYS[3] or KEYS[2]
local is_counted = streams > 0 or limit > 0 and not reads
local places, tokens, backlog, cost, passes = 0, 0, 0, seconds / chats, 1
if is_counted then
  redis.call('ZREMRANGEBYSCORE', set, '-inf', now / 1000)
  places = redis.call('ZCARD', set)
  if streams > 0 and places >= streams then passes = 0 end
end
if limit > 0 and not reads then
  tokens = tonumber(redis.call('GET', KEYS[4]) or '0')
  if tokens + places * {RESERVED_TOKENS} >= limit then passes = 0 end
end
if chats > 0 then
  local at, left = string.match(redis.call('GET', KEYS[1]) or '0 0', '^(%S+) (%S+)$')
  backlog = math.min(math.max(0, left - math.abs(now - at) / 1000000), seconds)
  local room = (seconds - backlog + math.min({PRECISION}, cost / 10)) / cost
  if room < 1 and not reads then passes = 0 end
end
if passes == 1 then
  if is_counted then
    redis.call('ZADD', set, until_then, member)
    redis.call('PEXPIRE', set, life)
  end
  if chats > 0 and not reads then
    local value = string.format('%.0f %.17g', now, backlog + cost)
    redis.call('SET', KEYS[1], value, 'PX', math.ceil((backlog + cost) * 1000))
  end
  if kind == 'produce' then redis.call('ZREM', KEYS[3], member) end
end
return {{passes, string.format('%.17g %.6f', backlog, now / 1000000), places, tokens}}
""")


def enter(
    keys: Sequence[str], kind: str, life: float, member: str, allowance: Allowance
) -> Command:
    """Let one pass, if there is room in all that is limited, and hold a place for `life` seconds.

    Its `kind` is "chat", "read", or "produce" if it has read so far. Answers whether it passes, and
    what it has found: the backlog and the time in seconds, the places, and the tokens.
    """
    rate = allowance.rate
    times = (rate.chats, rate.seconds) if rate is not None else (0, 0)
    limits = (allowance.streams or 0, allowance.tokens_per_day or 0)
    return _COUNT(keys, kind, int(life * 1000), member, *times, *limits)


def hold(key: str, life: float, members: Sequence[str]) -> Command:
    """Hold places of one set anew, also if the server has lost them."""
    return _COUNT([key], "hold", int(life * 1000), *members)


def leave(keys: Sequence[str], member: str, tokens: int, *, again: bool) -> Command:
    """Give a place back, and count tokens.

    If this comes `again`, as nobody knows whether it has run, it has if the place is gone.
    """
    return _COUNT(keys, "leave", 0, member, tokens, "again" if again else "")

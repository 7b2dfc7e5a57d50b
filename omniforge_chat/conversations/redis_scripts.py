"""A conversation in Redis: its keys, the values there, and the scripts that change them.

| key | holds | lives |
|---|---|---|
| `c:{<conversation>}:log` | a list of turns, the newest last | `ttl` after its last use |
| `c:{<conversation>}:turn` | the claim of the turn that runs | as long, and as a turn may take |
| `c:{<conversation>}:gone` | the claim of a turn during which it was deleted | as that claim |

All that a turn does is done by one script when it begins and another one when it ends. Both know a
claim by its bytes, which are never the same twice. At its end a turn finds one of these:

- Its own claim: then it is added.
- Another claim, because others took its worker for dead: it is too late, and changes nothing.
- No claim, and a sign that the conversation was deleted: it stays so.
- None, and no sign: Redis has lost it, or others had it and have ended their turn. It was lost
  if the newest turn is that which was the newest at the beginning, or if there is no turn at all.
  Then it is added.
"""

from __future__ import annotations

from typing import Tuple, Union

import msgspec
from msgspec.structs import replace

from ..models import Message
from ..stores import Script, StoreUnreadable

BEGIN = Script("""
local claim, owner, dead, left, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local held = redis.call('GET', KEYS[1])
local log = redis.call('LRANGE', KEYS[2], 0, -1)
local newest = log[#log]
if newest and string.sub(newest, 2, #owner + 1) ~= owner then return {'log', newest} end
if held and held ~= claim then
  if dead == '' or held ~= dead then return {'held', held} end
  redis.call('RPUSH', KEYS[2], left)
  log[#log + 1] = left
end
redis.call('SET', KEYS[1], claim, 'PX', life)
redis.call('PEXPIRE', KEYS[2], life)
return {'begun', log}
""")

END = Script("""
local claim, turn, replaced, kept, newest = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local function begins(value, beginning)
  return value and string.sub(value, 1, #beginning) == beginning
end
local held = redis.call('GET', KEYS[1])
if not begins(held, claim) then
  local gone = redis.call('GET', KEYS[3])
  if begins(gone, claim) or gone and not held then return 'deleted' end
  if held then return 'late' end
  local last = redis.call('LINDEX', KEYS[2], -1)
  if last and not (newest ~= '' and begins(last, newest)) then return 'late' end
end
if turn ~= '' then
  for _ = 1, tonumber(replaced) do redis.call('RPOP', KEYS[2]) end
  redis.call('RPUSH', KEYS[2], turn)
  redis.call('LTRIM', KEYS[2], -kept, -1)
end
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('DEL', KEYS[1])
return 'ended'
""")

DELETE = Script("""
local owner, life, unread = ARGV[1], ARGV[2], ARGV[3]
local held = unread
if unread == '' then
  held = redis.call('GET', KEYS[1])
  local newest = redis.call('LINDEX', KEYS[2], -1)
  for kind, value in pairs({held = held, log = newest}) do
    if value and string.sub(value, 2, #owner + 1) ~= owner then return {kind, value} end
  end
end
if held then redis.call('SET', KEYS[3], held, 'PX', life) end
return {'deleted', redis.call('DEL', KEYS[1], KEYS[2])}
""")


# The owner is the first field of both, so that a script can compare it by its bytes.
class Held(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A claim. `began` is in seconds since 1970."""

    owner: str
    worker: str
    turn_id: str
    began: float
    message: str


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A turn. `ended` is in seconds since 1970."""

    owner: str
    ended: float
    messages: Tuple[Message, ...]


def left_by(held: Held) -> Kept:
    """What is left of a turn whose worker has died."""
    return Kept(held.owner, held.began, (Message("user", held.message),))


encode = msgspec.msgpack.Encoder().encode
_decode_held = msgspec.msgpack.Decoder(Held).decode
_decode_kept = msgspec.msgpack.Decoder(Kept).decode


def beginning(value: Union[Held, Kept]) -> bytes:
    """The first bytes of `value`, which are never the same twice: all before its texts."""
    if isinstance(value, Held):
        return encode(replace(value, message=""))[:-1]
    return encode(replace(value, messages=()))[:-1]


def read_held(data: bytes) -> Held:
    """Raises StoreUnreadable if `data` are none."""
    try:
        return _decode_held(data)
    except msgspec.DecodeError as error:
        raise StoreUnreadable(str(error)) from None


def read_kept(data: bytes) -> Kept:
    """Raises StoreUnreadable if `data` are none."""
    try:
        return _decode_kept(data)
    except msgspec.DecodeError as error:
        raise StoreUnreadable(str(error)) from None

"""How a reply is stored in Redis: one stream, and the scripts that write it.

| id of the entry | holds |
|---|---|
| `0-1` | `w`, `c`, `o`: the worker that produces it, its conversation, its owner |
| `<end>-0` | `t` or `h`: text or thoughts, which end at this position |
| the largest there is | `e`: the event that ended it; or `f`, if it is to be forgotten |

What is added says at which position it begins, and is refused unless the stored reply ends there.
So whatever was sent twice, or lost by the server, heals by one rule: go on where the store is. And
behind the last entry Redis itself refuses all others, so that nobody adds to a reply that others
have declared dead.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import msgspec

from ..models import Done, Error, Thought
from ..stores import Keys, Script, StoreUnreadable
from .protocol import Piece
from .text import TAKEN_BYTES

GONE, CLOSED, FORGOTTEN, WRONG = -1, -2, -3, -4
"""The answers of ADD in place of a position: there is no such reply; it has ended; it was deleted;
the key holds something else."""

LAST = b"18446744073709551615-0"

ADD = Script("""
-- KEYS: replies. ARGV[1]: for each of them its position, its new entries, the three fields of its
-- first entry if it may be new, and the event that ends it. ARGV[2], ARGV[3]: how long it lives
-- while it runs, and then, in milliseconds.
local LAST = '18446744073709551615-0'
local function add(key, position, entries, begin, ending)
  local newest = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if newest.err then
    return string.find(newest.err, '^WRONGTYPE') and -4 or newest
  end
  local id = newest[1] and newest[1][1]
  if not id then
    if not begin then return -1 end
    id = '0-1'
    redis.call('XADD', key, id, 'w', begin[1], 'c', begin[2], 'o', begin[3])
    redis.call('PEXPIRE', key, ARGV[2])
  end
  if id == LAST then return newest[1][2][1] == 'f' and -3 or -2 end
  local at = tonumber(string.match(id, '^%d+'))
  if at ~= position then return at end
  for i = 1, #entries, 3 do
    at = entries[i]
    redis.call('XADD', key, at .. '-0', entries[i + 1], entries[i + 2])
  end
  if ending then
    redis.call('XADD', key, LAST, 'e', ending)
    redis.call('PEXPIRE', key, ARGV[3])
    return -2
  end
  return at
end
local answers = {}
for i, job in ipairs(cmsgpack.unpack(ARGV[1])) do
  local answer = add(KEYS[i], job[1], job[2], job[3], job[4])
  if type(answer) == 'table' then return answer end
  answers[i] = answer
end
return answers
""")

END = Script("""
-- End a reply, as its worker is dead. ARGV: the event, how long the reply lives then.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return 0 end
if newest[1] ~= '18446744073709551615-0' then
  redis.call('XADD', KEYS[1], '18446744073709551615-0', 'e', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
""")

LOSE = Script("""
-- Keep nothing of a reply but its end. ARGV: its first fields, the event, how long it lives.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if newest and newest[1] == '18446744073709551615-0' then return end
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[1], '0-1', 'w', ARGV[1], 'c', ARGV[2], 'o', ARGV[3])
redis.call('XADD', KEYS[1], '18446744073709551615-0', 'e', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
""")

FORGET = Script("""
-- Delete a reply. If it runs, what its worker adds is refused for as long as ARGV[1].
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
redis.call('DEL', KEYS[1])
if newest and newest[1] ~= '18446744073709551615-0' then
  redis.call('XADD', KEYS[1], '18446744073709551615-0', 'f', '')
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
""")

LIST = Script("""
-- Note that a reply is one of a conversation. ARGV: the reply, how long any of them can live.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 1000 * ARGV[2]))
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
if newest and tonumber(newest) >= now then now = newest + 1 end
redis.call('ZADD', KEYS[1], 'NX', string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

UNKEY = Script("""
-- Take a request back, if the key still holds it.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
""")

BEGUN = Script("""
-- Note that the reply to a request has begun, if the key still holds ARGV[1].
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end
""")


class Lives(NamedTuple):
    """How long a reply lives while it runs, and after its end, in milliseconds."""

    running: int
    ended: int


class Begin(NamedTuple):
    """The first entry of a reply."""

    worker: str
    conversation_id: str
    owner: str


class Part(NamedTuple):
    """A piece of a reply, and the position at which it ends."""

    end: int
    piece: Piece


class End(NamedTuple):
    """The last entry of a reply: its length, if that is known, and the event that ended it."""

    characters: Optional[int]
    event: Union[Done, Error]


class Entries(NamedTuple):
    """What was read of a reply."""

    begin: Optional[Begin]
    parts: List[Part]
    end: Optional[End]
    forgotten: bool


def list_key(keys: Keys, conversation_id: str, owner: str) -> str:
    """The key of the list of a conversation's replies, which is its owner's alone."""
    digest = sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return keys.conversation(conversation_id, f"replies:{digest}")


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Tuple[Optional[int], Optional[Done], Optional[Error]]).decode


def encode_end(event: Union[Done, Error], characters: Optional[int]) -> str:
    """The value of a last entry. It is text, as Lua's decoder of MessagePack takes no bytes."""
    events = (event, None) if isinstance(event, Done) else (None, event)
    return _encode((characters, *events)).decode()


def _decode_end(value: bytes) -> End:
    characters, done, error = _decode(value)
    event = done or error
    if event is None:
        raise ValueError("it does not tell how the reply ended")
    return End(characters, event)


def entry_of(piece: Optional[Piece], end: int) -> Tuple[Union[int, str], ...]:
    """The position, the field and the value of the entry of a piece that ends at `end`."""
    if isinstance(piece, str):
        return (end, "t", piece)
    return () if piece is None else (end, "h", piece.text)


def read_entries(entries: Any) -> Entries:
    """What entries hold, as XRANGE returns them. Raises StoreUnreadable."""
    begin, end, forgotten = None, None, False
    parts: List[Part] = []
    try:
        for name, values in entries:
            fields = dict(zip(values[::2], values[1::2]))
            if name == b"0-1":
                begin = Begin(*(fields[field].decode() for field in (b"w", b"c", b"o")))
            elif name == LAST:
                forgotten = b"f" in fields
                end = None if forgotten else _decode_end(fields[b"e"])
            else:
                text = fields.get(b"t")
                piece = Thought(fields[b"h"].decode()) if text is None else text.decode()
                parts.append(Part(int(name.partition(b"-")[0]), piece))
    except Exception as error:  # whatever it holds, it is one reply that is not to be read
        raise StoreUnreadable(f"it is no reply: {type(error).__name__}") from None
    return Entries(begin, parts, end, forgotten)


def pieces_after(parts: Sequence[Part], position: int) -> Optional[List[Piece]]:
    """The pieces behind `position`; None if something is missing.

    There is one for each run of a kind, or several for a long run.
    """
    runs: List[Tuple[type, List[str]]] = []
    for end, piece in parts:
        if end <= position:
            continue
        text = piece.text if isinstance(piece, Thought) else piece
        known = position - (end - len(text))
        if known < 0:
            return None
        if not runs or runs[-1][0] is not type(piece):
            runs.append((type(piece), []))
        runs[-1][1].append(text[known:] if known else text)
        position = end
    return [piece for kind, texts in runs for piece in _parted(kind, "".join(texts))]


def _parted(kind: type, text: str) -> Iterator[Piece]:
    for first in range(0, len(text), TAKEN_BYTES):
        part = text[first : first + TAKEN_BYTES]
        yield Thought(part) if kind is Thought else part
